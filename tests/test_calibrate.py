"""Calibration: ECE compared with hotcoco and by hand, temperatures compared with those that generated the scores."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import boxwright as bw
from boxwright import tasks
from boxwright.cli.commands import app
from boxwright.errors import InputError
from boxwright.evaluation import calibrate as module
from boxwright.interop import to_coco
from boxwright.metrics.calibration import calibration, class_temperatures, softmax_temperature, temperature
from boxwright.metrics.matching import Kind, match
from boxwright.ops.temperature import lowest_before, scale
from boxwright.predict.pipeline import FilePipeline
from boxwright.predict.predictor import load
from boxwright.runtimes.base.metadata import Metadata
from boxwright.types import Detections
from boxwright.weights import checkpoint
from random_detector import write_images, write_weights
from test_errors import NAMED, made


def test_scale_divides_logits_and_its_reciprocal_inverts_it() -> None:
    scores = torch.linspace(0.001, 0.999, 200, dtype=torch.float64)
    for value in (0.3, 1.0, 2.5):
        wanted = (scores.logit() / value).sigmoid()
        found = scale(scores, torch.tensor(value))
        torch.testing.assert_close(found, wanted)
        assert (found.diff() > 0).all()
        torch.testing.assert_close(scale(found, torch.tensor(1 / value)), scores)
    ends = torch.tensor([0.0, 1.0])
    assert torch.equal(scale(ends, torch.tensor([2.0, 0.5])), ends)


def test_threshold_before_scaling_keeps_all_scores_above_it_after() -> None:
    scores, temperatures = torch.rand(5000, generator=torch.manual_seed(0)), torch.tensor([0.4, 1.0, 3.0])
    labels = torch.arange(5000) % 3
    for threshold in (0.0, 0.05, 0.25, 0.9):
        lowest = lowest_before(threshold, temperatures.tolist())
        above = scale(scores, temperatures[labels]) >= threshold
        assert (scores[above] >= lowest).all()
        assert threshold == 0 or (scores[above].min() < lowest + 0.02), "and hardly more"
    assert lowest_before(0.25, ()) == 0.25


def test_ece_by_hand() -> None:
    """Bins 0.2 to 0.3 with 2 scores, of which half is right, and 0.9 to 1 with one that is."""
    found = calibration(np.array([0.2, 0.24, 1.0]), np.array([True, False, True]))
    assert found.ece == pytest.approx((2 * (0.5 - 0.22) + 1 * 0) / 3)
    assert (found.counts[[2, 9]].tolist(), found.accuracies[2]) == ([2, 1], 0.5)
    assert calibration(np.zeros(0), np.zeros(0, bool)).ece == -1


@pytest.mark.parametrize("seed", range(3))
def test_ece_of_detections_matches_hotcoco(seed: int) -> None:
    from hotcoco import COCO, COCOeval

    samples, results = made(seed)
    found = match(samples, results).found
    annotations = [
        {"image_id": image, "category_id": label + 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": 1.0, "iscrowd": 0}
        for image, one in enumerate(samples, 1)
        for (x1, y1, x2, y2), label in zip(one.boxes.tolist(), one.labels.tolist(), strict=True)
    ]
    rows = [row for image, result in enumerate(results, 1) for row in to_coco(result, image, range(1, 5))]
    labels = COCO(
        {
            "images": [{"id": image} for image in range(1, len(samples) + 1)],
            "categories": [{"id": label + 1, "name": name} for label, name in enumerate(NAMED)],
            "annotations": [{"id": number, **entry} for number, entry in enumerate(annotations, 1)],
        }
    )
    reference = COCOeval(labels, labels.loadRes(rows), "bbox")
    reference.evaluate()
    wanted: dict[str, Any] = reference.calibration(n_bins=10)
    ours = calibration(found.scores, found.kinds == Kind.CORRECT)
    assert ours.ece == pytest.approx(wanted["ece"], abs=1e-6)
    assert ours.counts.tolist() == [part["count"] for part in wanted["bins"]]


def made_scores(count: int, wanted: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores that are calibrated after scaling with the temperature `wanted`."""
    rng = np.random.default_rng(seed)
    chances = rng.beta(0.7, 1.2, count)
    return scale(chances, np.array(1 / wanted)), rng.random(count) < chances


@pytest.mark.parametrize("wanted", [0.5, 1.0, 1.8, 3.0])
def test_temperature_is_recovered_and_lowers_ece_of_new_scores(wanted: float) -> None:
    found = temperature(*made_scores(8000, wanted, seed=0))
    assert found == pytest.approx(wanted, rel=0.05)
    scores, correct = made_scores(8000, wanted, seed=1)
    before, after = calibration(scores, correct).ece, calibration(scale(scores, np.array(found)), correct).ece
    assert after < 0.02
    assert wanted == 1 or after < before / 3


def test_temperature_maximizes_likelihood() -> None:
    scores, correct = made_scores(300, 1.5, seed=2)
    found, logits = temperature(scores, correct), torch.tensor(scores).logit()

    def loss(value: float) -> float:
        return float(torch.nn.functional.binary_cross_entropy_with_logits(logits / value, torch.tensor(correct * 1.0)))

    assert min(np.linspace(0.25, 4, 751), key=loss) == pytest.approx(found, abs=0.006)


def test_each_class_has_a_temperature_unless_it_is_rare() -> None:
    first, second = made_scores(4000, 0.5, seed=3), made_scores(4000, 2.0, seed=4)
    scores = np.concatenate([first[0], second[0], [0.4, 0.6]])
    correct = np.concatenate([first[1], second[1], [True, False]])
    labels = np.repeat([0, 1, 2], [4000, 4000, 2])
    found = class_temperatures(scores, correct, labels, 4)
    assert found[:2] == pytest.approx([0.5, 2.0], rel=0.1)
    assert found[2:] == [temperature(scores, correct)] * 2
    assert temperature(np.array([0.3, 0.5]), np.array([True, True])) == 1


def test_softmax_temperature_of_a_classifier() -> None:
    rng = np.random.default_rng(5)
    logits = rng.normal(0, 2, (6000, 10))
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = (chances.cumsum(axis=1) > rng.random((6000, 1))).argmax(axis=1)
    assert softmax_temperature(logits * 1.7, truth) == pytest.approx(1.7, rel=0.05)
    assert softmax_temperature(np.zeros((0, 3)), np.zeros(0, np.int64)) == 1


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("images") / "images")


@pytest.fixture
def weights(images: list[Path], tmp_path: Path) -> Path:
    """With scores from 0 to 1."""
    file = write_weights(tmp_path / "weights.safetensors", images)
    tensors, tree = checkpoint.read_tensors(file), checkpoint.read_tree(file)
    for scale_of in ("out16", "out32"):
        tensors[f"{scale_of}.weight"].view(3, 8, -1)[:, 4:] *= 8
        tensors[f"{scale_of}.bias"].view(3, 8)[:, 4] += 3
    tree["predict"]["threshold"], tree["evaluate"]["threshold"] = 0.25, 0.01
    checkpoint.write(file, tensors, tree)
    return file


MADE_WITH = (0.4, 2.0, 3.5)  # temperatures of the classes


@pytest.fixture
def data(images: list[Path], weights: Path, tmp_path: Path) -> Path:
    """A set of what the detector itself finds: as much as with calibrated scores, at `MADE_WITH`."""
    predictor, annotations = load(weights, device="cpu"), []
    listed = []
    for number, file in enumerate(images, 1):
        found = predictor(str(file), 0.01)
        height, width = found.size
        listed.append({"id": number, "file_name": file.name, "height": height, "width": width})
        for row, (box, score, label, _) in enumerate(found):
            x1, y1, x2, y2 = box
            if scale(np.array(score), np.array(MADE_WITH[label])) < row * 37 % 100 / 100:
                continue
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": label + 1,
                 "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
            )  # fmt: skip
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(predictor.names)]
    root = tmp_path / "data"
    (root / "annotations").mkdir(parents=True)
    (root / "val").symlink_to(images[0].parent)
    labels = {"images": listed, "annotations": annotations, "categories": categories}
    (root / "annotations" / "instances_val.json").write_text(json.dumps(labels))
    return root


def with_temperatures(weights: Path, values: list[float]) -> Path:
    tree = checkpoint.read_tree(weights)
    tree["predict"]["temperatures"] = values
    checkpoint.write(weights, checkpoint.read_tensors(weights), tree)
    return weights


@pytest.mark.slow
def test_temperatures_change_scores_but_not_ap(images: list[Path], weights: Path, data: Path) -> None:
    before = load(weights, device="cpu")
    plain, ap = before(str(images[0]), 0.0), bw.evaluate(before, data)
    values = torch.tensor([0.7, 1.0, 2.5])
    after = load(with_temperatures(weights, values.tolist()), device="cpu")
    scaled = after(str(images[0]), 0.0)
    wanted = scale(plain.scores, values[plain.labels])
    order = wanted.argsort(descending=True, stable=True)
    torch.testing.assert_close(scaled.scores, wanted[order])
    assert torch.equal(scaled.boxes, plain.boxes[order])
    again = bw.evaluate(after, data)
    assert again.summary == pytest.approx(ap.summary, abs=1e-6)
    assert [row.detections for row in again.classes] == [row.detections for row in ap.classes]
    assert [row.best_score for row in again.classes] != [row.best_score for row in ap.classes]
    limited = after(str(images[0]), 0.3)
    assert len(limited) == int((wanted >= 0.3).sum()) > 0
    assert float(limited.scores.min()) >= 0.3


def test_calibrate_command_stores_temperatures(
    images: list[Path], weights: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = checkpoint.read_tree(weights)
    tensors = checkpoint.read_tensors(weights)
    app(["calibrate", str(weights), "--data", str(data), "--device", "cpu"], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    tree = checkpoint.read_tree(weights)
    found = tree["predict"].pop("temperatures")
    before["predict"].pop("temperatures", None)
    assert tree == before, "nothing else has changed"
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in checkpoint.read_tensors(weights).items())
    assert len(found) == 3
    assert found != [1.0, 1.0, 1.0]
    assert lines[1].split() == ["car", f"{found[0]:.3f}"]
    assert lines[-1] == str(weights)
    # by hand, from what a network without them finds
    predictor = load(weights, device="cpu", overrides={"predict.temperatures": []})
    dataset = predictor.task.open(data, "val", predictor.recipe.data)
    results = [predictor(str(file), 0.01) for file in sorted(images)]
    matches = match([dataset[index] for index in range(len(dataset))], results).found
    wanted = class_temperatures(matches.scores, matches.kinds == Kind.CORRECT, matches.labels, 3)
    assert found == pytest.approx(wanted, abs=0.02)


def test_raw_exports_store_temperatures_in_metadata() -> None:
    """Complete ones have them inside, see test_export_complete.py."""
    chosen = bw.Recipe.load("demo", {"predict.temperatures": [1.0, 2.0, 0.5]})
    text = Metadata(chosen, "raw", "float32", ("a",), "", "").to_text()
    assert Metadata.from_text(text, "x.onnx").recipe.predict.temperatures == (1.0, 2.0, 0.5)


def test_temperatures_of_complete_exports_cannot_be_changed() -> None:
    chosen = bw.Recipe.load("demo", {"predict.temperatures": [1.0, 2.0, 0.5]})
    metadata = Metadata(chosen, "complete", "float32", ("boxes", "scores", "labels"), "", "")
    other = chosen.with_overrides({"predict.temperatures": []})
    runtime: Any = None
    FilePipeline(chosen, tasks.of(chosen), runtime, metadata)
    with pytest.raises(InputError, match=r"predict\.temperatures: found other values than those in the file"):
        FilePipeline(other, tasks.of(chosen), runtime, metadata)


def test_invalid_temperatures_and_weights_are_rejected(weights: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"predict\.temperatures: found 2, needed 3 or none"):
        load(weights, device="cpu", overrides={"predict.temperatures": [1.0, 2.0]})
    with pytest.raises(InputError, match="greater than or equal to"):
        load(weights, device="cpu", overrides={"predict.temperatures": [1.0, 0.0, 1.0]})
    bare = tmp_path / "bare.safetensors"
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(2)}, bare)
    with pytest.raises(InputError, match="found no stored recipe, needed one for the temperatures; `boxwright import`"):
        module.calibrate(bare, data)
    with_temperatures(weights, [1.0, 2.0])
    with pytest.raises(InputError, match="stored recipe"):
        load(weights)


def test_temperatures_are_dropped_for_other_classes() -> None:
    chosen = bw.Recipe.load("demo", {"predict.temperatures": [1.0, 2.0, 0.5]})
    assert chosen.with_names(["x"]).predict.temperatures == ()


def test_calibration_without_detections_is_an_error(weights: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*args: Any, **words: Any) -> list[Detections]:
        return [Detections.empty(("car", "truck", "tank"))] * 4

    monkeypatch.setattr(module, "predict_dataset", nothing)
    with pytest.raises(InputError, match="found no detection in split val"):
        module.calibrate(weights, data)


def temperatures_of(weights: Path) -> dict[str, float]:
    chosen = load(weights, device="cpu").recipe
    return dict(zip(chosen.data.names, chosen.predict.temperatures, strict=True))


@pytest.mark.slow
def test_classes_are_matched_by_name(weights: Path, data: Path) -> None:
    """The set's labels are the network's in reverse."""
    module.calibrate(weights, data, device="cpu")
    wanted = temperatures_of(weights)
    assert len(set(wanted.values())) == 3
    file = data / "annotations" / "instances_val.json"
    tree = json.loads(file.read_text())
    for entry in tree["categories"]:
        entry["id"] = 4 - entry["id"]
    tree["categories"].reverse()
    for entry in tree["annotations"]:
        entry["category_id"] = 4 - entry["category_id"]
    file.write_text(json.dumps(tree))
    assert module.calibrate(weights, data, device="cpu").names == ("car", "truck", "tank")
    assert temperatures_of(weights) == pytest.approx(wanted, abs=1e-3)


def test_temperatures_that_do_not_help_are_not_stored(
    weights: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = weights.read_bytes()
    monkeypatch.setattr(module, "class_temperatures", lambda *columns: [1.0, 1.0, 1.0])
    result = module.calibrate(weights, data, device="cpu")
    assert not result.stored
    assert str(result).endswith("unchanged, since they do not lower the error")
    assert weights.read_bytes() == before
