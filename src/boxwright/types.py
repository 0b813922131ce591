"""What travels between the rooms: frames, batches, answers, and the protocols of a detector and of a classifier.

    B images, M boxes an image after padding, N detections, C classes, K best of them, H x W canvas pixels

Boxes are xyxy float32 pixels, labels int64 from 0, images RGB. Other conventions (COCO's xywh and its 91 ids,
Darknet's centre form) are converted on the line where they enter or leave.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, NamedTuple, Protocol, Self, overload, runtime_checkable

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
    """What a detector's loss takes.

    Attributes:
        images: (B, 3, H, W) RGB: uint8 as loaded, float32 in [0, 1] once augmented.
        boxes: (B, M, 4) float32, xyxy canvas px.
        labels: (B, M) int64, -1 where a row is padding.
        ignore: (B, M) bool: crowd regions, neither object nor background.
        frames: How each picture lies on its canvas.
        keys: (B,) int64 in 0..2^32 - 1: what a loss that draws samples draws them from; set in training, a function of
            (seed, step, index in the batch of all processes). None: 0 for each image.
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


class Detection(NamedTuple):
    """One object: box (x1, y1, x2, y2) px, score in [0, 1], label from 0, and the class's name, or its number where the
    classes have no names."""

    box: tuple[float, float, float, float]
    score: float
    label: int
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """The objects found in one image.

    `len(found)`, `found[0]` (a `Detection`), iteration and `==` work as for a list; a slice, mask or index tensor picks
    some of them.

    Attributes:
        boxes: (N, 4) float32, xyxy px.
        scores: (N,) float32 in [0, 1].
        labels: (N,) int64 from 0.
        names: Of all classes in label order; empty where they are not known.

    Raises:
        ValueError: For tensors of other shapes.
    """

    __hash__: ClassVar[None]  # type: ignore[assignment]

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

    def __eq__(self, other: object) -> bool:
        return _equal(self, other)

    def __iter__(self) -> Iterator[Detection]:
        columns = self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), self.class_names
        return (Detection(tuple(box), *rest) for box, *rest in zip(*columns, strict=True))

    @property
    def class_names(self) -> list[str]:
        """The name of each box's class, or its number where the classes have no names."""
        return class_names(self.labels, self.names)

    @overload
    def __getitem__(self, index: int) -> Detection: ...

    @overload
    def __getitem__(self, index: Tensor | slice) -> Self: ...

    def __getitem__(self, index: int | Tensor | slice) -> Detection | Self:
        """One `Detection`; or with a mask, an index tensor or a slice those that it picks."""
        if isinstance(index, int):
            length = len(self)
            if not -length <= index < length:
                raise IndexError(f"detection {index} of {length}")
            return next(iter(self[index % length : index % length + 1]))
        return replace(self, boxes=self.boxes[index], scores=self.scores[index], labels=self.labels[index])

    def to(self, device: torch.device | str) -> Self:
        return replace(self, boxes=self.boxes.to(device), scores=self.scores.to(device), labels=self.labels.to(device))

    @classmethod
    def empty(cls, names: tuple[str, ...] = ()) -> Self:
        return cls(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), names)


@dataclass(frozen=True, slots=True, eq=False)
class Classes:
    """The most probable classes of one image, best first.

    Attributes:
        scores: (K,) float32 in [0, 1].
        labels: (K,) int64 from 0.
        names: Of all classes in label order; empty where they are not known.
    """

    __hash__: ClassVar[None]  # type: ignore[assignment]

    scores: Tensor
    labels: Tensor
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.scores)

    def __eq__(self, other: object) -> bool:
        return _equal(self, other)

    @property
    def class_names(self) -> list[str]:
        """The name of each of the K classes, or its number where the classes have no names."""
        return class_names(self.labels, self.names)

    def to(self, device: torch.device | str) -> Self:
        return replace(self, scores=self.scores.to(device), labels=self.labels.to(device))


def class_names(labels: Tensor, names: tuple[str, ...]) -> list[str]:
    """The name of each label, or its number where there are no names."""
    return [names[label] if names else str(label) for label in labels.tolist()]


def _equal(one: Any, other: Any) -> bool:
    """Whether two values of one dataclass are equal, tensors compared as a whole."""
    if type(other) is not type(one):
        return False
    pairs = [(getattr(one, field.name), getattr(other, field.name)) for field in fields(type(one)) if field.compare]
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


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

    def decode_padded(self, raw: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
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

    def decode(self, raw: tuple[Tensor, ...], k: int) -> list[Classes]:
        """The `k` best classes of each image (all where there are fewer), their scores after softmax."""
        ...

    def topk(self, raw: tuple[Tensor, ...], k: int) -> tuple[Tensor, Tensor]:
        """The same as two tensors, for graphs: scores (B, K) and labels (B, K)."""
        ...
