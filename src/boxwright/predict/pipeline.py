"""The three steps of a prediction, for networks and for complete exported files.

B images of a batch, h x w px of an image
"""

from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from boxwright.images.bands import Bands
from boxwright.predict.inputs import (
    Image,
    PreparedImage,
    canvases_of,
    image_path,
    image_to_keep,
    network_inputs,
    prepare,
    read_pixels,
    to_batch,
    to_tensor,
    trim,
)
from boxwright.recipe import Recipe
from boxwright.runtimes.base.metadata import Metadata
from boxwright.runtimes.base.runtime import Runtime, chunks, joined
from boxwright.tasks import AnyTask, PostprocessArgs, RawOutputs
from boxwright.tasks.base import reject_inside
from boxwright.types import Detector, Frame

R = TypeVar("R")


class Pipeline(Protocol[R]):
    """Preprocessing, network and postprocessing of a `Predictor`."""

    recipe: Recipe
    bands: Bands | None  # bands to read; None for RGB

    def preprocess(self, image: Image, number: int, *, keep_image: bool) -> PreparedImage: ...

    def forward(self, images: Sequence[PreparedImage]) -> RawOutputs: ...

    def postprocess(self, raw: RawOutputs, frames: Sequence[Frame], args: PostprocessArgs) -> list[R]: ...


class CanvasPipeline(Generic[R]):
    """The pipeline of a network: preprocessing and postprocessing run here."""

    def __init__(
        self, model: nn.Module, recipe: Recipe, task: AnyTask, device: torch.device, runtime: Runtime | None
    ) -> None:
        self.model, self.recipe, self.task, self.device, self.runtime = model, recipe, task, device, runtime
        self.bands = Bands.of(recipe.data)

    def preprocess(self, image: Image, number: int, *, keep_image: bool) -> PreparedImage:
        return prepare(image, self.recipe.data.canvas, number, keep_image=keep_image, bands=self.bands)

    def inputs(self, images: Sequence[PreparedImage]) -> tuple[Tensor, ...]:
        """The network's inputs for the images, on the device."""
        model, frames, canvases = cast(Detector, self.model), [image.frame for image in images], canvases_of(images)
        if self.recipe.data.canvas.trim:
            canvases = trim(canvases, frames, self.recipe.model.size_step)
        return network_inputs(model.inputs, to_batch(canvases, self.device, self.runtime), frames)

    def forward(self, images: Sequence[PreparedImage]) -> RawOutputs:
        inputs = self.inputs(images)
        network = self.model if self.runtime is None else self.runtime.forward
        height, width = inputs[0].shape[-2:]
        return RawOutputs(network(*inputs), (height, width))

    def postprocess(self, raw: RawOutputs, frames: Sequence[Frame], args: PostprocessArgs) -> list[R]:
        results: list[R] = self.task.postprocess(self.model, raw, frames, args, self.recipe)
        return results


class FilePipeline(Generic[R]):
    """The pipeline of a complete file (`boxwright export --with-nms`), which contains all three steps.

    Its network, canvas, minimum score, NMS and temperatures are fixed; class names are those of the recipe.
    """

    def __init__(self, recipe: Recipe, task: AnyTask, runtime: Runtime, metadata: Metadata) -> None:
        """Create the pipeline. Raises InputError if the recipe needs other settings than those of the file."""
        self.task, self.runtime, self.inside = task, runtime, metadata.recipe
        self.bands = Bands.of(recipe.data)
        for key, wanted, stored in (
            ("model", recipe.model, self.inside.model),
            ("data.canvas", recipe.data.canvas, self.inside.data.canvas),
            ("predict.temperatures", recipe.predict.temperatures, self.inside.predict.temperatures),
        ):
            if wanted != stored:
                reject_inside(f"{key}: found other values than those in the file")
        # an evaluation uses the file's settings of prediction, unless the user asks for others
        predict, evaluate, before = recipe.predict, recipe.evaluate, self.inside.evaluate
        threshold = predict.threshold if evaluate.threshold == before.threshold else evaluate.threshold
        nms = predict.nms if evaluate.nms == before.nms else evaluate.nms
        for args in (PostprocessArgs(predict.threshold, predict.nms), PostprocessArgs(threshold, nms)):
            task.check_inside(args, self.inside)
        same = {"evaluate.threshold": threshold, "evaluate.nms": nms.model_dump()}
        self.recipe = recipe.with_overrides(same)

    def preprocess(self, image: Image, number: int, *, keep_image: bool) -> PreparedImage:
        pixels, path = read_pixels(image, self.bands), image_path(image)
        height, width = pixels.shape[:2]
        frame = Frame(number, path, (height, width), (height, width), (1.0, 1.0))
        return PreparedImage(pixels, frame, image_to_keep(pixels, path, self.bands, keep_image))

    def forward(self, images: Sequence[PreparedImage]) -> RawOutputs:
        """The outputs with the rows of all images, which run one at a time since they differ in size."""
        parts = [chunks((to_tensor(image.pixels)[None],), self.runtime.shape[0])[0] for image in images]
        outputs = [[output[:1] for output in raw] for raw in self.runtime.each(parts)]
        return RawOutputs(joined(outputs, len(images)), (0, 0))

    def postprocess(self, raw: RawOutputs, frames: Sequence[Frame], args: PostprocessArgs) -> list[R]:
        self.task.check_inside(args, self.inside)
        results: list[R] = self.task.read_outputs(raw.tensors, frames, args, self.recipe)
        return results
