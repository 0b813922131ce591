"""Samples -> batches of canvases, decoded and placed by worker processes; nothing here is random but the order.

B images, M boxes an image after padding, H x W canvas px
"""

import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from boxwright import interrupt
from boxwright.data.budget import budget
from boxwright.data.canvas import Picture, frame_for, place, read_canvas
from boxwright.errors import InputError
from boxwright.memory import tune_malloc
from boxwright.recipe import CanvasConfig
from boxwright.types import Batch, ClassBatch, Frame

DEATH = ("DataLoader worker (pid", "Pin memory thread exited")  # how PyTorch tells of it
Parts = tuple[Tensor, Tensor, Tensor, Tensor, tuple[Frame, ...]]  # the fields of a Batch, as workers send them


class Samples(Protocol):
    """What the loader needs of a data set."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...  # a Sample


B = TypeVar("B", Batch, ClassBatch)


class Group(NamedTuple):
    """indices: the pictures of a batch. For what is drawn for them: seed, step, and the place of the first in the batch
    of the whole group of processes. Steps count from the start of the training, batch by batch."""

    indices: list[int]
    seed: int
    step: int
    first: int


class Epochs(Generic[B]):
    """Batches of a data set, epoch by epoch, for one of `world` processes.

    The order of an epoch is a permutation drawn from (seed, epoch), or the data set's own without `shuffle`. Step s
    of the whole group holds the s-th `batch * world` pictures of it, and process `rank` the rank-th `batch` of those:
    two processes with half the batch see the pictures that one with the whole batch sees.

    With `shuffle` (training) an incomplete last step is left out, and JPEGs may be decoded at reduced size. Without
    (evaluation) every picture comes once, decoded in full; at the end a process may get a smaller batch or none.

    kind: of the batches. work: what makes their first fields, in the workers.
    """

    kind: type[B]
    work: "Callable[..., Canvases]"

    def __init__(
        self,
        dataset: Samples,
        canvas: CanvasConfig,
        batch: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        shuffle: bool = True,
    ) -> None:
        step = batch * world
        self.steps_per_epoch = len(dataset) // step if shuffle else -(-len(dataset) // step)
        if self.steps_per_epoch == 0 and shuffle:
            raise InputError(
                f"{len(dataset)} pictures to train on do not fill one step of {batch} x {world} processes; "
                "lower train.batch or add pictures"
            )
        self._order = _Order(len(dataset), batch, seed, rank, world, shuffle)
        self._loader: DataLoader[Any] = DataLoader(
            self.work(dataset, canvas, reduce=shuffle),  # type: ignore[arg-type]
            batch_size=None,  # the order gives whole batches and the work makes them
            sampler=self._order,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=partial(_start_worker, workers, torch.multiprocessing.Lock()) if workers else None,
        )

    def epoch(self, number: int, skip: int = 0) -> Iterator[B]:
        """The batches of an epoch from step `skip` on; those before are not loaded.

        Raises InputError naming the file when a picture cannot be read, and when a worker was killed.
        """
        self._order.epoch, self._order.skip = number, skip
        parts: Any
        for parts in self._loaded():
            interrupt.check()
            if isinstance(parts, str):
                raise InputError(parts)
            fields = (*parts[:-1], tuple(parts[-1]))  # frames: pinning makes a list of them
            yield self.kind(*fields)

    def _loaded(self) -> Iterator[Any]:
        """What the workers send. Raises InputError when one has died, of which PyTorch tells in several ways."""
        batches: Iterator[Any] | None = None
        while True:
            try:
                if batches is None:
                    batches = self._started()
                parts = next(batches)
            except StopIteration:
                return
            except (RuntimeError, EOFError, OSError) as error:
                died = not isinstance(error, RuntimeError) or str(error).startswith(DEATH)
                if not died or not self._loader.num_workers or str(error).startswith("Caught "):
                    raise
                raise InputError(
                    "a loader process has died, perhaps for want of memory; lower data.workers or the batch"
                ) from error
            yield parts

    def _started(self) -> Iterator[Any]:
        """PyTorch's iterator, without the handler of SIGCHLD that it leaves in the process, which would raise wherever
        the program stands, and again while it ends."""
        before = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
        batches = iter(self._loader)
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, before)
        return batches


class _Order:
    """Yields what each batch is made of; `epoch` and `skip` are set before it is walked."""

    def __init__(self, length: int, batch: int, seed: int, rank: int, world: int, shuffle: bool) -> None:
        self.length, self.batch, self.seed, self.rank, self.world, self.shuffle = (
            length, batch, seed, rank, world, shuffle,
        )  # fmt: skip
        self.epoch = self.skip = 0

    def __iter__(self) -> Iterator[Group]:
        order = np.arange(self.length)
        if self.shuffle:
            order = np.random.default_rng([self.seed % 2**64, self.epoch]).permutation(self.length)
        step = self.batch * self.world
        end = self.length - self.length % step if self.shuffle else self.length
        first, number = self.rank * self.batch, self.epoch * (end // step) + self.skip
        for start in range(self.skip * step + first, end, step):
            yield Group(order[start : start + self.batch].tolist(), self.seed, number, first)
            number += 1


def canvas_of(sample: Any, canvas: CanvasConfig, *, reduce: bool) -> tuple[Picture, Frame]:
    """A sample's picture on its canvas, and its frame; see `read_canvas`."""
    if (pixels := getattr(sample, "pixels", None)) is None:
        return read_canvas(str(sample.path), canvas, sample.image_id, reduce=reduce)
    frame = frame_for(pixels.shape[:2], canvas, sample.image_id, sample.path)
    return place(pixels, frame, canvas), frame


class Canvases(ABC):
    """What a batch is made of -> its parts. Lives in the workers."""

    def __init__(self, dataset: Samples, canvas: CanvasConfig, *, reduce: bool) -> None:
        self.dataset, self.canvas, self.reduce = dataset, canvas, reduce

    def __getitem__(self, group: Group) -> tuple[Any, ...] | str:
        """The batch, or the text of an InputError: thrown through a worker it would grow into a page."""
        try:
            return self._batch([self.dataset[index] for index in group.indices], group)
        except InputError as error:
            return str(error)

    @abstractmethod
    def _batch(self, samples: Sequence[Any], group: Group) -> tuple[Any, ...]:
        """Images first, frames last."""

    def _one(self, sample: Any, group: Group, row: int) -> tuple[Picture, Frame]:
        """A canvas, the row-th of its batch, and its frame."""
        return canvas_of(sample, self.canvas, reduce=self.reduce)

    def _images(self, samples: Sequence[Any], group: Group) -> tuple[Tensor, tuple[Frame, ...]]:
        """(B, 3, H, W) uint8 and the frames."""
        # In large pages, see `warp.unfilled`.
        images = torch.from_numpy(np.empty((len(samples), 3, *self.canvas.size), np.uint8))
        frames = []
        for row, sample in enumerate(samples):
            image, frame = self._one(sample, group, row)
            if image.dtype == np.float32:
                image = np.rint(image).astype(np.uint8)
            cv2.split(image, list(images[row].numpy()))  # a sixth of the time that PyTorch's copy takes
            frames.append(frame)
        return images, tuple(frames)


class _BoxCanvases(Canvases):
    """For pictures with boxes."""

    def _batch(self, samples: Sequence[Any], group: Group) -> Parts:
        count, most = len(samples), max(len(sample.labels) for sample in samples)
        boxes = torch.zeros(count, most, 4)
        labels = torch.full((count, most), -1)
        ignore = torch.zeros(count, most, dtype=torch.bool)
        images, frames = self._images(samples, group)
        for row, (sample, frame) in enumerate(zip(samples, frames, strict=True)):
            n = len(sample.labels)
            boxes[row, :n] = frame.to_canvas(torch.from_numpy(np.asarray(sample.boxes, np.float32)))
            labels[row, :n] = torch.from_numpy(np.asarray(sample.labels, np.int64))
            ignore[row, :n] = torch.from_numpy(np.asarray(sample.crowd, np.bool_))
        return images, boxes, labels, ignore, frames


class Loader(Epochs[Batch]):
    """Pictures with boxes; see `Epochs`."""

    kind, work = Batch, _BoxCanvases


def _start_worker(workers: int, lock: Any, number: int) -> None:
    budget.share(workers, lock)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the main one then ends its workers
    sys.excepthook = lambda *_: None  # of the thread that hands tensors over, when the main process stops taking them
    cv2.setNumThreads(0)  # one worker, one core: threads inside it only get in each other's way
    tune_malloc()  # a worker that was forked has this from its parent, one that was spawned has not
