"""The page: one well-formed file that asks nothing of a network and says what the data say."""

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser

from dpexp.claims import CLAIMS, Verdict
from dpexp.metrics.png import new_figure
from dpexp.report.contents import QUESTION, Answer, LeftOut, Report, Row
from dpexp.report.figures.picture import Picture
from dpexp.report.page.page import as_page, write_page

VOID = {"meta", "img", "source", "br", "hr"}


class Checker(HTMLParser):
    """Keeps open tags, ids, and images without words."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.wrong = [], [], []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag == "img" and not attributes.get("alt"):
            self.wrong.append("an image without alt")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"{tag} closes nothing")


def report_with(*, sentence="Fewer than <two> norms & no answer."):
    rows = tuple(
        Row(
            claim=claim,
            verdict=Verdict(
                claim=claim.name,
                outcome="not reproduced",
                ours=f"{claim.name} gave 12.5 points",
                value=12.5,
                interval=(10.25, 14.75),
                command="dpexp theory",
            ),
        )
        for claim in CLAIMS
    )
    return Report(
        title="Runs",
        runs=(),
        points=(),
        grids=(),
        rows=rows,
        answer=Answer(comparisons=(), sentences=(sentence,)),
        theory=None,
        theory_figures=(),
        left_out=(LeftOut(name="a-run", reason="it is <running>"),),
        notes=("one note",),
        command="dpexp report x",
    )


def test_the_page_is_well_formed_and_has_every_claim():
    page = as_page(report_with(), [], ["tail: two runs"])
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert checker.wrong == []
    assert len(set(checker.ids)) == len(checker.ids)
    assert {claim.name for claim in CLAIMS} <= set(checker.ids)
    assert page.count("[10.25, 14.75]") == len(CLAIMS)
    assert page.count('class="not-reproduced"') == len(CLAIMS)


def test_the_check_of_form_can_fail():
    checker = Checker()
    checker.feed("<p><b>x</p><img src='y'>")
    assert len(checker.wrong) == 2


def test_text_is_escaped_and_nothing_comes_from_outside():
    page = as_page(report_with(), [], ["tail: two runs"])
    assert "Fewer than &lt;two&gt; norms &amp; no answer." in page
    assert "a-run: it is &lt;running&gt;" in page
    assert not re.search(r"(?:src|href|srcset)=\"(?!data:)", page)
    assert "<script" not in page
    assert "url(" not in page


def test_it_is_written_with_its_figures(tmp_path):
    report, drawn = report_with(), []
    picture = picture_of(drawn)
    picture.save(tmp_path / "figures")
    path = write_page(report, [picture], ["tail: two runs"], tmp_path)
    assert path == tmp_path / "report.html"
    page = path.read_text()
    assert "Figures without data" in page
    wide, narrow = page.index('<img src="data:image/png'), page.index('srcset="data:image/png')
    kept = base64.b64encode((tmp_path / "figures" / "line.png").read_bytes()).decode()
    assert page[wide:].startswith(f'<img src="data:image/png;base64,{kept}"')
    assert not page[narrow:].startswith(f'srcset="data:image/png;base64,{kept}"')
    # Wide for the file and the page together, and narrow for the page.
    assert sorted(drawn) == [False, True]


def picture_of(drawn):
    """Return a picture that notes each shape it is drawn in."""

    def draw(is_narrow):
        drawn.append(is_narrow)
        figure = new_figure(3.0 if is_narrow else 6.0, 2.0)
        figure.subplots().plot([0, 1], [0, 1])
        return figure

    return Picture(name="line", title="A line", caption="It rises.", alt="A line.", draw=draw)


def test_the_answer_stands_below_its_question_or_not_at_all():
    page = as_page(report_with(), [], [])
    assert f'<h2>{QUESTION}</h2>\n<p class="answer">Fewer than' in page
    other = as_page(replace(report_with(), rows=()), [], [])
    assert QUESTION not in other
    assert "Fewer than" not in other
    assert 'class="answer"' not in other
