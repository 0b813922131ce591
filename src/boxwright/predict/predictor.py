"""The predictor: a network or an exported file with its recipe."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from io import IOBase
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, Generic, TypeVar, cast, overload

import torch
from torch import nn

from boxwright import tasks
from boxwright.config import Overrides
from boxwright.errors import InputError
from boxwright.images.bands import Bands
from boxwright.images.budget import budget, within_budget
from boxwright.nn.network import Network
from boxwright.predict.inputs import Image, PreparedImage, from_bgr, is_image, pixel_count
from boxwright.predict.loading import evaluating, given_recipe, load_any
from boxwright.predict.pipeline import CanvasPipeline, FilePipeline, Pipeline
from boxwright.predict.processes import UNKNOWN, Origin, reject_fork
from boxwright.recipe import Recipe
from boxwright.runtimes.base.metadata import Metadata
from boxwright.runtimes.base.runtime import Runtime, RuntimeOptions
from boxwright.tasks import PostprocessArgs, RawOutputs
from boxwright.tasks.base import Result, with_image

R = TypeVar("R", bound=Result)  # `Prediction` of a detector, `ClassPrediction` of a classifier


class Predictor(Generic[R]):
    """A model with its recipe: preprocessing, network, postprocessing.

    The model is in evaluation mode while it predicts, and every module returns to its previous mode afterwards, so a
    network in training can be evaluated. Calls are thread-safe as long as the model is not trained at the same time.

    A predictor can be pickled and copied; one that `load` returned is then loaded from its file again, without changes
    of its weights since. After a fork of a process with several threads it raises RuntimeError.

    Attributes:
        model: The network; for an exported file a network without weights, which only decodes.
        recipe: The settings.
        names: The class names in label order.
        task: The task of the model.
        device: The device of the network.
        runtime: Runs the network; None if the model itself runs.
    """

    origin: Origin | None = None  # the file, if `load` returned the predictor

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        device: str | torch.device | None = None,
        runtime: Runtime | None = None,
        metadata: Metadata | None = None,
    ) -> None:
        """Create a predictor from a network; `boxwright.load` creates one from a file.

        Args:
            model: A `types.Detector` or `types.Classifier`, on one device.
            recipe: Canvas, class names and settings.
            device: The device of the network; None for that of the model's parameters.
            runtime: Runs the network, so that `model` only decodes; None to run `model` itself.
            metadata: Metadata of the exported file that the runtime runs.

        Raises:
            InputError: A complete file does not support the settings, or `recipe` has another number of classes than
                `model`.
        """
        if isinstance(model, Network) and (classes := model.config.classes) != recipe.model.classes:
            raise InputError(
                f"recipe {recipe.name}: found {recipe.model.classes} classes, the network has {classes}; use the "
                "recipe that it was created from, or recipe.with_names([...])"
            )
        self._model = model
        self.task = tasks.of(recipe)
        self.device = _device_of(model) if device is None else torch.device(device)
        self.runtime = runtime
        self.process = os.getpid()
        self.pipeline: Pipeline[R]
        if runtime is not None and metadata is not None and metadata.kind == "complete":
            self.pipeline = FilePipeline(recipe, self.task, runtime, metadata)
        else:
            self.pipeline = CanvasPipeline(model, recipe, self.task, self.device, runtime)
        self.names = self.recipe.data.names

    @property
    def model(self) -> nn.Module:
        """The network. Read-only: to use another one, create a new predictor. Edits take effect unless `fuse=True` or
        an exported file runs."""
        return self._model

    @property
    def recipe(self) -> Recipe:
        """The recipe of the network."""
        return self.pipeline.recipe

    @property
    def bands(self) -> Bands | None:
        """The bands to read from images, for `open_scene`; None for RGB."""
        return self.pipeline.bands

    def __reduce__(self) -> tuple[Callable[..., "Predictor[R]"], tuple[object, ...]]:
        if self.origin is not None:
            return partial(load, **self.origin.arguments(self.recipe, self.device)), ()
        if self.runtime is not None:
            raise TypeError(UNKNOWN)
        return type(self), (self.model, self.recipe, self.device)

    @overload  # a str is also a sequence of str, and a tensor an iterable; the first overload matches them
    def __call__(  # type: ignore[overload-overlap]
        self, source: Image, threshold: float | None = ..., iou: float | None = ...,
        classes: Sequence[str | int] | None = ..., *, top_k: int | None = ..., bgr: bool = ...,
    ) -> R: ...  # fmt: skip

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, source: Sequence[Image], threshold: float | None = ..., iou: float | None = ...,
        classes: Sequence[str | int] | None = ..., *, top_k: int | None = ..., bgr: bool = ...,
    ) -> list[R]: ...  # fmt: skip

    @overload
    def __call__(
        self, source: Iterable[Image], threshold: float | None = ..., iou: float | None = ...,
        classes: Sequence[str | int] | None = ..., *, top_k: int | None = ..., bgr: bool = ...,
    ) -> Iterator[R]: ...  # fmt: skip

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
            source: A path, the bytes of a file, a uint8 RGB array (h, w, 3), a uint8 RGB tensor (3, h, w), a Pillow
                image, or any iterable of these.
            threshold: Detectors: minimum score, in [0, 1]; None for the recipe's.
            iou: Detectors: IoU threshold of NMS, in [0, 1]; None for the recipe's.
            classes: Detectors: class names or labels to keep; None for all.
            top_k: Classifiers: number of classes per image, at least 1; None for 5.
            bgr: The arrays are BGR, as OpenCV reads them.

        Returns:
            The result of one image; a list of results for a sequence; for any other iterable an iterator, which reads
            the images batch by batch.

        Raises:
            InputError: A file is not an image, pixels have another type, a class is unknown, or the task does not have
                an argument.

        Example:
            >>> detections = predictor("photo.jpg", threshold=0.5)
            >>> for box, score, label, name in detections:
            ...     print(name, score, box)
        """
        args = self.args(threshold, iou, classes, top_k)
        if is_image(source):
            return next(self._each(iter([cast(Image, source)]), args, bgr))
        if not isinstance(source, Iterable) or isinstance(source, Mapping | IOBase):  # not their keys or lines
            raise InputError(f"image: found {type(source).__name__}, needed an image or an iterable of images")
        results = self._each(cast(Iterable[Image], source), args, bgr)
        return list(results) if isinstance(source, Sequence) else results

    def _each(self, source: Iterable[Image], args: PostprocessArgs, bgr: bool) -> Iterator[R]:
        images, numbers = map(from_bgr, source) if bgr else iter(source), count()
        while batch := list(islice(images, self.recipe.predict.batch)):
            for group, pixels in within_budget(batch, lambda image: pixel_count(image, self.bands)):
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
        """The arguments of `postprocess`, from `threshold`, `iou`, `classes` and `top_k` of a call.

        Raises InputError for an invalid value.
        """
        return self.task.args(self.recipe, threshold, iou, classes, top_k)

    def preprocess(self, image: Image, number: int = 0, *, keep_image: bool = False) -> PreparedImage:
        """Prepare one image for `forward`.

        Args:
            image: An image in any form that a call accepts.
            number: `image_id` of the frame.
            keep_image: Keep the original pixels in the result, for drawing; images without a file are always kept.

        Raises:
            InputError: The image cannot be read.
        """
        return self.pipeline.preprocess(image, number, keep_image=keep_image)

    def forward(self, images: Sequence[PreparedImage]) -> RawOutputs:
        """Run the network on `images`, from `preprocess`, as one batch."""
        reject_fork(self.process, self.runtime)
        with evaluating(self.model):
            return self.pipeline.forward(images)

    def postprocess(self, raw: RawOutputs, images: Sequence[PreparedImage], args: PostprocessArgs) -> list[R]:
        """The results of the `images`, on the CPU, from the `raw` outputs of `forward`. args: from `args`."""
        results = self.pipeline.postprocess(raw, [image.frame for image in images], args)
        pairs = zip(results, images, strict=True)
        return [result if image.image is None else with_image(result, image.image) for result, image in pairs]


def _device_of(model: nn.Module) -> torch.device:
    """The device of the parameters and buffers; the CPU without any."""
    return next((tensor.device for tensor in chain(model.parameters(), model.buffers())), torch.device("cpu"))


AnyPredictor = Predictor[Any]


def load(
    path: str | Path,
    recipe: str | Path | Recipe | None = None,
    device: str | torch.device = "auto",
    *,
    overrides: Overrides = (),
    backend: str = "auto",
    runtime_options: RuntimeOptions | None = None,
    trust: bool = False,
    cfg: str | Path | None = None,
    names: str | Path | Sequence[str] | None = None,
) -> AnyPredictor:
    """Load a detector or a classifier, ready to predict.

    Args:
        path: A run folder, its `best/` or `last/`, a file of weights, or an exported file.
        recipe: A shipped name, a YAML file or a Recipe; None for the one stored in the file. `.weights`, `.ckpt` and
            `.pth` files of other projects do not store one.
        device: `cpu`, `cuda`, `cuda:1`, a `torch.device`, or `auto` for the accelerator if there is one.
        overrides: Changes to the recipe by dotted key.
        backend: The runtime: `auto`, `mindspore`, `onnxruntime`, `opencv`, `openvino` or `torch`. Weights run in torch;
            for an exported file `auto` selects the fastest installed runtime that can run it.
        runtime_options: How to run the network. By default weights run as `predictor.model` itself, so hooks and edits
            take effect; `RuntimeOptions(fuse=True)` runs a faster copy.
        trust: Also open a `.torchscript` file, which can execute any code.
        cfg: The Darknet .cfg of a `.weights` file, instead of a recipe.
        names: With `cfg`: a .names file, or the class names; None for classes without names.

    Returns:
        A predictor. Its results are `Prediction` for a detector and `ClassPrediction` for a classifier.

    Raises:
        InputError: The file cannot be read or does not fit, or a recipe is needed.

    Example:
        >>> predictor = bw.load("runs/mine")
        >>> detections = predictor("photo.jpg")
    """
    if trust:
        runtime_options = replace(runtime_options or RuntimeOptions(), trust=True)
    loaded = load_any(path, given_recipe(recipe, cfg, names), device, overrides, backend, runtime_options)
    predictor = AnyPredictor(*loaded)
    predictor.origin = Origin.of(path, loaded.runtime, runtime_options)
    return predictor
