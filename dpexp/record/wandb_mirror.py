"""The mirror of a run on Weights & Biases: offline by default, and never the reason a run fails.

The record is metrics.jsonl; this shows the same numbers in a dashboard. A missing package, key or
network costs one warning, and the run goes on without its mirror.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dpexp.record.metrics_log import strict_metrics
from dpexp.record.strict_json import to_strict


class WandbMirror:
    """One W&B run that follows one run folder, or nothing where there is none."""

    def __init__(self, run: Any, warn: Callable[[str], None]) -> None:
        self._run = run
        self._warn = warn

    @classmethod
    def start(
        cls,
        folder: str | Path,
        config: Mapping[str, Any],
        privacy: Mapping[str, Any],
        *,
        mode: str,
        project: str,
        warn: Callable[[str], None],
        entity: str | None = None,
        group: str | None = None,
        name: str | None = None,
        tags: Sequence[str] = (),
    ) -> Self:
        """Start a W&B run in `folder`/wandb. The variable WANDB_MODE, where set, wins over `mode`.

        A resumed run starts another W&B run in the same group: W&B cannot resume offline, and
        would overwrite the first when both are uploaded.

        Args:
            folder: The run folder; its name is the W&B name and group where none is given.
            config: The resolved configuration; shown as it is.
            privacy: epsilon, delta, sigma, q and the like; shown beside it, to sort runs by.
            mode: offline, online or disabled.
            project: W&B project.
            warn: Takes the one line that says why there is no mirror.
            entity: W&B user or team.
            group: W&B group.
            name: W&B name.
            tags: W&B tags.
        """
        mirror = cls(None, warn)
        variable = os.environ.get("WANDB_MODE")
        if (variable or mode) == "disabled":
            return mirror
        folder = Path(folder)
        arguments = {
            "project": project,
            "entity": entity,
            "group": group or folder.name,
            "name": name or folder.name,
            "tags": list(tags),
            "dir": str(folder),
            "config": {**to_strict(config), **to_strict(privacy)},
            "reinit": "finish_previous",
        }
        if not variable:
            arguments["mode"] = mode  # an argument would beat the variable
        mirror._run = mirror._attempt("start", lambda: _init(arguments))
        return mirror

    @property
    def is_on(self) -> bool:
        """Whether anything is mirrored; False once W&B has failed."""
        return self._run is not None

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Mirror one line of metrics.jsonl; nulls are left out."""
        if self._run is None:
            return
        row = {key: value for key, value in strict_metrics(metrics).items() if value is not None}
        self._attempt("log", lambda: self._run.log({"step": step, **row}))

    def log_reliability(
        self, step: int, figure: Path, bins: Mapping[str, Sequence[Any]], place: str = "test"
    ) -> None:
        """Mirror a reliability diagram, and its bins (as in reliability.json) as a table."""
        if self._run is not None:
            self._attempt("log", lambda: self._run.log(_reliability(step, figure, bins, place)))

    def summarize(self, summary: Mapping[str, Any]) -> None:
        """Mirror summary.json."""
        if self._run is not None:
            self._attempt("log", lambda: self._run.summary.update(strict_metrics(summary)))

    def finish(self, exit_code: int = 0) -> None:
        """End the W&B run, as failed unless `exit_code` is 0; a second call does nothing."""
        run, self._run = self._run, None
        if run is not None:
            self._attempt("finish", lambda: run.finish(exit_code=exit_code))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.finish(0 if kind is None else 1)

    def _attempt(self, what: str, action: Callable[[], Any]) -> Any:
        """Return what `action` returns; if it fails, warn and mirror nothing from here on."""
        try:
            return action()
        except Exception as error:  # noqa: BLE001  W&B is not worth a run, whatever it raises
            self._run = None
            reason = next(iter(str(error).splitlines()), "")
            self._warn(
                f"W&B could not {what} ({type(error).__name__}: {reason}); the run goes on, and "
                f"metrics.jsonl holds everything; wandb.mode=disabled turns the mirror off"
            )
            return None


def _init(arguments: Mapping[str, Any]) -> Any:
    import wandb

    # Before init, which asks a terminal for a key and reads only the settings of the process then.
    wandb.setup(settings=wandb.Settings(silent=True))
    settings: dict[str, Any] = {"silent": True, "console": "off", "init_timeout": 30}
    if "finish_timeout" in wandb.Settings.model_fields:
        settings["finish_timeout"] = 120
    run = wandb.init(**arguments, settings=wandb.Settings(**settings))
    run.define_metric("step", hidden=True)
    run.define_metric("*", step_metric="step")
    return run


def _reliability(
    step: int, figure: Path, bins: Mapping[str, Sequence[Any]], place: str
) -> dict[str, Any]:
    import wandb

    edges = bins["edges"]
    columns = [edges[:-1], edges[1:], bins["count"], bins["accuracy"], bins["confidence"]]
    rows = [list(row) for row in zip(*columns, strict=True)]
    names: list[str | int] = ["low", "high", "count", "accuracy", "confidence"]
    return {
        "step": step,
        f"{place}/reliability": wandb.Image(str(figure)),
        f"{place}/reliability_bins": wandb.Table(columns=names, data=rows),
    }
