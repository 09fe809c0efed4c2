"""The pictures: drawn for an engine as it is, and for one that lets everything through."""

from contextlib import nullcontext

import pytest
from reference import privacy_bugs as bugs

from dpexp.audit.audit import perform
from dpexp.audit.figures import save_gradient_figure, save_one_run_figure


def texts(figure_axes):
    return [text.get_text() for axes in figure_axes for text in axes.texts]


@pytest.mark.parametrize("is_planted", [False, True])
def test_a_picture_says_whether_the_claim_holds(small, tmp_path, monkeypatch, is_planted):
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(
        Figure, "savefig", lambda self, path, **_: (drawn.append(self), path.touch())
    )
    request, materials, _ = small("audit.trials=20", "noise_multiplier=4")
    with bugs.clipping_skipped() if is_planted else nullcontext():
        audit = perform(request, materials, lambda line: None)
    save_gradient_figure(audit.parts, tmp_path / "gradient.png", title="a model")
    save_one_run_figure(audit.run, tmp_path / "one_run.png", title="a model", delta=1e-5)
    assert {path.name for path in tmp_path.iterdir()} == {"gradient.png", "one_run.png"}
    titles = [figure.get_suptitle() for figure in drawn]
    assert [("ABOVE" in title) for title in titles] == [is_planted, is_planted]
    claimed = f"claimed {audit.parts[0].claimed:.2f}"
    assert claimed in texts(drawn[0].axes)
    # One bar an attack, one interval a look, and the edge of each interval.
    assert len(drawn[0].axes[-1].patches) == sum(len(part.findings) for part in audit.parts)
    assert len(drawn[1].axes[-1].patches) == 5
    for figure in drawn:
        figure.canvas.draw()


def test_a_picture_is_replaced_whole(small, tmp_path):
    request, materials, _ = small("audit.trials=20", "audit.kind=gradient")
    audit = perform(request, materials, lambda line: None)
    path = tmp_path / "gradient.png"
    path.write_text("old")
    save_gradient_figure(audit.parts, path, title="a model")
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert [each.name for each in tmp_path.iterdir()] == ["gradient.png"]
