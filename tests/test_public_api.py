"""`import boxwright as bw`, as a Python user meets it."""

import io
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image
from torch import nn

import boxwright as bw
import class_folder
from boxwright import cli
from boxwright.engine.job import build_network
from boxwright.engine.processes import accelerator_session
from boxwright.predict.predictor import Predictor
from boxwright.runtimes.base.torch_runtime import TorchRuntime
from boxwright.types import Classifier, Detector
from boxwright.weights import checkpoint
from stand_in import rectangles_predictor

SMALL = {"model.width": 0.05, "data.canvas.size": [64, 64], "predict.threshold": 0.01}


def example_image() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """A red and a blue rectangle on gray, RGB."""
    image = np.full((40, 60, 3), 120, np.uint8)
    image[5:20, 5:25] = (255, 0, 0)
    image[22:36, 30:55] = (0, 0, 255)
    return image


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A small detector with random weights."""
    recipe = bw.Recipe.load("demo", SMALL)
    torch.manual_seed(0)
    checkpoint.save(tmp_path / "w.safetensors", bw.create_model(recipe), recipe)
    return tmp_path / "w.safetensors"


def test_every_public_name_is_listed_and_exists() -> None:
    assert set(bw.__all__) <= set(dir(bw))
    for name in bw.__all__:
        assert getattr(bw, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        bw.nothing  # noqa: B018


def test_recipes_and_networks_by_name() -> None:
    assert "yolov3_coco_416" in bw.list_recipes()
    assert bw.Recipe.load("yolov3_coco_416", {"train.epochs": 3}).train.epochs == 3
    with pytest.raises(bw.InputError, match="did you mean 'yolov3_coco_416'"):
        bw.Recipe.load("yolov3_coco_417")
    detector = bw.create_model("demo", classes=5, overrides={"model.width": 0.05})
    assert isinstance(detector, Detector)
    assert detector(torch.zeros(1, 3, 64, 64))[0].shape[1] == 3 * (5 + 5)
    classifier = bw.create_model("tiny_darknet_imagenet_224_darknet", classes=3)
    assert isinstance(classifier, Classifier)
    assert classifier(torch.zeros(1, 3, 64, 64))[0].shape == (1, 3)


def test_every_image_type_gives_the_same_detections(tmp_path: Path) -> None:
    predictor, image = rectangles_predictor(), example_image()
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), image[..., ::-1])
    expected = predictor(image)
    assert [one.name for one in expected] == ["red", "blue"]
    kinds = [path, str(path), path.read_bytes(), Image.fromarray(image), torch.from_numpy(image).permute(2, 0, 1)]
    for kind in kinds:
        found = predictor(kind)
        assert found.boxes.tolist() == expected.boxes.tolist(), type(kind)
        assert found.class_names == expected.class_names
        assert (found.path, found.size) == (str(path) if kind in (path, str(path)) else "", (40, 60))
    assert [len(one) for one in predictor(kinds)] == [2] * 5
    swapped = predictor(image[..., ::-1].copy(), bgr=True)
    assert swapped.boxes.tolist() == expected.boxes.tolist()
    assert predictor(image[..., ::-1].copy()).class_names == ["blue", "red"]
    sideways = Image.fromarray(image).rotate(90, expand=True)
    exif = sideways.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise for display
    stream = io.BytesIO()
    sideways.save(stream, "PNG", exif=exif)
    assert predictor(Image.open(stream)).boxes.tolist() == expected.boxes.tolist()
    assert predictor(stream.getvalue()).boxes.tolist() == expected.boxes.tolist()


def test_reversed_and_read_only_arrays_of_the_size_of_the_canvas() -> None:
    """Such an image is not resized, so the network gets the array itself, which PyTorch cannot share."""
    predictor, image = rectangles_predictor(), np.pad(example_image(), ((12, 12), (2, 2), (0, 0)), mode="edge")
    assert image.shape[:2] == predictor.recipe.data.canvas.size
    expected = predictor(image)
    assert expected.class_names == ["red", "blue"]
    bgr = image[..., ::-1].copy()
    assert predictor(bgr, bgr=True).boxes.tolist() == expected.boxes.tolist()
    assert predictor(bgr[..., ::-1]).boxes.tolist() == expected.boxes.tolist()
    assert (
        predictor(np.frombuffer(image.tobytes(), np.uint8).reshape(64, 64, 3)).boxes.tolist() == expected.boxes.tolist()
    )
    assert predictor(Image.fromarray(image)).boxes.tolist() == expected.boxes.tolist()  # Pillow's arrays are read-only


def test_devices_and_recipes_of_other_types(weights: Path, tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    assert bw.load(weights, device=cpu).device == cpu
    bw.export_model(weights, "pt2", tmp_path / "m.pt2")
    assert bw.load(tmp_path / "m.pt2", device=cpu).device == cpu
    with pytest.raises(bw.InputError, match=r"none\.yaml: cannot be read"):
        bw.train(tmp_path / "none.yaml", tmp_path, tmp_path / "run")


def test_generator_is_consumed_batch_by_batch() -> None:
    predictor, taken = rectangles_predictor(), []

    def endless():
        while True:
            taken.append(None)
            yield example_image()

    found = predictor(endless())
    assert not taken
    assert next(found).class_names == ["red", "blue"]
    assert len(taken) == predictor.recipe.predict.batch
    assert list(predictor(iter([]))) == []


@pytest.mark.parametrize(
    ("source", "words", "message"),
    [
        (7, {}, "found int, needed an image or an iterable"),
        ([None], {}, "found NoneType, needed a path, bytes"),
        (torch.zeros(3, 4, 4), {}, r"a tensor of float32 of shape \(3, 4, 4\), needed uint8 RGB"),
        (np.zeros((4, 4)), {}, r"found float64 of shape \(4, 4\)"),
        (b"no image", {}, "not a readable image"),
        (b"", {}, "image"),
        ("a.png", {"bgr": True}, "bgr: found str, needed an array"),
    ],
)
def test_invalid_images_are_rejected(source: object, words: dict[str, bool], message: str) -> None:
    with pytest.raises(bw.InputError, match=message):
        rectangles_predictor()(source, **words)  # type: ignore[call-overload]


def test_notebook_shows_the_image_with_its_boxes() -> None:
    found = rectangles_predictor()(example_image())
    shown = cv2.imdecode(np.frombuffer(found._repr_png_(), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert np.array_equal(shown, found.draw())
    assert not np.array_equal(shown, example_image())


def test_result_without_pixels_cannot_be_drawn() -> None:
    found, image = rectangles_predictor()(example_image()), example_image()
    bare = bw.Prediction(found.boxes, found.scores, found.labels, found.names)
    with pytest.raises(bw.InputError, match=r"draw: the result has neither pixels nor a file; give the image"):
        bare.draw()
    assert np.array_equal(bare.draw(image), found.draw())


def test_hooks_and_edits_of_the_network_take_effect(weights: Path) -> None:
    """The network of a predictor is the one that runs; a fused copy only on request."""
    predictor, image = bw.load(weights), example_image()
    assert isinstance(predictor, Predictor)
    fired: list[nn.Module] = []
    convolution = next(module for module in predictor.model.modules() if isinstance(module, nn.Conv2d))
    convolution.register_forward_hook(lambda module, given, output: fired.append(module))
    before = predictor(image)
    assert len(before)
    assert fired
    with torch.no_grad():
        convolution.weight.zero_()
    assert predictor(image) != before
    fast = bw.load(weights, runtime_options=bw.RuntimeOptions(fuse=True))
    assert isinstance(fast.runtime, TorchRuntime)
    assert fast.runtime.network is not fast.model
    assert len(fast(image)) == len(before)


@pytest.mark.slow
def test_load_and_evaluate_work_for_both_tasks(weights: Path, tiny_coco: Path, tmp_path: Path) -> None:
    data = bw.open_dataset(tiny_coco, "val")
    assert len(data) == 4
    recipe = bw.Recipe.load("demo", SMALL).with_names(["blue", "red"])
    checkpoint.save(tmp_path / "two.safetensors", bw.create_model(recipe), recipe)
    scored = bw.evaluate(tmp_path / "two.safetensors", tiny_coco, split="val", out=tmp_path / "out")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["images"] == 4
    again = bw.evaluate(bw.load(tmp_path / "two.safetensors"), data)
    assert scored.summary == again.summary
    folders = class_folder.write(tmp_path / "classes", {"train": 2, "val": 2})
    chosen = bw.Recipe.load("tiny_darknet_cifar10").with_names(bw.open_dataset(folders, "val").names)
    checkpoint.save(tmp_path / "c.safetensors", bw.create_model(chosen), chosen)
    classifier = bw.load(tmp_path / "c.safetensors")
    assert isinstance(classifier, bw.Predictor)
    assert 0 <= bw.evaluate(classifier, folders).summary["top1"] <= 1
    with pytest.raises(bw.InputError, match="holds labels for a detector, the model is a classifier"):
        bw.evaluate(classifier, data)
    with pytest.raises(bw.InputError, match="holds labels for a classifier, the model is a detector"):
        bw.evaluate(weights, bw.open_dataset(folders, "val"))


@pytest.mark.slow
def test_import_keeps_global_state_of_the_host_program() -> None:
    """Of Pillow, OpenCV, the umask, logging and what is printed."""
    code = """if True:
        import logging, os, cv2, PIL.Image
        level = cv2.utils.logging.getLogLevel()
        mask = os.umask(0o027)
        before = PIL.Image.MAX_IMAGE_PIXELS, list(logging.getLogger().handlers)
        import boxwright as bw
        for name in bw.__all__:
            getattr(bw, name)
        assert os.umask(mask) == 0o027
        assert (PIL.Image.MAX_IMAGE_PIXELS, list(logging.getLogger().handlers)) == before
        assert not logging.getLogger("boxwright").handlers
        assert cv2.utils.logging.getLogLevel() == level
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_torch_dynamo_is_imported_lazily() -> None:
    """It takes as long as PyTorch itself."""
    code = "import sys, boxwright as bw; bw.load, bw.train, bw.evaluate; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_accelerate_state_of_the_host_program_is_kept() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)  # of other tests
    host = Accelerator(cpu=True, mixed_precision="bf16")
    try:
        with accelerator_session(bw.Recipe.load("demo").train) as ours:
            assert ours.mixed_precision == "no"
        assert AcceleratorState().mixed_precision == host.mixed_precision == "bf16"
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def test_random_numbers_of_the_host_program_are_kept() -> None:
    """Otherwise the random numbers after each training are the same ones, whatever the program's seed."""
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with accelerator_session(bw.Recipe.load("demo").train):
        build_network(bw.Recipe.load("demo", SMALL))
    assert torch.equal(torch.rand(3), expected)


def test_messages_go_through_logging(log: list[str]) -> None:
    from boxwright import progress

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
        patch.setattr("sys.stderr.isatty", lambda: False)
        list(progress.track([1], 1, "reading"))
    assert {line.partition(",")[0] for line in log} == {"reading: 1/1"}


@pytest.mark.slow
def test_published_metric_is_shown_beside_the_measured_one(
    tmp_path: Path, tiny_coco: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    published = bw.Recipe.load("yolov3_tiny_coco_416_darknet").expect
    assert published.beside({"AP50": 0.4421}) == (
        "AP50 0.442 here, published 0.331 (pjreddie.com/darknet/yolo, COCO test-dev)"
    )
    assert published.beside({"top1": 0.5}) == bw.Recipe.load("demo").expect.beside({"AP50": 0.5}) == ""
    changes = SMALL | {"expect": {"metric": "AP", "value": 0.25, "source": "a paper"}}
    chosen = bw.Recipe.load("demo", changes).with_names(["blue", "red"])
    (tmp_path / "r.yaml").write_text(chosen.to_yaml())
    checkpoint.save(tmp_path / "w.safetensors", bw.create_model(chosen), chosen)
    words = ["evaluate", "w.safetensors", "--data", str(tiny_coco), "--recipe", "r.yaml"]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as leaving:
        cli.main(words)
    assert leaving.value.code == 0
    measured = json.loads(Path("evaluation/metrics.json").read_text())["summary"]["AP"]
    assert f"AP {measured:.3f} here, published 0.25 (a paper)\n" in capsys.readouterr().out


def test_numpy_and_torch_integers_are_valid_indices() -> None:
    found = bw.Detections(torch.tensor([[0.0, 0, 1, 1], [2, 2, 3, 3]]), torch.tensor([0.9, 0.8]), torch.tensor([0, 1]))
    assert found[np.int64(1)] == found[torch.tensor(1)] == found[-1] == found[1]
    assert len(found[torch.tensor([True, False])]) == 1


def test_16_bit_pillow_image_matches_its_file(weights: Path, tmp_path: Path) -> None:
    file = tmp_path / "deep.png"
    PIL.Image.fromarray((np.arange(64 * 64).reshape(64, 64) * 15).astype(np.uint16)).save(file)
    predictor = bw.load(weights)
    same = predictor.preprocess(file).pixels, predictor.preprocess(PIL.Image.open(file)).pixels
    assert (same[0] == same[1]).all()
    assert same[0].max() > 200
    with pytest.raises(bw.InputError, match="mode F"):
        predictor(PIL.Image.new("F", (32, 32)))


def test_predictor_rejects_a_recipe_with_other_classes() -> None:
    """Its names would be those of other classes."""
    model = bw.create_model("demo", classes=2, overrides=SMALL)
    with pytest.raises(bw.InputError, match="recipe demo: found 3 classes, the network has 2; use the recipe"):
        bw.Predictor(model, bw.Recipe.load("demo", SMALL))
    named = bw.Recipe.load("demo", SMALL).with_names(["car", "truck"])
    assert bw.Predictor(model, named).names == ("car", "truck")


def test_model_and_recipe_of_a_predictor_are_read_only(weights: Path) -> None:
    predictor = bw.load(weights)
    for name in ("model", "recipe"):
        with pytest.raises(AttributeError, match="no setter"):
            setattr(predictor, name, getattr(predictor, name))
