"""What runs a graph: one protocol, which each runtime answers in a module of its own.

B pictures
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Protocol

import torch
from torch import Tensor

from boxwright.errors import InputError

Run = Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]


class Backend(Protocol):
    """name: of the runtime. shape: of the first input, None where an axis may have any length. channels_last:
    whether pictures laid out that way spare it a copy."""

    name: str
    channels_last: bool
    shape: tuple[int | None, ...]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Tensors with B first, on the CPU in and out, floats as float32. B may be any number: a graph made for a
        fixed one is run as often as needed."""
        ...


@dataclass(frozen=True, slots=True)
class Running:
    """throughput: many pictures as soon as can be, for which OpenVINO looks at several at a time, each on fewer cores,
    and ONNX Runtime lets go of the cores between batches; without it one picture as soon as can be. bfloat16: compute
    in 16 bits where the processor has instructions for it. compile: torch.compile, which takes a minute before the
    first picture. The last two are refused by backends that have no such thing.
    """

    throughput: bool = False
    bfloat16: bool = False
    compile: bool = False

    def refuse(self, backend: str, *words: str) -> None:
        """InputError where one of `words` is asked for."""
        if wrong := [word for word in words if getattr(self, word)]:
            raise InputError(f"{', '.join(wrong)}: found with backend {backend}, which has none; leave it out")


def chunks(inputs: Sequence[Tensor], batch: int | None) -> list[tuple[Tensor, ...]]:
    """The inputs in parts of `batch` pictures, the last filled up with zeros; whole where `batch` is None."""
    count = len(inputs[0])
    if batch is None or batch == count:
        return [tuple(inputs)]
    parts = [tuple(one[start : start + batch] for one in inputs) for start in range(0, count, batch)]
    if missing := -count % batch:
        parts[-1] = tuple(torch.cat((one, one.new_zeros(missing, *one.shape[1:]))) for one in parts[-1])
    return parts


def joined(parts: Sequence[Sequence[Tensor]], count: int) -> tuple[Tensor, ...]:
    """The outputs of `chunks` for `count` pictures, floats as float32."""
    whole = (column[0] if len(column) == 1 else torch.cat(column) for column in map(list, zip(*parts, strict=True)))
    return tuple((one.float() if one.is_floating_point() else one)[:count] for one in whole)


def extra(module: str, name: str) -> ModuleType:
    """A module of the extra called `name`. Raises InputError where that is not installed."""
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


def first_line(error: BaseException) -> str:
    """What a runtime says of a file, short enough for one line: its longest story begins with its own source files."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return (said or lines or [type(error).__name__])[0][:160]
