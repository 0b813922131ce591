"""Darknet's loss of [yolo] and [Gaussian_yolo] heads: gradients against a loop over cells."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from boxwright.ops import iou
from boxwright.ops.boxes import cxcywh_to_xyxy
from darknet_loop import KINDS, MASKS, Keys, batch_of_truths, cfg, deltas, detector, overlap
from from_the_host import NoNumbersFromTheHost

COUNTS = "counters_per_class=40,10,5\n"  # multipliers 1, 4 and 8


def assert_gradients_match_darknet(text: str, keys: Keys, seed: int = 4) -> np.ndarray:
    """-> all gradients of boxes."""
    model = detector(text)
    model.check_trainable()
    draw = torch.Generator().manual_seed(seed)
    channels = 12 if keys.gaussian else 8
    numbers = [torch.randn(2, len(mask), channels, h, w, generator=draw, dtype=torch.float64) * 0.7
               for mask, (h, w) in zip(MASKS, ((4, 6), (8, 12)), strict=True)]  # fmt: skip
    expected = deltas([each.numpy() for each in numbers], keys)
    leaves = [each.float().flatten(1, 2).requires_grad_() for each in numbers]
    raw = tuple(leaf.sigmoid() if keys.new_coords else leaf for leaf in leaves)
    batch = batch_of_truths()
    with NoNumbersFromTheHost():
        terms = model.loss_of_raw(raw, batch)
    assert set(terms) == {"box", "objectness", "classes"} | ({"uncertainty"} if keys.gaussian else set())
    gradients = torch.autograd.grad(torch.stack(list(terms.values())).sum(), leaves)
    for gradient, level in zip(gradients, expected, strict=True):
        ours = -2 * gradient.view(level.shape).numpy()  # the mean of two images, and the way down
        np.testing.assert_allclose(ours, level, rtol=2e-3, atol=2e-5)
    return np.concatenate([level[:, :, : 8 if keys.gaussian else 4].ravel() for level in expected])


@pytest.mark.parametrize(
    ("kind", "new", "limit"),
    [
        ("mse", False, 1e9),
        *((kind, *rest) for kind in KINDS[1:] for rest in ((False, 1e9), (False, 0.05), (True, 0.05))),
    ],
)
def test_yolo_gradients_match_darknet_loop(kind: str, new: bool, limit: float) -> None:
    """Two heads of three and two anchors, with masks in no order and values of their own."""
    extra = f"iou_loss={kind}\nmax_delta={limit}\nlabel_smooth_eps=.1\n" + "new_coords=1\n" * new
    keys = Keys(kind, limit=limit, new_coords=new, label_smoothing=0.1)
    largest = np.abs(assert_gradients_match_darknet(cfg(extra=extra, last="logistic" if new else "linear"), keys)).max()
    assert largest <= limit
    assert largest == pytest.approx(limit) or new or limit > 1


@pytest.mark.parametrize(
    ("extra", "keys"),
    [
        ("", Keys()),
        ("max_delta=.3\nuc_normalizer=.4\n", Keys(limit=0.3, uc_normalizer=0.4)),
        ("iou_loss=giou\nuc_normalizer=2\nlabel_smooth_eps=.1\n",
         Keys("giou", uc_normalizer=2.0, label_smoothing=0.1)),
        (f"iou_loss=ciou\nmax_delta=9\n{COUNTS}cls_normalizer=.5\ntruth_thresh=.35\n",
         Keys("ciou", limit=9.0, multipliers=(1, 4, 8), cls_normalizer=0.5, truth_thresh=0.35)),
    ],
)  # fmt: skip
def test_gaussian_gradients_match_darknet_loop(extra: str, keys: Keys) -> None:
    found = assert_gradients_match_darknet(cfg(extra=extra, kind="Gaussian_yolo"), replace(keys, gaussian=True))
    assert keys.limit > 1 or np.abs(found).max() == pytest.approx(keys.limit)


@pytest.mark.parametrize(
    ("extra", "second", "keys"),
    [
        (f"{COUNTS}cls_normalizer=.5\niou_loss=giou\n", "",
         Keys("giou", multipliers=(1, 4, 8), cls_normalizer=0.5)),
        (f"{COUNTS}max_delta=3\niou_loss=ciou\n", "", Keys("ciou", multipliers=(1, 3, 3), limit=3.0)),
        ("iou_loss=iou\n", "objectness_smooth=1\n", Keys("iou", smooth=(False, True))),
        (f"objectness_smooth=1\n{COUNTS}", "", Keys(smooth=(True, True), multipliers=(1, 4, 8))),
        (f"truth_thresh=.3\n{COUNTS}", "", Keys(truth_thresh=0.3, multipliers=(1, 4, 8))),
        ("truth_thresh=.3\nobjectness_smooth=1\n", "", Keys(truth_thresh=0.3, smooth=(True, True))),
        ("label_smooth_eps=.1\n", "focal_loss=1\n", Keys(label_smoothing=0.1, focal=(False, True))),
        ("iou_thresh_kind=giou\n", "", Keys(thresh_kind="giou")),
        ("iou_thresh_kind=ciou\n", "", Keys(thresh_kind="ciou")),
    ],
)  # fmt: skip
def test_gradients_with_rare_keys_match_darknet_loop(extra: str, second: str, keys: Keys) -> None:
    """In Darknet's order of the keys' effects; of `truth_thresh` also that it finds cells which no object owns."""
    assert_gradients_match_darknet(cfg(extra=extra, second=second), keys)
    plain = deltas_of(replace(keys, multipliers=None, smooth=(False, False), truth_thresh=1.0, focal=(False, False),
                              thresh_kind="iou"))  # fmt: skip
    assert any(not np.allclose(one, other) for one, other in zip(plain, deltas_of(keys), strict=True))


def deltas_of(keys: Keys) -> list[np.ndarray]:
    draw = torch.Generator().manual_seed(4)
    return deltas([torch.randn(2, len(mask), 8, h, w, generator=draw, dtype=torch.float64).numpy() * 0.7
                   for mask, (h, w) in zip(MASKS, ((4, 6), (8, 12)), strict=True)], keys)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS[1:])
def test_pairwise_overlaps_match_reference(kind: str) -> None:
    """Of boxes with all degrees of overlap, and apart."""
    draw = np.random.default_rng(2)
    boxes = draw.uniform([0.3, 0.3, 0.2, 0.2], [0.6, 0.6, 0.5, 0.5], (2, 40, 4))
    boxes[1, :5, :2] += 0.6
    ours: Tensor = getattr(iou, kind)(*cxcywh_to_xyxy(torch.tensor(boxes)))
    expected = [overlap(kind, (*a,), (*b,)) for a, b in zip(*boxes.tolist(), strict=True)]
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-5)
    assert max(expected) > 0.5
    assert min(expected) <= 0
