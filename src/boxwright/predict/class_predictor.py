"""Pictures in, the classes they may show out.

B images, H x W canvas px, K best classes of a picture
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast, overload

import torch
from torch import Tensor, nn

from boxwright.data.canvas import read_image
from boxwright.errors import InputError
from boxwright.predict.draw import draw_classes, name_of, png
from boxwright.predict.inputs import Array, Picture, Placed, batches, canvases_of, from_bgr, is_picture, placed, scaled
from boxwright.predict.loading import evaluating, load_any
from boxwright.predict.processes import UNKNOWN, Origin, refuse_fork
from boxwright.recipe import Recipe
from boxwright.runtimes.base.runtime import Runtime, RuntimeOptions
from boxwright.types import Classes, Classifier, Frame

MOST = 5  # classes told of a picture, as by Darknet and ImageNet's second score


@dataclass(frozen=True, slots=True, eq=False)
class ClassPrediction(Classes):
    """The best classes of one picture.

    path: its file, "" for an array. size: (height, width) px. image: the array it was made from, None for a file.
    """

    path: str = ""
    size: tuple[int, int] = (0, 0)
    image: Array | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        """`malamute 0.35, husky 0.21, ...`"""
        rows = zip(self.labels.tolist(), self.scores.tolist(), strict=True)
        return ", ".join(f"{name_of(self.names, label)} {score:.2f}" for label, score in rows)

    def draw(self, image: Array | None = None) -> Array:
        """The picture with the classes written on it, uint8 RGB (h, w, 3); on `image` where one is given."""
        if image is None:
            image = read_image(self.path) if self.image is None else self.image
        return draw_classes(image, self)

    def _repr_png_(self) -> bytes:
        """What Jupyter shows."""
        return png(self.draw())


class ClassPredictor:
    """A classifier with its recipe: canvas, network, best classes. Modes, threads and processes: as in `Predictor`."""

    keeps_pictures = False  # `place` gives canvases
    origin: Origin | None = None  # of one that `load_classifier` made

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        device: str | torch.device = "cpu",
        backend: Runtime | None = None,
    ) -> None:
        """Build one around a network; `boxwright.load` makes one from a file.

        Args:
            model: Follows `types.Classifier`, and already lies on `device`.
            recipe: Its canvas and class names.
            device: Where the network runs.
            backend: As in `Predictor`.
        """
        self.model = model
        self.recipe = recipe
        self.names = recipe.data.names
        self.device = torch.device(device)
        self.backend = backend
        self.process = os.getpid()

    def __reduce__(self) -> tuple[Callable[..., "ClassPredictor"], tuple[Any, ...]]:
        if self.origin is not None:
            return load_classifier, self.origin.arguments(self.recipe, self.device)
        if self.backend is not None:
            raise TypeError(UNKNOWN)
        return type(self), (self.model, self.recipe, self.device)

    @overload  # a str is a sequence of str, and a tensor an iterable, as well; the first overload has them
    def __call__(  # type: ignore[overload-overlap]
        self, source: Picture, most: int = ..., *, bgr: bool = ...
    ) -> ClassPrediction: ...

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, source: Sequence[Picture], most: int = ..., *, bgr: bool = ...
    ) -> list[ClassPrediction]: ...

    @overload
    def __call__(self, source: Iterable[Picture], most: int = ..., *, bgr: bool = ...) -> Iterator[ClassPrediction]: ...

    def __call__(
        self, source: Picture | Iterable[Picture], most: int = MOST, *, bgr: bool = False
    ) -> ClassPrediction | list[ClassPrediction] | Iterator[ClassPrediction]:
        """The `most` best classes of one picture or several.

        Args:
            source: As in `Predictor.__call__`.
            most: How many classes, at least 1.
            bgr: The arrays are BGR, as OpenCV reads them.

        Returns:
            The best classes of one picture; a list of them for a sequence; for another iterable an iterator, which
            takes the pictures a batch at a time.

        Raises:
            InputError: For a file that is no picture and pixels of another kind.
        """
        if is_picture(source):
            return next(self._each(iter([cast(Picture, source)]), most, bgr))
        if not isinstance(source, Iterable):
            raise InputError(f"picture: found {type(source).__name__}, needed a picture or an iterable of pictures")
        found = self._each(cast(Iterable[Picture], source), most, bgr)
        return list(found) if isinstance(source, Sequence) else found

    def _each(self, source: Iterable[Picture], most: int, bgr: bool) -> Iterator[ClassPrediction]:
        source = map(from_bgr, source) if bgr else source
        for batch in batches(source, self.recipe.predict.batch, whole=self.keeps_pictures):
            pictures = [self.place(one, number) for number, one in batch]
            yield from self.answer(self.look(pictures), pictures, most)

    # A call in its three steps, as in `Predictor`.

    def place(self, picture: Picture, number: int = 0) -> Placed:
        """The picture on its canvas. Raises InputError for what is no picture."""
        return placed(picture, self.recipe.data.canvas, number)

    def look(self, pictures: Sequence[Placed]) -> tuple[Tensor, ...]:
        """What the network says of the pictures, all at once."""
        return self._forward(canvases_of(pictures))

    def answer(self, raw: tuple[Tensor, ...], pictures: Sequence[Placed], most: int) -> list[ClassPrediction]:
        """The best classes of each picture."""
        return [
            ClassPrediction(one.scores, one.labels, self.names, frame.path, frame.size, image)
            for one, (_, frame, image) in zip(self._best(raw, most), pictures, strict=True)
        ]

    def classify(self, images: Tensor, frames: Sequence[Frame], most: int = MOST) -> list[Classes]:
        """Canvases (B, 3, H, W), uint8 or float in 0..255, to the best classes of each, on the CPU.

        frames: how the pictures lie on them, for a file that places them itself.
        """
        return self._best(self._forward(images.to(self.device, non_blocking=True).unbind()), most)

    def _forward(self, canvases: Sequence[Tensor]) -> tuple[Tensor, ...]:
        images = scaled(canvases, self.device, self.backend)
        refuse_fork(self.process)
        network = self.model if self.backend is None else self.backend.forward
        with evaluating(self.model):
            raw: tuple[Tensor, ...] = network(images)
        return raw

    def _best(self, raw: tuple[Tensor, ...], most: int) -> list[Classes]:
        with torch.inference_mode():
            found = cast(Classifier, self.model).decode(raw, most)
            return [replace(one.to("cpu"), names=self.names) for one in found]


def load_classifier(
    path: str | Path,
    recipe: str | Path | Recipe | None = None,
    device: str = "cpu",
    overrides: Mapping[str, Any] | Sequence[str] = (),
    backend: str = "auto",
    running: RuntimeOptions | None = None,
) -> ClassPredictor:
    """Like `boxwright.load`, for a classifier."""
    loaded = load_any(path, recipe, device, overrides, "classify", backend, running)
    if loaded.card is not None and loaded.card.kind == "complete":
        from boxwright.predict.complete import CompleteClassPredictor  # it builds on this module

        made: ClassPredictor = CompleteClassPredictor(loaded)
    else:
        made = ClassPredictor(loaded.model, loaded.recipe, loaded.device, loaded.backend)
    made.origin = Origin.of(path, loaded.backend, running)
    return made
