"""Runtime: runs a network on batches. Each supported library has a subclass.

B images
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import torch
from torch import Tensor

from boxwright.errors import InputError
from boxwright.extras import first_line
from boxwright.runtimes.base.streams import in_stream, stream_count, stream_pool

Inputs = tuple[Tensor, ...]

MAX_NUMEL = 1 << 29  # numbers of an input, 2 GB as float32; 64 images of 1024 x 1024 px are less than half of it


class Runtime(ABC):
    """A network, ready to run. Thread-safe: any number of threads may call it concurrently.

    Attributes:
        name: Name of the library.
        channels_last: Whether images in channels-last layout save a copy.
        shape: Shape of the first input; None for an axis of any length.
        streams: Number of parts of a batch that run in parallel, each on an equal share of the cores.
        pool: Threads of the streams; None for one stream.
        source: The exported file; None for weights.
        check: Function that raises InputError for outputs that do not fit the file's metadata.
    """

    name: str
    channels_last: bool
    source: Path | None = None
    check: Callable[[Inputs, Sequence[Tensor]], None] | None = None

    def __init__(self, shape: tuple[int | None, ...], streams: int = 1) -> None:
        self.shape = shape
        self.streams = streams
        self.pool = stream_pool(streams) if streams > 1 else None
        self._lock = Lock()

    @abstractmethod
    def run(self, inputs: Inputs) -> Sequence[Tensor]:
        """Run one batch of the graph's size. Tensors are on the CPU, except for torch on an accelerator."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run B images, divided among the streams unless the caller is a stream.

        Args:
            inputs: Tensors with B first. B may be any number: a graph of fixed batch size is run repeatedly.

        Returns:
            The outputs with B first, floats as float32.
        """
        streams = 1 if in_stream() else self.streams
        return joined(self.each(chunks(inputs, self.shape[0], streams)), len(inputs[0]))

    def each(self, parts: Sequence[Inputs]) -> list[Sequence[Tensor]]:
        """The outputs of `run` for each part; parts may differ in size.

        Raises:
            InputError: An exported file cannot be run on these inputs, or `check` raises it.
        """
        if self.pool is None:
            with self._lock:
                return [self._run_checked(part) for part in parts]
        return list((map if in_stream() else self.pool.map)(self._run_checked, parts))

    def _run_checked(self, part: Inputs) -> Sequence[Tensor]:
        try:
            outputs = self.run(part)
        except Exception as error:  # any exception of the library, or of an operator in a program
            if self.source is None or isinstance(error, InputError):
                raise
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in part)
            raise InputError(f"{self.source}: cannot be run on inputs of {shapes} ({first_line(error)})") from error
        if self.check is not None:
            self.check(part, outputs)
        return outputs


@dataclass(frozen=True, slots=True)
class RuntimeOptions:
    """Options for running a network.

    Attributes:
        batch_size: Largest number of images at a time. With 1, all cores of a CPU work on one image, for latency; with
            more, cores are divided among images, for throughput.
        fuse: Run a copy with batch norm fused into the convolutions, which is faster, but ignores hooks on the network
            and later changes of it.
        bfloat16: Compute in bfloat16, which needs processor support. Rejected by runtimes without it.
        compile: Use torch.compile, which takes a minute before the first image. Rejected by runtimes without it.
        trust: Also run a TorchScript file, which can execute any code.
    """

    batch_size: int = 1
    fuse: bool = False
    bfloat16: bool = False
    compile: bool = False
    trust: bool = False

    def streams(self, step: int | None = None) -> int:
        """Number of streams for a batch that is run `step` images at a time; None for 1."""
        return stream_count(self.batch_size // (step or 1))

    def reject_unsupported(self, runtime: str, *options: str) -> None:
        """Raise InputError if one of `options`, which `runtime` does not support, is set."""
        if wrong := [option for option in options if getattr(self, option)]:
            raise InputError(f"{', '.join(wrong)}: found with backend {runtime}, which has none; leave it out")


def chunks(inputs: Sequence[Tensor], batch: int | None, streams: int = 1) -> list[Inputs]:
    """Split inputs into parts of `batch` images, the last padded with zeros; if `batch` is None, into one part per
    stream, of nearly equal size and never empty."""
    count = len(inputs[0])
    if batch is None:
        return list(zip(*(tensor.tensor_split(max(1, min(streams, count))) for tensor in inputs), strict=True))
    parts = [tuple(tensor[start : start + batch] for tensor in inputs) for start in range(0, count, batch)]
    if missing := -count % batch:
        if batch * inputs[0][0].numel() > MAX_NUMEL:
            raise InputError(f"the file takes {batch} images at a time, too many of {tuple(inputs[0].shape[1:])}")
        parts[-1] = tuple(torch.cat((tensor, tensor.new_zeros(missing, *tensor.shape[1:]))) for tensor in parts[-1])
    return parts


def joined(parts: Sequence[Sequence[Tensor]], count: int) -> tuple[Tensor, ...]:
    """Concatenate the outputs of `chunks` for `count` images, floats as float32."""
    outputs = (column[0] if len(column) == 1 else torch.cat(column) for column in map(list, zip(*parts, strict=True)))
    return tuple((output.float() if output.is_floating_point() else output)[:count] for output in outputs)
