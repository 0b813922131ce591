"""Sensitivity of each layer to INT8: the change of the raw outputs when it alone is quantized, in PyTorch.

H x W canvas px, O output channels
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
EPS = 1e-12


@dataclass(frozen=True, slots=True)
class LayerSensitivity:
    """Sensitivity of a layer.

    Attributes:
        layer: Its name in the network.
        change: RMS change of a raw output when the layer is quantized, relative to the RMS of the output; the mean over
            all outputs.
    """

    layer: str
    change: float


def sensitivity(model: nn.Module, images: Sequence[Tensor]) -> list[LayerSensitivity]:
    """The sensitivity of every convolution and fully connected layer that is used, most sensitive first.

    Weights are quantized per output channel to -127..127, inputs to 0..255 over their range on these images, as in an
    integer kernel, but without its saturation.

    Args:
        model: The network.
        images: Its inputs, (1, 3, H, W) each.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, Layer)}
    with _observe_ranges(layers) as ranges:
        expected = _raw_outputs(model, images)
    results = []
    for name in track(ranges, len(ranges), "sensitivity", "layers"):
        with _fake_quantized(layers[name], *ranges[name]):
            results.append(LayerSensitivity(name, _relative_change(expected, _raw_outputs(model, images))))
    return sorted(results, key=lambda result: -result.change)


def _raw_outputs(model: nn.Module, images: Sequence[Tensor]) -> list[Raw]:
    with evaluating(model):
        return [model(image) for image in images]


@contextmanager
def _observe_ranges(layers: dict[str, Layer]) -> Iterator[dict[str, tuple[float, float]]]:
    """Record the minimum and maximum input of each layer, including 0."""
    ranges: dict[str, tuple[float, float]] = {}

    def observe(name: str, x: Tensor) -> None:
        low, high = ranges.get(name, (0.0, 0.0))
        ranges[name] = min(low, float(x.min())), max(high, float(x.max()))

    handles = [
        layer.register_forward_pre_hook(lambda _, inputs, name=name: observe(name, inputs[0]))
        for name, layer in layers.items()
    ]
    try:
        yield ranges
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _fake_quantized(layer: Layer, low: float, high: float) -> Iterator[None]:
    """Quantize weights and inputs of `layer` to 8 bits in this context; low, high: the range of its inputs."""
    weight = layer.weight.data  # (O, ...)
    steps = weight.abs().flatten(1).amax(1).clamp(min=EPS) / 127
    step = max(high - low, EPS) / 255
    zero = round(-low / step)
    layer.weight.data = torch.fake_quantize_per_channel_affine(
        weight, steps, torch.zeros(len(steps), dtype=torch.int32), 0, -127, 127
    )
    handle = layer.register_forward_pre_hook(
        lambda _, inputs: (torch.fake_quantize_per_tensor_affine(inputs[0], step, zero, 0, 255), *inputs[1:])
    )
    try:
        yield
    finally:
        handle.remove()
        layer.weight.data = weight


def _relative_change(expected: Sequence[Raw], actual: Sequence[Raw]) -> float:
    """`LayerSensitivity.change` over all images."""
    changes: list[float] = []
    for ours, theirs in zip(zip(*expected, strict=True), zip(*actual, strict=True), strict=True):  # of each output
        change = sum(float((a - b).double().square().mean()) for a, b in zip(ours, theirs, strict=True))
        total = sum(float(output.double().square().mean()) for output in ours)
        changes.append(math.sqrt(change / max(total, EPS)))
    return sum(changes) / len(changes)
