"""`data anchors`: clusters worked out by hand, recovery of known anchors, and excluded boxes."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from boxwright import cli
from boxwright.datatools.anchors import choose, cluster, match
from boxwright.formats import open_boxes
from boxwright.recipe import CanvasConfig

COCO = np.array([[10, 13], [16, 30], [33, 23], [30, 61], [62, 45], [59, 119], [116, 90], [156, 198], [373, 326]])


def coco(root: Path, boxes: list[list[float]], crowd: int = 0, size: tuple[int, int] = (100, 200)) -> Path:
    """A data set of one image of `size` (height, width); the first `crowd` boxes (x, y, w, h) are crowd regions."""
    (root / "annotations").mkdir(parents=True)
    (root / "train").mkdir()
    cv2.imwrite(str(root / "train" / "a.png"), np.zeros((*size, 3), np.uint8))
    annotations = [
        {"id": n + 1, "image_id": 1, "category_id": 1, "bbox": box, "area": 1, "iscrowd": int(n < crowd)}
        for n, box in enumerate(boxes)
    ]
    images = [{"id": 1, "file_name": "a.png"}]  # the size is that of the file
    labels = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "car"}]}
    (root / "annotations" / "train.json").write_text(json.dumps(labels))
    return root


def test_clusters_match_values_by_hand(tmp_path: Path) -> None:
    """On an input of 50 x 400 px widths double and heights halve: sizes 10x20, 12x20, 100x49, 100x50, 100x57."""
    sizes = [(5, 40), (6, 40), (50, 98), (50, 100), (50, 114)]
    root = coco(tmp_path / "set", [[1, 2, 9, 9], *([0, 0, w, h] for w, h in sizes), [3, 3, 0, 5]], crowd=1)
    found = choose(open_boxes(root, "train"), CanvasConfig(size=(50, 400), fit="stretch"), 2)
    assert found.anchors.tolist() == [[11, 20], [100, 52]]  # means of the sides, not their medians
    assert found.nearest.tolist() == [0, 0, 1, 1, 1]
    np.testing.assert_allclose(found.iou, [10 / 11, 11 / 12, 49 / 52, 50 / 52, 52 / 57], rtol=1e-6)
    assert found.left_out == {"crowd region[s]": 1, "label[s] of unreadable images": 0, "box[es] without area": 1}
    assert str(found).splitlines() == [
        "5 boxes of 1 images of train, stretch to 400 x 50 px",
        "  left out: 1 crowd region, 1 box without area",
        f"mean IoU {(10 / 11 + 11 / 12 + 49 / 52 + 50 / 52 + 52 / 57) / 5:.4f}, 100.0% of the boxes above 0.5",
        "anchors = 11,20,  100,52",
        "model.anchors=[[11,20],[100,52]]",
    ]


def test_letterbox_scales_both_sides_equally(tmp_path: Path) -> None:
    """An image of 200 x 100 px shrinks to 100 x 50 on an input of 100 x 80."""
    root = coco(tmp_path / "set", [[0, 0, 60, 40]])
    dataset = open_boxes(root, "train")
    assert choose(dataset, CanvasConfig(size=(80, 100), fit="letterbox"), 1).anchors.tolist() == [[30, 20]]
    assert choose(dataset, CanvasConfig(size=(80, 100), fit="stretch"), 1).anchors.tolist() == [[30, 32]]


def test_known_anchors_are_recovered() -> None:
    """Boxes drawn within 5% about nine anchors give these back, from any seed, in the same way each time."""
    draw = np.random.default_rng(3)
    boxes = (COCO[:, None] * draw.uniform(0.95, 1.05, (9, 200, 2))).reshape(-1, 2)
    for seed in range(3):
        found = cluster(boxes, 9, seed)
        np.testing.assert_allclose(found[np.argsort(found.prod(1))], COCO[np.argsort(COCO.prod(1))], rtol=0.01)
        np.testing.assert_array_equal(found, cluster(boxes, 9, seed))


def test_match_equals_a_loop_over_boxes_and_anchors() -> None:
    boxes = np.random.default_rng(0).uniform(1, 90, (50, 2))
    nearest, best = match(boxes, COCO.astype(float))
    for number, (w, h) in enumerate(boxes.tolist()):
        overlaps = []
        for wide, high in COCO.tolist():
            shared = min(w, wide) * min(h, high)
            overlaps.append(shared / (w * h + wide * high - shared))
        assert best[number] == pytest.approx(max(overlaps), rel=1e-12)
        assert nearest[number] == int(np.argmax(overlaps))


def test_boxes_above_the_k_means_limit_are_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample is clustered, and the statistics are of all boxes."""
    monkeypatch.setattr("boxwright.datatools.anchors.MAX_BOXES", 40)
    root = coco(tmp_path / "set", [[0, 0, w, w] for w in [10] * 60 + [40] * 60], size=(416, 416))
    found = choose(open_boxes(root, "train"), CanvasConfig(size=(416, 416)), 2)
    assert found.anchors.tolist() == [[10, 10], [40, 40]]
    assert len(found.iou) == 120


@pytest.mark.parametrize(
    ("boxes", "options", "message"),
    [
        ([], [], "train has 0 boxes of different sizes, needed 9 at least; lower --count"),
        ([[0, 0, 5, 5]] * 3, ["--count", "2"], "train has 1 boxes of different sizes, needed 2 at least"),
        ([[0, 0, 5, 5]], ["--size", "0", "416"], "--size: found 0 416, needed a height and a width"),
        ([[0, 0, 5, 5]], ["--split", "val"], "no split 'val'"),
    ],
)
def test_invalid_input_is_reported_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], boxes: list[list[float]], options: list[str], message: str
) -> None:
    root, out = coco(tmp_path / "set", boxes), tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        cli.main(["data", "anchors", str(root), "-o", str(out), *options])
    error = capsys.readouterr().err.strip()
    assert stop.value.code == 2
    assert message in error
    assert "\n" not in error
    assert not out.exists()


@pytest.mark.usefixtures("figures")
def test_command_prints_lines_and_writes_an_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = coco(tmp_path / "set", [[0, 0, 20, 10], [0, 0, 60, 40]])
    with pytest.raises(SystemExit) as stop:
        cli.main(["data", "anchors", str(root), "--count", "2", "--size", "100", "200", "-o", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert stop.value.code == 0
    assert "anchors = 20,10,  60,40\nmodel.anchors=[[20,10],[60,40]]\n" in printed
    assert cv2.imread(str(tmp_path / "out" / "anchors.png")).shape[1] > 800
