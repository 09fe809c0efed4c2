"""The layout in CONTRIBUTING.md, kept true: imports, packaging, pinned versions."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

LEVEL = {
    "errors": 0,
    "schema": 0,
    "claims": 1,
    "config": 1,
    "mechanism": 1,
    "accounting": 2,
    "sampling": 2,
    "metrics": 2,
    "models": 2,
    "data": 2,
    "record": 2,
    "memory": 2,
    "clipping": 3,
    "train": 4,
    "selfcheck": 5,
    "doctor": 5,
    "bench": 5,
    "audit": 5,
    "recalibration": 5,
    "sweep": 5,
    "theory": 5,
    "report": 5,
    "cli": 6,
}
TORCH_FREE = {"errors", "schema", "claims", "config", "mechanism", "accounting", "sampling", "cli"}
ROOT = Path(__file__).parents[1]
FILES = sorted(ROOT.glob("dpexp/**/*.py"))
CODE = [path for path in FILES if path.name != "__init__.py"]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "dpexp").parts[0].removesuffix(".py")


def imported_modules(path: Path) -> list[str]:
    modules = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} line {node.lineno}: imports name the whole path"
            # `from dpexp import train` names its room in the alias, `__version__` names none.
            names = [alias.name for alias in node.names if not alias.name.startswith("__")]
            is_bare = node.module == "dpexp"
            modules += [f"dpexp.{name}" for name in names] if is_bare else [node.module]
    return modules


def wrong_imports(room: str, modules: list[str]) -> list[str]:
    """The imports that a file of `room` may not have."""
    wrong = []
    for module in modules:
        top, *rest = module.split(".")
        if top == "torch" and room in TORCH_FREE:
            wrong.append(module)
        if top == "dpexp" and rest[0] != room and LEVEL[rest[0]] >= LEVEL[room]:
            wrong.append(module)
    return wrong


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path):
    room = room_of(path)
    assert room in LEVEL, f"{room} has no level; give it one here and in CONTRIBUTING.md"
    assert wrong_imports(room, imported_modules(path)) == []


@pytest.mark.parametrize(
    ("room", "module"),
    [
        ("mechanism", "torch"),
        ("mechanism", "dpexp.train"),
        ("accounting", "dpexp.sampling"),
        ("cli", "torch.nn"),
    ],
)
def test_an_import_up_or_sideways_or_of_torch_is_noticed(room, module):
    assert wrong_imports(room, [module]) == [module]


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_future_annotations(path):
    # They turn annotations into text, and shapes are then no longer checked.
    assert "from __future__ import annotations" not in path.read_text()


def test_package_files_hold_a_docstring_alone():
    for path in FILES:
        if path.name == "__init__.py" and path.parent != ROOT / "dpexp":
            (only,) = ast.parse(path.read_text()).body
            assert isinstance(only, ast.Expr), f"{path} holds code"


def test_torch_free_rooms_load_without_torch():
    rooms = [
        f"dpexp.{path.relative_to(ROOT / 'dpexp').with_suffix('').as_posix().replace('/', '.')}"
        for path in CODE
        if room_of(path) in TORCH_FREE
    ]
    script = f"import sys, {', '.join(rooms)}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def test_every_package_is_packaged():
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in FILES
        if path.name == "__init__.py"
    }
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == found | {"dpexp.conf"}


def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    matches = [re.fullmatch(r"([\w.-]+)==(\S+)", line) for line in lines if line and line[0] != "#"]
    assert all(matches), "constraints.txt holds exact versions and comments only"
    return {match[1].lower(): Version(match[2]) for match in matches}


def test_every_direct_dependency_is_pinned_within_its_range():
    project = PYPROJECT["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    pinned = pins()
    for requirement in map(Requirement, wanted):
        version = pinned.get(requirement.name.lower())
        assert version is not None, f"{requirement.name} is not pinned in constraints.txt"
        assert version in requirement.specifier, f"{requirement} excludes the pinned {version}"
