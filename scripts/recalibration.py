"""Choose the constants of the private fits on synthetic logits, where no data are spent.

python scripts/recalibration.py            prints the grid, the best setting first; minutes

The logits are those of the right classifier of a mixture of Gaussians, 10 classes, made wrong by a
known temperature and a shift a class. A setting is scored by the NLL on 5000 other samples over
that of the plain fit, mean over sets and over epsilon.
"""

import argparse
import itertools
import sys

import torch
from torch import Tensor

from dpexp.metrics.measures import nll_nats
from dpexp.recalibration.fit import fit_scaling
from dpexp.recalibration.private import Settings

EPSILONS = (0.5, 2.0, 8.0)
DELTA = 1e-5
NUM_TEST = 5000
NUM_CLASSES = 10
SETS = list(itertools.product((300, 3000), (2.0, 3.5), (-1.0, 0.5)))
GRIDS = {
    "temperature": list(itertools.product((2.0, 4.0, 8.0), (25, 50), (0.1, 0.3, 1.0), (1.0,))),
    "platt": list(itertools.product((2.0, 4.0), (25, 50), (0.1, 0.3), (0.1, 0.3))),
}


def draw(num_samples: int, separation: float, log_scale: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return logits and labels; the right temperature is exp(-log_scale)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(NUM_CLASSES, (num_samples,), generator=generator)
    points = torch.randn(num_samples, NUM_CLASSES, generator=generator, dtype=torch.float64)
    points[torch.arange(num_samples), labels] += separation
    shift = 0.5 * torch.randn(NUM_CLASSES, generator=generator, dtype=torch.float64)
    return (separation * points + shift) * torch.tensor(-log_scale).exp(), labels


def excess(method: str, settings: Settings, eps: float) -> float:
    """Return the mean NLL over that of the plain fit, nats."""
    total = 0.0
    for i, (num_samples, separation, log_scale) in enumerate(SETS):
        logits, labels = draw(num_samples + NUM_TEST, separation, log_scale, seed=i)
        fitted, tested = slice(num_samples), slice(num_samples, None)
        plain = fit_scaling(method, logits[fitted], labels[fitted], eps=float("inf"))
        noisy = fit_scaling(
            method,
            logits[fitted],
            labels[fitted],
            eps=eps,
            delta=DELTA,
            seed=i,
            settings=settings,
        )
        total += nll_nats(noisy.scaling.apply(logits[tested]), labels[tested])
        total -= nll_nats(plain.scaling.apply(logits[tested]), labels[tested])
    return total / len(SETS)


def main() -> None:
    """Print the grid of each method, best first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", default=list(GRIDS))
    for method in parser.parse_args().methods:
        rows = []
        for clip_norm, num_steps, learning_rate, class_weight in GRIDS[method]:
            settings = Settings(clip_norm, num_steps, learning_rate, class_weight)
            found = [excess(method, settings, eps) for eps in EPSILONS]
            rows.append((sum(found) / len(found), settings, found))
        for score, settings, found in sorted(rows, key=lambda row: row[0]):
            each = ", ".join(f"{e:g}: {x:.4f}" for e, x in zip(EPSILONS, found, strict=True))
            sys.stdout.write(f"{method} {score:.4f} nats ({each})  {settings}\n")


if __name__ == "__main__":
    main()
