"""Models of a server by name, and prediction of images with them."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from boxwright.config import Overrides
from boxwright.errors import InputError
from boxwright.export.run import default_name, is_model_name
from boxwright.predict.inputs import Image
from boxwright.predict.pipeline import FilePipeline
from boxwright.predict.predictor import AnyPredictor, load
from boxwright.recipe import Recipe
from boxwright.runtimes.base.open import is_exported
from boxwright.runtimes.base.runtime import RuntimeOptions
from boxwright.serve.batcher import Answer, Batcher, Limits
from boxwright.serve.metrics import ModelMetrics
from boxwright.serve.request_error import RequestError
from boxwright.tasks import PostprocessArgs

WARM_UP_SIDE = 64  # px of the images of a warm-up


class Model:
    """A predictor with its queue.

    Attributes:
        name: Name in URLs.
        predictor: The predictor; only used by the batcher's threads.
        batcher: Its queue.
        ready: Whether it is warmed up.
    """

    def __init__(self, name: str, predictor: AnyPredictor, limits: Limits, metrics: ModelMetrics) -> None:
        self.name, self.predictor = name, predictor
        self.batcher = Batcher(predictor, limits, metrics)
        self.ready = False

    @property
    def channels(self) -> int:
        """Channels per image: 3 for RGB, or the number of bands."""
        return self.predictor.recipe.model.input_channels

    def warm_up(self) -> None:
        """Run one blank image and a full batch of them, since the first batches take longer."""
        blank = np.full((WARM_UP_SIDE, WARM_UP_SIDE, self.channels), 128, np.uint8)
        batcher = self.batcher
        count = min(batcher.limits.queue, batcher.limits.max_batch)
        for number in (1, count):
            for future in batcher.submit([blank] * number, self.args()):
                future.result()
        self.ready = True

    def args(
        self,
        threshold: float | None = None,
        iou: float | None = None,
        classes: Sequence[str] | None = None,
        top_k: int | None = None,
    ) -> PostprocessArgs:
        """As `Predictor.args`. Also raises InputError for settings that a complete file does not support."""
        if top_k is not None and top_k < 1:
            raise InputError(f"top_k: found {top_k}, needed 1 or more")
        args = self.predictor.args(threshold, iou, classes, top_k)
        if isinstance(self.predictor.pipeline, FilePipeline):
            self.predictor.task.check_inside(args, self.predictor.pipeline.inside)
        return args

    async def predict(
        self, images: Sequence[Image], args: PostprocessArgs, deadline: float, *, draw: bool = False
    ) -> list[Answer]:
        """Predict images and return their answers. If it is canceled, images that are still waiting are not run.

        Raises:
            BusyError: The queue is full.
            InputError: An image cannot be read, or is too large.
            RequestError: It is not done by `deadline`, in seconds of the event loop.
        """
        futures = self.batcher.submit(images, args, draw=draw)
        try:
            async with asyncio.timeout_at(deadline):
                return list(await asyncio.gather(*map(asyncio.wrap_future, futures)))
        except TimeoutError as error:
            raise RequestError(504, "not answered in time; send fewer requests at once, or raise --timeout") from error
        finally:
            self.batcher.cancel(futures)


def named_paths(weights: Iterable[str]) -> dict[str, str]:
    """Parse the models of a command line, `NAME=PATH` or `PATH`; the default name is that of the file or of the run.

    Raises InputError for a duplicate name, or a name with characters that URLs should not have.
    """
    paths: dict[str, str] = {}
    for entry in weights:
        name, separator, path = entry.partition("=")
        if not separator or Path(entry).exists():
            name, path = default_name(entry), entry
        if not is_model_name(name):
            raise InputError(f"{entry}: found the model name '{name}', needed letters, digits, - _ .; say NAME={path}")
        if name in paths:
            raise InputError(f"{entry}: the model name '{name}' is taken by {paths[name]}; say another by NAME={path}")
        paths[name] = path
    return paths


def load_for_serving(
    path: str, recipe: str | Path | Recipe | None, device: str, overrides: Overrides, backend: str, max_batch: int
) -> AnyPredictor:
    """As `load`, optimized for batches. Raises InputError as `load`.

    Exported files run batches in streams. In PyTorch, the last bits depend on the number of threads, so all cores work
    on one image, as `predict` does for a single one.
    """
    batch = max_batch if is_exported(path) else 1
    options = RuntimeOptions(batch, fuse=True)
    return load(path, recipe, device, overrides=overrides, backend=backend, runtime_options=options)


def chosen(models: Mapping[str, Model], name: str | None) -> Model:
    """The model called `name`, or the only one. Raises RequestError if there is no such model, or it is not ready."""
    if name is None:
        if len(models) > 1:
            raise RequestError(400, f"model: several are served; name one by ?model=, of {', '.join(models)}")
        (name,) = models
    if name not in models:
        raise RequestError(404, f"model '{name[:80]}': not served; needed one of {', '.join(models)}")
    if not models[name].ready:
        raise RequestError(503, f"model '{name}': not ready yet", {"retry-after": "1"})
    return models[name]
