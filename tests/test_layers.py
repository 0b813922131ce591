"""A module imports only from its own room or from rooms to its left, also inside functions."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import boxwright

ORDER = (  # left to right
    "version . errors . files . json_text . memory . interrupt . progress . types . interop . config . ops . nn . "
    "models . recipe . zoo . weights . images . data . formats . batches . datatools . metrics . tasks . "
    "runtimes . predict . evaluation . engine . export . cli"
)
ROOMS = ORDER.split(" . ")
PACKAGE = Path(boxwright.__file__).parent
DOORS = {"__init__.py", "__main__.py"}  # of the package itself: they open onto everything
FILES = sorted(file for file in PACKAGE.rglob("*.py") if not (file.parent == PACKAGE and file.name in DOORS))


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def rooms_imported(source: str, depth: int) -> Iterator[tuple[int, str]]:
    """(line, room) of every import of this package in `source`, wherever it stands. depth: parts of its path."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level > depth, f"line {node.lineno}: write imports out in full"
        for name in names:
            package, *rest = name.split(".")
            if package == "boxwright" and rest != ["__version__"]:
                yield node.lineno, rest[0] if rest else ""


def faults(file: Path, source: str) -> list[str]:
    own = ROOMS.index(room_of(file))
    depth = len(file.relative_to(PACKAGE).parts)
    found = rooms_imported(source, depth)
    return [f"line {line}: {room}" for line, room in found if room not in ROOMS or ROOMS.index(room) > own]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_to_the_left(file: Path) -> None:
    assert faults(file, file.read_text(encoding="utf-8")) == []


def test_every_module_stands_in_a_room_and_every_room_has_a_module() -> None:
    assert {room_of(file) for file in FILES} == set(ROOMS)


def test_the_walker_sees_imports_of_all_forms() -> None:
    here = PACKAGE / "data" / "somewhere.py"
    for line in (
        "import boxwright.engine.train",
        "from boxwright import engine",
        "from boxwright.engine import train",
        "def f():\n    from boxwright.engine.train import train",
        "if 0:\n    import boxwright.cli as x",
        "from boxwright import Predictor",
        "import boxwright",
    ):
        assert faults(here, line), line
    assert faults(here, "import numpy\nfrom boxwright.weights import files\nfrom boxwright.data import canvas") == []


def test_design_page_names_the_rooms_in_this_order() -> None:
    page = (PACKAGE.parents[1] / "docs" / "design.md").read_text(encoding="utf-8")
    assert f"`{ORDER}`" in page


@pytest.mark.parametrize("name", boxwright.__all__)
def test_public_names_exist(name: str) -> None:
    value = getattr(boxwright, name)
    module = boxwright._MODULES.get(name)
    assert module is None or value is getattr(importlib.import_module(f"boxwright.{module}"), name)


def test_public_names_are_the_ones_with_a_module() -> None:
    assert sorted(boxwright.__all__) == sorted([*boxwright._MODULES, "__version__", "interop"])
    with pytest.raises(AttributeError, match="no attribute 'Trainer'"):
        _ = boxwright.Trainer
