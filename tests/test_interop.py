"""Detections as values, and in the forms of other libraries."""

import json
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from boxwright import interop
from boxwright.errors import InputError
from boxwright.tasks.detect import Prediction
from boxwright.types import Classes, Detection, Detections

BOXES = [[1.0, 2.0, 11.0, 6.0], [0.0, 0.0, 4.0, 4.0]]


@pytest.fixture
def found() -> Detections:
    return Detections(torch.tensor(BOXES), torch.tensor([0.75, 0.5]), torch.tensor([1, 0]), ("cat", "dog"))


def test_detections_behave_like_a_list(found: Detections) -> None:
    first, second = Detection((1, 2, 11, 6), 0.75, 1, "dog"), Detection((0, 0, 4, 4), 0.5, 0, "cat")
    assert list(found) == [first, second]
    assert (found[0], found[-1]) == (first, second)
    assert found.class_names == ["dog", "cat"]
    assert list(found[found.scores > 0.6]) == [first]
    assert list(Detections.empty()) == []
    for index in (2, -3):
        with pytest.raises(IndexError):
            found[index]


def test_equality_compares_all_values(found: Detections) -> None:
    again = Detections(found.boxes.clone(), found.scores.clone(), found.labels.clone(), found.names)
    assert found == again
    assert found != again[:1]
    assert found != Detections(found.boxes + 1, found.scores, found.labels, found.names)
    assert found != Detections(found.boxes, found.scores, found.labels, ("cat", "cow"))
    assert found != "found"
    one, other = (Prediction(found.boxes, found.scores, found.labels, path=path) for path in "ab")
    assert one == Prediction(found.boxes, found.scores, found.labels, path="a", image=np.zeros((2, 2, 3), np.uint8))
    assert one != other
    classes = Classes(torch.tensor([0.5]), torch.tensor([2]))
    assert classes == Classes(torch.tensor([0.5]), torch.tensor([2]))
    assert classes != Classes(torch.tensor([0.5]), torch.tensor([1]))
    assert classes.class_names == ["2"]


def test_to_dict_and_to_coco(found: Detections) -> None:
    rows = interop.to_dict(found)
    assert json.loads(json.dumps(rows)) == [
        {"label": 1, "name": "dog", "score": 0.75, "box": BOXES[0]},
        {"label": 0, "name": "cat", "score": 0.5, "box": BOXES[1]},
    ]
    assert interop.to_coco(found, 7, (18, 17)) == [
        {"image_id": 7, "category_id": 17, "bbox": [1, 2, 10, 4], "score": 0.75},
        {"image_id": 7, "category_id": 18, "bbox": [0, 0, 4, 4], "score": 0.5},
    ]
    assert [row["category_id"] for row in interop.to_coco(found, "a")] == [1, 0]
    with pytest.raises(InputError, match="category_ids: found 1, needed one for each class, at least 2"):
        interop.to_coco(found, 7, (18,))


def stand_in(**columns: Any) -> SimpleNamespace:
    return SimpleNamespace(**columns)


def test_to_supervision_passes_the_expected_arguments(found: Detections, monkeypatch: pytest.MonkeyPatch) -> None:
    """`supervision.Detections(xyxy, confidence, class_id, data)`, arrays of one length."""
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=stand_in))  # type: ignore[arg-type]
    given = interop.to_supervision(found)
    assert given.xyxy.tolist() == BOXES
    assert given.confidence.tolist() == [0.75, 0.5]
    assert given.class_id.tolist() == [1, 0]
    assert given.data["class_name"].tolist() == ["dog", "cat"]


def test_to_dataframe_has_one_column_per_value(found: Detections, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pandas.DataFrame(mapping of names to columns)`."""
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=dict))  # type: ignore[arg-type]
    columns = interop.to_dataframe(found)
    assert list(columns) == ["x1", "y1", "x2", "y2", "score", "label", "name"]
    assert columns["x2"].tolist() == [11, 4]
    assert columns["name"] == ["dog", "cat"]


@pytest.mark.parametrize("function", [interop.to_supervision, interop.to_dataframe])
def test_missing_library_is_named(found: Detections, function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    name = {"to_supervision": "supervision", "to_dataframe": "pandas"}[function.__name__]
    monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=f"{name}: is not installed; pip install {name}"):
        function(found)
