"""Results for an evaluation server: images without public labels, the file format, pycocotools as that server."""

import contextlib
import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from boxwright import cli
from boxwright.errors import InputError
from boxwright.evaluation import results
from boxwright.formats import open_boxes, open_images
from boxwright.predict import loading, predictor
from stand_in import NAMES, rectangles_predictor, scene

# x1, y1, x2, y2 px and label of the rectangles on each image; by its id, as COCO's are not 1, 2, 3
RECTANGLES = {
    581: [((8, 6, 24, 20), 0), ((32, 30, 60, 50), 1)],
    7: [],
    139: [((4, 40, 20, 60), 2), ((30, 4, 40, 18), 2), ((50, 20, 62, 40), 0)],
}
CATEGORIES = [{"id": 18, "name": "blue"}, {"id": 1, "name": "red"}, {"id": 3, "name": "green"}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As COCO's test set lies on a disk: the images, and a JSON without annotations."""
    (tmp_path / "annotations").mkdir()
    (tmp_path / "test2017").mkdir()
    images = []
    for image_id, rectangles in RECTANGLES.items():
        image = scene(64, 64, [box for box, _ in rectangles], [label for _, label in rectangles])
        cv2.imwrite(str(tmp_path / "test2017" / f"{image_id:012}.png"), image[..., ::-1])
        images.append({"id": image_id, "file_name": f"{image_id:012}.png", "height": 64, "width": 64, "license": 1})
    tree = {"info": {}, "licenses": [], "images": images, "categories": CATEGORIES}
    (tmp_path / "annotations" / "image_info_test-dev2017.json").write_text(json.dumps(tree))
    return tmp_path


def server_scores(folder: Path, file: Path) -> np.ndarray:
    """The server's twelve numbers: pycocotools with the labels that only it has."""
    listed = json.loads((folder / "annotations" / "image_info_test-dev2017.json").read_text())
    boxes = [(image_id, box, label) for image_id, some in RECTANGLES.items() for box, label in some]
    category = {name: entry["id"] for entry in CATEGORIES for name in [entry["name"]]}
    listed["annotations"] = [
        {"id": k, "image_id": image_id, "category_id": category[NAMES[label]], "iscrowd": 0,
         "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
        for k, (image_id, (x1, y1, x2, y2), label) in enumerate(boxes, 1)
    ]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = listed
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(str(file)), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats


def test_result_file_has_full_ap_on_the_evaluation_server(folder: Path, tmp_path: Path) -> None:
    file = results.write(rectangles_predictor(), open_images(folder, "test"), tmp_path / "out")
    assert file == tmp_path / "out" / "detections_test-dev2017_demo_results.json"
    rows = json.loads(file.read_text())
    assert sorted(row["image_id"] for row in rows) == [139, 139, 139, 581, 581]
    assert all(set(row) == {"image_id", "category_id", "bbox", "score"} for row in rows)
    assert server_scores(folder, file)[0] == pytest.approx(1.0)


def test_top_k_limits_detections_per_image(folder: Path, tmp_path: Path) -> None:
    """The rectangles of image 139 in three scores: what they fill of their boxes."""
    holes = scene(64, 64, [(4, 40, 20, 60), (30, 4, 40, 18), (50, 20, 62, 40)], [2, 2, 0])
    holes[44:56, 8:16] = 20
    holes[8:14, 33:37] = 20
    cv2.imwrite(str(folder / "test2017" / f"{139:012}.png"), holes[..., ::-1])
    images = open_images(folder, "test-dev")
    every = json.loads(results.write(rectangles_predictor(), images, tmp_path / "all").read_text())
    best = json.loads(results.write(rectangles_predictor(), images, tmp_path / "two", top_k=2).read_text())
    scores = sorted((row["score"] for row in every if row["image_id"] == 139), reverse=True)
    assert len(set(scores)) == 3
    assert [row["score"] for row in best if row["image_id"] == 139] == scores[:2]
    assert len(best) == len(every) - 1


def test_boxes_are_rounded_to_hundredths(folder: Path, tmp_path: Path) -> None:
    large = cv2.resize(cv2.imread(str(folder / "test2017" / f"{581:012}.png")), (101, 97))
    cv2.imwrite(str(folder / "test2017" / f"{581:012}.png"), large)
    rows = json.loads(results.write(rectangles_predictor(), open_images(folder, "test"), tmp_path).read_text())
    numbers = [value for row in rows for value in row["bbox"]]
    assert any(value != round(value) for value in numbers)
    assert all(value == round(value, 2) for value in numbers)
    assert all(row["score"] == round(row["score"], 5) for row in rows)


def test_two_image_lists_of_a_split_are_ambiguous(folder: Path) -> None:
    listed = folder / "annotations" / "image_info_test-dev2017.json"
    whole = json.loads(listed.read_text())
    (folder / "annotations" / "image_info_test2017.json").write_text(json.dumps(whole))
    listed.write_text(json.dumps({**whole, "images": whole["images"][:1]}))
    with pytest.raises(InputError, match="split 'test' may be test-dev2017 or test2017; use one of these names"):
        open_images(folder, "test")
    assert [len(open_images(folder, split)) for split in ("test-dev", "test-dev2017", "test2017")] == [1, 1, 3]


def test_path_of_a_json_or_yaml_is_accepted(folder: Path) -> None:
    named = open_images(folder / "annotations" / "image_info_test-dev2017.json", "test")
    (folder / "data.yaml").write_text("test: annotations/image_info_test-dev2017.json\nimages: test2017\n")
    for images in (named, open_images(folder / "data.yaml", "test")):
        assert images.path(0) == str(folder / "test2017" / f"{581:012}.png")
        assert images.category_ids == (1, 3, 18)
        assert len(images.rows) == 0


def test_labels_are_ignored(folder: Path) -> None:
    """Those of a val set may stand in its JSON, faulty ones included; a text format's are read and left."""
    tree = json.loads((folder / "annotations" / "image_info_test-dev2017.json").read_text())
    tree["annotations"] = [{"id": 1, "bbox": "none"}]
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(tree))
    (folder / "test2017").rename(folder / "val2017")
    images = open_images(folder, "val")
    assert len(images) == 3
    assert len(images.rows) == 0
    (error,) = open_boxes(folder, "val").findings
    assert "image_id: missing" in error.text


def test_image_list_is_not_opened_as_a_labeled_split(folder: Path) -> None:
    with pytest.raises(InputError, match="folders of images, but also a folder annotations"):
        open_boxes(folder, "test")
    with pytest.raises(InputError, match="key 'annotations': missing"):
        open_boxes(folder / "annotations" / "image_info_test-dev2017.json", "test")


def status_of(*words: str) -> int | str | None:
    with pytest.raises(SystemExit) as leaving:
        cli.main(list(words))
    return leaving.value.code


def test_evaluate_command_with_no_truth(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loading, "recipe_of", lambda *_: rectangles_predictor().recipe)
    monkeypatch.setattr(predictor, "load", lambda *_, **__: rectangles_predictor())
    out = folder / "out"
    words = ("evaluate", "w.safetensors", "--data", str(folder), "--split", "test", "--out", str(out))
    assert status_of(*words, "--no-truth", "--top-k", "1") == 0
    file = out / "detections_test-dev2017_demo_results.json"
    assert capsys.readouterr().out == f"{file}\n"
    assert sorted(row["image_id"] for row in json.loads(file.read_text())) == [139, 581]
    assert [path.name for path in out.iterdir()] == [file.name]
    assert status_of(*words, "--no-truth", "--scenes", str(folder)) == 2
    assert "--no-truth and --scenes" in capsys.readouterr().err
