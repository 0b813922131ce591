"""Operators of `ops.exported` in ONNX, as functions that onnxscript calls with values of the graph.

B images, C classes, G groups, N boxes of a group, R boxes per image, I input and O output channels,
H x W and h x w maps.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from onnxscript import opset20 as op

Value = Any  # value of the graph: onnxscript has no narrower type
BOOL = 9  # ONNX's code for bool


def table() -> dict[Callable[..., object], Callable[..., object]]:
    """Operator -> translation, for PyTorch's exporter."""
    ops = torch.ops.boxwright
    return {ops.nms.default: _nms, ops.roi_align.default: _roi_align, ops.deform_conv.default: _deform_conv}


def _nms(boxes: Value, scores: Value, iou: float, threshold: float) -> Value:
    """boxes (G, N, 4), scores (G, C, N) -> (G, C, N) bool. The operator returns kept (group, class, box)."""
    count = op.Shape(scores, start=2, end=3)  # limit of kept boxes per class: all
    above = []
    if threshold > -math.inf:  # our scores are >= threshold, the operator's > threshold
        above.append(float(np.nextafter(np.float32(threshold), np.float32(-math.inf))))
    found = op.NonMaxSuppression(boxes, scores, count, iou, *above)
    nothing = op.Expand(0, op.Shape(scores))
    return op.Cast(op.ScatterND(nothing, found, op.Expand(1, op.Shape(found, start=0, end=1))), to=BOOL)


def _roi_align(maps: Sequence[Value], boxes: Value, level: Value, bins: int, samples: int) -> Value:
    """maps (B, I, h, w) each, boxes (B, R, 4), level (B, R) -> (B, R, I, bins, bins), one operator for each level."""
    of_box = op.Unsqueeze(_up_to(op.Shape(boxes, start=0, end=1)), [1])
    image = op.Reshape(op.Expand(of_box, op.Shape(level)), [-1])
    flat, level = op.Reshape(boxes, [-1, 4]), op.Reshape(level, [-1])
    indices, parts = [], []
    for number, features in enumerate(maps):
        index = op.Squeeze(op.NonZero(op.Equal(level, number)), [0])
        indices.append(index)
        parts.append(
            op.RoiAlign(
                features, op.Gather(flat, index), op.Gather(image, index), output_height=bins, output_width=bins,
                sampling_ratio=samples, coordinate_transformation_mode="half_pixel", mode="avg",
            )
        )  # fmt: skip
    order = op.Concat(*indices, axis=0)
    back = op.ScatterElements(order, order, _up_to(op.Shape(order)))
    out = op.Gather(op.Concat(*parts, axis=0), back)
    return op.Reshape(out, op.Concat(op.Shape(boxes, start=0, end=2), op.Shape(out, start=1), axis=0))


def _deform_conv(x: Value, offset: Value, mask: Value, weight: Value, stride: int) -> Value:
    """x (B, I, H, W), offset (B, 18, h, w), mask (B, 9, h, w), weight (O, I, 3, 3) -> (B, O, h, w)."""
    return op.DeformConv(
        x, weight, offset, None, mask, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[stride, stride]
    )


def _up_to(count: Value) -> Value:
    """(1,) -> 0 to count - 1."""
    return op.Range(op.Constant(value_int=0), op.Squeeze(count, [0]), op.Constant(value_int=1))
