"""Make results/bench/README.md from what `dpexp bench step output=results/bench` wrote.

    python scripts/bench_page.py results/bench

Every measured number comes from a file beside the page; the goals are this project's own.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

from dpexp.record.strict_json import read_json, write_text

Document = dict[str, Any]
Row = dict[str, Any]


class Goal(NamedTuple):
    """What flat clipping in float32, with all parameters trainable, may cost.

    Attributes:
        time: Clipped over ordinary step.
        memory: Likewise, of live tensors above the model.
    """

    time: float
    memory: float


# Name, image size, batch. The layerwise style may cost no more than the flat one.
GOALS = {
    ("vit_small_patch16_224", 224, 8): Goal(1.05, 1.10),
    ("beit_base_patch16_224", 224, 4): Goal(1.08, 1.10),
    ("resnet18", 32, 32): Goal(1.25, 1.00),
    ("vgg19_cifar", 32, 32): Goal(1.10, 0.90),
    ("convnext_atto", 64, 16): Goal(1.30, 1.10),
}
HEADER = (
    "network", "input", "batch", "algorithm", "style", "plan", "time", "min to max", "goal",
    "counted", "memory", "goal", "met",
)  # fmt: skip


def page(documents: list[Document], layers: Document | None = None) -> str:
    """Return the page in Markdown.

    Args:
        documents: What `dpexp bench step` wrote.
        layers: What `dpexp bench layers` wrote beside the page, if it did.
    """
    lines = ["# A clipped step over an ordinary one", "", *table(documents), "", *_method(), ""]
    lines += [*_reading(documents), ""]
    if layers:
        lines += ["## Which way a norm is best taken", "", *_figure(layers), ""]
    lines += ["## What made the files", "", *_provenance(documents), ""]
    lines += ["Made by `scripts/bench_page.py` from the JSON files beside it.", ""]
    return "\n".join(lines)


def table(documents: list[Document]) -> list[str]:
    """Return a Markdown table, a row for each network, algorithm and style."""
    lines = [f"| {' | '.join(HEADER)} |", "|---" * len(HEADER) + "|"]
    for document in documents:
        lines += [f"| {' | '.join(cells(document, row))} |" for row in document["rows"]]
    return lines


def cells(document: Document, row: Row) -> list[str]:
    """Return the cells of one row, the goals beside what was measured."""
    setting = document["setting"]
    goal = goal_of(document, row)
    spread = f"{row['time_ratio_min']:.3f} to {row['time_ratio_max']:.3f}"
    return [
        _bare(setting["model"]),
        str(setting["image_size"]),
        str(setting["batch"]),
        row["algorithm"],
        row["style"],
        setting["plan"],
        f"{row['time_ratio']:.3f}",
        spread,
        f"{goal.time:.2f}" if goal else "",
        f"{row['counted_ratio']:.3f}",
        f"{row['memory_ratio']:.3f}",
        f"{goal.memory:.2f}" if goal else "",
        verdict(row, goal),
    ]


def goal_of(document: Document, row: Row) -> Goal | None:
    """Return the goal of a row; None where there is none."""
    setting = document["setting"]
    is_whole = setting["num_trainable"] == setting["num_params"]
    is_asked = setting["precision"] == "float32" and setting["device"] == "cpu" and is_whole
    is_asked = is_asked and setting["plan"] == "balanced"
    if row["algorithm"] != "auto" or not is_asked:
        return None
    if row["style"] == "layerwise":
        flat = [r for r in document["rows"] if (r["algorithm"], r["style"]) == ("auto", "flat")]
        return Goal(flat[0]["time_ratio"], flat[0]["memory_ratio"]) if flat else None
    key = (_bare(setting["model"]), setting["image_size"], setting["batch"])
    return GOALS.get(key) if row["style"] == "flat" else None


def verdict(row: Row, goal: Goal | None) -> str:
    """Return whether a row meets its goals, which are given to two digits; empty without goals."""
    if goal is None:
        return ""
    missed = []
    if round(row["time_ratio"], 3) > round(goal.time, 3):
        missed.append("time")
    if round(row["memory_ratio"], 3) > round(goal.memory, 3):
        missed.append("memory")
    return f"not {', '.join(missed)}" if missed else "yes"


def _bare(model: str) -> str:
    """Return a network's name without the tag of weights that were not loaded."""
    return model.partition(".")[0]


def _method() -> list[str]:
    return [
        "Time: forward and clipped backward pass over forward and backward pass of ordinary "
        "training, of two copies of one model in one process, in turns; the median of pairs, with "
        "the least and the most of them. Process time of one thread. Memory: the peak of live "
        "tensors above the weights, temporaries included. Counted: multiply-adds of products, "
        "convolutions and attention, by torch's counter and by the plan; where it is below what "
        "was measured, the difference is memory traffic and overhead. Random weights and images, "
        "all parameters trainable. Layerwise is held against flat as measured.",
    ]


def _reading(documents: list[Document]) -> list[str]:
    """Return what keeps a row from its time goal: arithmetic, or what is not arithmetic."""
    lines = ["## Where the time goes", ""]
    lines.append(
        "A clipped step takes one forward and one backward pass, as an ordinary one does, and the "
        "norms. Above 1, `counted` is the norms' share of the arithmetic. It can be had for memory "
        "alone: a gradient that is kept per sample for its norm makes the ordinary product "
        "superfluous, but holds more numbers than input and output gradient together. "
        "`clipping.plan=balanced` keeps as many as memory 1.10 allows, `clipping.plan=time` all "
        "that save time. The rest of `time` is memory traffic and overhead for each operation. A "
        "style of many groups also takes norms, factors and sums group by group, which is seen "
        "where operations are small: its arithmetic is no more than that of flat."
    )
    missed = [
        (document, row, goal)
        for document in documents
        for row in document["rows"]
        if (goal := goal_of(document, row)) and row["style"] == "flat"
        and row["time_ratio"] > goal.time
    ]  # fmt: skip
    for document, row, goal in missed:
        arithmetic, whole = row["counted_ratio"] - 1, row["time_ratio"] - 1
        name = _bare(document["setting"]["model"])
        lines.append("")
        lines.append(
            f"* {name}, goal {goal.time:.2f}: {whole:.1%} above ordinary training, of which "
            f"{arithmetic:.1%} is counted in multiply-adds ("
            f"{row['multiply_adds']['norms'] / 1e9:.2f} of "
            f"{row['multiply_adds']['ordinary'] / 1e9:.1f} billion)."
            + _with_more_memory(documents, name)
        )
    return lines


def _with_more_memory(documents: list[Document], name: str) -> str:
    for document in documents:
        setting = document["setting"]
        if _bare(setting["model"]) == name and setting["plan"] == "time":
            row = document["rows"][0]
            return (
                f" With every gradient kept that saves time: {row['time_ratio']:.3f}, counted "
                f"{row['counted_ratio']:.3f}, at {row['memory_ratio']:.2f} times the memory."
            )
    return ""


def _figure(layers: Document) -> list[str]:
    return [
        "Paper B takes the way that needs less memory, ghost where 2 T^2 <= p D. Worked through in "
        "pieces, none needs much, and time decides. The numbers are in [layers.json](layers.json), "
        f"by {_made(layers)}.",
        "",
        "![Time of every way to take a norm, by layer and size](layers.png)",
    ]


def _provenance(documents: list[Document]) -> list[str]:
    """Return what made the files."""
    return [f"* {_made(document)}, {document['rounds']} pairs" for document in documents]


def _made(document: Document) -> str:
    """Return the command of a document, and where it ran."""
    made = document["provenance"]
    git = made["git"] or {"commit": "unknown", "dirty": False}
    commit = git["commit"][:12] + (" with uncommitted changes" if git["dirty"] else "")
    threads = f"{made['threads']} thread{'s' * (made['threads'] != 1)}"
    packages = f"torch {made['packages']['torch']}, timm {made['packages']['timm']}"
    return (
        f"`{made['command']}`: dpexp at {commit}, {packages}, {made['cpu']}, {threads}, "
        f"{made['started'][:10]}"
    )


def read_steps(folder: Path) -> list[Document]:
    """Return the results of `step` in a folder, those with goals first and in their order."""
    documents = [read_json(path) for path in sorted(folder.glob("*.json"))]
    names = [name for name, *_ in GOALS]

    def place(document: Document) -> tuple[int, bool]:
        setting = document["setting"]
        name = _bare(setting["model"])
        is_own_plan = setting["plan"] != "balanced"
        return (names.index(name) if name in names else len(names), is_own_plan)

    return sorted((d for d in documents if d.get("part") == "step"), key=place)


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with the JSON files of dpexp bench step")
    folder = parser.parse_args().folder
    documents = read_steps(folder)
    if not documents:
        sys.exit(f"{folder} holds no results: run dpexp bench step output={folder} first")
    layers = folder / "layers.json"
    write_text(
        folder / "README.md", page(documents, read_json(layers) if layers.exists() else None)
    )


if __name__ == "__main__":
    main()
