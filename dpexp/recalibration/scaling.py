"""Temperature and Platt scaling: logits rescaled after training, a class at a time or all alike.

With z the logits of a sample and m their mean over the k classes,

    temperature:  z_j exp(a)                        one parameter, temperature exp(-a);
    Platt:        (z_j - m) exp(a_j) + b_j          2 k parameters.

Temperature scaling changes no prediction. What several classes make of Platt's scale and shift is
the vector scaling of Guo et al.; less the mean m, which softmax does not see before scaling, so
that a sample's gradient does not hang on where a network happens to put its logits.

Source: Guo et al. 2017, arXiv:1706.04599, Section 4.2; Platt 1999 (two classes); Zhang et al. 2022,
arXiv:2210.08248, for both after differentially private training.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from dpexp.errors import MetricError
from dpexp.recalibration.request import Method

MOST_LOG_SCALE = 3.0  # scales from 1/20 to 20: a sure fit on few samples has no finite optimum
MOST_SHIFT = 10.0  # nats


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """A rescaling of logits, as plain numbers.

    Attributes:
        method: "temperature" or "platt".
        log_scale: a, of length 1, or of one a class.
        shift: b, nats; empty, or of one a class.
    """

    method: Method
    log_scale: tuple[float, ...]
    shift: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        scales, shifts = len(self.log_scale), len(self.shift)
        sizes = {"temperature": (1, 0), "platt": (max(1, scales), max(1, scales))}
        if sizes.get(self.method) != (scales, shifts):
            raise MetricError(
                f"a {self.method} scaling with {scales} scales and {shifts} shifts: temperature "
                f"has one scale and no shift, platt one of each a class, and there are no others; "
                f"give what recalibration.json holds"
            )

    @property
    def temperature(self) -> float | None:
        """What logits are divided by; None where classes differ."""
        return math.exp(-self.log_scale[0]) if self.method == "temperature" else None

    def apply(self, logits: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """Return rescaled logits in float64, so that no two different ones round to a tie.

        Raises:
            MetricError: If they have another number of classes than the scaling.
        """
        logits = logits.double()
        if self.method == "temperature":
            return logits * math.exp(self.log_scale[0])
        if logits.shape[1] != len(self.log_scale):
            raise MetricError(
                f"logits of {logits.shape[1]} classes, but the scaling has {len(self.log_scale)}: "
                f"its scales and shifts belong to classes; use the data set it was fitted on"
            )
        scale = logits.new_tensor(self.log_scale).exp()
        return centred(logits) * scale + logits.new_tensor(self.shift)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as recalibration.json holds them under `parameters`."""
        values: dict[str, Any] = {
            "method": self.method,
            "log_scale": list(self.log_scale),
            "shift": list(self.shift),
        }
        return values | ({"temperature": self.temperature} if self.temperature else {})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Scaling":
        """Return what `to_dict` wrote."""
        return cls(
            method=values["method"],
            log_scale=tuple(values["log_scale"]),
            shift=tuple(values["shift"]),
        )


def identity(method: Method, num_classes: int) -> Scaling:
    """Return the scaling that changes no probability, where every fit begins."""
    if method == "temperature":
        return Scaling(method=method, log_scale=(0.0,))
    zeros = (0.0,) * num_classes
    return Scaling(method=method, log_scale=zeros, shift=zeros)


def centred(logits: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    """Return logits less their mean over classes: the same probabilities."""
    return logits - logits.mean(1, keepdim=True)
