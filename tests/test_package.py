"""The wheel: it carries recipes, names and py.typed, and works away from the checkout."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import boxwright

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="hatchling (extra dev) is not installed; the wheel cannot be built here")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (file,) = folder.glob("*.whl")
    return file


def test_wheel_contains_all_files_of_the_package(wheel: Path) -> None:
    source = ROOT / "src"
    wanted = {
        str(file.relative_to(source))
        for file in (source / "boxwright").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        licences = [name for name in archive.namelist() if name.endswith("licenses/LICENSE")]
    assert packed == wanted
    assert "boxwright/py.typed" in packed
    assert "boxwright/recipes/names/coco.txt" in packed
    assert len(licences) == 1


@pytest.mark.slow
def test_installed_wheel_works_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(wheel) as archive:  # what an installer does with a pure wheel
        archive.extractall(site)
    environment = os.environ | {"PYTHONPATH": str(site)}

    def run(*words: str) -> str:
        command = [sys.executable, *words]
        done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    assert run("-c", "import boxwright; print(boxwright.__file__)").startswith(str(site))
    listed = {line.split()[0] for line in run("-m", "boxwright", "list").splitlines()}
    assert listed == {file.stem for file in (ROOT / "src" / "boxwright" / "recipes").glob("*.yaml")}
    assert "classes: 80" in run("-m", "boxwright", "show", "yolov3_coco_416")


def test_wheel_metadata_has_version_license_and_entry_point(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        text = archive.read(name).decode()
        points = archive.read(name.replace("METADATA", "entry_points.txt")).decode()
    assert f"\nVersion: {boxwright.__version__}\n" in text
    assert "\nLicense-Expression: Apache-2.0\n" in text
    assert "boxwright = boxwright.cli:main" in points


def pinned(file: str) -> dict[str, str]:
    """Version by name."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    return dict(line.lower().split("==") for line in lines if "==" in line)


def required(*extras: str) -> dict[str, str]:
    """Lower bound by name, "" where there is none, of the core and of these extras; extras of our own left out."""
    words = sum((PROJECT["optional-dependencies"][name] for name in extras), PROJECT["dependencies"])
    bounds = dict(word.lower().partition(">=")[::2] for word in words)
    return {name.partition("[")[0]: bound for name, bound in bounds.items() if not name.startswith("boxwright[")}


def test_constraints_pin_every_direct_dependency() -> None:
    """`make demo` on another day installs what was tested."""
    assert set(required(*PROJECT["optional-dependencies"])) - set(pinned("constraints.txt")) == set()


def test_lower_bounds_match_constraints_lowest() -> None:
    bounds, lowest = required("train", "geo"), pinned("constraints-lowest.txt")
    assert bounds == {name: version for name, version in lowest.items() if name in bounds}


@pytest.mark.slow
@pytest.mark.parametrize("package", ["accelerate", "tensorboard"])
def test_training_without_its_extra_is_a_one_line_error(package: str) -> None:
    """Everything else goes without."""
    code = f"""if True:
        import sys
        sys.modules["{package}"] = None  # importing it is an ImportError now
        import boxwright as bw
        from boxwright import cli
        for name in set(bw.__all__) - {{"train"}}:
            getattr(bw, name)
        cli.main(["train", "demo", "--data", "none"])
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"boxwright: {package} is not installed")
    assert done.stderr.endswith("pip install 'boxwright[train]'\n")
    assert done.stderr.count("\n") == 1


def test_changelog_has_this_version() -> None:
    assert f"\n## [{boxwright.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
