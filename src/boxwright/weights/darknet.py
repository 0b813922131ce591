"""Darknet's .weights files: a header, then the numbers of every convolution in the order of the network.

A convolution is stored as biases, [scales, means, variances where it has batch norm,] weights (out, in, k, k), all
little-endian float32. The models here declare their modules in that order, so walking them gives the file.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from boxwright.config import RGB, ModelConfig
from boxwright.errors import InputError
from boxwright.files import atomic_write
from boxwright.recipe import Recipe
from boxwright.weights import names
from boxwright.weights.files import require
from boxwright.weights.fit import is_optional
from boxwright.weights.shapes import without_memory

NORM_ORDER = ("bias", "weight", "running_mean", "running_var")
Layer = list[tuple[str, torch.Size]]  # one convolution: (name, shape) of its tensors, in file order


@dataclass(frozen=True)
class Header:
    """Version, and how many training images the network has seen."""

    major: int = 0
    minor: int = 2
    revision: int = 5
    seen: int = 0

    @property
    def layout(self) -> str:
        """`seen` is 64 bits wide from version 0.2 on, 32 before (Darknet's parser.c)."""
        return "<iiiQ" if self.major * 10 + self.minor >= 2 else "<iiiI"

    def to_bytes(self) -> bytes:
        return struct.pack(self.layout, self.major, self.minor, self.revision, self.seen)


def layers(model: nn.Module) -> list[Layer]:
    """The convolutions of `model` in file order; one without bias is followed by its batch norm."""
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    modules = [(name, each) for name, each in model.named_modules() if isinstance(each, nn.Conv2d | nn.BatchNorm2d)]
    result = []
    for index, (name, module) in enumerate(modules):
        if not isinstance(module, nn.Conv2d):
            continue
        norm = modules[index + 1][0] if module.bias is None else ""
        keys = [f"{norm}.{leaf}" for leaf in NORM_ORDER] if norm else [f"{name}.bias"]
        result.append([(key, shapes[key]) for key in (*keys, f"{name}.weight")])
    return result


def count(plan: list[Layer]) -> int:
    """Numbers that these convolutions take in a file."""
    return sum(shape.numel() for layer in plan for _, shape in layer)


def read_header(stream: BinaryIO, path: Path) -> Header:
    """Read the header and leave `stream` at the first weight."""
    start = stream.read(12)
    if len(start) < 12:
        raise InputError(f"{path}: holds {len(start)} bytes, a Darknet header takes 16 or 20; the file is truncated")
    major, minor, revision = struct.unpack("<iii", start)
    # From 1000 on Darknet means transposed fully connected layers, which no detector has.
    if not (0 <= major < 1000 and 0 <= minor < 1000 and revision >= 0):
        raise InputError(f"{path}: not a Darknet weights file (it would be version {major}.{minor}.{revision})")
    layout = "<Q" if Header(major, minor).layout.endswith("Q") else "<I"
    rest = stream.read(struct.calcsize(layout))
    if len(rest) < struct.calcsize(layout):
        raise InputError(f"{path}: ends inside its header; the file is truncated")
    return Header(major, minor, revision, struct.unpack(layout, rest)[0])


def read(path: Path, model: nn.Module, recipe: Recipe, *, transfer: bool = False) -> dict[str, Tensor]:
    """The tensors of a .weights file under the model's names.

    Args:
        path: The file.
        model: Built from `recipe.model`.
        recipe: Says for which classes, and from which classifier the backbone comes.
        transfer: The file may also be a cut backbone, which ends after any convolution, or hold another number of
            classes; its heads then have the shapes of its own classes. Or it is the classifier that the backbone comes
            from, whose last layer is then left out.

    Raises:
        InputError: When the file is truncated, too long, or of another network.
    """
    plan = layers(model)
    with require(path).open("rb") as stream:
        read_header(stream, path)
        found, odd = divmod(path.stat().st_size - stream.tell(), 4)
        if odd:
            raise InputError(f"{path}: ends inside a number ({odd} bytes too many); the file is truncated")
        plan = _plan_for(found, plan, recipe.model, path, transfer)
        numbers = np.fromfile(stream, "<f4", found)
    if len(numbers) != found:
        raise InputError(f"{path}: {len(numbers):,} of {found:,} numbers could be read")
    return _cut_up(torch.from_numpy(numbers.astype(np.float32, copy=False)), plan)


def write(path: str | Path, model: nn.Module, *, header: Header | None = None, convolutions: int | None = None) -> None:
    """Write `model` as .weights, or a cut backbone of its first `convolutions`; whole or not at all.

    Raises InputError for a network with numbers that such a file has no place for.
    """
    state, plan = model.state_dict(), layers(model)
    stored = {name for layer in plan for name, _ in layer}
    if others := [name for name in state if name not in stored and not is_optional(name)]:
        raise InputError(
            f"{path}: Darknet's files hold convolutions and their batch norm, not {others[0]} and {len(others) - 1} "
            "others of this network; export YOLOv3, YOLOv4 or a classifier, or take another format"
        )
    with atomic_write(path) as tmp, tmp.open("wb") as stream:
        stream.write((header or Header()).to_bytes())
        for layer in plan[:convolutions]:
            for name, _ in layer:
                stream.write(state[name].detach().cpu().to(torch.float32).contiguous().numpy().astype("<f4").tobytes())


def _cut_up(numbers: Tensor, plan: list[Layer]) -> dict[str, Tensor]:
    tensors, at = {}, 0
    for layer in plan:
        for name, shape in layer:
            tensors[name] = numbers[at : at + shape.numel()].view(shape)
            at += shape.numel()
    return tensors


def _plan_for(found: int, plan: list[Layer], config: ModelConfig, path: Path, transfer: bool) -> list[Layer]:
    """The convolutions that a file of `found` numbers holds; with transfer also a backbone, or other classes.

    A file that does not fit a model of other channels is one of RGB.
    """
    needed = count(plan)
    if found == needed:
        return plan
    if config.input_channels != RGB:
        of_rgb = config.model_copy(update={"input_channels": RGB})
        return _plan_for(found, layers(without_memory(of_rgb)), of_rgb, path, transfer)
    line = f"{path} holds {found:,} numbers, the model takes {needed:,}"
    if (classes := _classes(found, config)) is not None:
        if not transfer:
            own = config.classes
            raise InputError(f"{line}; that is {classes} classes against {own} (--transfer loads all but the heads)")
        return _of_classes(config, classes)
    origin = names.of(config).classifier()
    if origin is not None and (classes := _classes(found, origin)) is not None:
        if not transfer:
            raise InputError(f"{line}; it is a classifier of {classes} classes (--transfer loads its backbone)")
        return _of_classes(origin, classes)
    return _cut(found, plan, line, transfer)


def _cut(found: int, plan: list[Layer], line: str, transfer: bool) -> list[Layer]:
    """The first convolutions of `plan`, which take `found` numbers."""
    left = found
    for done, layer in enumerate(plan):
        size = count([layer])
        if left < size:
            if left:
                position = f"inside convolution {done + 1} of {len(plan)} ({left:,} of {size:,} numbers)"
                raise InputError(f"{line}; it ends {position}, so it is truncated or of another network")
            if not transfer:
                raise InputError(f"{line}; it is a cut with {done} of {len(plan)} convolutions (--transfer loads it)")
            return plan[:done]
        left -= size
    raise InputError(f"{line}; {left:,} are left over, so it is of another network")


def _classes(found: int, config: ModelConfig) -> int | None:
    """The number of classes with which the network takes `found` numbers, which is linear in the classes."""
    with_1, with_2 = (count(_of_classes(config, classes)) for classes in (1, 2))
    classes, odd = divmod(found - with_1, with_2 - with_1)
    return classes + 1 if classes >= 0 and not odd else None


def _of_classes(config: ModelConfig, classes: int) -> list[Layer]:
    """The convolutions of the network of a model's `config` for other classes."""
    return layers(without_memory(config.model_copy(update={"classes": classes})))
