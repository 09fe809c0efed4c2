"""What a network is trained for, a class or a number: its loss, its measures and their words."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy

from dpexp.data.splits import Split
from dpexp.data.tables import Target
from dpexp.metrics.regression import regression_metrics
from dpexp.metrics.summary import evaluate_metrics

Metrics = Mapping[str, Any]


@dataclass(frozen=True)
class Task:
    """All that differs between predicting a class and predicting a number.

    Attributes:
        loss: From outputs, float32, shape (n, k), and labels to one loss a sample, shape (n,).
        loss_name: What it is called in the log, with its unit.
        measure: From outputs and labels to measures by name, `num_nonfinite` among them.
        has_confidence: Whether outputs are logits of classes, so that calibration is a question.
        watched: The measure that shows progress, and its words.
        words: From measures to what the last lines of a run say.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    loss_name: str
    measure: Callable[[Tensor, Tensor], dict[str, Any]]
    has_confidence: bool
    watched: tuple[str, str]
    words: Callable[[Metrics], str]

    def progress(self, metrics: Metrics) -> str:
        """Return the measure that shows progress, in words."""
        name, words = self.watched
        return "" if metrics[name] is None else f"{words} {metrics[name]:.3f}"


def task_of(split: Split) -> Task:
    """Return what the labels of a data set ask for."""
    target = split.form.target
    return CLASSIFICATION if target is None else regression(target)


def class_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the cross entropy of each sample, nats, shape (n,)."""
    return cross_entropy(outputs, labels, reduction="none")


def half_squared_error(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return (f_n - y_n)^2 / 2 of each sample, in squared scaled units, shape (n,)."""
    return 0.5 * (outputs.squeeze(1) - labels).square()


def regression(target: Target) -> Task:
    """Return the task of predicting `target`, measured in its own unit."""
    return Task(
        loss=half_squared_error,
        loss_name="loss_half_squared",
        measure=partial(regression_metrics, spread=target.spread),
        has_confidence=False,
        watched=("r2", "R2"),
        words=partial(_regression_words, unit=target.words),
    )


def _class_words(metrics: Metrics) -> str:
    values = {name: _number(value) for name, value in metrics.items()}
    return (
        f"accuracy {values['accuracy']}, ECE {values['ece']}, MCE {values['mce']}, "
        f"NLL {values['nll_nats']} nats, Brier {values['brier']}"
    )


def _regression_words(metrics: Metrics, *, unit: str) -> str:
    values = {name: "-" if value is None else f"{value:.4g}" for name, value in metrics.items()}
    return (
        f"MSE {values['mse']}, RMSE {values['rmse']}, MAE {values['mae']}, R2 {values['r2']} "
        f"({unit})"
    )


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if value < 1e4 else f"{value:.4g}"


CLASSIFICATION = Task(
    loss=class_loss,
    loss_name="loss_nats",
    measure=evaluate_metrics,
    has_confidence=True,
    watched=("accuracy", "accuracy"),
    words=_class_words,
)
