"""Find runs in run folders, folders of them, kept files, and what dpexp theory left."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dpexp.errors import ConfigError, DpexpError
from dpexp.record.strict_json import read_json
from dpexp.report.contents import LeftOut
from dpexp.report.kept import RECALIBRATION, is_kept, recalibration_of, run_of_file, run_of_folder
from dpexp.report.runs import Run

THEORY = "theory.json"
INNER = ("checkpoints", "figures", "wandb")  # of a run folder


@dataclass(frozen=True, kw_only=True)
class Found:
    """What lay in the folders.

    Attributes:
        runs: One a configuration, by experiment, R, lr, seed.
        theory: What theory.json holds; None without one.
        theory_path: Where it lies; None without one.
        theory_figures: Pictures beside it, by name.
        left_out: What was found and not used.
        notes: One sentence for each configuration that was run more than once.
        files: Name of a run that was read from a kept file -> that file.
    """

    runs: tuple[Run, ...]
    theory: Mapping[str, Any] | None
    theory_path: Path | None
    theory_figures: tuple[Path, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    files: Mapping[str, Path]

    def kept_at(self, run: Run, folder: Path) -> Path | None:
        """Return the kept file below `folder` that holds this run; None if there is none."""
        path = self.files.get(run.name)
        return path if path is not None and folder in path.parents else None

    def holds_theory(self, folder: Path) -> bool:
        """Return whether the theory that is used lies below `folder`."""
        return self.theory_path is not None and folder in self.theory_path.parents


@dataclass
class _Read:
    """What was read so far, before repeated runs are told apart."""

    runs: list[Run] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)
    recalibrations: dict[str, list[Mapping[str, Any]]] = field(default_factory=dict)
    theories: dict[Path, Mapping[str, Any]] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)


def collect(paths: Sequence[Path]) -> Found:
    """Return what the folders and files hold.

    A run folder that has not ended or is damaged is listed with its reason. Of several runs of one
    configuration the newest is used.

    Raises:
        ConfigError: If a path does not exist, or a file among them is neither a run nor a theory.
    """
    problems = [f"{path}: no such folder or file; nothing to report on" for path in paths
                if not path.exists()]  # fmt: skip
    if problems:
        raise ConfigError("\n".join(problems))
    read = _Read()
    for place, is_named in _each_once(paths):
        try:
            _add(place, read)
        except DpexpError as error:
            if is_named and place.is_file():
                raise ConfigError(str(error)) from error
            reason = str(error).splitlines()[0].replace(str(place), place.name)
            read.left_out.append(LeftOut(name=place.name, reason=reason))
    return _found(read)


def _each_once(paths: Sequence[Path]) -> Iterator[tuple[Path, bool]]:
    """Yield each place at or below the paths, and whether it is one of them itself."""
    seen: set[Path] = set()
    for path in paths:
        for place in _places(path):
            if place.resolve() not in seen:
                seen.add(place.resolve())
                yield place, place == path


def _add(place: Path, read: _Read) -> None:
    """Add what lies at a place to what was read.

    Raises:
        DpexpError: If it cannot be used.
    """
    if place.name == THEORY:
        read.theories[place] = read_json(place)
    elif (place / RECALIBRATION).is_file():
        name, recalibration = recalibration_of(place)
        read.recalibrations.setdefault(name, []).append(recalibration)
    else:
        run = run_of_folder(place) if place.is_dir() else run_of_file(place)
        read.runs.append(run)
        if place.is_file():
            read.files[run.name] = place


def _found(read: _Read) -> Found:
    """Return the newest of repeated runs with their recalibrations, and the newest theory."""
    used, notes = _newest(
        [_with_recalibrations(run, read.recalibrations.get(run.name, ())) for run in read.runs]
    )
    names = {run.name for run in read.runs}
    strays = [LeftOut(name=name, reason="recalibrated, but the run itself is not among these")
              for name in read.recalibrations if name not in names]  # fmt: skip
    starts = {place: _started(document) for place, document in read.theories.items()}
    theory = max(starts, key=lambda place: starts[place], default=None)
    if len(set(starts.values())) > 1:
        notes.append(f"of {len(starts)} files {THEORY} the newest is used")
    return Found(
        runs=tuple(sorted(used, key=_order)),
        theory=read.theories[theory] if theory else None,
        theory_path=theory,
        theory_figures=tuple(sorted(theory.parent.glob("*.png"))) if theory else (),
        left_out=(*read.left_out, *strays),
        notes=tuple(notes),
        files=read.files,
    )


def _with_recalibrations(run: Run, found: Sequence[Mapping[str, Any]]) -> Run:
    """Return a run with its recalibrations and those found elsewhere, each once."""
    added = [entry for entry in found if entry not in run.recalibrations]
    return replace(run, recalibrations=(*run.recalibrations, *added))


def _places(path: Path) -> Iterator[Path]:
    """Yield run folders, kept files and theories at or below a path."""
    if path.is_file() or (path / "config.yaml").is_file():
        yield path
    else:
        for child in sorted(path.iterdir()):
            if child.is_dir():
                if child.name not in INNER and not child.name.startswith("."):
                    yield from _places(child)
            elif child.name == THEORY or (child.suffix == ".json" and _is_run(child)):
                yield child


def _started(document: Mapping[str, Any]) -> str:
    return str(document.get("provenance", {}).get("started"))


def _is_run(path: Path) -> bool:
    try:
        return is_kept(read_json(path))
    except DpexpError:
        return False


def _newest(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    groups: dict[tuple[str | None, str], dict[str, Run]] = {}
    for run in runs:
        # A kept file and the folder that it was made from are one run: they started together.
        starts = groups.setdefault((run.experiment, run.hash), {})
        started = str(run.provenance.get("started"))
        same = starts.get(started)
        starts[started] = _with_recalibrations(same, run.recalibrations) if same else run
    used, notes = [], []
    for starts in groups.values():
        newest = max(starts)
        run = starts[newest]
        used.append(run)
        if len(starts) > 1:
            notes.append(
                f"{run.name}: one of {len(starts)} runs of the same configuration (R "
                f"{run.clip_norm:g}, lr {run.lr:g}, seed {run.seed}); the newest, of {newest}, is "
                f"used"
            )
    return used, notes


def _order(run: Run) -> tuple[Any, ...]:
    return run.experiment or "", run.data, run.sigma or 0, run.clip_norm, run.lr, run.seed
