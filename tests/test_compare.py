"""`boxwright compare`: differences by hand and of files, exit statuses, and how often intervals are right."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from boxwright.cli import main
from boxwright.errors import InputError
from boxwright.evaluation.compare import Predicted, compare, compare_predicted, read
from boxwright.evaluation.evaluate import evaluate
from boxwright.formats import open_dataset
from boxwright.metrics.comparison import Difference
from boxwright.types import Detections
from stand_in import rectangles_predictor
from test_intervals import write_scenes


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images; in a quarter the label is another one than what the stand-in detector finds."""
    root: Path = write_scenes(tmp_path_factory.mktemp("data") / "tiles", scenes=60, tiles=1)
    return root


@pytest.fixture(scope="module")
def results(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """detections.json of an evaluation."""
    out = tmp_path_factory.mktemp("out")
    evaluate(rectangles_predictor(), open_dataset(data, "val"), out=out)
    return out / "detections.json"


def changed(results: Path, file: Path, **changes: Any) -> Path:
    """Results with other values in every row."""
    file.write_text(json.dumps([row | changes for row in json.loads(results.read_text())]))
    return file


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as status:
        main(["compare", *map(str, words)])
    return int(status.value.code or 0)


@pytest.mark.slow
def test_identical_results_are_equivalent_and_not_worse(data: Path, results: Path, tmp_path: Path, capsys: Any) -> None:
    again = shutil.copy(results, tmp_path / "again.json")
    out = tmp_path / "compare.json"
    words = (results, again, "--data", data, "--fail-if-worse", "--equivalent", "0.001", "--out", out)
    out.write_text('{"a": "runs/a", "b": "runs/b"}')  # an earlier comparison is replaced
    assert run(*words) == 0
    printed = capsys.readouterr().out
    assert "B is not significantly worse in AP" in printed
    assert "a difference of less than 0.001 in AP is shown" in printed
    content = json.loads(out.read_text())
    metrics = evaluate(rectangles_predictor(), open_dataset(data, "val"))
    assert content["summary"]["AP"]["a"] == pytest.approx(metrics.summary["AP"], abs=1e-6)
    assert content["summary"]["AP"] == content["summary"]["AP"] | {
        "difference": 0,
        "interval": [0, 0],
        "b_is_better": 0.5,
    }
    assert {(row["class"], row["metric"]) for row in content["classes"]} == {
        (name, metric) for name in ("red", "green", "blue") for metric in ("AP", "AP50")
    }
    assert content["summary"].keys() >= {"AP", "AP50", "AP75", "AP_medium"}


@pytest.mark.slow
def test_shifted_boxes_are_significantly_worse(data: Path, results: Path, tmp_path: Path, capsys: Any) -> None:
    worse = changed(results, tmp_path / "worse.json", bbox=[12, 12, 32, 32])
    assert run(results, worse, "--data", data) == 0
    assert run(results, worse, "--data", data, "--fail-if-worse") == 1
    assert "B is significantly worse in AP" in capsys.readouterr().out
    assert run(worse, results, "--data", data, "--fail-if-worse") == 0
    assert run(worse, results, "--data", data, "--equivalent", "0.005") == 1


def test_model_and_its_stored_results_compare_equal(data: Path, results: Path) -> None:
    dataset = open_dataset(data, "val")
    metrics = evaluate(rectangles_predictor(), dataset)
    file = read(results, dataset)
    comparison = compare_predicted(file, Predicted("again", dataset, file.results))
    assert comparison.main.a == comparison.main.b == pytest.approx(metrics.summary["AP"], abs=1e-6)
    rows = {name: row.a for name, row in comparison.classes if row.metric == "AP"}
    assert rows == pytest.approx({row.name: row.ap for row in metrics.classes}, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"bbox": [1, 2, 3]}, r"\[0\]: needed image_id, category_id, bbox of four numbers and a score"),
        ({"bbox": [1, 2, 3, "4"]}, r"\[0\]: needed image_id"),
        ({"score": float("nan")}, r"\[0\]: needed image_id"),
        ({"score": True}, r"\[0\]: needed image_id"),
        ({"score": 10**400}, r"\[0\]: needed image_id"),  # more than a float can be
        ({"image_id": 77}, r"\[0\].image_id: found 77, which the split does not have"),
        ({"image_id": [1]}, r"\[0\].image_id: found \[1\]"),
        ({"category_id": 9}, r"\[0\].category_id: found 9"),
    ],
)
def test_invalid_results_are_rejected(data: Path, results: Path, tmp_path: Path, changes: Any, fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        compare(results, changed(results, tmp_path / "b.json", **changes), data)


def test_incomparable_inputs_are_rejected(data: Path, results: Path, tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(InputError, match="holds dict, needed a list of detections"):
        compare(results, tmp_path / "b.json", data)
    with pytest.raises(InputError, match="several --data"):
        compare(results, results, [data, data])
    one = write_scenes(tmp_path / "one", scenes=1)
    (tmp_path / "none.json").write_text("[]")
    with pytest.raises(InputError, match="one image or group of images"):
        compare(tmp_path / "none.json", tmp_path / "none.json", one)


def test_output_overwrites_only_an_earlier_comparison(
    data: Path, results: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipe.yaml").write_text("name: demo\n")
    monkeypatch.setattr("boxwright.evaluation.compare.load", None)  # rejected before anything is computed
    (labels,) = data.glob("annotations/*.json")
    for file in (results, labels, tmp_path / "recipe.yaml"):
        before = file.read_bytes()
        assert run(results, "model.onnx", "--data", data, "--out", file) == 2
        assert f"{file.name}: exists and is not an earlier comparison" in capsys.readouterr().err
        assert file.read_bytes() == before
    assert run(results, "model.onnx", "--data", data, "--out", tmp_path / "none" / "compare.json") == 2
    assert "compare.json: there is no such folder" in capsys.readouterr().err


def test_worse_and_equivalent_by_hand() -> None:
    row = Difference("AP", 0.5, 0.48, 0.01, 0.02)
    assert row.interval == pytest.approx((-0.0396, -0.0004), abs=1e-4)
    assert row.is_worse
    assert not Difference("AP", 0.5, 0.48, 0.0103, 0.03).is_worse
    # the 90 % interval of this one is -0.0045 to 0.0021, its 95 % interval reaches -0.0051
    close = Difference("AP", 0.5, 0.4988, 0.002, 0.3)
    assert close.is_equivalent(0.005)
    assert not close.is_equivalent(0.004)
    assert not Difference("AP", 0.5, 0.5, float("nan"), float("nan")).is_equivalent(1)


def test_few_images_do_not_show_equivalence(results: Path, tmp_path: Path) -> None:
    few = write_scenes(tmp_path / "few", scenes=12, tiles=1)
    rows = [row for row in json.loads(results.read_text()) if row["image_id"] < 12]
    (tmp_path / "few.json").write_text(json.dumps(rows))
    assert run(tmp_path / "few.json", tmp_path / "few.json", "--data", few, "--equivalent", "0.01") == 1


@pytest.mark.slow
def test_significance_for_equal_and_different_classifiers() -> None:
    """40 pairs of classifiers on 150 images, drawn from distributions whose difference is known; for detectors see
    benchmarks/bootstrap_coverage.py. Of intervals of 95 %, fewer than 33 of 40 hold the truth once in 2,000 times."""
    from boxwright.metrics import topk
    from boxwright.metrics.comparison import differences
    from boxwright.metrics.resampling import draw_weights
    from boxwright.types import Classes

    rng = np.random.default_rng(0)
    truth, names = np.zeros(150, np.int64), ("a", "b")
    weights = np.concatenate([np.ones((150, 1), np.float32), draw_weights(np.arange(150), 400)], axis=1)

    def one(chance: float) -> Any:
        best = (rng.random(150) > chance).astype(int)
        found = [Classes(torch.tensor([0.9, 0.1]), torch.tensor([label, 1 - label])) for label in best]
        return topk.resample(truth, found, names, weights)

    def row(first: float, second: float) -> Difference:
        return differences(one(first), one(second))[0]

    held = sum(low <= 0 <= high for low, high in (row(0.7, 0.7).interval for _ in range(40)))
    assert held >= 33
    found = sum(row(0.6, 0.85).interval[0] > 0 for _ in range(40))
    assert found >= 38
    narrow = np.mean([row(0.7, 0.7).deviation for _ in range(5)])
    assert narrow == pytest.approx((2 * 0.7 * 0.3 / 150) ** 0.5, rel=0.1)  # of a difference of two proportions


def test_difference_of_detectors_with_known_recall(data: Path) -> None:
    """B misses each object with a chance of 0.4 that A finds: the gain of A is found, and about what it is."""
    dataset, rng = open_dataset(data, "val"), np.random.default_rng(1)
    samples = [dataset[index] for index in range(len(dataset))]
    found = [
        Detections(torch.from_numpy(one.boxes), torch.full((len(one),), 0.9), torch.from_numpy(one.labels))
        for one in samples
    ]
    missed = [one[torch.from_numpy(rng.random(len(one)) > 0.4)] for one in found]
    row = compare_predicted(Predicted("A", dataset, found), Predicted("B", dataset, missed)).main
    share = np.mean([len(one) for one in missed])
    assert row.a == 1
    assert row.b == pytest.approx(share, abs=0.06)  # mean of three classes
    assert row.is_worse
    assert row.deviation == pytest.approx((share * (1 - share) / 60) ** 0.5, rel=0.25)
    assert row.better == 0
