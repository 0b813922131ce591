"""RoI align against the MindSpore zoo's own numbers, torchvision's kernel, and a ramp whose means are known."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from boxwright.ops.exported import export_operators
from boxwright.ops.roi_align import roi_align
from from_the_host import NoNumbersFromTheHost
from oracle_weights import ORACLES

STRIDES = (4, 8, 16, 32)


def made_maps(height: int = 160, width: int = 224, channels: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = [(height // stride, width // stride) for stride in STRIDES]
    return [torch.randn(2, channels, *size, generator=generator).requires_grad_() for size in sizes]


def made_boxes(count: int = 40) -> tuple[Tensor, Tensor]:
    """Of all sizes, some partly or wholly outside the image, some without size, the last ones zero: padding."""
    generator = torch.Generator().manual_seed(1)
    center = torch.rand(2, count, 2, generator=generator) * torch.tensor([320.0, 250.0]) - 50
    side = torch.exp(torch.rand(2, count, 2, generator=generator) * 6)
    boxes = torch.cat((center - side / 2, center + side / 2), -1)
    boxes[:, 0, 2:] = boxes[:, 0, :2]
    boxes[:, -2:] = 0
    return boxes, torch.randint(0, 4, (2, count), generator=generator)


def torchvision_roi_align(
    ops: ModuleType, maps: Sequence[Tensor], boxes: Tensor, level: Tensor, aligned: bool
) -> Tensor:
    every = [ops.roi_align(one, list(boxes), 7, 1 / stride, 2, aligned)
             for one, stride in zip(maps, STRIDES, strict=True)]  # fmt: skip
    chosen = torch.stack(every)[level.flatten(), torch.arange(level.numel())]
    return chosen.unflatten(0, level.shape)


def largest(values: Tensor) -> float:
    return values.detach().abs().max().item()


@pytest.mark.parametrize("stride", [4, 8])
def test_matches_the_zoo(stride: int) -> None:
    oracle = np.load(ORACLES / "faster_rcnn_dcn" / "components.npz")
    maps, rows, wanted = (torch.from_numpy(oracle[f"roi.{key}"]) for key in ("feature", "rois", f"out.stride{stride}"))
    image, boxes = rows[:, 0].long(), rows[None, :, 1:].expand(2, -1, -1)
    level = torch.zeros(boxes.shape[:2], dtype=torch.int64)
    found = roi_align([maps], boxes, level, [stride], aligned=False, plus_one=True)
    torch.testing.assert_close(found[image, torch.arange(len(rows))], wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("aligned", [False, True])
def test_matches_torchvision(aligned: bool, last: bool, torchvision_ops: ModuleType) -> None:
    maps, (boxes, level) = made_maps(), made_boxes()
    given = [one.contiguous(memory_format=torch.channels_last) for one in maps] if last else maps
    found = roi_align(given, boxes, level, STRIDES, aligned=aligned, plus_one=False)
    wanted = torchvision_roi_align(torchvision_ops, maps, boxes, level, aligned)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * largest(wanted))
    probe = torch.randn_like(wanted)
    gradients = [torch.autograd.grad((one * probe).sum(), maps) for one in (found, wanted)]
    for ours, theirs in zip(*gradients, strict=True):
        assert largest(theirs) > 0
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * largest(theirs))


@pytest.mark.parametrize("aligned", [False, True])
def test_one_pixel_maps_match_torchvision(aligned: bool, torchvision_ops: ModuleType) -> None:
    maps, (boxes, level) = made_maps(32, 32), made_boxes()
    found = roi_align(maps, boxes, level, STRIDES, aligned=aligned, plus_one=False)
    torch.testing.assert_close(
        found, torchvision_roi_align(torchvision_ops, maps, boxes, level, aligned), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("plus_one", [False, True])
@pytest.mark.parametrize("aligned", [False, True])
def test_bins_of_a_ramp_equal_their_center_positions(aligned: bool, plus_one: bool) -> None:
    rows, columns = torch.meshgrid(torch.arange(20.0), torch.arange(30.0), indexing="ij")
    ramp = torch.stack((rows, columns))[None]
    boxes = torch.tensor([[[16.0, 24, 72, 38], [33, 17, 33.5, 17.25]]])
    found = roi_align([ramp], boxes, torch.zeros(1, 2, dtype=torch.int64), [4], aligned=aligned, plus_one=plus_one)
    for box, values in zip(boxes[0].tolist(), found[0], strict=True):
        for axis, name in ((1, "row"), (0, "column")):
            begin, end = box[axis] / 4, (box[axis + 2] + plus_one) / 4
            side = max(end - begin, 1) if not aligned and not plus_one else end - begin
            centers = begin - 0.5 * aligned + (torch.arange(7) + 0.5) / 7 * side
            wanted = centers[:, None].expand(7, 7) if name == "row" else centers.expand(7, 7)
            torch.testing.assert_close(values[1 - axis], wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("plus_one", [False, True])
@pytest.mark.parametrize("aligned", [False, True])
def test_zero_boxes_are_finite_and_no_boxes_give_no_rows(aligned: bool, plus_one: bool) -> None:
    maps = made_maps()
    nothing = torch.zeros(2, 5, 4), torch.zeros(2, 5, dtype=torch.int64)
    found = roi_align(maps, *nothing, STRIDES, aligned=aligned, plus_one=plus_one)
    found.sum().backward()
    assert found.isfinite().all()
    assert all(one.grad is not None and one.grad.isfinite().all() for one in maps)
    none = roi_align(maps, nothing[0][:, :0], nothing[1][:, :0], STRIDES, aligned=aligned, plus_one=plus_one)
    assert none.shape == (2, 0, 3, 7, 7)
    none.sum().backward()


def test_nan_and_infinite_boxes_stay_in_bounds() -> None:
    boxes, level = made_boxes(3)
    for wrong in (float("nan"), float("inf"), -1e30):
        assert roi_align(
            made_maps(), torch.full_like(boxes, wrong), level, STRIDES, aligned=True, plus_one=False
        ).numel()


def test_gradients_match_finite_differences() -> None:
    maps = [torch.randn(2, 1, size, size + 1, dtype=torch.float64).requires_grad_() for size in (4, 2)]
    boxes, level = torch.tensor([[[1.0, 2, 11, 13]], [[3, 1, 20, 9]]]).double(), torch.tensor([[0], [1]])
    call = lambda *given: roi_align(given, boxes, level, (4, 8), aligned=True, plus_one=False)  # noqa: E731
    assert torch.autograd.gradcheck(call, maps)


def test_boxes_get_no_gradient() -> None:
    boxes, level = made_boxes()
    boxes.requires_grad_()
    roi_align(made_maps(), boxes, level, STRIDES, aligned=True, plus_one=False).sum().backward()
    assert boxes.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_maps(dtype: torch.dtype) -> None:
    maps, (boxes, level) = made_maps(), made_boxes()
    wanted = roi_align(maps, boxes, level, STRIDES, aligned=True, plus_one=False)
    found = roi_align([one.type(dtype) for one in maps], boxes, level, STRIDES, aligned=True, plus_one=False)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), wanted, rtol=0, atol=0.02 * largest(wanted))
    found.float().sum().backward()


def test_no_host_synchronization() -> None:
    maps, (boxes, level) = made_maps(), made_boxes()
    with NoNumbersFromTheHost():
        roi_align(maps, boxes, level, STRIDES, aligned=False, plus_one=True).sum().backward()


@pytest.mark.slow
def test_export_with_and_without_the_custom_operator() -> None:
    class Part(nn.Module):
        def forward(self, *given: Any) -> Tensor:
            return roi_align(given[:4], given[4], given[5], STRIDES, aligned=True, plus_one=False)

    given = (*(one.detach() for one in made_maps()), *made_boxes())
    with export_operators("roi_align"):
        program = torch.export.export(Part(), given, strict=False)
    assert "boxwright.roi_align.default" in [str(node.target) for node in program.graph.nodes]
    program = torch.export.export(Part(), given, strict=False)
    torch.testing.assert_close(program.module()(*given), Part()(*given), rtol=0, atol=1e-5)
