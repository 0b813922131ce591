"""Many images through a predictor, with reading, drawing and encoding beside the network."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import cv2
import torch

from boxwright import interrupt
from boxwright.errors import InputError
from boxwright.images.budget import budget, within_budget
from boxwright.predict.ahead import in_order
from boxwright.predict.inputs import Image, PreparedImage, pixels_in
from boxwright.predict.loading import evaluating
from boxwright.predict.predictor import Predictor
from boxwright.predict.processes import refuse_fork
from boxwright.progress import track
from boxwright.tasks import PostprocessArgs
from boxwright.tasks.base import Result

R = TypeVar("R", bound=Result)
T = TypeVar("T")

BATCHES = 3  # under way at a time beside an accelerator
THREADS = 4  # at least, for decoding, drawing and encoding; OpenCV releases the GIL


def predict_all(
    predictor: Predictor[R],
    images: Sequence[Image],
    args: PostprocessArgs,
    *,
    batch: int,
    wanted: Callable[[int], bool] = lambda index: False,
    use: Callable[[int, R], None] = lambda index, result: None,
    title: str = "",
) -> list[R | InputError]:
    """The result of each image in order, or why it cannot be read.

    Images in memory at a time have no more pixels together than `budget` allows. The streams of a runtime share a
    batch, and each does everything for its images, so that no core waits for another. On an accelerator three batches
    are under way: one is read, and one postprocessed and drawn, while the network runs on another. Where all cores run
    one batch nothing is done beside it, for they wait for the slowest at every layer.

    Args:
        predictor: What predicts.
        images: In any of the forms of a call.
        args: From the predictor's task.
        batch: Images that pass the network together.
        wanted: Whether `use` needs the pixels of the image with that index.
        use: Is given each index and result, in any thread and order, while its `image` is in memory, if `wanted`.
        title: Of the progress bar; "" for none.
    """
    refuse_fork(predictor.process)
    with evaluating(predictor.model), _workers(predictor) as (pool, ahead, each):

        def read(index: int) -> PreparedImage | InputError:
            try:
                return predictor.preprocess(images[index], index, keep_image=wanted(index))
            except InputError as error:
                return error

        def finish(index: int, result: R | InputError) -> R | InputError:
            if isinstance(result, InputError):
                return result
            use(index, result)
            return replace(result, image=None)  # type: ignore[type-var]

        def predict(indices: Sequence[int]) -> list[R | InputError]:
            prepared = list(each(read, indices))
            readable = [image for image in prepared if not isinstance(image, InputError)]
            found = iter(predictor.postprocess(predictor.forward(readable), readable, args) if readable else [])
            results = [image if isinstance(image, InputError) else next(found) for image in prepared]
            return list(each(finish, indices, results))

        def work(indices: Sequence[int]) -> list[R | InputError]:
            results: list[R | InputError] = []
            for part, pixels in within_budget(indices, lambda index: pixels_in(images[index])):
                with budget.reserve(pixels):
                    results += predict(part)
            return results

        groups = _shares(len(images), batch, predictor)
        batches = in_order(pool, groups, work, ahead)
        results: list[R | InputError] = []
        for part in track(batches, len(groups), title, "batches") if title else batches:
            interrupt.check()
            results += part
    return results


def _shares(count: int, batch: int, predictor: Predictor[Any]) -> list[range]:
    """Indices in parts of a stream's share of a batch, rounded up to whole batches of the file; the last ones are
    smaller, so that all streams end at the same time."""
    backend = predictor.backend
    streams, step = (1, 1) if backend is None else (backend.streams, backend.shape[0] or 1)
    parts, start = [], 0
    while start < count:
        share = min(-(-batch // streams), max(1, (count - start) // streams))
        end = min(count, start + -(-share // step) * step)
        parts.append(range(start, end))
        start = end
    return parts


@contextmanager
def _workers(predictor: Predictor[Any]) -> Iterator[tuple[Executor, int, Callable[..., Iterator[Any]]]]:
    """What works on the parts, how many are submitted beforehand, and what maps over the images of one."""
    backend = predictor.backend
    if backend is None or backend.pool is None:
        batches = 1 if predictor.device.type == "cpu" else BATCHES
        threads = max(THREADS, torch.get_num_threads())
        with ThreadPoolExecutor(threads) as readers, ThreadPoolExecutor(batches) as pool:
            yield pool, batches, readers.map
        return
    before = cv2.getNumThreads()
    cv2.setNumThreads(max(1, before // backend.streams))
    try:
        yield backend.pool, 4 * backend.streams, map  # some parts take longer than others
    finally:
        cv2.setNumThreads(before)
