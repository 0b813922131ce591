"""Darknet's .weights files: a header, then the weights of every layer in the order of the network.

A convolution is stored as biases, [scales, means, variances where it has batch norm,] weights (out, in, k, k), all
little-endian float32; a fully connected layer has its weights (out, in) after the biases. The models here declare
their modules in that order, so iterating over modules gives the order of the file.

Darknet adds 1e-5 to a variance before taking the square root. If a model has another epsilon, variances are changed by
the difference when they are read or written, so that outputs stay the same.
"""

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from boxwright.config import MAX_CLASSES, RGB, ModelConfig
from boxwright.errors import InputError
from boxwright.files import atomic_write
from boxwright.nn.darknet_layers import EPS, Connected, Norm, Shortcut
from boxwright.recipe import Recipe
from boxwright.weights import names
from boxwright.weights.files import require
from boxwright.weights.fit import is_optional
from boxwright.weights.shapes import without_memory

NORM_ORDER = ("bias", "weight", "running_mean", "running_var")
Layer = list[tuple[str, torch.Size]]  # (name, shape) of its tensors, in file order
TRANSPOSED = 1000  # a major or minor version above means fully connected weights (in, out)
HIGHEST = 2000  # versions are below this


@dataclass(frozen=True)
class Header:
    """Header: version, and number of training images that the network has seen."""

    major: int = 0
    minor: int = 2
    revision: int = 5
    seen: int = 0

    @property
    def layout(self) -> str:
        """`seen` is 64 bits wide from version 0.2 on, 32 before (Darknet's parser.c)."""
        return "<iiiQ" if self.major * 10 + self.minor >= 2 else "<iiiI"

    @property
    def transposed(self) -> bool:
        """Whether weights of fully connected layers are stored (in, out)."""
        return max(self.major, self.minor) > TRANSPOSED

    def to_bytes(self) -> bytes:
        return struct.pack(self.layout, self.major, self.minor, self.revision, self.seen)


def layers(model: nn.Module) -> list[Layer]:
    """Layers of `model` that have weights, in file order; a convolution without bias is followed by its batch norm.

    Other kinds of layers of .cfg files are recognized by their classes (`nn/darknet_layers.py`).
    """
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    kinds = nn.Conv2d | nn.BatchNorm2d | Connected | Shortcut
    modules = [(name, each) for name, each in model.named_modules() if isinstance(each, kinds)]
    result = []
    for index, (name, module) in enumerate(modules):
        if isinstance(module, nn.Conv2d):
            norm = modules[index + 1][0] if module.bias is None else ""
            keys = [f"{norm}.{leaf}" for leaf in NORM_ORDER] if norm else [f"{name}.bias"]
            keys.append(f"{name}.weight")
        elif isinstance(module, Connected):
            bias, *others = [f"{name}.norm.{leaf}" for leaf in NORM_ORDER]
            weight = f"{name}.linear.weight"
            keys = [f"{name}.linear.bias", weight] if module.linear.bias is not None else [bias, weight, *others]
        elif isinstance(module, Norm):
            keys = [f"{name}.{leaf}" for leaf in NORM_ORDER]
        elif isinstance(module, Shortcut) and module.weights is not None:
            keys = [f"{name}.weights"]
        else:
            continue
        result.append([(key, shapes[key]) for key in keys])
    return result


def count(plan: list[Layer]) -> int:
    """Count of numbers that these layers take in a file."""
    return sum(shape.numel() for layer in plan for _, shape in layer)


def read_header(stream: BinaryIO, path: Path) -> Header:
    """Read the header; `stream` is then at the first weight."""
    start = stream.read(12)
    if len(start) < 12:
        raise InputError(f"{path}: holds {len(start)} bytes, a Darknet header takes 16 or 20; the file is truncated")
    major, minor, revision = struct.unpack("<iii", start)
    if not (0 <= major < HIGHEST and 0 <= minor < HIGHEST and revision >= 0):
        raise InputError(f"{path}: not a Darknet weights file (it would be version {major}.{minor}.{revision})")
    layout = "<Q" if Header(major, minor).layout.endswith("Q") else "<I"
    rest = stream.read(struct.calcsize(layout))
    if len(rest) < struct.calcsize(layout):
        raise InputError(f"{path}: ends inside its header; the file is truncated")
    return Header(major, minor, revision, struct.unpack(layout, rest)[0])


def read_start(stream: BinaryIO, path: Path) -> tuple[Header, int]:
    """Read the header and leave `stream` at the first weight; also how many numbers follow."""
    header = read_header(stream, path)
    found, odd = divmod(path.stat().st_size - stream.tell(), 4)
    if odd:
        raise InputError(f"{path}: ends inside a number ({odd} bytes too many); the file is truncated")
    return header, found


def read(path: Path, model: nn.Module, recipe: Recipe, *, transfer: bool = False) -> dict[str, Tensor]:
    """Tensors of a .weights file by the model's names.

    Args:
        path: The file.
        model: Built from `recipe.model`.
        recipe: Recipe of the model, with its classes and the classifier that its backbone comes from.
        transfer: The file may also be a truncated backbone, which ends after any convolution; or have another number of
            classes, with heads of the corresponding shapes; or be the classifier that the backbone comes from, whose
            last layer is left out.

    Raises:
        InputError: The file is truncated, too long, or of another network.
    """
    plan = layers(model)
    with require(path).open("rb") as stream:
        header, found = read_start(stream, path)
        connected = {f"{name}.linear.weight" for name, each in model.named_modules() if isinstance(each, Connected)}
        if header.transposed and not connected:
            version = f"{header.major}.{header.minor}.{header.revision}"
            raise InputError(f"{path}: version {version} is of networks with [connected] layers, this one has none")
        plan = _plan_for(found, plan, recipe.model, path, transfer)
        numbers = np.fromfile(stream, "<f4", found)
    if len(numbers) != found:
        raise InputError(f"{path}: {len(numbers):,} of {found:,} numbers could be read")
    tensors = _cut_up(torch.from_numpy(numbers.astype(np.float32, copy=False)), plan)
    for name in connected & tensors.keys() if header.transposed else ():
        tensors[name] = tensors[name].reshape(tensors[name].shape[::-1]).mT
    for name, more in _epsilons(model).items():
        if name in tensors:
            tensors[name] = tensors[name] - more
    return tensors


def write(path: str | Path, model: nn.Module, *, header: Header | None = None, convolutions: int | None = None) -> None:
    """Write `model` as .weights, or only its first `convolutions` as a truncated backbone, atomically.

    Raises InputError for a network with parameters that the format cannot store.
    """
    state, plan = model.state_dict(), layers(model)
    for name, more in _epsilons(model).items():
        state[name] = state[name] + more
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


def _epsilons(model: nn.Module) -> dict[str, float]:
    """Difference of a model's epsilon from Darknet's, by the name of the variance that it is added to."""
    norms = ((name, each) for name, each in model.named_modules() if isinstance(each, nn.BatchNorm2d))
    return {f"{name}.running_var": each.eps - EPS for name, each in norms if each.eps != EPS}


def _cut_up(numbers: Tensor, plan: list[Layer]) -> dict[str, Tensor]:
    tensors, at = {}, 0
    for layer in plan:
        for name, shape in layer:
            tensors[name] = numbers[at : at + shape.numel()].view(shape)
            at += shape.numel()
    return tensors


def _plan_for(found: int, plan: list[Layer], config: ModelConfig, path: Path, transfer: bool) -> list[Layer]:
    """Layers that a file of `found` numbers holds; with transfer also a backbone only, or other classes.

    If a file does not fit a model with other channels, it is treated as one for RGB.
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
            raise InputError(
                f"{line}; that is {classes} classes against {config.classes}; --set model.classes={classes} --set "
                "'data.names=[]', or --transfer for all but the heads"
            )
        return _of_classes(config, classes)
    origin = names.of(config).classifier()
    if origin is not None and (classes := _classes(found, origin)) is not None:
        if not transfer:
            raise InputError(f"{line}; it is a classifier of {classes} classes (--transfer loads its backbone)")
        return _of_classes(origin, classes)
    return _cut(found, plan, line, transfer)


def _cut(found: int, plan: list[Layer], line: str, transfer: bool) -> list[Layer]:
    """The first layers of `plan`, which take `found` numbers together."""
    left, needed = found, count(plan)
    for done, layer in enumerate(plan):
        size = count([layer])
        if left < size:
            if left:
                position = f"inside {_place(plan, done)} ({left:,} of {size:,} numbers)"
                raise InputError(f"{line}; it ends {position}: truncated or of another network")
            if not done:
                raise InputError(f"{line}; it ends after its header, so it is truncated")
            if not transfer:
                shortfall = f"{needed - found:,} too few after {_place(plan, done - 1)}"
                raise InputError(
                    f"{line}; it is a cut with {done} of {len(plan)} convolutions, {shortfall} (--transfer loads it)"
                )
            return plan[:done]
        left -= size
    raise InputError(f"{line}; {left:,} are left over after {_place(plan, -1)}, so it is of another network")


def _place(plan: list[Layer], number: int) -> str:
    """Description of a layer for messages; layers of a .cfg have Darknet's numbers in their names."""
    match = re.match(r"layers\.(\d+)\.", plan[number][0][0])
    return f"layer {match[1]} of the .cfg" if match else f"convolution {number % len(plan) + 1} of {len(plan)}"


def _classes(found: int, config: ModelConfig) -> int | None:
    """Number of classes with which the network has `found` weights, a linear function of the classes."""
    try:
        with_1, with_2 = (count(_of_classes(config, classes)) for classes in (1, 2))
    except InputError:  # classes of this .cfg cannot be set
        return None
    classes, odd = divmod(found - with_1, with_2 - with_1)
    return classes + 1 if 0 <= classes < MAX_CLASSES and not odd else None


def _of_classes(config: ModelConfig, classes: int) -> list[Layer]:
    """Layers of the network of a model's `config` for another number of classes."""
    return layers(without_memory(config.model_copy(update={"classes": classes})))
