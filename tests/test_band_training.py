"""Networks of other channels than RGB: weights against timm's rule, and the way from training to exported files."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import boxwright as bw
from boxwright import recipe as recipes
from boxwright import weights
from boxwright.engine import bands as engine_bands
from boxwright.engine.train import train
from boxwright.errors import InputError
from boxwright.evaluation.evaluate import evaluate
from boxwright.export.run import export_model
from boxwright.images.bands import Bands
from boxwright.images.decode import read_image
from boxwright.models import build
from boxwright.nn.channels import set_channels, spread, widen
from boxwright.predict import tensors
from boxwright.predict.output import predict_to_folder
from boxwright.predict.predictor import load
from boxwright.predict.scene_output import predict_scenes_to_folder
from boxwright.predict.tiled import Tiling
from boxwright.weights import checkpoint, darknet
from boxwright.weights.stored import untrusted
from small_run import SMALL
from test_bands import band_set, samples

SHIPS = Path(__file__).parents[2] / "shared" / "data" / "bands" / "ships"
TINY = {"model.width": 0.125, "data.canvas.size": [64, 64]}  # YOLOv3-tiny


def tiny(channels: int | None, **changes: Any) -> recipes.Recipe:
    """A recipe of YOLOv3-tiny with that many bands; None for RGB."""
    numbers = None if channels is None else list(range(1, channels + 1))
    return recipes.load("demo", TINY | {"data.bands": numbers} | changes)


# --- weights


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 6, 7])
def test_first_convolution_is_widened_like_timm(channels: int) -> None:
    timm = pytest.importorskip("timm.models", reason="timm is not installed")
    weight = torch.randn(8, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    expected = timm.adapt_input_conv(channels, weight.clone())
    torch.testing.assert_close(widen(weight, channels), expected, rtol=0, atol=1e-6)


def test_widened_weights_by_hand() -> None:
    weight = torch.tensor([1.0, 10.0, 100.0]).view(1, 3, 1, 1)
    assert widen(weight, 4).flatten().tolist() == pytest.approx([0.75, 7.5, 75, 0.75])
    assert widen(weight, 1).flatten().tolist() == [111]
    assert spread((1.0, 2.0, 6.0), 5).flatten().tolist() == [1, 2, 6, 1, 2]
    assert spread((1.0, 2.0, 6.0), 1).tolist() == [[[3.0]]]


@pytest.mark.parametrize("suffix", [".safetensors", ".weights", ".pt"])
@pytest.mark.parametrize("channels", [1, 6])
def test_widened_weights_keep_outputs_of_gray_images(tmp_path: Path, suffix: str, channels: int) -> None:
    rgb, wide = tiny(None), tiny(channels)
    network = build(rgb.model).eval()
    file = tmp_path / f"rgb{suffix}"
    match suffix:
        case ".safetensors":
            checkpoint.save(file, network, rgb)
        case ".weights":
            darknet.write(file, network)
        case ".pt":
            torch.save(network.state_dict(), file)
    widened = build(wide.model).eval()
    report = weights.load(widened, file, wide)
    assert not report.fresh
    gray = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        expected, found = network(gray.expand(-1, 3, -1, -1)), widened(gray.expand(-1, channels, -1, -1))
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    with pytest.raises(
        InputError, match=r"(conv.weight is \[2, 3, 3, 3\]|mean is \[3, 1, 1\]), the model's is"
    ):  # to predict, all must fit
        weights.build(file, wide)


def test_darknet_weights_with_five_or_three_channels(tmp_path: Path) -> None:
    """A file of five channels is one of five, one of RGB is widened, cut or of other classes with transfer."""
    five, rgb = tiny(5), tiny(None)
    network, source = build(five.model), build(rgb.model)
    darknet.write(tmp_path / "five.weights", network)
    same = weights.build(tmp_path / "five.weights", five).state_dict()
    assert all(torch.equal(value, same[name]) for name, value in network.state_dict().items())
    darknet.write(tmp_path / "cut.conv.3", source, convolutions=3)
    report = weights.load(network, tmp_path / "cut.conv.3", five, transfer=True)
    assert "backbone.layers.0.conv.weight" in report.matched
    torch.testing.assert_close(
        network.state_dict()["backbone.layers.0.conv.weight"],
        widen(source.state_dict()["backbone.layers.0.conv.weight"], 5),
    )
    with pytest.raises(InputError, match="it is a cut with 3"):
        weights.load(network, tmp_path / "cut.conv.3", five)


def test_mean_and_std_are_widened_with_the_weights(tmp_path: Path) -> None:
    changes = {"model.mean": [0.4, 0.5, 0.6], "model.std": [0.2, 0.25, 0.5]}
    rgb, wide = tiny(None, **changes), tiny(6, **changes)
    network, widened = build(rgb.model).eval(), build(wide.model).eval()
    checkpoint.save(tmp_path / "rgb.safetensors", network, rgb)
    assert not weights.load(widened, tmp_path / "rgb.safetensors", wide).fresh
    gray = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        pairs = zip(network(gray.expand(-1, 3, -1, -1)), widened(gray.expand(-1, 6, -1, -1)), strict=True)
        for one, other in pairs:
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    other = tiny(6, **(changes | {"model.std": [0.2, 0.25, 0.4]}))
    with pytest.raises(InputError, match="std is"):
        weights.load(build(other.model), tmp_path / "rgb.safetensors", other)


@pytest.mark.parametrize("name", [name for name in recipes.names() if recipes.load(name).model.task == "detect"])
def test_every_detector_supports_four_channels(name: str) -> None:
    recipe = recipes.load(name, {"data.bands": [1, 2, 3, 4]})
    network = weights.without_memory(recipe.model)
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    rgb = next(m for m in weights.without_memory(recipes.load(name).model).modules() if isinstance(m, nn.Conv2d))
    assert first.weight.shape == (rgb.out_channels, 4, *rgb.kernel_size)
    assert (first.stride, first.padding, first.bias is None) == (rgb.stride, rgb.padding, rgb.bias is None)
    assert network.mean.shape == (4, 1, 1)


def test_network_with_unsupported_first_convolution_is_rejected() -> None:
    network = nn.Sequential(nn.Conv2d(7, 2, 1))
    for channels in (3, 7):  # as it is
        set_channels(network, channels)
        assert network[0].in_channels == 7
    with pytest.raises(InputError, match=r"data.bands: found 4, the model's first convolution cannot take them"):
        set_channels(network, 4)


def test_bands_and_canvas_limit_of_an_untrusted_recipe() -> None:
    found = untrusted(tiny(4, **{"data.range": [0, 1000]}).tree(), "a file")
    assert found.model.input_channels == 4
    assert Bands.of(found.data) == Bands((1, 2, 3, 4), ((0, 1000),) * 4)
    many = {"data.bands": [1] * 300, "data.canvas.size": [1024, 1024]}
    with pytest.raises(InputError, match=r"data.canvas.size: found \(1024, 1024\), at most 167,772 px"):
        untrusted(recipes.load("demo", many).tree(), "a file")


# --- from training to exported files


@dataclass(frozen=True)
class Trained:
    data: Path
    run: Path
    ranges: list[tuple[float, float]]


SETTINGS = SMALL | {
    "data.canvas.size": [64, 64], "train.epochs": 1, "data.bands": "all", "data.percentiles": [2, 98],
    "train.augment.value": [0.5, 1.5],
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Two steps on four images of five bands, 16 bits."""
    root = tmp_path_factory.mktemp("bands")
    pixels = {f"{number}.tif": samples("uint16", 5, (48, 64 + number)) // (number + 2) for number in range(4)}
    data = band_set(root / "set", pixels)
    tree = json.loads((data / "annotations" / "train.json").read_text())
    (data / "annotations" / "val.json").write_text(json.dumps(tree))
    run = train("demo", data, root / "run", overrides=SETTINGS)
    everything = [np.concatenate([each[band].ravel() for each in pixels.values()]) for band in range(5)]
    return Trained(data, run, [tuple(np.percentile(band.astype(float), (2, 98))) for band in everything])


def image(trained: Trained, number: int = 0) -> Path:
    return trained.data / "images" / f"{number}.tif"


def test_run_stores_bands_and_ranges(trained: Trained) -> None:
    data = recipes.load(trained.run / "recipe.yaml").data
    assert data.bands == (1, 2, 3, 4, 5)
    assert data.range is not None
    for found, expected in zip(data.range, trained.ranges, strict=True):
        assert found == pytest.approx(expected, abs=1e-9)
    predictor = load(trained.run, device="cpu")
    assert predictor.bands == Bands(data.bands, data.range)
    assert predictor.model.state_dict()["backbone.layers.0.conv.weight"].shape[1] == 5


@pytest.mark.slow
def test_resuming_keeps_the_measured_range(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(engine_bands, "measure", never)
    monkeypatch.setattr(engine_bands, "all_bands", never)
    before = (trained.run / "recipe.yaml").read_text()
    train("demo", trained.data, trained.run, resume=True, overrides=SETTINGS)
    assert (trained.run / "recipe.yaml").read_text() == before
    with pytest.raises(InputError, match=r"data.percentiles is \[2.0, 98.0\] there"):
        train("demo", trained.data, trained.run, resume=True, overrides=SETTINGS | {"data.percentiles": [3, 98]})


def test_files_windows_arrays_and_tensors_give_equal_predictions(trained: Trained, tmp_path: Path) -> None:
    predictor = load(trained.run, device="cpu")
    path = image(trained)
    pixels = read_image(path, bands=predictor.bands)
    assert pixels.shape == (48, 64, 5)
    expected = predictor(path, threshold=0.001)
    assert len(expected)
    assert np.array_equal(expected.image, pixels[..., :3])  # to draw on
    assert expected.draw().shape == (48, 64, 3)
    with bw.open_scene(path, predictor.bands) as scene:
        window = bw.predict_scene(predictor, scene, Tiling(64), threshold=0.001)
    for other in (
        predictor(pixels, threshold=0.001),
        predictor(torch.from_numpy(pixels).permute(2, 0, 1), threshold=0.001),
        predictor(path.read_bytes(), threshold=0.001),
        window,
    ):
        assert torch.equal(other.boxes, expected.boxes)
        assert torch.equal(other.scores, expected.scores)
    for wrong in (pixels[..., :3], pixels.astype(np.uint16)):
        with pytest.raises(InputError, match=r"needed uint8 of the stretched bands \(height, width, 5\)"):
            predictor(wrong)
    cv2.imwrite(str(tmp_path / "rgb.png"), pixels[..., :3])
    with pytest.raises(InputError, match="has bands 1 to 3, needed 5 too"):
        predictor(tmp_path / "rgb.png")


@pytest.mark.slow
def test_evaluate_predict_and_write_tensors_with_bands(trained: Trained, tmp_path: Path) -> None:
    predictor = load(trained.run, device="cpu")
    assert evaluate(predictor, trained.data, "val", tmp_path / "evaluation").summary
    assert (tmp_path / "evaluation" / "sheet.jpg").is_file()
    found = predict_to_folder(predictor, [trained.data / "images"], tmp_path / "drawn")
    assert (found.images, found.failed) == (4, {})
    found = predict_scenes_to_folder(predictor, [trained.data / "images"], tmp_path / "scenes", Tiling(32))
    assert (found.images, found.failed) == (4, {})
    tensors.write(trained.data, tmp_path / "tensors", predictor.recipe, count=1)
    head = json.loads((tmp_path / "tensors" / "tensors.json").read_text())
    assert head["shape"] == [1, 5, 64, 64]
    assert head["bands"] == [1, 2, 3, 4, 5]
    assert np.allclose(head["range"], trained.ranges, rtol=0, atol=1e-9)
    written = np.fromfile(tmp_path / "tensors" / head["images"][0]["file"], "<f4").reshape(5, 64, 64)
    expected = predictor.pipeline.inputs([predictor.preprocess(image(trained))])[0][0]  # type: ignore[attr-defined]
    assert np.array_equal(written, expected.numpy())


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "torchscript", "pt2"])
def test_exported_files_predict_from_bands(trained: Trained, tmp_path: Path, to: str) -> None:
    if to == "onnx":
        pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    for complete in (False, True)[: 2 if to == "onnx" else 1]:
        report = export_model(
            trained.run, to, tmp_path / f"{complete}.{to}", complete=complete, data=str(trained.data),
            overrides={"predict.threshold": 0.001},
        )  # fmt: skip
        ours, theirs = load(trained.run, device="cpu"), load(report.file, trust=True)
        assert theirs.bands == ours.bands
        expected, found = (each(image(trained, 1), threshold=0.001) for each in (ours, theirs))
        assert len(found) == len(expected) > 0
        torch.testing.assert_close(found.boxes, expected.boxes, rtol=0, atol=0.05)
        with pytest.raises(InputError, match=r"data.bands: found 2, the file takes 5 channels"):
            load(report.file, trust=True, overrides={"data.bands": [1, 2], "data.range": None})


@pytest.mark.slow
def test_run_starts_from_rgb_weights(trained: Trained, tmp_path: Path) -> None:
    rgb = recipes.load("demo", SMALL | {"data.canvas.size": [64, 64]})
    network = build(rgb.model)
    checkpoint.save(tmp_path / "rgb.safetensors", network, rgb)
    changes = SETTINGS | {
        "data.bands": [5, 1],
        "train.schedule.lr": 1e-9,
        "train.schedule.eta_min": 0,
        "train.ema.decay": 0,
    }
    run = train("demo", trained.data, tmp_path / "run", weights=tmp_path / "rgb.safetensors", transfer=True,
                overrides=changes)  # fmt: skip
    name = "backbone.layers.0.conv.weight"
    found = load(run, device="cpu").model.state_dict()[name]
    torch.testing.assert_close(found, network.state_dict()[name][:, :2] * 1.5, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not SHIPS.is_dir(), reason="the folder shared is not there")
def test_train_and_predict_five_band_satellite_scenes(tmp_path: Path) -> None:
    """Satellite scenes whose bands are interleaved in one file and planes in the other."""
    from boxwright.datatools.check import check_folder

    assert not check_folder(SHIPS, decode=True).errors
    run = train("demo", SHIPS, tmp_path / "run", overrides=SETTINGS | {"train.batch": 1, "data.bands": [3, 2, 1, 4, 5]})
    predictor = load(run, device="cpu")
    assert predictor.recipe.data.range is not None
    assert 0 < predictor.recipe.data.range[3][0] < predictor.recipe.data.range[3][1] < 39262
    summary = predict_scenes_to_folder(
        predictor, [SHIPS / "images"], tmp_path / "found", Tiling(128), threshold=0.001, geojson=True
    )
    assert (summary.images, summary.failed) == (2, {})
    assert (tmp_path / "found" / "honolulu.wgs84.geojson").is_file()
