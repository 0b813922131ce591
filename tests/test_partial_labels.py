"""Ignore regions and classes not looked for: reading, checking, replacing faulty labels, no effect on loss and
metrics."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from boxwright import recipe
from boxwright.batches.loader import Loader
from boxwright.batches.transforms import augment
from boxwright.config import Config
from boxwright.data import coco_index, index
from boxwright.data.dataset import ANY_CLASS, Dataset, Sample
from boxwright.datatools import tile
from boxwright.datatools.check import check, skip_bad
from boxwright.datatools.convert import convert
from boxwright.datatools.report import CheckReport, Finding
from boxwright.errors import InputError
from boxwright.formats import open_dataset
from boxwright.metrics import coco, plots, sheet, voc
from boxwright.models import faster_rcnn, yolov3, yolov3_640, yolov4, yolox
from boxwright.models.faster_rcnn import Targets
from boxwright.recipe import AugmentConfig, CanvasConfig
from boxwright.tasks.detect import TASK
from boxwright.types import Batch, Detections, Frame
from test_evaluation import check_against_pycocotools, made, pycocotools_metrics, to_files

NAMES = ("car", "truck", "bus")
REGION = {"bbox": [20, 10, 30, 20], "ignore": 1}


def make(root: Path, images: list[dict[str, Any]], *annotations: dict[str, Any]) -> Path:
    """A COCO data set of images of 60 x 40 px with ids from 1, and annotations of image 1 unless they say otherwise."""
    (root / "annotations").mkdir(parents=True)
    (root / "train").mkdir()
    for number, entry in enumerate(images, 1):
        entry |= {"id": number, "file_name": f"{number}.png", "width": 60, "height": 40}
        pixels = np.random.default_rng(number).integers(0, 255, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "train" / f"{number}.png")
    labels = [{"id": n, "image_id": 1, "category_id": 5, **entry} for n, entry in enumerate(annotations, 1)]
    categories = [{"id": number, "name": name} for number, name in zip((5, 7, 9), NAMES, strict=True)]
    tree = {"images": images, "annotations": labels, "categories": categories}
    (root / "annotations/train.json").write_text(json.dumps(tree))
    return root


def opened(root: Path, split: str = "train") -> Dataset:
    dataset = open_dataset(root, split)
    assert isinstance(dataset, Dataset)
    return dataset


def regions(dataset: Dataset) -> list[tuple[int, list[float]]]:
    """Index of the image and box of each ignore region."""
    owners = dataset.image_indices()
    return [(int(owners[row]), dataset.rows.xyxy[row].tolist()) for row in np.flatnonzero(dataset.rows.ignored)]


# reading and writing


def test_coco_ignore_flag_is_an_ignore_region_of_all_classes(tmp_path: Path) -> None:
    marks = ({"ignore": 0}, REGION | {"category_id": 1234}, {"iscrowd": 1, "category_id": 9})
    dataset = opened(make(tmp_path, [{}], *({"bbox": [1, 2, 3, 4]} | mark for mark in marks)))
    assert dataset.rows.labels.tolist() == [0, ANY_CLASS, 2]
    assert dataset.rows.categories.tolist() == [5, ANY_CLASS, 9]
    assert dataset.rows.crowd.tolist() == [False, True, True]
    assert regions(dataset) == [(0, [20, 10, 50, 30])]
    report = check(dataset)
    assert not report.errors
    (note,) = (finding for finding in report.notes if finding.kind == "ignore_regions")
    assert note.text == "1 ignore region in 1 of 1 image"


def test_labeled_classes_by_name_or_in_lvis_keys(tmp_path: Path) -> None:
    lvis = {"neg_category_ids": [9], "not_exhaustive_category_ids": []}
    images: list[dict[str, Any]] = [{"labelled_classes": ["bus", "car"]}, {}, lvis, {"labelled_classes": []}]
    images.append({"neg_category_ids": [7], "not_exhaustive_category_ids": [5]})
    boxes = [{"bbox": [1, 2, 3, 4], "image_id": image} for image in (3, 5)]
    dataset = opened(make(tmp_path, images, *boxes))
    expected = [[True, False, True], [True] * 3, [True, False, True], [False] * 3, [False, True, False]]
    assert dataset.images.labeled is not None
    assert dataset.images.labeled.tolist() == expected
    found = [dataset.subset([3, 0])[n].labeled for n in (0, 1)]
    assert [column.tolist() for column in found if column is not None] == [[False] * 3, [True, False, True]]
    assert opened(tmp_path).without_rows(np.array([True, False])).images.labeled is not None
    (note,) = (finding for finding in check(dataset).notes if finding.kind == "limited_classes")
    assert note.text == ("4 of 5 images were not searched for all classes; searched for car in 3, truck in 2, bus in 3")


@pytest.mark.parametrize(
    "faulty",
    [
        {"labelled_classes": ["cra"]},
        {"labelled_classes": "car"},
        {"labelled_classes": [["car"]]},
        {"neg_category_ids": [4]},
        {"neg_category_ids": [True]},
        {"not_exhaustive_category_ids": None},
    ],
)
def test_invalid_labeled_classes_are_an_error(tmp_path: Path, faulty: dict[str, Any]) -> None:
    (key,) = faulty
    with pytest.raises(InputError, match=rf"train\.json images\[1\]\.{key}: found .*, needed ") as error:
        opened(make(tmp_path, [{}, faulty], {"bbox": [1, 2, 3, 4]}))
    assert "\n" not in str(error.value)


def test_labeled_classes_in_data_yaml_for_all_or_single_splits(tmp_path: Path) -> None:
    make(tmp_path, [{"labelled_classes": ["truck", "car"]}, {}], {"bbox": [1, 2, 3, 4]})
    file = tmp_path / "data.yaml"
    for text, expected in (
        ("[car, bus]", [[True, False, False], [True, False, True]]),
        ("{train: [car, bus]}", [[True, False, False], [True, False, True]]),
        ("{valid: [car]}", [[True, True, False], [True] * 3]),
    ):
        file.write_text(f"train: annotations/train.json\nval: annotations/train.json\nlabelled_classes: {text}\n")
        labeled = opened(file).images.labeled
        assert labeled is not None
        assert labeled.tolist() == expected
    assert opened(file, "val").images.labeled.tolist() == [[True, False, False]] * 2  # type: ignore[union-attr]
    for text, message in (
        ("[van]", "'van' is not a class, needed some of car, truck"),
        ("{test: [car]}", "no split 'test'"),
    ):
        file.write_text(f"train: annotations/train.json\nlabelled_classes: {text}\n")
        with pytest.raises(InputError, match=rf"data\.yaml: labelled_classes: {message}"):
            opened(file)


def test_index_keeps_ignore_regions_and_labeled_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco_index, "MIN_SIZE", 0)
    monkeypatch.setattr(index, "CLOCK_TICK", -1)
    root = make(tmp_path / "set", [{"labelled_classes": ["bus"]}, {}], {"bbox": [1, 2, 3, 4]}, REGION)
    written = open_dataset(root, "train", cache=tmp_path / "cache")
    monkeypatch.setattr(coco_index, "_write", lambda *_: pytest.fail("the index was not used"))
    again = open_dataset(root, "train", cache=tmp_path / "cache")
    for dataset in (written, again):
        assert isinstance(dataset, Dataset)
        assert dataset.images.labeled is not None
        assert dataset.images.labeled.tolist() == [[False, False, True], [True] * 3]
        assert regions(dataset) == [(0, [20, 10, 50, 30])]


def test_conversion_keeps_or_reports_ignore_regions_and_classes(tmp_path: Path) -> None:
    crowd = {"bbox": [1, 2, 3, 4], "iscrowd": 1}
    root = make(tmp_path / "in", [{"labelled_classes": ["bus"]}, {}], {"bbox": [1, 2, 3, 4]}, REGION, crowd)
    summaries = {}
    for kind in ("coco", "line_txt", "yolo_txt", "voc", "dota"):
        summaries[kind] = convert(root, kind, tmp_path / kind)
        dataset = opened(tmp_path / kind)
        kept = [(0, [20.0, 10.0, 50.0, 30.0])] if kind in ("coco", "line_txt") else []
        assert regions(dataset) == kept
        assert ("1 ignore region (left out)" in summaries[kind]) == (not kept)
        assert ("1 image that was not searched for all classes" in summaries[kind]) == (kind != "coco")
        assert (dataset.rows.labels[~dataset.rows.ignored] == 0).all()
    labeled = opened(tmp_path / "coco").images.labeled
    assert labeled is not None
    assert labeled.tolist() == [[False, False, True], [True] * 3]
    convert(tmp_path / "line_txt", "coco", tmp_path / "again")
    assert regions(opened(tmp_path / "again")) == [(0, [20, 10, 50, 30])]
    # for tools that do not know the key, the region is a crowd region of a defined category
    entry = json.loads((tmp_path / "coco/annotations/train.json").read_text())["annotations"][1]
    assert (entry["category_id"], entry["iscrowd"], entry["ignore"]) == (5, 1, 1)


def test_tiles_keep_ignore_regions_and_labeled_classes(tmp_path: Path) -> None:
    root = make(tmp_path / "in", [{"labelled_classes": ["bus"]}], {"bbox": [1, 2, 3, 4]}, REGION)
    tile.tile(root, tmp_path / "out", tile.Cutting(window=40, overlap=0.5))
    dataset = opened(tmp_path / "out")
    assert len(dataset) == 2
    assert regions(dataset) == [(0, [20, 10, 40, 30]), (1, [0, 10, 30, 30])]
    assert dataset.images.labeled is not None
    assert dataset.images.labeled.tolist() == [[False, False, True]] * 2


def test_drawings_show_ignore_regions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    monkeypatch.setattr("boxwright.tasks.detect.draw_boxes", lambda image, boxes, labels, words: texts.extend(words))
    dataset = opened(make(tmp_path, [{}], {"bbox": [1, 2, 3, 4]}, REGION))
    TASK.draw_sample(dataset, 0)
    panel = sheet.truth_and_prediction(np.zeros((40, 60, 3), np.uint8), dataset[0], Detections.empty())
    texts.extend(panel.views[0].texts)
    assert texts == ["car", "ignore region", "0", "ignore region"]


# labels that are left out


class Unread(Finding):
    """A label that could not be read."""

    leave_out = "label"  # type: ignore[assignment]


def test_faulty_labels_become_ignore_regions(tmp_path: Path) -> None:
    """The inner region of a faulty box, all of the image where none is known, and nothing for a repeated box."""
    box, whole = [5, 6, 10, 10], [0, 0, 60, 40]
    faults: dict[str, tuple[dict[str, Any], list[list[float]]]] = {
        "sound": ({"bbox": box}, []),
        "unknown category": ({"bbox": box, "category_id": 6}, [[5, 6, 15, 16]]),
        "outside": ({"bbox": [50, -10, 20, 20]}, [[50, 0, 60, 10]]),
        "wholly outside": ({"bbox": [70, 10, 20, 20]}, [whole]),
        "negative side": ({"bbox": [50, 6, -10, 10]}, [[40, 6, 50, 16]]),
        "negative area": ({"bbox": box, "area": -3}, [[5, 6, 15, 16]]),
        "no number": ({"bbox": [5, float("nan"), 10, 10]}, [whole]),
        "infinite": ({"bbox": [5, 6, float("inf"), 10]}, [whole]),
        "no area": ({"bbox": [5, 6, 0, 10]}, [whole]),
        "repeated": ({"bbox": [1, 1, 2, 2]}, []),
    }
    rows = [{"bbox": [1, 1, 2, 2], "image_id": n} | row for n, (row, _) in enumerate(faults.values(), 1)]
    repeated = [{"bbox": [1, 1, 2, 2], "image_id": 10}]
    dataset = opened(make(tmp_path, [{} for _ in faults], *rows, *repeated))
    # three labels that were not read: two of image 0, one of the last
    unread = [Unread("not_finite", "train", "", "", index=index) for index in (0, 9, 0)]
    kept = skip_bad(dataset, replace(report := check(dataset), findings=(*report.findings, *unread)))
    expected = [(index, region) for index, (_, found) in enumerate(faults.values()) for region in found]
    expected = sorted([*expected, (0, whole), (9, whole)], key=lambda region: region[0])
    assert sorted(regions(kept)) == sorted(expected)
    assert len(kept) == len(faults)
    assert kept.rows.xyxy[~kept.rows.ignored].tolist() == [[5, 6, 15, 16], [1, 1, 3, 3]]
    assert not check(kept).errors
    sides = kept.rows.xyxy[:, 2:] - kept.rows.xyxy[:, :2]
    assert kept.rows.areas.tolist() == (sides[:, 0] * sides[:, 1]).tolist()
    assert len(np.unique(kept.rows.ids)) == len(kept.rows)


@pytest.mark.parametrize("readable", [True, False])
def test_ignore_region_of_an_image_of_undeclared_size(tmp_path: Path, readable: bool) -> None:
    dataset = opened(make(tmp_path, [{}], {"bbox": [1, 2, 3, 4]}))
    dataset = replace(dataset, images=replace(dataset.images, sizes=np.full((1, 2), -1)))
    if not readable:
        (tmp_path / "train/1.png").unlink()
    kept = skip_bad(dataset, CheckReport((Unread("not_finite", "train", "", "", index=0),)))
    side = 2**24
    assert regions(kept) == [(0, [0, 0, 60, 40] if readable else [0, 0, side, side])]
    assert kept.rows.labels.tolist() == [ANY_CLASS, 0]  # before the objects, of which a limit may drop the last


# training


def test_batch_has_clipped_ignore_regions_and_labeled_classes(tmp_path: Path) -> None:
    dataset = opened(make(tmp_path, [{"labelled_classes": ["bus"]}, {}], {"bbox": [1, 2, 30, 4]}, REGION))
    rows = replace(dataset.rows, xyxy=np.array([[1, 2, 31, 6], [-5, -5, 1e7, 1e7]], np.float32))
    batch = next(Loader(replace(dataset, rows=rows), CanvasConfig(size=(80, 120)), 2).epoch(0))
    own = [frame.image_id for frame in batch.frames].index(1)
    assert batch.boxes[own].tolist() == [[2, 4, 62, 12], [0, 0, 120, 80]]
    assert batch.ignore[own].tolist() == [False, True]
    assert (batch.labels[own] >= 0).all()
    assert batch.valid[own].tolist() == [True, False]
    assert batch.labeled is not None
    assert batch.labeled[[own, 1 - own]].tolist() == [[False, False, True], [True] * 3]
    assert next(Loader(opened(tmp_path).subset([1]), CanvasConfig(), 1).epoch(0)).labeled is not None
    plain = replace(dataset, images=replace(dataset.images, labeled=None))
    assert next(Loader(plain, CanvasConfig(), 2).epoch(0)).labeled is None


def blank(labeled: list[list[bool]], size: int = 64) -> Batch:
    """Images without boxes."""
    count = len(labeled)
    none, frames = torch.zeros(count, 0), (Frame(0, "", (size, size), (size, size), (1.0, 1.0)),) * count
    images = torch.zeros(count, 3, size, size, dtype=torch.uint8)
    return Batch(
        images, none[..., None].expand(-1, 0, 4), none.long(), none.bool(), frames, None, torch.tensor(labeled)
    )


@pytest.mark.parametrize("setting", ["mosaic", "mixup"])
def test_combined_images_have_the_common_labeled_classes(setting: str) -> None:
    """Image i was searched for all classes but i, so the result lacks its own class and those of its partners."""
    batch = blank((~torch.eye(8, dtype=torch.bool)).tolist())
    alone = augment(batch, AugmentConfig(flip=0.5), size=(64, 64), seed=1, step=2, rank=0)
    assert batch.labeled is not None
    assert torch.equal(alone.labeled, batch.labeled)  # type: ignore[arg-type]
    config = AugmentConfig.model_validate({setting: 0.5})
    labeled = augment(batch, config, size=(64, 64), seed=1, step=2, rank=0).labeled
    assert labeled is not None
    assert not labeled.diagonal().any()
    missing = (~labeled).sum(1)
    assert (missing == 1).any()  # not combined
    assert missing.max() == (4 if setting == "mosaic" else 2)


def loss_gradients(model: Any, raw: tuple[Tensor, ...], batch: Batch) -> tuple[Tensor, ...]:
    """The gradient of the loss for each raw map."""
    maps = tuple(each.clone().requires_grad_() for each in raw)
    sum(model.loss_of_raw(maps, batch).values()).backward()
    gradients = tuple(each.grad for each in maps)
    assert all(gradient is not None for gradient in gradients)
    return gradients  # type: ignore[return-value]


def tiny_v3() -> Any:
    config = {"network": "tiny", "classes": 3, "width": 0.25, "anchors": yolov3.COCO_ANCHORS[:6]}
    return yolov3.build(yolov3.Config.model_validate(config))


def tiny_v4() -> Any:
    anchors = yolov4.COCO_ANCHORS[:6]
    config = {"network": "tiny", "classes": 3, "width": 0.25, "anchors": anchors, "scale_xy": (1.05, 1.05)}
    return yolov4.build(yolov4.Config.model_validate(config))


def large_v3() -> Any:
    with torch.device("meta"):
        model = yolov3_640.build(yolov3_640.Config(classes=3))
    model.anchors = torch.tensor(yolov3_640.Config().anchors, dtype=torch.float32).view(3, 3, 2).flip(0)
    return model


def without_anchors() -> Any:
    with torch.device("meta"):
        model = yolox.build(yolox.Config(classes=3))
    model.anchors = torch.tensor(yolox.STRIDES).float()[:, None].expand(-1, 2)
    return model


# How to build it, the cells of each map along a side, anchors
YOLO = {
    "yolov3": (tiny_v3, (2, 4), 3),
    "yolov4": (tiny_v4, (2, 4), 3),
    "yolov3_640": (large_v3, (2, 4, 8), 3),
    "yolox": (without_anchors, (2, 4, 8), 1),
}


@pytest.mark.parametrize("name", YOLO)
def test_background_of_unlabeled_classes_has_no_gradient(name: str) -> None:
    """Every other cell, and every other channel, has the gradient that it has without the mark."""
    build, cells, anchors = YOLO[name]
    model = build()
    generator = torch.Generator().manual_seed(3)
    raw = tuple(torch.randn(2, 8 * anchors, n, n, generator=generator) for n in cells)
    boxes = torch.tensor([[[8.0, 8, 40, 40], [50, 50, 60, 60]], [[8, 8, 30, 40], [0, 0, 0, 0]]])
    labels = torch.tensor([[2, 0], [1, -1]])
    frames = (Frame(0, "", (64, 64), (64, 64), (1.0, 1.0)),) * 2
    batch = Batch(torch.zeros(2, 3, 64, 64), boxes, labels, torch.zeros_like(labels, dtype=torch.bool), frames)
    limited = replace(batch, labeled=torch.tensor([[True, False, False], [True, True, True]]))
    spared = taught = 0
    for each, full, gradient in zip(
        raw, loss_gradients(model, raw, batch), loss_gradients(model, raw, limited), strict=True
    ):
        full, gradient, logits = (x.unflatten(1, (anchors, 8)).clone() for x in (full, gradient, each))
        positive = full[:, :, 5:].abs().sum(2) > 0  # only cells with an object are taught a class
        unknown = (logits[:, :, 5:].argmax(2) > 0) & ~positive
        unknown[1] = False
        assert (gradient[:, :, 4][unknown] == 0).all()
        spared += int((full[:, :, 4][unknown] != 0).sum())
        taught += int((gradient[0, :, 4][~unknown[0]] != 0).sum())
        full[:, :, 4][unknown] = 0
        assert torch.equal(gradient, full)
    assert spared > 10
    assert taught > 3


@pytest.mark.parametrize("name", YOLO)
def test_ignore_region_has_no_gradient_and_the_rest_is_unchanged(name: str, tmp_path: Path) -> None:
    """Through the loader. The boxes of all cells are small, so each lies in one half."""
    region = {"bbox": [0, 0, 30, 40], "ignore": 1}
    dataset = opened(make(tmp_path, [{}], {"bbox": [40, 10, 8, 8], "category_id": 9}, region))
    batch = next(Loader(dataset, CanvasConfig(size=(64, 64)), 1).epoch(0))
    plain = replace(batch, labels=torch.where(batch.ignore, -1, batch.labels))
    build, cells, anchors = YOLO[name]
    model = build()
    raw = tuple(torch.full((1, anchors, 8, n, n), 0.0) for n in cells)
    for each in raw:
        each[:, :, 2:4] = -6.0
    flat = tuple(each.flatten(1, 2) for each in raw)
    for full, gradient in zip(loss_gradients(model, flat, plain), loss_gradients(model, flat, batch), strict=True):
        left, right = gradient.chunk(2, -1)
        assert not left.any()
        assert full.chunk(2, -1)[0].any()
        assert torch.equal(right, full.chunk(2, -1)[1])
        assert right.any()


@pytest.mark.parametrize("name", YOLO)
def test_region_excludes_the_cells_of_its_object_from_the_loss(name: str) -> None:
    """However little of their boxes lies in it: here all are larger than the image."""
    build, cells, anchors = YOLO[name]
    model = build()
    raw = tuple(torch.full((1, anchors, 8, n, n), 3.0).flatten(1, 2) for n in cells)
    frames = (Frame(0, "", (64, 64), (64, 64), (1.0, 1.0)),)
    boxes, labels = torch.tensor([[[20.0, 33, 47, 50]]]), torch.tensor([[1]])
    batch = Batch(torch.zeros(1, 3, 64, 64), boxes, labels, torch.tensor([[False]]), frames)
    region = replace(batch, ignore=~batch.ignore)
    none = replace(region, labels=torch.full_like(labels, -1))
    gradients = zip(*(loss_gradients(model, raw, given) for given in (batch, region, none)), strict=True)
    taught = 0
    for of_object, of_region, without in (tuple(x.unflatten(1, (anchors, 8)) for x in level) for level in gradients):
        positive = of_object[:, :, 5:].abs().sum(2) > 0
        taught += int(positive.sum())
        assert not of_region[:, :, 4][positive].any()
        assert without[:, :, 4][positive].all()
        if name in ("yolov3", "yolov4"):  # the others also spare all cells with a center in the region
            assert torch.equal(of_region[:, :, 4][~positive], without[:, :, 4][~positive])
    assert taught


@pytest.fixture
def two_stages() -> faster_rcnn.FasterRCNN:
    settings = recipe.load("faster_rcnn_r50_dcn_coco_standard", {"model.classes": 3, "data.names": []}).model
    assert isinstance(settings, Config)
    with torch.device("meta"):  # the losses need no weights
        return faster_rcnn.build(faster_rcnn.Config.model_validate(settings.model_dump()))


def test_faster_rcnn_background_loss_only_for_labeled_classes(two_stages: faster_rcnn.FasterRCNN) -> None:
    """An object, three times background, and one that was not drawn, in an image that was searched for class 0."""
    positive = torch.tensor([[True, False, False, False, False]])
    drawn = torch.tensor([[True, True, True, True, False]])
    rows = torch.zeros(1, 5, dtype=torch.int64)
    targets = Targets(torch.zeros(1, 5, 4), rows, drawn, positive, rows, torch.zeros(1, 5, 4))
    scores = [[0, 0, 3, 0], [2, 1, 0, 0], [2, 0, 1, 0], [0, 0, 0, 3], [0, 0, 0, 3]]  # background first
    logits = torch.tensor([scores], dtype=torch.float32)
    full, limited = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    labels, deltas = torch.tensor([[1]]), torch.zeros(1, 5, 16)
    two_stages.roi_loss(targets, full, deltas, labels)["classes"].backward()
    labeled = torch.tensor([[True, False, False]])
    terms = two_stages.roi_loss(targets, limited, deltas, labels, labeled)
    terms["classes"].backward()
    assert full.grad is not None
    assert limited.grad is not None
    assert torch.equal(limited.grad[0, :2], full.grad[0, :2])  # the object, of class 1, and background of class 0
    assert full.grad[0, 2:4].any()
    assert not limited.grad[0, 2:].any()
    by_hand = (np.log(3 + np.e**3) - 3 + np.log(np.e**2 + np.e + 2) - 2) / 4
    assert terms["classes"].item() == pytest.approx(by_hand, rel=1e-5)


def test_rpn_ignores_proposals_classified_as_unlabeled_classes(two_stages: faster_rcnn.FasterRCNN) -> None:
    """Proposals by the second stage: class 1, which was not looked for; class 0; background; class 1 and an object."""
    corner = torch.tensor([0.0, 100, 200, 300])
    proposals = torch.stack((corner, corner * 0, corner + 20, corner * 0 + 20), 1)[None]
    anchors = torch.cat((proposals + 1, proposals[:, :1] + 19, proposals[:, :1] + 1), 1)
    rows, yes = torch.zeros(1, 6, dtype=torch.int64), torch.ones(1, 6, dtype=torch.bool)
    is_object = torch.tensor([[False] * 5 + [True]])
    first = Targets(anchors, rows, yes, is_object, rows, anchors)
    of_object = torch.tensor([[False, False, False, True]])
    second = Targets(proposals, rows[:, :4], yes[:, :4], of_object, rows[:, :4], proposals)
    logits = torch.tensor([[[0.0, 1, 2, 0], [0, 2, 1, 0], [2, 0, 1, 0], [0, 1, 2, 0]]])
    known = two_stages.reliable_samples(first, second, logits, torch.tensor([[True, False, True]]))
    # the anchor that hardly overlaps the first proposal is background, and the one with an object is an object
    assert known.tolist() == [[False, True, True, True, True, True]]


# metrics


def with_marks(seed: int) -> tuple[list[Sample], list[Detections], list[str]]:
    """`made` with ignore regions in place of every fifth box, and with classes of half of the images limited."""
    samples, found, names = made(seed)
    rng, marked = np.random.default_rng(seed), []
    for number, sample in enumerate(samples):
        which = np.arange(len(sample)) % 5 == 1
        labels, crowd = np.where(which, ANY_CLASS, sample.labels), sample.crowd | which
        boxes = np.where(which[:, None], sample.boxes + np.float32([-40, -40, 40, 40]), sample.boxes)
        labeled = rng.random(len(names)) < 0.6 if number % 2 else None
        marked.append(replace(sample, labels=labels, crowd=crowd, boxes=boxes, labeled=labeled))
    return marked, found, names


def without_marks(samples: list[Sample], found: list[Detections], names: list[str]) -> Any:
    """The same for tools that know neither: a crowd region per class, LVIS's rule for classes not looked for.

    LVIS drops the detections of a class that was neither found by annotators nor verified as absent, and ignores those
    without an object if the class is not exhaustively labeled: here by a crowd region as large as the plane.
    """
    plain, kept = [], []
    classes = np.arange(len(names))
    for sample, result in zip(samples, found, strict=True):
        known = sample.labels != ANY_CLASS
        columns = [[getattr(sample, key)[known] for key in ("boxes", "labels", "crowd", "areas")]]
        for box in sample.boxes[~known]:
            ones = np.ones(len(names))
            columns.append([np.tile(box, (len(names), 1)), classes, ones.astype(bool), ones])
        if sample.labeled is not None:
            unknown = classes[~sample.labeled]
            partly = np.intersect1d(unknown, sample.labels)
            result = result[torch.from_numpy(~np.isin(result.labels, np.setdiff1d(unknown, partly)))]
            ones = np.ones(len(partly))
            columns.append([np.tile([-1e4, -1e4, 1e4, 1e4], (len(partly), 1)), partly, ones.astype(bool), ones])
        boxes, labels, crowd, areas = (np.concatenate(parts) for parts in zip(*columns, strict=True))
        numbers, no = np.arange(len(boxes)), np.zeros(len(boxes), bool)
        plain.append(Sample(sample.image_id, "", None, boxes.astype(np.float32), labels, crowd, areas, numbers, no))
        kept.append(result)
    return plain, kept, names


@pytest.mark.parametrize("seed", range(3))
def test_coco_metrics_match_pycocotools_on_equivalent_labels(seed: int) -> None:
    samples, found, names = with_marks(seed)
    metrics = coco.score(samples, found, names)
    check_against_pycocotools(metrics, *pycocotools_metrics(*to_files(*without_marks(samples, found, names))))
    # each mark matters
    regions_only = [replace(sample, labeled=None) for sample in samples]
    bare = [replace(s, labels=np.where(s.labels < 0, 0, s.labels)) for s in samples]
    for other in (regions_only, bare):
        assert coco.score(other, found, names).summary != metrics.summary


def test_voc_metrics_with_ignore_regions_by_hand() -> None:
    """Class 0: a hit, one in the ignore region, one elsewhere. Class 1, not looked for: a hit, one without object."""
    boxes = np.array([[0, 0, 10, 10], [50, 0, 80, 30], [20, 0, 30, 10]], np.float32)
    labels, no = np.array([0, ANY_CLASS, 1]), np.zeros(3, bool)
    crowd, labeled = np.array([False, True, False]), np.array([True, False, True])
    sample = Sample(1, "", None, boxes, labels, crowd, np.ones(3), np.arange(3), no, labeled)
    rows = [[0, 0, 10, 10], [60, 10, 70, 20], [90, 0, 99, 9], [20, 0, 30, 10], [90, 0, 99, 9], [60, 10, 70, 20]]
    scores = torch.tensor([0.5, 0.9, 0.8, 0.5, 0.9, 0.7])
    found = Detections(torch.tensor(rows, dtype=torch.float32), scores, torch.tensor([0, 0, 0, 1, 1, 2]))
    first, second, third = voc.score([sample], [found], ["a", "b", "c"]).classes
    assert (first.ap12, first.recall, first.objects, first.ignored) == (0.5, 1, 1, 0)
    assert (second.ap12, second.recall, second.objects) == (1, 1, 1)
    assert (third.objects, third.detections) == (0, 1)
    everything = replace(sample, labeled=None)
    assert voc.score([everything], [found], ["a", "b", "c"]).classes[1].ap12 == 0.5


def test_confusion_matrix_excludes_ignored_and_unlabeled_classes() -> None:
    boxes = np.array([[0, 0, 10, 10], [50, 0, 80, 30]], np.float32)
    no, crowd = np.zeros(2, bool), np.array([False, True])
    labels, labeled = np.array([0, ANY_CLASS]), np.array([True, False])
    sample = Sample(1, "", None, boxes, labels, crowd, np.ones(2), np.arange(2), no, labeled)
    rows = torch.tensor([[0.0, 0, 10, 10], [60, 10, 70, 20], [90, 0, 99, 9], [90, 0, 99, 9]])
    found = Detections(rows, torch.full((4,), 0.9), torch.tensor([0, 0, 0, 1]))
    assert plots.confusion([sample], [found], 2, 0.5).tolist() == [[1, 0, 0], [0, 0, 0], [1, 0, 0]]


def test_fingerprint_covers_ignore_regions_and_labeled_classes(tmp_path: Path) -> None:
    dataset = opened(make(tmp_path, [{"labelled_classes": ["bus"]}], {"bbox": [1, 2, 3, 4]}, REGION))
    settings = recipe.load("yolov3_tiny_coco_416_darknet", {"model.classes": 3, "data.names": list(NAMES)})
    assert TASK.to_score(dataset, settings) is dataset
    changed: list[Callable[[Dataset], Dataset]] = [
        lambda data: replace(data, images=replace(data.images, labeled=None)),
        lambda data: data.without_rows(data.rows.ignored),
    ]
    prints = {TASK.fingerprint(each, settings) for each in (dataset, *(change(dataset) for change in changed))}
    assert len(prints) == 3
