"""Comparison of an exported file's raw outputs with PyTorch's.

B images, P proposals of two-stage detectors
"""

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor

from boxwright.export.parity_limits import LIMITS, Limits, mutual_nearest
from boxwright.json_text import JsonObject
from boxwright.nn.network import is_two_stage
from boxwright.predict.inputs import Image
from boxwright.predict.predictor import AnyPredictor
from boxwright.types import Detector


def compare_raw(ours: AnyPredictor, theirs: AnyPredictor, images: Sequence[Image], limits: Limits) -> list[JsonObject]:
    """For each output in order: name, largest relative difference, and its image.

    Images run in batches of two, so that dynamic batch sizes are tested.
    """
    names = cast(Detector, ours.model).raw_names
    two_stage = is_two_stage(ours.model)
    rows: dict[str, JsonObject] = {}
    for start in range(0, len(images), 2):
        prepared = [ours.preprocess(image) for image in images[start : start + 2]]
        outputs = ours.forward(prepared).tensors, theirs.forward(prepared).tensors
        for i in range(len(prepared)):
            expected, actual = ([output[i : i + 1] for output in tensors] for tensors in outputs)
            for name, worst, shape in differences(names, expected, actual, limits, two_stage):
                if name not in rows or not worst <= rows[name]["worst"]:
                    rows[name] = {"name": name, "worst": worst, "image": start + i, "shape": shape}
    return list(rows.values())


def differences(
    names: Sequence[str], ours: Sequence[Tensor], theirs: Sequence[Tensor], limits: Limits, two_stage: bool = False
) -> Iterator[tuple[str, float, list[int]]]:
    """(name, largest difference relative to the largest absolute value of ours, shape) of each output.

    The difference is infinite if shapes differ or a value is NaN. two_stage: the rows are proposals in no fixed order.
    """
    if two_stage and ours[0].shape == theirs[0].shape:
        ours, theirs = paired(ours, theirs, limits)
    for name, expected, actual in zip(names, ours, theirs, strict=True):
        shape = list(actual.shape)
        if expected.shape != actual.shape:
            yield name, float("inf"), shape
            continue
        if not expected.numel():  # neither has a proposal
            yield name, 0.0, shape
            continue
        difference = (expected.double() - actual.double()).abs().max()
        largest = expected.double().abs().max().clamp(min=1e-12)
        yield name, float((difference / largest).nan_to_num(nan=float("inf"))), shape


def paired(
    ours: Sequence[Tensor], theirs: Sequence[Tensor], limits: Limits = LIMITS["float32"]
) -> tuple[list[Tensor], list[Tensor]]:
    """Match the rows of a two-stage detector's outputs (B, P, ...), so that both have the same order.

    Proposals are sorted by objectness, so rounding can swap two of them, and can change which of a pair NMS keeps.
    Unmatched rows are dropped, unless there are too many: then all outputs are returned unchanged.
    """
    boxes, others = ours[0][0], theirs[0][0]
    distance = torch.cdist(boxes, others, p=torch.inf, compute_mode="donot_use_mm_for_euclid_dist")
    distance = distance + (~(ours[-1][0][:, None] & theirs[-1][0][None])) * 1e9  # the last output masks valid rows
    row, column = mutual_nearest(distance)
    matched = distance[row, column] <= limits.raw * boxes.abs().max()
    if matched.sum() < limits.proposals * max(int(ours[-1].sum()), int(theirs[-1].sum())):
        return list(ours), list(theirs)
    row, column = row[matched], column[matched]
    return [output[:, row] for output in ours], [output[:, column] for output in theirs]
