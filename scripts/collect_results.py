"""Turn finished run folders into a results page: one small JSON a run, and a table made from them.

    python scripts/collect_results.py results/digits "Digits, the default run" outputs/*

Every number in the page comes from a summary; none is typed.
"""

import argparse
import json
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

from dpexp.record.folder import RunFolder
from dpexp.record.strict_json import write_json, write_text

KEPT_PROVENANCE = ("command", "started", "git", "packages", "python", "cpu", "cpu_count", "gpus")
COLUMNS = {
    "test/accuracy": ("accuracy (%)", 100, 2),
    "test/ece": ("ECE (%)", 100, 2),
    "test/mce": ("MCE (%)", 100, 1),
    "test/nll_nats": ("NLL (nats)", 1, 4),
    "test/brier": ("Brier", 1, 4),
    "time/total_seconds": ("time (s)", 1, 0),
}


def read_run(path: Path) -> dict[str, Any]:
    """Return what is kept of a finished run."""
    folder = RunFolder.open(path)
    state = folder.read_status()["state"]
    if state != "done":
        sys.exit(f"{path} is {state}, not done: only finished runs make a table")
    provenance = folder.read_document("provenance.json")
    return {
        "summary": folder.read_document("summary.json"),
        "privacy": folder.read_document("privacy.json"),
        "reliability": folder.read_document("reliability.json"),
        "config": folder.read_config(),
        "provenance": {key: provenance[key] for key in KEPT_PROVENANCE},
    }


def table(runs: dict[int, dict[str, Any]]) -> list[str]:
    """Return a Markdown table: a row a seed, then mean and standard deviation."""
    names = [name for name, *_ in COLUMNS.values()]
    lines = ["| seed | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for seed, run in sorted(runs.items()):
        cells = [f"{run['summary'][k] * scale:.{d}f}" for k, (_, scale, d) in COLUMNS.items()]
        lines.append(f"| {seed} | " + " | ".join(cells) + " |")
    cells = []
    for key, (_, scale, digits) in COLUMNS.items():
        values = [run["summary"][key] * scale for run in runs.values()]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        cells.append(f"{statistics.mean(values):.{digits}f} +- {spread:.{digits}f}")
    lines.append("| **mean +- s.d.** | " + " | ".join(cells) + " |")
    return lines


def page(title: str, runs: dict[int, dict[str, Any]]) -> str:
    """Return the results page."""
    first = runs[min(runs)]
    privacy, provenance = first["privacy"], first["provenance"]
    packages = provenance["packages"]
    bounds = privacy["whole_run_if_poisson"]
    is_dirty = any(run["provenance"]["git"]["dirty"] for run in runs.values())
    commit = provenance["git"]["commit"][:12] + (" with uncommitted changes" if is_dirty else "")
    accountants = ", ".join(f"{name.upper()} {bounds[name]:.4g}" for name in ("prv", "pld", "rdp"))
    return "\n".join(
        [
            f"# {title}",
            "",
            *table(runs),
            "",
            f"Epsilon at most {privacy['epsilon']:.4g} at delta {privacy['delta']:g}: sigma "
            f"{privacy['noise_multiplier']:g}, q {privacy['sampling_rate']:.4g}, "
            f"{privacy['steps_done']:,} steps, R {privacy['clip_norm']:g}, {privacy['sampler']} "
            f"sampling, {privacy['adjacency']}.",
            f"By accountant: {accountants}; central limit (not a bound) {bounds['gdp']:.4g}.",
            f"Guarantee: {privacy['guarantee']} ({privacy['reason']}).",
            "",
            f"Command: `{provenance['command']}`, one run a seed. dpexp at {commit}, torch "
            f"{packages['torch']}, timm {packages['timm']}, Python {provenance['python']}, "
            f"{provenance['cpu']}.",
            "",
            "![Reliability diagram of the first seed](reliability.png)",
            "",
            "Made by `scripts/collect_results.py` from the JSON files beside it.",
            "",
        ]
    )


def main() -> None:
    """Write the page and its data."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path, help="folder under results/")
    parser.add_argument("title")
    parser.add_argument("runs", type=Path, nargs="+", help="finished run folders")
    arguments = parser.parse_args()
    paths = {json.loads((p / "status.json").read_text())["started"]: p for p in arguments.runs}
    runs, folders = {}, {}
    for path in paths.values():
        run = read_run(path)
        seed = run["config"]["seed"]
        if seed in runs:
            sys.exit(f"{path} repeats seed {seed}: give one run a seed")
        runs[seed], folders[seed] = run, path
    arguments.target.mkdir(parents=True, exist_ok=True)
    for seed, run in runs.items():
        write_json(arguments.target / f"seed_{seed}.json", run)
    figure = RunFolder.open(folders[min(folders)]).reliability_figure
    shutil.copyfile(figure, arguments.target / "reliability.png")
    write_text(arguments.target / "README.md", page(arguments.title, runs))


if __name__ == "__main__":
    main()
