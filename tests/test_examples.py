"""The scripts and notebooks of `examples/`, run at a tiny size."""

import ast
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import boxwright as bw
from agreement import assert_same_detections
from boxwright.types import Detections
from random_detector import NAMES, write_images, write_weights
from small_run import SMALL

EXAMPLES = Path(__file__).parents[1] / "examples"
LOWEST = 0.02  # a threshold that random weights reach
SCRIPTS, NOTEBOOKS = sorted(EXAMPLES.glob("*.py")), sorted(EXAMPLES.glob("*.ipynb"))


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def detections(names: Iterable[str], scores: Iterable[float], boxes: Iterable[Sequence[float]]) -> Detections:
    labels = torch.tensor([NAMES.index(name) for name in names])
    return Detections(torch.tensor([*boxes]), torch.tensor([*scores]), labels, tuple(NAMES))


def code_cells(notebook: Path) -> list[str]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def run_notebook(name: str, settings: dict[str, object]) -> dict[str, object]:
    """Its code cells in order, with the settings of the first replaced. Returns the variables."""
    first, *others = code_cells(EXAMPLES / name)
    variables: dict[str, object] = {}
    exec(first, variables)
    assert settings.keys() <= variables.keys()
    variables |= settings
    for number, cell in enumerate(others, 2):
        exec(compile(cell, f"{name}: code cell {number}", "exec"), variables)
    return variables


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights that find boxes in the images of the folder `photos` beside them."""
    folder = tmp_path_factory.mktemp("examples")
    return write_weights(folder / "mine.safetensors", write_images(folder / "photos"))


def test_table_lists_every_example() -> None:
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert len(SCRIPTS) == 5
    assert len(NOTEBOOKS) == 2
    for file in (*SCRIPTS, *NOTEBOOKS):
        assert f"| [{file.name}]({file.name}) |" in listed


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: file.name)
def test_scripts_do_nothing_when_imported(file: Path) -> None:
    """Where processes are spawned, each imports the script."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    *before, last = tree.body
    assert ast.unparse(last).startswith("if __name__ == '__main__':")
    assert f"python examples/{file.name}" in (ast.get_docstring(tree) or "")
    allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.Assign, ast.Expr)
    assert all(isinstance(statement, allowed) for statement in before)
    assert [one for one in before if isinstance(one, ast.Expr)] == before[:1]  # the docstring


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.name)
def test_notebooks_are_stored_without_outputs(file: Path) -> None:
    """By the rules of nbformat 4.5."""
    content = json.loads(file.read_text(encoding="utf-8"))
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
    for cell in content["cells"]:
        code = cell["cell_type"] == "code"
        assert cell.keys() == {"cell_type", "id", "metadata", "source"} | (
            {"execution_count", "outputs"} if code else set()
        )
        assert not code or (cell["outputs"], cell["execution_count"]) == ([], None)
    if importlib.util.find_spec("nbformat"):
        importlib.import_module("nbformat").validate(content)


@pytest.mark.slow
def test_finetune(tiny_coco: Path, weights: Path, tmp_path: Path, log: list[str]) -> None:
    ap = script("finetune").main(str(tiny_coco), str(tmp_path / "run"), str(weights), "demo", SMALL)
    assert ap == json.loads((tmp_path / "run" / "metrics.json").read_text())["summary"]["AP"]
    assert any(line.startswith("mine.safetensors: ") and "tensors loaded" in line for line in log)


def test_predict_to_coco(weights: Path, tmp_path: Path) -> None:
    """pycocotools reads it, and it has the boxes that each image alone gets."""
    coco = pytest.importorskip("pycocotools.coco")
    photos, out, predictor = weights.parent / "photos", tmp_path / "found.json", bw.load(weights)
    count = script("predict_to_coco").main(str(weights), str(photos), str(out), LOWEST)
    read = coco.COCO(str(out))
    assert count == len(read.anns) > 10
    assert sorted(image["file_name"] for image in read.imgs.values()) == sorted(file.name for file in photos.iterdir())
    for image in read.imgs.values():
        expected = predictor(photos / image["file_name"], LOWEST)
        assert (image["height"], image["width"]) == expected.size
        rows = read.loadAnns(read.getAnnIds(image["id"]))
        boxes = [(x, y, x + width, y + height) for x, y, width, height in (row["bbox"] for row in rows)]
        names = [read.cats[row["category_id"]]["name"] for row in rows]
        found = detections(names, [row["score"] for row in rows], boxes)
        assert_same_detections(found, expected, threshold=LOWEST, score=1e-4, box=0.1)


def test_scene_to_map(tmp_path: Path) -> None:
    """A scene of 0.3 m a px whose corner is at 500,000 m east and 4,000,000 m north, with known objects."""
    pytest.importorskip("rasterio", reason="needs the extra geo")
    import made_scene

    truth = made_scene.objects(1200, 30)
    scene = made_scene.write_scene(tmp_path / "scene.tif", 1200)
    files = script("scene_to_map").scene_to_map(made_scene.TruthTeller(truth), str(scene), str(tmp_path / "map"))
    assert [file.name for file in files] == ["scene.geojson", "scene.wgs84.geojson"]
    rings = [one["geometry"]["coordinates"][0] for one in json.loads(files[0].read_text())["features"]]
    corners = np.array([[min(x), max(y), max(x), min(y)] for x, y in (zip(*ring, strict=True) for ring in rings)])
    pixels = (corners - [500_000, 4_000_000, 500_000, 4_000_000]) / [0.3, -0.3, 0.3, -0.3]
    expected = truth.boxes.double().numpy()
    assert len(pixels) == len(expected)
    assert np.abs(pixels[np.lexsort(pixels.T)] - expected[np.lexsort(expected.T)]).max() < 0.1


@pytest.mark.slow
def test_count_in_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A rendered round of 20 s whose crossings are known."""
    pytest.importorskip("scipy", reason="needs the extra video")
    made_video = pytest.importorskip("made_video")
    import moving_scene
    from stand_in import rectangles_predictor

    predictor = rectangles_predictor(data__canvas__size=[moving_scene.HEIGHT, moving_scene.WIDTH], predict__batch=8)
    frames = [moving_scene.render(number / 10, 10) for number in range(200)]
    clip = made_video.write_video(tmp_path / "clip.mp4", frames)
    totals = script("count_in_video").count(predictor, str(clip), moving_scene.GATE)
    assert totals == moving_scene.COUNTS
    assert len(capsys.readouterr().out.splitlines()) == sum(sum(each.values()) for each in totals.values())


@pytest.mark.slow
@pytest.mark.runtimes
def test_onnx_without_boxwright_and_pytorch(weights: Path, tmp_path: Path) -> None:
    """Where neither boxwright nor PyTorch can be imported, it finds what boxwright finds by PyTorch."""
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    photo = weights.parent / "photos" / "3.jpg"
    lowest = {"predict.threshold": LOWEST}
    bw.export_model(weights, "onnx", tmp_path / "mine.onnx", complete=True, overrides=lowest)
    blocked = "import runpy, sys; sys.modules['boxwright'] = sys.modules['torch'] = None; "
    code = blocked + "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", code, str(EXAMPLES / "onnx_alone.py"), str(tmp_path / "mine.onnx"), str(photo)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    names, scores, boxes = zip(*(line.split(maxsplit=2) for line in printed), strict=True)
    found = detections(names, map(float, scores), map(json.loads, boxes))
    expected = bw.load(weights)(photo, LOWEST)
    assert len(expected) > 4
    assert_same_detections(found, expected, threshold=LOWEST, score=2e-4, box=0.3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
def test_notebooks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: Path) -> None:
    pytest.importorskip("rasterio", reason="needs the extra geo")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    tiny = {"CHANGES": SMALL | {"train.epochs": 1}, "THRESHOLD": 0.001, "SCENES": {"train": 6, "val": 2}}
    torch.manual_seed(0)
    done = run_notebook("finetune_and_look.ipynb", tiny | {"WEIGHTS": str(weights), "RECIPE": "demo"})
    assert done["predictor"].names == ("car", "truck", "tank")
    shutil.rmtree("runs")
    done = run_notebook("scene_to_map.ipynb", tiny | {"SIDE": 2})
    assert done["pixels"].shape == (512, 512, 3)
    assert len(done["features"]) == len(done["found"]) > 0
