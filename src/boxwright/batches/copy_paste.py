"""Copy-paste of boxed objects between the images of a batch (Dwibedi et al. 2017), on the training device.

    B images, C channels, M boxes per image, H x W canvas px; R receiving images, at most S = `OBJECTS` objects pasted
    into each, N = M + S boxes, T = `POSITIONS` positions drawn for each object

The rectangle of a box is pasted, since there are no masks, and at its size, since geometric transforms follow.
"""

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright.batches.rng import SampleRNG
from boxwright.batches.warp import to_device
from boxwright.ops.iou import pairwise_iou
from boxwright.types import Batch

OBJECTS = 3  # maximum number of objects pasted into an image
POSITIONS = 10  # positions drawn for an object; the first free one is used, and without one the object is not pasted
MAX_COVERED = 0.3  # fraction of an object that pasted objects may hide, and that may be in another's rectangle


def copy_paste(batch: Batch, probability: float, rng: SampleRNG) -> Batch:
    """Paste objects of one other image of the batch into some of the images.

    A receiving image gets 1 to S objects, none of them twice, at random positions. In its source and at its target, a
    rectangle contains no part of a crowd or ignore region, and at most `MAX_COVERED` of another object. A class counts
    as looked for in the result if it was looked for in both images.

    Args:
        batch: uint8 canvases.
        probability: Probability that an image is a receiving one.
        rng: The RNG of the images of the batch.

    Returns:
        The batch with S more rows of boxes; unused rows have label -1.
    """
    images, count = batch.images.clone(), len(batch.images)
    boxes, labels = F.pad(batch.boxes, (0, 0, 0, OBJECTS)), F.pad(batch.labels, (0, OBJECTS), value=-1)
    result = replace(batch, images=images, boxes=boxes, labels=labels, ignore=F.pad(batch.ignore, (0, OBJECTS)))
    receives, other = rng.bernoulli(probability), rng.uniform(0, 1)
    number, start = rng.integers(OBJECTS, 1)[:, 0] + 1, rng.uniform(0, 1)
    positions = rng.uniform(0, 1, OBJECTS, POSITIONS, 2)
    rows = np.flatnonzero(receives)
    if count < 2 or not len(rows) or not batch.labels.shape[1]:
        return result
    others = (rows + 1 + np.floor(other[rows] * (count - 1)).astype(np.int64)) % count  # never the image itself
    contents = np.array([frame.content for frame in batch.frames])
    contents = np.concatenate([np.ceil(contents[:, :2]), np.floor(contents[:, 2:])], axis=1)  # whole px
    arrays = (rows, others, number[rows], start[rows], positions[rows], contents[rows], contents[others])
    into, source, numbers, starts, places, inside, other_inside = to_device(arrays, images.device)
    into, source = into.long(), source.long()

    chosen, objects, exists = _choose_objects(batch, source, other_inside, numbers, starts)
    rectangles = torch.cat((objects[..., :2].floor(), objects[..., 2:].ceil()), -1)  # (R, S, 4)
    new_labels = batch.labels[source].gather(1, chosen)
    canvases, own, own_labels = images[into], boxes[into], labels[into]
    hidden, pasted = torch.zeros_like(own[..., 0]), torch.zeros_like(exists)
    for slot in range(OBJECTS):  # in turn, since an object may hide a part of earlier ones
        allowed = _allowed_share(own_labels, result.ignore[into]) - hidden
        shift, free = _free_position(rectangles[:, slot], places[:, slot], inside, own, allowed)
        free = free & exists[:, slot]
        area = (rectangles[:, slot] + shift) * free[:, None]  # empty where nothing is pasted
        hidden = hidden + _shares(area[:, None], own)[:, 0]
        _paste(canvases, batch.images, source, area, shift)
        own[:, batch.boxes.shape[1] + slot] = (objects[:, slot] + shift) * free[:, None]
        own_labels[:, batch.boxes.shape[1] + slot] = torch.where(free, new_labels[:, slot], -1)
        pasted[:, slot] = free
    images[into], boxes[into], labels[into] = canvases, own, own_labels
    if batch.labeled is None:
        return result
    labeled = batch.labeled.index_copy(0, into, batch.labeled[into] & (batch.labeled[source] | ~pasted.any(1)[:, None]))
    return replace(result, labeled=labeled)


def _choose_objects(
    batch: Batch, source: Tensor, inside: Tensor, numbers: Tensor, starts: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose the objects to paste from the images `source` (R,). Returns their rows (R, S), their boxes (R, S, 4)
    within `inside` (R, 4), the px of the image, and whether each one exists and can be cut out (R, S).

    numbers (R,): number of objects. starts (R,) in [0, 1): index of the first one, as a fraction of the objects;
    the others follow it.
    """
    valid, boxes = batch.valid[source], batch.boxes[source]
    order = (~valid).long().argsort(dim=1, stable=True)  # objects first
    total = valid.sum(1)
    slots = torch.arange(OBJECTS, device=boxes.device)
    place = (starts * total).floor().long()[:, None] + slots
    chosen = order.gather(1, place % total.clamp(min=1)[:, None])
    objects = boxes.gather(1, chosen[..., None].expand(-1, -1, 4))
    objects = objects.maximum(inside[:, None, :2].repeat(1, 1, 2)).minimum(inside[:, None, 2:].repeat(1, 1, 2))
    rectangles = torch.cat((objects[..., :2].floor(), objects[..., 2:].ceil()), -1)
    allowed = _allowed_share(batch.labels[source], batch.ignore[source])
    itself = torch.arange(boxes.shape[1], device=boxes.device) == chosen[..., None]  # (R, S, M)
    alone = ((_shares(rectangles, boxes) <= allowed[:, None]) | itself).all(-1)
    exists = (slots < torch.minimum(numbers, total)[:, None]) & (objects[..., 2:] > objects[..., :2]).all(-1)
    return chosen, objects, exists & alone


def _free_position(
    rectangle: Tensor, places: Tensor, inside: Tensor, boxes: Tensor, allowed: Tensor
) -> tuple[Tensor, Tensor]:
    """Find the first free one of the `places` for rectangle (R, 4). Returns the shift (R, 4: x, y, x, y) to it, and
    whether there is one (R,).

    places (R, T, 2) in [0, 1): from left and top to right and bottom. inside (R, 4): px of the image. boxes (R, N, 4),
    allowed (R, N): the fraction of each box that the rectangle may cover.
    """
    sides = rectangle[:, 2:] - rectangle[:, :2]
    space = (inside[:, 2:] - inside[:, :2] - sides)[:, None]  # (R, 1, 2)
    corner = inside[:, None, :2] + (places * (space + 1)).floor().minimum(space)
    candidates = torch.cat((corner, corner + sides[:, None]), -1)  # (R, T, 4)
    free = (_shares(candidates, boxes) <= allowed[:, None]).all(-1) & (space >= 0).all(-1)
    first = free.long().argmax(1)[:, None, None].expand(-1, -1, 2)
    return (corner.gather(1, first)[:, 0] - rectangle[:, :2]).repeat(1, 2), free.any(1)


def _shares(rectangles: Tensor, boxes: Tensor) -> Tensor:
    """rectangles (R, T, 4), boxes (R, N, 4) -> (R, T, N): the share of each box that is in each rectangle."""
    return pairwise_iou(boxes, rectangles, crowd=torch.ones_like(rectangles[..., 0], dtype=torch.bool)).mT


def _allowed_share(labels: Tensor, ignore: Tensor) -> Tensor:
    """labels, ignore (R, N) -> (R, N): the share of each box that a rectangle may cover; any share of padding."""
    return torch.where(labels < 0, torch.inf, torch.where(ignore, 0.0, MAX_COVERED))


def _paste(canvases: Tensor, images: Tensor, source: Tensor, area: Tensor, shift: Tensor) -> None:
    """Write the px of `images[source]`, moved by `shift` (R, 4), into `canvases` (R, C, H, W) inside `area` (R, 4)."""
    channels, height, width = canvases.shape[1:]
    x, y = (torch.arange(side, device=canvases.device) for side in (width, height))
    is_inside = ((x >= area[:, :1]) & (x < area[:, 2:3]))[:, None] & ((y >= area[:, 1:2]) & (y < area[:, 3:]))[
        ..., None
    ]
    columns = (x - shift[:, :1]).long().clamp(0, width - 1)[:, None, None]  # (R, 1, 1, W)
    rows = (y - shift[:, 1:2]).long().clamp(0, height - 1)[:, None, :, None]
    channel = torch.arange(channels, device=canvases.device)[:, None, None]
    moved = images[source[:, None, None, None], channel, rows, columns]
    canvases.copy_(torch.where(is_inside[:, None], moved, canvases))
