"""What travels between the rooms: frames, batches, answers, and the protocols of a detector and of a classifier.

    B images, M boxes an image after padding, N detections, C classes, K best of them, H x W canvas pixels

Boxes are xyxy float32 pixels, labels int64 from 0, images RGB. Other conventions (COCO's xywh and its 91 ids,
Darknet's centre form) are converted on the line where they enter or leave.
"""

from dataclasses import dataclass, replace
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Frame:
    """How a picture was put on its canvas.

    image_id: the data set's own id. path: the file, "" for an array. size: original (height, width) px.
    canvas: (height, width) px. scale: canvas px for one original px, (y, x). offset: (top, left) px of the
    picture's corner on the canvas. extent: (height, width) canvas px of its pixels; None: exactly size times scale.
    """

    image_id: int | str
    path: str
    size: tuple[int, int]
    canvas: tuple[int, int]
    scale: tuple[float, float]
    offset: tuple[float, float] = (0.0, 0.0)
    extent: tuple[int, int] | None = None

    @property
    def content(self) -> tuple[float, float, float, float]:
        """The part of the canvas that the picture covers, as (x1, y1, x2, y2) px."""
        (h, w), (sy, sx), (top, left) = self.size, self.scale, self.offset
        height, width = self.extent or (h * sy, w * sx)
        return left, top, left + width, top + height

    def to_canvas(self, boxes: Tensor) -> Tensor:
        """(N, 4) original px -> (N, 4) canvas px."""
        (sy, sx), (top, left) = self.scale, self.offset
        return boxes * boxes.new_tensor([sx, sy, sx, sy]) + boxes.new_tensor([left, top, left, top])

    def to_original(self, boxes: Tensor) -> Tensor:
        """(N, 4) canvas px -> (N, 4) original px, not clipped."""
        (sy, sx), (top, left) = self.scale, self.offset
        return (boxes - boxes.new_tensor([left, top, left, top])) / boxes.new_tensor([sx, sy, sx, sy])


@dataclass(frozen=True, slots=True)
class Batch:
    """images (B, 3, H, W): uint8 as loaded, float32 in [0, 1] once augmented. boxes (B, M, 4) xyxy canvas px.
    labels (B, M) int64, -1 where a row is padding. ignore (B, M) bool: crowd regions, neither object nor background.
    keys (B,) int64 in 0..2^32 - 1: what a loss that draws samples draws them from; set in training, a function of
    (seed, step, place in the batch of the whole group). None: 0 for each image.
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor
    ignore: Tensor
    frames: tuple[Frame, ...]
    keys: Tensor | None = None

    def to(self, device: torch.device | str) -> Self:
        """Everything on `device`; frames stay where they are."""
        tensors = {name: getattr(self, name) for name in ("images", "boxes", "labels", "ignore", "keys")}
        return replace(self, **{name: t.to(device, non_blocking=True) for name, t in tensors.items() if t is not None})

    @property
    def valid(self) -> Tensor:
        """(B, M) bool: rows that are objects to find (neither padding nor crowd)."""
        return (self.labels >= 0) & ~self.ignore


@dataclass(frozen=True, slots=True)
class ClassBatch:
    """images (B, 3, H, W): uint8 as loaded, float32 in [0, 1] once augmented. labels (B,) int64 from 0.
    others (B,) int64, share (B,) float32 in [0, 1]: after MixUp or CutMix the second label of each image, and how much
    of the image has the first; both None where nothing was blended. keys: as in `Batch`.
    """

    images: Tensor
    labels: Tensor
    frames: tuple[Frame, ...]
    others: Tensor | None = None
    share: Tensor | None = None
    keys: Tensor | None = None

    def to(self, device: torch.device | str) -> Self:
        """Everything on `device`; frames stay where they are."""
        tensors = {name: getattr(self, name) for name in ("images", "labels", "others", "share", "keys")}
        return replace(self, **{name: t.to(device, non_blocking=True) for name, t in tensors.items() if t is not None})


@dataclass(frozen=True, slots=True)
class Detections:
    """boxes (N, 4) xyxy px, scores (N,) in [0, 1], labels (N,) int64; names of the classes where known."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.scores)
        if self.boxes.shape != (n, 4) or self.labels.shape != (n,):
            raise ValueError(
                f"boxes {tuple(self.boxes.shape)}, scores {tuple(self.scores.shape)}, labels "
                f"{tuple(self.labels.shape)}: need (N, 4), (N,), (N,)"
            )

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Tensor | slice) -> Self:
        """A mask, an index tensor or a slice picks from all fields at once."""
        return replace(self, boxes=self.boxes[index], scores=self.scores[index], labels=self.labels[index])

    def to(self, device: torch.device | str) -> Self:
        return replace(self, boxes=self.boxes.to(device), scores=self.scores.to(device), labels=self.labels.to(device))

    def to_coco(self, image_id: int | str, category_ids: tuple[int, ...]) -> list[dict[str, object]]:
        """COCO result rows: xywh boxes and the data set's own category ids."""
        boxes = self.boxes.double().cpu()
        boxes[:, 2:] -= boxes[:, :2]
        rows = zip(boxes.tolist(), self.scores.tolist(), self.labels.tolist(), strict=True)
        return [
            {"image_id": image_id, "category_id": category_ids[label], "bbox": box, "score": score}
            for box, score, label in rows
        ]

    @classmethod
    def empty(cls, names: tuple[str, ...] = ()) -> Self:
        return cls(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), names)


@dataclass(frozen=True, slots=True)
class Classes:
    """What one image may show, best first: scores (K,) float32 in [0, 1], labels (K,) int64; names of all classes
    where known."""

    scores: Tensor
    labels: Tensor
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.scores)

    def to(self, device: torch.device | str) -> Self:
        return replace(self, scores=self.scores.to(device), labels=self.labels.to(device))


@runtime_checkable
class Detector(Protocol):
    """What each module in `models/` builds: a plain `nn.Module` with these answers.

    inputs: what `forward` takes, in order: `images`, and `extents` where it has to know where pictures end, (B, 2)
    float32, height and width canvas px of each, which then lies at the top left.
    """

    inputs: tuple[str, ...]
    raw_names: tuple[str, ...]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """images (B, 3, H, W) float RGB in [0, 1] -> raw outputs, exactly what is exported."""
        ...

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Named scalar terms, already weighted; their sum is what is minimised."""
        ...

    def decode(self, raw: tuple[Tensor, ...], threshold: float) -> list[Detections]:
        """Canvas-pixel detections with score >= threshold, one entry an image, before suppression."""
        ...

    def dense(self, raw: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """What `decode` chooses from, in fixed shapes for graphs: boxes (B, N, 1 or C, 4) and scores (B, N, C), -1 for
        what it never reports."""
        ...


@runtime_checkable
class Classifier(Protocol):
    """What modules in `models/` whose Config has the task `classify` build, with the same kind of answers."""

    inputs: tuple[str, ...]
    raw_names: tuple[str, ...]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """images (B, 3, H, W) float RGB in [0, 1] -> one tensor, the logits (B, C)."""
        ...

    def loss(self, batch: ClassBatch) -> dict[str, Tensor]:
        """Named scalar terms, already weighted; their sum is what is minimised."""
        ...

    def decode(self, raw: tuple[Tensor, ...], most: int) -> list[Classes]:
        """The `most` best classes of each image (all where there are fewer), their scores after softmax."""
        ...

    def best(self, raw: tuple[Tensor, ...], most: int) -> tuple[Tensor, Tensor]:
        """The same as two tensors, for graphs: scores (B, K) and labels (B, K)."""
        ...
