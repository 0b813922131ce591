"""The loss oracles of the MindSpore zoo's YOLOv3 and YOLOv4, as inputs of our loss.

B = 2 images, M boxes an image after padding, S = 3 scales, A = 3 anchors per scale, C = 80 classes, h x w cells
"""

import numpy as np
import torch
from torch import Tensor

import oracle_weights
from boxwright.ops.targets import Targets
from boxwright.types import Batch, Frame
from oracle_weights import Array

SCALES = {"l": 32, "m": 16, "s": 8}  # the zoo's letters for its strides


def batch_of(boxes: Tensor, labels: Tensor, size: tuple[int, int], ignore: Tensor | None = None) -> Batch:
    """boxes (B, M, 4), labels (B, M) and empty images."""
    frames = tuple(Frame(i, "", size, size, (1.0, 1.0)) for i in range(len(boxes)))
    ignore = torch.zeros_like(labels, dtype=torch.bool) if ignore is None else ignore
    return Batch(torch.zeros(len(boxes), 3, *size), boxes, labels, ignore, frames)


def predictions(oracle: dict[str, Array]) -> dict[str, Tensor]:
    """Raw maps (2, 255, h, w) of each scale."""
    generator = np.random.default_rng(int(oracle["pred_seed"]))
    height, width = oracle["hw"].tolist()
    shapes = {scale: (2, 255, height // stride, width // stride) for scale, stride in SCALES.items()}
    drawn = {scale: generator.standard_normal(shape).astype(np.float32) for scale, shape in shapes.items()}
    return {scale: torch.from_numpy(one * np.float32(oracle.get("pred_scale", 1))) for scale, one in drawn.items()}


def boxes_of(oracle: dict[str, Array], floor: bool) -> Batch:
    """The oracle's boxes; `floor` moves each so that its center is the whole pixel the zoo uses."""
    images = [torch.from_numpy(oracle[f"boxes.{i}"]).float() for i in range(2)]
    rows = torch.nn.utils.rnn.pad_sequence(images, batch_first=True, padding_value=-1.0)
    boxes, labels = rows[..., :4], rows[..., 4].long()
    if floor:
        center = (boxes[..., :2] + boxes[..., 2:]) / 2
        boxes = boxes - (center - center.floor()).repeat(1, 1, 2)
    return batch_of(boxes, labels, tuple(oracle["hw"].tolist()))


def targets_of(y_true: Tensor, size: tuple[int, int]) -> tuple[Targets, Batch]:
    """y_true (B, h, w, A, 5+C), the zoo's assignment of one scale, as rows; M is what the fuller image needs.
    The batch holds the same boxes, and no others: the zoo's ignore test looks at the scale's own."""
    b, h, w, a, _ = y_true.shape
    flat = y_true.permute(0, 3, 1, 2, 4).reshape(b, a * h * w, -1)
    claimed = flat[..., 4] > 0
    m = int(claimed.sum(1).max())
    cell = claimed.float().argsort(dim=1, descending=True, stable=True)[:, :m]
    rows = flat.gather(1, cell[..., None].expand(-1, -1, flat.shape[-1]))
    positive = rows[..., 4] > 0
    height, width = size
    center, side = rows[..., :4].chunk(2, -1)
    boxes = torch.cat((center - side / 2, center + side / 2), -1) * torch.tensor([width, height, width, height])
    return Targets(boxes, positive, cell, rows[..., 5:]), batch_of(boxes, torch.where(positive, 0, -1), size)


def as_zoo(targets: Targets, oracle: dict[str, Array]) -> Tensor:
    """Targets as the zoo writes them, (B, N, 5+C): center and sides relative to the input, 1, classes; 0 elsewhere."""
    height, width = oracle["hw"].tolist()
    center = (targets.boxes[..., :2] + targets.boxes[..., 2:]) / 2
    side = targets.boxes[..., 2:] - targets.boxes[..., :2]
    size = torch.tensor([width, height])
    rows = torch.cat((center / size, side / size, torch.ones_like(side[..., :1]), targets.classes), -1)
    cells = sum(3 * (height // stride) * (width // stride) for stride in SCALES.values())
    dense = torch.zeros(2, cells, rows.shape[-1])
    image, row = targets.positive.nonzero(as_tuple=True)
    dense[image, targets.cell[image, row]] = rows[image, row]
    return dense


def zoo_assignment(oracle: dict[str, Array], prefix: str) -> Tensor:
    """The oracle's `y_true` of all scales, (B, N, 5+C) in the order of our cells."""
    scales = (torch.from_numpy(oracle_weights.sparse(oracle, f"{prefix}y_true.{scale}")) for scale in SCALES)
    return torch.cat([one.permute(0, 3, 1, 2, 4).flatten(1, 3) for one in scales], 1)
