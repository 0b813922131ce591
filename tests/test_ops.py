"""Boxes, overlaps, assignment and the global normalizer: by hand, against pycocotools and against plain loops."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from pycocotools import mask
from torch import Tensor

from boxwright.ops.anchors import Cells, flatten, objectness, rows_at
from boxwright.ops.assign import best_anchor, last_claim
from boxwright.ops.boxes import area, clip, cxcywh_to_xyxy, xyxy_to_cxcywh
from boxwright.ops.iou import ciou, pairwise_iou
from boxwright.ops.losses import across_processes


def random_boxes(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 100
    return torch.cat((corner, corner + 1 + torch.rand(count, 2, generator=generator) * 60), 1)


def coco(boxes: Tensor) -> np.ndarray:
    return torch.cat((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), 1).double().numpy()


def test_conversion_between_xyxy_and_cxcywh() -> None:
    boxes = torch.tensor([[10.0, 20, 40, 100]])
    assert xyxy_to_cxcywh(boxes).tolist() == [[25, 60, 30, 80]]
    torch.testing.assert_close(cxcywh_to_xyxy(xyxy_to_cxcywh(random_boxes(50, 0))), random_boxes(50, 0))
    assert xyxy_to_cxcywh(torch.zeros(0, 4)).shape == (0, 4)


def test_area_and_clip() -> None:
    boxes = torch.tensor([[10.0, 20, 40, 100], [5, 5, 5, 9], [9, 9, 4, 4]])
    assert area(boxes).tolist() == [2400, 0, 0]
    assert area(boxes, plus_one=True).tolist() == [31 * 81, 5, 0]
    assert clip(torch.tensor([[-5.0, -6, 500, 300]]), (200, 400)).tolist() == [[0, 0, 400, 200]]


def test_iou_matches_pycocotools() -> None:
    a, b = random_boxes(40, 1), random_boxes(30, 2)
    for crowd in (False, True):
        theirs = mask.iou(coco(a), coco(b), [crowd] * 30)
        ours = pairwise_iou(a, b, crowd=torch.full((30,), crowd))
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pairwise_iou(a, b).numpy(), mask.iou(coco(a), coco(b), [0] * 30), rtol=1e-5, atol=1e-6)


def test_iou_by_hand() -> None:
    a, b = torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([[5.0, 0, 14, 9], [9, 9, 12, 12], [0, 0, 0, 0]])
    # 4 x 9 shared of 2 * 81 - 36; touching corners share nothing; a point has no area
    assert pairwise_iou(a, b)[0].tolist() == pytest.approx([36 / 126, 0, 0])
    # whole pixels 0..9 and 5..14: 5 x 10 shared of 200 - 50; one pixel of 100 + 16 - 1; a point is one pixel
    assert pairwise_iou(a, b, plus_one=True)[0].tolist() == pytest.approx([50 / 150, 1 / 115, 1 / 100])
    nothing = torch.zeros(1, 4)
    assert pairwise_iou(nothing, nothing).item() == 0
    assert pairwise_iou(a, torch.zeros(0, 4)).shape == (1, 0)
    batched = pairwise_iou(a.expand(5, 1, 4), b.expand(5, 3, 4))
    assert batched.shape == (5, 1, 3)


def test_ciou_by_hand() -> None:
    same = torch.tensor([[1.0, 2, 11, 22]])
    assert ciou(same, same).item() == pytest.approx(1)
    a, b = torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([[2.0, 0, 10, 4]])
    overlap = 8 / (16 + 32 - 8)
    distance = (6 - 2) ** 2 / (10**2 + 4**2)
    aspect = 4 / math.pi**2 * (math.atan(2) - math.atan(1)) ** 2
    assert ciou(a, b).item() == pytest.approx(overlap - distance - aspect**2 / (1 - overlap + aspect), rel=1e-5)


def test_minimizing_ciou_loss_reaches_the_target_box() -> None:
    goal = torch.tensor([[30.0, 30, 60, 50]])
    box = torch.tensor([[0.0, 0, 10, 10]], requires_grad=True)  # no overlap at first
    optimizer = torch.optim.Adam([box], lr=1.0)
    for _ in range(200):
        optimizer.zero_grad()
        (1 - ciou(box, goal)).sum().backward()
        optimizer.step()
    assert pairwise_iou(box, goal).item() > 0.9


def test_best_anchor_maximizes_centered_iou() -> None:
    anchors = torch.tensor([[10.0, 13], [16, 30], [33, 23], [30, 61]])
    sides = random_boxes(200, 3)[:, 2:]
    centered = [torch.cat((-one / 2, one / 2), 1) for one in (sides, anchors)]
    theirs = mask.iou(coco(centered[0]), coco(centered[1]), [0] * 4).argmax(1)
    assert best_anchor(sides, anchors).tolist() == theirs.tolist()
    assert len(set(theirs.tolist())) > 1


def test_last_claim_wins() -> None:
    cells = torch.tensor([[3, 1, 3, 3], [0, 0, 1, 2]])
    claims = torch.tensor([[True, True, True, False], [True, True, False, True]])
    assert last_claim(cells, claims, 4).tolist() == [[2, 1, 2, -1], [1, 1, -1, 3]]
    assert last_claim(torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, 0, dtype=torch.bool), 4).shape == (2, 0)


def test_cells_match_the_order_of_flatten() -> None:
    """Mark one place of a map; after `flatten` it must stand in the row that `Cells` gives the same place."""
    anchors = torch.tensor([[[40.0, 50], [60, 30]], [[10, 12], [14, 8]]])  # two scales, two anchors
    raw = tuple(torch.zeros(1, 2 * 7, h, w) for h, w in ((2, 3), (4, 6)))
    raw[1].view(1, 2, 7, 4, 6)[0, 1, 5, 3, 2] = 1.0
    cells = Cells.of([one.shape[2:] for one in raw], (32, 16), anchors)
    row = flatten(raw, 2)[0, :, 5].argmax()
    assert cells.size == (64, 96)
    assert len(cells.corner) == flatten(raw, 2).shape[1] == 2 * 6 + 2 * 24
    assert cells.corner[row].tolist() == [32, 48]
    assert cells.stride[row].item() == 16
    assert cells.anchor[row].tolist() == [14, 8]
    box = torch.tensor([[40.0 - 7, 50 - 4, 40 + 7, 50 + 4]])  # center 40, 50
    assert cells.responsible(box).item() == row
    # and back: the logits of the middle of that cell, at the anchor's size
    assert cells.boxes(torch.zeros(1, 4), row[None])[0].tolist() == [33, 52, 47, 60]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_rows_at_matches_flatten(layout: torch.memory_format) -> None:
    """All cells in another order, and none."""
    raw = tuple(torch.rand(2, 3 * 7, side, side + 1).to(memory_format=layout) for side in (1, 2, 3))
    rows = flatten(raw, 3)
    assert torch.equal(objectness(raw, 3), rows[..., 4])
    image, cell = torch.arange(2 * rows.shape[1]).flip(0) % 2, torch.arange(2 * rows.shape[1]) // 2
    assert torch.equal(rows_at(raw, 3, image, cell), rows[image, cell])
    assert rows_at(raw, 3, image[:0], cell[:0]).shape == (0, 7)


def test_responsible_cell_is_inside_the_canvas() -> None:
    cells = Cells.of([(2, 2)], (32,), torch.tensor([[[10.0, 10]]]))
    boxes = torch.tensor([[59.0, 59, 69, 69], [-10, -10, 4, 4]])  # one center on the far corner, one outside
    assert cells.responsible(boxes).tolist() == [3, 0]


def test_across_processes_with_a_single_process() -> None:
    assert across_processes(torch.tensor(3)).item() == 3
    assert across_processes(torch.tensor(0), minimum=1).item() == 1


@pytest.mark.slow
def test_across_processes_averages_over_processes(tmp_path: Path) -> None:
    mp.spawn(_mean_in_a_process, args=(str(tmp_path / "meeting"), tmp_path), nprocs=2)
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=True).tolist() == [3.5, 0.5]


def _mean_in_a_process(rank: int, meeting: str, out: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    count = torch.tensor([2, 5][rank])
    # nothing anywhere counts as one in all, so a half for each of the two
    torch.save(torch.stack((across_processes(count), across_processes(count * 0, minimum=1))), out / f"{rank}.pt")
    dist.destroy_process_group()
