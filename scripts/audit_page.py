"""Make results/audit/README.md from audits and from what planted faults showed.

    python scripts/audit_page.py results/audit outputs/audit-<...> [outputs/audit-<...> ...]
    python scripts/audit_page.py results/audit

Folders of `dpexp audit` that are named are copied first: their document as <number>.json, and the
pictures of the first. `bugs.json` is that of scripts/audit_bugs.py. Every number comes from a file
beside the page; the two goals of tightness are this project's own.
"""

import argparse
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from dpexp.record.strict_json import read_json, write_json, write_text

Document = dict[str, Any]
GOALS = {"every step": 0.9, "subsampled": 0.6}  # lower bound over the claim, at least
PICTURES = ("gradient.png", "one_run.png")


def main() -> int:
    """Copy what is named, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("folders", type=Path, nargs="*")
    arguments = parser.parse_args()
    for number, folder in enumerate(arguments.folders):
        document = read_json(folder / "audit.json")
        document["provenance"]["command"] = public(document)
        document.pop("config")
        write_json(arguments.page / f"{number}.json", document)
        pictures = [folder / name for name in PICTURES if (folder / name).exists()]
        for picture in pictures if number == 0 else ():
            shutil.copyfile(picture, arguments.page / picture.name)
    documents = [
        read_json(path)
        for path in sorted(arguments.page.glob("*.json"), key=lambda path: path.name)
        if re.fullmatch(r"\d+", path.stem)
    ]
    bugs_path = arguments.page / "bugs.json"
    bugs = read_json(bugs_path) if bugs_path.exists() else None
    write_text(arguments.page / "README.md", page(documents, bugs))
    return 0


def public(document: Document) -> str:
    """Return the command without the folders of whoever ran it."""
    words = [
        re.sub(r"^(dataset\.root)=.*", r"\1=<folder>", word)
        for word in document["provenance"]["command"].split()
        if not word.startswith("output=")
    ]
    return " ".join(words)


def page(documents: list[Document], bugs: Document | None) -> str:
    """Return the page in Markdown."""
    confidence = documents[0]["audit"]["confidence"]
    lines = [
        "# Audits: what an attacker can prove against the epsilon that is claimed",
        "",
        f"Lower bounds on epsilon, all of one audit together with {confidence:.0%} confidence. "
        "None may be above the claim; near it, the claim is tight and the audit would see a small "
        "fault.",
        "",
        "## Gradients of canaries",
        "",
        "Many canaries, each with a gradient of norm R in a coordinate of its own, are in "
        "a run or not by fair coins. They go through the engine, the sampler, the training step "
        "and the optimizer's hook beside the real images; the attacker sees the noisy sums. The "
        "bound takes q and K as claimed and noise that is independent from one coordinate to the "
        "next, and asks how large sigma can be at most, given how often the attacker erred "
        '(Clopper-Pearson limits, shared among all attacks). "Every step" and "one sample" are '
        'mechanisms of their own with the same epsilon; in "one sample" each attack looks for one '
        "fault, by a gradient in one tensor of the network (its share there in brackets) or by an "
        "odd sample, and proves little where there is none.",
        "",
        *gradient_table(documents),
        "",
        *goal_lines(documents),
        "",
        "![Scores of canaries in and out of a run, and the lower bound of each attack]"
        "(gradient.png)",
        "",
        "## One training run",
        "",
        "One training run by the same sampler, engine and step, in a loop of the audit's own (the "
        "ledger is not in it), on fewer images than the default: mislabelled training images are "
        "in or not by fair coins, and canaries with coordinates likewise; guesses by the fall of "
        "an image's loss see the final model alone. The bound holds for any mechanism, and however "
        "scores depend on each other, "
        "which is why it is looser.",
        "",
        *run_table(documents),
        "",
        "![Losses of mislabelled images, how well canaries are told apart, and intervals of "
        "epsilon](one_run.png)",
        "",
        *(bug_lines(bugs) if bugs else []),
        "## What made the files",
        "",
        *provenance(documents, bugs),
        "",
        "Made by `scripts/audit_page.py` from the JSON files beside it.",
        "",
    ]
    return "\n".join(lines)


def gradient_table(documents: list[Document]) -> list[str]:
    """Return a row an audit and a mechanism."""
    header = ("audit", "mechanism", "q", "K", "sigma", "canaries", "claimed", "lower bound",
              "over claim", "best attack")  # fmt: skip
    rows = []
    for number, document in enumerate(documents):
        for part in document["gradient"]:
            best = next(a for a in part["attacks"] if a["name"] == part["best_attack"])
            rows.append((
                f"{number}", part["name"], f"{part['mechanism']['sampling_rate']:.4g}",
                f"{part['mechanism']['num_steps']:,}",
                f"{part['mechanism']['noise_multiplier']:.4g}",
                f"{best['num_in'] + best['num_out']:,}", f"{part['claimed_epsilon']:.3f}",
                f"{part['lower_bound']:.3f}",
                f"{part['lower_bound'] / part['claimed_epsilon']:.3f}", part["best_attack"],
            ))  # fmt: skip
    return table(header, rows)


def goal_lines(documents: list[Document]) -> list[str]:
    """Return whether the goals were met."""
    lines = []
    for name, goal in GOALS.items():
        shares = [
            part["lower_bound"] / part["claimed_epsilon"]
            for document in documents
            for part in document["gradient"]
            if part["name"] == name
        ]
        above = sum(goal <= share <= 1 for share in shares)
        lines.append(
            f"* {name}: the goal, a lower bound of at least {goal} and at most 1 times the claim, "
            f"is met {above} times of {len(shares)}; {min(shares):.3f} to {max(shares):.3f}."
        )
    return lines


def run_table(documents: list[Document]) -> list[str]:
    """Return a row an audit and a look."""
    header = ("audit", "test accuracy", "canaries", "guesses by", "right", "accuracy", "claimed",
              "epsilon in")  # fmt: skip
    rows = [
        (
            f"{number}", f"{run['test_accuracy']:.1%}",
            f"{look['num_canaries']:,} {part['name']}", look["score"],
            f"{look['num_right']:,} of {look['num_guesses']:,}",
            "{:.3f} to {:.3f}".format(*look["accuracy_interval"]),
            f"{run['claimed_epsilon']:.3f}", f"[{look['epsilon_lower']:.3f}, inf)",
        )
        for number, document in enumerate(documents)
        if (run := document["one_run"])
        for part in run["parts"]
        for look in part["looks"]
    ]  # fmt: skip
    return table(header, rows)


def bug_lines(bugs: Document) -> list[str]:
    """Return what was found of planted faults."""
    names = list(bugs["rows"][0]["parts"])
    claimed = bugs["claimed_epsilon"]
    rows = []
    for row in bugs["rows"]:
        cells = [row["parts"][name]["epsilon_lower"] for name in names]
        best = max(row["parts"].values(), key=lambda each: each["epsilon_lower"])
        shown = [f"**{cell:.2f}**" if cell > claimed else f"{cell:.2f}" for cell in cells]
        rows.append((row["fault"], *shown, best["attack"] if row["is_found"] else "-"))
    planted = [row for row in bugs["rows"] if row["fault"] != "none"]
    in_run = [
        row for row in planted
        if any(n.startswith("one run") and row["parts"][n]["epsilon_lower"] > claimed
               for n in names)
    ]  # fmt: skip
    gradient = [
        row for row in planted
        if any(not n.startswith("one run") and row["parts"][n]["epsilon_lower"] > claimed
               for n in names)
    ]  # fmt: skip
    in_one_run = max(
        each["epsilon_lower"]
        for row in bugs["rows"]
        if row["fault"] == "none"
        for name, each in row["parts"].items()
        if name.startswith("one run")
    )
    missed = [row["fault"] for row in planted if row not in in_run]
    return [
        "## Planted faults",
        "",
        f"Each fault is planted in the engine, or in what it draws from, and audited at a claimed "
        f"epsilon of {claimed:.3f}, with `{' '.join(bugs['words'])}`, so "
        f"that bounds are lower than above; bounds above the claim are bold. The gradient audit "
        f"finds {len(gradient)} of {len(planted)}, the audit in one run {len(in_run)}.",
        "",
        *table(("fault", *names, "found by"), rows),
        "",
        f"The audit in one run does not show: {', '.join(missed) or 'none'}. Its canaries with "
        f"coordinates put nothing into the network's own layers, the drawn count is one number a "
        f"step that tells of no single canary, and its bound is {in_one_run / claimed:.0%} of the "
        f"claim where nothing is planted, so that a small factor stays below it, too.",
        "",
    ]


def provenance(documents: list[Document], bugs: Document | None) -> list[str]:
    """Return the command and versions of each file."""
    made_by = [(f"{number}", each, each["verdict"]) for number, each in enumerate(documents)]
    made_by += [("planted faults", bugs, f"{len(bugs['rows'])} audits")] if bugs else []
    lines = []
    for name, document, outcome in made_by:
        made = document["provenance"]
        git, packages = made["git"] or {}, made["packages"]
        commit = str(git.get("commit", "unknown"))[:12]
        dirty = " with changes" if git.get("dirty") else ""
        lines.append(
            f"* {name}: `{made['command'].replace('audit_bugs', 'scripts/audit_bugs')}`, "
            f"dpexp at {commit}{dirty}, torch "
            f"{packages.get('torch')}, dp-accounting {packages.get('dp-accounting')}, Python "
            f"{made['python']}, {made['cpu']}: {outcome}"
        )
    return lines


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows)]


if __name__ == "__main__":
    sys.exit(main())
