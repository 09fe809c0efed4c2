"""Loss, accuracy and ECE over training, local against global and flat against layerwise."""

import csv
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from dpexp.report.claims.tail import WATCHED_KEYS
from dpexp.report.contents import Report
from dpexp.report.figures.look import BLUE, LEGEND, ORANGE, heading, new_panels, plain, tidy
from dpexp.report.figures.over_steps import band_of, draw_band, watched_part, watched_words
from dpexp.report.figures.picture import Picture
from dpexp.report.figures.select import name_of
from dpexp.report.groups import Point, same_but_for
from dpexp.report.runs import ROOTS
from dpexp.report.words import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Method = tuple[str, str]  # clipping.function, clipping.style
WORDS = {
    ("abadi", "flat"): "local flat",
    ("abadi", "layerwise"): "local layerwise",
    ("global", "flat"): "global flat",
    ("global", "layerwise"): "global layerwise",
}
PANELS = (
    ("unsafe/loss_nats", "train_loss", "Training loss (nats)", 1.0),
    ("{part}/nll_nats", "test_loss", "{Part} loss (nats)", 1.0),
    ("{part}/accuracy", "test_accuracy", "{Part} accuracy (%)", 100.0),
    ("{part}/ece", "test_ece", "{Part} ECE (%)", 100.0),
)
# What may differ between curves of one figure: how is clipped, and what is no part of training.
_FREE = ("seed", "clipping.function", "clipping.style", "clipping.split", *WATCHED_KEYS, *ROOTS)
# The setting that the paper's curves are of, as its caption gives it.
_PAPER = {"data": "cifar10", "model": "cifar_cnn4", "sigma": 1.3, "lr": 0.05, "clip_norm": 1.5}


def loss_curve_pictures(report: Report) -> Iterator[Picture]:
    """Yield one picture for each setting that was trained with two or more ways of clipping."""
    groups: dict[str, dict[Method, Point]] = {}
    for point in report.points:
        method = method_of(point)
        if method in WORDS and len(band_of(point, f"{watched_part([point])}/nll_nats")) > 1:
            groups.setdefault(same_but_for(point.first, _FREE), {})[method] = point
    for methods in groups.values():
        if len(methods) < 2:
            continue
        points = {method: methods[method] for method in WORDS if method in methods}
        yield _picture(points)


def method_of(point: Point) -> Method:
    """Return which clipping function and style a point was trained with."""
    clipping = point.first.config["clipping"]
    return clipping["function"], clipping["style"]


def paper_values() -> dict[tuple[Method, str], tuple[float, float]]:
    """Return (epoch, value) by method and measure, digitised from the paper's figure."""
    text = files("dpexp.report.figures").joinpath("paper_curves.csv").read_text("utf-8")
    return {
        ((row["function"], row["style"]), row["measure"]): (float(row["epoch"]),
                                                            float(row["value"]))
        for row in csv.DictReader(text.splitlines())
    }  # fmt: skip


def draw_loss_curves(points: dict[Method, Point], is_narrow: bool) -> "Figure":
    """Return four panels over epochs, a line a method, and the paper's ends as open marks."""
    figure, panels = new_panels(4, is_narrow=is_narrow, per_row=(2, 1), height=(3.2, 2.7))
    part = watched_part(list(points.values()))
    words = {"part": part, "Part": {"val": "Validation", "test": "Test"}[part]}
    for axes, (key, measure, title, scale) in zip(panels, PANELS, strict=True):
        _draw(axes, points, key.format(**words), measure, title.format(**words), scale)
    figure.legend(handles=_handles(points), loc="outside lower center",
                  ncols=2 if is_narrow else 5, **(LEGEND | {"fontsize": 9.5}))  # fmt: skip
    return figure


def _draw(
    axes: "Axes", points: dict[Method, Point], key: str, measure: str, title: str, scale: float
) -> None:
    for method, point in points.items():
        draw_band(axes, band_of(point, key), per_step=_epochs_a_step(point), scale=scale,
                  **_look(method))  # fmt: skip
        if _is_papers(point) and (method, measure) in paper_values():
            epoch, value = paper_values()[method, measure]
            axes.plot([epoch], [scale * value], mfc="white", mew=1.8, ms=8, clip_on=False, zorder=6,
                      ls="none", color=_look(method)["color"], marker=_mark(method))  # fmt: skip
    heading(axes, title, size=11)
    axes.set_xlabel("epoch")
    axes.set_xlim(left=0)
    tidy(axes, size=9.5)


def _picture(points: dict[Method, Point]) -> Picture:
    run = next(iter(points.values())).first
    counts = {len(point.runs) for point in points.values()}
    over = (
        count(counts.pop(), "seed") if len(counts) == 1 else f"{min(counts)} to {max(counts)} seeds"
    )
    watched = watched_words(list(points.values()), watched_part(list(points.values())))
    papers = "Open marks: the paper's values at 60 epochs, digitised from its figure. "
    words = "; ".join(_end(method, point) for method, point in points.items())
    return Picture(
        name=f"loss_curves_{name_of(f'{run.data}_{run.model}_R{plain(run.clip_norm)}')}",
        title=f"Loss over training, by way of clipping, {run.data}, {run.model}",
        caption=(
            f"R {plain(run.clip_norm)} (of each layer, where layerwise and split so), lr "
            f"{plain(run.lr)}, {run.steps:,} steps; mean and range over {over}, on "
            f"{watched} during training. "
            f"{papers if _is_papers(next(iter(points.values()))) else ''}"
            f"Training loss is not private. At the end, on all test "
            f"images: {words}."
        ),
        alt=f"Training loss, test loss, accuracy and ECE over epochs. At the end: {words}.",
        draw=partial(draw_loss_curves, points),
    )


def _end(method: Method, point: Point) -> str:
    loss, accuracy = point.mean("test/nll_nats"), point.mean("test/accuracy")
    if loss is None or accuracy is None:
        return f"{WORDS[method]} diverged"
    return f"{WORDS[method]} test loss {loss:.3f} nats, accuracy {100 * accuracy:.1f} %"


def _is_papers(point: Point) -> bool:
    run = point.first
    is_same = all(getattr(run, name) == value for name, value in _PAPER.items())
    return is_same and round(run.steps * _epochs_a_step(point)) == 60


def _epochs_a_step(point: Point) -> float:
    privacy, config = point.first.privacy, point.first.config
    if "sampling_rate" in privacy:
        return float(privacy["sampling_rate"])
    return float(config["batch"] / config["dataset"]["num_train"])


def _look(method: Method) -> dict[str, Any]:
    function, style = method
    return {"color": BLUE if function == "abadi" else ORANGE, "lw": 1.9,
            "ls": "-" if style == "flat" else (0, (4, 1.6))}  # fmt: skip


def _mark(method: Method) -> str:
    return "o" if method[1] == "flat" else "s"


def _handles(points: dict[Method, Point]) -> Sequence[Any]:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], label=WORDS[method], **_look(method)) for method in points]
    if any(_is_papers(point) for point in points.values()):
        handles.append(Line2D([], [], label="paper, at the end", ls="none", marker="o", mfc="white",
                              mec="#222222", mew=1.8, ms=8))  # fmt: skip
    return handles
