"""The network with a table of canaries, and records that it takes for samples.

The network that is audited gets one more parameter, a table of one number a canary. Canary j's
logits are b times its own number, and nothing of the network; at b = 10,000 its gradient is a huge
multiple of coordinate j and zero elsewhere, so clipping brings it to exactly R. All canaries are
orthogonal, and their table is held at zero. A second parameter of the same shape is touched by no
sample: what it gets is noise alone.

A record is what a data loader gives as one sample: its row of the table, a factor of the network's
logits, the factor b, then the pixels. All go through the engine and `train_step` as images do.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

HUGE = 1e4
_HEADER = 3  # row of the table, factor of the network's logits, factor of the table's number


class CanaryNetwork(nn.Module):
    """A network and its canaries. Its classes must be at least two.

    Attributes:
        network: What is audited.
        table: One number a canary, shape (m + 1, 1); row 0 is that of ordinary samples.
        blank: A parameter of the same shape that no sample touches.
    """

    def __init__(self, network: nn.Module, num_canaries: int, image_shape: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.image_shape = tuple(image_shape)
        self.table = nn.Embedding(num_canaries + 1, 1)
        nn.init.zeros_(self.table.weight)
        self.blank = nn.Parameter(torch.zeros(num_canaries + 1, 1))

    def forward(self, records: Tensor) -> Tensor:
        """Return logits, shape (n, classes), of records, shape (n, 3 + pixels)."""
        pixels = records[:, _HEADER:].reshape(-1, *self.image_shape)
        logits = self.network(pixels) * records[:, 1:2]
        number = self.table(records[:, 0].long()) * records[:, 2:3]
        first = torch.zeros_like(logits[0])
        first[0] = 1
        return logits + number * first


def image_records(images: Tensor, factor: float = 1.0) -> Tensor:
    """Return images as records; the network's logits are multiplied by `factor`."""
    header = images.new_zeros(len(images), _HEADER)
    header[:, 1] = factor
    return torch.cat([header, images.flatten(1)], 1)


def canary_records(rows: Tensor, factors: Tensor | float, num_pixels: int) -> Tensor:
    """Return canaries as records.

    Args:
        rows: Row of the table, from 1, shape (n,).
        factors: b of each, or of all; its sign turns the gradient.
        num_pixels: Of one image; they are zero.
    """
    records = torch.zeros(len(rows), _HEADER + num_pixels)
    records[:, 0] = rows
    records[:, 2] = factors
    return records
