"""Everything random that happens to images with classes, for a whole batch on its own device.

    B images, H x W canvas px, h x w px of a result

A window of each image becomes the input, by one sampling, unless the loader has cut it out; colors, erased parts and
blends follow. What is drawn for an image is a pure function of (seed, step, its place in the batch of the whole group
of processes); only the order of the color changes is drawn for the whole step. MixUp and CutMix take their partners
from the process's own batch.
"""

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright.batches import policies
from boxwright.batches.rng import Array, SampleRNG, keys, places, step_rng
from boxwright.batches.transforms import turn_hue
from boxwright.batches.warp import chunks, to_device, empty_hugepages
from boxwright.images.canvas import frame_for
from boxwright.recipe import CanvasConfig, ClassAugmentConfig
from boxwright.types import ClassBatch

GRAY = (0.2989, 0.587, 0.114)  # of red, green and blue in the gray value (ITU-R BT.601, as torchvision rounds it)


def augment(
    batch: ClassBatch, config: ClassAugmentConfig, *, canvas: CanvasConfig, seed: int, step: int, rank: int
) -> ClassBatch:
    """Random windows, flips, colors, erased parts, blends: uint8 canvases -> (B, 3, *canvas.size) float32 in [0, 1].

    canvas: how the image would be seen in evaluation, and is seen here where no window is random. BatchBuilder are
    stretched images (`Recipe.training_canvas`), or with `config.area` what `ClassLoader` has cut out and mirrored.
    The result has the keys from which its loss draws.
    """
    places_here = places(rank, len(batch.images))
    rng = SampleRNG.for_batch(seed, step, rank, len(batch.images))
    device = batch.images.device
    if config.area:
        images = _as_loaded(batch.images)
    else:
        windows = _draw_windows(batch, config, rng, canvas)
        (edges,) = to_device([windows], device)
        images = look(batch.images, edges, canvas.size, canvas.fill if _reach_out(windows, batch) else 0)
    drawn = keys(seed, step, places_here)
    if config.policy != "no":
        images = policies.apply(config.policy, images, drawn)
    _jitter(images, config, rng, step_rng(seed, step))
    _paint_over(images, config, rng)
    (key,) = to_device([drawn], device, np.int64)
    return _blend(replace(batch, images=images, keys=key), config, rng)


def _draw_windows(batch: ClassBatch, config: ClassAugmentConfig, rng: SampleRNG, canvas: CanvasConfig) -> Array:
    """(B, 4): canvas px (x of the left, y of the top, x of the right, y of the bottom edge) of what becomes the input.

    A window may reach out of the canvas; with left and right exchanged it is mirrored.
    """
    sizes = np.array([frame.size for frame in batch.frames], dtype=np.float64)[:, ::-1]  # (B, 2) px, (width, height)
    if config.pad:
        corner = rng.integers(2 * config.pad + 1, 2) - config.pad
        windows = np.concatenate([corner, corner + sizes], axis=1)
    else:
        windows = np.array([_whole(frame.size, canvas) for frame in batch.frames])
    flipped = rng.bernoulli(config.flip)[:, None]
    windows = np.where(flipped, windows[:, [2, 1, 0, 3]], windows)
    height, width = batch.images.shape[2:]
    return np.asarray(windows * np.tile(np.array([width, height]) / sizes, 2))


def _whole(size: tuple[int, int], canvas: CanvasConfig) -> tuple[float, float, float, float]:
    """Image px that the whole canvas shows in evaluation."""
    frame = frame_for(size, canvas, 0)
    (sy, sx), (top, left), (height, width) = frame.scale, frame.offset, canvas.size
    return -left / sx, -top / sy, (width - left) / sx, (height - top) / sy


def _reach_out(windows: Array, batch: ClassBatch) -> bool:
    """Whether one of the windows shows anything but canvas."""
    height, width = batch.images.shape[2:]
    return bool(((windows < 0) | (windows > [width, height] * 2)).any())


def _as_loaded(canvases: Tensor) -> Tensor:
    """(B, 3, h, w) uint8 -> float32 in [0, 1]."""
    images = empty_hugepages(tuple(canvases.shape), canvases.device)
    for part in chunks(images):
        torch.div(canvases[part], 255, out=images[part])
    return images


def look(canvases: Tensor, windows: Tensor, size: tuple[int, int], fill: float) -> Tensor:
    """(B, 3, H, W) uint8 seen through windows (B, 4) -> (B, 3, *size) float32 in [0, 1], bilinear.

    As if each window were cut out and resized: nothing beyond its outermost pixels is blended in. fill: gray, 0 to
    255, where it reaches out of the canvas.
    """
    images = empty_hugepages((len(canvases), 3, *size), canvases.device)
    left, top, right, bottom = windows[..., None].unbind(1)  # (B, 1) each
    x = _positions(left, right, size[1]) * (2 / canvases.shape[3]) - 1  # (B, w), as grid_sample counts
    y = _positions(top, bottom, size[0]) * (2 / canvases.shape[2]) - 1
    # The grid in one step, (x, 0) + (0, 1) * y, a line of pairs at a time: stacking costs a CPU ten times as much.
    line = torch.stack([x, torch.zeros_like(x)], -1).flatten(1)[:, None]  # (B, 1, 2w)
    odd = torch.arange(2 * size[1], device=x.device).remainder(2)
    for part in chunks(images):
        grid = torch.addcmul(line[part], odd, y[part, :, None]).view(-1, *size, 2)
        shown = canvases[part].float()
        if fill:  # it becomes 0, with which sampling pads
            shown.sub_(fill)
        sampled = F.grid_sample(shown, grid, align_corners=False)
        if fill:
            sampled.add_(fill)
        torch.mul(sampled, 1 / 255, out=images[part]).clamp_(0, 1)
    return images


def _positions(start: Tensor, end: Tensor, count: int) -> Tensor:
    """(B, count): where the middles of `count` pixels between start and end lie, at least half a px from both."""
    middles = (torch.arange(count, device=start.device) + 0.5) / count
    low, high = torch.minimum(start, end), torch.maximum(start, end)
    half = (high - low).clamp(max=1) / 2
    return (start + middles * (end - start)).clamp(low + half, high - half)


def _jitter(images: Tensor, config: ClassAugmentConfig, rng: SampleRNG, of_the_step: np.random.Generator) -> None:
    """Brightness, contrast, saturation and hue in an order drawn for the step, in place."""
    amounts = {name: getattr(config, name) for name in ("brightness", "contrast", "saturation", "hue")}
    if not any(amounts.values()):
        return
    order = of_the_step.permutation(list(amounts)).tolist()
    drawn = {name: rng.uniform(-amount, amount) + (name != "hue") for name, amount in amounts.items()}
    on_device = dict(zip(order, to_device([drawn[name] for name in order], images.device), strict=True))
    for part in chunks(images):
        for name in order:
            if amounts[name]:
                change_color(images[part], name, on_device[name][part])


def change_color(images: Tensor, name: str, amount: Tensor) -> None:
    """Change (B, 3, h, w) RGB in [0, 1] in place, as torchvision and MindSpore do. amount (B,): a factor; for hue,
    turns of the color circle."""
    factor = amount[:, None, None, None]
    if name == "hue":
        turn_hue(images, amount)
        return
    if name == "brightness":
        images.mul_(factor).clamp_(0, 1)
        return
    gray = _gray(images.mean((2, 3), keepdim=True) if name == "contrast" else images)
    images.mul_(factor).add_(gray.mul_(1 - factor)).clamp_(0, 1)


def _gray(images: Tensor) -> Tensor:
    """(B, 3, h, w) -> (B, 1, h, w)."""
    red, green, blue = images.unbind(1)
    return (GRAY[0] * red).add_(green, alpha=GRAY[1]).add_(blue, alpha=GRAY[2])[:, None]


def _paint_over(images: Tensor, config: ClassAugmentConfig, rng: SampleRNG) -> None:
    """A random rectangle where `erase` has it, a square where `cutout` has one, in place."""
    height, width = images.shape[2:]
    color = images.new_tensor(config.erase_color)[:, None, None] / 255
    if config.erase:
        chosen = rng.bernoulli(config.erase)
        area = rng.uniform(*config.erase_area) * height * width
        aspect = np.exp(rng.uniform(*np.log(config.erase_aspect)))
        sides = np.rint(np.sqrt(np.stack([area / aspect, area * aspect], axis=1)))  # (width, height)
        sides = np.minimum(sides, [width, height]) * chosen[:, None]
        corner = np.floor(rng.uniform(0, 1, 2) * (np.array([width, height]) - sides + 1))
        images.copy_(torch.where(_inside(images, np.concatenate([corner, corner + sides], axis=1)), color, images))
    if config.cutout:
        reach = np.array([width, height]) + config.cutout
        corner = np.floor(rng.uniform(0, 1, 2) * (reach + 1)) - config.cutout
        boxes = np.concatenate([corner, corner + config.cutout], axis=1)
        images.copy_(torch.where(_inside(images, boxes), color, images))


def _inside(images: Tensor, boxes: Array) -> Tensor:
    """(B, 1, h, w) bool: pixels inside boxes (B, 4), whole px as (left, top, right, bottom)."""
    (box,) = to_device([boxes], images.device)
    left, top, right, bottom = box[:, :, None, None].unbind(1)  # (B, 1, 1)
    across = torch.arange(images.shape[3], device=images.device)
    down = torch.arange(images.shape[2], device=images.device)[:, None]
    return ((across >= left) & (across < right) & (down >= top) & (down < bottom))[:, None]


def _blend(batch: ClassBatch, config: ClassAugmentConfig, rng: SampleRNG) -> ClassBatch:
    """MixUp (Zhang et al. 2018) or CutMix (Yun et al. 2019) with another image of the batch, for some of them."""
    if not (config.mixup or config.cutmix):
        return batch
    images, count = batch.images, len(batch.images)
    height, width = images.shape[2:]
    kind, partner = rng.uniform(0, 1), rng.integers(count, 1)[:, 0]
    mixes, cuts = kind < config.mixup, (kind >= config.mixup) & (kind < config.mixup + config.cutmix)
    mixed = np.where(mixes, rng.beta(config.mixup_alpha, config.mixup_alpha), 1.0)
    # CutMix: a rectangle of the image's own aspect around any point, cut at its edges; the share is what is left.
    kept = rng.beta(config.cutmix_alpha, config.cutmix_alpha)
    half = np.floor(np.sqrt(1 - kept)[:, None] * [width, height] / 2)
    middle = np.floor(rng.uniform(0, 1, 2) * [width, height])
    boxes = np.concatenate([middle - half, middle + half], axis=1).clip(0, [width, height] * 2) * cuts[:, None]
    share = mixed * (1 - (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / (height * width))
    weight, shares = to_device([mixed[:, None, None, None], share], images.device)
    (rows,) = to_device([partner], images.device, np.int64)
    others = images[rows]
    result = torch.where(_inside(images, boxes), others, torch.lerp(others, images, weight))
    return replace(batch, images=result, others=batch.labels[rows], share=shares)
