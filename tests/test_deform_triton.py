"""The Triton kernel of deformable convolutions, in Triton's interpreter (conftest.py); test_cuda.py runs it on a GPU.

Plain PyTorch, the reference here, is itself compared with torchvision's kernel and the zoo's numbers in test_deform.py.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from boxwright.nn.deform import DeformConv2d
from boxwright.ops import deform
from boxwright.ops.deform import Sampling, deform_conv
from test_deform import SAMPLINGS, Inputs, assert_same, with_gradients

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="test_cuda.py runs the compiled kernel")
Call = Callable[..., Tensor]


@pytest.fixture(autouse=True)
def large_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter takes as long for 64 samples as for one."""
    monkeypatch.setattr("boxwright.ops.deform_triton.SAMPLES", 64)


@pytest.fixture
def in_triton(monkeypatch: pytest.MonkeyPatch) -> Call:
    """`deform_conv` as on a GPU with the kernel."""

    def call(*given: object) -> Tensor:
        with monkeypatch.context() as patch:
            patch.setattr(deform, "deform_kernel", lambda device: "triton")
            return deform_conv(*given)  # type: ignore[arg-type]

    return call


def made(stride: int, reach: float, channels: int = 3, dtype: torch.dtype = torch.float32) -> Inputs:
    """A map of 5 x 4 px with these channels. reach: px, the deviation of offsets."""
    draw = torch.Generator().manual_seed(stride)
    h, w = (3, 2) if stride == 2 else (5, 4)
    shapes = (2, channels, 5, 4), (2, 18, h, w), (2, 9, h, w), (2, channels, 3, 3)
    x, offset, mask, weight = (torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes)
    return tuple(part.to(dtype) for part in (x, offset * reach, mask.sigmoid(), weight))  # type: ignore[return-value]


@pytest.mark.parametrize(("stride", "reach", "channels"), [(1, 0.0, 3), (1, 1.5, 3), (2, 1.5, 70), (2, 9.0, 3)])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_output_and_gradients_match_plain_torch(
    sampling: Sampling, stride: int, reach: float, channels: int, in_triton: Call
) -> None:
    """Also for positions outside the map, and for more channels than fit one block, the last of which is not full."""
    inputs = made(stride, reach, channels)
    wanted = with_gradients(lambda *given: deform_conv(*given, stride, sampling), inputs)
    assert_same(with_gradients(lambda *given: in_triton(*given, stride, sampling), inputs), wanted)
    last = inputs[0].contiguous(memory_format=torch.channels_last), *inputs[1:]
    assert_same(with_gradients(lambda *given: in_triton(*given, stride, sampling), last), wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_half_precision_is_close_to_float32(sampling: Sampling, dtype: torch.dtype, in_triton: Call) -> None:
    inputs = made(1, 1.5, 3, dtype)
    wanted = with_gradients(
        lambda *given: deform_conv(*given, 1, sampling), tuple(part.float() for part in inputs)  # type: ignore[arg-type]
    )  # fmt: skip
    found = with_gradients(lambda *given: in_triton(*given, 1, sampling), inputs)
    for name, one, other in zip(("output", "map", "offset", "mask", "weight"), found, wanted, strict=True):
        assert one.dtype == dtype
        assert float((one.float() - other).abs().max()) < 0.02 * float(other.abs().max()), name


def test_bfloat16_keeps_fractions_of_large_positions(in_triton: Call) -> None:
    """A quarter pixel right of column 128, which bfloat16 cannot distinguish from the column."""
    x = torch.zeros(1, 1, 1, 141, dtype=torch.bfloat16)
    x[..., ::2] = 1  # so that a quarter past an even column reads 0.75, past an odd one 0.25
    offset, mask = torch.zeros(1, 18, 1, 141, dtype=x.dtype), torch.ones(1, 9, 1, 141, dtype=x.dtype)
    offset[:, 9:] = 0.25
    weight = torch.zeros(1, 1, 3, 3, dtype=x.dtype)
    weight[..., 1, 1] = 1
    out = in_triton(x, offset, mask, weight, 1, "standard")
    assert out[0, 0, 0, :-1].tolist() == [0.75, 0.25] * 70


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # of NumPy, in the interpreter
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -1e30])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_invalid_offsets_stay_within_bounds(sampling: Sampling, wrong: float, in_triton: Call) -> None:
    x, offset, mask, weight = made(2, 1.0)
    out = in_triton(x, torch.full_like(offset, wrong), mask, weight, 2, sampling)
    if wrong == -1e30:
        wanted = deform_conv(x, torch.full_like(offset, wrong), mask, weight, 2, sampling)
        torch.testing.assert_close(out, wanted, rtol=0, atol=1e-5)
    elif sampling == "standard":
        assert out.isnan().all()


def test_empty_batch(in_triton: Call) -> None:
    inputs = [part[:0] for part in made(2, 1.0)[:3]]
    assert in_triton(*inputs, made(2, 1.0)[3], 2, "zoo").shape == (0, 2, 3, 2)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_compiled_layer_is_one_graph(sampling: Sampling, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deform, "deform_kernel", lambda device: "triton")
    torch.manual_seed(0)
    layer, x = DeformConv2d(3, 2, 2, sampling), torch.randn(1, 3, 5, 4)
    torch.nn.init.normal_(layer.offset.weight, std=0.2)
    wanted, compiled = layer(x), torch.compile(layer, backend="aot_eager", fullgraph=True)
    probe = torch.randn(wanted.shape)
    gradients = [torch.autograd.grad((out * probe).sum(), list(layer.parameters())) for out in (compiled(x), wanted)]
    for found, other in zip(*gradients, strict=True):
        torch.testing.assert_close(found, other, rtol=0, atol=1e-5)
