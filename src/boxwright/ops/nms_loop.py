"""NMS as one short loop over fixed shapes, for export: it only uses operators that all runtimes have.

B images, M candidates per image, at most K detections per image

`ops/nms.py` gives the same results and is faster if shapes may vary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright.ops import exported
from boxwright.ops.nms import Settings, overlaps, scripted


def nms_loop(
    boxes: Tensor, scores: Tensor, labels: Tensor, classes: int, settings: Settings, lowest: float
) -> tuple[Tensor, Tensor]:
    """Select the best candidates of each image, one per turn.

    Each turn selects the best remaining candidate of each image and drops overlapping candidates of its class, or
    lowers their scores (soft-NMS), until the image with the most detections is done. Equal scores keep their order.

    Args:
        boxes: (B, M, 4) xyxy.
        scores: (B, M).
        labels: (B, M), below `classes`.
        classes: Number of classes.
        settings: K is its `max_detections`.
        lowest: Candidates with a lower score are never selected.

    Returns:
        (B, K) indices of the selected candidates, best first, and (B, K) their scores; -1 where there are no more.
    """
    if settings.kind == "standard" and exported.exporting_with("nms"):
        return _by_operator(boxes, scores, labels, classes, settings, lowest)
    rule = settings.kind, settings.iou, settings.sigma, settings.plus_one
    k = settings.max_detections

    def more(left: Tensor, chosen: Tensor, gained: Tensor, turn: Tensor) -> Tensor:
        return (turn < k) & (left >= lowest).any()

    def take(left: Tensor, chosen: Tensor, gained: Tensor, turn: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        left, index, best = _turn(left, boxes, labels, *rule)
        now = torch.arange(k, device=left.device) == turn
        best = torch.where(best >= lowest, best, -1.0)
        return left, torch.where(now, index, chosen), torch.where(now, best, gained), turn + 1

    left = torch.where(scores >= lowest, scores, -1.0)
    if torch.compiler.is_exporting():  # a data-dependent loop is an operator there
        gained = torch.full((boxes.shape[0], k), -1.0, device=boxes.device)
        start = left, gained.long() + 1, gained, torch.zeros((), dtype=torch.int64, device=boxes.device)
        _, chosen, gained, _ = torch.while_loop(more, take, start)  # type: ignore[no-untyped-call]
        return chosen, gained
    turns = scripted(_turns) if exported.is_tracing() else _turns
    return turns(left, boxes, labels, *rule, k, lowest)


def _by_operator(
    boxes: Tensor, scores: Tensor, labels: Tensor, classes: int, settings: Settings, lowest: float
) -> tuple[Tensor, Tensor]:
    ends = boxes + torch.tensor([0, 0, int(settings.plus_one), int(settings.plus_one)], device=boxes.device)
    of_class = labels[:, None] == torch.arange(classes, device=boxes.device)[:, None]  # (B, C, M)
    kept = exported.nms(ends, torch.where(of_class, scores[:, None], -1.0), settings.iou, lowest)
    found = F.pad(
        torch.where(kept.any(1), scores, -1.0), (0, max(0, settings.max_detections - boxes.shape[1])), value=-1.0
    )
    gained, chosen = found.topk(settings.max_detections)
    return chosen.clamp(max=boxes.shape[1] - 1), gained


def _turns(
    left: Tensor,
    boxes: Tensor,
    labels: Tensor,
    kind: str,
    iou: float,
    sigma: float,
    plus_one: bool,
    k: int,
    lowest: float,
) -> tuple[Tensor, Tensor]:
    """All turns, in a form that TorchScript compiles."""
    gained = torch.full((boxes.shape[0], k), -1.0, device=boxes.device)
    chosen = torch.zeros((boxes.shape[0], k), dtype=torch.int64, device=boxes.device)
    turn = 0
    while turn < k and bool((left >= lowest).any()):
        left, index, best = _turn(left, boxes, labels, kind, iou, sigma, plus_one)
        chosen[:, turn : turn + 1] = index
        gained[:, turn : turn + 1] = torch.where(best >= lowest, best, -1.0)
        turn += 1
    return chosen, gained


def _turn(
    left: Tensor, boxes: Tensor, labels: Tensor, kind: str, iou: float, sigma: float, plus_one: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """left (B, M): remaining scores -> scores after this turn, the selected index (B, 1) and its score."""
    best, index = left.max(1, keepdim=True)
    box = boxes.gather(1, index[..., None].expand(-1, -1, 4))
    overlap = overlaps(boxes, box, kind, plus_one)[..., 0]  # (B, M)
    if kind == "soft":
        share = torch.exp(-overlap.square() / sigma)
    elif kind == "soft_linear":
        share = torch.where(overlap > iou, 1 - overlap, 1.0)
    else:
        share = torch.where(overlap > iou, 0.0, 1.0)
    share = torch.where(labels == labels.gather(1, index), share, 1.0)
    gone = (share == 0) | (torch.arange(left.shape[1], device=left.device) == index)
    return torch.where(gone, -1.0, left * share), index, best
