"""Figures outside of pyplot's list, written as PNG in one move."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float, layout: str = "constrained") -> "Figure":
    """Return an empty white figure, in inches; no backend is chosen for others."""
    # Late, so that importing what measures stays quick.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout, facecolor="white")  # type: ignore[arg-type]
    FigureCanvasAgg(figure)
    return figure


def save_png(figure: "Figure", path: Path, dpi: int) -> Path:
    """Write a figure and return its path; an older file of that name is replaced in one move."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        figure.savefig(unfinished, format="png", dpi=dpi, metadata={"Software": None})
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path
