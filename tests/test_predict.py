"""Images to boxes: geometry, batches, choices, many files, bad input."""

import io
import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import boxwright as bw
from boxwright import models, recipe
from boxwright.predict.inputs import network_inputs, to_batch, trim
from boxwright.predict.output import Summary, find_images, predict_to_folder
from boxwright.predict.predictor import Predictor
from boxwright.recipe import NMSConfig
from boxwright.types import Detections, Frame
from boxwright.weights import checkpoint
from canvases import detect
from stand_in import Rectangles, rectangles_predictor, scene

BOXES, LABELS = [(30, 10, 90, 70), (150, 20, 190, 100)], [0, 2]


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[:, :, ::-1])
    return path


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
@pytest.mark.parametrize("resize", ["linear", "area", "darknet"])
@pytest.mark.parametrize("size", [(110, 200), (220, 195), (64, 64)])
def test_boxes_are_in_image_pixels(fit, resize, size):
    boxes = [(30, 10, 60, 50)] if size == (64, 64) else [(30, 10, 90, 70)]
    found = rectangles_predictor(data__canvas__fit=fit, data__canvas__resize=resize)(scene(*size, boxes, [1]))
    assert found.labels.tolist() == [1]
    assert found.names == ("red", "green", "blue")
    assert found.size == size
    one_canvas_pixel = max(size) / 64
    assert (found.boxes - torch.tensor(boxes)).abs().max() <= one_canvas_pixel


def test_list_of_images_equals_single_calls_in_order(tmp_path):
    predictor = rectangles_predictor()
    images = [scene(110, 200, BOXES[:count], LABELS[:count]) for count in (2, 0, 1, 2, 1)]
    images[3] = write(tmp_path / "three.png", images[3])
    together = predictor(images)
    assert [len(found) for found in together] == [2, 0, 1, 2, 1]
    for image, found in zip(images, together, strict=True):
        alone = predictor(image)
        assert torch.equal(alone.boxes, found.boxes)
        assert torch.equal(alone.scores, found.scores)
    assert together[3].path == str(tmp_path / "three.png")
    assert together[0].path == ""
    assert predictor([]) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolov3_tiny_coco_416_darknet", "yolov3_640_coco"])
def test_batched_forward_equals_single_images(name):
    small = recipe.load(
        name, {"data.canvas.size": [96, 96], "predict.threshold": 0.0, "predict.nms.max_detections": 50}
    )
    torch.manual_seed(0)
    model = models.build(small.model).to(memory_format=torch.channels_last)
    images = [np.random.default_rng(seed).integers(0, 256, (80, 60 + seed, 3), np.uint8) for seed in range(2)]
    predictor = Predictor(model, small)
    for alone, found in zip([predictor(image) for image in images], predictor(images), strict=True):
        assert len(found) == 50
        assert torch.allclose(alone.scores, found.scores, atol=1e-5)


def test_threshold_classes_and_iou_arguments():
    predictor, image = rectangles_predictor(), scene(110, 200, BOXES, LABELS)
    assert predictor(image, threshold=0.95).labels.tolist() == []
    assert predictor(image, classes=["blue"]).labels.tolist() == [2]
    assert predictor(image, classes=[0]).labels.tolist() == [0]
    assert sorted(predictor(image, classes=("0", "blue")).labels.tolist()) == [0, 2]

    class Twice(Rectangles):  # the second box overlaps the first by IoU 80 / 120 = 2 / 3
        def _one(self, image, threshold):
            boxes = torch.tensor([[0.0, 0, 10, 10], [2, 0, 12, 10]])
            return Detections(boxes, torch.tensor([0.9, 0.8]), torch.tensor([1, 1]))

    twice = Predictor(Twice(), predictor.recipe)
    assert len(twice(image, iou=0.65)) == 1
    assert len(twice(image, iou=0.68)) == 2


def test_boxes_are_clipped_before_nms_only_on_request():
    """Cut to the image (100 x 100) the first two boxes are one and the same; whole they overlap by 1/3."""

    class Beyond(Rectangles):
        def _one(self, image, threshold):
            boxes = torch.tensor([[-64.0, 0, 64, 64], [0, 0, 128, 64], [70, 0, 90, 64]])
            return Detections(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([1, 1, 1]))

    predictor = Predictor(Beyond(), rectangles_predictor().recipe)
    frame = Frame(0, "", (100, 100), (64, 64), (0.64, 0.64))
    canvas = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    found = detect(predictor, canvas, [frame], 0.1, NMSConfig(iou=0.5))[0]
    assert found.boxes.tolist() == [[0, 0, 100, 100], [0, 0, 100, 100]]  # the third lies beside the image
    assert found.scores.tolist() == pytest.approx([0.9, 0.8])
    for cut in ("image", "canvas"):
        assert len(detect(predictor, canvas, [frame], 0.1, NMSConfig(iou=0.5, clip=cut))[0]) == 1

    padded = Frame(0, "", (100, 50), (64, 64), (0.64, 0.64))  # the image covers the left half of its canvas
    cuts = {"none": 2, "canvas": 2, "image": 1}
    for cut, left in cuts.items():
        settings = NMSConfig(iou=0.6, clip=cut)

        class Reaching(Rectangles):
            def _one(self, image, threshold):
                boxes = torch.tensor([[0.0, 0, 32, 64], [0, 0, 64, 64]])
                return Detections(boxes, torch.tensor([0.9, 0.8]), torch.tensor([1, 1]))

        predictor = Predictor(Reaching(), predictor.recipe)
        assert len(detect(predictor, canvas, [padded], 0.1, settings)[0]) == left


def test_prediction_restores_train_mode_and_returns_plain_tensors():
    predictor = rectangles_predictor()
    predictor.model.train()
    predictor.model.norm.eval()  # as with frozen batch norm: a part in another mode than the whole
    found = predictor(scene(110, 200, BOXES, LABELS))
    assert predictor.model.seen == [False]
    assert predictor.model.training
    assert not predictor.model.norm.training
    found.boxes[:, 0] += 1  # fails for an inference tensor
    assert found.draw().shape == (110, 200, 3)


def test_load_of_run_folders_and_files_and_missing_recipe(tmp_path):
    small = recipe.load("demo", {"data.canvas.size": [64, 64]})
    torch.manual_seed(1)
    model = models.build(small.model).eval()
    (tmp_path / "run" / "best").mkdir(parents=True)
    checkpoint.save(tmp_path / "run" / "best" / "model.safetensors", model, small)
    images = torch.rand(1, 3, 64, 64)
    for path in (tmp_path / "run", tmp_path / "run/best", tmp_path / "run/best/model.safetensors"):
        predictor = bw.load(path)
        assert (predictor.recipe.model, predictor.recipe.data.canvas) == (small.model, small.data.canvas)
        assert not predictor.model.training
        for ours, theirs in zip(predictor.model(images), model(images), strict=True):
            assert torch.allclose(ours, theirs, atol=1e-5)
    assert bw.load(tmp_path / "run", overrides={"predict.threshold": 0.75}).recipe.predict.threshold == 0.75
    (tmp_path / "some.weights").write_bytes(b"\0" * 100)
    with pytest.raises(bw.InputError, match=r"some.weights: holds no recipe; .*by --recipe .*boxwright list.*--cfg"):
        bw.load(tmp_path / "some.weights")
    with pytest.raises(bw.InputError, match="device 'nowhere'"):
        bw.load(tmp_path / "run", device="nowhere")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p("absent.jpg"), "absent.jpg: cannot be read"),
        (lambda p: p("a\0b.jpg"), "cannot be read .*null"),
        (lambda p: p(Image.new("La", (4, 4))), "Pillow's mode La .*, needed"),
        (lambda p: p(io.BytesIO(b"x")), "found BytesIO, needed an image"),
        (lambda p: p({"a": np.zeros((4, 4, 3), np.uint8)}), "found dict, needed an image"),
        (lambda p: p(np.zeros((4, 4, 3), np.uint8), threshold="0.3"), "threshold: found str, needed a number"),
        (lambda p: p(np.zeros((4, 4, 3))), "found float64 of shape"),
        (lambda p: p(np.zeros((4, 4), np.uint8)), "needed uint8 RGB"),
        (lambda p: p(np.zeros((0, 4, 3), np.uint8)), "needed uint8 RGB"),
        (lambda p: p(np.zeros((4, 4, 3), np.uint8), threshold=1.5), "threshold: found 1.5"),
        (lambda p: p(np.zeros((4, 4, 3), np.uint8), iou=float("nan")), "iou: found nan"),
        (lambda p: p(np.zeros((4, 4, 3), np.uint8), classes=["cat"]), "class 'cat': not one of the model's 3"),
        (lambda p: p(np.zeros((4, 4, 3), np.uint8), classes="cat"), "class 'cat': not one of the model's 3"),
        (lambda p: p(np.zeros((4, 4, 3), np.uint8), classes=["1" * 5000]), "': not one of the model's 3"),
        (lambda p: p(np.zeros((4, 4, 3), np.uint8), classes=[3]), "class '3'"),
    ],
)
def test_invalid_calls_are_one_line_errors(call, message):
    with pytest.raises(bw.InputError, match=message) as error:
        call(rectangles_predictor())
    assert "\n" not in str(error.value)


def test_predict_to_folder(tmp_path):
    first = write(tmp_path / "in/a/x.png", scene(110, 200, BOXES, LABELS))
    second = write(tmp_path / "in/b/x.png", scene(64, 64, [(5, 5, 30, 40)], [1]))
    third = write(tmp_path / "in/photo.JPG", scene(20, 30, [], []))
    broken = tmp_path / "in/broken.png"
    broken.write_bytes(first.read_bytes()[:300])
    dangling = tmp_path / "in/dangling.png"
    dangling.symlink_to(tmp_path / "nothing.png")
    (tmp_path / "in/notes.txt").write_text("no image")
    out = tmp_path / "in/out"
    summary = predict_to_folder(rectangles_predictor(), [tmp_path / "in", str(tmp_path / "in/a/*.png")], out)
    assert summary.images == 3
    assert summary.counts == {"red": 1, "green": 1, "blue": 1}
    assert list(summary.failed) == [str(broken), str(dangling)]
    assert any("broken.png" in line for line in summary.lines())
    assert {path.name for path in out.iterdir()} == {"x.png", "x_2.png", "photo.JPG", "detections.json"}
    tree = json.loads((out / "detections.json").read_text())
    rows = {row["file"]: row for row in tree["images"]}
    assert set(rows) == {str(first), str(second), str(third)}
    assert set(tree["failed"]) == {str(broken), str(dangling)}
    found = rows[str(second)]["detections"]
    assert [one["name"] for one in found] == ["green"]
    assert found[0]["box"] == pytest.approx([5, 5, 30, 40])
    drawn = cv2.imread(str(out / rows[str(first)]["drawn"]))
    assert drawn.shape == (110, 200, 3)
    again = predict_to_folder(rectangles_predictor(), [tmp_path / "in"], out)  # its own drawings are no input
    assert again.images == 3


def test_symlinked_folders_are_searched_once(tmp_path):
    image = write(tmp_path / "elsewhere" / "a.png", scene(20, 30, [], []))
    (tmp_path / "in").mkdir()
    for name in ("first", "second"):
        (tmp_path / "in" / name).symlink_to(image.parent, target_is_directory=True)
    (image.parent / "loop").symlink_to(tmp_path / "in", target_is_directory=True)
    assert find_images([tmp_path / "in"], tmp_path / "out") == [tmp_path / "in" / "first" / "a.png"]


def test_summary_without_detections_suggests_a_lower_threshold():
    assert Summary(Path("found"), 2, {}, {}).lines()[0] == "2 images: nothing found; a lower --threshold finds more"
    assert Summary(Path("found"), 0, {}, {}).lines()[0] == "0 images: nothing found"
    assert "--threshold" not in Summary(Path("found"), 2, {"car": 1}, {}).lines()[0]


def test_python_and_folder_results_are_equal(tmp_path):
    file = write(tmp_path / "x.png", scene(110, 200, BOXES, LABELS))
    predictor = rectangles_predictor()
    predict_to_folder(predictor, [file], tmp_path / "out", predictor.args(classes=["red"]))
    rows = json.loads((tmp_path / "out/detections.json").read_text())["images"][0]["detections"]
    assert [row["box"] for row in rows] == predictor(file, classes=["red"]).boxes.tolist()


def test_invalid_sources_and_folders_are_rejected_before_work(tmp_path):
    predictor = rectangles_predictor()
    image = write(tmp_path / "in/x.png", scene(20, 20, [], []))
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for sources, out, message in [
        ([tmp_path / "absent.jpg"], tmp_path / "out", "absent.jpg: there is no such image"),
        ([tmp_path / "*.gif"], tmp_path / "out", "there is no such image"),
        ([tmp_path / "empty"], tmp_path / "out", "empty: this folder holds no image"),
        ([image], tmp_path / "file", "file: results cannot be written there"),
        ([image], tmp_path / "file/below", "results cannot be written there"),
        ([image], tmp_path / "in", "would be overwritten"),
    ]:
        with pytest.raises(bw.InputError, match=message):
            predict_to_folder(predictor, sources, out)
    with pytest.raises(bw.InputError, match="class 'cat'"):
        predict_to_folder(predictor, [image], tmp_path / "out", predictor.args(classes=["cat"]))
    assert not (tmp_path / "out").exists()
    assert predictor.model.seen == []


def test_trimmed_canvases_and_extents_input():
    """Canvases are cut to what both images need, in steps of 32."""
    frames = [Frame(0, "", (49, 100), (96, 128), (51 / 49, 0.5)), Frame(1, "", (20, 66), (96, 128), (2.0, 1.0))]
    images = torch.arange(2 * 3 * 96 * 128.0).view(2, 3, 96, 128)
    assert torch.equal(torch.stack(trim(images.unbind(), frames, 32)), images[:, :, :64, :96])
    assert torch.equal(torch.stack(trim(images.unbind(), frames[:1], 32)), images[:, :, :64, :64])
    assert [one is images for one in network_inputs(("images",), images, frames)] == [True]
    given, extents = network_inputs(("images", "extents"), images, frames)
    assert given is images
    assert extents.tolist() == [[51, 50], [40, 66]]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_trimmed_canvases_keep_their_memory_format(layout):
    images = torch.arange(2 * 3 * 96 * 128.0).view(2, 3, 96, 128).contiguous(memory_format=layout)
    given = to_batch(images[..., :64, :96].unbind(), torch.device("cpu"))
    assert torch.equal(given, images[..., :64, :96] / 255)
    assert given.is_contiguous(memory_format=layout)


def test_trimmed_canvases_give_equal_detections():
    """Two images on canvases of 160 px, of which the network sees 96 x 128."""
    boxes = [(5, 5, 40, 35), (60, 50, 90, 64)]
    images = [scene(64, 97, boxes, [0, 1]), scene(70, 60, boxes[:1], [2])]
    settings = {"data__canvas__size": [160, 160], "data__canvas__short_side": 64, "data__canvas__long_side": 200}
    settings |= {"data__canvas__fit": "torchvision_corner"}
    whole, trim = rectangles_predictor(**settings), rectangles_predictor(**settings, data__canvas__trim=True)
    shapes = []
    trim.model.register_forward_hook(lambda _, given, __: shapes.append(given[0].shape))
    for ours, theirs in zip(trim(images), whole(images), strict=True):
        assert len(ours) > 0
        assert torch.equal(ours.boxes, theirs.boxes)
    assert shapes == [(2, 3, 96, 128)]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("side", [40, 640])  # small and large batches lie in memory of different kinds
def test_batch_has_the_memory_format_of_the_runtime(channels_last, side):
    backend = SimpleNamespace(channels_last=channels_last)
    pixels = np.random.default_rng(0).integers(0, 256, (3, side, side, 3), dtype=np.uint8)
    for kind in (np.uint8, np.float32):
        canvases = [torch.from_numpy(one.astype(kind)).permute(2, 0, 1) for one in pixels]
        given = to_batch(canvases, torch.device("cpu"), backend)
        assert torch.equal(given, torch.from_numpy(pixels.transpose(0, 3, 1, 2)).float() / 255)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        assert given.is_contiguous(memory_format=layout)
