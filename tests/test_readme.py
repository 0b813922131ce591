"""Every command, path and link in README, CONTRIBUTING and docs exists."""

import itertools
import re
import runpy
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import typer

import boxwright
from boxwright import recipe
from boxwright.cli.commands import app
from boxwright.doctor import NEEDED_FOR
from boxwright.weights import checkpoint
from page_text import NAMES, PAGES, ROOT, blocks, without_blocks
from short import make_yolo_short

RECIPES = sorted((ROOT / "src" / "boxwright" / "recipes").glob("*.yaml"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def commands(text: str) -> list[list[str]]:
    """The arguments of every `boxwright` command on a page, with continued lines joined."""
    text = text.replace("\\\n", " ")
    lines = [line for block in blocks(text) for line in block.splitlines()]
    lines += re.findall(r"`((?:[^`\n]*-m )?boxwright [^`\n]*)`", without_blocks(text))
    found = []
    for line in lines:
        words = shlex.split(line, comments=True)
        starts = [place for place, word in enumerate(words) if word == "boxwright"]
        if starts and (starts[0] == 0 or words[starts[0] - 1] == "-m"):
            found.append([word for word in words[starts[0] + 1 :] if word != "..."])
    return found


def fault(words: list[str]) -> str:
    """What does not exist of a command; "" if all of it does."""
    command: Any = typer.main.get_command(app)
    words = words[: words.index(">")] if ">" in words else words
    while words and hasattr(command, "commands"):
        if words[0].startswith("-"):
            break
        if words[0] not in command.commands:
            return f"command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    options = {option for one in command.params for option in (*one.opts, *one.secondary_opts)} | {"--help"}
    unknown = [word for word in words if word.startswith("-") and word.split("=")[0] not in options]
    changes = [value for option, value in itertools.pairwise(words) if option == "--set"]
    for change in changes:
        if "=" in change and change != "KEY=VALUE":
            recipe.load("demo", [change])
    return " ".join(unknown)


PAIRS = [(name, words) for name, text in NAMES.items() for words in commands(text)]


@pytest.mark.parametrize(("page", "words"), PAIRS, ids=[f"{page}: {' '.join(words)}" for page, words in PAIRS])
def test_commands_on_pages_exist(page: str, words: list[str]) -> None:
    assert fault(words) == ""


def test_readme_shows_the_main_commands() -> None:
    shown = {words[0] for page, words in PAIRS if page == "README.md"}
    assert {"train", "evaluate", "predict", "import", "data", "list", "show"} <= shown


def test_missing_commands_and_options_are_detected() -> None:
    assert fault(["trian", "demo"]) == "command trian"
    assert fault(["data", "check", "DIR", "--color"]) == "--color"
    assert fault(["predict", "w", "x.jpg", "--threshold", "0.3"]) == ""
    assert commands("```bash\ntorchrun -m boxwright train a \\\n  --data d # why\n```") == [
        ["train", "a", "--data", "d"]
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_recipes_links_and_paths_on_pages_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / target).exists(), target
    for name in re.findall(r"\b(?:yolov3|tiny|yolov4)\w*_(?:coco|640)\w*", text):
        assert name in recipe.names() or name in {"yolov3_640"}, name
    packages = "src|docs|examples|tests|recipes|models|ops|nn|weights|engine|benchmarks"
    for path in re.findall(rf"`((?:{packages})/[a-z0-9_/.]+)`", text):
        places = [ROOT / path, ROOT / "src" / "boxwright" / path]
        assert any(place.exists() for place in places), path


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_commands_in_recipe_headers_exist(file: Path) -> None:
    lines = [line[1:].strip() for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    shown = [shlex.split(line)[1:] for line in lines if line.startswith("boxwright ")]
    assert shown
    for words in shown:
        assert fault(words) == ""


def test_make_targets_on_pages_exist() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for target in set(re.findall(r"\bmake ([a-z]+)\b(?=`|\n)", text)):
        assert re.search(rf"^{target}:", MAKEFILE, re.M), target


def test_ci_and_readme_run_the_same_targets() -> None:
    assert "\nmake test\n" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "\nmake demo\nmake test\n" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_example_uses_public_names() -> None:
    (code,) = blocks(NAMES["README.md"], "python")
    compile(code, "README.md", "exec")
    used = set(re.findall(r"\bbw\.(\w+)", code))
    assert used
    assert used <= set(boxwright.__all__)


def test_python_on_pages_uses_public_names() -> None:
    examples = [(name, code) for name, text in NAMES.items() for code in blocks(text, "python")]
    assert len(examples) > 5
    for name, code in examples:
        compile(code, name, "exec")
        assert set(re.findall(r"\bbw\.(\w+)", code)) <= set(boxwright.__all__), name


@pytest.mark.slow
def test_python_example_runs(tiny_coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unchanged, from random weights of a short network."""
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    make_yolo_short(monkeypatch)
    (code,) = blocks(NAMES["README.md"], "python")
    chosen = boxwright.Recipe.load("yolov3_tiny_coco_416_darknet").with_names(["blue", "red"])
    (tmp_path / "runs" / "mine" / "best").mkdir(parents=True)
    checkpoint.save(tmp_path / "runs" / "mine" / "best" / "model.safetensors", boxwright.create_model(chosen), chosen)
    shutil.copytree(tiny_coco, tmp_path / "data" / "mine")
    for place in ("annotations/val.json", "val"):
        (tmp_path / "data" / "mine" / place.replace("val", "test")).symlink_to(tmp_path / "data" / "mine" / place)
    (tmp_path / "photo.jpg").write_bytes((tiny_coco / "val" / "1.png").read_bytes())
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "again.onnx").is_file()
    assert boxwright.Recipe.load("runs/again/recipe.yaml").train.epochs == 3


@pytest.mark.slow
def test_python_on_other_pages_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a small network, a small image and a video of 21 s; a stream is replaced by that video."""
    pytest.importorskip("av", reason="needs the extra video")
    monkeypatch.chdir(tmp_path)
    chosen = boxwright.Recipe.load("demo", {"model.width": 0.05, "data.canvas.size": [64, 64]})
    for folder in ("runs/mine/best", "pictures"):
        Path(folder).mkdir(parents=True)
    checkpoint.save(Path("runs/mine/best/model.safetensors"), boxwright.create_model(chosen), chosen)
    for file in ("scene.tif", "pictures/001.jpg"):
        cv2.imwrite(file, np.full((96, 128, 3), 99, np.uint8))
    clip = cv2.VideoWriter("clip.mp4", cv2.VideoWriter.fourcc(*"mp4v"), 1, (64, 64))
    for level in range(21):
        clip.write(np.full((64, 64, 3), level, np.uint8))
    clip.release()
    for page in ("large_images.md", "tutorials/first_detector.md", "video.md"):
        names: dict[str, Any] = {}
        for code in blocks((ROOT / "docs" / page).read_text(encoding="utf-8"), "python"):
            exec(compile(code.replace("rtsp://camera/stream", "clip.mp4"), page, "exec"), names)
    assert Path("found/detections.json").is_file()
    assert names["counter"].totals().keys() == {"gate"}


def test_description_is_equal_in_readme_metadata_and_help() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    words = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"# boxwright {project['description']} " in words
    assert app.info.help == project["description"]


def test_every_test_file_is_listed_once_in_extending_md() -> None:
    _, _, table = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8").partition("\n| --- | --- |\n")
    rows = re.findall(r"^\| (.*) \| ([a-z0-9_, ]+) \|$", table, re.M)
    packages = set(re.findall(r"`(\w+)`", " ".join(row[0] for row in rows)))
    source = ROOT / "src" / "boxwright"
    assert [name for name in packages if not ((source / name).is_dir() or (source / f"{name}.py").is_file())] == []
    listed = sorted(name for row in rows for name in row[1].split(", "))
    assert listed == sorted(file.stem.removeprefix("test_") for file in (ROOT / "tests").glob("test_*.py"))


def test_readme_has_fewer_than_150_lines() -> None:
    assert (ROOT / "README.md").read_text(encoding="utf-8").count("\n") < 150


def test_extras_in_first_steps_match_doctor() -> None:
    text = (ROOT / "docs" / "first_steps.md").read_text(encoding="utf-8")
    assert dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", text, re.M)) == NEEDED_FOR


def test_readme_table_matches_the_recipes() -> None:
    """`make table` writes it."""
    assert runpy.run_path(str(ROOT / "docs" / "recipes_table.py"))["table"]() in (ROOT / "README.md").read_text("utf-8")


def test_make_help_lists_every_phony_target() -> None:
    command = ["make", "--no-print-directory", "help"]  # it would say where it is where another make runs the tests
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    listed = {line.split()[0] for line in done.stdout.splitlines()}
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.M)
    assert listed == set(phony.split())
