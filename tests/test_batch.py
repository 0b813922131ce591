"""Batches from targets as torchvision's detectors take them, for a training loop of the user's own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import boxwright as bw
from boxwright.batches.loader import Loader
from boxwright.errors import InputError
from boxwright.images.decode import read_image
from boxwright.recipe import CanvasConfig
from boxwright.types import Batch

BOXES = torch.tensor([[1.0, 2, 30, 40], [5, 6, 20, 30]])


def test_from_targets_pads_boxes_and_labels() -> None:
    images = torch.full((2, 3, 32, 64), 51, dtype=torch.uint8)
    none = {"boxes": torch.empty(0, 4), "labels": torch.empty(0, dtype=torch.int64)}
    two = {"boxes": BOXES, "labels": torch.tensor([1, 0]), "iscrowd": torch.tensor([0, 1])}
    batch = Batch.from_targets(images, [none, two])
    assert torch.equal(batch.images, torch.full((2, 3, 32, 64), 0.2))
    assert torch.equal(batch.boxes[1], BOXES)
    assert batch.labels.tolist() == [[-1, -1], [1, 0]]
    assert batch.ignore.tolist() == [[False, False], [False, True]]
    assert batch.valid.tolist() == [[False, False], [True, False]]
    assert [frame.content for frame in batch.frames] == [(0, 0, 64, 32)] * 2
    assert Batch.from_targets(images, [none, none]).boxes.shape == (2, 0, 4)


@pytest.mark.parametrize("name", ["demo", "faster_rcnn_r50_coco_torchvision", "yolov3_640_modern"])
@pytest.mark.usefixtures("short_networks")
def test_losses_equal_those_of_loader_batches(name: str, tiny_coco: Path) -> None:
    """Images are as large as the canvas; one batch more has no objects."""
    dataset = bw.open_dataset(tiny_coco, "train")
    loaded = next(Loader(dataset, CanvasConfig(size=(96, 96)), 3, seed=0).epoch(0))
    samples = {sample.image_id: sample for sample in (dataset[index] for index in range(len(dataset)))}
    chosen = [samples[frame.image_id] for frame in loaded.frames]
    targets = [{"boxes": torch.from_numpy(s.boxes), "labels": torch.from_numpy(s.labels)} for s in chosen]
    torch.manual_seed(0)
    model: Any = bw.create_model(name, classes=2)
    expected = model.loss(replace(loaded, images=loaded.images / 255))
    for term, value in model.loss(Batch.from_targets(loaded.images, targets)).items():
        torch.testing.assert_close(value, expected[term])
    none = [{"boxes": torch.empty(0, 4), "labels": torch.empty(0, dtype=torch.int64)}] * 3
    assert all(value.isfinite() for value in model.loss(Batch.from_targets(loaded.images, none)).values())


def test_training_loop_of_the_documentation(tiny_coco: Path) -> None:
    """That of docs/python.md."""
    text = Path(__file__).parents[1].joinpath("docs", "python.md").read_text(encoding="utf-8")
    code = text.partition("```python\n")[2].partition("```")[0]
    dataset = bw.open_dataset(tiny_coco, "train")
    images = torch.stack([torch.from_numpy(read_image(dataset.path(index))).permute(2, 0, 1) for index in range(4)])
    targets = [
        {"boxes": torch.from_numpy(s.boxes), "labels": torch.from_numpy(s.labels)}
        for s in map(dataset.__getitem__, range(4))
    ]
    losses: list[float] = []

    def loader():
        for _ in range(15):
            yield images, targets
            losses.append(names["loss"].item())

    names = {"loader": loader(), "device": "cpu"}
    torch.manual_seed(0)
    exec(code, names)
    assert losses[-1] < 0.7 * losses[0]
    assert names["predictor"].names == ("car", "truck")
    on_meta = bw.Predictor(names["model"].to("meta"), names["recipe"])  # in place of a GPU
    assert on_meta.device.type == "meta"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"boxes": BOXES}, r"targets\[0\]: found boxes, needed labels"),
        ({"boxes": BOXES, "labels": torch.tensor([1])}, r"targets\[0\]: found boxes \(2, 4\), labels \(1,\), needed"),
        (
            {"boxes": BOXES, "labels": torch.tensor([0, -1])},
            r"targets\[0\]: labels: found \[0, -1\], needed integers from 0",
        ),
        ({"boxes": BOXES, "labels": torch.tensor([0.0, 1])}, "needed integers"),
        ({"boxes": BOXES / 0, "labels": torch.tensor([0, 1])}, "not finite"),
        (  # the second has no width
            {"boxes": torch.tensor([[1.0, 2, 29, 38], [5, 6, 5, 24]]), "labels": torch.tensor([0, 1])},
            r"boxes: found \[5.0, 6.0, 5.0, 24.0\], needed xyxy with x1 < x2",
        ),
        ({"boxes": BOXES[:, [2, 3, 0, 1]], "labels": torch.tensor([0, 1])}, r"boxes: found \[30.0, 40.0, 1.0, 2.0\]"),
    ],
)
def test_invalid_targets_are_rejected(target: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Batch.from_targets(torch.zeros(1, 3, 32, 32), [target])


def test_images_become_float32() -> None:
    target = {"boxes": BOXES, "labels": torch.tensor([0, 1])}
    images = torch.rand(1, 3, 32, 32)
    batch = Batch.from_targets(images.double(), [target])
    assert torch.equal(batch.images, images)
    assert batch.images.dtype == torch.float32
    with pytest.raises(InputError, match="images: found int64, needed uint8 or float"):
        Batch.from_targets(torch.zeros(1, 3, 32, 32, dtype=torch.int64), [target])


@pytest.mark.parametrize(("shape", "count"), [((2, 3, 32, 32), 1), ((3, 32, 32), 3), ((0, 3, 32, 32), 0)])
def test_wrong_number_of_targets_is_rejected(shape: tuple[int, ...], count: int) -> None:
    with pytest.raises(InputError, match=rf"{count} targets, needed \(B, 3, H, W\)"):
        Batch.from_targets(torch.zeros(shape), [{}] * count)
