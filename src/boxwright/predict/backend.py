"""What runs a graph: one class, which each runtime fills in a module of its own.

B pictures
"""

import importlib
import os
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from threading import Barrier, Lock
from types import ModuleType

import torch
from torch import Tensor

from boxwright.errors import InputError, printable

Inputs = tuple[Tensor, ...]

LARGEST = 1 << 29  # numbers of an input, 2 GB as float32; 64 pictures of 1024 x 1024 px are less than half of that
MOST_LANES = 8  # one for each picture of a usual batch
_thread = threading.local()  # has `is_lane` in the threads of `Backend.pool`


class Backend(ABC):
    """name: of the runtime. channels_last: whether pictures laid out that way spare it a copy.

    shape: of the first input, None where an axis may have any length. lanes: how many parts are looked at beside each
    other, each by its share of the cores; pool: the threads for it, None for one lane. Any number of other threads may
    ask at once.
    """

    name: str
    channels_last: bool
    source: Path | None = None  # the exported file
    check: Callable[[Inputs, Sequence[Tensor]], None] | None = None  # raises InputError for outputs that are no answers

    def __init__(self, shape: tuple[int | None, ...], lanes: int = 1) -> None:
        self.shape = shape
        self.lanes = lanes
        self.pool = _threads(lanes) if lanes > 1 else None
        self._alone = Lock()

    @abstractmethod
    def run(self, inputs: Inputs) -> Sequence[Tensor]:
        """Of as many pictures as the graph takes, on the CPU in and out, but for torch on an accelerator."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Tensors with B first, floats as float32. B may be any number: a graph made for a fixed one is run as often as
        needed. The lanes share the pictures, unless it is one of them that asks."""
        lanes = 1 if _is_lane() else self.lanes
        return joined(self.each(chunks(inputs, self.shape[0], lanes)), len(inputs[0]))

    def each(self, parts: Sequence[Inputs]) -> list[Sequence[Tensor]]:
        """What `run` gives of each of the parts, which may differ in size. Raises InputError where an exported file
        cannot be run on them, and where `check` does."""
        if self.pool is None:
            with self._alone:
                return [self._answer(part) for part in parts]
        return list((map if _is_lane() else self.pool.map)(self._answer, parts))

    def _answer(self, part: Inputs) -> Sequence[Tensor]:
        try:
            found = self.run(part)
        except Exception as error:  # of a runtime, which has classes of its own, or of an operator in a program
            if self.source is None or isinstance(error, InputError):
                raise
            shapes = ", ".join(str(tuple(one.shape)) for one in part)
            raise InputError(f"{self.source}: cannot be run on inputs of {shapes} ({first_line(error)})") from error
        if self.check is not None:
            self.check(part, found)
        return found


def _is_lane() -> bool:
    return getattr(_thread, "is_lane", False)


def _threads(count: int) -> ThreadPoolExecutor:
    """`count` lanes, in each of which PyTorch has its share of the threads it has here."""
    before, begun = torch.get_num_threads(), Barrier(count + 1)

    def begin() -> None:
        torch.get_num_threads()  # the first question in a thread sets the process's number there
        torch.set_num_threads(max(1, before // count))
        _thread.is_lane = True
        begun.wait()

    pool = ThreadPoolExecutor(count, initializer=begin)
    for _ in range(count):
        pool.submit(int)
    begun.wait()
    torch.set_num_threads(before)  # it is also the process's number, for threads that are yet to come
    return pool


@dataclass(frozen=True, slots=True)
class Running:
    """How a network is run.

    Attributes:
        pictures: How many come at a time, a batch at most. All cores of a CPU work on one, for latency; among several
            they are shared out, for throughput.
        fuse: Run weights as a copy with batch norm inside the convolutions, which is faster, and which hooks on the
            network and edits of it do not reach.
        bfloat16: Compute in 16 bits, where the processor has instructions for it.
        compile: torch.compile, which takes a minute before the first picture. This one and the one before are refused
            by backends that have no such thing.
        trust: Also run a TorchScript file, which is a program that may do anything that this process may.
    """

    pictures: int = 1
    fuse: bool = False
    bfloat16: bool = False
    compile: bool = False
    trust: bool = False

    def lanes(self, step: int | None = None) -> int:
        """Among how many parts of `step` pictures, None for 1, the cores of a CPU are shared out: the most that leave
        no core and no part out."""
        cores, parts = torch.get_num_threads(), self.pictures // (step or 1)
        return max(lanes for lanes in range(1, MOST_LANES + 1) if cores % lanes == 0 and lanes <= max(1, parts))

    def refuse(self, backend: str, *words: str) -> None:
        """InputError where one of `words` is asked for."""
        if wrong := [word for word in words if getattr(self, word)]:
            raise InputError(f"{', '.join(wrong)}: found with backend {backend}, which has none; leave it out")


def chunks(inputs: Sequence[Tensor], batch: int | None, lanes: int = 1) -> list[Inputs]:
    """The inputs in parts of `batch` pictures, the last filled up with zeros; where `batch` is None, in one part for
    each of the lanes, as equal as can be and none of them empty."""
    count = len(inputs[0])
    if batch is None:
        return list(zip(*(one.tensor_split(max(1, min(lanes, count))) for one in inputs), strict=True))
    parts = [tuple(one[start : start + batch] for one in inputs) for start in range(0, count, batch)]
    if missing := -count % batch:
        if batch * inputs[0][0].numel() > LARGEST:
            raise InputError(f"the file takes {batch} pictures at a time, too many of {tuple(inputs[0].shape[1:])}")
        parts[-1] = tuple(torch.cat((one, one.new_zeros(missing, *one.shape[1:]))) for one in parts[-1])
    return parts


def joined(parts: Sequence[Sequence[Tensor]], count: int) -> tuple[Tensor, ...]:
    """The outputs of `chunks` for `count` pictures, floats as float32."""
    whole = (column[0] if len(column) == 1 else torch.cat(column) for column in map(list, zip(*parts, strict=True)))
    return tuple((one.float() if one.is_floating_point() else one)[:count] for one in whole)


def silence_telemetry() -> None:
    """Have OpenVINO, NNCF and ONNX Runtime, if imported after this, send nothing to their makers.

    Unasked, the first two report each import and each call, and ONNX Runtime a process of more than some seconds; all
    three write an identifier of the user into the home folder. OpenVINO and NNCF go on without the module that does it.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # importing it is an ImportError now
    os.environ.setdefault("NNCF_CI", "1")  # for whoever imported that module before us
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def extra(module: str, name: str) -> ModuleType:
    """A module of the extra called `name`, its telemetry silenced. Raises InputError where that is not installed."""
    silence_telemetry()
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"{module} is not installed (or not for this machine: {str(error).partition(chr(10))[0]}); "
            f"pip install 'boxwright[{name}]'"
        ) from error


def no_picture(file: Path) -> InputError:
    """For a model whose first input has not four axes, or one with an input of other numbers than pictures have."""
    return InputError(f"{file}: does not take pictures as our networks do; needed a file written by `boxwright export`")


def check_input(file: Path, shape: Sequence[int | None]) -> None:
    """Raises InputError for a file whose first input, of `shape`, is nothing or more than can be meant: runtimes take
    memory for it when they open a file. None is an axis that may have any length."""
    if any(side is not None and type(side) is not int for side in shape):
        raise no_picture(file)
    fixed = [side for side in shape if side is not None]
    if any(side < 1 for side in fixed) or prod(fixed) > LARGEST:
        found = " x ".join("any" if side is None else str(side) for side in shape)
        raise InputError(f"{file}: takes inputs of {found}, needed at least 1 and at most {LARGEST:,} numbers")


def first_line(error: BaseException) -> str:
    """What a runtime says of a file, short enough for one line: its longest story begins with its own source files."""
    if isinstance(error, UnicodeDecodeError):  # OpenVINO quotes a damaged file's bytes
        return "its message is no text; the file is damaged"
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return printable((said or lines or [""])[0][:160]) or type(error).__name__
