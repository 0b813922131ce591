"""A module imports only from its own package or from packages to its left, also inside functions."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import boxwright

ORDER = (  # left to right
    "version . arrays . errors . cache . locks . mirrors . files . json_text . xml_text . memory . extras . "
    "interrupt . progress . ray_cluster . archives . remote . types . interop . config . darknet_cfg . ops . nn . "
    "models . recipe . factory . weights . images . video . data . tracking . counting . formats . batches . "
    "datatools . metrics . tasks . runtimes . predict . tables . evaluation . engine . audit . export . serve . look . "
    "doctor . cli"
)
PACKAGES = ORDER.split(" . ")
PACKAGE = Path(boxwright.__file__).parent
ENTRY_POINTS = {"__init__.py", "__main__.py"}  # of the package itself: they may import everything
FILES = sorted(file for file in PACKAGE.rglob("*.py") if not (file.parent == PACKAGE and file.name in ENTRY_POINTS))


def package_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def packages_imported(source: str, depth: int) -> Iterator[tuple[int, str]]:
    """(line, package) of every import of this package in `source`, also inside functions. depth: parts of its path."""
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
    own = PACKAGES.index(package_of(file))
    depth = len(file.relative_to(PACKAGE).parts)
    found = packages_imported(source, depth)
    left = set(PACKAGES[: own + 1])
    return [f"line {line}: {name}" for line, name in found if name not in left]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_packages_import_lower_layers_only(file: Path) -> None:
    assert faults(file, file.read_text(encoding="utf-8")) == []


def test_listed_packages_match_the_modules() -> None:
    assert {package_of(file) for file in FILES} == set(PACKAGES)


def test_all_forms_of_imports_are_detected() -> None:
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


def test_design_page_lists_the_packages_in_this_order() -> None:
    page = (PACKAGE.parents[1] / "docs" / "design.md").read_text(encoding="utf-8")
    assert f"`{ORDER}`" in page


@pytest.mark.parametrize("name", boxwright.__all__)
def test_public_names_exist(name: str) -> None:
    value = getattr(boxwright, name)
    module = boxwright._MODULES.get(name)
    assert module is None or value is getattr(importlib.import_module(f"boxwright.{module}"), name)


def test_public_names_match_their_modules() -> None:
    assert sorted(boxwright.__all__) == sorted([*boxwright._MODULES, "__version__", "interop"])
    with pytest.raises(AttributeError, match="no attribute 'Trainer'"):
        _ = boxwright.Trainer
