"""The pictures of an audit: what the attacker saw, and what it proves."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dpexp.audit.attack import CERTAIN, Part, lower_bound
from dpexp.audit.bounds import Scores
from dpexp.audit.gradient import EVERY_STEP, ONE_SAMPLE, SUBSAMPLED
from dpexp.audit.one_run import GuessPart, OneRun
from dpexp.audit.subsampled import Family, deltas_of
from dpexp.audit.watch import rehearsed
from dpexp.metrics.png import new_figure, save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT = "#222222", "#8A8A8A"
OUT, IN, BAD = "#0072B2", "#D55E00", "#B00020"  # of the Okabe-Ito palette, but for the last
_SIMULATED = 200_000
_BINS = 64
_TITLES = {EVERY_STEP: "Every step sees every sample", SUBSAMPLED: "Subsampled: the run itself"}


def save_gradient_figure(parts: Sequence[Part], path: Path, *, title: str) -> Path:
    """Write the figure of the gradient audit as a PNG, in one move, and return its path."""
    return save_png(draw_gradient(parts, title), path, dpi=100)


def save_one_run_figure(run: OneRun, path: Path, *, title: str, delta: float) -> Path:
    """Write the figure of the audit in one run as a PNG, in one move, and return its path."""
    return save_png(draw_one_run(run, title, delta), path, dpi=100)


def draw_gradient(parts: Sequence[Part], title: str) -> "Figure":
    """Return scores of canaries in and out beside the claim, and every attack's lower bound."""
    figure = new_figure(16, 5.6)
    watched = [part for part in parts if part.name != ONE_SAMPLE]
    panels = figure.subplots(1, len(watched) + 1, width_ratios=[1.0] * len(watched) + [1.0])
    for axes, part in zip(panels, watched, strict=False):
        _draw_scores(axes, part)
    _draw_bounds(panels[-1], parts)
    worst = any(part.is_violated for part in parts)
    word = "a lower bound is ABOVE the claim" if worst else "no lower bound is above the claim"
    _suptitle(figure, f"Gradient audit of {title}: {word}")
    return figure


def draw_one_run(run: OneRun, title: str, delta: float) -> "Figure":
    """Return scores and rates of both kinds of canary, and what the guesses prove."""
    figure = new_figure(15, 5.4)
    images, rates, bounds = figure.subplots(1, 3, width_ratios=(1.0, 1.0, 1.1))
    _draw_losses(images, run.parts[0])
    _draw_rates(rates, run, delta)
    _draw_guesses(bounds, run)
    word = "a lower bound is ABOVE the claim" if run.is_violated else "consistent with the claim"
    _suptitle(figure, f"One-run audit of {title}, test accuracy {run.test_accuracy:.1%}: {word}")
    return figure


def _draw_scores(axes: "Axes", part: Part) -> None:
    attack = part.attacks[0]
    family, scores = part.family, attack.scores
    count = _SIMULATED // max(1, family.num_steps // 100)
    claimed = rehearsed(family, part.share, np.random.default_rng(0), count)
    # What the claim allows; scores beyond it are heaped up at the edges.
    low, high = np.quantile(np.concatenate(claimed), [0.0005, 0.9995])
    edges, coarse = np.linspace(low, high, _BINS), np.linspace(low, high, _BINS // 2)
    groups = ((scores[~attack.is_in], OUT, "not in"), (scores[attack.is_in], IN, "in"))
    for (values, color, word), simulated in zip(groups, claimed, strict=True):
        axes.hist(values.clip(low, high), list(edges), density=True, color=color, alpha=0.35,
                  label=f"{len(values):,} canaries {word}")  # fmt: skip
        height, _ = np.histogram(simulated.clip(low, high), coarse, density=True)
        middle = (coarse[1:] + coarse[:-1]) / 2
        axes.plot(middle, height, color=color, lw=2, label=f"as claimed, {word}")
    axes.axvline(attack.threshold, color=INK, lw=1.4, ls=(0, (4, 3)))
    axes.set(xlabel="log likelihood ratio of a canary, over all steps", ylabel="density")
    peak = max(line.get_ydata().max() for line in axes.lines[:2])  # type: ignore[union-attr]
    axes.set_ylim(0, 1.36 * min(axes.get_ylim()[1], 4 * peak))
    axes.legend(fontsize=9.5, frameon=False, loc="upper left", ncols=2)
    _heading(axes, _TITLES[part.name], f"q = {family.sampling_rate:.3g}, K = {family.num_steps}, "
                                       f"sigma = {family.noise_multiplier:.3g}")  # fmt: skip
    _tidy(axes)


def _draw_bounds(axes: "Axes", parts: Sequence[Part]) -> None:
    """Draw a bar an attack; a violation is in red, and the claim a line."""
    rows = [(part, finding) for part in parts for finding in part.findings]
    for line, (part, finding) in enumerate(rows):
        low = lower_bound(finding)
        shown = min(low, 2.2 * part.claimed)
        color = BAD if low > part.claimed else FAINT if finding is not part.best else INK
        axes.barh(line, shown, height=0.62, color=color)
        is_long = shown > 0.6 * part.claimed
        text = f" {low:.2f}{', bar cut' * (shown < low)} "
        axes.text(
            shown, line, text, va="center", ha="right" if is_long else "left", fontsize=10,
            color="white" if is_long else color,
        )  # fmt: skip
    claimed = parts[0].claimed
    _mark_claim(axes, claimed)
    names = [f"{part.name}:\n{finding.name}" for part, finding in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=8.5)
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlim=(0, 1.2 * max(claimed, axes.get_xlim()[1] / 1.1)))
    axes.set_xlabel("lower bound on epsilon")
    _heading(axes, "What each attack proves", "")
    _tidy(axes)


def _draw_losses(axes: "Axes", part: GuessPart) -> None:
    scores, is_in = part.scores, part.is_in
    finite = scores[np.abs(scores) < CERTAIN]
    low, high = np.quantile(finite if len(finite) else np.array([-1.0, 1.0]), [0.002, 0.998])
    edges = np.linspace(low, high, 45)
    for values, color, word in ((scores[~is_in], OUT, "not in"), (scores[is_in], IN, "in")):
        axes.hist(values.clip(low, high), list(edges), density=True, color=color, alpha=0.4,
                  label=f"{len(values):,} canaries {word}")  # fmt: skip
        axes.axvline(float(np.median(values)), color=color, lw=1.8, ls=(0, (4, 3)))
    axes.set(xlabel="fall of the loss at the wrong label (nats)", ylabel="density")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.2)
    axes.legend(fontsize=10, frameon=False, loc="upper left")
    _heading(axes, "Mislabelled images, final model seen", "dashed: medians")
    _tidy(axes)


def _draw_rates(axes: "Axes", run: OneRun, delta: float) -> None:
    """Draw true against false positives; what (epsilon, delta) forbids is shaded."""
    fpr = np.geomspace(1e-4, 1, 300)
    axes.fill_between(fpr, _highest_tpr(fpr, run, delta), 1.0, color=BAD, alpha=0.16, lw=0,
                      label="forbidden by the claim")  # fmt: skip
    mechanism = _mechanism_tpr(fpr, run.family)
    axes.plot(fpr, mechanism, color=INK, lw=1.3, ls=(0, (4, 3)), label="best test, as claimed")
    axes.plot(fpr, fpr, color=FAINT, lw=1, label="blind guess")
    for part, color in zip(run.parts, (OUT, IN), strict=True):
        x, y = _curve(part.scores, part.is_in)
        axes.plot(x, y, color=color, lw=2, label=part.name)
    axes.set(xscale="log", yscale="log", xlim=(1e-3, 1), ylim=(1e-3, 1))
    axes.set(xlabel="canaries not in that are taken for in", ylabel="canaries in that are found")
    axes.legend(fontsize=9.5, frameon=False, loc="lower right")
    _heading(axes, "How well canaries are told apart", "")
    _tidy(axes)


def _draw_guesses(axes: "Axes", run: OneRun) -> None:
    """Draw each look's interval of epsilon: from its lower bound up, for nothing bounds above."""
    rows = [(part, finding) for part in run.parts for finding in part.findings]
    top = 1.35 * max(run.claimed, *(finding.epsilon for _, finding in rows))
    for line, (part, finding) in enumerate(rows):
        color = BAD if finding.epsilon > run.claimed else IN if part is run.parts[1] else OUT
        axes.barh(line, top - finding.epsilon, left=finding.epsilon, height=0.5, color=color,
                  alpha=0.25)  # fmt: skip
        axes.plot([finding.epsilon] * 2, [line - 0.25, line + 0.25], color=color, lw=2.5)
        axes.text(finding.epsilon, line - 0.32, f"from {finding.epsilon:.2f}", ha="left",
                  fontsize=10, color=color)  # fmt: skip
    _mark_claim(axes, run.claimed)
    names = [
        f"{part.name}\n{finding.guesses.num_right:,} of {finding.guesses.num_guesses:,} right"
        for part, finding in rows
    ]
    axes.set_yticks(range(len(rows)), names, fontsize=9.5)
    axes.set(ylim=(len(rows) - 0.4, -0.7), xlim=(0, top))
    axes.set_xlabel("epsilon that the guesses allow")
    _heading(axes, "Confidence intervals of epsilon", "each goes on to infinity")
    _tidy(axes)


def _mark_claim(axes: "Axes", claimed: float) -> None:
    axes.axvline(claimed, color=BAD, lw=1.8)
    axes.annotate(
        f"claimed {claimed:.2f}", (claimed, 1), (0, 3), xycoords=("data", "axes fraction"),
        textcoords="offset points", ha="center", color=BAD, fontsize=11,
    )  # fmt: skip


def _highest_tpr(fpr: Scores, run: OneRun, delta: float) -> Scores:
    one = np.exp(min(run.claimed, 700.0)) * fpr + delta
    other = 1 - np.exp(-run.claimed) * (1 - delta - fpr)
    return np.clip(np.minimum(one, other), 0, 1)


def _mechanism_tpr(fpr: Scores, family: Family) -> Scores:
    """Return the true positive rate of the best test of the mechanism as claimed."""
    epsilons = np.linspace(0, 12, 121)
    deltas = deltas_of(family.noise_multiplier, family.sampling_rate, family.num_steps, epsilons)[
        :, None
    ]
    grid = epsilons[:, None]
    fnr = np.maximum(1 - deltas - np.exp(grid) * fpr, np.exp(-grid) * (1 - deltas - fpr))
    return 1 - np.clip(fnr.max(0), 0, 1)


def _curve(scores: Scores, is_in: Any) -> tuple[Scores, Scores]:
    """Return false and true positive rates over all thresholds."""
    order = np.argsort(-scores, kind="stable")
    hits = is_in[order]
    return np.cumsum(~hits) / max(1, (~is_in).sum()), np.cumsum(hits) / max(1, is_in.sum())


def _suptitle(figure: "Figure", text: str) -> None:
    figure.suptitle(text, fontsize=15, fontweight="bold", color=INK)


def _heading(axes: "Axes", title: str, detail: str) -> None:
    axes.set_title(title + "\n", loc="left", fontsize=12.5, fontweight="bold", color=INK)
    axes.annotate(detail, (0, 1), (0, 6), xycoords="axes fraction", textcoords="offset points",
                  fontsize=10.5, color=INK)  # fmt: skip


def _tidy(axes: "Axes") -> None:
    axes.tick_params(labelsize=10, colors=INK)
    axes.xaxis.label.set(fontsize=11.5, color=INK)
    axes.yaxis.label.set(fontsize=11.5, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
