"""`dpexp budget`: reads its few keys without Hydra, so that a cached answer comes at once."""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dpexp.accounting.stated import stated
from dpexp.cli.overrides import Overrides, raw, sort_words
from dpexp.config import RANGES, DatasetConfig
from dpexp.data.public import KNOWN_SETS, check_name, num_held_out, public_num_train
from dpexp.errors import ConfigError, DataError

if TYPE_CHECKING:
    from dpexp.accounting.budget import Budget
    from dpexp.accounting.search_price import SearchPrice

DEFAULT_DELTA = 1e-5

NAMES = {"prv": "PRV", "pld": "PLD", "rdp": "RDP", "gdp": "GDP*", "given": "given"}

KEYS: dict[str, Any] = {
    "eps": float | None,
    "noise_multiplier": float | None,
    "delta": float,
    "batch": int,
    "epochs": float | None,
    "steps": int | None,
    "n": int | None,
    "dataset": str,
    "dataset.validation": float,
    "runs": int | None,
    "json": bool,
}

HELP = f"""\
dpexp budget: noise for a budget, or budget for a noise, under every accountant

usage: dpexp budget eps=<target> | noise_multiplier=<sigma>  batch= epochs= | steps=  n= | dataset=
       dpexp budget papers  [paper=convergence | ghost]  [json=true]

examples
  dpexp budget eps=1 batch=1000 epochs=3 n=50000 delta=1e-5
  dpexp budget eps=1 batch=1000 epochs=3 dataset=cifar10
  dpexp budget noise_multiplier=1.1 batch=256 epochs=60 dataset=mnist json=true
  dpexp budget eps=1 batch=1000 epochs=3 dataset=cifar10 runs=20
  dpexp budget papers                 what both papers publish as epsilon, and what it was

keys
  eps                 target epsilon, above 0; neighbors add or remove one sample
  noise_multiplier    sigma, in place of eps
  delta               probability, below 1/n; {DEFAULT_DELTA:g} if not given
  batch               B, expected batch size, samples; q = batch / n
  epochs              expected passes; steps = round(epochs n / batch)
  steps               K, optimizer updates, in place of epochs
  n                   N, training samples, public
  dataset             {", ".join(KNOWN_SETS)}: their public n
  dataset.validation  below 1 a fraction, else a count, held out of n
  runs                also say what choosing the best of so many runs costs
  json                true: one JSON object in place of the table
"""


def run(words: Sequence[str]) -> int:
    """Print the budget that the words ask for, as a table or as JSON, and return 0.

    The word papers, first, asks for the published ones.

    Raises:
        ConfigError: If a word is wrong or missing.
        AccountingError: If no noise meets the target.
    """
    if words[:1] == ["papers"]:
        from dpexp.cli import papers

        return papers.run(words[1:])
    setting = read(words)
    is_json, runs = setting.pop("json", False), setting.pop("runs", None)
    # Imported late: wrong words need no accountant.
    from dpexp.accounting.budget import budget

    result = budget(**setting)
    price = _price(result, runs)
    if is_json:
        parts = {**asdict(result), **({"search": asdict(price)} if price else {})}
        sys.stdout.write(json.dumps(_plain(parts), indent=2, allow_nan=False) + "\n")
    elif sys.stdout.isatty():
        _print_rich(result, price)
    else:
        sys.stdout.write(as_text(result, price))
    return 0


def _price(result: "Budget", runs: int | None) -> "SearchPrice | None":
    """Return what choosing the best of some runs of the first row costs; None if not asked."""
    if runs is None:
        return None
    from dpexp.accounting.search_price import price_of_search

    sigma = result.rows[0].noise_multiplier
    return price_of_search(sigma, result.sampling_rate, result.num_steps, runs, result.delta)


def read(words: Sequence[str]) -> dict[str, Any]:
    """Return the arguments of `dpexp.accounting.budget.budget` that the words give, and json.

    Raises:
        ConfigError: If anything is wrong or missing; one line a problem, all of them at once.
    """
    overrides = sort_words(words, keys=KEYS, groups={}, command="budget")
    values = {key: value for key, value in raw(overrides.values, KEYS).items() if value is not None}
    num_train, problems = _num_train(values)
    problems = [*overrides.problems, *problems, *_missing(values, overrides)]
    problems += _out_of_range(values, num_train)
    if problems:
        raise ConfigError("\n".join(problems))
    for key in ("n", "dataset", "dataset.validation"):
        values.pop(key, None)
    return {"delta": DEFAULT_DELTA, **values, "num_train": num_train}


def as_text(result: "Budget", price: "SearchPrice | None" = None) -> str:
    """Return a budget as lines of plain text, with the price of a search if there is one."""
    header, *rows = table(result)
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]
    return "\n".join([*preamble(result), "", *lines, "", *remarks(result, price)]) + "\n"


def preamble(result: "Budget") -> list[str]:
    """Return the lines that say what was asked."""
    epochs = result.num_steps * result.sampling_rate
    wanted = (
        f"target     eps {result.eps:g}"
        if result.eps is not None
        else f"given      noise_multiplier {result.rows[0].noise_multiplier:g}"
    )
    return [
        f"{wanted} at delta {result.delta:g}; neighbors add or remove one sample",
        f"mechanism  Poisson sampling of N {result.num_train}: batch {result.batch}, "
        f"q {result.sampling_rate:.6g}, {result.num_steps} steps ({epochs:.4g} epochs)",
    ]


def table(result: "Budget") -> list[list[str]]:
    """Return header and rows: whose sigma it is, the sigma, and its epsilon by each accountant."""
    accountants = ["eps PRV", "eps PLD", "eps RDP", "eps GDP*"]
    header = ["sigma by", "noise_multiplier", *accountants, "sound eps"]
    rows = []
    for row in result.rows:
        bounds = row.bounds
        prv, pld, rdp, sound = (
            "-" if value is None else stated(value)
            for value in (bounds.prv, bounds.pld, bounds.rdp, bounds.epsilon)
        )
        cells = [prv, pld, rdp, f"{bounds.gdp:.4g}", sound]
        rows.append([NAMES[row.accountant], f"{row.noise_multiplier:.4f}", *cells])
    return [header, *rows]


def remarks(result: "Budget", price: "SearchPrice | None" = None) -> list[str]:
    """Return the lines that say which numbers are no guarantee, and what to type next."""
    published = result.published
    first = result.rows[0]
    lines = [
        "* central-limit estimate, not a bound: the true epsilon may be larger",
        f"protocol=published (shuffled batches) with noise_multiplier "
        f"{published.noise_multiplier:.4f} would state eps {published.claimed:.4g}; "
        f"{stated(published.poisson)} if batches were Poisson samples, "
        f"{stated(published.shuffled)} is the sound bound as shuffled",
    ]
    notes = dict.fromkeys(note for row in result.rows for note in row.bounds.notes)
    lines += [f"note: {note}" for note in notes]
    lines += [] if price is None else search_lines(price)
    of_one = "" if price is None else ", for one run"
    return [
        *lines,
        f"use this noise{of_one}, on {result.num_train} training samples: dpexp train "
        f"noise_multiplier={first.noise_multiplier:g} batch={result.batch} "
        f"steps={result.num_steps} delta={result.delta:g}",
    ]


def search_lines(price: "SearchPrice") -> list[str]:
    """Return the lines that say what choosing the best of several runs costs, and when which."""
    drawn = (
        ("geometric", price.geometric),
        ("logarithmic", price.logarithmic),
        ("negative binomial of shape -1/2", price.negative_binomial),
        ("Poisson", price.poisson),
    )
    return [
        f"choosing the best of {price.num_runs} such runs: eps {stated(price.composed)} at delta "
        f"{price.delta:g}; all of them composed, which covers a fixed grid and showing every run",
        f"only if the number of runs was drawn at random, with mean {price.num_runs}, and nothing "
        f"but the best is seen (Papernot & Steinke 2022): "
        + ", ".join(f"{stated(epsilon)} {name}" for name, epsilon in drawn),
    ]


def _print_rich(result: "Budget", price: "SearchPrice | None") -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    header, *rows = table(result)
    grid = Table(*header)
    for column in grid.columns:
        column.justify = "right"
    for index, row in enumerate(rows):
        grid.add_row(*row, style="bold" if index == 0 else None)
    console.print(*preamble(result), sep="\n")
    console.print(grid)
    console.print(*remarks(result, price), sep="\n")


def _plain(value: Any) -> Any:
    """Return nested values as strict JSON takes them: infinity is the text inf."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return "inf" if value == math.inf else value


def _num_train(values: dict[str, Any]) -> tuple[int | None, list[str]]:
    """Return N, from n or from the public size of a data set, and what is wrong with it."""
    size, name = values.get("n"), values.get("dataset")
    validation = values.get("dataset.validation", 0.0)
    is_right, words = RANGES["dataset.validation"]
    if not is_right(validation):
        return None, [f"dataset.validation={validation}: must be {words}"]
    if name is None:
        if size is None:
            return None, []
        if size < 1:
            return None, [f"n={size}: must be at least 1 sample"]
        return size - num_held_out(validation, size), []
    if size is not None:
        return None, [f"n={size} and dataset={name}: two sizes; give one"]
    config = DatasetConfig(name=name, validation=validation)
    try:
        check_name(name)
        size = public_num_train(config)
    except DataError as error:
        return None, str(error).replace("dataset.name=", "dataset=").splitlines()
    if size is None:
        return None, [f"dataset={name}: its size is not public knowledge; give n=<samples>"]
    return size, []


def _missing(values: dict[str, Any], overrides: Overrides) -> list[str]:
    """Return a sentence for each choice that was made not at all, or twice."""
    problems = []
    for keys, why in (
        (("eps", "noise_multiplier"), "one follows from the other"),
        (("batch",), "q = batch / n"),
        (("epochs", "steps"), "each step spends"),
        (("n", "dataset"), "q = batch / n"),
    ):
        given = [key for key in keys if key in values]
        if not given and not overrides.rejected & set(keys):
            problems.append(f"{' or '.join(keys)} is missing ({why}); write {keys[0]}=<value>")
        if len(given) > 1 and keys[0] != "n":
            both = " and ".join(f"{key}={values[key]}" for key in given)
            problems.append(f"{both}: {why}; give one of the two")
    return problems


def _out_of_range(values: dict[str, Any], num_train: int | None) -> list[str]:
    problems = []
    eps, sigma = values.get("eps", 1.0), values.get("noise_multiplier", 1.0)
    delta, batch = values.get("delta", DEFAULT_DELTA), values.get("batch", 1)
    if not eps > 0:
        problems.append(f"eps={eps}: epsilon bounds the privacy loss and must be above 0")
    if not (sigma >= 0 and math.isfinite(sigma)):
        problems.append(f"noise_multiplier={sigma}: sigma must be finite and at least 0")
    problems += [
        f"{key}={values[key]}: must be finite and above 0"
        for key in ("batch", "epochs", "steps", "runs")
        if key in values and not 0 < values[key] < math.inf
    ]
    if not 0 < delta < 1:
        problems.append(f"delta={delta}: delta is a probability and must be in (0, 1)")
    elif num_train and delta >= 1 / num_train:
        problems.append(
            f"delta={delta}: publishing one of the N = {num_train} samples outright would meet "
            f"that delta, so it promises nothing; give a delta below {1 / num_train:.2g}"
        )
    if num_train and batch > num_train:
        problems.append(f"batch={batch}: larger than N = {num_train}; q = batch / N is at most 1")
    return problems
