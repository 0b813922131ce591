"""Training of Darknet's [region] heads: gradients against a loop over cells; overfitting with each kind of head."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from boxwright.errors import InputError
from boxwright.models.darknet_cfg import CfgDetector
from boxwright.nn.network import Network
from boxwright.ops.iou import pairwise_iou
from boxwright.types import Batch
from darknet_loop import CONV, LAST, Box, Truths, batch_of_truths, cfg, detector, logistic, overlap
from from_the_host import NoNumbersFromTheHost
from zoo_loss import batch_of

HEIGHT, WIDTH = 64, 96
NET = f"[net]\nwidth={WIDTH}\nheight={HEIGHT}\nchannels=3\n"
GROUND_TRUTHS: Truths = [
    [(2, (0.31, 0.42, 0.40, 0.75)), (0, (0.71, 0.30, 0.07, 0.15)), (1, (0.12, 0.81, 0.19, 0.50))],
    [(1, (0.55, 0.62, 0.33, 0.52)), (2, (0.53, 0.60, 0.30, 0.50))],  # one cell and anchor
]


# [region]: the maps have 4 x 6 cells of 16 px, anchors are in cells.

ROWS, COLUMNS = 4, 6
PAIRS = ((0.6, 0.7), (1.4, 1.1), (2.2, 2.6))
REGION = (
    f"[region]\nanchors={','.join(f'{w},{h}' for w, h in PAIRS)}\nclasses=3\ncoords=4\nnum=3\nthresh=.35\n"
    "coord_scale=1.5\nobject_scale=5\nnoobject_scale=.8\nclass_scale=2\nabsolute=1\n"
)


def region(keys: str = "") -> str:
    return "\n".join([NET, *(CONV.format(8, 2) for _ in range(4)), LAST.format(24, "linear"), REGION + keys])


def predicted(numbers: list[float], anchor: int, row: int, column: int) -> Box:
    (w, h), (x, y) = PAIRS[anchor], map(logistic, numbers[:2])
    return (
        (column + x) / COLUMNS, (row + y) / ROWS, math.exp(numbers[2]) * w / COLUMNS, math.exp(numbers[3]) * h / ROWS,
    )  # fmt: skip


def coordinate_deltas(numbers: list[float], wanted: list[float], scale: float) -> list[float]:
    """wanted: center in the cell, logarithms of sides in anchors."""
    x, y = map(logistic, numbers[:2])
    return [
        scale * (wanted[0] - x) * x * (1 - x), scale * (wanted[1] - y) * y * (1 - y),
        scale * (wanted[2] - numbers[2]), scale * (wanted[3] - numbers[3]),
    ]  # fmt: skip


def class_deltas(numbers: list[float], label: int, softmax: bool, focal: bool) -> list[float]:
    exponents = [math.exp(number) for number in numbers]
    outputs = [each / sum(exponents) for each in exponents] if softmax else numbers
    factor, p = 1.0, outputs[label]
    if focal:
        factor = 0.5 * -(1 - p) * (2 * p * math.log(p) + p - 1)
    return [2 * factor * ((number == label) - output) for number, output in enumerate(outputs)]


def region_deltas(
    level: np.ndarray[Any, Any], *, rescore: bool, bias_match: bool, softmax: bool, focal: bool, first_images: bool
) -> np.ndarray[Any, Any]:
    """What forward_region_layer adds to the map (B, A, 8, h, w), cell by cell, then object by object."""
    result = np.zeros_like(level)
    for image, truths in enumerate(GROUND_TRUTHS):
        for anchor, row, column in np.ndindex(3, ROWS, COLUMNS):
            numbers = level[image, anchor, :, row, column].tolist()
            box, o = predicted(numbers, anchor, row, column), logistic(numbers[4])
            out = result[image, anchor, :, row, column]
            best = max(overlap("iou", box, truth) for _, truth in truths)
            out[4] = 0 if best > 0.35 else 0.8 * (0 - o) * o * (1 - o)
            if first_images:
                out[:4] = coordinate_deltas(numbers, [0.5, 0.5, 0.0, 0.0], 0.01)
        for label, truth in truths:
            column, row = int(truth[0] * COLUMNS), int(truth[1] * ROWS)
            fits = []
            for anchor, (w, h) in enumerate(PAIRS):
                _, _, own_w, own_h = predicted(level[image, anchor, :, row, column].tolist(), anchor, row, column)
                side = (w / COLUMNS, h / ROWS) if bias_match else (own_w, own_h)
                fits.append(overlap("iou", (0, 0, *side), (0, 0, *truth[2:])))
            anchor = fits.index(max(fits))
            w, h = PAIRS[anchor]
            numbers, out = level[image, anchor, :, row, column].tolist(), result[image, anchor, :, row, column]
            wanted = [
                truth[0] * COLUMNS - column, truth[1] * ROWS - row,
                math.log(truth[2] * COLUMNS / w), math.log(truth[3] * ROWS / h),
            ]  # fmt: skip
            o = logistic(numbers[4])
            goal = overlap("iou", predicted(numbers, anchor, row, column), truth) if rescore else 1
            out[:4] = coordinate_deltas(numbers, wanted, 1.5)
            out[4] = 5 * (goal - o) * o * (1 - o)
            out[5:] = class_deltas(numbers[5:], label, softmax, focal)
    return result


@pytest.mark.parametrize(
    ("rescore", "bias_match", "softmax", "focal", "first_images"),
    [
        (True, True, True, False, True),
        (False, True, True, False, False),
        (True, False, True, True, False),
        (False, False, False, False, True),
    ],
)
def test_region_gradients_match_darknet_loop(
    rescore: bool, bias_match: bool, softmax: bool, focal: bool, first_images: bool
) -> None:
    settings = {"rescore": rescore, "bias_match": bias_match, "softmax": softmax, "focal_loss": focal}
    model = detector(region("".join(f"{key}={int(value)}\n" for key, value in settings.items())))
    model.check_trainable()
    draw = torch.Generator().manual_seed(2)
    level = torch.randn(2, 3, 8, ROWS, COLUMNS, generator=draw, dtype=torch.float64) * 0.7
    expected = region_deltas(
        level.numpy(), rescore=rescore, bias_match=bias_match, softmax=softmax, focal=focal, first_images=first_images
    )
    leaf = level.float().flatten(1, 2).requires_grad_()
    own = replace(batch_of_truths(GROUND_TRUTHS), seen=torch.tensor(12_799 if first_images else 12_800))
    with NoNumbersFromTheHost():
        terms = model.loss_of_raw((leaf,), own)
    (gradient,) = torch.autograd.grad(torch.stack(list(terms.values())).sum(), leaf)
    ours = -2 * gradient.view(level.shape).numpy()  # the mean of two images, and the way down
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-5)
    assert set(terms) == {"box", "objectness", "classes"}


def test_ignore_regions_are_not_background() -> None:
    """A box on an ignore region learns nothing, without it that there is none."""
    model, own = detector(region()), batch_of_truths(GROUND_TRUTHS)
    numbers = torch.zeros(2, 3, 8, ROWS, COLUMNS)
    ignored = replace(own, ignore=torch.tensor([[True, False, False], [False] * 3]))
    gradients = []
    for each in (own, ignored):
        leaf = numbers.flatten(1, 2).clone().requires_grad_()
        terms = model.loss_of_raw((leaf,), each)
        gradients.append(torch.autograd.grad(torch.stack(list(terms.values())).sum(), leaf)[0].view(2, 3, 8, 4, 6))
    assert gradients[0][0, 2, 4, 1, 1] < 0 == gradients[1][0, 2, 4, 1, 1]  # the cell of the first object
    torch.testing.assert_close(gradients[0][1], gradients[1][1])


def test_untrainable_region_settings_are_rejected() -> None:
    with pytest.raises(InputError, match=r"\[region\], focal_loss=1: training needs softmax=1 with it"):
        detector(region("focal_loss=1\n"))
    two = region() + "[route]\nlayers=-2\n" + REGION
    with pytest.raises(InputError, match=r"\[region\]: training needs heads of one kind, and one \[region\] at most"):
        detector(two).check_trainable()


@pytest.mark.parametrize("rows", [0, 40])
@pytest.mark.parametrize(
    "text",
    [
        region("softmax=1\nrescore=1\n"),
        cfg(extra="max_delta=1\n", kind="Gaussian_yolo"),
        cfg(extra="iou_loss=ciou\ntruth_thresh=.5\nobjectness_smooth=1\ncounters_per_class=1,2,3\nfocal_loss=1\n"),
    ],
    ids=["region", "Gaussian", "yolo"],
)
def test_losses_stay_finite(text: str, rows: int) -> None:
    """Wild numbers, boxes outside the canvas, boxes without an area, padding, crowds; no boxes at all."""
    draw = torch.Generator().manual_seed(3)
    corner = torch.rand(2, rows, 2, generator=draw) * 120 - 20
    boxes = torch.cat((corner, corner + torch.rand(2, rows, 2, generator=draw) * 60), -1)
    boxes[:, ::7, 2:] = boxes[:, ::7, :2]
    labels = torch.randint(-1, 3, (2, rows), generator=draw)
    own = batch_of(boxes, labels, (HEIGHT, WIDTH), torch.rand(2, rows, generator=draw) < 0.2)
    model = detector(text)
    shapes = [each.shape for each in model(torch.zeros(2, 3, HEIGHT, WIDTH))]
    leaves = [(20 * torch.randn(shape, generator=draw)).requires_grad_() for shape in shapes]
    terms = model.loss_of_raw(tuple(leaves), replace(own, seen=torch.tensor(2)))
    gradients = torch.autograd.grad(torch.stack(list(terms.values())).sum(), leaves)
    assert all(bool(each.isfinite().all()) for each in (*terms.values(), *gradients))


# Networks that overfit four images

COLORS = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.8, 0.2], [0.2, 0.2, 0.9]])


def four_images() -> Batch:
    """Two rectangles each, whose color is their class, on gray noise."""
    draw = torch.Generator().manual_seed(5)
    images = torch.rand(4, 3, HEIGHT, WIDTH, generator=draw) * 0.2 + 0.4
    boxes, labels = torch.zeros(4, 2, 4), torch.zeros(4, 2, dtype=torch.int64)
    for image in range(4):
        for number in range(2):
            w, h = (16 + 10 * ((image + number) % 3), 18 + 8 * ((image + 2 * number) % 3))
            x, y, label = 6 + 48 * number, 5 + 4 * image, (image + number) % 3
            images[image, :, y : y + h, x : x + w] = COLORS[label][:, None, None]
            boxes[image, number], labels[image, number] = torch.tensor([x, y, x + w, y + h]), label
    return replace(batch_of(boxes, labels, (HEIGHT, WIDTH)), images=images)


def overfit(model: Network, steps: int, lr: float) -> tuple[list[float], Batch]:
    """The loss at every step, at a rate that falls to a tenth; and the images."""
    own, losses = four_images(), []
    optimizer = torch.optim.SGD(model.parameters(), lr, 0.9)
    fall = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, steps)
    model.train()
    for step in range(steps):
        terms = model.loss(replace(own, seen=torch.tensor(4 * (step + 1))))
        total = torch.stack(list(terms.values())).sum()
        optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        fall.step()
        losses.append(float(total.detach()))
    return losses, own


def assert_objects_detected(model: CfgDetector, own: Batch) -> None:
    """Each object as its class, by a box of more than 0.5 overlap."""
    model.eval()
    with torch.no_grad():
        found = model.decode(model(own.images), 0.3)
    for image, detections in enumerate(found):
        overlaps: Tensor = pairwise_iou(own.boxes[image], detections.boxes)
        right = own.labels[image][:, None] == detections.labels
        assert ((overlaps > 0.5) & right).any(1).all(), image


@pytest.mark.slow
def test_region_head_overfits_four_images() -> None:
    torch.manual_seed(0)
    keys = "softmax=1\nbias_match=1\nrescore=1\n"
    body = [CONV.format(width, 2) for width in (16, 24, 32, 32)]
    model = detector("\n".join([NET, *body, LAST.format(24, "linear"), REGION + keys]))
    losses, own = overfit(model, 150, 0.01)
    assert losses[-1] < losses[0] / 10
    assert_objects_detected(model, own)


def test_gaussian_head_initial_objectness_bias() -> None:
    """8 in 640 x 640 px, of an anchor of 9 + 3 numbers the ninth; the deviations before it stay."""
    model = detector(
        "\n".join([NET, LAST.format(24, "linear"), "[Gaussian_yolo]\nanchors=9,9,20,20\nclasses=3\nnum=2\n"])
    )
    numbers = model(torch.zeros(1, 3, HEIGHT, WIDTH))[0][0, :, 0, 0].view(2, 12)  # the biases
    assert numbers[:, 8].tolist() == pytest.approx([math.log(8 / 640**2)] * 2)
    assert numbers[:, 4].abs().max() < 1


@pytest.mark.slow
@pytest.mark.parametrize("keys", ["", "iou_loss=ciou\niou_normalizer=2\nuc_normalizer=.2\n"])
def test_gaussian_heads_overfit_four_images(keys: str) -> None:
    torch.manual_seed(0)
    body = [CONV.format(width, 2) for width in (16, 24, 32, 32)]
    head = f"[Gaussian_yolo]\nanchors=12,12, 20,20, 36,34\nclasses=3\nnum=3\nignore_thresh=.6\n{keys}"
    model = detector("\n".join([NET, *body, LAST.format(36, "linear"), head]))
    losses, own = overfit(model, 200, 0.01)
    assert losses[-1] < losses[0] / 5
    assert_objects_detected(model, own)
