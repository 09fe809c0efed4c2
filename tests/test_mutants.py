"""The planted faults of `make mutants` can all be planted, and their tests exist."""

from pathlib import Path

import pytest
from reference.scripts import load

ROOT = Path(__file__).parents[1]


MUTANTS = load("mutants").MUTANTS


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_fault_can_be_planted(mutant):
    assert load("mutants").num_occurrences(mutant) == 1
    assert mutant.old != mutant.new
    for test in mutant.tests.split():
        file, _, function = test.partition("::")
        assert f"def {function}" in (ROOT / "tests" / file).read_text()


def test_names_differ_and_every_part_is_covered():
    assert len({m.name for m in MUTANTS}) == len(MUTANTS) >= 25
    parts = {m.file.partition("/")[0] for m in MUTANTS}
    rooms = {"accounting", "audit", "bench", "cli", "clipping", "data", "metrics", "train"}
    rooms |= {"recalibration", "report", "sweep", "theory"}
    assert parts == rooms | {"config.py", "mechanism.py", "memory.py", "sampling.py"}


def test_every_clipping_rule_has_faults():
    rules = {p.name for p in (ROOT / "dpexp" / "clipping" / "rules").glob("*.py")} - {"__init__.py"}
    assert {Path(m.file).name for m in MUTANTS if "/rules/" in m.file} == rules
