"""Deformable convolution against the MindSpore zoo's own numbers, torchvision's kernel, and ordinary operators."""

import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright.nn.deform import DeformConv2d
from boxwright.ops import deform, kernels
from boxwright.ops.deform import Sampling, deform_conv
from boxwright.ops.exported import export_operators
from from_the_host import NoNumbersFromTheHost
from oracle_weights import ORACLES

ORACLE = ORACLES / "faster_rcnn_dcn" / "deform_conv.npz"
SAMPLINGS = ("standard", "zoo")
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]  # map, offset, mask, weight


def made(height: int, width: int, stride: int, reach: float, dtype: torch.dtype = torch.float32) -> Inputs:
    """reach: px, the deviation of offsets."""
    generator = torch.Generator().manual_seed(height * 100 + width)
    h, w = math.ceil(height / stride), math.ceil(width / stride)
    shapes = (2, 5, height, width), (2, 18, h, w), (2, 9, h, w), (4, 5, 3, 3)
    x, offset, mask, weight = (torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes)
    return x, offset * reach, mask.sigmoid(), weight


def through_kernel(inputs: Inputs, stride: int, sampling: Sampling) -> Tensor:
    """Needs the fixture `torchvision_ops`."""
    x, offset, mask, weight = inputs
    return deform.in_torchvision(x, deform._shift(x, offset, stride, sampling), mask, weight, stride)


def pairs(offset: Tensor) -> Tensor:
    """Vertical and horizontal block -> (row, column) pairs, as torchvision wants them."""
    return torch.stack((offset[:, :9], offset[:, 9:]), 2).flatten(1, 2)


def with_gradients(call: Any, inputs: Inputs) -> list[Tensor]:
    leaves = [one.detach().requires_grad_() for one in inputs]  # detach keeps the memory format
    out: Tensor = call(*leaves)
    draw = torch.Generator().manual_seed(1)  # whose numbers depend on the type that is asked for
    probe = torch.randn(out.shape, generator=draw, dtype=torch.float64).to(out.dtype)
    return [out.detach(), *torch.autograd.grad((out * probe).sum(), leaves)]


def assert_same(found: list[Tensor], wanted: list[Tensor]) -> None:
    for name, one, other in zip(("output", "map", "offset", "mask", "weight"), found, wanted, strict=True):
        assert one.shape == other.shape
        limit = 1e-5 * max(float(other.abs().max()), 1e-3)
        assert float((one - other).abs().max()) <= limit, name


@pytest.mark.parametrize("name", ["s1", "s2", "s1far", "zero"])
def test_zoo_sampling_matches_zoo(name: str, torchvision_ops: ModuleType) -> None:
    oracle = np.load(ORACLE)
    arrays = {key: torch.from_numpy(oracle[f"{name}.{key}"]) for key in ("input", "offset", "mask", "output")}
    weights = {ours: torch.from_numpy(oracle[f"{name}.{theirs}.weight"]) for ours, theirs in
               (("weight", "conv"), ("offset.weight", "p_conv"), ("mask.weight", "m_conv"))}  # fmt: skip
    layer = DeformConv2d(6, 8, int(oracle[f"{name}.stride"]), "zoo")
    layer.load_state_dict(weights)
    x, wanted = arrays["input"], arrays["output"]
    with torch.no_grad():
        torch.testing.assert_close(layer.offset(x), arrays["offset"], rtol=0, atol=2e-5)
        torch.testing.assert_close(layer.mask(x).sigmoid(), arrays["mask"], rtol=0, atol=2e-6)
        torch.testing.assert_close(layer(x), wanted, rtol=0, atol=1e-5)
    inputs = x, arrays["offset"], arrays["mask"], weights["weight"]
    torch.testing.assert_close(through_kernel(inputs, layer.stride, "zoo"), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_initial_layer_is_half_an_ordinary_convolution(stride: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 9, 12)
    for sampling, padded in (("standard", F.pad(x, (1, 1, 1, 1))), ("zoo", F.pad(x, (0, 2, 0, 2), mode="replicate"))):
        layer = DeformConv2d(6, 8, stride, sampling)  # type: ignore[arg-type]
        wanted = 0.5 * F.conv2d(padded, layer.weight, stride=stride)
        torch.testing.assert_close(layer(x), wanted, rtol=0, atol=1e-5)
        assert {name for name, _ in layer.named_parameters()} == {"weight", "offset.weight", "mask.weight"}
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / (8 * 9)), rel=0.15)  # 432 numbers


@pytest.mark.parametrize("reach", [0.0, 0.7, 30.0])
@pytest.mark.parametrize("stride", [1, 2])
def test_standard_sampling_matches_torchvision(stride: int, reach: float, torchvision_ops: ModuleType) -> None:
    def theirs(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
        out: Tensor = torchvision_ops.deform_conv2d(x, pairs(offset), weight, stride=stride, padding=1, mask=mask)
        return out

    inputs = made(9, 12, stride, reach)
    ours = with_gradients(lambda *given: deform_conv(*given, stride, "standard"), inputs)
    assert_same(ours, with_gradients(theirs, inputs))


@pytest.mark.parametrize("reach", [0.7, 30.0])
@pytest.mark.parametrize("stride", [1, 2])
def test_zoo_sampling_matches_grid_sample_with_border_padding(stride: int, reach: float) -> None:
    """grid_sample takes positions from -1 to 1 and has its own clamp."""
    height, width = 9, 12

    def theirs(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
        h, w = offset.shape[2:]
        rows = torch.arange(h)[:, None] * stride + torch.arange(3).repeat_interleave(3)[:, None, None] + offset[:, :9]
        columns = torch.arange(w) * stride + torch.arange(3).repeat(3)[:, None, None] + offset[:, 9:]
        at = torch.stack((2 * columns / (width - 1) - 1, 2 * rows / (height - 1) - 1), -1).flatten(1, 2)
        read = F.grid_sample(x, at, padding_mode="border", align_corners=True).unflatten(2, (9, h))
        return torch.einsum("bckhw,bkhw,ock->bohw", read, mask, weight.flatten(2))

    inputs = made(height, width, stride, reach, torch.float64)
    ours = with_gradients(lambda *given: deform_conv(*given, stride, "zoo"), inputs)
    assert_same(ours, with_gradients(theirs, inputs))


@pytest.mark.parametrize("reach", [0.0, 0.7, 30.0])
@pytest.mark.parametrize(("height", "width", "stride"), [(9, 12, 1), (9, 12, 2), (1, 1, 1), (1, 7, 1), (6, 1, 2)])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_torchvision_kernel_and_plain_torch_are_equal(
    sampling: Sampling, height: int, width: int, stride: int, reach: float, torchvision_ops: ModuleType
) -> None:
    inputs = made(height, width, stride, reach)
    plain = with_gradients(lambda *given: deform_conv(*given, stride, sampling), inputs)
    kernel = with_gradients(lambda *given: through_kernel(given, stride, sampling), inputs)
    assert all(one.isfinite().all() for one in plain)
    assert_same(plain, kernel)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_memory_format_does_not_change_results(sampling: Sampling) -> None:
    inputs = made(9, 12, 1, 2.0)
    wanted = with_gradients(lambda *given: deform_conv(*given, 1, sampling), inputs)
    last = [one.contiguous(memory_format=torch.channels_last) for one in inputs]
    spread = [one.repeat_interleave(2, -1)[..., ::2] for one in inputs]
    for x, offset, mask, weight in (last, spread):
        found = with_gradients(lambda *given: deform_conv(*given, 1, sampling), (x, offset, mask, weight))
        assert_same(found, wanted)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_gradients_match_finite_differences(sampling: Sampling) -> None:
    inputs = [one[:1].requires_grad_() for one in made(4, 5, 2, 1.5, torch.float64)]
    assert torch.autograd.gradcheck(lambda *given: deform_conv(*given, 2, sampling), inputs)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_gradient_at_whole_pixels_is_the_forward_difference(sampling: Sampling) -> None:
    """Where a training starts: no offset, and with the zoo's sampling whole rows of samples on the border."""
    x, offset, mask, weight = made(4, 5, 1, 0.0, torch.float64)
    offset.requires_grad_()
    step = torch.rand(offset.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    before, after = (deform_conv(x, at, mask, weight, 1, sampling).sum() for at in (offset, offset + 1e-6 * step))
    (gradient,) = torch.autograd.grad(before, offset)
    assert (gradient * step).sum().item() == pytest.approx((after - before).item() / 1e-6, rel=1e-4)


def test_clamped_positions_have_zero_gradient() -> None:
    x, offset, mask, weight = made(6, 6, 1, 0.0)
    offset = (offset + 40).requires_grad_()
    deform_conv(x, offset, mask, weight, 1, "zoo").square().sum().backward()
    assert offset.grad is not None
    assert not offset.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("path", ["plain", "kernel"])
def test_half_precision_keeps_fractions_of_large_positions(
    path: str, dtype: torch.dtype, torchvision_ops: ModuleType
) -> None:
    """A quarter pixel right of column 700 or so, which these types cannot distinguish from the column."""
    x = torch.zeros(1, 1, 1, 1001, dtype=dtype)
    x[..., ::2] = 1  # so that a quarter past an even column reads 0.75, past an odd one 0.25
    offset = torch.zeros(1, 18, 1, 1001, dtype=dtype)
    offset[:, 9:] = 0.25
    weight = torch.zeros(1, 1, 3, 3, dtype=dtype)
    weight[..., 1, 1] = 1
    inputs = x, offset, torch.ones(1, 9, 1, 1001, dtype=dtype), weight
    out = deform_conv(*inputs, 1, "standard") if path == "plain" else through_kernel(inputs, 1, "standard")
    assert out.dtype == dtype
    assert out[0, 0, 0, :-1].tolist() == [0.75, 0.25] * 500


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_mixed_precision_has_finite_gradients(sampling: Sampling) -> None:
    torch.manual_seed(0)
    layer = DeformConv2d(8, 8, 1, sampling)
    x = torch.randn(2, 8, 10, 12, requires_grad=True)
    wanted = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x * 1)
    (found.float() * wanted.detach()).sum().backward()
    torch.testing.assert_close(found.float(), wanted, rtol=0, atol=0.02 * wanted.abs().max().item())
    assert all(one.grad is not None and one.grad.isfinite().all() for one in (x, *layer.parameters()))
    assert layer.offset.weight.grad.any()  # type: ignore[union-attr]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -1e30])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_invalid_offsets_stay_within_bounds(sampling: Sampling, wrong: float) -> None:
    """On a GPU an index beyond the table would end the process."""
    x, offset, mask, weight = made(5, 5, 1, 1.0)
    out = deform_conv(x, torch.full_like(offset, wrong), mask, weight, 1, sampling)
    assert out.shape == (2, 4, 5, 5)
    if math.isnan(wrong):
        assert out.isnan().all()


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_no_host_synchronization(sampling: Sampling) -> None:
    layer, x = DeformConv2d(4, 4, 2, sampling), torch.randn(2, 4, 9, 12)
    with NoNumbersFromTheHost():
        layer(x).sum().backward()


def test_empty_batch() -> None:
    assert DeformConv2d(4, 6, 2, "zoo")(torch.zeros(0, 4, 8, 10)).shape == (0, 6, 4, 5)


@pytest.mark.slow
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_export_uses_operators_of_its_format(sampling: Sampling) -> None:
    torch.manual_seed(0)
    layer = DeformConv2d(6, 8, 2, sampling).eval()
    torch.nn.init.normal_(layer.offset.weight, std=0.2)
    x = torch.randn(2, 6, 9, 12)
    for known, operator in ((("grid_sample",), "grid_sampler"), ((), "embedding_bag")):
        with export_operators(*known):
            program = torch.export.export(layer, (x,), strict=False)
        assert [node for node in program.graph.nodes if operator in str(node.target)]
        torch.testing.assert_close(program.module()(x), layer(x), rtol=0, atol=1e-5)
    with export_operators("deform_conv"):
        program = torch.export.export(layer, (x,), strict=False)
    assert "boxwright.deform_conv.default" in [str(node.target) for node in program.graph.nodes]


@pytest.mark.slow
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_cuda_uses_the_torchvision_kernel(
    sampling: Sampling, torchvision_ops: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `torch.compile` in one graph."""
    inputs = made(9, 12, 2, 2.0)
    wanted = with_gradients(lambda *given: deform_conv(*given, 2, sampling), inputs)
    assert [kernels.deform_kernel(device) for device in ("cpu", "cuda")] == [None, "torchvision"]
    monkeypatch.setattr(deform, "deform_kernel", lambda device: kernels.deform_kernel("cuda"))
    used, kernel = [], deform.in_torchvision
    monkeypatch.setattr(deform, "in_torchvision", lambda *given: used.append(1) or kernel(*given))  # type: ignore[func-returns-value]
    assert_same(with_gradients(lambda *given: deform_conv(*given, 2, sampling), inputs), wanted)
    assert used
    torch._dynamo.reset()
    compiled = torch.compile(deform_conv, backend="aot_eager", fullgraph=True)
    assert_same(with_gradients(lambda *given: compiled(*given, 2, sampling), inputs), wanted)


def test_cuda_works_without_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "torchvision_ops", lambda: None)
    assert kernels.deform_kernel("cuda") is None
    monkeypatch.setattr(kernels, "_preferred", "torchvision")  # and back afterwards
    kernels.prefer_deform_kernel("triton")
    monkeypatch.setattr(kernels, "triton_module", lambda: None)
    assert kernels.deform_kernel("cuda") is None
    monkeypatch.setattr(kernels, "triton_module", lambda: kernels)
    assert [kernels.deform_kernel(device) for device in ("cpu", "cuda")] == [None, "triton"]


def test_incompatible_torchvision_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    assert kernels.torchvision_ops.__wrapped__() is None  # beside the cache, which other tests share
