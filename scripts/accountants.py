"""Hold the accountants and the calibration against a grid of settings.

    python scripts/accountants.py                     the grid, going on where it stopped
    python scripts/accountants.py random minutes=15   random settings, until the time is over
    python scripts/accountants.py timing              without and with cache, and as a command

The rows go to results/accounting/rows.csv; scripts/accountants_page.py makes the page of them.

Every setting is calibrated in a fresh process with an empty cache, and what comes out is judged by
computations that calibration does not use:

  over       epsilon by a PLD on a grid four times finer, pessimistic: it must meet the target.
  excess     sigma over the smallest possible one, less 1. The smallest is where epsilon, from two
             grids extrapolated to interval 0 (the error of a grid is quadratic), is the target.
  proved     whether the lower end of PRV's interval at sigma / 1.005 is above the target, which
             proves that the excess is below 0.5 % without extrapolating.
"""

import csv
import json
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "results" / "accounting"
LIMIT_SECONDS = 400.0  # of a setting: its child is stopped after 120 s, its judges take the rest
FINER = 16  # times smaller error, so that the grid's interval is a quarter

RATES = (1e-4, 1e-3, 1e-2, 0.1, 0.5)
STEPS = (1, 10, 100, 1000, 10_000, 100_000)
TARGETS = (0.1, 0.3, 1.0, 3.0, 8.0, 20.0, 50.0)
DELTAS = (1e-9, 1e-7, 1e-5, 1e-3)

KEYS = ("q", "steps", "delta", "target")
NUMBERS = (
    "sigma", "epsilon", "prv", "prv_error", "pld", "rdp", "gdp", "fine", "excess",
    "cold_seconds", "cpu_seconds", "peak_mib",
)  # fmt: skip
COLUMNS = ("kind", *KEYS, *NUMBERS, "source", "proved", "notes")

Row = dict[str, Any]


def grid() -> list[Row]:
    """Return the settings: every rate, count and target, with the four deltas in turn."""
    rows: list[Row] = []
    for q in RATES:
        for steps in STEPS:
            for target in TARGETS:
                delta = DELTAS[(len(rows) + len(rows) // 7) % len(DELTAS)]
                # Where nearly no sample is seen, a large delta covers everything without noise.
                while delta > q * steps / 100:
                    delta /= 100
                rows.append({"q": q, "steps": steps, "delta": delta, "target": target})
    return rows


def random_settings() -> Iterator[Row]:
    """Yield settings without end, always the same ones: log-uniform over the ranges of the grid."""
    source = random.Random(0)
    while True:
        q = 10 ** source.uniform(-4, math.log10(0.5))
        steps = round(10 ** source.uniform(0, 5))
        delta = min(10 ** source.uniform(-9, -3), q * steps / 100)
        target = 10 ** source.uniform(-1, math.log10(50))
        yield {"q": q, "steps": steps, "delta": delta, "target": target}


def measure(setting: Row) -> Row:
    """Return the row of a setting; for a fresh process with an empty cache."""
    from dpexp.accounting.calibrate import calibrate

    q, steps, delta, target = (setting[key] for key in KEYS)
    start = time.perf_counter()
    found = calibrate(target, delta, q, steps)
    cold = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    bounds = found.bounds
    return {
        "sigma": found.noise_multiplier,
        **{key: getattr(bounds, key) for key in ("epsilon", "prv", "prv_error")},
        **{key: getattr(bounds, key) for key in ("pld", "rdp", "gdp", "source")},
        **judge(found.noise_multiplier, bounds.prv_error, setting),
        "cold_seconds": cold,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_mib": used.ru_maxrss / 1024,
        "notes": "; ".join(bounds.notes),
    }


def measure_here(setting: Row) -> Row:
    """Return the row of a setting, calibrated in this process, which saves starting one.

    What is searched and verified is the same; time, memory and the proof are left out.
    """
    from dpexp.accounting import calibrate, prv
    from dpexp.errors import AccountingError

    q, steps, delta, target = (setting[key] for key in KEYS)
    try:
        found = calibrate.search(target, delta, q, int(steps), prv_bound=prv.epsilon)
    except AccountingError as error:
        return {"notes": f"DIED: {error}"}
    bounds = found.bounds
    return {
        "sigma": found.noise_multiplier,
        **{key: getattr(bounds, key) for key in ("epsilon", "prv", "prv_error")},
        **{key: getattr(bounds, key) for key in ("pld", "rdp", "gdp", "source")},
        **judge(found.noise_multiplier, None, setting),
        "notes": "; ".join(bounds.notes),
    }


def judge(sigma: float, prv_error: float | None, setting: Row) -> Row:
    """Return what computations that calibration does not use say of a sigma."""
    q, steps, delta, target = (setting[key] for key in KEYS)
    smaller = sigma / 1.005
    fine, here = extrapolated(sigma, q, steps, delta)
    _, there = extrapolated(smaller, q, steps, delta)
    # Log epsilon is linear in log sigma over half a percent.
    is_finite = 0 < here < there < math.inf
    slope = math.log(there / here) / math.log(1.005) if is_finite else math.nan
    excess = math.expm1(math.log(target / here) / slope) if is_finite else math.nan
    proved = None
    if prv_error is not None:
        proved = prv_lower(smaller, q, steps, delta, prv_error) > target
    return {"fine": fine, "excess": excess, "proved": proved}


def extrapolated(sigma: float, q: float, steps: int, delta: float) -> tuple[float, float]:
    """Return epsilon by PLD on a fine grid, and its limit for an interval of 0."""
    from dpexp.accounting import pld

    error = pld.RELATIVE_ERROR / FINER
    fine = pld.epsilon(sigma, q, steps, delta, relative_error=error)
    medium = pld.epsilon(sigma, q, steps, delta, relative_error=4 * error)
    return fine, fine - (medium - fine) / 3


def prv_lower(sigma: float, q: float, steps: int, delta: float, error: float) -> float:
    """Return the lower end of prv-accountant's interval; minus infinity if it has none."""
    from prv_accountant import PoissonSubsampledGaussianMechanism, PRVAccountant

    prv = PoissonSubsampledGaussianMechanism(sampling_probability=q, noise_multiplier=sigma)
    try:
        accountant = PRVAccountant(
            prvs=[prv], eps_error=error, delta_error=delta / 1000, max_self_compositions=[steps]
        )
        return float(accountant.compute_epsilon(delta=delta, num_self_compositions=[steps])[0])
    except (ArithmeticError, AssertionError, RuntimeError, ValueError):
        return -math.inf


def measure_apart(setting: Row) -> Row:
    """Return the row of a setting, from a process of its own; a lost one is noted."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "XDG_CACHE_HOME": cache, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-W", "ignore", __file__, "one", json.dumps(setting)]
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=LIMIT_SECONDS
            )
        except subprocess.TimeoutExpired:
            return {"notes": f"HUNG: not done after {LIMIT_SECONDS:g} s"}
    if done.returncode != 0:
        return {"notes": f"DIED: {done.stderr.strip().rpartition(chr(10))[2]}"}
    return json.loads(done.stdout.rpartition("\n")[2] or done.stdout)


def timing(settings: Sequence[Row], num_train: int = 60_000) -> list[Row]:
    """Return seconds of the call and of the command, without and with cache, for some settings."""
    found = []
    for setting in settings:
        words = [
            f"eps={setting['target']}", f"batch={round(setting['q'] * num_train)}",
            f"steps={setting['steps']}", f"n={num_train}", f"delta={min(setting['delta'], 1e-5)}",
        ]  # fmt: skip
        with tempfile.TemporaryDirectory() as cache:
            _, output = _timed(["-c", CALLS, json.dumps(setting)], cache)
        cold, warm = json.loads(output)
        with tempfile.TemporaryDirectory() as cache:
            commands = [_timed(["-m", "dpexp.cli.main", "budget", *words], cache)[0] for _ in "12"]
        row = {key: float(setting[key]) for key in KEYS}
        row |= {"call_cold_seconds": cold, "call_warm_seconds": warm}
        row |= {"command_cold_seconds": commands[0], "command_warm_seconds": commands[1]}
        print(row, flush=True)
        found.append(row)
    return found


def _timed(arguments: Sequence[str], cache: str) -> tuple[float, str]:
    """Return the seconds that Python takes over its arguments, start included, and its output."""
    environment = {**os.environ, "XDG_CACHE_HOME": cache, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", *arguments]
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return time.perf_counter() - start, done.stdout


# In one process: the first call has no cache, the others have.
CALLS = """
import json, statistics, sys, time
from dpexp.accounting.calibrate import calibrate
setting = json.loads(sys.argv[1])
seconds = []
for _ in range(21):
    start = time.perf_counter()
    calibrate(setting["target"], setting["delta"], setting["q"], setting["steps"])
    seconds.append(time.perf_counter() - start)
print(json.dumps([seconds[0], statistics.median(seconds[1:])]))
"""


def rows_file() -> Path:
    """Return the path of the rows."""
    return TARGET / "rows.csv"


def read_rows() -> list[Row]:
    """Return the rows so far, numbers as numbers, empty cells as None."""
    if not rows_file().exists():
        return []
    with rows_file().open(newline="") as file:
        rows = [dict(row) for row in csv.DictReader(file)]
    for row in rows:
        for key in (*KEYS, *NUMBERS):
            row[key] = float(row[key]) if row[key] else None
        row["proved"] = {"True": True, "False": False}.get(row["proved"])
    return rows


def append(row: Row) -> None:
    """Add a row to the file, six significant digits each."""
    is_new = not rows_file().exists()
    TARGET.mkdir(parents=True, exist_ok=True)
    with rows_file().open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow({k: _cell(k, row.get(k)) for k in COLUMNS})


def _cell(key: str, value: Any) -> str:
    if value is None:
        return ""
    digits = {"cold_seconds": 3, "cpu_seconds": 3, "peak_mib": 4, "excess": 4}
    if not isinstance(value, float):
        return str(value)
    return f"{value:.{digits.get(key, 12 if key in KEYS else 8)}g}"


def run_settings(
    kind: str, settings: Iterator[Row], seconds: float, measure_one: Callable[[Row], Row]
) -> None:
    """Measure what is not among the rows yet, until the time is over; say each."""
    done = {(row["kind"], *(_cell(key, row[key]) for key in KEYS)) for row in read_rows()}
    start = time.monotonic()
    for setting in settings:
        if time.monotonic() - start > seconds:
            break
        if (kind, *(_cell(key, float(setting[key])) for key in KEYS)) in done:
            continue
        row = {"kind": kind, **{k: float(setting[k]) for k in KEYS}, **measure_one(setting)}
        append(row)
        print({key: row.get(key) for key in (*KEYS, "sigma", "fine", "excess")}, flush=True)


def main(words: Sequence[str]) -> None:
    """Do what the words say."""
    what = words[0] if words else "grid"
    if what == "one":
        print(json.dumps(measure(json.loads(words[1]))))
        return
    if what == "grid":
        # Shuffled, always alike, so that a part of the grid is a fair part.
        shuffled = random.Random(0).sample(grid(), len(grid()))
        run_settings("grid", iter(shuffled), math.inf, measure_apart)
    elif what == "random":
        minutes = float(words[1].partition("=")[2])
        run_settings("random", random_settings(), 60 * minutes, measure_here)
    elif what == "timing":
        sample = random.Random(1).sample([s for s in grid() if s["q"] > 1e-4], 12)
        rows = timing(sample)
        with (TARGET / "timing.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows({k: f"{v:.4g}" for k, v in row.items()} for row in rows)
    else:
        sys.exit(f"{what}: not one of grid, random minutes=<number>, timing")


if __name__ == "__main__":
    main(sys.argv[1:])
