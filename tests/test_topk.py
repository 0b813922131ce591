"""Top-1, top-5 and the files of a classifier's evaluation, on results worked out by hand."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import class_folder
from boxwright import recipe
from boxwright.data.class_dataset import ClassSet
from boxwright.data.dataset import paths_column
from boxwright.errors import InputError
from boxwright.evaluation.evaluate import evaluate_dataset
from boxwright.formats import open_classes
from boxwright.metrics import class_plots
from boxwright.metrics.topk import TopK, score
from boxwright.predict.predictor import Predictor
from boxwright.types import Classes

NAMES = ("a", "b", "c", "d", "e", "f", "g")


def ranked(*labels: int) -> Classes:
    return Classes(torch.linspace(0.5, 0.1, len(labels)), torch.tensor(labels), NAMES)


@pytest.fixture
def by_hand() -> TopK:
    """Images of a: right, then c before a, then a sixth. Of c: right. Of f: b twice, with f fifth and never."""
    truth = np.array([0, 0, 0, 2, 5, 5])
    found = [
        ranked(0, 1, 2, 3, 4),
        ranked(2, 0, 1, 3, 4),
        ranked(1, 2, 3, 4, 5),
        ranked(2, 1, 0, 3, 4),
        ranked(1, 0, 2, 3, 5),
        ranked(1, 0, 2, 3, 4),
    ]
    return score(truth, found, NAMES, {"recipe": "r"})


def test_top1_and_top5_accuracy(by_hand: TopK) -> None:
    assert by_hand.summary == {"top1": pytest.approx(2 / 6), "top5": pytest.approx(4 / 6)}
    assert by_hand.quality == by_hand.summary["top1"]


def test_per_class_table(by_hand: TopK) -> None:
    a, c, f = by_hand.classes  # only those that images show
    assert (a.name, a.images, a.predicted, a.times, a.taken_for) == ("a", 3, 1, 1, "b")
    assert (a.top1, a.top5, a.precision) == pytest.approx((1 / 3, 2 / 3, 1))
    assert (c.name, c.top1, c.precision, c.taken_for, c.times) == ("c", 1, 0.5, "", 0)
    assert (f.top1, f.top5, f.precision, f.taken_for, f.times) == (0, 0.5, -1, "b", 2)
    lines = by_hand.table()
    assert lines[1].split() == ["a", "0.333", "0.667", "1.000", "3", "b", "(1)"]
    assert lines[3].split() == ["f", "0.000", "0.500", "-", "2", "b", "(2)"]


def test_confusion_counts_true_rows_and_predicted_columns(by_hand: TopK) -> None:
    cells = {(0, 0): 1, (0, 2): 1, (0, 1): 1, (2, 2): 1, (5, 1): 2}
    assert {place: int(n) for place, n in np.ndenumerate(by_hand.confusion) if n} == cells


def test_top5_with_fewer_than_five_classes() -> None:
    metrics = score(np.array([0, 1]), [ranked(1, 0), ranked(1, 0)], NAMES[:2])
    assert metrics.summary == {"top1": 0.5, "top5": 1}


def test_topk_matches_naive_ranking() -> None:
    draw = np.random.default_rng(0)
    logits = torch.from_numpy(draw.normal(size=(200, 30)))
    truth = draw.integers(0, 30, 200)
    found = [Classes(*each.topk(5)) for each in logits]
    metrics = score(truth, found, [str(n) for n in range(30)])
    places = [int((row > row[label]).sum()) for row, label in zip(logits, truth.tolist(), strict=True)]
    assert metrics.summary["top1"] == pytest.approx(np.mean([place < 1 for place in places]))
    assert metrics.summary["top5"] == pytest.approx(np.mean([place < 5 for place in places]))


class Color(nn.Module):
    """Classes are the channels: the brightest of red, green and blue in the mean, sharpened."""

    inputs = ("images",)
    raw_names = ("logits",)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
        return (20 * images.mean((2, 3)),)

    def decode(self, raw: tuple[torch.Tensor, ...], most: int) -> list[Classes]:
        scores, labels = raw[0].softmax(1).topk(min(most, raw[0].shape[1]))
        return [Classes(*each) for each in zip(scores, labels, strict=True)]


def colors(names: tuple[str, ...] = ("red", "green", "blue")) -> Predictor[Any]:
    settings = recipe.load(class_folder.RECIPE, class_folder.SMALL | {"data.names": [], "model.classes": 3})
    return Predictor(Color(), settings.with_names(names) if names else settings)


@pytest.fixture
def example_images(tmp_path: Path) -> Path:
    """Four images of blue, green and red in `val`; one more lies in the folder of another class."""
    root = class_folder.write(tmp_path / "data", {"train": 1, "val": 4})
    (root / "val" / "red" / "0.png").rename(root / "val" / "blue" / "red.png")
    return root


def test_class_order_of_the_model_is_kept(example_images: Path, tmp_path: Path) -> None:
    """The folders are in the order of the alphabet, the model's channels are not."""
    metrics = evaluate_dataset(colors(), open_classes(example_images, "val"), tmp_path / "out")
    assert metrics.summary == {"top1": pytest.approx(11 / 12), "top5": 1}
    assert [row.name for row in metrics.classes] == ["red", "green", "blue"]
    blue = metrics.classes[2]
    assert (blue.images, blue.top1, blue.taken_for, blue.times) == (5, 0.8, "red", 1)
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert written["summary"] == metrics.summary
    assert written["classes"][2]["taken_for"] == "red"
    rows = json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]
    assert len(rows) == 12
    (wrong,) = [row for row in rows if row["best"][0] != row["label"]]
    assert wrong["file"].endswith("blue/red.png")


@pytest.mark.usefixtures("figures")
def test_evaluation_writes_mistakes_and_confusion_images(example_images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    evaluate_dataset(colors(), open_classes(example_images, "val"), out)
    sheet = cv2.imread(str(out / "mistakes.jpg"))
    (b, _, r) = sheet[60:120, 60:180].reshape(-1, 3).mean(0)
    assert r > b + 100, "the one mistake is a red image"
    assert cv2.imread(str(out / "confusion.png")) is not None
    (example_images / "val" / "blue" / "red.png").rename(example_images / "val" / "red" / "0.png")
    assert evaluate_dataset(colors(), open_classes(example_images, "val"), out).summary["top1"] == 1
    assert not (out / "mistakes.jpg").exists(), "the mistakes of an earlier evaluation"


@pytest.mark.usefixtures("figures")
def test_confusion_plot_of_200_classes_shows_the_most_confused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [str(n) for n in range(200)]
    truth = np.arange(200).repeat(2)
    predicted = truth.copy()
    predicted[::2] = (predicted[::2] + (truth[::2] >= 150)) % 200  # one of two wrong for the last fifty classes
    metrics = score(truth, [ranked(int(label)) for label in predicted], names)
    drawn = {}
    monkeypatch.setattr(class_plots, "confusion_matrix", lambda *given: drawn.update(given=given))
    class_plots.confusion(metrics, names, tmp_path / "x.png")
    counts, rows, columns, title, _ = drawn["given"]
    assert {str(n) for n in range(150, 200)} <= set(rows)
    assert columns == [*rows, "others"]
    assert counts.shape == (60, 61)
    assert (counts.sum(1) == 2).all(), "rows stay whole"
    assert "60 of 200" in title


def test_unknown_class_of_the_data_set_is_an_error(example_images: Path) -> None:
    with pytest.raises(InputError, match="blue"):
        evaluate_dataset(colors(("red", "green", "yellow")), open_classes(example_images, "val"))


def test_model_without_class_names_uses_those_of_the_data_set(example_images: Path) -> None:
    metrics = evaluate_dataset(colors(()), open_classes(example_images, "val"))
    assert [row.name for row in metrics.classes] == ["blue", "green", "red"]
    assert metrics.summary["top1"] == pytest.approx(5 / 12)  # four of green; of blue the image that is red


def test_data_set_without_images_is_an_error(tmp_path: Path) -> None:
    empty = ClassSet(("red",), "val", tmp_path, "folder", paths_column([]), np.zeros(0, np.int64))
    with pytest.raises(InputError, match="holds no image"):
        evaluate_dataset(colors(), empty)
