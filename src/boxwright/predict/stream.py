"""Prediction of many images, with reading, drawing and encoding in parallel to the network."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import cv2
import torch

from boxwright import interrupt
from boxwright.errors import InputError
from boxwright.images.budget import budget, within_budget
from boxwright.predict.inputs import Image, PreparedImage, pixel_count
from boxwright.predict.loading import evaluating
from boxwright.predict.pipeline import FilePipeline
from boxwright.predict.predictor import AnyPredictor, Predictor
from boxwright.predict.prefetch import prefetch_map
from boxwright.predict.processes import reject_fork
from boxwright.progress import track
from boxwright.remote.members import prefetch
from boxwright.tasks import PostprocessArgs
from boxwright.tasks.base import Result, with_image

R = TypeVar("R", bound=Result)
T = TypeVar("T")

BATCHES = 3  # in flight at a time with an accelerator
MIN_THREADS = 4  # for decoding, drawing and encoding; OpenCV releases the GIL


def predict_all(
    predictor: Predictor[R],
    images: Sequence[Image],
    args: PostprocessArgs,
    *,
    batch: int,
    needs_pixels: Callable[[int], bool] = lambda index: False,
    callback: Callable[[int, R], None] = lambda index, result: None,
    title: str = "",
) -> list[R | InputError]:
    """The results of `predict_each` for all images. title: of the progress bar; "" for none."""
    results = predict_each(predictor, images, args, batch=batch, needs_pixels=needs_pixels, callback=callback)
    return list(track(results, len(images), title) if title else results)


def predict_each(
    predictor: Predictor[R],
    images: Sequence[Image],
    args: PostprocessArgs,
    *,
    batch: int,
    needs_pixels: Callable[[int], bool] = lambda index: False,
    callback: Callable[[int, R], None] = lambda index, result: None,
) -> Iterator[R | InputError]:
    """Predict many images, in parallel where it helps.

    `budget` limits the pixels in memory. If the runtime has streams, they share a batch, and each stream reads,
    predicts and draws its own images, so streams do not wait for each other. With an accelerator, three batches are in
    flight: one is read and one postprocessed and drawn while the network runs on the third. If all cores run one batch,
    nothing runs beside it, because at every layer all cores wait for the slowest one.

    Args:
        predictor: The predictor.
        images: Images in any form that `Predictor.__call__` accepts.
        args: From `Predictor.args`.
        batch: Batch size.
        needs_pixels: Whether `callback` needs the pixels of the image with that index.
        callback: Called with each index and result, in any thread and order, with `image` set if `needs_pixels`.

    Yields:
        For each image in order the result, or the error if it cannot be read; a few batches are computed ahead.
    """
    reject_fork(predictor.process, predictor.runtime)
    with evaluating(predictor.model), workers(predictor) as (pool, ahead, each):

        def read(index: int) -> PreparedImage | InputError:
            try:
                return predictor.preprocess(images[index], index, keep_image=needs_pixels(index))
            except InputError as error:
                return error

        def finish(index: int, result: R | InputError) -> R | InputError:
            if isinstance(result, InputError):
                return result
            callback(index, result)
            return with_image(result, None)

        def predict(indices: Sequence[int]) -> list[R | InputError]:
            prepared = list(each(read, indices))
            readable = [image for image in prepared if not isinstance(image, InputError)]
            predicted = iter(predictor.postprocess(predictor.forward(readable), readable, args) if readable else [])
            results = [image if isinstance(image, InputError) else next(predicted) for image in prepared]
            return list(each(finish, indices, results))

        def work(indices: Sequence[int]) -> list[R | InputError]:
            results: list[R | InputError] = []
            with suppress(InputError):  # reported where the image is read
                prefetch(image for index in indices if isinstance(image := images[index], str | Path))
            for group, pixels in within_budget(indices, lambda index: pixel_count(images[index], predictor.bands)):
                with budget.reserve(pixels):
                    results += predict(group)
            return results

        for predicted in prefetch_map(pool, _split_batches(len(images), batch, predictor), work, ahead):
            interrupt.check()
            yield from predicted


def _split_batches(count: int, batch: int, predictor: AnyPredictor) -> list[range]:
    """Split indices into the streams' parts of a batch; the last are smaller, so that all finish at the same time."""
    runtime = predictor.runtime
    streams, step = (1, 1) if runtime is None else (runtime.streams, runtime.shape[0] or 1)
    ranges, start = [], 0
    while start < count:
        size = min(-(-batch // streams), max(1, (count - start) // streams))
        end = min(count, start + -(-size // step) * step)
        ranges.append(range(start, end))
        start = end
    return ranges


def batch_size(predictor: AnyPredictor, max_batch: int) -> int:
    """The number of images per forward pass, such that results do not depend on which images share a batch.

    It is 1 if batches are no faster or change results. Images of complete files differ in size, so they run one at a
    time. Canvases that are cropped to their images would be cropped to the largest of a batch. PyTorch selects other
    kernels for other batch sizes on a CPU, whose results differ in the last bits; ONNX Runtime and OpenVINO do not. A
    file with a fixed batch size takes that many. Otherwise the streams share `max_batch`.
    """
    runtime = predictor.runtime
    in_torch_on_cpu = predictor.device.type == "cpu" and (runtime is None or runtime.name == "torch")
    if in_torch_on_cpu or isinstance(predictor.pipeline, FilePipeline) or predictor.recipe.data.canvas.trim:
        return 1
    fixed, streams = (None, 1) if runtime is None else (runtime.shape[0], runtime.streams)
    return min(max_batch, fixed or -(-max_batch // streams))


@contextmanager
def workers(predictor: AnyPredictor) -> Iterator[tuple[Executor, int, Callable[..., Iterator[Any]]]]:
    """The pool for the batches, the number of batches to submit ahead, and the map over the images of a batch."""
    runtime = predictor.runtime
    if runtime is None or runtime.pool is None:
        batches = 1 if predictor.device.type == "cpu" else BATCHES
        threads = max(MIN_THREADS, torch.get_num_threads())
        with ThreadPoolExecutor(threads) as readers, ThreadPoolExecutor(batches) as pool:
            yield pool, batches, readers.map
        return
    before = cv2.getNumThreads()
    cv2.setNumThreads(max(1, before // runtime.streams))
    try:
        yield runtime.pool, 4 * runtime.streams, map  # several per stream, since batches take different times
    finally:
        cv2.setNumThreads(before)
