"""Suppression as one short loop over fixed shapes, for graphs: every step is an operator that all runtimes know.

B images, M candidates an image, K boxes an image that may stay

`ops/nms.py` gives the same answers and is the faster one where shapes are free.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright.ops import exported
from boxwright.ops.nms import Settings, overlaps, scripted


def take_best(
    boxes: Tensor, scores: Tensor, labels: Tensor, classes: int, settings: Settings, lowest: float
) -> tuple[Tensor, Tensor]:
    """boxes (B, M, 4) xyxy, scores (B, M), labels (B, M) below `classes` -> which candidates stay (B, K), best first,
    and their scores (B, K), -1 where no more were found. K = `settings.keep`. Of equal scores the first comes first.

    Again and again the best box that is left of each image is taken, and those of its class that overlap it go, or with
    the soft kinds lose score; as often as the image with the most boxes needs. Candidates below `lowest` never stay.
    """
    if settings.kind == "plain" and exported.knows("nms"):
        return _by_operator(boxes, scores, labels, classes, settings, lowest)
    rule = settings.kind, settings.iou, settings.sigma, settings.plus_one
    keep = settings.keep

    def more(left: Tensor, chosen: Tensor, gained: Tensor, turn: Tensor) -> Tensor:
        return (turn < keep) & (left >= lowest).any()

    def take(left: Tensor, chosen: Tensor, gained: Tensor, turn: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        left, place, best = _turn(left, boxes, labels, *rule)
        now = torch.arange(keep, device=left.device) == turn
        best = torch.where(best >= lowest, best, -1.0)
        return left, torch.where(now, place, chosen), torch.where(now, best, gained), turn + 1

    left = torch.where(scores >= lowest, scores, -1.0)
    if torch.compiler.is_exporting():  # a loop is an operator there, because it follows the numbers
        gained = torch.full((boxes.shape[0], keep), -1.0, device=boxes.device)
        start = left, gained.long() + 1, gained, torch.zeros((), dtype=torch.int64, device=boxes.device)
        _, chosen, gained, _ = torch.while_loop(more, take, start)  # type: ignore[no-untyped-call]
        return chosen, gained
    turns = scripted(_turns) if exported.traced() else _turns
    return turns(left, boxes, labels, *rule, keep, lowest)


def _by_operator(
    boxes: Tensor, scores: Tensor, labels: Tensor, classes: int, settings: Settings, lowest: float
) -> tuple[Tensor, Tensor]:
    ends = boxes + torch.tensor([0, 0, int(settings.plus_one), int(settings.plus_one)], device=boxes.device)
    mine = labels[:, None] == torch.arange(classes, device=boxes.device)[:, None]  # (B, C, M)
    kept = exported.nms(ends, torch.where(mine, scores[:, None], -1.0), settings.iou, lowest)
    found = F.pad(torch.where(kept.any(1), scores, -1.0), (0, max(0, settings.keep - boxes.shape[1])), value=-1.0)
    gained, chosen = found.topk(settings.keep)
    return chosen.clamp(max=boxes.shape[1] - 1), gained


def _turns(
    left: Tensor,
    boxes: Tensor,
    labels: Tensor,
    kind: str,
    iou: float,
    sigma: float,
    plus_one: bool,
    keep: int,
    lowest: float,
) -> tuple[Tensor, Tensor]:
    """All turns, in a form that can be compiled."""
    gained = torch.full((boxes.shape[0], keep), -1.0, device=boxes.device)
    chosen = torch.zeros((boxes.shape[0], keep), dtype=torch.int64, device=boxes.device)
    turn = 0
    while turn < keep and bool((left >= lowest).any()):
        left, place, best = _turn(left, boxes, labels, kind, iou, sigma, plus_one)
        chosen[:, turn : turn + 1] = place
        gained[:, turn : turn + 1] = torch.where(best >= lowest, best, -1.0)
        turn += 1
    return chosen, gained


def _turn(
    left: Tensor, boxes: Tensor, labels: Tensor, kind: str, iou: float, sigma: float, plus_one: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """left (B, M): the scores of what is left -> those after this turn, and which one was taken (B, 1) at what."""
    best, place = left.max(1, keepdim=True)
    box = boxes.gather(1, place[..., None].expand(-1, -1, 4))
    hit = overlaps(boxes, box, kind, plus_one)[..., 0]  # (B, M)
    if kind == "soft":
        share = torch.exp(-hit.square() / sigma)
    elif kind == "soft_linear":
        share = torch.where(hit > iou, 1 - hit, 1.0)
    else:
        share = torch.where(hit > iou, 0.0, 1.0)
    share = torch.where(labels == labels.gather(1, place), share, 1.0)
    gone = (share == 0) | (torch.arange(left.shape[1], device=left.device) == place)
    return torch.where(gone, -1.0, left * share), place, best
