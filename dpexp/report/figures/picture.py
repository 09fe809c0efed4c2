"""A figure of a report in both of its shapes, with the words that go with it."""

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Draw = Callable[[bool], "Figure"]  # is_narrow -> figure
WIDE_DPI = 200  # twice the 100 pixels an inch that a page shows
NARROW_DPI = 168  # likewise on a phone, where 4.3 inches are 360 pixels


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One figure.

    Attributes:
        name: File name without its ending, and anchor in the page.
        title: What is seen, in one line.
        caption: How to read it, and what it shows in numbers.
        alt: For whom it cannot be seen.
        draw: Returns it, for a phone if told so.
        width: Pixels that it is shown at on a wide page.
    """

    name: str
    title: str
    caption: str
    alt: str
    draw: Draw
    width: int = 960

    @property
    def file_name(self) -> str:
        """Name of its PNG."""
        return f"{self.name}.png"

    def save(self, folder: Path) -> Path:
        """Write the wide shape into `folder` in one move, and return its path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / self.file_name
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            unfinished.write_bytes(self.wide)
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
        return path

    @cached_property
    def wide(self) -> bytes:
        """PNG for a wide page, drawn once: it goes into a file and into the page."""
        return self._png(is_narrow=False)

    @property
    def narrow(self) -> bytes:
        """PNG for a phone."""
        return self._png(is_narrow=True)

    def _png(self, *, is_narrow: bool) -> bytes:
        """Return one shape as a PNG with a palette, of twice the resolution that it is shown at."""
        buffer = io.BytesIO()
        dpi = NARROW_DPI if is_narrow else WIDE_DPI
        self.draw(is_narrow).savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
        return with_palette(buffer.getvalue())


def with_palette(png: bytes) -> bytes:
    """Return a PNG in 96 colours, a third of the bytes: a chart has few, and no photograph."""
    from PIL import Image

    image = Image.open(io.BytesIO(png)).convert("RGB")
    few = image.quantize(96, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    few.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
