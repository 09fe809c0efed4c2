"""The pictures of the theory's checks; each drawn from the numbers that theory.json keeps."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dpexp.metrics.png import new_figure, save_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FLAT, LAYERWISE, PLAIN, INK = "#0072B2", "#D55E00", "#009E73", "#444444"
_FLOOR = 1e-17


def save_figures(numbers: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Write the figures for which there are numbers; return file name -> what it shows."""
    drawn = {}
    for part, name, draw, caption in (
        ("identity", "identity.png", draw_identity, "The loss falls as the kernel says"),
        ("spectra", "spectra.png", draw_spectra, "What clipping does to the kernel"),
        ("spectra", "global.png", draw_global, "Global clipping is no scalar"),
        ("trajectories", "rise.png", draw_rise, "The loss may rise at small R"),
        ("noise", "noise.png", draw_noise, "Noise vanishes with the learning rate"),
    ):
        if part in numbers:
            save_png(draw(numbers[part]), folder / name, dpi=110)
            drawn[name] = caption
    return drawn


def draw_identity(numbers: Mapping[str, Any]) -> "Figure":
    """Return the error of the loss identity over lr, for both styles."""
    figure = new_figure(8, 5)
    axes = figure.subplots()
    lrs = np.array(numbers["lrs"])
    for style, color, shift in (("flat", FLAT, 0.9), ("layerwise", LAYERWISE, 1.1)):
        errors = np.maximum(np.array(numbers[style]), _FLOOR)
        for row in errors:
            axes.loglog(lrs * shift, row, ".", color=color, alpha=0.3, markersize=5)
        label = f"{style} clipping: {len(errors)} states (dots), their median (line)"
        axes.loglog(lrs * shift, np.median(errors, axis=0), "-o", color=color, label=label)
    axes.axhline(0.01, color=INK, linestyle="--", linewidth=1)
    axes.text(lrs.min(), 0.012, "1 %: what the claim asks for", color=INK, va="bottom")
    axes.set_xlabel("learning rate of the one step (on the sum of clipped gradients)")
    axes.set_ylabel("relative error of the predicted fall of the loss")
    axes.set_title("A1: one step lowers the loss as the clipped kernel predicts;\n"
                   "the error is that of the step's size, and shrinks with it")  # fmt: skip
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return figure


def draw_spectra(numbers: Mapping[str, Any]) -> "Figure":
    """Return asymmetry and lowest form, and real against imaginary parts, at every state."""
    figure = new_figure(14, 5.2)
    left, right = figure.subplots(1, 2)
    for row, color in (("flat", FLAT), ("layerwise", LAYERWISE)):
        look = numbers[row]
        left.loglog(look["asymmetry"], np.maximum(-np.array(look["form"]), 1e-12), "o",
                    color=color, alpha=0.6, label=f"small R, {row}")  # fmt: skip
        imaginary = np.maximum(np.array(look["imaginary"]), _FLOOR)
        right.plot(look["real"], imaginary, "o", color=color, alpha=0.6, label=f"small R, {row}")
    left.set_xlabel("asymmetry |K - K^T| / |K|")
    left.set_ylabel("most negative x^T K x, over its largest\n(minus sign left out)")
    counts = [sum(x < -1e-6 for x in numbers[row]["form"]) for row in ("flat", "layerwise")]
    left.set_title(
        f"Asymmetric, and negative as a quadratic form at\n{counts[0]} (flat) and {counts[1]} "
        f"(layerwise) of {numbers['states']} states"
    )
    right.set_yscale("log")
    right.set_xscale("symlog", linthresh=1e-9)
    right.set_xticks([-1e-5, -1e-7, 0, 1e-7, 1e-5, 1e-3])
    right.axvline(0, color=INK, linewidth=1)
    right.axhline(1e-6, color=INK, linestyle="--", linewidth=1)
    right.text(0.02, 1.6e-6, "above: complex", color=INK, transform=right.get_yaxis_transform())
    right.set_xlabel("smallest real part of an eigenvalue, over the largest")
    right.set_ylabel("largest imaginary part, over the largest\n(0 drawn at 1e-17)")
    complex_at = [sum(x > 1e-6 for x in numbers[row]["imaginary"]) for row in ("flat", "layerwise")]
    below = [sum(x < -1e-6 for x in numbers[row]["real"]) for row in ("flat", "layerwise")]
    right.set_title(
        f"Complex eigenvalues at {complex_at[0]} (flat) and {complex_at[1]} (layerwise) states,\n"
        f"a negative real part at {below[0]} and {below[1]}"
    )
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(loc="best")
    figure.suptitle(f"A2 to A4: kernels at {numbers['states']} states, one dot each", fontsize=14)
    return figure


def draw_global(numbers: Mapping[str, Any]) -> "Figure":
    """Return how far the kernel of global clipping is from a scalar times H."""
    figure = new_figure(8, 5)
    axes = figure.subplots()
    looks = np.array([look for state in numbers["global"] for look in state])
    some = (looks[:, 1] > 0) & (looks[:, 1] < 1)
    axes.plot(100 * looks[some, 1], looks[some, 2], "o", color=LAYERWISE, alpha=0.5,
              label="some but not all dropped")  # fmt: skip
    axes.plot(100 * looks[~some, 1], looks[~some, 2], "s", color=FLAT, label="none or all dropped")
    axes.set_xlabel("samples dropped by global clipping (%)")
    axes.set_ylabel("distance of HC from the nearest scalar times H,\nover the norm of HC")
    axes.set_title("A17: the kernel is a scalar times H only where\n"
                   "no sample, or every sample, is dropped")  # fmt: skip
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def draw_rise(numbers: Mapping[str, Any]) -> "Figure":
    """Return losses along the flow from the start whose loss rose most."""
    figure = new_figure(9, 5.2)
    axes = figure.subplots()
    curves = numbers["curves"]
    styles = {
        "none": (PLAIN, "-", 2.0), "large R, flat": (INK, "--", 2.0),
        "small R, flat": (FLAT, "-", 3.0), "tenth of the step": ("#56B4E9", ":", 3.0),
        "small R, layerwise": (LAYERWISE, "-", 2.0),
    }  # fmt: skip
    names = {"none": "no clipping", "tenth of the step": "small R, flat, a tenth of the step"}
    for row, (color, line, width) in styles.items():
        values = curves[row]
        x = np.linspace(0, 1, len(values))
        axes.plot(x, values, line, color=color, linewidth=width, label=names.get(row, row))
    axes.axhline(1, color=INK, linewidth=0.8)
    axes.set_xlabel("time, from start to end of each run (its own unit for each R)")
    axes.set_ylabel("training loss over that at the start")
    axes.set_title("A6: without noise, clipping to a small R makes the loss rise\n"
                   f"{curves['subject']}")  # fmt: skip
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def draw_noise(numbers: Mapping[str, Any]) -> "Figure":
    """Return the gap in loss and in ECE between noisy and noiseless runs, over lr."""
    figure = new_figure(13, 5)
    left, right = figure.subplots(1, 2)
    runs = numbers["runs"]
    lrs = np.array([run["lr"] for run in runs])
    for i, run in enumerate(runs):
        pairs, single = np.abs(run["gaps"]), np.abs(run["single"])
        left.loglog(lrs[i] * 0.87 + 0 * single, single, ".", color="#999999", alpha=0.7,
                    label=None if i else "a single run")  # fmt: skip
        left.loglog(lrs[i] + 0 * pairs, pairs, ".", color=FLAT, alpha=0.7,
                    label=None if i else "mean of a pair of opposite noise")  # fmt: skip
    means = np.array([abs(np.mean(run["gaps"])) for run in runs])
    left.loglog(lrs, means, "-o", color=LAYERWISE, label="mean over all seeds")
    left.loglog(lrs, means[0] * lrs / lrs[0], ":", color=INK, label="in proportion to lr")
    left.set_xlabel("learning rate (fixed total time, sigma = 1)")
    left.set_ylabel("|loss with noise - loss without|, nats a sample")
    left.set_title("A7: what noise does to the loss, as lr shrinks")
    left.legend(fontsize=9)
    for i, run in enumerate(runs):
        gaps = np.array(run["ece_gaps"])
        right.semilogx(lrs[i] + 0 * gaps, gaps, ".", color=FLAT, alpha=0.6,
                       label=None if i else "a run")  # fmt: skip
    right.semilogx(lrs, [np.mean(run["ece_gaps"]) for run in runs], "-o", color=LAYERWISE,
                   label="mean over runs")  # fmt: skip
    right.axhspan(-0.01, 0.01, color=PLAIN, alpha=0.15, label="what the claim allows")
    right.set_xlabel("learning rate (fixed total time, sigma = 1)")
    right.set_ylabel("ECE with noise - ECE without (fractions)")
    right.set_title("A8: what noise does to calibration")
    right.legend(fontsize=9)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return figure
