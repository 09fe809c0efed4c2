"""Canaries that are mislabelled training images, and what a trained network says of them."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from dpexp.audit.bounds import Scores
from dpexp.audit.canaries import image_records
from dpexp.audit.subject import Materials, Subject
from dpexp.audit.watch import Samples
from dpexp.data.splits import Split

_BATCH = 512


@dataclass(frozen=True)
class ImageCanaries:
    """Mislabelled training images.

    Attributes:
        rows: Of the training set, shape (m,).
        labels: Wrong ones, shape (m,).
        is_in: Fair coins, shape (m,).
        kept: Rows of the training set that are no canaries.
    """

    rows: NDArray[np.int64]
    labels: Tensor
    is_in: NDArray[np.bool_]
    kept: NDArray[np.int64]

    def samples(self, materials: Materials) -> Samples:
        """Return the ordinary part of the training set: what is kept, and canaries that are in."""
        rows = np.concatenate([self.kept, self.rows[self.is_in]])
        _, true = materials.images(list(self.kept))
        labels = torch.cat([true, self.labels[torch.from_numpy(self.is_in)]])

        def read(positions: Tensor) -> tuple[Tensor, Tensor]:
            images, _ = materials.images(rows[positions.numpy()])
            return image_records(images), labels[positions]

        return Samples(len(rows), read)


def choose_images(materials: Materials, count: int, rng: np.random.Generator) -> ImageCanaries:
    """Return `count` random training images with wrong labels and coins."""
    order = rng.permutation(len(materials.splits.train))
    rows = np.sort(order[:count])
    _, true = materials.images(list(rows))
    classes = len(materials.splits.class_names)
    shift = torch.from_numpy(rng.integers(1, classes, count))
    return ImageCanaries(
        rows, (true + shift) % classes, rng.random(count) < 0.5, np.sort(order[count:])
    )


def losses_of(subject: Subject, materials: Materials, images: ImageCanaries) -> Scores:
    """Return the loss of each image canary at its wrong label, nats; the network alone."""
    found = [np.zeros(0)]
    for start in range(0, len(images.rows), _BATCH):
        part = slice(start, start + _BATCH)
        pixels, _ = materials.images(list(images.rows[part]))
        losses = cross_entropy(_logits(subject, pixels), images.labels[part], reduction="none")
        found.append(losses.double().numpy())
    return np.concatenate(found)


def accuracy(subject: Subject, split: Split) -> float:
    """Return the fraction of a split that the network classifies right."""
    right = 0
    for start in range(0, len(split), _BATCH):
        pixels, labels = split.batch(list(range(start, min(start + _BATCH, len(split)))))
        right += int((_logits(subject, pixels).argmax(1) == labels).sum())
    return right / len(split)


def _logits(subject: Subject, images: Tensor) -> Tensor:
    network = subject.model.network
    device = next(network.parameters()).device
    network.eval()
    with torch.no_grad():
        logits = network(images.to(device)).float().cpu()
    network.train()
    return logits
