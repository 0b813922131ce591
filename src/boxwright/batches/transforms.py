"""Augmentation of images and boxes, batched, on the training device.

    B images, C channels (3: RGB), M boxes per image, H x W canvas px, h x w output px; K outputs (B, or the additional
    images of mixup)

The random numbers of an image are a pure function of (seed, step, index in the global batch), so they are the same in a
resumed run and with another number of processes; but copy-paste, mosaic and mixup combine images of one process.
"""

import random
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from boxwright.batches.compilable import compilable
from boxwright.batches.copy_paste import copy_paste
from boxwright.batches.rng import Array, Rows, SampleRNG, batch_indices, sample_keys
from boxwright.batches.warp import WarpGeometry, chunks, to_device, warp
from boxwright.config import RGB
from boxwright.recipe import AugmentConfig
from boxwright.types import Batch

EPSILON = 1e-12  # avoids division by a chroma or value of 0


def augment(
    batch: Batch,
    config: AugmentConfig,
    *,
    size: tuple[int, int],
    seed: int,
    step: int,
    rank: int,
    seen: int = 0,
    mosaic: bool = True,
    fill: float = 114.0,
) -> Batch:
    """Copy-paste, random flip, affine or perspective transform, mosaic, mixup and colors.

    Boxes with a remaining side of `config.min_side` px or less, or with less than `config.min_visible` of their area,
    get label -1, so they are not targets in this step; crowd regions are kept while any area remains.

    Args:
        batch: uint8 canvases.
        config: The settings; by default nothing changes.
        size: (height, width) px of the result.
        seed, step, rank: Determine the random numbers. step: optimizer step from the start of the training. rank:
            index among the batches of the step, of all processes.
        seen: Number of images trained on so far, including this batch.
        mosaic: False: no copy-paste, mosaic and mixup (in the last epochs).
        fill: Gray level, 0 to 255, where there is no image; that of the canvas.

    Returns:
        Images (B, C, *size) float32 in [0, 1] (unless C is 3, colors change by value only); M rows of boxes and labels,
        with copy-paste `copy_paste.OBJECTS` more, four times as many with mosaic, and twice that if an image was
        blended by mixup; `keys` for the random numbers of the loss; `seen`.
    """
    rng = SampleRNG.for_batch(seed, step, rank, len(batch.images))
    hue, saturation, value = _draw_colors(rng, config)
    if mosaic and config.copy_paste:
        batch = copy_paste(batch, config.copy_paste, rng)
    if size == batch.images.shape[2:] and not _is_geometric(config, mosaic):
        result = replace(batch, images=batch.images.float().div_(255))
    else:
        result = _warp(batch, config, rng, np.arange(len(batch.images)), size, mosaic, fill)
        if mosaic and config.mixup:
            result = _mix(batch, result, rng, config, size, fill)
    if config.hue or config.saturation != (1.0, 1.0) or config.value != (1.0, 1.0):
        colors = to_device((hue, saturation, value), batch.images.device)
        if result.images.shape[1] == RGB:
            change_colors(result.images, *colors)
        else:
            change_value(result.images, colors[2])
    indices = batch_indices(rank, len(batch.images))
    numbers = sample_keys(seed, step, indices), np.array(seen)
    keys, images_seen = to_device(numbers, batch.images.device, np.int64)
    return replace(result, keys=keys, seen=images_seen)


def step_size(config: AugmentConfig, canvas_size: tuple[int, int], seed: int, step: int) -> tuple[int, int]:
    """(height, width) px of the network's input in a step, in all processes; changes every `resize_every` steps.

    As in the MindSpore zoo: a list of seeds from 1 to 1000 is drawn from `seed` (1234 in the zoo), and each of them
    seeds the choice of a size.
    """
    if not config.sizes:
        return canvas_size
    seeds = _size_seeds(seed)
    return random.Random(seeds[step // config.resize_every % len(seeds)]).choice(config.sizes)


@cache
def _size_seeds(seed: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randint(1, 1000) for _ in range(10**6)]


def change_colors(images: Tensor, hue: Tensor, saturation: Tensor, value: Tensor) -> None:
    """Change (B, 3, h, w) RGB in [0, 1] in place, in HSV space.

    hue (B,): added, in turns of the color circle. saturation, value (B,): factors; the products are limited to 1.
    """
    hue, saturation, value = (each[:, None, None] for each in (hue, saturation, value))
    for chunk in chunks(images):
        _change_colors(images[chunk], hue[chunk], saturation[chunk], value[chunk])


@compilable
def _change_colors(images: Tensor, hue: Tensor, saturation: Tensor, value: Tensor) -> None:
    """`change_colors` of a chunk; hue, saturation, value (B, 1, 1)."""
    hue6, v, chroma = _split_colors(images)
    chroma.div_(v.clamp(min=EPSILON)).mul_(saturation).clamp_(max=1)  # now the saturation
    v.mul_(value).clamp_(max=1)
    _join_colors(images, hue6, v, chroma.mul_(v), hue)


def change_value(images: Tensor, value: Tensor) -> None:
    """`change_colors` of the value only, the highest of the channels, for (B, C, h, w) of any channels in [0, 1].

    Hue and saturation are not defined for other bands than RGB.
    """
    for chunk in chunks(images):
        _change_value(images[chunk], value[chunk, None, None, None])


@compilable
def _change_value(images: Tensor, value: Tensor) -> None:
    """`change_value` of a chunk; value (B, 1, 1, 1)."""
    limit = 1 / images.amax(1, keepdim=True).clamp(min=EPSILON)
    images.mul_(torch.minimum(value, limit)).clamp_(max=1)


def change_hue(images: Tensor, hue: Tensor) -> None:
    """`change_colors` of the hue only: hue (B,) turns."""
    for chunk in chunks(images):
        _join_colors(images[chunk], *_split_colors(images[chunk]), hue[chunk, None, None])


def _split_colors(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, h, w) each: 6 * hue in [-3, 3] with red at 0; the value V, the maximum of the channels; the chroma C, their
    maximum minus their minimum.

    The distance of the hue from red is computed without finding the largest channel, since comparisons cost a CPU five
    times as much as additions. In units of C it is S + A + 2 min(A, C - S), with S = |green - blue| and A = V - red: S
    if red is the maximum (A = 0), C + A if it is between (S = C), 3 C - S if it is the minimum (A = C), as usual.
    """
    red, green, blue = images.unbind(1)
    v = torch.maximum(torch.maximum(red, green), blue)
    chroma = v - torch.minimum(torch.minimum(red, green), blue)
    difference = green - blue
    s, a = difference.abs(), v - red
    hue6 = torch.minimum(a, chroma - s).mul_(2).add_(a).add_(s).div_(chroma.clamp(min=EPSILON))
    return hue6.copysign_(difference), v, chroma


def _join_colors(images: Tensor, hue6: Tensor, v: Tensor, chroma: Tensor, hue: Tensor) -> None:
    """The inverse of `_split_colors`, written into images (B, 3, h, w), after adding hue (B, 1, 1) turns.

    A channel is V - C * clamp(d - 1, 0, 1), where d is the distance of 6 * hue from the channel's hue (red 0, green 2,
    blue 4) on a circle of length 6. With u, the signed distance from the opposite point, d = ||u| - 3|.
    """
    hues = torch.arange(0, 6, 2, device=images.device)[:, None, None]
    opposite = (6 * hue[:, None] - hues).remainder_(6).sub_(3)  # (B, 3, 1, 1) in [-3, 3], so |u| is at most 6
    fraction = (hue6[:, None] + opposite).abs_().sub_(3).abs_().sub_(1).clamp_(0, 1)
    torch.addcmul(v[:, None], chroma[:, None], fraction, value=-1, out=images)


def _draw_colors(rng: SampleRNG, config: AugmentConfig) -> tuple[Array, Array, Array]:
    """(B,) each: hue in turns, factors of saturation and value."""
    return rng.uniform(-config.hue, config.hue), rng.factor(*config.saturation), rng.factor(*config.value)


def _is_geometric(config: AugmentConfig, mosaic: bool) -> bool:
    amounts = (
        config.flip, config.jitter, config.expand, config.translate, config.degrees, config.shear, config.perspective,
    )  # fmt: skip
    tiled = mosaic and (config.mosaic > 0 or config.mixup > 0)
    # translate null has no effect on images that fill the canvas, and else scale or jitter is set as well
    return any(amounts) or config.scale != (1.0, 1.0) or tiled


def _warp(
    batch: Batch, config: AugmentConfig, rng: SampleRNG, own: Rows, size: tuple[int, int], mosaic: bool, fill: float
) -> Batch:
    """A random transform for each of K outputs. own (K,): index of its image, the first tile of a mosaic."""
    geometry = _draw_geometry(batch, config, rng, own, size, mosaic)
    return warp(batch, geometry, size, fill=fill, min_side=config.min_side, min_visible=config.min_visible)


def _draw_geometry(
    batch: Batch, config: AugmentConfig, rng: SampleRNG, own: Rows, size: tuple[int, int], mosaic: bool
) -> WarpGeometry:
    canvas = np.array(batch.images.shape[:1:-1], dtype=np.float64)  # (width, height)
    contents = np.array([frame.content for frame in batch.frames])
    if not (mosaic and config.mosaic):
        plane, shift = np.tile(canvas, (len(own), 1)), np.zeros((len(own), 1, 2))
        matrix = _draw_matrix(rng, config, plane, canvas, size) @ _draw_expansion(rng, config, contents[own])
        return WarpGeometry(own[:, None], shift, np.full_like(plane, np.inf), matrix)
    is_mosaic = rng.bernoulli(config.mosaic)[:, None]
    tiles = np.concatenate([own[:, None], rng.integers(len(batch.images), 3)], axis=1)
    content = contents[tiles]  # (K, 4, xyxy)
    center = rng.uniform(0.5, 1.5, 2) * canvas
    # the corner of the content at the center: of the tile top left, top right, bottom left, bottom right
    corner = np.stack([content[:, range(4), [2, 0, 2, 0]], content[:, range(4), [3, 3, 1, 1]]], axis=-1)
    shift = np.where(is_mosaic[..., None], center[:, None] - corner, 0.0)
    plane = np.where(is_mosaic, 2.0, 1.0) * canvas
    extent = np.where(is_mosaic, np.concatenate([np.zeros_like(plane), plane], 1), contents[own])
    matrix = _draw_matrix(rng, config, plane, canvas, size) @ _draw_expansion(rng, config, extent)
    return WarpGeometry(tiles, shift, np.where(is_mosaic, center, np.inf), matrix)


def _draw_matrix(rng: SampleRNG, config: AugmentConfig, plane: Array, canvas: Array, size: tuple[int, int]) -> Array:
    """(K, 3, 3): perspective, rotation, shear, scale about the center of the plane ((K, 2) px), translation, flip."""
    output = np.array(size[::-1], dtype=np.float64)
    aspect = rng.uniform(1 - config.jitter, 1 + config.jitter) / rng.uniform(1 - config.jitter, 1 + config.jitter)
    # as in the MindSpore zoo: an aspect below 1 scales the width, else its inverse scales the height
    factors = rng.uniform(*config.scale)[:, None] * np.stack([np.minimum(aspect, 1), np.minimum(1 / aspect, 1)], axis=1)
    factors = factors * (output / canvas)
    angle = np.deg2rad(rng.uniform(-config.degrees, config.degrees))
    shear = np.tan(np.deg2rad(rng.uniform(-config.shear, config.shear, 2)))
    perspective = rng.uniform(-config.perspective, config.perspective, 2)
    position = rng.uniform(0, 1, 2)
    if config.translate is None:
        center = factors * plane / 2 + position * (output - factors * plane)
    else:
        center = output * (0.5 + (2 * position - 1) * config.translate)
    eye = np.tile(np.eye(3), (len(plane), 1, 1))
    to_origin, project, rotate, skew, scale_shift = (eye.copy() for _ in range(5))
    to_origin[:, :2, 2] = -plane / 2
    project[:, 2, :2] = perspective
    rotate[:, 0, 0], rotate[:, 0, 1] = np.cos(angle), np.sin(angle)
    rotate[:, 1, 0], rotate[:, 1, 1] = -np.sin(angle), np.cos(angle)
    skew[:, 0, 1], skew[:, 1, 0] = shear[:, 0], shear[:, 1]
    scale_shift[:, [0, 1], [0, 1]], scale_shift[:, :2, 2] = factors, center
    matrix = scale_shift @ skew @ rotate @ project @ to_origin
    flip = np.array([[-1.0, 0, output[0]], [0, 1, 0], [0, 0, 1]])
    return np.where(rng.bernoulli(config.flip)[:, None, None], flip @ matrix, matrix)


def _draw_expansion(rng: SampleRNG, config: AugmentConfig, extent: Array) -> Array:
    """(K, 3, 3); the identity, without random numbers, if there is no expansion. extent: as in `expansion`."""
    if not config.expand:
        return np.eye(3)
    ratio = np.where(rng.bernoulli(config.expand), rng.uniform(1, 4), 1.0)
    return expansion(extent, ratio, rng.uniform(0, 1, 2))


def expansion(extent: Array, ratio: Array, position: Array) -> Array:
    """The (K, 3, 3) matrices of SSD's expansion, followed by scaling back to the original size.

    SSD pads the image to `ratio` (K,) times its width and height. After scaling, it is smaller by that ratio, and
    inside the rectangle `extent` (K, 4 as xyxy px) that it covered. position (K, 2): x and y, from 0 (left, top) to 1.
    """
    result = np.tile(np.eye(3), (len(extent), 1, 1))
    result[:, [0, 1], [0, 1]] = 1 / ratio[:, None]
    result[:, :2, 2] = (1 - 1 / ratio[:, None]) * (extent[:, :2] + position * (extent[:, 2:] - extent[:, :2]))
    return result


def _mix(
    batch: Batch, first: Batch, rng: SampleRNG, config: AugmentConfig, size: tuple[int, int], fill: float
) -> Batch:
    """Blend some of the outputs with another output each, and concatenate their boxes."""
    chosen = np.flatnonzero(rng.bernoulli(config.mixup))
    if not len(chosen):
        return first
    rng = rng.select(chosen)
    share, rows = to_device((rng.beta(8, 8)[:, None, None, None], chosen), first.images.device)
    rows = rows.long()
    own = rng.integers(len(batch.images), 1)[:, 0]
    second = _warp(batch, config, rng, own, size, True, fill)
    first.images[rows] = torch.lerp(second.images, first.images[rows], share)
    added = [torch.full_like(first.labels, -1), torch.zeros_like(first.boxes), torch.zeros_like(first.ignore)]
    for target, source in zip(added, (second.labels, second.boxes, second.ignore), strict=True):
        target[rows] = source
    if first.labeled is not None and second.labeled is not None:
        first.labeled[rows] &= second.labeled
    return replace(
        first,
        labels=torch.cat([first.labels, added[0]], 1),
        boxes=torch.cat([first.boxes, added[1]], 1),
        ignore=torch.cat([first.ignore, added[2]], 1),
    )
