"""YOLOX: its assignment and its losses against loops over boxes and cells written from the paper, decoding by hand."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.models.yolox import STRIDES, Config, DecoupledHead, Points, build, loss_terms
from boxwright.nn.blocks import Style
from boxwright.ops import simota
from boxwright.ops.anchors import flatten
from boxwright.ops.simota import Assignment, SimOTA
from boxwright.types import Batch, Frame

SIDE = 128
CLASSES = 3


def without_weights(**changes: Any) -> Any:
    """A network of which only the strides are real: enough for the loss and the boxes of given raw maps."""
    with torch.device("meta"):
        model = build(Config.model_validate({"classes": CLASSES} | changes))
    model.anchors = torch.tensor(STRIDES).float()[:, None].expand(-1, 2)
    return model


MODEL = without_weights()


def raw_maps(seed: int, images: int = 2) -> tuple[Tensor, ...]:
    """Numbers whose boxes lie near their cells, mostly one to six times the stride wide."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(images, 5 + CLASSES, SIDE // stride, SIDE // stride) for stride in STRIDES]
    maps = [torch.randn(shape, generator=generator) * 0.7 + 0.4 for shape in shapes]
    for level in maps:
        level[:, 2:4] += 0.5
    return tuple(maps)


def batch_of(boxes: Tensor, labels: Tensor, ignore: Tensor | None = None, labeled: Tensor | None = None) -> Batch:
    frame = Frame(0, "", (SIDE, SIDE), (SIDE, SIDE), (1.0, 1.0))
    ignore = torch.zeros_like(labels, dtype=torch.bool) if ignore is None else ignore
    images = torch.zeros(len(boxes), 3, SIDE, SIDE)
    return Batch(images, boxes, labels, ignore, (frame,) * len(boxes), labeled=labeled)


def overlapping_objects(seed: int, images: int = 2, rows: int = 9) -> Batch:
    """Objects of all sizes, some over others, so that they compete for cells; the last rows are padding."""
    generator = torch.Generator().manual_seed(seed)
    center = torch.rand(images, rows, 2, generator=generator) * 50 + 40
    half = torch.rand(images, rows, 2, generator=generator) * 30 + 3
    labels = torch.randint(CLASSES, (images, rows), generator=generator)
    labels[0, -2:] = -1
    labels[1, -4:] = -1
    return batch_of(torch.cat((center - half, center + half), 2), labels)


def cells_of(raw: tuple[Tensor, ...]) -> tuple[Points, Tensor, Tensor]:
    """Cells, rows (B, N, 5+C), boxes (B, N, 4)."""
    cells, rows = MODEL.cells(raw), flatten(raw, MODEL.counts)
    return cells, rows, cells.boxes(rows[..., :4])


def assigned(raw: tuple[Tensor, ...], batch: Batch) -> Assignment:
    cells, rows, boxes = cells_of(raw)
    return simota.assign(rows, boxes, cells.corner + cells.stride / 2, cells.stride, batch, SimOTA())


def overlap_of(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def grid_cells() -> list[tuple[int, float, float]]:
    """(stride, column, row) of each cell."""
    grids = [(stride, SIDE // stride) for stride in STRIDES]
    return [(stride, column, row) for stride, count in grids for row in range(count) for column in range(count)]


def naive_assignment(rows: list[list[float]], objects: list[list[float]], labels: list[int]) -> dict[int, int]:
    """Cell -> object, of one image: section 2.1 of the paper, in double precision."""
    cells = grid_cells()
    boxes = []
    for (stride, column, row), (x, y, w, h, *_) in zip(cells, rows, strict=True):
        cx, cy, width, height = (x + column) * stride, (y + row) * stride, math.exp(w) * stride, math.exp(h) * stride
        boxes.append([cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2])
    claims: dict[int, list[tuple[float, int]]] = {}
    for number, (x1, y1, x2, y2) in enumerate(objects):
        costs, overlaps = [], []
        for cell, (stride, column, row) in enumerate(cells):
            px, py = (column + 0.5) * stride, (row + 0.5) * stride
            inside = x1 < px < x2 and y1 < py < y2
            near = max(abs(px - (x1 + x2) / 2), abs(py - (y1 + y2) / 2)) < 2.5 * stride
            if not (inside or near):
                continue
            overlap = overlap_of([x1, y1, x2, y2], boxes[cell])
            cost = -3 * math.log(overlap + 1e-8)
            for label, logit in enumerate(rows[cell][5:]):
                chance = math.sqrt(sigmoid(rows[cell][4]) * sigmoid(logit))
                cost -= math.log(chance if label == labels[number] else 1 - chance)
            costs.append((cost + (0 if inside and near else 1e5), cell))
            overlaps.append(overlap)
        count = max(1, int(sum(sorted(overlaps)[-10:])))
        for cost, cell in sorted(costs)[:count]:
            claims.setdefault(cell, []).append((cost, number))
    return {cell: min(those)[1] for cell, those in claims.items()}


@pytest.mark.parametrize("seed", range(4))
def test_assignment_matches_a_naive_loop(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, batch = raw_maps(seed), overlapping_objects(seed)
    _, rows, _ = cells_of(raw)
    found = assigned(raw, batch)
    several = contested = 0
    for image in range(2):
        real = int(batch.valid[image].sum())
        lists = rows[image].tolist(), batch.boxes[image, :real].tolist(), batch.labels[image, :real].tolist()
        wanted = naive_assignment(*lists)
        positive = found.positive[image].nonzero()[:, 0].tolist()
        assert {cell: int(found.matched_gt_idx[image, cell]) for cell in positive} == wanted
        several += len(wanted) - len(set(wanted.values()))
        alone = [naive_assignment(lists[0], [box], [label]) for *_, box, label in zip(*lists[1:], strict=True)]
        contested += sum(map(len, alone)) - len(wanted)
    assert several > 5  # objects have several cells
    assert contested > 0  # and some cells are claimed twice
    assert not found.ignored.any()
    monkeypatch.setattr(simota, "MAX_PAIRS_PER_CHUNK", 1)  # image by image
    assert all(torch.equal(a, b) for a, b in zip(found, assigned(raw, batch), strict=True))


def test_object_smaller_than_a_cell_is_assigned_one_cell() -> None:
    """Its box holds no center of a cell."""
    batch = batch_of(torch.tensor([[[33.0, 33, 35, 35]]]), torch.tensor([[1]]))
    found = assigned(raw_maps(1, images=1), batch)
    assert found.positive.sum() == 1
    stride, column, row = grid_cells()[int(found.positive[0].nonzero())]
    assert max(abs((column + 0.5) * stride - 34), abs((row + 0.5) * stride - 34)) < 2.5 * stride


def test_zero_area_boxes_and_padding_are_not_assigned() -> None:
    boxes = torch.tensor([[[20.0, 20, 20, 60], [30, 30, 60, 60]]])
    found = assigned(raw_maps(2, images=1), batch_of(boxes, torch.tensor([[1, -1]])))
    assert not found.positive.any()
    assert not found.ignored.any()


def test_losses_match_a_naive_loop() -> None:
    raw, batch = raw_maps(5), overlapping_objects(5)
    cells, rows, boxes = cells_of(raw)
    found = assigned(raw, batch)
    sums = {"box": 0.0, "objectness": 0.0, "classes": 0.0, "l1": 0.0}
    corners = grid_cells()
    for image, cell in torch.cartesian_prod(torch.arange(2), torch.arange(rows.shape[1])).tolist():
        numbers, positive = rows[image, cell].tolist(), bool(found.positive[image, cell])
        sums["objectness"] -= math.log(sigmoid(numbers[4]) if positive else 1 - sigmoid(numbers[4]))
        if not positive:
            continue
        number = int(found.matched_gt_idx[image, cell])
        x1, y1, x2, y2 = wanted = batch.boxes[image, number].tolist()
        overlap = overlap_of(boxes[image, cell].tolist(), wanted)
        sums["box"] += 1 - overlap**2
        for label, logit in enumerate(numbers[5:]):
            goal = overlap if label == int(batch.labels[image, number]) else 0.0
            sums["classes"] -= goal * math.log(sigmoid(logit)) + (1 - goal) * math.log(1 - sigmoid(logit))
        stride, column, row = corners[cell]
        goals = ((x1 + x2) / 2 / stride - column, (y1 + y2) / 2 / stride - row)
        goals += (math.log((x2 - x1) / stride), math.log((y2 - y1) / stride))
        sums["l1"] += sum(abs(a - b) for a, b in zip(goals, numbers[:4], strict=True))
    count = int(found.positive.sum())
    terms = loss_terms(rows, cells, batch, with_l1=True)
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(
        {name: total / count for name, total in sums.items()}, rel=1e-4
    )
    weighted = without_weights(loss={"box": 7.0, "l1": 2.0}).loss_of_raw(raw, batch)
    for name, weight in {"box": 7, "objectness": 1, "classes": 1, "l1": 2}.items():
        assert float(weighted[name]) == pytest.approx(weight * sums[name] / count, rel=1e-4)
    assert MODEL.loss_of_raw(raw, batch).keys() == {"box", "objectness", "classes"}
    assert float(MODEL.loss_of_raw(raw, batch)["box"]) == pytest.approx(5 * sums["box"] / count, rel=1e-4)


def test_images_without_boxes_have_only_objectness_loss() -> None:
    raw = raw_maps(3)
    none = batch_of(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64))
    padding = batch_of(torch.zeros(2, 3, 4), torch.full((2, 3), -1))
    for batch in (none, padding):
        terms = MODEL.loss_of_raw(raw, batch)
        logits = flatten(raw, 1)[..., 4]
        assert float(terms["objectness"]) == pytest.approx(float(F.softplus(logits).sum()), rel=1e-5)
        assert terms["box"] == terms["classes"] == 0


def test_padding_does_not_change_the_loss() -> None:
    """The objects are those of both; random boxes in the rows of padding."""
    raw, batch = raw_maps(4), overlapping_objects(4)
    more = torch.rand(2, 5, 4, generator=torch.Generator().manual_seed(1)) * SIDE
    padded = replace(
        batch,
        boxes=torch.cat((batch.boxes, more), 1),
        labels=F.pad(batch.labels, (0, 5), value=-1),
        ignore=F.pad(batch.ignore, (0, 5)),
    )
    for name, term in MODEL.loss_of_raw(raw, batch).items():
        assert torch.equal(term, MODEL.loss_of_raw(raw, padded)[name])


def test_encoding_is_the_inverse_of_decoding() -> None:
    cells, rows, boxes = cells_of(raw_maps(6))
    torch.testing.assert_close(cells.numbers(boxes), rows[..., :4], rtol=1e-4, atol=1e-4)


def test_decode_by_hand() -> None:
    """Column 3, row 1 of stride 16: center half a cell right of the corner and a quarter below, 32 x 8 px."""
    raw = tuple(torch.full((1, 5 + CLASSES, SIDE // stride, SIDE // stride), -20.0) for stride in STRIDES)
    raw[1][0, :5, 1, 3] = torch.tensor([0.5, 0.25, math.log(2), math.log(0.5), 20])
    raw[1][0, 5 + 2, 1, 3] = 20
    (found,) = MODEL.decode(raw, 0.5)
    assert found.labels.tolist() == [2]
    torch.testing.assert_close(found.boxes, torch.tensor([[56.0 - 16, 20 - 4, 56 + 16, 20 + 4]]))


def test_decoupled_head_matches_the_paper() -> None:
    """Figure 2: 1x1 to 256 channels, then two 3x3 for the classes and two for box and objectness."""
    torch.manual_seed(0)
    head = DecoupledHead(6, CLASSES, Style(norm_eps=1e-3)).eval()
    for part in head.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -0.1, 0.1)  # type: ignore[arg-type]

    def plain(x: Tensor, layer: Any) -> Tensor:
        """Convolution, batch norm, leaky ReLU with a slope of 0.1."""
        x, norm = F.conv2d(x, layer.conv.weight, padding=layer.conv.weight.shape[2] // 2), layer.norm
        x = (x - norm.running_mean[:, None, None]) / (norm.running_var[:, None, None] + 1e-3).sqrt()
        return F.leaky_relu(x * norm.weight[:, None, None] + norm.bias[:, None, None], 0.1)

    x = torch.randn(2, 6, 5, 4)
    stem = plain(x, head.stem)
    assert (stem.shape[1], head.stem.conv.kernel_size) == (256, (1, 1))
    of_class, of_box = stem, stem
    for first, second in zip(head.class_branch, head.box_branch, strict=True):
        of_class, of_box = plain(of_class, first), plain(of_box, second)
    parts = [(head.deltas, of_box), (head.objectness, of_box), (head.classes, of_class)]
    wanted = torch.cat([F.conv2d(given, layer.weight, layer.bias) for layer, given in parts], 1)
    torch.testing.assert_close(head(x), wanted, rtol=1e-4, atol=1e-5)
    fresh = torch.cat((head.objectness.bias, head.classes.bias)).sigmoid()
    torch.testing.assert_close(fresh, torch.full((1 + CLASSES,), 0.01))


def test_number_of_parameters_matches_yolox() -> None:
    """63.7 million, for COCO (README of YOLOX)."""
    with torch.device("meta"):
        model = build(Config(classes=80))
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 1) == 63.7


def test_losses_of_two_processes_average_to_the_full_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each half's sums are divided by the mean of the positive cells of both halves."""
    from boxwright.models import yolox

    raw, batch = raw_maps(7), overlapping_objects(7)
    whole = {name: float(term) for name, term in MODEL.loss_of_raw(raw, batch).items()}
    parts = [
        (
            tuple(level[i : i + 1] for level in raw),
            replace(
                batch, boxes=batch.boxes[i : i + 1], labels=batch.labels[i : i + 1], ignore=batch.ignore[i : i + 1]
            ),
        )
        for i in range(2)
    ]
    counts = [assigned(*part).positive.sum() for part in parts]
    monkeypatch.setattr(yolox, "across_processes", lambda count, minimum: (counts[0] + counts[1]) / 2)
    halves = [MODEL.loss_of_raw(*part) for part in parts]
    for name, total in whole.items():
        assert float(halves[0][name] + halves[1][name]) / 2 == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("label", [0, 2])
def test_crowd_region_is_ignored_in_the_loss(label: int) -> None:
    """No cell with its center in it, and none that an object there would have; objects in it are taught."""
    raw = tuple(level.requires_grad_() for level in raw_maps(8, images=1))
    boxes = torch.tensor([[[30.0, 30, 90, 70], [50, 40, 70, 60]]])
    batch = batch_of(boxes, torch.tensor([[label, 1]]), torch.tensor([[True, False]]))
    alone = replace(batch, labels=torch.tensor([[-1, 1]]))
    found, without = assigned(raw, batch), assigned(raw, alone)
    assert torch.equal(found.positive, without.positive)
    assert torch.equal(found.matched_gt_idx, without.matched_gt_idx)
    centers = [((column + 0.5) * stride, (row + 0.5) * stride) for stride, column, row in grid_cells()]
    within = torch.tensor([30 < x < 90 and 30 < y < 70 for x, y in centers])
    assert within.sum() > 20
    assert found.ignored[0][within].all()
    sum(MODEL.loss_of_raw(raw, batch).values()).backward()
    taught = flatten(tuple(level.grad for level in raw), 1)[0, :, 4] != 0  # type: ignore[misc]
    assert torch.equal(taught, ~found.ignored[0] | found.positive[0])
