"""Run what paper A claims, report it, and say whether the outcomes are those expected.

    python scripts/reproduce.py --scale cpu --row digits_grid

Rows are in convergence.toml; one more, theory, is `dpexp theory`. Finished runs are skipped, so the
same command goes on where it was stopped. What is expected is held against what was run: without
the row theory its claims are not judged, and a run that failed is a FAIL. A data set that lies as
Parquet files in data/<name> is read from there, else downloaded.
"""

import argparse
import json
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from dpexp.cli.compose import compose
from dpexp.cli.sweep import run_points
from dpexp.recalibration.recalibrate import recalibrate
from dpexp.recalibration.request import Request as RecalibrationRequest
from dpexp.report.collect import collect
from dpexp.report.report import Request, report_of
from dpexp.report.report import run as write_report
from dpexp.sweep.launchers import Settings
from dpexp.theory import run as theory
from dpexp.theory.request import Request as TheoryRequest
from dpexp.train.deal import make_deal

ROWS = Path(__file__).with_name("convergence.toml")
EXPERIMENTS = Path(__file__).parents[1] / "conf" / "experiment" / "convergence"
EMBEDDED = ("digits", "diabetes")
QUIET = "wandb.mode=disabled"
THEORY = "theory"  # the row that trains nothing


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of convergence.toml, whose head says what each key is."""

    name: str
    data: str
    num_train: int
    scales: list[str]
    seeds: int
    experiment: str = ""
    eps: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    products: list[float] = field(default_factory=list)
    search_epochs: float = 0.0
    words: list[str] = field(default_factory=list)
    variants: list[list[str]] = field(default_factory=list)
    recalibration_eps: float | None = None
    expected: dict[str, str] = field(default_factory=dict)

    @property
    def common(self) -> list[str]:
        """The words that all of its runs share."""
        own = [f"experiment={self.experiment}"] if self.experiment else []
        return [*own, *self.words, *data_words(self.data, self.num_train), QUIET]

    def search(self) -> list[list[str]]:
        """Return the points of the search: every eps, R and c, on one seed, at full noise."""
        sigmas = {eps: self.sigma(eps) for eps in self.eps}
        return [
            [
                *self.common,
                "eps=null",
                f"noise_multiplier={sigmas[eps]:g}",
                f"epochs={self.search_epochs:g}",
                f"clipping.norm={norm:g}",
                f"optimizer.lr={product / norm:.12g}",
            ]
            for eps in self.eps
            for norm in self.norms
            for product in self.products
        ]

    def final(self, chosen: dict[tuple[float, float], str]) -> list[list[str]]:
        """Return the points at the learning rate chosen for each (eps, R), for every seed."""
        return [
            [
                *self.common,
                f"eps={eps:g}",
                f"clipping.norm={norm:g}",
                f"optimizer.lr={lr}",
                f"seed={seed}",
            ]
            for seed in range(self.seeds)
            for (eps, norm), lr in chosen.items()
        ]

    def plain(self) -> list[list[str]]:
        """Return the points of a row that has variants in place of a grid."""
        return [
            [*variant, *self.common, f"seed={seed}"]
            for seed in range(self.seeds)
            for variant in self.variants
        ]

    def sigma(self, eps: float) -> float:
        """Return the noise multiplier of the whole run at eps."""
        config = compose([*self.common, f"eps={eps:g}"])
        held_out = config.dataset.validation
        num_held_out = round(held_out * self.num_train) if held_out < 1 else int(held_out)
        mechanism = make_deal(config, self.num_train - num_held_out, 1.0).mechanism
        assert mechanism is not None
        return mechanism.noise_multiplier


def data_words(name: str, num_train: int) -> list[str]:
    """Return the overrides that read a data set from data/<name> if it lies there."""
    root = Path("data") / name
    if name in EMBEDDED or not list(root.glob("train*.parquet")):
        return []
    return ["dataset=parquet", f"dataset.num_train={num_train}", f"dataset.root={root}"]


def choose(row: Row, points: Sequence[list[str]], rows: Sequence[Any]) -> dict[Any, str]:
    """Return the learning rate of the best validation accuracy, for each (eps, R).

    A run that failed or diverged is passed over; an (eps, R) that has no other is left out.
    """
    keys = [(eps, norm) for eps in row.eps for norm in row.norms for _ in row.products]
    best: dict[tuple[float, float], tuple[float, str]] = {}
    for key, words, found in zip(keys, points, rows, strict=True):
        if found.state != "done":
            continue
        lr = next(w.partition("=")[2] for w in words if w.startswith("optimizer.lr="))
        accuracy = found.measures["val/accuracy"]
        if key not in best or accuracy > best[key][0]:
            best[key] = (accuracy, lr)
    return {key: lr for key, (_, lr) in best.items()}


def reproduce(row: Row, output: Path, settings: Settings) -> int:
    """Run a row, a search and the runs that it chose or its variants; return how many failed."""
    if not row.products:
        return _num_failed(run_points(row.plain(), output=output / row.name, settings=settings))
    points = row.search()
    found = run_points(points, output=output / row.name / "search", settings=settings)
    chosen = choose(row, points, found)
    for eps, norm in product(row.eps, row.norms):
        found_lr = chosen.get((eps, norm), "none, for every run of its search failed or diverged")
        print(f"chosen    {row.name}: epsilon {eps:g}, R {norm:g}: lr {found_lr}")
    final = run_points(row.final(chosen), output=output / row.name / "final", settings=settings)
    if row.recalibration_eps is not None:
        names = [found.folder for found in final if found.state == "done"]
        rescale(output / row.name, names, row.recalibration_eps)
    return _num_failed([*found, *final])


def rescale(folder: Path, names: Sequence[str], eps: float) -> None:
    """Fit a temperature, privately at eps, to each run in final/ that has none in recalibrated/."""
    output = folder / "recalibrated"
    done = {
        json.loads(path.read_text(encoding="utf-8"))["run"]["folder"]
        for path in output.glob("*/recalibration.json")
    }
    for name in names:
        if name in done:
            continue
        run = folder / "final" / name
        words = ["recalibration=temperature", f"recalibration.eps={eps:g}", f"output={output}"]
        recalibrate(
            run,
            {"output": str(output)},
            RecalibrationRequest(method="temperature", eps=eps),
            ["dpexp", "eval", str(run), *words],
        )


def _num_failed(rows: Sequence[Any]) -> int:
    return sum(row.state == "failed" for row in rows)


def smoke(output: Path) -> None:
    """Take two steps of every experiment file, on embedded data."""
    points = []
    for path in sorted(EXPERIMENTS.glob("*.yaml")):
        config = compose([f"experiment=convergence/{path.stem}"])
        words = [f"experiment=convergence/{path.stem}", "epochs=null", "steps=2", QUIET]
        if config.dataset.name not in EMBEDDED:
            words += ["dataset=fake", f"dataset.channels={1 if 'mnist' in path.stem else 3}"]
            words += ["dataset.num_train=null", "dataset.validation=0", "batch=8", "delta=1e-5"]
        if config.model.pretrained:  # a small one in its place: nothing is downloaded here
            words += ["model.pretrained=false", "model.name=vit_tiny_patch16_224"]
        if config.clipping.tail_steps is not None:
            words.append("clipping.tail_steps=1")
        points.append([*words, "evaluate_samples=8"])
    rows = run_points(points, output=output)
    if any(row.state != "done" for row in rows):
        sys.exit("FAIL      an experiment file does not run")
    print(f"PASS      {len(rows)} experiment files took two steps each")


def judge(name: str, output: Path, expected: dict[str, str]) -> bool:
    """Print what a row's own runs say of each claim that it has an expectation of.

    Returns:
        Whether all are met. Runs and verdicts that were kept earlier do not count.
    """
    if not expected:
        print(f"done      {name}: no outcome is expected; the verdicts are in the report")
        return True
    outcomes = {
        row.claim.name: row.verdict.outcome for row in report_of(collect([output]), name).rows
    }
    for claim, outcome in expected.items():
        found = outcomes.get(claim, "not run")
        word = "PASS" if found == outcome else "FAIL"
        print(f"{word}      {name}, {claim}: {found}, expected {outcome}")
    return all(outcomes.get(claim) == outcome for claim, outcome in expected.items())


def main() -> None:
    """Read the scale and the rows, run them, report, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", choices=("smoke", "cpu", "gpu", "paper"), default="cpu")
    parser.add_argument("--row", default="", help="names, comma-separated; all if left out")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("outputs/convergence"))
    parser.add_argument("--results", type=Path, default=Path("results/convergence"))
    arguments = parser.parse_args()
    if arguments.scale == "smoke":
        smoke(Path("outputs/smoke"))
        return
    document = tomllib.loads(ROWS.read_text(encoding="utf-8"))
    rows = {entry["name"]: Row(**entry) for entry in document["row"]}
    known = [*rows, THEORY]
    names = arguments.row.split(",") if arguments.row else known
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"ROW={unknown[0]}: no such row; there are {', '.join(known)}")
    fits = [name for name in names if name == THEORY or arguments.scale in rows[name].scales]
    for name in names:
        if name not in fits:
            scales = ", ".join(rows[name].scales)
            print(f"left out  {name}: wants SCALE={scales}, and this is {arguments.scale}")
    if not fits:
        sys.exit("FAIL      nothing to run at this scale")
    settings = Settings("joblib" if arguments.jobs > 1 else "inprocess", arguments.jobs)
    num_failed = 0
    for name in fits:
        if name == THEORY:
            theory.run(TheoryRequest(output=arguments.output / THEORY))
        else:
            num_failed += reproduce(rows[name], arguments.output, settings)
    row_word = f" ROW={arguments.row}" if arguments.row else ""
    write_report(
        Request(
            paths=[p for p in (arguments.output, arguments.results) if p.exists()],
            output=arguments.results,
            keeps_runs=True,
            command=f"make reproduce-convergence{row_word} SCALE={arguments.scale}",
        )
    )
    expected = {name: document["expected"] if name == THEORY else rows[name].expected
                for name in fits}  # fmt: skip
    met = [judge(name, arguments.output / name, expected[name]) for name in fits]
    if num_failed:
        print(f"FAIL      {num_failed} runs failed, and no verdict rests on them")
    sys.exit(0 if all(met) and not num_failed else 1)


if __name__ == "__main__":
    main()
