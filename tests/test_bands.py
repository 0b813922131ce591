"""Images with selected bands: pixels compared with the written ones, computed by hand or by NumPy."""

import io
import json
import math
import sys
import threading
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import boxwright
from boxwright import recipe as recipes
from boxwright.batches.transforms import change_colors, change_value
from boxwright.data.dataset import Dataset
from boxwright.datatools import band_tiles
from boxwright.datatools.check import check, check_folder
from boxwright.datatools.tile import Cutting, tile
from boxwright.engine.bands import measure
from boxwright.errors import InputError
from boxwright.formats import open_boxes
from boxwright.images import bands as bands_module
from boxwright.images import canvas, decode, header
from boxwright.images.bands import Bands, parse_numbers, stretch
from boxwright.images.canvas import frame_for, read_for_display, resize_to_canvas
from boxwright.images.decode import read_image
from boxwright.images.windows import Window, open_scene
from boxwright.predict.labels import draw_labels
from boxwright.recipe import CanvasConfig

rasterio: Any = pytest.importorskip("rasterio", reason="the extra `geo` is not installed")
H, W = 37, 53  # px


def samples(kind: str, count: int = 5, size: tuple[int, int] = (H, W)) -> np.ndarray:
    """(count, h, w) over the whole range of the type, floats from -1000 to 1000."""
    rng = np.random.default_rng(count)
    if kind.startswith("float"):
        return rng.uniform(-1000, 1000, (count, *size)).astype(kind)
    info = np.iinfo(kind)
    return rng.integers(info.min, info.max, (count, *size), endpoint=True).astype(kind)


def write_tiff(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    """Pixels (bands, h, w) as a TIFF written by GDAL."""
    count, height, width = pixels.shape
    options = {"transform": rasterio.Affine(1, 0, 7, 0, -1, 0), "photometric": "MINISBLACK"} | options
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": pixels.dtype}
    with rasterio.open(path, "w", **profile, **options) as file:
        file.write(pixels)
    return path


def stored(path: Path) -> tuple[np.ndarray, float | None]:
    """The samples of a TIFF, as GDAL reads them, and its value for no data."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path) as file:
            return file.read(), file.nodata


def exact(sample: float, low: float, high: float) -> int:
    """255 (s - low) / (high - low) in fractions, clipped to 0..255; halves to even."""
    value = 255 * (Fraction(float(sample)) - Fraction(low)) / (Fraction(high) - Fraction(low))
    return round(min(max(value, Fraction(0)), Fraction(255)))


def message_of(error: pytest.ExceptionInfo[InputError]) -> str:
    """The message, which is one line of at most 200 characters besides the path."""
    text = str(error.value)
    assert "\n" not in text
    assert len(text.partition(": ")[2]) <= 200, text
    return text


# --- samples to pixels


def test_stretch_by_hand() -> None:
    """Of 255 steps each is a level; below and above are the ends; 0.5 and 2.5 round to even."""
    found = stretch(np.array([0, 100, 101, 227, 355, 356, 65535], np.uint16), 100, 355)
    assert found.tolist() == [0, 0, 1, 127, 255, 255, 255]
    assert stretch(np.array([1, 3, 5], np.uint16), 0, 510).tolist() == [0, 2, 2]
    assert stretch(np.array([-9999, -50, 0, 50], np.int16), -50, 50, nodata=-9999).tolist() == [0, 0, 128, 255]
    odd = np.array([math.nan, math.inf, -math.inf, 0.25, 2.0, 0.5], np.float32)
    assert stretch(odd, 0, 0.5, nodata=2.0).tolist() == [0, 0, 0, 128, 0, 255]
    assert stretch(np.array([7], np.uint8), 0, 7, nodata=7).tolist() == [0]


LAYOUTS: dict[str, dict[str, Any]] = {
    "by pixel": {"interleave": "pixel"},
    "by band": {"interleave": "band", "compress": "deflate"},
    "tiles": {"tiled": True, "blockxsize": 32, "blockysize": 16, "compress": "lzw"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["uint8", "uint16", "int16", "uint32", "int32", "float32", "float64"])
def test_selected_bands_of_a_tiff(tmp_path: Path, layout: str, kind: str) -> None:
    pixels = samples(kind)
    path = write_tiff(tmp_path / "a.tif", pixels, **LAYOUTS[layout])
    low, high = (
        (-300.0, 700.0) if kind.startswith("float") else (float(np.iinfo(kind).max // 8), np.iinfo(kind).max / 2)
    )
    chosen = Bands((4, 2, 2), ((low, high), (low / 2, high), (low, high * 1.5)))
    found = read_image(path, bands=chosen)
    assert found.dtype == np.uint8
    assert found.shape == (H, W, 3)
    for channel, (number, pair) in enumerate(zip(chosen.numbers, chosen.ranges, strict=True)):
        expected = np.vectorize(lambda each, pair=pair: exact(each, *pair))(pixels[number - 1])
        # float32 may fall on the other side of a half; wide types are stretched in float64
        difference = np.abs(found[..., channel].astype(int) - expected)
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.002
    assert np.array_equal(read_image(path.read_bytes(), bands=chosen), found)
    with open_scene(path, chosen) as scene:
        assert scene.size == (H, W)
        assert np.array_equal(scene.read(Window(11, 5, 20, 30)), found[5:35, 11:31])


def test_upper_eight_bits_are_used_without_a_range(tmp_path: Path) -> None:
    wide, narrow = samples("uint16"), samples("uint8")
    found = read_image(write_tiff(tmp_path / "a.tif", wide), bands=Bands((5, 1)))
    assert np.array_equal(found, np.stack([wide[4] // 256, wide[0] // 256], 2))
    found = read_image(write_tiff(tmp_path / "b.tif", narrow, nodata=9), bands=Bands((5, 1)))
    assert np.array_equal(found, np.where(narrow == 9, 0, narrow)[[4, 0]].transpose(1, 2, 0))


def test_tiff_pages_are_bands(tmp_path: Path) -> None:
    """A file of three pages, and a thumbnail, written by Pillow."""
    pixels = samples("uint16", 3)
    first, *others = [Image.fromarray(page) for page in pixels]
    thumbnail = Image.fromarray(pixels[0, :5, :5])
    first.save(tmp_path / "a.tif", save_all=True, append_images=[*others, thumbnail])
    found = read_image(tmp_path / "a.tif", bands=Bands((3, 1)))
    assert np.array_equal(found, pixels[[2, 0]].transpose(1, 2, 0) // 256)
    assert np.array_equal(read_image((tmp_path / "a.tif").read_bytes(), bands=Bands((3, 1))), found)
    with pytest.raises(InputError, match="has bands 1 to 3, needed 4 too") as error:
        read_image(tmp_path / "a.tif", bands=Bands((4,)))
    message_of(error)
    assert decode.all_bands(str(tmp_path / "a.tif")) == (1, 2, 3)


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_first_three_bands_equal_rgb(tmp_path: Path, kind: str) -> None:
    pixels = np.ascontiguousarray(samples(kind, 4).transpose(1, 2, 0))
    for name, image in (("rgba.png", pixels), ("rgb.png", pixels[..., :3]), ("gray.png", pixels[..., 0])):
        path = tmp_path / name
        cv2.imwrite(str(path), image)
        numbers = (1,) if image.ndim == 2 else (1, 2, 3)
        found = read_image(path, bands=Bands(numbers))
        assert np.array_equal(np.broadcast_to(found, (H, W, 3)), read_image(path))
    alpha = read_image(tmp_path / "rgba.png", bands=Bands((4,)))[..., 0]
    assert np.array_equal(alpha, pixels[..., 3] >> (8 if kind == "uint16" else 0))
    expected = read_image(tmp_path / "rgb.png")[..., ::-1]
    assert np.array_equal(read_image(tmp_path / "rgb.png", bands=Bands((3, 2, 1))), expected)
    with open_scene(tmp_path / "rgb.png", Bands((3, 2, 1))) as scene:
        assert np.array_equal(scene.read(Window(3, 4, 10, 11)), expected[4:15, 3:13])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_to_bands(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(samples("uint8", 3).transpose(1, 2, 0)).save(tmp_path / "a.png", exif=exif)
    expected = read_image(tmp_path / "a.png")
    assert expected.shape == ((H, W, 3) if orientation < 5 else (W, H, 3))
    assert np.array_equal(read_image(tmp_path / "a.png", bands=Bands((1, 2, 3))), expected)


# --- invalid input


def test_invalid_bands_are_reported_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    floats = write_tiff(tmp_path / "float.tif", samples("float32"))
    wide = write_tiff(tmp_path / "wide.tif", samples("uint16"))
    complex_ = write_tiff(tmp_path / "complex.tif", samples("float32").astype(np.complex64))
    turned = tmp_path / "turned.tif"
    Image.fromarray(samples("uint8", 1)[0]).save(turned, tiffinfo={274: 6})
    (tmp_path / "cut.tif").write_bytes(wide.read_bytes()[:-3000])
    (tmp_path / "cut.png").write_bytes(cv2.imencode(".png", samples("uint8", 1)[0])[1].tobytes()[:200])
    cases = [
        (floats, Bands((2,)), "samples of band 2 are float32, needed data.range"),
        (wide, Bands((1, 6)), "has bands 1 to 5, needed 6 too"),
        (complex_, Bands((1,), ((0, 1),)), "samples are complex64"),
        (turned, Bands((1,)), "stored rotated"),
        (tmp_path / "cut.tif", Bands((1,)), "cannot be decoded"),
        (tmp_path / "cut.png", Bands((1,)), "not a readable image"),
    ]
    for path, bands, text in cases:
        with pytest.raises(InputError, match=text) as error:
            read_image(path, bands=bands)
        assert message_of(error).startswith(f"{path}: ")
        with pytest.raises(InputError, match=text), open_scene(path, bands) as scene:
            scene.read(Window(0, 0, scene.size[1], scene.size[0]))
    assert capfd.readouterr() == ("", "")  # nor do libraries say anything
    monkeypatch.setattr(bands_module, "MAX_BYTES", 5 * 2 * H * W - 1)
    assert read_image(wide, bands=Bands((1, 2, 3, 4))).shape == (H, W, 4)
    with pytest.raises(InputError, match=f"{W * H} px of 5 bands take 19,610 bytes, more than") as error:
        read_image(wide, bands=Bands((1, 2, 3, 4, 5)))
    message_of(error)
    monkeypatch.setattr(bands_module, "MAX_BYTES", 2 * H * W)
    one_block = write_tiff(tmp_path / "block.tif", samples("uint16"), interleave="pixel")  # 15 rows: 8192 / 530
    with pytest.raises(InputError, match="stored in blocks of 7,950 bytes, more than") as error:
        read_image(one_block, bands=Bands((1,)))
    message_of(error)


def test_missing_rasterio_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tiff(tmp_path / "a.tif", samples("uint16"))
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(InputError, match=r"pip install 'boxwright\[geo\]'"):
        read_image(path, bands=Bands((1,)))


@pytest.mark.parametrize(("kind", "count"), [("uint16", 5), ("float32", 1), ("int16", 3), ("uint32", 1)])
def test_non_rgb_tiff_is_rejected_without_bands(
    tmp_path: Path, kind: str, count: int, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_tiff(tmp_path / "a.tif", samples(kind, count))
    with pytest.raises(InputError, match=f"a TIFF of {count} bands? of .* choose them by data.bands") as error:
        read_image(path)
    message_of(error)
    assert capfd.readouterr() == ("", "")  # nor does OpenCV say anything


@pytest.mark.slow
def test_non_rgb_images_are_reported_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A note of `data check`, which has no bands; an error in training without selected bands, which can be skipped."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    for name in "abc":
        labels = write_tiff(tmp_path / "images" / f"{name}.tif", samples("uint8", 3)).parents[1] / "labels"
        labels.mkdir(exist_ok=True)
        (labels / f"{name}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    write_tiff(tmp_path / "images/c.tif", samples("float32", 1))
    (tmp_path / "classes.txt").write_text("car\n")
    dataset = open_boxes(tmp_path, "all")
    (note,) = check(dataset).findings
    assert (note.kind, note.level, "1 band of 32 bits" in note.text) == ("not_rgb", "note", True)
    (error,) = check(dataset, rgb=True).findings
    assert (error.kind, error.level, error.leave_out) == ("unreadable_image", "error", "image")
    small = {"model.width": 0.0625, "data.canvas.size": [64, 64], "train.epochs": 1, "train.batch": 2,
             "train.evaluate_every": 0, "data.workers": 0}  # fmt: skip
    with pytest.raises(InputError, match=r"1 error, the first: .*images/c\.tif"):
        boxwright.train("demo", tmp_path, tmp_path / "run", overrides=small)
    boxwright.train("demo", tmp_path, tmp_path / "run", overrides=small, skip_bad=True)
    with pytest.raises(InputError, match=r"1 error, the first: .*images/c\.tif"):
        boxwright.evaluate(tmp_path / "run", tmp_path, split="all")
    assert boxwright.evaluate(tmp_path / "run", tmp_path, split="all", skip_bad=True).info["images"] == 2


def recipe(**data: Any) -> recipes.Recipe:
    return recipes.load("demo", {f"data.{key}": value for key, value in data.items()})


def test_recipe_with_bands() -> None:
    plain, five = recipe(), recipe(bands=[5, 4, 3, 2, 1], range=[0, 100])
    assert (plain.data.bands, plain.model.input_channels, Bands.of(plain.data)) == (None, 3, None)
    assert five.model.input_channels == 5
    assert Bands.of(five.data) == Bands((5, 4, 3, 2, 1), ((0, 100),) * 5)
    assert Bands.of(recipe(bands=[1, 2], range=[[0, 1], [2, 4]]).data) == Bands((1, 2), ((0, 1), (2, 4)))
    assert recipes.from_tree(five.tree(), "again") == five
    assert five.with_overrides({"data.bands": [1]}).model.input_channels == 1
    assert five.with_overrides({"data.bands": None, "data.range": None}) == plain
    with pytest.raises(InputError, match=r"found all, .* list them"):
        Bands.of(recipe(bands="all").data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"range": [0, 1]}, "set bands"),
        ({"percentiles": [1, 99]}, "set bands"),
        ({"bands": [1, 2], "range": [[0, 1], [0, 1], [0, 1]]}, "range holds 3 pairs, needed one or 2"),
        ({"bands": [1], "range": [5, 5]}, "needed a lower and a higher"),
        ({"bands": [1], "percentiles": [99, 1]}, "needed a lower and a higher"),
        ({"bands": [0]}, "data.bands"),
        ({"bands": []}, "data.bands"),
        ({"bands": "some"}, "data.bands"),
    ],
)
def test_invalid_band_settings_are_rejected(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        recipe(**changes)


def test_bands_of_classifiers_and_input_channels_are_rejected() -> None:
    with pytest.raises(InputError, match=r"data.bands: .* classifiers"):
        recipes.load("tiny_darknet_imagenet_224", {"data.bands": [1, 2]})
    with pytest.raises(InputError, match=r"model.input_channels: found 4, needed 3; it follows data.bands"):
        recipes.from_tree({"name": "x", "model": {"name": "yolov3", "classes": 1, "input_channels": 4}}, "x")


def test_parse_bands_option() -> None:
    assert parse_numbers(None) is None
    assert parse_numbers("all") == "all"
    assert parse_numbers("4, 3,2") == (4, 3, 2)
    for wrong in ("", "0", "1,,2", "-1", "1.5", "red", "99999", "²"):
        with pytest.raises(InputError, match="--bands: found"):
            parse_numbers(wrong)


# --- canvas and augmentation


@pytest.mark.parametrize("kind", ["linear", "area", "zoo", "darknet", "float", "pillow"])
@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("size", [(32, 32), (96, 64), (64, 32)])
def test_bands_are_resized_like_gray_images(kind: str, channels: int, size: tuple[int, int]) -> None:
    image = np.ascontiguousarray(samples("uint8", channels).transpose(1, 2, 0))
    settings = CanvasConfig(size=size, resize=kind, fit="letterbox")  # type: ignore[arg-type]
    frame = frame_for((H, W), settings, 0)
    found = resize_to_canvas(image, frame, settings)
    assert found.shape == (*size, channels)
    for band in range(channels):
        gray = resize_to_canvas(np.repeat(image[..., band : band + 1], 3, 2), frame, settings)
        if kind == "darknet" and canvas.WARP_IS_EXACT:  # OpenCV and PyTorch
            assert np.abs(found[..., band] - gray[..., 0]).max() < 1e-3
        else:
            assert np.array_equal(found[..., band], gray[..., 0])


def test_change_value_with_any_number_of_channels() -> None:
    """Of three channels as `change_colors`; by hand: all are multiplied alike, until the highest is 1."""
    images = torch.rand(4, 3, 8, 9, generator=torch.Generator().manual_seed(0))
    factor = torch.tensor([0.5, 1.0, 1.4, 3.0])
    expected, found = images.clone(), images.clone()
    change_colors(expected, torch.zeros(4), torch.ones(4), factor)
    change_value(found, factor)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    five = torch.tensor([0.1, 0.2, 0.4, 0.0, 0.3]).view(1, 5, 1, 1).repeat(2, 1, 1, 1)
    change_value(five, torch.tensor([2.0, 5.0]))
    torch.testing.assert_close(five[:, :, 0, 0], torch.tensor([[0.2, 0.4, 0.8, 0, 0.6], [0.25, 0.5, 1.0, 0, 0.75]]))


# --- data sets


def band_set(root: Path, pixels: dict[str, np.ndarray], **options: Any) -> Path:
    """A COCO set whose only split, train, has a box in each image."""
    (root / "images").mkdir(parents=True)
    images, annotations = [], []
    for number, (name, each) in enumerate(pixels.items(), 1):
        write_tiff(root / "images" / name, each, **options)
        height, width = each.shape[1:]
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        annotations.append(
            {"id": number, "image_id": number, "category_id": 1, "bbox": [4, 6, 20, 10], "area": 200, "iscrowd": 0}
        )
    tree = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "ship"}]}
    (root / "annotations").mkdir()
    (root / "annotations" / "train.json").write_text(json.dumps(tree))
    return root


def opened(root: Path) -> Dataset:
    return open_boxes(root, "train")


def test_percentiles_are_measured_over_all_samples(tmp_path: Path) -> None:
    pixels = {"a.tif": samples("int16", 4), "b.tif": samples("int16", 4, (20, 30)) // 7}
    for each in pixels.values():
        each[1, :8] = -9999
    root = band_set(tmp_path / "set", pixels, nodata=-9999)
    found = measure(opened(root), recipe(bands=[2, 4], percentiles=[5, 90]))
    for number, pair in zip((2, 4), found, strict=True):
        everything = np.concatenate([each[number - 1].ravel() for each in pixels.values()])
        expected = np.percentile(everything[everything != -9999].astype(float), (5, 90))
        assert pair == pytest.approx(expected, rel=0, abs=1e-9)


def test_constant_band_is_an_error(tmp_path: Path) -> None:
    root = band_set(tmp_path / "set", {"a.tif": np.full((3, H, W), 7, np.uint16)})
    with pytest.raises(InputError, match="band 3 of the training images is 7 throughout") as error:
        measure(opened(root), recipe(bands=[3], percentiles=[1, 99]))
    message_of(error)


@pytest.mark.parametrize("numbers", ["all", (4, 1)])
def test_tiles_keep_samples_of_their_scene(tmp_path: Path, numbers: Any) -> None:
    pixels = samples("uint16")
    root = band_set(tmp_path / "set", {"scene.tif": pixels}, nodata=0, compress="deflate")
    tile(root, tmp_path / "tiles", Cutting(window=32, overlap=0.25, bands=numbers))
    tiles = opened(tmp_path / "tiles")
    entries = json.loads((tmp_path / "tiles" / "annotations" / "train.json").read_text())["images"]
    assert len(entries) == len(tiles) == 4
    chosen = pixels if numbers == "all" else pixels[[3, 0]]
    for entry, index in zip(entries, range(len(tiles)), strict=True):
        x, y = entry["offset"]
        found, nodata = stored(Path(tiles.path(index)))
        assert (found.dtype, nodata) == (np.uint16, 0)
        assert np.array_equal(found, chosen[:, y : y + 32, x : x + 32])
    assert "0 written, 4 there already" in tile(
        root, tmp_path / "tiles", Cutting(window=32, overlap=0.25, bands=numbers)
    )


def test_tiles_of_16_bit_png_and_scaled_tiles(tmp_path: Path) -> None:
    """A PNG of 16 bits; at half the size each px is the mean of four."""
    pixels = samples("uint16", 1, (64, 64))
    root = band_set(tmp_path / "set", {"scene.tif": pixels})
    cv2.imwrite(str(root / "images" / "scene.png"), pixels[0])
    label = root / "annotations" / "train.json"
    label.write_text(label.read_text().replace("scene.tif", "scene.png"))
    (root / "images" / "scene.tif").unlink()
    tile(root, tmp_path / "tiles", Cutting(window=32, scales=(0.5,), bands="all"))
    found, _ = stored(Path(opened(tmp_path / "tiles").path(0)))
    means = pixels[0].astype(float).reshape(32, 2, 32, 2).mean((1, 3))
    assert found.dtype == np.uint16
    assert np.abs(found[0] - means).max() <= 0.5
    (tmp_path / "twice.tif").write_bytes(band_tiles.encode(samples("int32", 2), None, 2.0, "a.tif"))
    found, _ = stored(tmp_path / "twice.tif")
    assert (found.shape, found.dtype) == ((2, 2 * H, 2 * W), np.float64)


def test_invalid_band_tiles_are_rejected(tmp_path: Path) -> None:
    root = band_set(tmp_path / "set", {"scene.tif": samples("uint16")}, nodata=0)
    for cutting, text in (
        ({"bands": (6,)}, "has bands 1 to 5, needed 6 too"),
        ({"bands": "all", "scales": (0.5,)}, "marks px without data"),
    ):
        with pytest.raises(InputError, match=text) as error:
            tile(root, tmp_path / "tiles", Cutting(window=32, **cutting))
        message_of(error)
    with pytest.raises(InputError, match="--format jpg: found with --bands"):
        Cutting(bands="all", format="jpg")
    with pytest.raises(InputError, match=r"\.tif: 5 bands"):
        tile(root, tmp_path / "tiles", Cutting(window=32))


def test_check_decodes_images_with_any_bands(tmp_path: Path) -> None:
    ramp = np.arange(5 * H * W, dtype=np.float32).reshape(5, H, W)
    root = band_set(tmp_path / "set", {"a.tif": samples("uint16"), "b.tif": ramp}, compress="deflate")
    assert not check_folder(root, decode=True).errors
    path = root / "images" / "b.tif"
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = b"\xff" * 400  # inside the compressed pixels
    path.write_bytes(data)
    assert not check_folder(root).errors
    (fault,) = check_folder(root, decode=True).errors
    assert (fault.kind, fault.image) == ("unreadable_image", str(path))


def test_labels_are_drawn_on_selected_bands(tmp_path: Path) -> None:
    ramp = np.linspace(1000, 3000, H * W).reshape(1, H, W).astype(np.uint16)
    root = band_set(tmp_path / "set", {"a.tif": np.concatenate([ramp, ramp[:, ::-1], ramp * 0 + 5, ramp])})
    shown = read_for_display(str(root / "images" / "a.tif"), (4, 2, 3))
    low, high = np.percentile(ramp, (1, 99))
    assert shown[H // 2, 7, 0] == exact(ramp[0, H // 2, 7], low, high)
    assert np.array_equal(shown[..., 0], shown[::-1, :, 1])
    assert not shown[..., 2].any()  # a constant band
    for numbers in ("all", (1,)):
        draw_labels(opened(root), tmp_path / "drawn", 1, numbers)
    with pytest.raises(InputError, match="has bands 1 to 4, needed 5 too"):
        draw_labels(opened(root), tmp_path / "drawn", 1, (5,))


# --- other image files


def frames() -> list[Image.Image]:
    """Two frames of flat colors that a palette holds exactly."""
    return [Image.new("RGB", (W, H), color) for color in ((200, 40, 10), (0, 0, 255))]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation_is_read(tmp_path: Path, kind: str) -> None:
    first, *others = frames()
    path = tmp_path / f"a.{kind.lower()}"
    first.save(path, save_all=True, append_images=others, lossless=True)
    assert header.read_header(str(path), decode=True).size == (H, W)
    assert np.array_equal(read_image(path), np.asarray(first))
    assert np.array_equal(read_image(path, bands=Bands((3, 1))), np.asarray(first)[..., [2, 0]])
    assert path.suffix in header.SUFFIXES


def test_avif_is_read_if_pillow_supports_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.avif"
    if "AVIF" in header.FORMATS:
        frames()[0].save(path, quality=100)
        assert np.abs(read_image(path).astype(int) - [200, 40, 10]).max() <= 3
    else:
        path.write_bytes(b"\0\0\0\x1cftypavif" + bytes(100))
    monkeypatch.setattr(header, "FORMATS", ("JPEG", "PNG"))
    assert header.read_header(str(path)).fault.startswith("AVIF, which this version of Pillow does not read; convert")


def test_heic_is_an_unsupported_format(tmp_path: Path) -> None:
    path = tmp_path / "a.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    fault = header.read_header(str(path)).fault
    assert fault.startswith("HEIC, which is not read; convert it to JPEG or PNG")


def test_overlapping_threads_restore_filters_and_limits() -> None:
    """The first to come in leaves before the second: a restore in that order would keep the second's."""
    before, limit = list(warnings.filters), Image.MAX_IMAGE_PIXELS
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with header.quiet():
            inside.set()
            leave.wait(10)

    first = header.quiet()
    first.__enter__()
    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(10)
    first.__exit__(None, None, None)
    assert Image.MAX_IMAGE_PIXELS is None  # the other still reads
    leave.set()
    thread.join()
    assert (list(warnings.filters), Image.MAX_IMAGE_PIXELS) == (before, limit)


def test_bytes_are_read_like_the_file(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    frames()[0].save(buffer, "GIF")
    assert np.array_equal(read_image(buffer.getvalue()), np.asarray(frames()[0]))
