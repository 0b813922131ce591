"""Pictures in, named boxes out.

B images, H x W canvas px, N detections of one picture
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, cast, overload

import torch
from torch import Tensor, nn

from boxwright.data.canvas import read_image
from boxwright.errors import InputError
from boxwright.ops.boxes import clip
from boxwright.ops.nms import suppress
from boxwright.predict.draw import draw, png
from boxwright.predict.inputs import (
    Array,
    Picture,
    Placed,
    arguments,
    batches,
    canvases_of,
    from_bgr,
    is_picture,
    placed,
    scaled,
    trimmed,
)
from boxwright.predict.loading import evaluating, load_any
from boxwright.predict.processes import UNKNOWN, Origin, refuse_fork
from boxwright.recipe import Recipe, SuppressionConfig
from boxwright.runtimes.base.runtime import Runtime, RuntimeOptions
from boxwright.types import Detections, Detector, Frame


@dataclass(frozen=True, slots=True, eq=False)
class Prediction(Detections):
    """The detections of one picture: boxes in its own px, inside it, best score first.

    In a notebook it shows itself as the picture with its boxes.

    Attributes:
        path: Its file; "" for a picture without.
        size: (height, width) px.
        image: Its pixels, uint8 RGB (h, w, 3); None for a file, which is read again when it is drawn.
    """

    path: str = ""
    size: tuple[int, int] = (0, 0)
    image: Array | None = field(default=None, repr=False, compare=False)

    def draw(self, image: Array | None = None) -> Array:
        """The picture with boxes and names, uint8 RGB (h, w, 3); on `image` where one is given."""
        if image is None:
            image = read_image(self.path) if self.image is None else self.image
        return draw(image, self)

    def _repr_png_(self) -> bytes:
        """What Jupyter shows."""
        return png(self.draw())


class Wanted(NamedTuple):
    """Which detections: threshold: lowest score. labels: the classes to keep, None for all."""

    threshold: float
    suppression: SuppressionConfig
    labels: list[int] | None = None


class Looked(NamedTuple):
    """What the network said: raw as in `Detector`, of canvases of `size` (height, width) px."""

    raw: tuple[Tensor, ...]
    size: tuple[int, int]


class Predictor:
    """A model with its recipe: canvas, network, decoding, suppression.

    Building one leaves the model as it is. While it detects, the model is in evaluation mode; afterwards every module
    is in the mode it was in before, so the engine can evaluate the network it is training. Any number of threads may
    call one at a time, as long as none of them trains its model meanwhile.

    It can be pickled. One that `load` made is then loaded anew from its file. In a process that was forked from one
    with several threads none works (RuntimeError says so): the threads are not there.
    """

    keeps_pictures = False  # `place` gives canvases
    origin: Origin | None = None  # of one that `load` made

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        device: str | torch.device = "cpu",
        backend: Runtime | None = None,
    ) -> None:
        """Build one around a network; `boxwright.load` makes one from a file.

        Args:
            model: Follows `types.Detector`, and already lies on `device`.
            recipe: Its canvas, class names and settings.
            device: Where the network runs.
            backend: What runs it; None for the model itself, which otherwise only decodes what the backend gives.
        """
        self.model = model
        self.recipe = recipe
        self.names = recipe.data.names
        self.device = torch.device(device)
        self.backend = backend
        self.process = os.getpid()

    def __reduce__(self) -> tuple[Callable[..., "Predictor"], tuple[Any, ...]]:
        if self.origin is not None:
            return load, self.origin.arguments(self.recipe, self.device)
        if self.backend is not None:
            raise TypeError(UNKNOWN)
        return type(self), (self.model, self.recipe, self.device)

    @overload  # a str is a sequence of str, and a tensor an iterable, as well; the first overload has them
    def __call__(  # type: ignore[overload-overlap]
        self,
        source: Picture,
        threshold: float | None = ...,
        iou: float | None = ...,
        classes: Any = ...,
        *,
        bgr: bool = ...,
    ) -> Prediction: ...

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self,
        source: Sequence[Picture],
        threshold: float | None = ...,
        iou: float | None = ...,
        classes: Any = ...,
        *,
        bgr: bool = ...,
    ) -> list[Prediction]: ...

    @overload
    def __call__(
        self,
        source: Iterable[Picture],
        threshold: float | None = ...,
        iou: float | None = ...,
        classes: Any = ...,
        *,
        bgr: bool = ...,
    ) -> Iterator[Prediction]: ...

    def __call__(
        self,
        source: Picture | Iterable[Picture],
        threshold: float | None = None,
        iou: float | None = None,
        classes: Sequence[str | int] | None = None,
        *,
        bgr: bool = False,
    ) -> Prediction | list[Prediction] | Iterator[Prediction]:
        """Detect objects in one picture or several.

        Args:
            source: A path, the bytes of a file, a uint8 RGB array (h, w, 3), a uint8 RGB tensor (3, h, w), an image of
                Pillow, or any iterable of these.
            threshold: Lowest score, in [0, 1]; None for the recipe's.
            iou: A box that overlaps a better one of its class by more is dropped, in [0, 1]; None for the recipe's.
            classes: Names or labels to keep; None for all.
            bgr: The arrays are BGR, as OpenCV reads them.

        Returns:
            The detections of one picture; a list of them for a sequence; for another iterable an iterator, which takes
            the pictures a batch at a time.

        Raises:
            InputError: For a file that is no picture, pixels of another kind, or an unknown class.

        Example:
            >>> found = predictor("photo.jpg", threshold=0.5)
            >>> for box, score, label, name in found:
            ...     print(name, score, box)
        """
        wanted = self.wanted(threshold, iou, classes)
        if is_picture(source):
            return next(self._each(iter([cast(Picture, source)]), wanted, bgr))
        if not isinstance(source, Iterable):
            raise InputError(f"picture: found {type(source).__name__}, needed a picture or an iterable of pictures")
        found = self._each(cast(Iterable[Picture], source), wanted, bgr)
        return list(found) if isinstance(source, Sequence) else found

    def _each(self, source: Iterable[Picture], wanted: Wanted, bgr: bool) -> Iterator[Prediction]:
        source = map(from_bgr, source) if bgr else source
        for batch in batches(source, self.recipe.predict.batch, whole=self.keeps_pictures):
            pictures = [self.place(one, number) for number, one in batch]
            yield from self.answer(self.look(pictures), pictures, wanted)

    def wanted(
        self,
        threshold: float | None = None,
        iou: float | None = None,
        classes: Sequence[str | int] | None = None,
    ) -> Wanted:
        """The settings of a call, checked, with the recipe's for those that are None."""
        config = self.recipe.predict
        threshold = config.threshold if threshold is None else check_fraction("threshold", threshold)
        suppression = config.suppression
        if iou is not None:
            if suppression.kind == "soft":
                raise InputError("iou: suppression of kind soft has none; set its sigma in the recipe")
            suppression = suppression.model_copy(update={"iou": check_fraction("iou", iou)})
        return Wanted(threshold, suppression, self.labels_of(classes))

    # A call in its three steps, so that those of other pictures can run beside them: only `look` needs the network.

    def place(self, picture: Picture, number: int = 0) -> Placed:
        """The picture on its canvas. Raises InputError for what is no picture."""
        return placed(picture, self.recipe.data.canvas, number)

    def look(self, pictures: Sequence[Placed]) -> Looked:
        """What the network says of the pictures, all at once."""
        return self._forward(canvases_of(pictures), [picture.frame for picture in pictures])

    def answer(self, looked: Looked, pictures: Sequence[Placed], wanted: Wanted) -> list[Prediction]:
        """The detections of each picture."""
        frames = [picture.frame for picture in pictures]
        return [
            Prediction(one.boxes, one.scores, one.labels, self.names, frame.path, frame.size, picture.image)
            for one, frame, picture in zip(self._found(looked, frames, wanted), frames, pictures, strict=True)
        ]

    def detect(
        self,
        images: Tensor,
        frames: Sequence[Frame],
        threshold: float,
        suppression: SuppressionConfig,
        labels: Sequence[int] | None = None,
    ) -> list[Detections]:
        """Canvases (B, 3, H, W), uint8 or float in 0..255, to the detections of each picture, on the CPU.

        Boxes are in the original picture's px. Suppression sees whole boxes, but for `suppression.cut`; then they are
        cut to the picture, and those with nothing inside it go. labels: the classes to keep, None for all.
        """
        wanted = Wanted(threshold, suppression, None if labels is None else list(labels))
        canvases = images.to(self.device, non_blocking=True).unbind()
        return self._found(self._forward(canvases, frames), frames, wanted)

    def _forward(self, canvases: Sequence[Tensor], frames: Sequence[Frame]) -> Looked:
        model = cast(Detector, self.model)
        if self.recipe.data.canvas.trim:
            canvases = trimmed(canvases, frames, getattr(self.recipe.model, "size_step", 1))
        images = scaled(canvases, self.device, self.backend)
        refuse_fork(self.process)
        network = self.model if self.backend is None else self.backend.forward
        with evaluating(self.model):
            raw = network(*arguments(model.inputs, images, frames))
        return Looked(raw, (images.shape[-2], images.shape[-1]))

    def _found(self, looked: Looked, frames: Sequence[Frame], wanted: Wanted) -> list[Detections]:
        suppression = wanted.suppression
        with torch.inference_mode():
            decoded = cast(Detector, self.model).decode(looked.raw, wanted.threshold)
        if suppression.cut == "canvas":
            decoded = [replace(one, boxes=clip(one.boxes, looked.size)) for one in decoded]
        found = [
            replace(one, boxes=frame.to_original(one.boxes), names=self.names)
            for one, frame in zip(decoded, frames, strict=True)
        ]
        if suppression.cut == "picture":
            found = [_inside(one, frame.size) for one, frame in zip(found, frames, strict=True)]
        if wanted.labels is not None:
            found = [one[torch.isin(one.labels, one.labels.new_tensor(wanted.labels))] for one in found]
        kept = suppress(found, suppression, [frame.size for frame in frames], wanted.threshold)
        return [_inside(one, frame.size) for one, frame in zip(kept, frames, strict=True)]

    def labels_of(self, classes: Sequence[str | int] | None) -> list[int] | None:
        """Labels of classes given by name or label. Raises InputError for one that the model does not know."""
        if classes is None:
            return None
        count = len(self.names) or int(getattr(self.recipe.model, "classes", 0))
        labels = []
        for word in classes:
            if isinstance(word, str) and word in self.names:
                labels.append(self.names.index(word))
            elif str(word).isdecimal() and int(word) < count:
                labels.append(int(word))
            else:
                known = ", ".join(self.names[:20]) + (", ..." if len(self.names) > 20 else "")
                raise InputError(f"class '{word}': not one of the model's {count}; there are {known or 'only numbers'}")
        return labels

    def name_of(self, label: int) -> str:
        """The class's name, or its number where the recipe names none."""
        return self.names[label] if self.names else str(label)


def load(
    path: str | Path,
    recipe: str | Path | Recipe | None = None,
    device: str = "cpu",
    overrides: Mapping[str, Any] | Sequence[str] = (),
    backend: str = "auto",
    running: RuntimeOptions | None = None,
) -> Predictor:
    """A predictor from a run folder, its best/ or last/, a file of weights, or an exported file.

    recipe: a shipped name, a YAML file or a Recipe; None for the one stored in our own files (`.weights` and `.ckpt`
    of others store none). device: cpu, cuda, or auto for the accelerator where there is one. overrides: changes to the
    recipe. backend: auto, torch, onnxruntime or openvino; weights run in torch, of an exported file auto takes the
    fastest that is installed and can run it. running: how.
    Raises InputError when the file cannot be read or does not fit, a recipe is needed or is a classifier's.
    """
    loaded = load_any(path, recipe, device, overrides, "detect", backend, running)
    if loaded.card is not None and loaded.card.kind == "complete":
        from boxwright.predict.complete import CompletePredictor  # it builds on this module

        made: Predictor = CompletePredictor(loaded)
    else:
        made = Predictor(loaded.model, loaded.recipe, loaded.device, loaded.backend)
    made.origin = Origin.of(path, loaded.backend, running)
    return made


def check_fraction(name: str, value: float) -> float:
    """`value` when it lies in [0, 1]; else InputError."""
    if not 0 <= value <= 1:
        raise InputError(f"{name}: found {value}, needed a number from 0 to 1")
    return value


def _inside(found: Detections, size: tuple[int, int]) -> Detections:
    """Boxes cut to the picture of `size` (height, width) px, without those that lie wholly beside it, on the CPU."""
    cut = replace(found, boxes=clip(found.boxes, size))
    return cut[(cut.boxes[:, 2:] > cut.boxes[:, :2]).all(dim=1)].to("cpu")
