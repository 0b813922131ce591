"""The three steps from an image to its result, for networks and for files that hold all three.

B images of a batch, h x w px of an image
"""

from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from boxwright.predict.inputs import (
    Image,
    PreparedImage,
    arguments,
    canvases_of,
    path_of,
    pixels_of,
    prepare,
    scaled,
    trimmed,
)
from boxwright.recipe import Recipe
from boxwright.runtimes.base.metadata import Metadata
from boxwright.runtimes.base.runtime import Runtime, chunks, joined
from boxwright.tasks import PostprocessArgs, RawOutputs, Task
from boxwright.tasks.base import refuse_inside
from boxwright.types import Detector, Frame

R = TypeVar("R")


class Pipeline(Protocol[R]):
    """What a `Predictor` does its steps with."""

    recipe: Recipe
    keeps_images: bool  # whether prepared images are the images themselves

    def preprocess(self, image: Image, number: int, *, keep_image: bool) -> PreparedImage: ...

    def forward(self, images: Sequence[PreparedImage]) -> RawOutputs: ...

    def postprocess(self, raw: RawOutputs, frames: Sequence[Frame], args: PostprocessArgs) -> list[R]: ...


class CanvasPipeline(Generic[R]):
    """Preprocessing and postprocessing here, and a network between them."""

    keeps_images = False

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        task: Task[Any, Any, Any, Any],
        device: torch.device,
        backend: Runtime | None,
    ) -> None:
        self.model, self.recipe, self.task, self.device, self.backend = model, recipe, task, device, backend

    def preprocess(self, image: Image, number: int, *, keep_image: bool) -> PreparedImage:
        return prepare(image, self.recipe.data.canvas, number, keep_image=keep_image)

    def inputs(self, images: Sequence[PreparedImage]) -> tuple[Tensor, ...]:
        """What the network takes for them, on the device."""
        model, frames, canvases = cast(Detector, self.model), [image.frame for image in images], canvases_of(images)
        if self.recipe.data.canvas.trim:
            canvases = trimmed(canvases, frames, self.recipe.model.size_step)
        return arguments(model.inputs, scaled(canvases, self.device, self.backend), frames)

    def forward(self, images: Sequence[PreparedImage]) -> RawOutputs:
        inputs = self.inputs(images)
        network = self.model if self.backend is None else self.backend.forward
        height, width = inputs[0].shape[-2:]
        return RawOutputs(network(*inputs), (height, width))

    def postprocess(self, raw: RawOutputs, frames: Sequence[Frame], args: PostprocessArgs) -> list[R]:
        found: list[R] = self.task.postprocess(self.model, raw, frames, args, self.recipe)
        return found


class FilePipeline(Generic[R]):
    """A complete file (`boxwright export --with-nms`), which does all three steps: an image is its own input.

    What is decided inside the file cannot be asked for otherwise: another canvas, lower scores, another NMS, more
    classes.
    """

    keeps_images = True

    def __init__(self, recipe: Recipe, task: Task[Any, Any, Any, Any], backend: Runtime, metadata: Metadata) -> None:
        """Raises InputError where the recipe asks for something else than the file has inside."""
        self.task, self.backend, self.inside = task, backend, metadata.recipe
        if recipe.data.canvas != self.inside.data.canvas:
            refuse_inside("data.canvas: found other numbers than the file has inside")
        config = recipe.predict  # holds for evaluation as well
        task.check_inside(PostprocessArgs(config.threshold, config.nms), self.inside)
        same = {"evaluate.threshold": config.threshold, "evaluate.nms": config.nms.model_dump()}
        self.recipe = recipe.with_overrides(same)

    def preprocess(self, image: Image, number: int, *, keep_image: bool) -> PreparedImage:
        pixels, path = pixels_of(image), path_of(image)
        height, width = pixels.shape[:2]
        frame = Frame(number, path, (height, width), (height, width), (1.0, 1.0))
        return PreparedImage(pixels, frame, pixels if keep_image or not path else None)

    def forward(self, images: Sequence[PreparedImage]) -> RawOutputs:
        """Each output with the rows of all images, which pass one at a time, for they differ in size."""
        parts = [chunks((torch.from_numpy(image.pixels)[None],), self.backend.shape[0])[0] for image in images]
        outputs = [[rows[:1] for rows in answer] for answer in self.backend.each(parts)]
        return RawOutputs(joined(outputs, len(images)), (0, 0))

    def postprocess(self, raw: RawOutputs, frames: Sequence[Frame], args: PostprocessArgs) -> list[R]:
        self.task.check_inside(args, self.inside)
        found: list[R] = self.task.read_outputs(raw.tensors, frames, args, self.inside)
        return found
