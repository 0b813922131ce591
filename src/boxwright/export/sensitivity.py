"""How much the raw tensors of a network move when one of its layers computes in 8 bits, layer by layer, in PyTorch.

H x W canvas px, O channels out
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from boxwright.predict.loading import evaluating
from boxwright.progress import track

Raw = tuple[Tensor, ...]
Layer = nn.Conv2d | nn.Linear
TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Moved:
    """layer: its name in the network. by: root mean square of what its rounding changes in a raw tensor over that of
    the tensor itself; the mean of all raw tensors."""

    layer: str
    by: float


def sensitivity(model: nn.Module, images: Sequence[Tensor]) -> list[Moved]:
    """Every convolution and fully connected layer that the `images` (1, 3, H, W) reach, most sensitive first.

    Weights are rounded to -127..127 steps for each output channel, inputs to 0..255 steps between their least and
    largest number on these images: what an integer kernel does, without its saturation.
    """
    layers = {name: one for name, one in model.named_modules() if isinstance(one, Layer)}
    with _watched(layers) as ranges:
        wanted = _raw(model, images)
    found = []
    for name in track(ranges, len(ranges), "sensitivity", "layers"):
        with _rounded(layers[name], *ranges[name]):
            found.append(Moved(name, _gap(wanted, _raw(model, images))))
    return sorted(found, key=lambda one: -one.by)


def _raw(model: nn.Module, images: Sequence[Tensor]) -> list[Raw]:
    with evaluating(model):
        return [model(image) for image in images]


@contextmanager
def _watched(layers: dict[str, Layer]) -> Iterator[dict[str, tuple[float, float]]]:
    """Collects the least and largest number that enters each layer; 0 always lies between them."""
    ranges: dict[str, tuple[float, float]] = {}

    def watch(name: str, x: Tensor) -> None:
        low, high = ranges.get(name, (0.0, 0.0))
        ranges[name] = min(low, float(x.min())), max(high, float(x.max()))

    handles = [
        layer.register_forward_pre_hook(lambda _, given, name=name: watch(name, given[0]))
        for name, layer in layers.items()
    ]
    try:
        yield ranges
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _rounded(layer: Layer, low: float, high: float) -> Iterator[None]:
    """While open, `layer` has weights and inputs of 8 bits; `low` to `high` is the range of its inputs."""
    weight = layer.weight.data  # (O, ...)
    steps = weight.abs().flatten(1).amax(1).clamp(min=TINY) / 127
    step = max(high - low, TINY) / 255
    zero = round(-low / step)
    layer.weight.data = torch.fake_quantize_per_channel_affine(
        weight, steps, torch.zeros(len(steps), dtype=torch.int32), 0, -127, 127
    )
    handle = layer.register_forward_pre_hook(
        lambda _, given: (torch.fake_quantize_per_tensor_affine(given[0], step, zero, 0, 255), *given[1:])
    )
    try:
        yield
    finally:
        handle.remove()
        layer.weight.data = weight


def _gap(wanted: Sequence[Raw], found: Sequence[Raw]) -> float:
    """As `Moved.by` says, over all images."""
    shares: list[float] = []
    for ours, theirs in zip(zip(*wanted, strict=True), zip(*found, strict=True), strict=True):  # of each raw tensor
        gap = sum(float((one - other).double().square().mean()) for one, other in zip(ours, theirs, strict=True))
        size = sum(float(one.double().square().mean()) for one in ours)
        shares.append(math.sqrt(gap / max(size, TINY)))
    return sum(shares) / len(shares)
