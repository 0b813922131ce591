"""Inputs of users that once failed, each with the command of its README and the correct result.

The inputs are in a folder `shared/cases` beside the checkout; test files named after formats have their kinds always.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from boxwright import cli
from boxwright.datatools.report import pluralize

CASES = Path(__file__).parents[2] / "shared" / "cases"
SMALL = (
    "--set model.width=0.0625 --set data.canvas.size=[64,64] --set train.epochs=1 --set train.batch=2 "
    "--set data.workers=0"
)
MAX_LINE = 200  # characters of an error
pytestmark = pytest.mark.skipif(not (CASES / "F01").is_dir(), reason=f"{CASES} is absent")

# data set -> split: images, boxes; status of `data check`
COUNTS: dict[str, tuple[dict[str, tuple[int, int]], int]] = {
    "F02/roboflow_voc": ({"train": (3, 3), "val": (3, 3), "test": (3, 3)}, 0),
    "F02/fiftyone_coco": ({"train": (3, 3), "val": (3, 3)}, 0),
    "F02/label_studio_coco": ({"all": (3, 3)}, 0),
    "F02/kaggle_voc": ({"all": (3, 3)}, 0),
    "F02/csv": ({"train": (2, 2)}, 0),
    "F04/set": ({"train": (4, 4), "val": (4, 4)}, 0),
    "F05/roboflow/data.yaml": ({"train": (3, 3), "val": (3, 3), "test": (3, 3)}, 0),
    "F05/download_key/data.yaml": ({"train": (3, 3), "val": (3, 3)}, 0),
    "F05/lists/data.yaml": ({"train": (4, 4), "val": (2, 2)}, 0),
    "F05/cvat_project/data.yaml": ({"train": (2, 2), "val": (2, 2)}, 0),
    "F05/sparse/data.yaml": ({"train": (4, 4), "val": (4, 4)}, 0),
    "F06/polygons": ({"train": (3, 3), "val": (3, 3), "test": (3, 3)}, 0),
    "F06/mixed": ({"train": (3, 4), "val": (3, 3), "test": (3, 3)}, 0),
    "F06/confidence": ({"train": (3, 3), "val": (3, 3), "test": (3, 3)}, 0),
    "F07/set": ({"train": (4, 4), "val": (4, 4)}, 1),
    "F08/labelimg_voc": ({"all": (3, 3)}, 0),
    "F08/labelimg_yolo": ({"all": (3, 3)}, 0),
    "F08/darknet_voc": ({"train": (3, 3)}, 0),
    "F08/capitals": ({"train": (2, 2), "val": (2, 2)}, 0),
    "F09/cvat_yolo11": ({"train": (3, 3)}, 0),
    "F09/cvat_yolo11/obj.data": ({"train": (3, 3)}, 0),
    "F09/alexeyab/data": ({"train": (3, 3), "val": (1, 1)}, 0),
    "F09/windows": ({"train": (3, 3)}, 0),
    "F09/windows_absolute": ({"train": (3, 3)}, 0),
    "F10/cvat_coco": ({"train": (3, 3), "val": (3, 3)}, 0),
    "F10/validate": ({"train": (3, 3), "val": (3, 3), "test": (3, 3)}, 0),
    **{
        f"F11/{name}": ({"train": (3, boxes)}, status)
        for name, boxes, status in (
            ("annotation_id_text", 3, 0), ("area_null", 3, 0), ("bbox_text", 3, 0), ("category_id_text", 3, 0),
            ("empty_bbox", 2, 1), ("id_20_digits", 3, 0), ("image_id_text", 3, 0), ("iscrowd_null", 3, 0),
            ("iscrowd_text", 3, 0), ("no_annotation_id", 3, 0), ("no_bbox", 3, 0), ("size_minus_1", 3, 0),
            ("size_null", 3, 0),
        )
    },
    **{
        f"F12/{name}": ({split: (images, images)}, 0)
        for name, split, images in (
            ("absolute", "train", 3), ("absolute/d.yaml", "train", 3), ("backslash", "all", 3),
            ("backslash/d.yaml", "train", 3), ("backslash_up", "all", 3), ("capital_suffix", "train", 3),
            ("decomposed", "train", 1), ("percent", "train", 3), ("url", "train", 3),
        )
    },
    **{
        f"F13/{name}": ({split: (3, boxes)}, status)
        for name, split, boxes, status in (
            ("difficult_unspecified", "all", 3, 0), ("doctype", "all", 3, 0), ("empty_xml", "all", 2, 1),
            ("gb2312", "all", 3, 0), ("list_quoted", "default", 3, 0), ("list_with_suffix", "train", 3, 0),
            ("robndbox", "all", 3, 0), ("size_decimal", "all", 3, 0), ("size_empty", "all", 3, 0),
        )
    },
    "F15/dota": ({"train": (2, 4), "val": (2, 4)}, 1),
    "F16/roboflow_coco": ({"train": (3, 3), "val": (3, 3), "test": (3, 3)}, 0),
    "F18/background_val": ({"train": (3, 3), "val": (3, 0), "test": (3, 3)}, 0),
    "F18/classes_cp1252": ({"train": (2, 2)}, 0),
    "F18/gif": ({"train": (4, 4), "val": (3, 3), "test": (3, 3)}, 0),
    "F18/names_text_keys": ({"train": (3, 3), "val": (3, 3), "test": (3, 3)}, 0),
}  # fmt: skip

# case, command, status, words in its output
COMMANDS: list[tuple[str, str, int, list[str]]] = [
    ("F04", f"train demo --data set --out r --skip-bad {SMALL}", 0, []),
    ("F04", "data convert set --to coco -o c", 0, ["train: 4 images, 4 boxes", "val: 4 images, 4 boxes"]),
    ("F07", "data convert set --to coco -o c", 2, ["--skip-bad"]),
    ("F07", "data convert set --to coco -o c --skip-bad", 0, ["left out the label", "left out the image"]),
    ("F10", f"train demo --data label_studio_yolo --out r {SMALL}", 2, ["data split", "--val-fraction"]),
    ("F10", f"train demo --data train_only --out r {SMALL}", 2, ["data split", "--val-fraction"]),
    ("F10", f"train demo --data train_only --out r {SMALL} --set train.evaluate_every=0", 0, []),
    ("F10", f"train demo --data label_studio_yolo --out r {SMALL} --val-fraction 0.34", 0, []),
    ("F10", f"train demo --data validate --out r {SMALL}", 0, []),
    ("F10", f"train demo --data cvat_coco --out r {SMALL}", 0, []),
    ("F15", "data convert dota --to dota -o c --clip-boxes", 0, ["2 boxes clipped to the image"]),
    ("F16", "data convert roboflow_coco --to folder -o crops", 0, ["3 car"]),
    ("F17", "predict best.pt image.png --recipe demo", 2, ["best.pt", "state_dict()"]),
    ("F14", "import mine.weights --recipe yolov4_tiny_coco_416_darknet -o o.safetensors", 0, ["assumed anchors"]),
]

SCRIPTS = {"F03": ["make.py"], "F14": ["length.py", "mine.weights", "6062814"], "F17": ["make.py"]}

Run = Callable[[str], tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)

    def command(words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(words.split())
        out, err = capsys.readouterr()
        for line in (out + err).splitlines():
            assert line.isprintable(), line
            assert "Traceback" not in line
            assert len(line) <= MAX_LINE or not line.startswith("boxwright: "), line
        return int(ended.value.code or 0), out, err

    return command


def prepare(case: str, folder: Path) -> None:
    """A copy of a case, prepared as its README describes."""
    shutil.copytree(CASES / case, folder, dirs_exist_ok=True)
    (folder / "image.png").write_bytes((CASES.parent / "oracles/darknet/images/dog.png").read_bytes())
    if case in SCRIPTS:
        subprocess.run([sys.executable, *SCRIPTS[case]], cwd=folder, check=True)


@pytest.mark.parametrize("root", COUNTS)
def test_data_set_counts(root: str, run: Run, tmp_path: Path) -> None:
    case = root.split("/")[0]
    shutil.copytree(CASES / case, tmp_path / case)
    counts, expected = COUNTS[root]
    status, out, err = run(f"data check {root} --report r.json")
    assert (status, err) == (expected, "")
    assert out.startswith(f"{root}: ")
    for split, (images, boxes) in counts.items():
        assert f"\n{split}: {pluralize(images, 'image[s]')}, {pluralize(boxes, 'box[es]')}\n" in out
    assert ("0 errors" in out.splitlines()[-1]) == (not expected)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "words", "status", "texts"), COMMANDS, ids=lambda value: str(value)[:60])
def test_command_result(case: str, words: str, status: int, texts: list[str], run: Run, tmp_path: Path) -> None:
    prepare(case, tmp_path)
    found, out, err = run(words)
    assert found == status, err
    for text in texts:
        assert text in out + err


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "predict r set/images/val --out o", "predict r set/images/val --out o --tile 64", "data check set",
        "data convert set --to coco -o c", "data convert set --to yolo_txt -o c", "data convert set --to line_txt -o c",
        "data convert set --to voc -o c", "data tile set -o t --window 64", "data tensors set -o t --recipe demo",
    ],
)  # fmt: skip
def test_file_names_that_are_not_utf_8(words: str, run: Run, tmp_path: Path) -> None:
    """Each command works, or names the file in one line."""
    prepare("F03", tmp_path)
    if "predict" in words:
        assert run(f"train demo --data set --out r {SMALL}")[0] == 0
    status, out, err = run(words)
    assert status == 0 or (status == 2 and r"gr\xf6\xdfe" in err), out + err
