"""Augmentation of images with classes, batched, on the training device.

    B images, H x W canvas px, h x w output px

Each image is cropped, padded and flipped in one sampling, unless the loader has taken a random crop; colors, erasing
and blending follow. The random numbers of an image are a pure function of (seed, step, index in the global batch); only
the order of the color operations is drawn per step. MixUp and CutMix combine images of one process.
"""

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright.batches import policies
from boxwright.batches.compilable import compilable
from boxwright.batches.rng import Array, SampleRNG, batch_indices, sample_keys, step_rng
from boxwright.batches.transforms import change_hue
from boxwright.batches.warp import chunks, empty_hugepages, to_device
from boxwright.images.canvas import frame_for
from boxwright.recipe import CanvasConfig, ClassAugmentConfig
from boxwright.types import ClassBatch

GRAY = (0.2989, 0.587, 0.114)  # weights of red, green and blue (ITU-R BT.601, rounded as in torchvision)


def augment(
    batch: ClassBatch, config: ClassAugmentConfig, *, canvas: CanvasConfig, seed: int, step: int, rank: int
) -> ClassBatch:
    """Random pad and crop, flip, colors, policy, erasing, and blending.

    Args:
        batch: uint8 canvases: stretched images (`training_canvas`), or with `config.area` the flipped crops of
            `ClassLoader`.
        config: The settings; by default nothing changes.
        canvas: The canvas of evaluation, on which images without random crops are placed.
        seed, step, rank: Determine the random numbers. step: optimizer step from the start of the training. rank:
            index among the batches of the step, of all processes.

    Returns:
        Images (B, 3, *canvas.size) float32 in [0, 1]; `keys` for the random numbers of the loss.
    """
    rng = SampleRNG.for_batch(seed, step, rank, len(batch.images))
    device = batch.images.device
    if config.area:
        images = _to_float(batch.images)
    else:
        crops = _draw_crops(batch, config, rng, canvas)
        (edges,) = to_device([crops], device)
        images = resized_crops(batch.images, edges, canvas.size, canvas.fill if _needs_fill(crops, batch) else 0)
    seeds = sample_keys(seed, step, batch_indices(rank, len(batch.images)))
    if config.policy != "no":
        images = policies.apply(config.policy, images, seeds)
    _jitter_colors(images, config, rng, step_rng(seed, step))
    _erase(images, config, rng)
    (keys,) = to_device([seeds], device, np.int64)
    return _blend(replace(batch, images=images, keys=keys), config, rng)


def _draw_crops(batch: ClassBatch, config: ClassAugmentConfig, rng: SampleRNG, canvas: CanvasConfig) -> Array:
    """(B, 4) canvas px: left, top, right, bottom. A crop may extend beyond the canvas; left > right flips it."""
    sizes = np.array([frame.size for frame in batch.frames], dtype=np.float64)[:, ::-1]  # (B, 2) px, (width, height)
    if config.pad:
        corner = rng.integers(2 * config.pad + 1, 2) - config.pad
        crops = np.concatenate([corner, corner + sizes], axis=1)
    else:
        crops = np.array([_evaluation_crop(frame.size, canvas) for frame in batch.frames])
    flipped = rng.bernoulli(config.flip)[:, None]
    crops = np.where(flipped, crops[:, [2, 1, 0, 3]], crops)
    height, width = batch.images.shape[2:]
    return np.asarray(crops * np.tile(np.array([width, height]) / sizes, 2))


def _evaluation_crop(size: tuple[int, int], canvas: CanvasConfig) -> tuple[float, float, float, float]:
    """The region, in image px, that the canvas of evaluation covers."""
    frame = frame_for(size, canvas, 0)
    (sy, sx), (top, left), (height, width) = frame.scale, frame.offset, canvas.size
    return -left / sx, -top / sy, (width - left) / sx, (height - top) / sy


def _needs_fill(crops: Array, batch: ClassBatch) -> bool:
    """Whether a crop extends beyond its canvas."""
    height, width = batch.images.shape[2:]
    return bool(((crops < 0) | (crops > [width, height] * 2)).any())


def _to_float(canvases: Tensor) -> Tensor:
    """(B, 3, h, w) uint8 -> float32 in [0, 1]."""
    images = empty_hugepages(tuple(canvases.shape), canvases.device)
    for chunk in chunks(images):
        torch.div(canvases[chunk], 255, out=images[chunk])
    return images


def resized_crops(canvases: Tensor, crops: Tensor, size: tuple[int, int], fill: float) -> Tensor:
    """Crop and resize (B, 3, H, W) uint8 in one bilinear sampling -> (B, 3, *size) float32 in [0, 1].

    crops (B, 4): as in `_draw_crops`; pixels outside are not blended into the edges. fill: gray level, 0 to 255,
    outside the canvas.
    """
    images = empty_hugepages((len(canvases), 3, *size), canvases.device)
    left, top, right, bottom = crops[..., None].unbind(1)  # (B, 1) each
    x = _positions(left, right, size[1]) * (2 / canvases.shape[3]) - 1  # (B, w) in the coordinates of grid_sample
    y = _positions(top, bottom, size[0]) * (2 / canvases.shape[2]) - 1
    # The grid as (x, 0) + (0, 1) * y, row by row: on a CPU ten times as fast as stacking.
    line = torch.stack([x, torch.zeros_like(x)], -1).flatten(1)[:, None]  # (B, 1, 2w)
    odd = torch.arange(2 * size[1], device=x.device).remainder(2)
    for chunk in chunks(images):
        _write_crops(images[chunk], canvases[chunk], line[chunk], odd, y[chunk, :, None], fill)
    return images


@compilable
def _write_crops(images: Tensor, canvases: Tensor, line: Tensor, odd: Tensor, y: Tensor, fill: float) -> None:
    """Fill images (B, 3, h, w) with samples of canvases (B, 3, H, W) at the grid line + odd * y (B, h, 2w)."""
    grid = torch.addcmul(line, odd, y).view(len(images), *images.shape[2:], 2)
    source = canvases.float()
    if fill:  # subtracted and added again, since sampling pads with zeros
        source.sub_(fill)
    sampled = F.grid_sample(source, grid, align_corners=False)
    if fill:
        sampled.add_(fill)
    torch.mul(sampled, 1 / 255, out=images).clamp_(0, 1)


def _positions(start: Tensor, end: Tensor, count: int) -> Tensor:
    """(B, count): the centers of `count` pixels between start and end, clamped to half a px from both."""
    centers = (torch.arange(count, device=start.device) + 0.5) / count
    low, high = torch.minimum(start, end), torch.maximum(start, end)
    half = (high - low).clamp(max=1) / 2
    return (start + centers * (end - start)).clamp(low + half, high - half)


def _jitter_colors(images: Tensor, config: ClassAugmentConfig, rng: SampleRNG, shared_rng: np.random.Generator) -> None:
    """Brightness, contrast, saturation and hue, in an order drawn per step, in place."""
    amounts = {name: getattr(config, name) for name in ("brightness", "contrast", "saturation", "hue")}
    if not any(amounts.values()):
        return
    order = shared_rng.permutation(list(amounts)).tolist()
    values = {name: rng.uniform(-amount, amount) + (name != "hue") for name, amount in amounts.items()}
    tensors = dict(zip(order, to_device([values[name] for name in order], images.device), strict=True))
    for chunk in chunks(images):
        for name in order:
            if amounts[name]:
                change_color(images[chunk], name, tensors[name][chunk])


@compilable
def change_color(images: Tensor, name: str, amount: Tensor) -> None:
    """Change (B, 3, h, w) RGB in [0, 1] in place, like torchvision. amount (B,): a factor; for hue, turns."""
    factor = amount[:, None, None, None]
    if name == "hue":
        change_hue(images, amount)
        return
    if name == "brightness":
        images.mul_(factor).clamp_(0, 1)
        return
    gray = _gray(images.mean((2, 3), keepdim=True) if name == "contrast" else images)
    images.mul_(factor).add_(gray.mul_(1 - factor)).clamp_(0, 1)


def _gray(images: Tensor) -> Tensor:
    """Luminance: (B, 3, h, w) -> (B, 1, h, w)."""
    red, green, blue = images.unbind(1)
    return (GRAY[0] * red).add_(green, alpha=GRAY[1]).add_(blue, alpha=GRAY[2])[:, None]


def _erase(images: Tensor, config: ClassAugmentConfig, rng: SampleRNG) -> None:
    """Random erasing of rectangles, and cutout of squares, in place."""
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
        limit = np.array([width, height]) + config.cutout
        corner = np.floor(rng.uniform(0, 1, 2) * (limit + 1)) - config.cutout
        boxes = np.concatenate([corner, corner + config.cutout], axis=1)
        images.copy_(torch.where(_inside(images, boxes), color, images))


def _inside(images: Tensor, boxes: Array) -> Tensor:
    """(B, 1, h, w) bool: pixels inside boxes (B, 4), integer px (left, top, right, bottom)."""
    (box,) = to_device([boxes], images.device)
    left, top, right, bottom = box[:, :, None, None].unbind(1)  # (B, 1, 1)
    x = torch.arange(images.shape[3], device=images.device)
    y = torch.arange(images.shape[2], device=images.device)[:, None]
    return ((x >= left) & (x < right) & (y >= top) & (y < bottom))[:, None]


def _blend(batch: ClassBatch, config: ClassAugmentConfig, rng: SampleRNG) -> ClassBatch:
    """MixUp (Zhang et al. 2018) or CutMix (Yun et al. 2019) of some images with another image of the batch."""
    if not (config.mixup or config.cutmix):
        return batch
    images, count = batch.images, len(batch.images)
    height, width = images.shape[2:]
    kind, partner = rng.uniform(0, 1), rng.integers(count, 1)[:, 0]
    mixes, cuts = kind < config.mixup, (kind >= config.mixup) & (kind < config.mixup + config.cutmix)
    mixed = np.where(mixes, rng.beta(config.mixup_alpha, config.mixup_alpha), 1.0)
    # CutMix: a rectangle of the image's aspect ratio around a random point, clipped; the share is the remaining area.
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
