"""`dpexp sweep`: the keys of a run, each with one value or several, and a few of its own."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpexp.cli.compose import compose
from dpexp.cli.overrides import raw, sort_words
from dpexp.config import TrainConfig
from dpexp.errors import ConfigError
from dpexp.sweep.grid import Axis, Grid, Place, read_grid, varying
from dpexp.sweep.launchers import Name, Settings, launcher_of
from dpexp.sweep.point import Point, repeated

if TYPE_CHECKING:
    from dpexp.sweep.plan import Plan
    from dpexp.sweep.table import Row

WORDS: dict[str, Any] = {
    "launcher": Name,
    "jobs": int | None,
    "dry_run": bool,
    "wandb_file": str | None,
}
_SUBMITIT = "submitit."
UNFINISHED = ("failed", "interrupted")  # a point that another process has is not ours to judge


@dataclass
class Request:
    """What the words after `dpexp sweep` ask for.

    Attributes:
        grid: Its axes; None for points that are no product.
        points: All of them, composed and checked.
        settings: Who runs them, and how many at once.
        dry_run: Print the grid and stop.
        wandb_file: Write the grid there and stop.
        options: Words that a retry command needs beside the overrides.
    """

    grid: Grid | None
    points: list[Point]
    settings: Settings = field(default_factory=Settings)
    dry_run: bool = False
    wandb_file: Path | None = None
    options: str = ""

    @property
    def output(self) -> Path:
        """Where the run folders go."""
        return Path(self.points[0].config.output)


def run(words: Sequence[str], config_dir: Path | None = None) -> int:
    """Run the grid that the words describe; return 1 if a point failed or was stopped, else 0.

    Raises:
        ConfigError: If a word is wrong; one line a problem, all of them at once.
        KeyboardInterrupt: If it was stopped; the same command goes on.
    """
    request = read(words, config_dir)
    if request.wandb_file is not None:
        _write_wandb_file(request.wandb_file, request)
        return 0
    plan = _introduce(request)
    if request.dry_run:
        return 0
    return 1 if any(row.state in UNFINISHED for row in _carry_out(plan, request)) else 0


def run_points(
    points: Sequence[Sequence[str]],
    *,
    output: str | Path,
    settings: Settings | None = None,
    config_dir: Path | None = None,
) -> "list[Row]":
    """Run a list of points, each the overrides of `dpexp train`; return one row a point, in order.

    All that holds for `dpexp sweep` holds here: finished runs are skipped, stopped ones go on, a
    failure stops no other, and the tables are written to `output`.

    Raises:
        ConfigError: If a point is wrong, or two are the same run; nothing was started.
        KeyboardInterrupt: If it was stopped; the same call goes on.
    """
    placed = [[*words, f"output={output}"] for words in points]
    composed = _compose(varying(placed), config_dir)
    request = Request(None, composed, settings or Settings(), options=_options(config_dir))
    return _carry_out(_introduce(request), request)


def read(words: Sequence[str], config_dir: Path | None = None) -> Request:
    """Return what is asked for, every point composed and checked.

    Raises:
        ConfigError: If anything is wrong; one line a problem, all of them at once.
    """
    own, parameters, rest = _sorted(words)
    asked = sort_words(own, keys=WORDS, groups={}, command="sweep")
    given = raw({k: v for k, v in asked.values.items() if k not in asked.rejected}, WORDS)
    problems = [*asked.problems, *_own_problems(given, rest)]
    settings = Settings(_launcher(given, parameters), given.get("jobs"), parameters)
    grid, points = None, []
    try:
        grid = read_grid(rest)
        points = _compose(grid.places(), config_dir)
    except ConfigError as error:
        problems += str(error).splitlines()
    if problems:
        raise ConfigError("\n".join(problems))
    wandb_file = given.get("wandb_file")
    return Request(
        grid,
        points,
        settings,
        dry_run=given.get("dry_run", False),
        wandb_file=None if wandb_file is None else Path(wandb_file),
        options=_options(config_dir),
    )


def _sorted(words: Sequence[str]) -> tuple[list[str], dict[str, Any], list[str]]:
    """Return the sweep's own words, the parameters of submitit, and all others."""
    own, parameters, rest = [], {}, []
    for word in words:
        key, is_pair, text = word.partition("=")
        if is_pair and key in WORDS:
            own.append(word)
        elif is_pair and key.startswith(_SUBMITIT):
            parameters[key.removeprefix(_SUBMITIT)] = _yaml(text)
        else:
            rest.append(word)
    return own, parameters, rest


def _yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _launcher(given: Mapping[str, Any], parameters: Mapping[str, Any]) -> Name:
    """Return the launcher asked for; several jobs, or a cluster's words, ask for one too."""
    if "launcher" in given:
        return given["launcher"]  # type: ignore[no-any-return]
    if parameters:
        return "submitit"
    return "joblib" if (given.get("jobs") or 1) > 1 else "inprocess"


def _own_problems(given: Mapping[str, Any], rest: Sequence[str]) -> list[str]:
    problems = []
    jobs, launcher = given.get("jobs"), given.get("launcher")
    if jobs is not None and jobs < 1:
        problems.append(f"jobs={jobs}: at least 1 run at a time")
    if launcher == "inprocess" and (jobs or 1) > 1:
        problems.append(
            f"jobs={jobs} with launcher=inprocess: one process runs one point at a time; use "
            f"launcher=joblib"
        )
    problems += [
        f"{word}: a sweep goes on by itself with what has stopped; leave it out"
        for word in rest
        if word.startswith("resume=")
    ]
    return problems


def _compose(places: Sequence[Place], config_dir: Path | None) -> list[Point]:
    """Return the points, each composed and checked.

    Raises:
        ConfigError: If one is wrong or there twice; a problem that several share is told once.
    """
    problems: dict[str, None] = {}
    points = []
    for place in places:
        config = TrainConfig()
        try:
            config = compose(place.words, command="sweep", config_dir=config_dir)
        except ConfigError as error:
            problems |= dict.fromkeys(str(error).splitlines())
        points.append(Point(place.labels, place.words, config))
    if not points:
        problems["there is no point to run; give at least one"] = None
    if not problems:
        outputs = dict.fromkeys(point.config.output for point in points)
        if len(outputs) > 1:
            problems[
                f"output={','.join(outputs)}: a sweep is one folder, where its finished runs are "
                f"looked for; give one"
            ] = None
        problems |= dict.fromkeys(repeated(points))
    if problems:
        raise ConfigError("\n".join(problems))
    return points


def _introduce(request: Request) -> "Plan":
    """Print what the sweep will do, what it costs, and what choosing its best costs."""
    from dpexp.cli.budget import search_lines
    from dpexp.sweep.cost import estimate, seconds_a_sample
    from dpexp.sweep.plan import cost_line, describe, make_plan
    from dpexp.sweep.price import search_price
    from dpexp.sweep.view import say

    plan = make_plan(request.points, request.output)
    for line in describe(plan, request.grid.axes if request.grid else _axes(request.points)):
        say(line)
    # A cluster's machines are not this one: a time taken here says nothing of them.
    measure = None if request.settings.launcher == "submitit" else seconds_a_sample
    left = estimate(plan.points, plan.found, measure)
    say(cost_line(left, request.settings.at_once))
    if len(plan.points) > 1:
        price, note = search_price(plan.points)
        lines = search_lines(price) if price else [f"no price of the search: {note}"]
        lines += [note] if price and note else []
        for start, line in zip(["search    ", *["          "] * len(lines)], lines, strict=False):
            say(f"{start}{line}")
    return plan


def _axes(points: Sequence[Point]) -> list[Axis]:
    """Return what points that are no product differ in, one axis a key."""
    keys = points[0].labels
    values = {key: dict.fromkeys(point.labels[key] for point in points) for key in keys}
    return [Axis((key,), tuple((text,) for text in texts)) for key, texts in values.items()]


def _carry_out(plan: "Plan", request: Request) -> "list[Row]":
    from dpexp.sweep.run import run_plan

    return run_plan(plan, launcher_of(request.settings, request.output), request.options)


def _write_wandb_file(path: Path, request: Request) -> None:
    from dpexp.data.public import num_columns
    from dpexp.sweep.wandb_file import document, write_file

    assert request.grid is not None
    datasets = [point.config.dataset for point in request.points]
    # Of a table a number is predicted, so there is no accuracy to rank by.
    measures = {
        "val/accuracy" if num_columns(dataset.name) is None else "val/r2" for dataset in datasets
    }
    has_one = len(measures) == 1 and all(dataset.validation for dataset in datasets)
    write_file(path, document(request.grid, measures.pop() if has_one else None))
    sys.stdout.write(
        f"written   {path}: {len(request.points)} points\n"
        f"next      wandb sweep {shlex.quote(str(path))}, then the wandb agent line it prints\n"
    )


def _options(config_dir: Path | None) -> str:
    return "" if config_dir is None else f" --config-dir {shlex.quote(str(config_dir))}"
