"""Raw outputs of an exported file compared with PyTorch's.

B images, P proposals of two-stage detectors
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from boxwright.export.parity_limits import LIMITS, Limits, mutual_nearest
from boxwright.predict.inputs import Image
from boxwright.predict.predictor import AnyPredictor


def compare_raw(
    ours: AnyPredictor, theirs: AnyPredictor, images: Sequence[Image], limits: Limits
) -> list[dict[str, Any]]:
    """For each output in order: name, worst difference as a share of PyTorch's largest number, on which image.

    Two images pass at a time, so that a file for any number of them has to take more than one.
    """
    names: tuple[str, ...] = ours.model.raw_names  # type: ignore[assignment]
    rows: dict[str, dict[str, Any]] = {}
    for start in range(0, len(images), 2):
        prepared = [ours.preprocess(image) for image in images[start : start + 2]]
        outputs = ours.forward(prepared).tensors, theirs.forward(prepared).tensors
        for i in range(len(prepared)):
            one, other = ([output[i : i + 1] for output in tensors] for tensors in outputs)
            for name, worst, shape in differences(names, one, other, limits):
                if name not in rows or not worst <= rows[name]["worst"]:
                    rows[name] = {"name": name, "worst": worst, "image": start + i, "shape": shape}
    return list(rows.values())


def differences(
    names: Sequence[str], ours: Sequence[Tensor], theirs: Sequence[Tensor], limits: Limits
) -> Iterator[tuple[str, float, list[int]]]:
    """(name, largest difference as a share of the largest number of ours, shape) of each output; infinite where the
    shapes differ or something is no number."""
    if "proposals" in names and ours[0].shape == theirs[0].shape:
        ours, theirs = paired(ours, theirs, limits)
    for name, one, other in zip(names, ours, theirs, strict=True):
        shape = list(other.shape)
        if one.shape != other.shape:
            yield name, float("inf"), shape
            continue
        if not one.numel():  # neither has a proposal
            yield name, 0.0, shape
            continue
        gap = (one.double() - other.double()).abs().max()
        largest = one.double().abs().max().clamp(min=1e-12)
        yield name, float((gap / largest).nan_to_num(nan=float("inf"))), shape


def paired(
    ours: Sequence[Tensor], theirs: Sequence[Tensor], limits: Limits = LIMITS["float32"]
) -> tuple[list[Tensor], list[Tensor]]:
    """Rows of the outputs of a two-stage detector (B, P, ...), put into one order.

    Proposals stand by objectness, where two may swap that differ by less than rounding, and a pair may do so at the
    threshold of suppression. Those without a partner are left out, unless they are too many: then all stay as they are.
    """
    boxes, others = ours[0][0], theirs[0][0]
    rows = torch.cdist(boxes, others, p=torch.inf, compute_mode="donot_use_mm_for_euclid_dist")
    rows = rows + (~(ours[-1][0][:, None] & theirs[-1][0][None])) * 1e9  # the last output says which rows are valid
    here, there = mutual_nearest(rows)
    near = rows[here, there] <= limits.raw * boxes.abs().max()
    if near.sum() < limits.proposals * max(int(ours[-1].sum()), int(theirs[-1].sum())):
        return list(ours), list(theirs)
    here, there = here[near], there[near]
    return [one[:, here] for one in ours], [one[:, there] for one in theirs]
