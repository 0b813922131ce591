"""The types that packages exchange: frames, batches, predictions, and the protocols of detectors and classifiers.

    B images, M boxes per image after padding, N detections, C classes, K of them after top-k, H x W canvas pixels

Boxes are xyxy float32 pixels, labels int64 from 0, images RGB. Other conventions (COCO's xywh and its 91 ids,
Darknet's center form) are converted where they enter or leave the package.
"""

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, NamedTuple, Protocol, Self, overload, runtime_checkable

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from boxwright.errors import InputError


@dataclass(frozen=True, slots=True)
class Frame:
    """The transform from an image to its canvas.

    Attributes:
        image_id: The data set's id.
        path: The image file; "" for an array.
        size: Original (height, width) in px.
        canvas: (height, width) of the canvas in px.
        scale: Canvas px per original px, (y, x).
        offset: (top, left) px of the image's corner on the canvas.
        extent: (height, width) of the image on the canvas in px; None: exactly size times scale.
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
        """The region of the canvas that the image covers, as (x1, y1, x2, y2) px."""
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
    """A training batch of a detector.

    Attributes:
        images: (B, 3, H, W) RGB: uint8 as loaded, float32 in [0, 1] once augmented.
        boxes: (B, M, 4) float32, xyxy canvas px.
        labels: (B, M) int64: -1 for padding, any class for an ignore region.
        ignore: (B, M) bool: crowd and ignore regions, neither object nor background.
        frames: The transform of each image.
        keys: (B,) int64 in 0..2^32 - 1, per-image RNG seeds of a loss that samples; in training a function of (seed,
            step, index in the global batch). None: 0 for each image.
        labeled: (B, C) bool, the classes that were looked for in each image; objects of other classes may be unlabeled.
            None: all classes in all images.
        seen: () int64, number of images trained on so far, including this batch; None: not in training.
        class_weights: (C,) float32, the factor of each class in the class loss; None: 1 each.
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor
    ignore: Tensor
    frames: tuple[Frame, ...]
    keys: Tensor | None = None
    labeled: Tensor | None = None
    seen: Tensor | None = None
    class_weights: Tensor | None = None

    @classmethod
    def from_targets(cls, images: Tensor, targets: Sequence[Mapping[str, Tensor]]) -> Self:
        """A batch for `Detector.loss` in your own training loop, from targets as torchvision's detectors take them.

        Args:
            images: (B, 3, H, W) RGB, uint8 or float in [0, 1], whose sides fit the network (`config.size_step`).
            targets: One per image: `boxes` (N, 4) xyxy px, x1 < x2 and y1 < y2; `labels` (N,) int64 from 0, without a
                class for the background, which is 0 in torchvision; and optionally `iscrowd` (N,), nonzero for ignore
                regions.

        Raises:
            InputError: Images and targets do not match, a shape or type is wrong, a label is negative, or a box is
                empty or not finite.
        """
        if images.ndim != 4 or not len(images) == len(targets) > 0:
            found = f"found images of shape {tuple(images.shape)} and {len(targets)} targets"
            raise InputError(f"{found}, needed (B, 3, H, W) and B, at least 1")
        integers = images.dtype == torch.uint8
        if not integers and not images.is_floating_point():
            raise InputError(
                f"images: found {str(images.dtype).removeprefix('torch.')}, needed uint8 or float in [0, 1]"
            )
        rows = [_target_rows(number, target) for number, target in enumerate(targets)]
        boxes, labels, ignore = (
            pad_sequence(list(column), batch_first=True, padding_value=padding)
            for column, padding in zip(zip(*rows, strict=True), (0.0, -1, False), strict=True)
        )
        size = images.shape[2], images.shape[3]
        frames = tuple(Frame(number, "", size, size, (1.0, 1.0)) for number in range(len(images)))
        return cls(images.float() / 255 if integers else images.float(), boxes, labels, ignore, frames)

    def to(self, device: torch.device | str) -> Self:
        """The batch with its tensors on `device`."""
        return replace(self, **_tensors_on(self, device))

    @property
    def valid(self) -> Tensor:
        """(B, M) bool: rows that are objects, neither padding nor crowd."""
        return (self.labels >= 0) & ~self.ignore

    @property
    def label_weights(self) -> Tensor:
        """(B, M) float32: the factor of each row in the class loss, which is that of its class."""
        if self.class_weights is None:
            return torch.ones_like(self.labels, dtype=torch.float32)
        return self.class_weights[self.labels.clamp(min=0)]


@dataclass(frozen=True, slots=True)
class ClassBatch:
    """A training batch of a classifier.

    Attributes:
        images: (B, 3, H, W) RGB: uint8 as loaded, float32 in [0, 1] once augmented.
        labels: (B,) int64 from 0.
        frames: The transform of each image.
        others: (B,) int64, the second label of each image after MixUp or CutMix; None without them.
        share: (B,) float32 in [0, 1], the weight of the first label; None without them.
        keys: As in `Batch`.
        class_weights: As in `Batch`.
    """

    images: Tensor
    labels: Tensor
    frames: tuple[Frame, ...]
    others: Tensor | None = None
    share: Tensor | None = None
    keys: Tensor | None = None
    class_weights: Tensor | None = None

    def to(self, device: torch.device | str) -> Self:
        """The batch with its tensors on `device`."""
        return replace(self, **_tensors_on(self, device))


AnyBatch = Batch | ClassBatch


def _tensors_on(batch: AnyBatch, device: torch.device | str) -> dict[str, Any]:
    """The tensors among the fields of a batch, on `device`."""
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return {name: value.to(device, non_blocking=True) for name, value in values.items() if isinstance(value, Tensor)}


def _target_rows(number: int, target: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (N, 4) float32, labels (N,) int64 and ignore regions (N,) bool of one of `Batch.from_targets`."""
    place = f"targets[{number}]"
    if missing := [key for key in ("boxes", "labels") if key not in target]:
        raise InputError(f"{place}: found {', '.join(target) or 'nothing'}, needed {missing[0]}")
    boxes, labels = target["boxes"], target["labels"]
    crowd = target.get("iscrowd", torch.zeros_like(labels))
    if labels.ndim != 1 or boxes.shape != (len(labels), 4) or crowd.shape != labels.shape:
        shapes = ", ".join(f"{key} {tuple(value.shape)}" for key, value in target.items())
        raise InputError(f"{place}: found {shapes}, needed boxes (N, 4), labels (N,) and, if given, iscrowd (N,)")
    if labels.is_floating_point() or (labels < 0).any():
        raise InputError(f"{place}: labels: found {labels.tolist()[:5]}, needed integers from 0")
    if not boxes.isfinite().all():
        raise InputError(f"{place}: boxes: found a number that is not finite")
    if (empty := (boxes[:, 2:] <= boxes[:, :2]).any(dim=1)).any():  # a loss would ignore them
        found = boxes[empty][0].tolist()
        raise InputError(f"{place}: boxes: found {found}, needed xyxy with x1 < x2 and y1 < y2, not width and height")
    return boxes.float(), labels.long(), crowd.bool()


class Detection(NamedTuple):
    """One object.

    Attributes:
        box: (x1, y1, x2, y2) px.
        score: In [0, 1].
        label: Class index from 0.
        name: Class name; the label as text if the classes have no names.
    """

    box: tuple[float, float, float, float]
    score: float
    label: int
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """The detections of one image.

    `len()`, an integer index (a `Detection`), iteration and `==` work as for a list; a slice, mask or index tensor
    selects a subset.

    Attributes:
        boxes: (N, 4) float32, xyxy px.
        scores: (N,) float32 in [0, 1].
        labels: (N,) int64 from 0.
        names: Class names in label order; empty if unknown.

    Raises:
        ValueError: The shapes of the tensors do not match.
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
        """(N) The class name of each detection; the label as text if the classes have no names."""
        return class_names(self.labels, self.names)

    @overload
    def __getitem__(self, index: int) -> Detection: ...

    @overload
    def __getitem__(self, index: Tensor | slice) -> Self: ...

    def __getitem__(self, index: int | Tensor | slice) -> Detection | Self:
        """One `Detection` for an integer; a subset for a mask, an index tensor or a slice."""
        if not isinstance(index, slice) and (not isinstance(index, Tensor) or index.ndim == 0):
            index, length = operator.index(index), len(self)
            if not -length <= index < length:
                raise IndexError(f"detection {index} of {length}")
            return next(iter(self[index % length : index % length + 1]))
        return replace(self, boxes=self.boxes[index], scores=self.scores[index], labels=self.labels[index])

    def to(self, device: torch.device | str) -> Self:
        """The detections with their tensors on `device`."""
        return replace(self, boxes=self.boxes.to(device), scores=self.scores.to(device), labels=self.labels.to(device))

    @classmethod
    def empty(cls, names: tuple[str, ...] = ()) -> Self:
        """No detections. names: class names, which may be left out."""
        return cls(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), names)


@dataclass(frozen=True, slots=True, eq=False)
class Classes:
    """The top-K classes of one image, in descending order of score.

    Attributes:
        scores: (K,) float32 in [0, 1].
        labels: (K,) int64 from 0.
        names: Class names in label order; empty if unknown.
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
        """(K) Class names; the labels as text if the classes have no names."""
        return class_names(self.labels, self.names)

    def to(self, device: torch.device | str) -> Self:
        """The classes with their tensors on `device`."""
        return replace(self, scores=self.scores.to(device), labels=self.labels.to(device))


def class_names(labels: Tensor, names: tuple[str, ...]) -> list[str]:
    """The name of each label; the label as text if there are no names."""
    return [names[label] if names else str(label) for label in labels.tolist()]


def _equal(a: "Detections | Classes", b: object) -> bool:
    """Equality of two instances of a dataclass with tensor fields."""
    if type(a) is not type(b):
        return False
    pairs = [(getattr(a, field.name), getattr(b, field.name)) for field in fields(a) if field.compare]
    return all(torch.equal(x, y) if isinstance(x, Tensor) else x == y for x, y in pairs)


@runtime_checkable
class Detector(Protocol):
    """The interface of the detectors in `models/`, which are plain `nn.Module`s.

    Attributes:
        inputs: Arguments of `forward`, in order: `images`, and for some networks `extents`, (B, 2) float32, the height
            and width in canvas px of each image, which then is at the top left.
        raw_names: Names of the raw outputs, in order.
    """

    inputs: tuple[str, ...]
    raw_names: tuple[str, ...]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """images (B, 3, H, W) float RGB in [0, 1] -> raw outputs, as exported."""
        ...

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Named scalar terms, already weighted; their sum is minimized."""
        ...

    def decode(self, raw: tuple[Tensor, ...], threshold: float) -> list[Detections]:
        """Detections in canvas px with score >= threshold, one entry per image, before NMS."""
        ...

    def decode_padded(self, raw: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """The candidates of `decode` in fixed shapes, for graphs: boxes (B, N, 1 or C, 4) and scores (B, N, C), -1
        where it never reports a detection."""
        ...


@runtime_checkable
class Classifier(Protocol):
    """The interface of the classifiers in `models/`, whose Config has the task `classify`; see `Detector`."""

    inputs: tuple[str, ...]
    raw_names: tuple[str, ...]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """images (B, 3, H, W) float RGB in [0, 1] -> one tensor, the logits (B, C)."""
        ...

    def loss(self, batch: ClassBatch) -> dict[str, Tensor]:
        """Named scalar terms, already weighted; their sum is minimized."""
        ...

    def decode(self, raw: tuple[Tensor, ...], k: int) -> list[Classes]:
        """The `k` best classes of each image (all where there are fewer), their scores after softmax."""
        ...

    def topk(self, raw: tuple[Tensor, ...], k: int) -> tuple[Tensor, Tensor]:
        """The result of `decode` as two tensors, for graphs: scores (B, K) and labels (B, K)."""
        ...
