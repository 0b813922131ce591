"""Dynamic batching: images of many requests through one predictor, in batches, from a bounded queue."""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field

from boxwright.errors import InputError
from boxwright.images.budget import MAX_PIXELS, budget, within_budget
from boxwright.images.draw import encode_image
from boxwright.images.header import read_header
from boxwright.predict.inputs import Image, PreparedImage, pixel_count
from boxwright.predict.predictor import AnyPredictor
from boxwright.predict.stream import batch_size, workers
from boxwright.serve.metrics import ModelMetrics
from boxwright.tasks import PostprocessArgs, RawOutputs
from boxwright.tasks.base import Result, with_image

SMOOTHING = 0.1  # weight of the newest batch in the moving average of the time per image, over about ten batches


class TooLargeError(InputError):
    """An image has more pixels, or a request more images, than the server accepts."""


class PredictionError(Exception):
    """An image could not be decoded, run or postprocessed, through no fault of the request; the log says why."""


class BusyError(Exception):
    """The queue is full, or the batcher is closed.

    Attributes:
        retry_after: Estimated seconds until the waiting images are done, at least 1.
    """

    def __init__(self, retry_after: int = 1) -> None:
        super().__init__(f"the queue is full; try again in {retry_after} s")
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a batcher.

    Attributes:
        max_batch: Largest batch size, at least 1.
        max_wait: Seconds that an image waits for more images to fill a batch.
        queue: Largest number of waiting images, at least 1.
        max_pixels: Largest number of pixels of an image.
    """

    max_batch: int = 8
    max_wait: float = 0.005
    queue: int = 64
    max_pixels: int = 50_000_000


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of an image, without its pixels, and if asked for a JPEG of the image with the result drawn."""

    result: Result
    drawing: bytes | None


@dataclass(slots=True, eq=False)
class Job:
    """A waiting image. Its future raises InputError if the image cannot be read."""

    image: Image
    args: PostprocessArgs
    draw: bool
    future: "Future[Answer]" = field(default_factory=Future)
    submitted: float = field(default_factory=time.perf_counter)
    pixels: int = 0  # according to its header


class Batcher:
    """A queue in front of a predictor, and the threads that work on it.

    Each thread takes a batch, decodes its images, runs the network, and postprocesses each image alone, so that results
    do not depend on the batch, bit by bit, if the network's outputs do not.
    """

    def __init__(self, predictor: AnyPredictor, limits: Limits, metrics: ModelMetrics) -> None:
        self.predictor, self.limits, self.metrics = predictor, limits, metrics
        self.batch = batch_size(predictor, limits.max_batch)
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._seconds = 0.0  # moving average of a batch's time per image; 0 before the first
        self._stack = ExitStack()
        pool, self._parallel, self._each = self._stack.enter_context(workers(predictor))
        if predictor.runtime is not None and predictor.runtime.pool is not None:
            self._parallel = predictor.runtime.streams
        self._threads = [pool.submit(self._work) for _ in range(self._parallel)]

    def __len__(self) -> int:
        """Number of waiting images."""
        return len(self._waiting)

    def check_room(self, count: int = 1) -> None:
        """Raise BusyError if the queue has no room for `count` images now, TooLargeError if it never has."""
        if count > self.limits.queue:
            raise TooLargeError(f"found {count} images, needed at most {self.limits.queue} at a time")
        if self._closed or len(self._waiting) + count > self.limits.queue:
            raise BusyError(math.ceil(max(1.0, len(self._waiting) * self._seconds / self._parallel)))

    def submit(self, images: Sequence[Image], args: PostprocessArgs, *, draw: bool = False) -> "list[Future[Answer]]":
        """Queue all images or none. Raises BusyError and TooLargeError as `check_room`."""
        jobs = [Job(image, args, draw) for image in images]
        with self._changed:
            self.check_room(len(jobs))
            self._waiting.extend(jobs)
            self._changed.notify_all()
        return [job.future for job in jobs]

    def cancel(self, futures: "Sequence[Future[Answer]]") -> None:
        """Remove the images of `submit` that are still waiting from the queue."""
        canceled = [future.cancel() for future in futures]
        if any(canceled):
            with self._changed:
                self._waiting = deque(job for job in self._waiting if not job.future.cancelled())

    def close(self) -> None:
        """Reject new images, process the waiting ones, and end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.result()
        self._stack.close()

    def _work(self) -> None:
        while jobs := self._take():
            start = time.perf_counter()
            for job in jobs:
                self.metrics.queue_seconds.observe(start - job.submitted)
            jobs = [job for job in jobs if self._fits(job)]
            for group, pixels in within_budget(jobs, lambda job: job.pixels):
                with budget.reserve(pixels):
                    self._predict(group)
            if jobs:
                seconds = (time.perf_counter() - start) / len(jobs)
                weight = SMOOTHING if self._seconds else 1.0
                self._seconds += weight * (seconds - self._seconds)

    def _take(self) -> list[Job]:
        """The next batch, without canceled jobs; empty if the batcher is closed and the queue is empty."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self.batch > 1:
                    enough = lambda: len(self._waiting) >= self.batch or self._closed  # noqa: E731
                    self._changed.wait_for(enough, self.limits.max_wait)
                jobs: list[Job] = []
                while self._waiting and len(jobs) < self.batch:
                    job = self._waiting.popleft()
                    if job.future.set_running_or_notify_cancel():
                        jobs.append(job)
                if jobs or (self._closed and not self._waiting):
                    return jobs

    def _fits(self, job: Job) -> bool:
        """Whether an image may be decoded; otherwise its future raises TooLargeError. Sets `job.pixels`."""
        job.pixels, limit = pixel_count(job.image, self.predictor.bands), self.limits.max_pixels
        found = f"{job.pixels} px" if job.pixels > limit else ""
        if not job.pixels and isinstance(job.image, bytes) and read_header(job.image, decode=None).too_large:
            found = f"more than {MAX_PIXELS} px"
        if found:
            job.future.set_exception(TooLargeError(f"image: found {found}, needed at most {limit}; send it smaller"))
        return not found

    def _predict(self, jobs: Sequence[Job]) -> None:
        """Set the futures of the jobs."""
        read = zip(jobs, self._each(self._read, jobs), strict=True)
        pairs = [(job, image) for job, image in read if image is not None]
        if not pairs:
            return
        start = time.perf_counter()
        try:
            raw = self.predictor.forward([image for _, image in pairs])
        except Exception as error:  # any exception of a runtime
            for job, _ in pairs:
                _fail(job, error)
            return
        self.metrics.network_seconds.observe(time.perf_counter() - start)
        self.metrics.batch_images.observe(len(pairs))
        for index, (job, image) in enumerate(pairs):
            single = RawOutputs(tuple(tensor[index : index + 1] for tensor in raw.tensors), raw.canvas)
            try:
                (result,) = self.predictor.postprocess(single, [image], job.args)
                answer = _answer(result, job.draw)
            except Exception as error:
                _fail(job, error)
            else:
                job.future.set_result(answer)

    def _read(self, job: Job) -> PreparedImage | None:
        """Read an image. Returns None if it cannot be read; its future has the exception then."""
        try:
            prepared = self.predictor.preprocess(job.image, keep_image=job.draw)
        except InputError as error:
            job.future.set_exception(error)
            return None
        except Exception as error:  # any exception of a decoder, or out of memory
            _fail(job, error)
            return None
        return prepared if job.draw else prepared._replace(image=None)


def _fail(job: Job, error: Exception) -> None:
    logging.getLogger("boxwright").error("an image could not be predicted", exc_info=error)
    job.future.set_exception(PredictionError(f"the prediction failed ({type(error).__name__})"))


def _answer(result: Result, draw: bool) -> Answer:
    if not draw:
        return Answer(result, None)
    drawing = encode_image(result.draw(), ".jpg")
    return Answer(with_image(result, None), drawing)
