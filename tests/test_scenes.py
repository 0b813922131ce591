"""Rendered scenes: pure functions of the seed, with exact boxes, written as valid COCO files."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from boxwright.datatools import scenes


def test_scene_depends_only_on_seed_and_index() -> None:
    first = scenes.render(3, 7, 96)
    np.random.default_rng(0).random(5)
    scenes.render(3, 8, 96)
    again = scenes.render(3, 7, 96)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.boxes, again.boxes)
    assert np.array_equal(first.labels, again.labels)
    assert not np.array_equal(first.image, scenes.render(3, 8, 96).image)
    assert not np.array_equal(first.image, scenes.render(4, 7, 96).image)


@pytest.mark.slow
def test_rendering_is_deterministic_across_processes() -> None:
    code = "import zlib; from boxwright.datatools import scenes; print(zlib.crc32(scenes.render(1, 2, 96).image))"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    assert runs[0].stdout == runs[1].stdout


def test_boxes_are_inside_the_image_and_all_classes_occur() -> None:
    rendered = [scenes.render(0, index, 256) for index in range(12)]
    boxes = np.concatenate([scene.boxes for scene in rendered])
    assert (boxes >= 0).all()
    assert (boxes <= 256).all()
    assert (boxes[:, 2:] - boxes[:, :2] > 2).all()
    assert set(np.concatenate([scene.labels for scene in rendered]).tolist()) == {0, 1, 2}
    assert all(scene.image.shape == (256, 256, 3) and scene.image.dtype == np.uint8 for scene in rendered)


@pytest.mark.parametrize("kind", ["car", "truck"])
@pytest.mark.parametrize("angle", [0.0, 0.7, 2.1])
def test_vehicle_pixels_match_its_outline(kind: str, angle: float) -> None:
    _assert_painted_to_outline(scenes._vehicle(np.random.default_rng(1), kind, np.array([48.0, 50.0]), angle))


def test_tank_pixels_match_their_outline() -> None:
    tanks = [tank for seed in range(20) for tank in scenes._tanks(np.random.default_rng(seed), 96)]
    inside = [tank for tank in tanks if np.abs(48 - tank.outline.mean(axis=0)).max() < 20]
    assert len(inside) > 3
    for tank in inside:
        _assert_painted_to_outline(tank)


def _assert_painted_to_outline(item: scenes.Item) -> None:
    image = np.full((96 * scenes.SUPERSAMPLING, 96 * scenes.SUPERSAMPLING, 3), 255, np.uint8)
    image[:] = (1, 254, 3)  # no paint has this color
    item.paint(image)
    rows, columns = np.nonzero((image != (1, 254, 3)).any(axis=2))
    found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / scenes.SUPERSAMPLING
    expected = np.concatenate([item.outline.min(axis=0), item.outline.max(axis=0)])
    assert np.abs(found - expected).max() < 1.1, (found, expected)


def test_trees_may_occlude_an_object_but_not_its_center() -> None:
    objects = [
        scenes._vehicle(np.random.default_rng(0), "truck", np.array([x, y]), 0.4)
        for x in (16.0, 48, 80)
        for y in (16.0, 48, 80)
    ]
    hidden = 0
    for seed in range(20):
        image = np.full((96 * scenes.SUPERSAMPLING, 96 * scenes.SUPERSAMPLING, 3), 200, np.uint8)
        scenes._draw_trees(np.random.default_rng(seed), image, objects)
        for item in objects:
            x, y = (item.outline.mean(axis=0) * scenes.SUPERSAMPLING).astype(int)
            assert (image[y - 4 : y + 5, x - 4 : x + 5] == 200).all()
            corners = np.clip((item.outline * scenes.SUPERSAMPLING).astype(int), 0, len(image) - 1)
            hidden += int((image[corners[:, 1], corners[:, 0]] != 200).any())
    assert hidden > 5


def test_written_data_set_is_valid_coco(tmp_path: Path) -> None:
    folder = scenes.write_dataset(tmp_path / "deep" / "data", train=3, val=2, size=96, seed=1)
    seen = set()
    for split, count in (("train", 3), ("val", 2)):
        coco = COCO(str(folder / "annotations" / f"{split}.json"))
        assert len(coco.imgs) == count
        assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(scenes.NAMES)
        for image in coco.imgs.values():
            made = scenes.render(1, image["id"] - 1, 96)
            rows = coco.loadAnns(coco.getAnnIds(image["id"]))
            assert [row["category_id"] - 1 for row in rows] == made.labels.tolist()
            boxes = np.array([row["bbox"] for row in rows]).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            assert np.abs(boxes - made.boxes).max(initial=0) < 0.011
            seen.add((folder / "images" / image["file_name"]).name)
    assert {file.name for file in (folder / "images").iterdir()} == seen
    assert len(seen) == 5
    assert [file.name for file in folder.parent.iterdir()] == ["data"]


def test_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = scenes.render

    def stops(seed: int, index: int, size: int = 256) -> scenes.RenderedScene:
        if index == 2:
            raise KeyboardInterrupt
        return real(seed, index, size)

    monkeypatch.setattr(scenes, "render", stops)
    with pytest.raises(KeyboardInterrupt):
        scenes.write_dataset(tmp_path / "data", train=3, val=1, size=96)
    assert list(tmp_path.iterdir()) == []


def test_image_ids_are_unique_across_splits(tmp_path: Path) -> None:
    folder = scenes.write_dataset(tmp_path / "data", train=2, val=2, size=128)
    trees = [json.loads((folder / "annotations" / f"{split}.json").read_text()) for split in ("train", "val")]
    ids = [image["id"] for tree in trees for image in tree["images"]]
    assert len(ids) == len(set(ids)) == 4
