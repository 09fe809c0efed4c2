"""Plant the faults of mutants.toml, one at a time, in a copy of the tree: tests must find each.

    python scripts/mutants.py             all of them
    python scripts/mutants.py noise views  those whose name or file contains a word

A fault that survives is a claim of the code that no test holds it to. Exit 1 if one does, if a
fault's text is not in its file exactly once, or if the tests fail without any fault.
"""

import importlib
import os
import shutil
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("dpexp", "conf", "tests", "pyproject.toml")
NUM_WORKERS = 2
# Imported once for all forks; nothing of dpexp is among them.
LIBRARIES = (
    "hypothesis.strategies",
    "scipy.stats",
    "timm.layers",
    "timm.models.vision_transformer",
    "torch._dynamo",
    "torch.func",
    "torch.testing",
    "torch.utils.checkpoint",
)
TESTS_FAILED = 1  # pytest's exit code; others mean that the tests did not run


class Mutant(NamedTuple):
    """A fault, and the tests that are to find it.

    Attributes:
        name: What goes wrong.
        file: Where, below dpexp/.
        old: Text that occurs exactly once.
        new: What takes its place.
        tests: What pytest is given, below tests/; several are separated by blanks.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str


def read_faults(path: Path) -> list[Mutant]:
    """Return the faults listed in a file."""
    return [Mutant(**fault) for fault in tomllib.loads(path.read_text())["fault"]]


MUTANTS = read_faults(Path(__file__).with_suffix(".toml"))


def num_occurrences(mutant: Mutant, root: Path = ROOT) -> int:
    """Return how often a fault's text is in its file; 1 if the fault can be planted."""
    return (root / "dpexp" / mutant.file).read_text().count(mutant.old)


def paths(mutant: Mutant) -> list[str]:
    """Return what pytest is given."""
    return [f"tests/{test}" for test in mutant.tests.split()]


def start_tests(tree: Path, tests: Sequence[str]) -> int:
    """Run some tests of a tree on its own code, in a fork; return its process id.

    A fork has the libraries imported already, which takes longer than most of the tests.
    """
    if pid := os.fork():
        return pid
    with (tree / "output.txt").open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.chdir(tree)
    os.environ["PYTHONPATH"] = str(tree)  # for what the tests start
    sys.path.insert(0, str(tree))
    # A fault of the same size within a second would otherwise run from the old bytecode.
    sys.dont_write_bytecode = True
    code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests])
    sys.stdout.flush()
    os._exit(code)


@dataclass
class Planted:
    """A fault in a tree, its tests running."""

    mutant: Mutant
    tree: Path
    text: str
    start: float

    @property
    def file(self) -> Path:
        """The file that is at fault."""
        return self.tree / "dpexp" / self.mutant.file


def plant(mutant: Mutant, tree: Path) -> tuple[int, Planted]:
    """Put a fault into a tree and start its tests; return their process id."""
    file = tree / "dpexp" / mutant.file
    planted = Planted(mutant, tree, file.read_text(), time.perf_counter())
    file.write_text(planted.text.replace(mutant.old, mutant.new))
    return start_tests(tree, paths(mutant)), planted


def outcomes(
    mutants: Sequence[Mutant], trees: Sequence[Path]
) -> Iterator[tuple[Mutant, int, float]]:
    """Yield each fault with pytest's exit code and seconds, as they are found."""
    waiting, free, running = list(mutants)[::-1], list(trees), dict[int, Planted]()
    while waiting or running:
        while waiting and free:
            pid, planted = plant(waiting.pop(), free.pop())
            running[pid] = planted
        pid, status = os.wait()
        planted = running.pop(pid)
        planted.file.write_text(planted.text)
        free.append(planted.tree)
        seconds = time.perf_counter() - planted.start
        yield planted.mutant, os.waitstatus_to_exitcode(status), seconds


def copy_tree(target: Path) -> Path:
    """Copy what tests need into an empty folder."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, target / name, ignore=ignored)
        else:
            shutil.copy(source, target / name)
    return target


def is_green(tree: Path, mutants: Sequence[Mutant]) -> bool:
    """Return whether the tests pass without any fault; show what they say if not."""
    _, status = os.waitpid(start_tests(tree, sorted({t for m in mutants for t in paths(m)})), 0)
    if status != 0:
        print("the tests fail without any fault:")
        print((tree / "output.txt").read_text()[-3000:])
    return status == 0


def main(words: Sequence[str]) -> int:
    """Plant the faults that match a word, or all; return the exit code."""
    chosen = [m for m in MUTANTS if not words or any(w in m.name + m.file for w in words)]
    if misplaced := [m for m in chosen if num_occurrences(m) != 1]:
        for mutant in misplaced:
            print(f"not exactly once in dpexp/{mutant.file}: {mutant.old!r} ({mutant.name})")
        return 1
    for library in LIBRARIES:
        importlib.import_module(library)
    with tempfile.TemporaryDirectory() as folder:
        trees = [copy_tree(Path(folder) / str(i)) for i in range(NUM_WORKERS)]
        if not is_green(trees[0], chosen):
            return 1
        survivors = 0
        for mutant, code, seconds in outcomes(chosen, trees):
            is_killed = code == TESTS_FAILED
            survivors += not is_killed
            verdict = "killed" if is_killed else "SURVIVED" if code == 0 else f"pytest exit {code}"
            print(f"{verdict:14}{seconds:5.1f} s  {mutant.file:32}{mutant.name}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} planted faults killed")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
