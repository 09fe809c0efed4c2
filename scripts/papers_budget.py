"""Make results/budgets: what both papers publish as epsilon, beside what is sound.

    python scripts/papers_budget.py

The numbers are those of `dpexp budget papers`; nothing here computes one.
"""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dpexp.accounting.papers import (
    SETTINGS,
    TITLES,
    UNKNOWN,
    Checked,
    Paper,
    check,
    rounded_up,
)
from dpexp.record.provenance import describe_provenance

TARGET = Path(__file__).resolve().parents[1] / "results" / "budgets"

COLUMNS = (
    "paper", "setting", "batch", "num_train", "steps", "epochs", "delta", "noise_multiplier",
    "noise_from", "published", "gdp", "prv", "pld", "rdp", "shuffled", "sampling", "source",
    "assumed",
)  # fmt: skip


def row(checked: Checked) -> dict[str, Any]:
    """Return one setting as a row of the CSV file."""
    setting, bounds = checked.setting, checked.poisson
    numbers = {
        "noise_multiplier": checked.noise_multiplier,
        "published": setting.eps,
        "gdp": checked.claimed,
        "prv": bounds.prv,
        "pld": bounds.pld,
        "rdp": bounds.rdp,
        "shuffled": checked.shuffled,
        "delta": setting.delta,
    }
    return {
        "paper": TITLES[setting.paper],
        "setting": setting.name,
        "batch": setting.batch,
        "num_train": setting.num_train,
        "steps": checked.num_steps,
        "epochs": checked.num_epochs,
        "noise_from": "central limit" if setting.noise_multiplier is None else "stated",
        **{key: "" if value is None else f"{value:.5g}" for key, value in numbers.items()},
        "sampling": setting.sampling,
        "source": setting.source,
        "assumed": setting.assumed,
    }


def page(checked: Sequence[Checked], made_by: dict[str, Any]) -> str:
    """Return the page in Markdown."""
    git, packages = made_by["git"], made_by["packages"]
    commit = git["commit"][:12] + " and changes" * git["dirty"] if git else "an unknown commit"
    lines = ["# Published epsilon against sound epsilon", "", *findings(checked), ""]
    lines += ["![published and sound epsilon of every setting](budgets.png)", ""]
    lines += ["Hollow: the public code does not shuffle, or it is not known.", ""]
    for paper, title in TITLES.items():
        lines += [f"## {title}", "", *table(checked, paper), ""]
    lines += [
        "Published: as the paper or its code states it, by the central limit of Gaussian "
        "differential privacy, an approximation and no guarantee. Noise: the multiplier as "
        "stated, or (~) that whose central-limit epsilon is the published one. PRV, PLD: sound "
        "upper bounds, had every batch been a Poisson sample; RDP: likewise, looser; neighbors "
        "add or remove one sample. Shuffled: sound for batches cut from shuffled data, without "
        "amplification, which no tight bound is known of; neighbors replace a sample by an "
        "empty one. Sampling: how the public code draws batches, where it is known.",
        "",
        f"Made by `scripts/papers_budget.py` at {commit}, dp-accounting "
        f"{packages['dp-accounting']}, prv-accountant {packages['prv-accountant']}; the numbers "
        f"are in [budgets.csv](budgets.csv), and `dpexp budget papers` prints them.",
    ]
    return "\n".join(lines) + "\n"


def findings(checked: Sequence[Checked]) -> list[str]:
    """Return what the numbers say, in words."""
    snli = next(c for c in checked if c.setting.steps is not None)
    beit = [c for c in checked if c.setting.name.endswith("BEiT")]
    script = next(c for c in checked if "script's default" in c.setting.name)
    factor = max(c.poisson.epsilon / c.setting.eps for c in checked)
    least = min(c.poisson.epsilon / c.setting.eps for c in checked)
    proved = sum(lower_end(c) > c.setting.eps for c in checked)
    stated = sum(not c.setting.assumed for c in checked)
    poisson = sorted(c.poisson.epsilon for c in beit)
    shuffled = sorted(c.shuffled for c in beit)
    return [
        f"* Of {len(checked)} settings of the papers and of their code, {stated} stated in full "
        f"and the rest with assumptions that are marked, {proved} have a published epsilon below "
        f"the true one even if batches are Poisson samples, as both papers' accountant takes them "
        f"to be: it lies below the lower end of PRV's interval. The sound bound is {least:.2f} to "
        f"{factor:.1f} times as large.",
        f"* SNLI with BERT: {snli.setting.eps:g} is published for noise multiplier "
        f"{snli.noise_multiplier:g}; it is {rounded_up(snli.poisson.epsilon)} by PRV, and RDP "
        f"bounds it by {rounded_up(snli.poisson.rdp)}. Were the batches shuffled, "
        f"{snli.shuffled:.0f} is what holds.",
        f"* BEiT on CIFAR-10 and CIFAR-100: 1 is published; it is "
        f"{rounded_up(beit[0].poisson.epsilon)} had the batches of the readme's command been "
        f"Poisson samples. The script shuffles, and for that {rounded_up(beit[0].shuffled)} is "
        f"what holds. The paper's batch and epochs are unknown; over the candidates it is "
        f"{rounded_up(poisson[0])} to {rounded_up(poisson[-1])} and {rounded_up(shuffled[0])} to "
        f"{rounded_up(shuffled[-1])}.",
        f"* The central limit is worst where the noise is small or the steps are few: the training "
        f"script's default, one epoch for epsilon {script.setting.eps:g}, is "
        f"{rounded_up(script.poisson.epsilon)} had the batches been Poisson samples.",
        "* What no source states is assumed, and marked by a number below each table.",
    ]


def lower_end(checked: Checked) -> float:
    """Return the lower end of PRV's interval for Poisson batches; 0 where PRV gave no bound."""
    bounds = checked.poisson
    if bounds.prv is None or bounds.prv_error is None:
        return 0.0
    return bounds.prv - 2 * bounds.prv_error


def table(checked: Sequence[Checked], paper: Paper) -> list[str]:
    """Return the Markdown table of a paper, with what is assumed and unknown below it."""
    header = ("setting", "batch", "steps", "noise", "published", "PRV", "PLD", "RDP", "shuffled",
              "sampling", "source")  # fmt: skip
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    notes: list[str] = []
    for each in checked:
        setting, bounds = each.setting, each.poisson
        if setting.paper != paper:
            continue
        mark = ""
        if setting.assumed:
            notes += [setting.assumed] * (setting.assumed not in notes)
            mark = f" [{notes.index(setting.assumed) + 1}]"
        tilde = "" if setting.noise_multiplier is not None else "~"
        epsilons = map(rounded_up, (bounds.prv, bounds.pld, bounds.rdp))
        cells = (
            setting.name + mark,
            str(setting.batch),
            str(each.num_steps),
            f"{tilde}{each.noise_multiplier:.3f}",
            f"{setting.eps:g}",
            *epsilons,
            rounded_up(each.shuffled),
            setting.sampling,
            setting.source,
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"[{i}] assumed: {note}  " for i, note in enumerate(notes, 1))]
    return lines + [f"unknown: {u.name}: {u.why}  " for u in UNKNOWN if u.paper == paper]


def draw(checked: Sequence[Checked], path: Path) -> None:
    """Draw each setting as a line of dots; at 4.5 inches wide the text is read on a phone."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(4.5, 0.42 * len(checked) + 1.1), layout="constrained")
    series = {
        "published": ("o", "#888888", [c.setting.eps for c in checked]),
        "sound, if Poisson": ("D", "#0072b2", [c.poisson.epsilon for c in checked]),
        "sound, if shuffled": ("s", "#d55e00", [c.shuffled for c in checked]),
    }
    places = range(len(checked))
    axes.hlines(places, series["published"][2], series["sound, if shuffled"][2], color="#cccccc")
    for name, (marker, color, values) in series.items():
        axes.plot(values, places, marker, color=color, label=name, markersize=5.5)
    for place, each in enumerate(checked):
        if each.setting.sampling != "shuffled":
            axes.plot(each.shuffled, place, "s", color="white", markersize=2.8)
    axes.set_xscale("log")
    ticks = (1, 2, 5, 10, 20, 50)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_yticks(places, [_label(c) for c in checked], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("epsilon")
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper center", ncols=3, fontsize=8, handletextpad=0.1,
                  columnspacing=0.9, frameon=False)  # fmt: skip
    # No date and no version: the same numbers make the same file.
    figure.savefig(path, dpi=160, metadata={"Software": None})


def _label(checked: Checked) -> str:
    setting = checked.setting
    name = setting.name.replace("CIFAR-10 and CIFAR-100", "CIFAR").replace("the script's", "script")
    name = name.replace("CrossViT-base and ViT-base", "ViTs-base").replace(" of 4 layers", "")
    length = (
        f"{setting.epochs} epoch{'s' * (setting.epochs > 1)}"
        if setting.epochs
        else f"{setting.steps} steps"
    )
    return f"{name}\nB {setting.batch}, {length}"


def main() -> None:
    """Check every setting, and write page, rows and figure."""
    checked = [check(setting) for setting in SETTINGS]
    TARGET.mkdir(parents=True, exist_ok=True)
    with (TARGET / "budgets.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row(each) for each in checked)
    draw(checked, TARGET / "budgets.png")
    (TARGET / "README.md").write_text(page(checked, describe_provenance(sys.argv)))


if __name__ == "__main__":
    main()
