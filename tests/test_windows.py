"""Grids of windows, and pixels of windows compared with the data written, OpenCV and Pillow."""

import io
import itertools
import re
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from boxwright.errors import InputError
from boxwright.images.decode import read_image
from boxwright.images.header import read_header
from boxwright.images.windows import Georeference, Window, grid, open_scene

rasterio: Any = pytest.importorskip("rasterio", reason="the extra `geo` is not installed")
H, W = 300, 500  # px of the scenes


def noise(bands: int = 3, levels: int = 256, kind: str = "uint8", size: tuple[int, int] = (H, W)) -> np.ndarray:
    return np.random.default_rng(3).integers(0, levels, (bands, *size)).astype(kind)


def write_tiff(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    """Pixels (bands, h, w) as a TIFF written by GDAL."""
    count, height, width = pixels.shape
    options = {"transform": rasterio.Affine(1, 0, 7, 0, -1, 0)} | options  # without one, rasterio warns
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=pixels.dtype, **options
    ) as file:
        file.write(pixels)
    return path


WHOLE = Window(0, 0, W, H)


def read(path: Path, window: Window = WHOLE) -> np.ndarray:
    with open_scene(path) as scene:
        return scene.read(window)


def corners(windows: list[Window]) -> list[tuple[int, int]]:
    return [(window.x, window.y) for window in windows]


def test_window_grid_by_hand() -> None:
    """600 px and 20%: the next window starts after 480 px; the last ones would start at 960 and 480."""
    windows = grid((1000, 1300), 600, 0.2)
    assert corners(windows) == [(0, 0), (480, 0), (700, 0), (0, 400), (480, 400), (700, 400)]
    assert all((window.width, window.height) == (600, 600) for window in windows)
    assert corners(grid((600, 1080), 600, 0.2)) == [(0, 0), (480, 0)]  # no third one where two reach the end
    assert corners(grid((600, 1200), 600, 0)) == [(0, 0), (600, 0)]
    assert len(grid((20_000, 20_000), 600, 0.2)) == 42 * 42  # (20,000 - 600) / 480 = 40.4


def test_windows_are_limited_to_the_size_of_the_scene() -> None:
    assert grid((40, 30), 600, 0.2) == [Window(0, 0, 30, 40)]
    assert grid((600, 600), 600, 0.2) == [Window(0, 0, 600, 600)]
    assert grid((40, 700), 600, 0.5) == [Window(0, 0, 600, 40), Window(100, 0, 600, 40)]


@pytest.mark.parametrize("seed", range(20))
def test_grids_cover_every_pixel_and_overlap_enough(seed: int) -> None:
    draw = np.random.default_rng(seed)
    h, w, side = draw.integers(1, 90, 3).tolist()
    overlap = float(draw.uniform(0, 0.95))
    windows = grid((h, w), side, overlap)
    covered = np.zeros((h, w), int)
    for window in windows:
        x1, y1, x2, y2 = window.xyxy
        assert covered[y1:y2, x1:x2].shape == (min(side, h), min(side, w))  # inside and of full size
        covered[y1:y2, x1:x2] += 1
    assert covered.min() == 1 if overlap < 1 / side else covered.min() >= 1
    assert windows == sorted(windows, key=lambda window: (window.y, window.x))
    assert len(set(windows)) == len(windows)
    columns = sorted({window.x for window in windows})
    assert all(b - a <= max(1, round(side * (1 - overlap))) for a, b in itertools.pairwise(columns))


@pytest.mark.parametrize(
    ("window", "overlap", "message"),
    [
        (600, 1.0, "overlap: found 1.0"),
        (600, -0.1, "overlap: found -0.1"),
        (600, float("nan"), "overlap: found nan"),
        (0, 0.2, "window: found 0"),
        (1, 0.0, "400000000 of them"),
    ],
)
def test_invalid_window_or_overlap_is_an_error(window: int, overlap: float, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        grid((20_000, 20_000), window, overlap)
    assert "\n" not in str(error.value)


LAYOUTS: dict[str, dict[str, Any]] = {
    "strips": {},
    "tiles": {"tiled": True, "blockxsize": 64, "blockysize": 128},
    "deflate": {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate", "predictor": 2},
    "lzw one strip": {"compress": "lzw", "blockysize": H},
    "planes": {"interleave": "band"},
    "BigTIFF": {"BIGTIFF": "YES"},
    "big endian": {"ENDIANNESS": "BIG"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tiff_windows_match_the_pixels(tmp_path: Path, layout: str) -> None:
    pixels = noise()
    path = write_tiff(tmp_path / "a.tif", pixels, photometric="rgb", **LAYOUTS[layout])
    with open_scene(path) as scene:
        assert scene.size == (H, W)
        for window in [*grid((H, W), 128, 0.2), Window(0, 0, W, H), Window(7, 11, 1, 1), Window(W - 1, H - 1, 1, 1)]:
            x1, y1, x2, y2 = window.xyxy
            found = scene.read(window)
            assert found.dtype == np.uint8
            assert found.flags.c_contiguous
            np.testing.assert_array_equal(found, pixels.transpose(1, 2, 0)[y1:y2, x1:x2])


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_jpeg_and_png_windows_match_the_pixels(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    assert cv2.imwrite(str(path), noise().transpose(1, 2, 0))
    expected = read_image(path)
    with open_scene(path) as scene:
        assert (scene.size, scene.georeference) == ((H, W), None)
        for x1, y1, x2, y2 in (window.xyxy for window in grid((H, W), 128, 0.2)):
            found = scene.read(Window(x1, y1, x2 - x1, y2 - y1))
            np.testing.assert_array_equal(found, expected[y1:y2, x1:x2])
            found[:] = 0  # the window is the caller's own: its neighbors stay as they are


def test_exif_orientation_of_a_jpeg_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise().transpose(1, 2, 0)).save(tmp_path / "a.jpg", exif=exif)
    with open_scene(tmp_path / "a.jpg") as scene:
        assert scene.size == (W, H)
        np.testing.assert_array_equal(scene.read(Window(10, 20, 30, 40)), read_image(tmp_path / "a.jpg")[20:60, 10:40])


def tagged_by_gdal(path: Path, four: np.ndarray) -> Path:
    """Four bands of which only GDAL's own tag says that they are blue, green, red and another."""
    with rasterio.open(write_tiff(path, four, photometric="minisblack"), "r+") as file:
        file.colorinterp = [rasterio.enums.ColorInterp[name] for name in ("blue", "green", "red", "undefined")]
    return path


def kinds(folder: Path) -> dict[str, tuple[Path, np.ndarray]]:
    """A TIFF of each kind, and its RGB (h, w, 3)."""
    rgb, four = noise(), noise(4)
    deep, twelve, bit = noise(3, 65536, "uint16"), noise(1, 4096, "uint16"), noise(1, 2)
    palette = Image.fromarray(rgb.transpose(1, 2, 0)).quantize(50)
    palette.save(folder / "palette.tif")
    colors = np.array(palette.convert("RGB"))

    def gray(plane: np.ndarray) -> np.ndarray:
        return np.repeat(plane[:1], 3, axis=0).astype(np.uint8).transpose(1, 2, 0)

    def tiff(name: str, pixels: np.ndarray, **options: Any) -> Path:
        return write_tiff(folder / f"{name}.tif", pixels, **options)

    first = four[:3].transpose(1, 2, 0)
    return {
        "gray": (tiff("gray", rgb[:1]), gray(rgb)),
        "gray and alpha": (tiff("ga", rgb[:2], alpha="yes"), gray(rgb)),
        "alpha": (tiff("rgba", four, photometric="rgb", alpha="yes"), first),
        "infrared": (tiff("rgbn", four, photometric="rgb", alpha="no"), first),
        "no color interpretation": (tiff("three", rgb, photometric="minisblack"), rgb.transpose(1, 2, 0)),
        "16 bits": (tiff("deep", deep, photometric="rgb"), (deep >> 8).astype(np.uint8).transpose(1, 2, 0)),
        "12 bits": (tiff("twelve", twelve, NBITS=12), gray(twelve >> 4)),
        "1 bit": (tiff("bit", bit, NBITS=1), gray(bit * 255)),
        "4 bits": (tiff("nibble", noise(1, 16), NBITS=4), gray(noise(1, 16) * 17)),
        "zstd": (tiff("zstd", rgb, compress="zstd"), rgb.transpose(1, 2, 0)),  # OpenCV does not know it
        "colors of GDAL": (tagged_by_gdal(folder / "bgrn.tif", four), first[..., ::-1]),
        "white is 0": (tiff("white", rgb[:1], photometric="miniswhite"), gray(255 - rgb)),
        "palette": (folder / "palette.tif", colors),
    }


def test_tiff_bands_and_bit_depths_are_converted_to_rgb(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    warnings = {}
    for name, (path, expected) in kinds(tmp_path).items():
        capfd.readouterr()
        np.testing.assert_array_equal(read(path), expected, err_msg=name)
        warnings[name] = capfd.readouterr().err
    for name in ("infrared", "colors of GDAL"):
        assert "of 4 bands only red, green and blue are used" in warnings.pop(name)
    assert "of 16 bits the upper 8 are used" in warnings.pop("16 bits")
    assert "of 12 bits the upper 8 are used" in warnings.pop("12 bits")
    assert set(warnings.values()) == {""}


def test_read_image_and_open_scene_convert_tiffs_equally(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, (path, expected) in kinds(tmp_path).items():
        rounding = 1 if name == "16 bits" else 0  # OpenCV's, of TIFFs with colors
        assert np.abs(read_image(path).astype(int) - expected).max() <= rounding, name
        assert (read_header(str(path)).not_rgb, "imread" in capfd.readouterr().err) == ("", False)
    for count in (2, 4):
        path = write_tiff(tmp_path / f"{count}.tif", noise(count), photometric="minisblack")
        needed = f"a TIFF of {count} untagged bands of 8 bits (unsigned), needed 1, 3, or tagged red, green and blue"
        assert needed in read_header(str(path)).not_rgb
        with pytest.raises(InputError, match=re.escape(f"{count}.tif: {needed}")):
            read_image(path)


def test_orientation_of_a_tiff_with_alpha_is_applied(tmp_path: Path) -> None:
    """Tag 274 is the orientation: 6 is displayed after a quarter turn clockwise. OpenCV would multiply by alpha."""
    pixels = noise(4).transpose(1, 2, 0)
    Image.fromarray(pixels).save(tmp_path / "a.tif", tiffinfo={274: 6})
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE)[..., :3])


def test_tiffs_unreadable_by_opencv_name_the_extra_geo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [kinds(tmp_path)[name][0] for name in ("zstd", "alpha", "no color interpretation")]
    monkeypatch.setitem(sys.modules, "rasterio", None)
    for path in paths:
        with pytest.raises(InputError, match=r"pip install 'boxwright\[geo\]'"):
            read_image(path)


def faulty(folder: Path) -> dict[str, tuple[Path, str]]:
    """Files that are not valid scenes, and their messages."""

    def file(name: str, content: bytes) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    sound = write_tiff(folder / "sound.tif", noise(), compress="deflate", tiled=True, blockxsize=64, blockysize=64)
    data = sound.read_bytes()
    Image.fromarray(noise().transpose(1, 2, 0)).save(folder / "turned.tif", tiffinfo={274: 6})
    located = write_tiff(folder / "geo.tif", noise(), crs='LOCAL_CS["yard",UNIT["metre",1]]').read_bytes()
    unscaled = located.replace(struct.pack("<HHI", 33550, 12, 3), struct.pack("<HHI", 65000, 12, 3))
    bad_key = unscaled.replace(struct.pack("<4H", 1025, 0, 1, 1), struct.pack("<4H", 1025, 0, 9, 1))  # 9 values, of 1
    assert len({located, unscaled, bad_key}) == 3
    return {
        "4 bands": (write_tiff(folder / "4.tif", noise(4), photometric="minisblack"), "4 bands (gray, undefined"),
        "2 bands": (write_tiff(folder / "2.tif", noise(2)), "2 bands (gray, undefined)"),
        "float": (write_tiff(folder / "f.tif", noise(1, 9, "float32")), "samples are float32"),
        "signed": (write_tiff(folder / "i.tif", noise(1, 9, "int16")), "samples are int16"),
        "turned": (folder / "turned.tif", "stored rotated (orientation 6)"),
        "not a TIFF": (file("no.tif", b"II*\0" + bytes(50)), "not a readable TIFF"),
        "truncated header": (file("head.tif", data[:100]), "not a readable TIFF"),
        "damaged": (file("hole.tif", data[:9000] + bytes(40000) + data[49000:]), "cannot be decoded at rows ("),
        "georeference": (file("key.tif", bad_key), "not a readable TIFF (Key GTRasterTypeGeoKey"),
        "name of the system": (
            file("name.tif", located.replace(b"yard", b"\xe7ard")),
            "not a readable TIFF ('utf-8' codec",
        ),
        "text": (file("a.jpg", b"no image at all"), "not an image"),
        "empty": (file("b.png", b""), "the file is empty"),
        "missing": (folder / "c.tif", "cannot be read (No such file or directory)"),
        "folder": (folder, "cannot be read (Is a directory)"),
    }


NAMES = ["4 bands", "2 bands", "float", "signed", "turned", "not a TIFF", "truncated header", "damaged"]
NAMES += ["georeference", "name of the system", "text", "empty", "missing", "folder"]


@pytest.mark.parametrize("name", NAMES)
def test_invalid_scene_is_a_one_line_error(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    path, message = faulty(tmp_path)[name]
    capfd.readouterr()
    with pytest.raises(InputError, match=re.escape(message)) as error:
        read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("entry", [struct.pack("<HHI4s", 274, 2, 4, b"abc"), struct.pack("<HHIHH", 274, 3, 1, 99, 0)])
def test_damaged_orientation_tag_is_ignored(tmp_path: Path, entry: bytes) -> None:
    """The tag as text, and with an undefined value."""
    Image.fromarray(noise().transpose(1, 2, 0)).save(tmp_path / "a.tif", tiffinfo={274: 1})
    data = (tmp_path / "a.tif").read_bytes()
    sound = struct.pack("<HHIHH", 274, 3, 1, 1, 0)
    assert data.count(sound) == 1
    (tmp_path / "a.tif").write_bytes(data.replace(sound, entry))
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), noise().transpose(1, 2, 0))


def test_window_outside_the_scene_is_an_error(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", noise())
    for window in (Window(-1, 0, 5, 5), Window(0, 0, W + 1, 5), Window(0, H - 4, 5, 5), Window(0, 0, 0, 5)):
        with pytest.raises(ValueError, match="is not inside"):
            read(path, window)


def test_georeference_is_read(tmp_path: Path) -> None:
    """UTM zone 50 north, pixels of half a metre: pixel (x, y) lies at east 443,000 + x / 2, north 4,420,000 - y / 2."""
    transform = rasterio.Affine(0.5, 0, 443_000, 0, -0.5, 4_420_000)
    with open_scene(write_tiff(tmp_path / "a.tif", noise(), crs="EPSG:32650", transform=transform)) as scene:
        assert scene.georeference == Georeference("EPSG:32650", (0.5, 0, 443_000, 0, -0.5, 4_420_000))
    with open_scene(write_tiff(tmp_path / "b.tif", noise())) as scene:  # a transform without a coordinate system
        assert scene.georeference is None
    Image.fromarray(noise().transpose(1, 2, 0)).save(tmp_path / "c.tif")
    with open_scene(tmp_path / "c.tif") as scene:
        assert scene.georeference is None


def test_window_of_a_120_000_px_tiff(tmp_path: Path) -> None:
    """120,000 px a side, 43 GB decoded; a sparse file, in which missing blocks are 0."""
    path, side = tmp_path / "huge.tif", 120_000
    with rasterio.open(
        path, "w", driver="GTiff", count=3, height=side, width=side, dtype="uint8", sparse_ok=True, tiled=True,
        blockxsize=512, blockysize=512, photometric="rgb", BIGTIFF="YES", transform=rasterio.Affine(1, 0, 7, 0, -1, 0),
    ) as file:  # fmt: skip
        file.write(noise(size=(100, 100)), window=((90_000, 90_100), (70_000, 70_100)))
    with open_scene(path) as scene:
        assert scene.size == (side, side)
        found = scene.read(Window(69_950, 89_950, 200, 200))
    np.testing.assert_array_equal(found[50:150, 50:150], noise(size=(100, 100)).transpose(1, 2, 0))
    found[50:150, 50:150] = 0
    assert not found.any()


def test_opening_a_tiff_scene_without_rasterio_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tiff(tmp_path / "a.tif", noise())
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(InputError, match=re.escape("pip install 'boxwright[geo]'")):
        read(path)


def png_declaring_size(side: int) -> bytes:
    """A PNG that declares this size, without pixels."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    ]
    made = io.BytesIO(b"\x89PNG\r\n\x1a\n")
    made.seek(0, io.SEEK_END)
    for kind, content in chunks:
        made.write(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content)))
    return made.getvalue()


def test_oversized_png_is_rejected(tmp_path: Path) -> None:
    """15,000 px a side are rejected before memory is allocated, 14,000 are not."""
    (tmp_path / "a.png").write_bytes(png_declaring_size(14_000))
    assert read_header(str(tmp_path / "a.png"), decode=None).size == (14_000, 14_000)
    (tmp_path / "b.png").write_bytes(png_declaring_size(15_000))
    with pytest.raises(InputError, match=r"b\.png: 15000 x 15000 px, more than the 200000000 that") as error:
        read(tmp_path / "b.png")
    assert "\n" not in str(error.value)
