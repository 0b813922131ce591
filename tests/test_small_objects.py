"""The warning about objects below the finest stride; that a training has it: test_auto_anchors.py."""

from pathlib import Path
from typing import Any

import pytest

from boxwright import recipe
from boxwright.datatools import anchors
from boxwright.engine import small_objects
from boxwright.formats import open_boxes
from boxwright.weights.shapes import without_memory
from test_auto_anchors import data_set

QUARTER = [(40, 14), (90, 40), (40, 32), (60, 60)]  # halved on the demo's letterbox: one of four shorter sides below 16


def warned(data: Path, name: str, log: list[str], **changes: Any) -> list[str]:
    chosen = recipe.load(name, changes.get("changes", {}))
    small_objects.warn(chosen, open_boxes(data, "train", "auto"), without_memory(chosen.model))
    return list(log)


SMALL_INPUT = {"data.canvas.size": [96, 96]}


def test_warning_above_a_quarter_of_small_boxes(tmp_path: Path, log: list[str]) -> None:
    assert not warned(data_set(tmp_path / "quarter", QUARTER), "demo", log, changes=SMALL_INPUT)
    more = [*QUARTER[1:], (40, 14), (31, 50)]
    assert warned(data_set(tmp_path / "more", more), "demo", log, changes=SMALL_INPUT) == [
        "40 % of the boxes have a shorter side below 16 px, the finest stride, at 96 x 96 px (median 16.0 px): "
        "try --set data.canvas.size=[128,128] or recipe yolov4_coco_608_darknet"  # 96 * 16 / 15.5, in steps of 32
    ]


def test_advised_canvas_size_is_sufficient(tmp_path: Path, log: list[str]) -> None:
    data = data_set(tmp_path / "data", [(10, 20), (12, 30), (18, 18), (40, 40)])
    (line,) = warned(data, "demo", log, changes=SMALL_INPUT)
    log.clear()
    assert "data.canvas.size=[288,288]" in line  # the quartile, halved, is 5.75 px
    assert not warned(data, "demo", log, changes={"data.canvas.size": [288, 288]})


def test_advice_for_short_and_long_side_and_finer_recipe(tmp_path: Path, log: list[str]) -> None:
    """192 x 96 px become 1333 x 667, 0.7 px 4.9, 0.5 px 3.47; 4 / 3.47 = 1.1523 times 800, 1333 and 1344."""
    data = data_set(tmp_path / "data", [(0.7, 30), (0.5, 30)])  # type: ignore[list-item]
    (line,) = warned(data, "faster_rcnn_r50_coco_mmdet", log)
    assert "try --set data.canvas.size=[1568,1568] --set data.canvas.short_side=922" in line
    assert int(line.partition("long_side=")[2]) in (1536, 1537)  # 1536 by hand
    assert "recipe" not in line
    log.clear()
    (line,) = warned(data, "yolov3_coco_416", log)
    assert line.endswith("try `boxwright data tile` or recipe faster_rcnn_r50_dcn_coco_standard")


def test_advised_recipes_have_the_stated_strides() -> None:
    for stride, name in small_objects.FINER.items():
        assert without_memory(recipe.load(name).model).finest_stride == stride
    assert without_memory(recipe.load("tiny_darknet_imagenet_224").model).finest_stride is None


def test_only_a_sample_of_image_headers_is_read(
    tmp_path: Path, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    real = anchors.read_headers
    monkeypatch.setattr(anchors, "read_headers", lambda paths: asked.append(len(paths)) or real(paths))
    monkeypatch.setattr(small_objects, "MEASURED_IMAGES", 1)
    warned(data_set(tmp_path / "data"), "demo", log)
    assert asked == [1], "of two images"


def test_no_warning_without_boxes(tmp_path: Path, log: list[str]) -> None:
    assert not warned(data_set(tmp_path / "data", []), "demo", log)
