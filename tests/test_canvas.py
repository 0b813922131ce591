"""Files to canvases, compared with the inputs of the original implementations, OpenCV and Pillow; damaged files."""

import io
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from boxwright.errors import InputError
from boxwright.images import canvas as canvas_module
from boxwright.images.canvas import Pixels, frame_for, read_canvas, resize_to_canvas
from boxwright.images.decode import read_image
from boxwright.recipe import CanvasConfig

ORACLES = Path(__file__).parent / "oracles" / "preprocess"


def waves(seed: int, h: int, w: int) -> Pixels:
    """The test image of the reference data: sines with noise, (h, w, 3) uint8."""
    draw, (y, x) = np.random.default_rng(seed), np.mgrid[:h, :w].astype(np.float64)
    image = np.zeros((h, w, 3))
    for channel in range(3):
        for _ in range(4):
            (fx, fy), phase = draw.uniform(0.005, 0.09, 2), draw.uniform(0, 6.28)
            image[..., channel] += np.sin(fx * x + fy * y + phase)
    image += draw.normal(0, 0.15, (h, w, 3))
    image -= image.min()
    return (image / image.max() * 255).astype(np.uint8)


def smooth(h: int, w: int) -> Pixels:
    """An image that JPEG hardly changes."""
    small = np.random.default_rng(0).integers(0, 255, (6, 8, 3)).astype(np.uint8)
    return cv2.resize(small, (w, h), interpolation=cv2.INTER_CUBIC)


def encode(image: Pixels, kind: str, mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).convert(mode).save(file, kind, **options)  # type: ignore[arg-type]
    return file.getvalue()


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize(("file", "side"), [("mindspore_zoo.npz", 416), ("mindspore_yolov4.npz", 608)])
def test_zoo_stretch_matches_mindspore(file: str, side: int, index: int) -> None:
    oracle = np.load(ORACLES / file)
    h, w = oracle[f"in_hw.{index}"].tolist()
    canvas = CanvasConfig(size=(side, side), resize="zoo")
    placed = resize_to_canvas(waves(31 + index, h, w), frame_for((h, w), canvas, 0), canvas).astype(np.float32) / 255
    given = (placed - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    np.testing.assert_allclose(
        given.ravel()[:: int(oracle[f"out.{index}.stride"])], oracle[f"out.{index}.sub"], atol=1e-6
    )


@pytest.mark.parametrize("index", range(3))
def test_area_letterbox_matches_mindyolo(index: int) -> None:
    oracle = np.load(ORACLES / "mindyolo.npz")
    h, w = oracle[f"letterbox.{index}.in_hw"].tolist()
    canvas = CanvasConfig(size=(640, 640), fit="letterbox", fill=114, resize="area")
    frame = frame_for((h, w), canvas, 0)
    np.testing.assert_allclose(frame.scale, oracle[f"letterbox.{index}.hw_scale"])
    # the engine's pads are halves of a pixel; it puts the image where these round down
    np.testing.assert_array_equal(frame.offset, np.floor(oracle[f"letterbox.{index}.hw_pad"]))
    placed = resize_to_canvas(
        waves(31 + index, h, w), frame, canvas
    )  # the engine's image is BGR, as it reads its own files
    stride = int(oracle[f"letterbox.{index}.stride"])
    np.testing.assert_array_equal(placed[..., ::-1].ravel()[::stride], oracle[f"letterbox.{index}.sub"])
    given = placed.transpose(2, 0, 1).astype(np.float32) / 255
    np.testing.assert_allclose(given.ravel()[::stride], oracle[f"network_input.{index}.sub"], atol=1e-7)


@pytest.mark.parametrize("index", range(4))
def test_zoo_corner_matches_mindspore(index: int) -> None:
    """Image 1 is a portrait and is resized twice. `image.stats`: mean, std, minimum and maximum of the full image."""
    oracle = np.load(ORACLES / "faster_rcnn_dcn.npz")
    h, w, *factors = oracle[f"eval.{index}.image_shape"].tolist()
    canvas = CanvasConfig(size=(768, 1280), fit="zoo_corner", fill=0)
    frame = frame_for((int(h), int(w)), canvas, 0)
    np.testing.assert_allclose(frame.scale, factors, rtol=1e-6)
    assert frame.offset == (0, 0)
    placed = resize_to_canvas(waves(31 + index, int(h), int(w)), frame, canvas).astype(np.float32)
    given = (placed - np.float32([123.675, 116.28, 103.53])) / np.float32([58.395, 57.12, 57.375])
    given = given.transpose(2, 0, 1)
    stride = int(oracle[f"eval.{index}.image.stride"])
    np.testing.assert_allclose(given.ravel()[::stride], oracle[f"eval.{index}.image.sub"], atol=1e-6)
    stats = given.mean(dtype=np.float64), given.std(dtype=np.float64), given.min(), given.max()
    np.testing.assert_allclose(stats, oracle[f"eval.{index}.image.stats"][:4], atol=1e-6)


def test_training_boxes_match_the_mindspore_zoo() -> None:
    """Image 0 of the reference training data is neither expanded nor mirrored."""
    oracle = np.load(ORACLES / "faster_rcnn_dcn.npz")
    frame = frame_for((480, 640), CanvasConfig(size=(768, 1280), fit="zoo_corner"), 0)
    boxes = frame.to_canvas(torch.from_numpy(oracle["boxes_in"][:, :4]).float())
    np.testing.assert_allclose(boxes, oracle["train.0.boxes"][:2], rtol=1e-6)


def test_corner_by_hand() -> None:
    """333 x 641 on 96 x 160: the width is the limiting side, and 333 * 160 / 641 = 83.1."""
    canvas, image = CanvasConfig(size=(96, 160), fit="corner", fill=7), waves(5, 333, 641)
    frame = frame_for((333, 641), canvas, 0)
    assert frame.scale == (83 / 333, 160 / 641)
    assert frame.offset == (0, 0)
    placed = resize_to_canvas(image, frame, canvas)
    np.testing.assert_array_equal(placed[:83], cv2.resize(image, (160, 83), interpolation=cv2.INTER_LINEAR))
    assert (placed[83:] == 7).all()
    assert frame_for((641, 333), canvas, 0).scale == (96 / 641, 50 / 333)  # 333 * 96 / 641 = 49.9


@pytest.mark.parametrize("size", [(480, 640), (641, 333), (32, 32), (1, 1), (1, 900), (900, 1), (300, 260), (96, 160)])
@pytest.mark.parametrize("room", [(96, 160), (160, 96), (128, 128)])
@pytest.mark.parametrize("fit", ["corner", "zoo_corner"])
@pytest.mark.parametrize("resize", ["linear", "area", "zoo", "darknet", "float", "pillow"])
def test_corner_content_fills_its_frame(size: tuple[int, int], room: tuple[int, int], fit: str, resize: str) -> None:
    """At the top left, as large as fits, and boxes within 1 px of the pixels."""
    canvas = CanvasConfig.model_validate({"size": room, "fit": fit, "fill": 0, "resize": resize})
    frame = frame_for(size, canvas, 0)
    placed = resize_to_canvas(np.full((*size, 3), 200, np.uint8), frame, canvas)
    left, top, right, bottom = frame.content
    assert (left, top) == (0, 0)
    assert right == pytest.approx(room[1]) or bottom == pytest.approx(room[0])
    expected = np.zeros((*room, 3))
    expected[: round(bottom), : round(right)] = 200
    np.testing.assert_allclose(placed, expected, atol=1e-3)
    full = frame.to_canvas(torch.tensor([[0.0, 0, size[1], size[0]]]))[0]
    np.testing.assert_allclose(full, frame.content, atol=1)
    assert (full[2:] <= torch.tensor(room[::-1]) + 1e-3).all()


@pytest.mark.parametrize("size", [(64, 80), (75, 49), (20, 93), (93, 20), (31, 31), (150, 160), (49, 75), (1, 2)])
def test_torchvision_corner_matches_torchvision(torchvision_ops: ModuleType, size: tuple[int, int]) -> None:
    """Compared with its own transform, also at sizes that its floats round down: 49 * (64 / 49) is below 64."""
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    settings = {"size": (96, 96), "fit": "torchvision_corner", "short_side": 64, "long_side": 93, "resize": "float"}
    canvas, image = CanvasConfig.model_validate(settings), waves(1, *size)
    given = torch.from_numpy(image).permute(2, 0, 1).float()
    reference, _ = GeneralizedRCNNTransform(64, 93, [0, 0, 0], [1, 1, 1])([given])
    frame = frame_for(size, canvas, 0)
    assert frame.content == pytest.approx((0, 0, *reversed(reference.image_sizes[0])))
    placed = resize_to_canvas(image, frame, canvas)
    height, width = reference.image_sizes[0]
    theirs = reference.tensors[0, :, :height, :width].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(placed[:height, :width], theirs, atol=0.02)
    assert (placed[height:] == 114).all()
    assert (placed[:, width:] == 114).all()


def test_torchvision_corner_fits_a_smaller_canvas() -> None:
    canvas = CanvasConfig(size=(64, 96), fit="torchvision_corner", short_side=70, long_side=93)
    assert frame_for((200, 100), canvas, 0).content == (0, 0, 32, 64)


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_canvas_matches_darknet_input(fit: str) -> None:
    canvas = CanvasConfig.model_validate({"size": (416, 416), "fit": fit, "fill": 127.5, "resize": "darknet"})
    placed, _ = read_canvas(str(ORACLES / "person.png"), canvas, 0)
    assert placed.dtype == np.float32
    given = placed.transpose(2, 0, 1).ravel()[::131] / 255
    np.testing.assert_allclose(given, np.load(ORACLES / "darknet.npz")[f"person.png_{fit}_input"], atol=1e-6)


@pytest.mark.parametrize("size", [(480, 640), (641, 333), (1, 1), (1, 900), (900, 1), (300, 260)])
@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
@pytest.mark.parametrize("resize", ["linear", "area", "zoo", "darknet", "float", "pillow"])
def test_content_of_any_image_size_fills_its_frame(size: tuple[int, int], fit: str, resize: str) -> None:
    canvas = CanvasConfig.model_validate({"size": (96, 160), "fit": fit, "fill": 0, "resize": resize})
    frame = frame_for(size, canvas, 0)
    placed = resize_to_canvas(np.full((*size, 3), 200, np.uint8), frame, canvas)
    left, top, right, bottom = np.rint(frame.content).astype(int)
    expected = np.zeros((96, 160, 3))
    expected[top:bottom, left:right] = 200
    np.testing.assert_allclose(placed, expected, atol=1e-3)
    assert left == pytest.approx(160 - right, abs=1)
    assert top == pytest.approx(96 - bottom, abs=1)


@pytest.mark.parametrize(("factor", "size"), [(2, (240, 320)), (4, (120, 159)), (8, (60, 80)), (1, (241, 320))])
def test_jpeg_is_decoded_at_reduced_size(tmp_path: Path, factor: int, size: tuple[int, int]) -> None:
    image = smooth(480, 640)
    (tmp_path / "a.jpg").write_bytes(encode(image, "JPEG", quality=95))
    small = read_image(tmp_path / "a.jpg", size)
    assert small.shape == (480 // factor, 640 // factor, 3)
    average = cv2.resize(image, (640 // factor, 480 // factor), interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(int) - average).mean() < 3
    assert read_image(tmp_path / "a.jpg").shape == (480, 640, 3)


@pytest.mark.parametrize("size", [(481, 643), (643, 481)])
@pytest.mark.parametrize("fit", ["letterbox", "corner", "zoo_corner"])
def test_reduced_decoding_keeps_the_frame(tmp_path: Path, size: tuple[int, int], fit: str) -> None:
    (tmp_path / "a.jpg").write_bytes(encode(smooth(*size), "JPEG", quality=95))
    canvas = CanvasConfig.model_validate({"size": (100, 150), "fit": fit})
    expected = frame_for(size, canvas, 7, str(tmp_path / "a.jpg"))
    full = resize_to_canvas(read_image(tmp_path / "a.jpg"), expected, canvas)
    small, frame = read_canvas(str(tmp_path / "a.jpg"), canvas, 7)
    assert frame == expected
    assert frame.size == size
    assert np.abs(full.astype(int) - small).mean() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(smooth(64, 96), kind, exif=exif)
    (tmp_path / "a").write_bytes(data)
    upright = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert np.abs(read_image(tmp_path / "a").astype(int) - upright).max() <= 6  # decoders of JPEG differ a little
    small, frame = read_canvas(str(tmp_path / "a"), CanvasConfig(size=(20, 20)), 0)
    assert frame.size == upright.shape[:2]
    assert np.abs(small.astype(int) - cv2.resize(upright, (20, 20), interpolation=cv2.INTER_AREA)).mean() < 8


KINDS = ["JPEG CMYK", "JPEG L", "PNG L", "PNG P", "PNG LA", "PNG RGBA", "BMP RGB", "WEBP RGB"]


@pytest.mark.parametrize("name", KINDS)
def test_formats_and_modes_match_pillow(tmp_path: Path, name: str) -> None:
    kind, mode = name.split()
    data = encode(smooth(48, 64), kind, mode, **{"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(kind, {}))
    (tmp_path / "a").write_bytes(data)
    expected = np.array(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(read_image(tmp_path / "a").astype(int) - expected).max() <= (4 if kind == "JPEG" else 0)


def test_alpha_is_dropped_not_blended(tmp_path: Path) -> None:
    image = smooth(20, 30)
    clear = np.dstack([image, np.zeros((20, 30), np.uint8)])
    Image.fromarray(clear).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), image)


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_images_keep_the_upper_8_bits(tmp_path: Path, channels: int) -> None:
    deep = np.random.default_rng(1).integers(0, 65536, (20, 30, channels)).astype(np.uint16)
    assert cv2.imwrite(str(tmp_path / "a.png"), deep)
    expected = np.broadcast_to(deep[..., ::-1] >> 8, (20, 30, 3))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), expected)


JPEG, PNG = encode(waves(3, 60, 80), "JPEG", quality=90), encode(waves(3, 60, 80), "PNG")
HUGE = b"IHDR" + (1_000_000).to_bytes(4, "big") * 2 + PNG[24:29]  # declares a square of a million px


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"this is no image\n" * 20, "not a readable image"),
        (JPEG[: len(JPEG) // 2], "not a readable image"),
        (JPEG[:40], "not a readable image"),
        (PNG[: len(PNG) // 2], "not a readable image"),
        (PNG[:-12], "not a readable image"),
        (PNG[:12] + HUGE + zlib.crc32(HUGE).to_bytes(4, "big") + PNG[33:], "1000000 x 1000000 px, more than"),
        (None, "cannot be read"),
    ],
)
@pytest.mark.parametrize("read", [read_image, lambda path: read_canvas(str(path), CanvasConfig(size=(8, 8)), 0)])
def test_damaged_files_are_reported_in_one_line(
    tmp_path: Path,
    data: bytes | None,
    message: str,
    read: Callable[[Path], object],
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "damaged.jpg"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(InputError, match=message) as error:
        read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(not canvas_module.WARP_IS_EXACT, reason="OpenCV 4 rounds positions to 1/32 px")
@pytest.mark.parametrize("shape", [(480, 640), (37, 11), (1, 1), (2, 300)])
def test_aligned_resize_is_equal_in_opencv_and_pytorch(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3)).astype(np.uint8)
    for size in ((312, 416), (64, 64), (1, 5)):
        ours, theirs = canvas_module.warp_aligned(image, size), canvas_module.interpolate_aligned(image, size)
        np.testing.assert_allclose(ours, theirs, atol=1e-3)
