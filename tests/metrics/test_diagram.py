"""The diagram shows what the curve holds: bars, gaps in their colours, numbers, whiskers."""

import subprocess
import sys

import pytest
from matplotlib.colors import to_rgba
from matplotlib.image import imread
from matplotlib.patches import Rectangle
from scipy.stats import binom

from dpexp.metrics import diagram
from dpexp.metrics.diagram import (
    calibrated_range,
    draw_reliability_diagram,
    save_reliability_diagram,
)
from dpexp.metrics.reliability import Reliability

# Over-confident in its second bin, under-confident in its fourth, empty in the others.
CURVE = Reliability(
    edges=(0.0, 0.25, 0.5, 0.75, 1.0),
    count=(0, 40, 0, 60),
    accuracy=(None, 0.2, None, 0.95),
    confidence=(None, 0.4, None, 0.9),
)


def rectangles(axes, color):
    """(left, bottom, width, height) of the bars of one colour, without those of no height."""
    return [
        (patch.get_x(), patch.get_y(), patch.get_width(), patch.get_height())
        for patch in axes.patches
        if isinstance(patch, Rectangle)
        and patch.get_facecolor()[:3] == to_rgba(color)[:3]
        and patch.get_height() > 0
    ]


def test_gaps_have_the_colour_of_their_direction():
    curve, _ = draw_reliability_diagram(CURVE).axes
    over = rectangles(curve, diagram._OVER["facecolor"])
    under = rectangles(curve, diagram._UNDER["facecolor"])
    assert over == [pytest.approx((0.25, 0.2, 0.25, 0.2))]
    assert under == [pytest.approx((0.75, 0.9, 0.25, 0.05))]


def test_histogram_shows_the_share_of_samples():
    _, histogram = draw_reliability_diagram(CURVE).axes
    bars = [(p.get_x(), p.get_height()) for p in histogram.patches if isinstance(p, Rectangle)]
    assert bars == [pytest.approx((0.25, 0.4)), pytest.approx((0.75, 0.6))]


def test_numbers_are_those_of_the_curve():
    curve, _ = draw_reliability_diagram(CURVE).axes
    (text,) = [text.get_text() for text in curve.texts if "ECE" in text.get_text()]
    # accuracy 0.4 * 0.2 + 0.6 * 0.95; ECE 0.4 * 0.2 + 0.6 * 0.05
    assert text == "accuracy 65.0%\nECE 11.00%\nn = 100"


def test_titles_are_shown():
    figure = draw_reliability_diagram(
        CURVE, title="digits", subtitle="epsilon = 4.0 (delta = 1e-5)"
    )
    curve, _ = figure.axes
    assert curve.get_title() == "digits"
    assert "epsilon = 4.0 (delta = 1e-5)" in [text.get_text() for text in curve.texts]


def test_whisker_is_a_binomial_quantile():
    low, high = calibrated_range(50, 0.8)
    inside = binom.cdf(round(high * 50), 50, 0.8) - binom.cdf(round(low * 50) - 1, 50, 0.8)
    assert 0.95 <= inside < 0.99
    assert calibrated_range(10, 1.0 + 1e-16) == (1, 1)


def test_png_is_written_in_full_size_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "figures" / "reliability.png"
    assert save_reliability_diagram(CURVE, path, title="digits") == path
    save_reliability_diagram(CURVE, path, title="digits, again")
    assert imread(path).shape == (1400, 1080, 4)
    assert [file.name for file in path.parent.iterdir()] == ["reliability.png"]


def test_drawing_touches_no_global_state_of_matplotlib():
    code = (
        "import sys\n"
        "import dpexp.metrics.diagram as d\n"
        "assert 'matplotlib' not in sys.modules, 'imported early'\n"
        "from dpexp.metrics.reliability import Reliability\n"
        "d.draw_reliability_diagram(Reliability(edges=(0.0, 1.0), count=(1,), accuracy=(1.0,),"
        " confidence=(0.9,)), title='t').canvas.draw()\n"
        "assert 'matplotlib.pyplot' not in sys.modules, 'pyplot imported'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
