"""A figure of a report in both of its shapes, with the words that go with it."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpexp.metrics.png import save_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Draw = Callable[[bool], "Figure"]  # is_narrow -> figure
PNG_DPI = 200  # twice the 100 pixels an inch that a page shows
SVG_DPI = 100  # of what is not drawn as lines inside an SVG


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
        """Write the wide shape as a PNG of twice the resolution and return its path."""
        folder.mkdir(parents=True, exist_ok=True)
        return save_png(self.draw(False), folder / self.file_name, dpi=PNG_DPI)

    def svg(self, *, is_narrow: bool) -> bytes:
        """Return one shape as an SVG: text as outlines, ids that hang on the name alone."""
        import matplotlib

        figure, buffer = self.draw(is_narrow), io.BytesIO()
        settings: Any = {"svg.hashsalt": self.name, "svg.fonttype": "path"}
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        with matplotlib.rc_context(settings):
            figure.savefig(buffer, format="svg", dpi=SVG_DPI, metadata=nothing)
        return buffer.getvalue()
