"""Tiles of scenes: boxes cut by hand, pixels of the scenes themselves, and a second run with nothing left to do."""

import json
import os
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import TiffImagePlugin
from pycocotools.coco import COCO

from boxwright import cli
from boxwright.datatools import tile
from boxwright.datatools.check import check
from boxwright.datatools.tile import Cut, Cutting, cut_boxes
from boxwright.errors import InputError
from boxwright.formats import open_boxes, open_dataset
from boxwright.images.decode import read_image
from boxwright.images.windows import Window

H, W = 100, 150  # px of the scenes
Box = tuple[float, float, float, float]  # xywh, as in COCO
SMALL: dict[str, Any] = {"window": 60, "overlap": 0.2}


def scenes(root: Path, *boxes: list[Box], size: tuple[int, int] = (H, W), **keys: Any) -> Path:
    """A COCO folder with one scene of noise for each list of boxes: s0.png, s1.png, ..."""
    draw = np.random.default_rng(8)
    for folder in ("annotations", "images/train"):
        (root / folder).mkdir(parents=True)
    images, annotations = [], []
    for index, found in enumerate(boxes):
        name = f"s{index}.png"
        assert cv2.imwrite(str(root / "images" / "train" / name), draw.integers(0, 256, (*size, 3)).astype(np.uint8))
        images.append({"id": 70 + index, "file_name": name, "height": size[0], "width": size[1]})
        for box in found:
            entry = {"id": 100 + len(annotations), "image_id": 70 + index, "category_id": 5, "bbox": box}
            annotations.append(entry | keys)
    tree = {"images": images, "annotations": annotations, "categories": [{"id": 5, "name": "ship"}]}
    (root / "annotations" / "train.json").write_text(json.dumps(tree))
    return root


def labels(out: Path) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads((out / "annotations" / "train.json").read_text())
    return tree


def found(out: Path) -> dict[tuple[str, int, int, float], list[dict[str, Any]]]:
    """The annotations of each tile, by scene, offset and scale."""
    tree = labels(out)
    return {
        (i["scene"], *i["offset"], i["scale"]): [a for a in tree["annotations"] if a["image_id"] == i["id"]]
        for i in tree["images"]
    }


def state(out: Path) -> dict[str, tuple[int, int, bytes]]:
    """File number, time of change and contents: a file written again, even the same, has another number."""
    files = [file for file in sorted(out.rglob("*")) if file.is_file()]
    return {str(f.relative_to(out)): (f.stat().st_ino, f.stat().st_mtime_ns, f.read_bytes()) for f in files}


def test_cut_boxes_by_hand() -> None:
    boxes = np.array([[10, 10, 30, 30], [50, 10, 70, 30], [55, 35, 75, 45], [60, 10, 70, 30], [0, 0, 120, 80]], float)
    parts, visible = cut_boxes(boxes, Window(0, 0, 60, 40))
    np.testing.assert_array_equal(visible, [1, 0.5, 0.125, 0, 0.25])
    np.testing.assert_array_equal(parts[1], [50, 10, 60, 30])
    np.testing.assert_array_equal(parts[2], [55, 35, 60, 40])


def test_tile_pixels_equal_the_scene(tmp_path: Path) -> None:
    """Windows of 60 px every 48 px: at 0, 48 and 90 across, at 0 and 40 down."""
    source = scenes(tmp_path / "in", [(10, 10, 20, 20)], [])
    tile.tile(source, tmp_path / "out", Cutting(**SMALL))
    tree = labels(tmp_path / "out")
    corners = [(x, y) for y in (0, 40) for x in (0, 48, 90)]
    assert [(i["scene"], *i["offset"]) for i in tree["images"]] == [(s, *c) for s in ("s0", "s1") for c in corners]
    for image in tree["images"]:
        scene = read_image(source / "images" / "train" / f"{image['scene']}.png")
        x, y = image["offset"]
        pixels = read_image(tmp_path / "out" / "images" / "train" / image["file_name"])
        np.testing.assert_array_equal(pixels, scene[y : y + 60, x : x + 60])
        assert (image["height"], image["width"], image["scene_size"], image["scale"]) == (60, 60, [H, W], 1)


def test_annotations_of_cut_objects(tmp_path: Path) -> None:
    """Box 100 lies in the first tile; 101 is cut in two halves; 102 shows 0.8 and 0.6 of itself in two tiles."""
    source = scenes(tmp_path / "in", [(10, 10, 20, 20), (50, 10, 20, 20), (44, 80, 20, 10)], area=30)
    report = tile.tile(source, tmp_path / "out", Cutting(**SMALL))
    tiles = found(tmp_path / "out")
    first = {"category_id": 5, "iscrowd": 0, "difficult": 0, "visible": 1.0, "object": 100}
    cut = first | {"iscrowd": 1, "visible": 0.5, "object": 101}
    whole = first | {"object": 101}
    kept = first | {"visible": 0.8, "object": 102}

    def plain(key: tuple[str, int, int, float]) -> list[dict[str, Any]]:
        return [{k: v for k, v in entry.items() if k not in ("id", "image_id")} for entry in tiles[key]]

    assert plain(("s0", 0, 0, 1)) == [
        first | {"bbox": [10, 10, 20, 20], "area": 30}, cut | {"bbox": [50, 10, 10, 20], "area": 15},
    ]  # fmt: skip
    assert plain(("s0", 48, 0, 1)) == [whole | {"bbox": [2, 10, 20, 20], "area": 30}]
    assert plain(("s0", 90, 0, 1)) == plain(("s0", 90, 40, 1)) == []
    assert plain(("s0", 0, 40, 1)) == [kept | {"bbox": [44, 40, 16, 10], "area": 24}]
    assert plain(("s0", 48, 40, 1)) == [kept | {"bbox": [0, 40, 16, 10], "area": 24}]
    assert "3 objects in the scenes, 0 of them in no tile" in report
    assert "5 boxes in the tiles: 4 objects, 1 to ignore; 0 truncated" in report


@pytest.mark.parametrize(
    ("settings", "objects", "ignored", "message"),
    [
        ({"min_visible": 0.8}, 2, 0, "0 truncated"),
        ({"min_visible": 0.81}, 0, 2, "1 of them in no tile"),
        ({"min_visible": 0.81, "cut": "drop"}, 0, 0, "0 objects, 0 to ignore; 2 truncated below min_visible dropped"),
        ({"min_visible": 0}, 2, 0, "0 of them in no tile"),
    ],
)
def test_min_visible_and_cut_rules(
    tmp_path: Path, settings: dict[str, Any], objects: int, ignored: int, message: str
) -> None:
    """A box of which two tiles show 0.8 each."""
    source = scenes(tmp_path / "in", [(44, 10, 20, 10)])
    assert message in tile.tile(source, tmp_path / "out", Cutting(**SMALL, **settings))
    crowd = [entry["iscrowd"] for entry in labels(tmp_path / "out")["annotations"]]
    assert (crowd.count(0), crowd.count(1)) == (objects, ignored)


def test_slivers_are_dropped(tmp_path: Path) -> None:
    """The first tile ends at x = 60: it shows 0.9 px of the one box, and 1.1 px of the other."""
    source = scenes(tmp_path / "in", [(59.1, 0, 30, 20), (58.9, 30, 30, 20)])
    tile.tile(source, tmp_path / "out", Cutting(**SMALL))
    assert [entry["object"] for entry in found(tmp_path / "out")["s0", 0, 0, 1]] == [101]


def test_crowd_and_difficult_flags_are_kept(tmp_path: Path) -> None:
    source = scenes(tmp_path / "in", [(10, 10, 20, 20)], iscrowd=1, difficult=1)
    report = tile.tile(source, tmp_path / "out", Cutting(**SMALL, cut="drop"))
    (entry,) = labels(tmp_path / "out")["annotations"]
    assert (entry["iscrowd"], entry["difficult"]) == (1, 1)
    assert "0 objects in the scenes" in report


def test_objects_up_to_the_overlap_are_complete_in_a_tile(tmp_path: Path) -> None:
    """Overlap of 12 px: no box up to 12 px can be cut by all. Mapped back, its box is that of the scene."""
    draw = np.random.default_rng(1)
    sides = draw.integers(1, 13, (80, 2))
    boxes = np.concatenate([(draw.random((80, 2)) * ([W, H] - sides)).astype(int), sides], axis=1).tolist()
    tile.tile(scenes(tmp_path / "in", boxes), tmp_path / "out", Cutting(**SMALL))
    whole = {}
    for (_, x, y, _), entries in found(tmp_path / "out").items():
        for entry in entries:
            if entry["visible"] == 1:
                left, top, width, height = entry["bbox"]
                whole[entry["object"]] = [left + x, top + y, width, height]
    assert whole == {100 + index: box for index, box in enumerate(boxes)}


@pytest.mark.parametrize("scale", [0.5, 0.7, 1.5])
def test_scaled_boxes_match_their_pixels(tmp_path: Path, scale: float) -> None:
    """White rectangles on black: where a tile is white is where its box says, to a px. 140 px: 140 * 0.7 = 98."""
    boxes = [(10, 20, 40, 31), (95, 55, 33, 25)]
    source = scenes(tmp_path / "in", boxes, size=(100, 140))
    scene = np.zeros((100, 140, 3), np.uint8)
    for x, y, w, h in boxes:
        scene[y : y + h, x : x + w] = 255
    cv2.imwrite(str(source / "images" / "train" / "s0.png"), scene)
    tile.tile(source, tmp_path / "out", Cutting(window=90, overlap=0.5, scales=(scale,), min_visible=1, cut="drop"))
    tree, checked = labels(tmp_path / "out"), 0
    for image in tree["images"]:
        pixels = read_image(tmp_path / "out" / "images" / "train" / image["file_name"])
        assert pixels.shape == (image["height"], image["width"], 3)
        assert max(pixels.shape) <= 90
        for entry in tree["annotations"]:
            if entry["image_id"] == image["id"]:
                x, y, w, h = entry["bbox"]
                expected = np.zeros(pixels.shape[:2])
                expected[round(y) : round(y + h), round(x) : round(x + w)] = 255
                inner = cv2.erode(expected, np.ones((3, 3)), borderValue=0) > 0
                assert pixels[inner].min() > 200
                outer = cv2.dilate(expected, np.ones((3, 3))) == 0
                near = cv2.dilate(expected, np.ones((7, 7))) > 0
                assert pixels[outer & near].max(initial=0) < 55
                np.testing.assert_allclose(
                    [x / scale + image["offset"][0], y / scale + image["offset"][1], w / scale, h / scale],
                    boxes[entry["object"] - 100], atol=0.001,
                )  # fmt: skip
                assert entry["area"] == pytest.approx(w * h, abs=0.01)
                checked += 1
    assert checked >= 2


def test_scale_is_exact_for_rounded_tile_sizes(tmp_path: Path) -> None:
    """61 px * 0.7 = 42.7, a tile of 43 px. Its px i lies at (i + 0.5) / 0.7 of the scene: the ramp is 4 times that.

    Resized to 43 px by their ratio, px 40 would lie 0.4 px further left.
    """
    source = scenes(tmp_path / "in", [(10, 10, 20, 20)], size=(61, 61))
    ramp = np.broadcast_to((4 * np.arange(61) + 2)[None, :, None], (61, 61, 3)).astype(np.uint8)
    cv2.imwrite(str(source / "images" / "train" / "s0.png"), ramp)
    tile.tile(source, tmp_path / "out", Cutting(window=60, scales=(0.7,)))
    pixels = read_image(tmp_path / "out" / "images" / "train" / "s0__0_0_61x61_x0.7.png")
    assert pixels.shape == (43, 43, 3)
    np.testing.assert_allclose(pixels[20, :42, 0], 4 * (np.arange(42) + 0.5) / 0.7, atol=0.75)


def test_large_object_is_complete_only_at_half_scale(tmp_path: Path) -> None:
    """A ship of 100 px is complete only in the tiles at half scale."""
    source = scenes(tmp_path / "in", [(20, 10, 100, 70)])
    report = tile.tile(source, tmp_path / "out", Cutting(window=75, overlap=0, scales=(1.0, 0.5)))
    assert "0 of them in no tile" in report
    assert {key[3] for key, boxes in found(tmp_path / "out").items() if any(not b["iscrowd"] for b in boxes)} == {0.5}


def test_second_run_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = scenes(tmp_path / "in", [(10, 10, 20, 20)], [(70, 20, 30, 30)]), tmp_path / "out"
    assert "12 tiles: 12 written, 0 there already" in tile.tile(source, out, Cutting(**SMALL))
    before = state(out)
    with monkeypatch.context() as patch:
        patch.setattr(tile, "open_scene", None)  # no scene is opened either
        assert "12 tiles: 0 written, 12 there already" in tile.tile(source, out, Cutting(**SMALL))
    assert state(out) == before

    lost = out / "images" / "train" / "s1__48_0_60x60.png"
    lost.unlink()
    assert "12 tiles: 1 written, 11 there already" in tile.tile(source, out, Cutting(**SMALL))
    assert {name: data for name, (*_, data) in state(out).items()} == {n: data for n, (*_, data) in before.items()}

    scene = source / "images" / "train" / "s0.png"
    cv2.imwrite(str(scene), np.zeros((H, W, 3), np.uint8))
    os.utime(scene, ns=(0, 10**18))  # an older image took its place
    assert "12 tiles: 6 written, 6 there already" in tile.tile(source, out, Cutting(**SMALL))
    assert not read_image(out / "images" / "train" / "s0__0_0_60x60.png").any()


def test_output_is_independent_of_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes from one thread and from three; each scene is opened once."""
    source = scenes(tmp_path / "in", *[[(10, 10, 20, 20), (70, 20, 30, 30)]] * 5)
    opened, real = [], tile.open_scene
    monkeypatch.setattr(tile, "open_scene", lambda path: opened.append(path) or real(path))
    results = []
    for workers in (1, 3):
        tile.tile(source, tmp_path / str(workers), Cutting(**SMALL, scales=(1.0, 0.5)), workers=workers)
        results.append({name: data for name, (*_, data) in state(tmp_path / str(workers)).items()})
    assert results[0] == results[1]
    assert len(opened) == 2 * 5


def test_tiles_without_objects_can_be_left_out(tmp_path: Path) -> None:
    source, out = scenes(tmp_path / "in", [(5, 5, 20, 20)], []), tmp_path / "out"
    assert "11 windows without an object left out" in tile.tile(source, out, Cutting(**SMALL, empty=False))
    assert list(found(out)) == [("s0", 0, 0, 1)]
    assert len(list((out / "images" / "train").iterdir())) == 1
    with pytest.raises(InputError, match="no window of train holds an object"):
        tile.tile(scenes(tmp_path / "none", []), tmp_path / "other", Cutting(**SMALL, empty=False))


def test_tiles_are_read_by_boxwright_and_pycocotools(tmp_path: Path) -> None:
    source, out = scenes(tmp_path / "in", [(10, 10, 20, 20), (44, 10, 20, 10)], []), tmp_path / "out"
    tile.tile(source, out, Cutting(**SMALL, format="jpg"))
    dataset = open_dataset(out, "train")
    assert (len(dataset), dataset.names, dataset.category_ids) == (12, ("ship",), (5,))
    assert not check(dataset).errors
    assert len(COCO(str(out / "annotations" / "train.json")).getAnnIds()) == len(dataset.rows) == 3


@pytest.mark.parametrize("box", [(10, 10, 130, 80), (20, 20, 50, 50)])
def test_truncated_objects_are_not_reported_as_faulty_flags(tmp_path: Path, box: Box) -> None:
    """All or most boxes of the tiles are to be ignored; that is not the fault of tools that mark every object so."""
    tile.tile(scenes(tmp_path / "in", [box]), tmp_path / "out", Cutting(**SMALL))
    dataset = open_boxes(tmp_path / "out", "train")
    assert dataset.rows.crowd.mean() > 0.5
    assert not {finding.kind for finding in check(dataset).findings} & {"only_crowd", "unusual"}


def test_geotiff_scene(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    source = scenes(tmp_path / "in", [(10, 10, 20, 20)])
    pixels = np.random.default_rng(0).integers(0, 256, (3, H, W)).astype(np.uint8)
    with rasterio.open(
        source / "images" / "train" / "s0.tif", "w", driver="GTiff", count=3, height=H, width=W, dtype="uint8",
        photometric="rgb", crs="EPSG:32650", transform=rasterio.Affine(1, 0, 7, 0, -1, 0),
    ) as file:  # fmt: skip
        file.write(pixels)
    json_file = source / "annotations" / "train.json"
    json_file.write_text(json_file.read_text().replace("s0.png", "s0.tif"))
    tile.tile(source, tmp_path / "out", Cutting(**SMALL))
    found = read_image(tmp_path / "out" / "images" / "train" / "s0__90_40_60x60.png")
    np.testing.assert_array_equal(found, pixels[:, 40:100, 90:150].transpose(1, 2, 0))


def tiff_scenes(root: Path, *files: tuple[np.ndarray, dict[str, Any]]) -> Path:
    """A COCO folder with one scene for each of the pixels (bands, H, W), as a TIFF of GDAL's with those options."""
    rasterio = pytest.importorskip("rasterio")
    source = scenes(root, *[[(10, 10, 20, 20)]] * len(files))
    for index, (pixels, options) in enumerate(files):
        with rasterio.open(
            source / "images" / "train" / f"s{index}.tif", "w", driver="GTiff", count=len(pixels), height=H, width=W,
            dtype=pixels.dtype, transform=rasterio.Affine(1, 0, 7, 0, -1, 0), **options,
        ) as file:  # fmt: skip
            file.write(pixels)
    labels_file = source / "annotations" / "train.json"
    labels_file.write_text(labels_file.read_text().replace(".png", ".tif"))
    return source


def noise(bands: int, kind: str = "uint8") -> np.ndarray:
    return np.random.default_rng(2).integers(0, np.iinfo(kind).max, (bands, H, W)).astype(kind)


def test_tiffs_are_read_by_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stripes and tiles, of a compression that takes long to decode: Pillow never does it."""
    blocks = {"tiled": True, "blockxsize": 32, "blockysize": 32}
    options: list[dict[str, Any]] = [{}, blocks, {"BIGTIFF": "YES", "ENDIANNESS": "BIG"}]
    source = tiff_scenes(tmp_path / "in", *[(noise(3), {"compress": "lzw"} | each) for each in options])
    monkeypatch.setattr(TiffImagePlugin.TiffImageFile, "load", None)
    assert "18 tiles: 18 written" in tile.tile(source, tmp_path / "out", Cutting(**SMALL))


def test_tiffs_that_only_rasterio_can_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The same pixels as in `predict --tile`, and one line per scene about lost information, only from our logger."""
    eight, deep = noise(8, "uint16"), noise(3, "uint16")
    rgb = {"photometric": "rgb"}
    source = tiff_scenes(
        tmp_path / "in", (eight, rgb), (deep, rgb | {"interleave": "band"}),
        (noise(3), rgb | {"compress": "lerc"}), (noise(3), rgb | {"compress": "webp", "WEBP_LOSSLESS": "YES"}),
    )  # fmt: skip
    capfd.readouterr()
    tile.tile(source, tmp_path / "out", Cutting(**SMALL))
    for index, pixels in enumerate([eight >> 8, deep >> 8, noise(3), noise(3)]):
        cut = read_image(tmp_path / "out" / "images" / "train" / f"s{index}__90_40_60x60.png")
        np.testing.assert_array_equal(cut, pixels[:3, 40:100, 90:150].transpose(1, 2, 0))
    warnings = sorted(line.partition(".tif: ")[2] for line in capfd.readouterr().err.splitlines() if ".tif" in line)
    assert [line[:10] for line in warnings] == ["of 16 bits", "of 16 bits", "of 8 bands"]


def test_invalid_tiffs_are_errors_before_anything_is_written(tmp_path: Path) -> None:
    """In the first scene, no band is tagged red; the second one is truncated."""
    source, out = tiff_scenes(tmp_path / "in", *[(noise(4), {"photometric": "minisblack"})] * 2), tmp_path / "out"
    cut_off = source / "images" / "train" / "s1.tif"
    cut_off.write_bytes(cut_off.read_bytes()[:-500])
    with pytest.raises(InputError, match=r"2 errors, the first: .*s0\.tif: 4 bands \(gray") as error:
        tile.tile(source, out, Cutting(**SMALL))
    assert "\n" not in str(error.value)
    assert not out.exists()


def test_dota_scenes(tmp_path: Path) -> None:
    """A quadrilateral standing on its tip: the box around it is 20, 30 to 60, 50."""
    for folder in ("images", "labelTxt"):
        (tmp_path / "in" / "train" / folder).mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "in" / "train" / "images" / "P0001.png"), np.zeros((H, W, 3), np.uint8))
    (tmp_path / "in" / "train" / "labelTxt" / "P0001.txt").write_text(
        "imagesource:GoogleEarth\ngsd:0.5\n40 30 60 40 40 50 20 40 ship 1\n"
    )
    tile.tile(tmp_path / "in", tmp_path / "out", Cutting(**SMALL))
    ((key, (entry, *_)),) = [(key, boxes) for key, boxes in found(tmp_path / "out").items() if key[1:3] == (0, 0)]
    assert key == ("P0001", 0, 0, 1)
    assert (entry["bbox"], entry["area"], entry["difficult"]) == ([20, 30, 40, 20], 400, 1)
    names = {category["id"]: category["name"] for category in labels(tmp_path / "out")["categories"]}
    assert names[entry["category_id"]] == "ship"


def test_boxes_over_the_scene_edge_are_clipped(tmp_path: Path) -> None:
    """Half of the box is in the scene, and that half is complete in a tile."""
    source = scenes(tmp_path / "in", [(140, 10, 20, 20)])
    assert "1 objects in the scenes, 0 of them in no tile with min_visible, 1 clipped" in tile.tile(
        source, tmp_path / "out", Cutting(**SMALL)
    )
    (entry,) = labels(tmp_path / "out")["annotations"]
    assert (entry["bbox"], entry["visible"], entry["area"]) == ([50, 10, 10, 20], 1, 200)


@pytest.mark.parametrize("box", [(150, 10, 20, 20), (10, -30, 20, 20), (10, 10, 0, 20), (10, 10, float("nan"), 20)])
def test_faulty_labels_are_errors_or_left_out(tmp_path: Path, box: Box) -> None:
    source, out = scenes(tmp_path / "in", [(10, 10, 20, 20), box]), tmp_path / "out"
    with pytest.raises(InputError, match=r"1 error, .*annotations\[1\].*data check") as error:
        tile.tile(source, out, Cutting(**SMALL))
    assert "\n" not in str(error.value)
    assert not out.exists()
    assert "left out the label" in tile.tile(source, out, Cutting(**SMALL), skip_faulty=True)
    assert {entry["object"] for entry in labels(out)["annotations"] if not entry["iscrowd"]} == {100}
    # the place of the other is ignored: nobody knows where in the scene it is
    tree, ignored = labels(out), [entry for entry in labels(out)["annotations"] if entry.get("ignore")]
    assert {entry["object"] for entry in ignored} == {101}
    assert [entry["bbox"] for entry in ignored] == [[0, 0, tile["width"], tile["height"]] for tile in tree["images"]]


def test_nothing_is_written_if_any_split_has_faults(tmp_path: Path) -> None:
    source = scenes(tmp_path / "in", [(10, 10, 20, 20)])
    file = source / "annotations" / "train.json"
    (source / "annotations" / "val.json").write_text(file.read_text().replace("[10, 10, 20, 20]", "[10, 10, 0, 20]"))
    (source / "images" / "train").rename(source / "images" / "all")
    (source / "images" / "all" / "s0.png").rename(source / "images" / "s0.png")
    with pytest.raises(InputError, match=r"1 error, the first: "):
        tile.tile(source, tmp_path / "out", Cutting(**SMALL))
    assert not (tmp_path / "out").exists()


def test_missing_scene_is_an_error(tmp_path: Path) -> None:
    source = scenes(tmp_path / "in", [(10, 10, 20, 20)], [])
    (source / "images" / "train" / "s1.png").unlink()
    with pytest.raises(InputError, match=r"s1\.png.*there is no such file"):
        tile.tile(source, tmp_path / "out", Cutting(**SMALL))


def test_scenes_with_equal_stems_are_rejected(tmp_path: Path) -> None:
    source = scenes(tmp_path / "in", [(10, 10, 20, 20)], [])
    (source / "images" / "train" / "s1.png").rename(source / "images" / "train" / "s0.jpg")
    file = source / "annotations" / "train.json"
    file.write_text(file.read_text().replace("s1.png", "s0.jpg"))
    with pytest.raises(InputError, match=r"s0\.jpg: its tiles would have the same names as those of .*s0\.png"):
        tile.tile(source, tmp_path / "out", Cutting(**SMALL))
    with pytest.raises(InputError, match="holds the scenes"):
        tile.tile(source, source, Cutting(**SMALL))


@pytest.mark.parametrize(("scenes_in", "out"), [("in", "in/val"), ("in", "in/../in/a/b"), ("in/a", "in"), ("in", ".")])
def test_output_folder_inside_or_above_the_scenes_is_rejected(tmp_path: Path, scenes_in: str, out: str) -> None:
    source = scenes(tmp_path / scenes_in, [(10, 10, 20, 20)])
    before = state(tmp_path)
    with pytest.raises(InputError, match="holds the scenes or lies among them"):
        tile.tile(source, tmp_path / out, Cutting(**SMALL))
    assert state(tmp_path) == before
    assert "6 tiles" in tile.tile(source, tmp_path / "in2", Cutting(**SMALL))


def test_speed_with_20_000_scenes() -> None:
    """20,000 scenes of 10 tiles; copying the list for each scene takes a minute."""
    start = time.process_time()
    cut = Cut.of(Cut([({}, [])] * 10, written=2, objects=3) for _ in range(20_000))
    assert time.process_time() - start < 5
    assert (len(cut.tiles), cut.written, cut.objects, cut.nowhere) == (200_000, 40_000, 60_000, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"overlap": 1.0}, "overlap: found 1.0"),
        ({"window": 0}, "window: found 0"),
        ({"window": 40_000}, "window: found 40000"),
        ({"scales": (0.0,)}, "scale: found 0.0"),
        ({"scales": (1.0, 1.0)}, "each once"),
        ({"scales": (1e-310,)}, "scale: found 1e-310"),
        ({"scales": (1e5,)}, "scale: found 100000"),
        ({"window": 40, "scales": (1.0, 30.0)}, "would show 1.33 px of the scene, .* gives one of 30 px, needed 40"),
        ({"min_visible": 1.5}, "min_visible: found 1.5"),
    ],
)
def test_invalid_settings_are_rejected(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Cutting(**settings)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A gap of 12 px on 60 is an overlap of 20%."""
    source, out = scenes(tmp_path / "in", [(10, 10, 20, 20)]), tmp_path / "out"
    for options in (["--gap", "12"], ["--overlap", "0.2"]):
        with pytest.raises(SystemExit, match="0"):
            cli.main(["data", "tile", str(source), "-o", str(out), "--window", "60", *options])
        assert "6 tiles" in capsys.readouterr().out
        assert [tuple(i["offset"]) for i in labels(out)["images"]][:3] == [(0, 0), (48, 0), (90, 0)]
    with pytest.raises(SystemExit, match="2"):
        cli.main(["data", "tile", str(source), "-o", str(out), "--overlap", "1.0"])
    assert "overlap: found 1.0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gap", "60"], "gap: found 60, needed 0 to 59 px"),
        (["--gap", "-5"], "gap: found -5, needed 0 to 59 px"),
        (["--gap", "10", "--overlap", "0.2"], "--gap and --overlap: found both"),
    ],
)
def test_invalid_gaps_are_rejected(
    tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["data", "tile", str(tmp_path), "-o", str(tmp_path / "out"), "--window", "60", *options])
    assert message in capsys.readouterr().err
