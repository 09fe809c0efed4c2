"""The page of pitfalls: each has a grade, and a test that exists; no link of it is dead."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "pitfalls.md"
GRADES = ("Critical", "Theoretical", "Negligible")
CHECKLIST = range(1, 36)  # the points that the page began with


def sections(page: str) -> dict[str, str]:
    """The text below each heading of the second level."""
    parts = re.split(r"^## (.+)$", page, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(text: str) -> list[list[str]]:
    """The cells of every table row that begins with a number."""
    cells = [re.split(r" *\| *", line.strip("| ")) for line in text.splitlines() if "|" in line]
    return [row for row in cells if row[0].isdigit()]


@cache
def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def link_problem(text: str, target: str, page: str) -> str | None:
    """What is wrong with [text](target); a text that is a test's name must be one there."""
    path, _, anchor = target.partition("#")
    if not path:
        headings = {
            re.sub(r"\W+", "-", title.lower())
            for title in re.findall(r"^#+ (.+)$", page, flags=re.MULTILINE)
        }
        return None if anchor in headings else f"{target}: no such heading"
    file = PAGE.parent / path
    if not file.exists():
        return f"{target}: no such file"
    if file.is_dir():
        return None if list(file.glob("test_*.py")) else f"{target}: holds no tests"
    is_test = text.startswith("test_") and not text.endswith(".py")
    if is_test and text not in functions_of(file):
        return f"{target}: has no {text}"
    return None


def problems(page: str) -> list[str]:
    """Everything that is wrong with the page."""
    found = [
        problem
        for text, target in re.findall(r"\[([^]]+)\]\(([^)]+)\)", page)
        if (problem := link_problem(" ".join(text.split()), target, page))
    ]
    numbers = []
    for title, text in sections(page).items():
        numbers += [int(row[0]) for row in rows(text)]
        for row in rows(text):
            if title in GRADES and "](../tests" not in row[-1]:
                found.append(f"{row[0]}: no test guards it")
            if title not in GRADES and row[1].capitalize() not in GRADES:
                found.append(f"{row[0]}: no grade")
            if not all(row):
                found.append(f"{row[0]}: an empty cell")
    found += [f"{n}: twice" for n in sorted(set(numbers)) if numbers.count(n) > 1]
    found += [f"{n}: missing" for n in range(1, max(numbers) + 1) if n not in numbers]
    found += [
        f"{n}: no such number" for n in re.findall(r"see (\d+)", page) if int(n) not in numbers
    ]
    return found


def test_every_pitfall_has_a_grade_and_a_test_that_exists():
    assert problems(PAGE.read_text()) == []


def test_every_point_of_the_checklist_is_there():
    numbers = {int(row[0]) for text in sections(PAGE.read_text()).values() for row in rows(text)}
    assert numbers >= set(CHECKLIST)


def test_grades_come_in_order_and_the_page_is_short():
    page = PAGE.read_text()
    assert list(sections(page)) == [*GRADES, "Not covered"]
    prose = re.sub(r"\]\([^)]*\)|\btest_\w+", "", page)
    assert len(re.findall(r"[A-Za-z]+", prose)) < 1700  # five to seven minutes


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("test_squared_norms]", "test_squared_norm]", "has no test_squared_norm"),
        ("clipping/test_rules.py", "clipping/test_rule.py", "no such file"),
        ("(#critical)", "(#critcal)", "no such heading"),
        ("| 21 |", "| 22 |", "22: twice"),
        ("| 45 | critical |", "| 45 | grave |", "45: no grade"),
        ("see 37", "see 99", "99: no such number"),
        ("[test_rounding_goes_up](../tests/accounting/test_calibrate.py)", "", None),
    ],
)
def test_a_wrong_page_is_found(old, new, found):
    page = PAGE.read_text()
    assert old in page
    changed = problems(page.replace(old, new))
    if found is None:  # the pitfall has another test
        assert changed == problems(page)
    else:
        assert any(found in problem for problem in changed)


def test_a_pitfall_without_a_test_is_found():
    page = PAGE.read_text()
    (row,) = [line for line in page.splitlines() if line.startswith("| 22 |")]
    bare = "|".join([*row.split("|")[:-2], " none |"])
    assert "22: no test guards it" in problems(page.replace(row, bare))
