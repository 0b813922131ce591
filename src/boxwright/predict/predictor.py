"""Images in, results out: a network or an exported file with its recipe.

B images of a batch, h x w px of an image
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import Any, Generic, TypeVar, cast, overload

import torch
from torch import nn

from boxwright import tasks
from boxwright.errors import InputError
from boxwright.images.budget import budget, within_budget
from boxwright.predict.inputs import Image, PreparedImage, from_bgr, is_image, pixels_in
from boxwright.predict.loading import evaluating, load_any
from boxwright.predict.pipeline import CanvasPipeline, FilePipeline, Pipeline
from boxwright.predict.processes import UNKNOWN, Origin, refuse_fork
from boxwright.recipe import Recipe
from boxwright.runtimes.base.metadata import Metadata
from boxwright.runtimes.base.runtime import Runtime, RuntimeOptions
from boxwright.tasks import PostprocessArgs, RawOutputs
from boxwright.tasks.base import Result

R = TypeVar("R", bound=Result)  # `Prediction` of a detector, `ClassPrediction` of a classifier


class Predictor(Generic[R]):
    """A model with its recipe: preprocessing, network, postprocessing.

    Building one leaves the model as it is. While it predicts, the model is in evaluation mode; afterwards every module
    is in the mode it was in before, so the engine can evaluate the network it is training. Any number of threads may
    call it, as long as none of them trains its model meanwhile.

    It can be pickled. One that `load` made is then loaded anew from its file. In a process that was forked from one
    with several threads none works (RuntimeError says so): the threads are not there.

    Attributes:
        model: The network; of an exported file one without weights, which only decodes.
        recipe: Its settings.
        names: The classes in label order.
        task: What it predicts.
        device: Where the network runs.
    """

    origin: Origin | None = None  # of one that `load` made

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        device: str | torch.device = "cpu",
        backend: Runtime | None = None,
        metadata: Metadata | None = None,
    ) -> None:
        """Build one around a network; `boxwright.load` makes one from a file.

        Args:
            model: Follows `types.Detector` or `types.Classifier`, and already lies on `device`.
            recipe: Its canvas, class names and settings.
            device: Where the network runs.
            backend: What runs it; None for the model itself, which otherwise only decodes what the backend gives.
            metadata: Of an exported file that the backend runs.

        Raises:
            InputError: For settings that a complete file cannot follow.
        """
        self.model = model
        self.task = tasks.of(recipe)
        self.device = torch.device(device)
        self.backend = backend
        self.process = os.getpid()
        self.pipeline: Pipeline[R]
        if backend is not None and metadata is not None and metadata.kind == "complete":
            self.pipeline = FilePipeline(recipe, self.task, backend, metadata)
        else:
            self.pipeline = CanvasPipeline(model, recipe, self.task, self.device, backend)
        self.recipe = self.pipeline.recipe
        self.names = self.recipe.data.names

    def __reduce__(self) -> tuple[Callable[..., "Predictor[R]"], tuple[Any, ...]]:
        if self.origin is not None:
            return load, self.origin.arguments(self.recipe, self.device)
        if self.backend is not None:
            raise TypeError(UNKNOWN)
        return type(self), (self.model, self.recipe, self.device)

    @overload  # a str is a sequence of str, and a tensor an iterable, as well; the first overload has them
    def __call__(  # type: ignore[overload-overlap]
        self,
        source: Image,
        threshold: float | None = ...,
        iou: float | None = ...,
        classes: Any = ...,
        *,
        top_k: int | None = ...,
        bgr: bool = ...,
    ) -> R: ...

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self,
        source: Sequence[Image],
        threshold: float | None = ...,
        iou: float | None = ...,
        classes: Any = ...,
        *,
        top_k: int | None = ...,
        bgr: bool = ...,
    ) -> list[R]: ...

    @overload
    def __call__(
        self,
        source: Iterable[Image],
        threshold: float | None = ...,
        iou: float | None = ...,
        classes: Any = ...,
        *,
        top_k: int | None = ...,
        bgr: bool = ...,
    ) -> Iterator[R]: ...

    def __call__(
        self,
        source: Image | Iterable[Image],
        threshold: float | None = None,
        iou: float | None = None,
        classes: Sequence[str | int] | None = None,
        *,
        top_k: int | None = None,
        bgr: bool = False,
    ) -> R | list[R] | Iterator[R]:
        """Predict one image or several.

        Args:
            source: A path, the bytes of a file, a uint8 RGB array (h, w, 3), a uint8 RGB tensor (3, h, w), an image of
                Pillow, or any iterable of these.
            threshold: Of a detector, the lowest score, in [0, 1]; None for the recipe's.
            iou: Of a detector: a box that overlaps a better one of its class by more is dropped, in [0, 1]; None for
                the recipe's.
            classes: Of a detector, names or labels to keep; None for all.
            top_k: Of a classifier, how many classes, at least 1; None for 5.
            bgr: The arrays are BGR, as OpenCV reads them.

        Returns:
            The result of one image; a list of them for a sequence; for another iterable an iterator, which takes the
            images a batch at a time.

        Raises:
            InputError: For a file that is no image, pixels of another kind, an unknown class, and an argument that this
                task has not.

        Example:
            >>> found = predictor("photo.jpg", threshold=0.5)
            >>> for box, score, label, name in found:
            ...     print(name, score, box)
        """
        args = self.args(threshold, iou, classes, top_k)
        if is_image(source):
            return next(self._each(iter([cast(Image, source)]), args, bgr))
        if not isinstance(source, Iterable):
            raise InputError(f"image: found {type(source).__name__}, needed an image or an iterable of images")
        results = self._each(cast(Iterable[Image], source), args, bgr)
        return list(results) if isinstance(source, Sequence) else results

    def _each(self, source: Iterable[Image], args: PostprocessArgs, bgr: bool) -> Iterator[R]:
        images, numbers = map(from_bgr, source) if bgr else iter(source), count()
        while batch := list(islice(images, self.recipe.predict.batch)):
            for group, pixels in within_budget(batch, pixels_in):
                with budget.reserve(pixels):
                    prepared = [self.preprocess(image, next(numbers)) for image in group]
                    results = self.postprocess(self.forward(prepared), prepared, args)
                yield from results

    def args(
        self,
        threshold: float | None = None,
        iou: float | None = None,
        classes: Sequence[str | int] | None = None,
        top_k: int | None = None,
    ) -> PostprocessArgs:
        """What `postprocess` takes, as in a call. Raises InputError for a wrong setting."""
        return self.task.args(self.recipe, threshold, iou, classes, top_k)

    def preprocess(self, image: Image, number: int = 0, *, keep_image: bool = False) -> PreparedImage:
        """The image as the network takes it.

        Args:
            image: One image in any of the forms of a call.
            number: Its number, for `frame.image_id`.
            keep_image: Keep its own pixels for the result, to draw on; else only those of images without a file are.

        Raises:
            InputError: For what is no image.
        """
        return self.pipeline.preprocess(image, number, keep_image=keep_image)

    def forward(self, images: Sequence[PreparedImage]) -> RawOutputs:
        """The network's raw outputs for the images, as one batch."""
        refuse_fork(self.process)
        with evaluating(self.model):
            return self.pipeline.forward(images)

    def postprocess(self, raw: RawOutputs, images: Sequence[PreparedImage], args: PostprocessArgs) -> list[R]:
        """The result of each image, on the CPU. args: from `args`."""
        results = self.pipeline.postprocess(raw, [image.frame for image in images], args)
        pairs = zip(results, images, strict=True)
        return [result if image.image is None else replace(result, image=image.image) for result, image in pairs]  # type: ignore[type-var]


def load(
    path: str | Path,
    recipe: str | Path | Recipe | None = None,
    device: str = "auto",
    overrides: Mapping[str, Any] | Sequence[str] = (),
    backend: str = "auto",
    running: RuntimeOptions | None = None,
    trust: bool = False,
) -> Predictor[Any]:
    """Load a detector or a classifier, ready to predict.

    Args:
        path: A run folder, its `best/` or `last/`, a file of weights, or an exported file.
        recipe: A shipped name, a YAML file or a Recipe; None for the one stored in our own files. `.weights`, `.ckpt`
            and `.pth` files of others store none.
        device: `cpu`, `cuda`, or `auto` for the accelerator where there is one.
        overrides: Changes to the recipe by dotted key.
        backend: `auto`, `torch`, `onnxruntime` or `openvino`. Weights run in torch; of the runtimes that can run an
            exported file `auto` takes the fastest that is installed.
        running: How to run it; by default `predictor.model` itself runs, so that hooks on it fire and edits count.
            `RuntimeOptions(fuse=True)` runs a faster copy.
        trust: Also open a `.torchscript` file, which is a program that may do anything that this process may.

    Returns:
        A predictor, whose results are `Prediction` of a detector and `ClassPrediction` of a classifier.

    Raises:
        InputError: When the file cannot be read or does not fit, or a recipe is needed.

    Example:
        >>> predictor = bw.load("runs/mine")
        >>> found = predictor("photo.jpg")
    """
    if trust:
        running = replace(running or RuntimeOptions(), trust=True)
    loaded = load_any(path, recipe, device, overrides, backend, running)
    predictor: Predictor[Any] = Predictor(*loaded)
    predictor.origin = Origin.of(path, loaded.backend, running)
    return predictor
