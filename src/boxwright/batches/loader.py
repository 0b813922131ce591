"""Data loader for training: batches of canvases and padded boxes, decoded and resized by worker processes.

B images, C channels (3, RGB, or the bands), M boxes per image after padding, H x W canvas px
"""

import os
import signal
import sys
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import chain, islice, repeat, tee
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from boxwright import interrupt, mirrors
from boxwright.cache import VARIABLE
from boxwright.config import RGB
from boxwright.data.dataset import ANY_CLASS
from boxwright.errors import InputError
from boxwright.images.bands import Bands
from boxwright.images.budget import budget
from boxwright.images.canvas import Pixels, frame_for, read_canvas, resize_to_canvas
from boxwright.memory import tune_malloc
from boxwright.recipe import CanvasConfig
from boxwright.remote.members import prefetch
from boxwright.types import Batch, ClassBatch, Frame

WORKER_DEATH = ("DataLoader worker (pid", "Pin memory thread exited")  # starts of PyTorch's messages


class SampleDataset(Protocol):
    """The interface of a data set that the loader needs."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...  # a Sample


B = TypeVar("B", Batch, ClassBatch)


class BatchSpec(NamedTuple):
    """The specification of a batch: `indices` of images, and the arguments of their random numbers.

    step: optimizer step from the start. first: the index of the first image in the global batch (see `rng`). ahead: the
    images of the next batch of the same worker, to prefetch them.
    """

    indices: list[int]
    seed: int
    step: int
    first: int
    ahead: Sequence[int] = ()


@contextmanager
def _without_advice() -> Iterator[None]:
    """Suppress PyTorch's warning that there are more workers than cores: the recipe sets their number."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        yield


class EpochLoader(Generic[B]):
    """Batches of a data set, epoch by epoch, for one of `world` processes.

    The order of the images is a permutation that depends on (seed, epoch). A step takes the next `batch * world`
    images, and process `rank` the rank-th `batch` of these, so two processes with half the batch size get the images
    that one process would get. An incomplete last step is dropped. accumulate: number of these steps per optimizer
    step. weights: (P,) visits of each image per epoch, as in `Visits`; None for one visit. JPEGs may be decoded at
    reduced size.
    """

    batch_type: type[B]
    fields: tuple[str, ...]  # fields of the batch, in the builder's order
    builder: "Callable[[SampleDataset, CanvasConfig], BatchBuilder]"

    def __init__(
        self,
        dataset: SampleDataset,
        canvas: CanvasConfig,
        batch: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        accumulate: int = 1,
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        visits = Visits(np.ones(len(dataset)) if weights is None else weights)
        self.images_per_epoch, self.steps_per_epoch = len(visits), len(visits) // (batch * world)
        if self.steps_per_epoch == 0:
            raise InputError(
                f"{len(visits)} images to train on do not fill one step of {batch} x {world} processes; "
                "lower train.batch or add images"
            )
        self._sampler = _BatchSampler(visits, batch, seed, rank, world, accumulate, workers)
        with _without_advice():
            self._loader: DataLoader[Any] = DataLoader(
                self.builder(dataset, canvas),  # type: ignore[arg-type]
                batch_size=None,  # the sampler and the builder make whole batches
                sampler=self._sampler,
                num_workers=workers,
                persistent_workers=workers > 0,
                pin_memory=torch.cuda.is_available(),
                worker_init_fn=partial(_start_worker, workers, torch.multiprocessing.Lock(), os.environ.get(VARIABLE))
                if workers
                else None,
            )

    def epoch(self, number: int, skip: int = 0) -> Iterator[B]:
        """The batches of one epoch, like `epochs`."""
        return self.epochs(number, number + 1, skip)

    def epochs(self, first: int, end: int, skip: int = 0, steps: int | None = None) -> Iterator[B]:
        """The batches of epochs `first` to `end` - 1, without a pause between epochs: workers prefetch the next one.

        Args:
            first: Number of the first epoch.
            end: Number of the epoch after the last.
            skip: Number of steps to skip in the first epoch; their images are not loaded.
            steps: Number of steps of each epoch; None for all.

        Raises:
            InputError: An image cannot be read, or a worker was killed.
        """
        self._sampler.epochs, self._sampler.skip, self._sampler.steps = range(first, end), skip, steps
        result: Any
        for result in self._iterate():
            interrupt.check()
            if isinstance(result, str):
                raise InputError(result)
            fields = dict(zip(self.fields, result, strict=True))
            yield self.batch_type(**fields | {"frames": tuple(fields["frames"])})  # pinning makes a list of them

    def close(self) -> None:
        """End the worker processes, which otherwise wait for the next epoch until garbage is collected."""
        if self._loader._iterator is not None:
            self._loader._iterator._shutdown_workers()  # type: ignore[attr-defined]
            self._loader._iterator = None

    def _iterate(self) -> Iterator[Any]:
        """Results of `BatchBuilder`. Raises InputError if a worker has died, which PyTorch reports in several ways."""
        batches: Iterator[Any] | None = None
        while True:
            try:
                if batches is None:
                    batches = self._start_workers()
                fields = next(batches)
            except StopIteration:
                return
            except (RuntimeError, EOFError, OSError) as error:
                died = not isinstance(error, RuntimeError) or str(error).startswith(WORKER_DEATH)
                if not died or not self._loader.num_workers or str(error).startswith("Caught "):
                    raise
                raise InputError(
                    "a loader process has died, probably out of memory; lower data.workers or the batch"
                ) from error
            yield fields

    def _start_workers(self) -> Iterator[Any]:
        """PyTorch's iterator, without its SIGCHLD handler, which would raise anywhere in the program, also at exit."""
        before = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
        with interrupt.stop_blocked(), _without_advice():
            batches = iter(self._loader)
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, before)
        return batches


class Visits:
    """The images of an epoch, each repeated by its weight (P,).

    An image of weight 2.25 is visited twice, and in each epoch a random quarter of the images of this weight once more.
    All epochs have the same number of visits.
    """

    def __init__(self, weights: NDArray[np.float64]) -> None:
        self.certain = np.repeat(np.arange(len(weights)), np.floor(weights).astype(int))
        fractions = weights % 1
        groups = [np.flatnonzero(weights == weight) for weight in np.unique(weights[fractions > 0])]
        # (indices of images, number of them that are visited once more)
        self.drawn = [(group, round(float(fractions[group[0]]) * len(group))) for group in groups]

    def __len__(self) -> int:
        return len(self.certain) + sum(count for _, count in self.drawn)

    def order(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Indices of images in random order."""
        drawn = [rng.choice(group, count, replace=False) for group, count in self.drawn]
        return rng.permutation(np.concatenate([self.certain, *drawn]))


class _BatchSampler:
    """The batches of `epochs`, which is set with `skip` and `steps` before each iteration, as in `EpochLoader.epochs`.

    Each of several workers takes every `workers`-th batch.
    """

    def __init__(
        self, visits: "Visits", batch: int, seed: int, rank: int, world: int, accumulate: int, workers: int
    ) -> None:
        self.visits, self.batch, self.seed, self.rank, self.world = visits, batch, seed, rank, world
        self.accumulate, self.workers = accumulate, workers
        self.epochs, self.skip = range(0), 0
        self.steps: int | None = None

    def __iter__(self) -> Iterator[BatchSpec]:
        specs, later = tee(self._specs())
        following = chain(islice(later, max(1, self.workers), None), repeat(None))
        for spec, after in zip(specs, following, strict=False):
            yield spec if after is None else spec._replace(ahead=after.indices)

    def _specs(self) -> Iterator[BatchSpec]:
        images_per_step, skip = self.batch * self.world, self.skip
        steps = len(self.visits) // images_per_step
        for epoch in self.epochs:
            order = self.visits.order(np.random.default_rng([self.seed % 2**64, epoch]))
            for step in range(skip, steps if self.steps is None else self.steps):
                start = step * images_per_step + self.rank * self.batch
                indices = order[start : start + self.batch].tolist()
                optimizer_step, turn = divmod(step, self.accumulate)
                number = epoch * (steps // self.accumulate) + optimizer_step
                yield BatchSpec(indices, self.seed, number, (turn * self.world + self.rank) * self.batch)
            skip = 0


class BatchBuilder(ABC):
    """Collates the samples of a `BatchSpec` into the fields of a batch, in the workers."""

    def __init__(self, dataset: SampleDataset, canvas: CanvasConfig, bands: Bands | None = None) -> None:
        self.dataset, self.canvas, self.bands = dataset, canvas, bands
        self._ahead: ThreadPoolExecutor | None = None  # a thread of the worker

    def __getitem__(self, spec: BatchSpec) -> tuple[Any, ...] | str:
        """The fields, or the message of an InputError, since exceptions from workers contain a traceback."""
        try:
            samples = [self.dataset[index] for index in spec.indices]
            if samples and mirrors.split(samples[0].path) is not None:
                self._prefetch(samples, spec)
            return self._collate(samples, spec)
        except InputError as error:
            return str(error)

    def _prefetch(self, samples: Sequence[Any], spec: BatchSpec) -> None:
        """Fetch the images of this batch if they are remote, and those of the next while this one is decoded."""
        prefetch([sample.path for sample in samples])
        if self._ahead is None:
            self._ahead = ThreadPoolExecutor(1)
        self._ahead.submit(prefetch, [self.dataset[index].path for index in spec.ahead])  # errors: raised at its turn

    @abstractmethod
    def _collate(self, samples: Sequence[Any], spec: BatchSpec) -> tuple[Any, ...]:
        """Collate samples into the `fields` of the loader."""

    def _canvas(self, sample: Any, spec: BatchSpec, row: int) -> tuple[Pixels, Frame]:
        """The canvas of the sample at `row` of the batch, and its frame."""
        if (pixels := getattr(sample, "pixels", None)) is None:
            return read_canvas(str(sample.path), self.canvas, sample.image_id, self.bands)
        frame = frame_for(pixels.shape[:2], self.canvas, sample.image_id, sample.path)
        return resize_to_canvas(pixels, frame, self.canvas), frame

    def _images(self, samples: Sequence[Any], spec: BatchSpec) -> tuple[Tensor, tuple[Frame, ...]]:
        """The canvases (B, C, H, W) uint8, and their frames."""
        channels = RGB if self.bands is None else len(self.bands.numbers)
        # Allocated by NumPy for huge pages, see `warp.empty_hugepages`.
        images = torch.from_numpy(np.empty((len(samples), channels, *self.canvas.size), np.uint8))
        frames = []
        for row, sample in enumerate(samples):
            image, frame = self._canvas(sample, spec, row)
            if image.dtype == np.float32:
                image = np.rint(image).astype(np.uint8)
            cv2.split(image, list(images[row].numpy()))  # six times as fast as PyTorch's copy
            frames.append(frame)
        return images, tuple(frames)


class _DetectionBatchBuilder(BatchBuilder):
    """Builder of batches of images with boxes, padded with label -1."""

    def _collate(self, samples: Sequence[Any], spec: BatchSpec) -> tuple[Any, ...]:
        count, width = len(samples), max(len(sample.labels) for sample in samples)
        boxes = torch.zeros(count, width, 4)
        labels = torch.full((count, width), -1)
        ignore = torch.zeros(count, width, dtype=torch.bool)
        images, frames = self._images(samples, spec)
        for row, (sample, frame) in enumerate(zip(samples, frames, strict=True)):
            n = len(sample.labels)
            xyxy, classes = np.asarray(sample.boxes, np.float32), np.asarray(sample.labels, np.int64)
            if (regions := classes == ANY_CLASS).any():  # label: any; size: the image's if it is unknown
                limits = np.array([*frame.size[::-1]] * 2, np.float32)
                xyxy, classes = (
                    np.where(regions[:, None], np.clip(xyxy, 0, limits), xyxy),
                    np.where(regions, 0, classes),
                )
            boxes[row, :n] = frame.to_canvas(torch.from_numpy(xyxy))
            labels[row, :n] = torch.from_numpy(classes)
            ignore[row, :n] = torch.from_numpy(np.asarray(sample.crowd, np.bool_))
        return images, boxes, labels, ignore, _labeled(samples), frames


def _labeled(samples: Sequence[Any]) -> Tensor | None:
    """(B, C) bool as in Batch."""
    columns = [getattr(sample, "labeled", None) for sample in samples]
    limited = [column for column in columns if column is not None]
    if not limited:
        return None
    return torch.from_numpy(np.stack([np.ones_like(limited[0]) if each is None else each for each in columns]))


class Loader(EpochLoader[Batch]):
    """Loader of images with boxes. bands: bands to load; None for RGB."""

    batch_type = Batch
    fields = ("images", "boxes", "labels", "ignore", "labeled", "frames")

    def __init__(
        self, dataset: SampleDataset, canvas: CanvasConfig, batch: int, *, bands: Bands | None = None, **order: Any
    ) -> None:
        self.builder = partial(_DetectionBatchBuilder, bands=bands)
        super().__init__(dataset, canvas, batch, **order)


def _start_worker(workers: int, lock: AbstractContextManager[Any], cache: str | None, number: int) -> None:
    if cache is not None:  # a fork server may have an earlier environment
        os.environ[VARIABLE] = cache
    budget.share(workers, lock)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the main process ends its workers
    sys.excepthook = lambda *_: None  # no traceback from the queue's thread when the main process stops reading
    cv2.setNumThreads(0)  # one core per worker
    tune_malloc()  # inherited by forked workers, but not by spawned ones
