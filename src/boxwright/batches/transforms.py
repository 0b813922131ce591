"""Everything random that happens to images and boxes, for a whole batch on its own device.

    B images, M boxes an image, H x W canvas px, h x w px of a result; K results (B, or those that mixup adds)

What is drawn for an image is a pure function of (seed, step, its place in the batch of the whole group of
processes). A resumed run draws what the interrupted one would have drawn, and two processes with half a batch draw
what one with the whole batch draws; but mosaic and mixup take their partners from the process's own batch.
"""

import random
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from boxwright.batches.rng import Array, SampleRNG, Rows, keys, places
from boxwright.batches.warp import WarpGeometry, chunks, to_device, warp
from boxwright.recipe import AugmentConfig
from boxwright.types import Batch

TINY = 1e-12  # for a chroma or value of 0, whose hue or saturation is 0


def augment(
    batch: Batch,
    config: AugmentConfig,
    *,
    size: tuple[int, int],
    seed: int,
    step: int,
    rank: int,
    mosaic: bool = True,
    fill: float = 114.0,
) -> Batch:
    """Random flips, placement, mosaic, mixup and colors: uint8 canvases -> (B, 3, *size) float32 in [0, 1].

    size: (height, width) px of the result. mosaic: False leaves out mosaic and mixup (the last epochs). fill: gray, 0
    to 255, of what no image covers; the canvas's own. Rows of boxes and labels: M, 4M with mosaic, and twice that
    where mixup blended something.

    A box that the warp leaves with a side of `config.min_side` px or less, or with less than `config.min_visible` of
    its area, gets label -1: it is no target in this step. Crowd regions stay while any area is left. Configured to do
    nothing, this changes no box. The result has the keys from which its loss draws.
    """
    rng = SampleRNG.for_batch(seed, step, rank, len(batch.images))
    hue, saturation, value = _draw_colors(rng, config)
    if size == batch.images.shape[2:] and not _moves(config, mosaic):
        result = replace(batch, images=batch.images.float().div_(255))
    else:
        result = _view(batch, config, rng, np.arange(len(batch.images)), size, mosaic, fill)
        if mosaic and config.mixup:
            result = _mix(batch, result, rng, config, size, fill)
    if config.hue or config.saturation != (1.0, 1.0) or config.value != (1.0, 1.0):
        change_colors(result.images, *to_device((hue, saturation, value), batch.images.device))
    (drawn,) = to_device([keys(seed, step, places(rank, len(batch.images)))], batch.images.device, np.int64)
    return replace(result, keys=drawn)


def step_size(config: AugmentConfig, canvas_size: tuple[int, int], seed: int, step: int) -> tuple[int, int]:
    """(height, width) px of the network's input in a step: the same in all processes, new every `resize_every` steps.

    The MindSpore zoo's rule: a list of keys from 1 to 1000 is drawn from the seed (the zoo's is 1234), and each key
    seeds the choice of a size.
    """
    if not config.sizes:
        return canvas_size
    keys = _sizekeys(seed)
    return random.Random(keys[step // config.resize_every % len(keys)]).choice(config.sizes)


@cache
def _sizekeys(seed: int) -> list[int]:
    draw = random.Random(seed)
    return [draw.randint(1, 1000) for _ in range(10**6)]


def change_colors(images: Tensor, hue: Tensor, saturation: Tensor, value: Tensor) -> None:
    """Change (B, 3, h, w) RGB in [0, 1] in place, through hue, saturation and value (HSV).

    hue (B,): added, in turns of the color circle. saturation, value (B,): factors; the products are cut at 1.
    """
    hue, saturation, value = (each[:, None, None] for each in (hue, saturation, value))
    for part in chunks(images):
        sixth, top, chroma = _split_colors(images[part])
        chroma.div_(top.clamp(min=TINY)).mul_(saturation[part]).clamp_(max=1)  # here the saturation
        top.mul_(value[part]).clamp_(max=1)
        _join_colors(images[part], sixth, top, chroma.mul_(top), hue[part])


def turn_hue(images: Tensor, hue: Tensor) -> None:
    """`change_colors` with the hue alone: hue (B,) turns."""
    for part in chunks(images):
        _join_colors(images[part], *_split_colors(images[part]), hue[part, None, None])


def _split_colors(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, h, w) each: 6 * hue, from -3 to 3 with red at 0; the value V, the largest channel; the chroma C, the largest
    minus the smallest.

    How far a hue is from red is here found without asking which channel is largest, as comparing costs a CPU five
    times what adding does. In units of C it is S + A + 2 min(A, C - S), with S = |green - blue| and A = V - red: where
    red is largest (A = 0), S; in the middle (S = C), C + A; smallest (A = C), 3 C - S, as by the usual three cases.
    """
    red, green, blue = images.unbind(1)
    top = torch.maximum(torch.maximum(red, green), blue)
    chroma = top - torch.minimum(torch.minimum(red, green), blue)
    side = green - blue
    span, below = side.abs(), top - red
    sixth = torch.minimum(below, chroma - span).mul_(2).add_(below).add_(span).div_(chroma.clamp(min=TINY))
    return sixth.copysign_(side), top, chroma


def _join_colors(images: Tensor, sixth: Tensor, top: Tensor, chroma: Tensor, hue: Tensor) -> None:
    """The way back, into images (B, 3, h, w), with hue (B, 1, 1) turns added.

    A channel is V - C * clamp(d - 1, 0, 1), where d is the distance of 6 * hue from its own place (red 0, green 2,
    blue 4) on a circle of length 6. From u, how far it is from the place across the circle, d = ||u| - 3|.
    """
    places = torch.arange(0, 6, 2, device=images.device)[:, None, None]
    across = (6 * hue[:, None] - places).remainder_(6).sub_(3)  # (B, 3, 1, 1), from -3 to 3: |u| is at most 6
    share = (sixth[:, None] + across).abs_().sub_(3).abs_().sub_(1).clamp_(0, 1)
    torch.addcmul(top[:, None], chroma[:, None], share, value=-1, out=images)


def _draw_colors(rng: SampleRNG, config: AugmentConfig) -> tuple[Array, Array, Array]:
    """(B,) each: hue in turns, factors of saturation and value."""
    return rng.uniform(-config.hue, config.hue), rng.factor(*config.saturation), rng.factor(*config.value)


def _moves(config: AugmentConfig, mosaic: bool) -> bool:
    amounts = (
        config.flip, config.jitter, config.expand, config.translate, config.degrees, config.shear, config.perspective,
    )  # fmt: skip
    tiled = mosaic and (config.mosaic > 0 or config.mixup > 0)
    # translate null moves only what does not fill the canvas, and then scale or jitter is set as well
    return any(amounts) or config.scale != (1.0, 1.0) or tiled


def _view(
    batch: Batch, config: AugmentConfig, rng: SampleRNG, own: Rows, size: tuple[int, int], mosaic: bool, fill: float
) -> Batch:
    """A random view for each of K results. own (K,): the image it shows, in a mosaic as its first tile."""
    placement = _draw_placement(batch, config, rng, own, size, mosaic)
    return warp(batch, placement, size, fill=fill, min_side=config.min_side, min_visible=config.min_visible)


def _draw_placement(
    batch: Batch, config: AugmentConfig, rng: SampleRNG, own: Rows, size: tuple[int, int], mosaic: bool
) -> WarpGeometry:
    canvas = np.array(batch.images.shape[:1:-1], dtype=np.float64)  # (width, height)
    contents = np.array([frame.content for frame in batch.frames])
    if not (mosaic and config.mosaic):
        plane, one = np.tile(canvas, (len(own), 1)), np.zeros((len(own), 1, 2))
        matrix = _draw_matrix(rng, config, plane, canvas, size) @ _draw_expansion(rng, config, contents[own])
        return WarpGeometry(own[:, None], one, np.full_like(plane, np.inf), matrix)
    is_mosaic = rng.bernoulli(config.mosaic)[:, None]
    tiles = np.concatenate([own[:, None], rng.integers(len(batch.images), 3)], axis=1)
    content = contents[tiles]  # (K, 4, xyxy)
    center = rng.uniform(0.5, 1.5, 2) * canvas
    # top left, top right, bottom left, bottom right: the corner of the content that touches the center
    touching = np.stack([content[:, range(4), [2, 0, 2, 0]], content[:, range(4), [3, 3, 1, 1]]], axis=-1)
    shift = np.where(is_mosaic[..., None], center[:, None] - touching, 0.0)
    plane = np.where(is_mosaic, 2.0, 1.0) * canvas
    extent = np.where(is_mosaic, np.concatenate([np.zeros_like(plane), plane], 1), contents[own])
    matrix = _draw_matrix(rng, config, plane, canvas, size) @ _draw_expansion(rng, config, extent)
    return WarpGeometry(tiles, shift, np.where(is_mosaic, center, np.inf), matrix)


def _draw_matrix(rng: SampleRNG, config: AugmentConfig, plane: Array, canvas: Array, size: tuple[int, int]) -> Array:
    """(K, 3, 3): turn, shear, scale and tilt about the middle of the plane ((K, 2) px), then place, then flip."""
    result = np.array(size[::-1], dtype=np.float64)
    aspect = rng.uniform(1 - config.jitter, 1 + config.jitter) / rng.uniform(1 - config.jitter, 1 + config.jitter)
    # as in the zoo, the longer side gets the scale: width times aspect below 1, else height divided by it
    factors = rng.uniform(*config.scale)[:, None] * np.stack(
        [np.minimum(aspect, 1), np.minimum(1 / aspect, 1)], axis=1
    )
    factors = factors * (result / canvas)
    angle = np.deg2rad(rng.uniform(-config.degrees, config.degrees))
    shear = np.tan(np.deg2rad(rng.uniform(-config.shear, config.shear, 2)))
    tilt = rng.uniform(-config.perspective, config.perspective, 2)
    where = rng.uniform(0, 1, 2)
    if config.translate is None:
        middle = factors * plane / 2 + where * (result - factors * plane)
    else:
        middle = result * (0.5 + (2 * where - 1) * config.translate)
    eye = np.tile(np.eye(3), (len(plane), 1, 1))
    centered, tilted, turned, sheared, placed = (eye.copy() for _ in range(5))
    centered[:, :2, 2] = -plane / 2
    tilted[:, 2, :2] = tilt
    turned[:, 0, 0], turned[:, 0, 1] = np.cos(angle), np.sin(angle)
    turned[:, 1, 0], turned[:, 1, 1] = -np.sin(angle), np.cos(angle)
    sheared[:, 0, 1], sheared[:, 1, 0] = shear[:, 0], shear[:, 1]
    placed[:, [0, 1], [0, 1]], placed[:, :2, 2] = factors, middle
    matrix = placed @ sheared @ turned @ tilted @ centered
    flipped = np.array([[-1.0, 0, result[0]], [0, 1, 0], [0, 0, 1]])
    return np.where(rng.bernoulli(config.flip)[:, None, None], flipped @ matrix, matrix)


def _draw_expansion(rng: SampleRNG, config: AugmentConfig, extent: Array) -> Array:
    """(K, 3, 3), or the unit matrix without a draw where nothing is expanded. extent: that of `expansion`."""
    if not config.expand:
        return np.eye(3)
    ratio = np.where(rng.bernoulli(config.expand), rng.uniform(1, 4), 1.0)
    return expansion(extent, ratio, rng.uniform(0, 1, 2))


def expansion(extent: Array, ratio: Array, where: Array) -> Array:
    """(K, 3, 3): what SSD's expansion does to an image that is then scaled to the size it had before.

    SSD puts it on an empty plane `ratio` (K,) times as wide and high. After scaling, the image is smaller by that
    ratio and lies within the rectangle `extent` (K, 4 as xyxy px) that it covered. where (K, 2): its place across and
    down, from 0 (left, top) to 1 (right, bottom).
    """
    result = np.tile(np.eye(3), (len(extent), 1, 1))
    result[:, [0, 1], [0, 1]] = 1 / ratio[:, None]
    result[:, :2, 2] = (1 - 1 / ratio[:, None]) * (extent[:, :2] + where * (extent[:, 2:] - extent[:, :2]))
    return result


def _mix(batch: Batch, first: Batch, rng: SampleRNG, config: AugmentConfig, size: tuple[int, int], fill: float) -> Batch:
    """Blend some of the results with another result each; the boxes of both count."""
    chosen = np.flatnonzero(rng.bernoulli(config.mixup))
    if not len(chosen):
        return first
    rng = rng.select(chosen)
    share, rows = to_device((rng.beta(8, 8)[:, None, None, None], chosen), first.images.device)
    rows = rows.long()
    own = rng.integers(len(batch.images), 1)[:, 0]
    second = _view(batch, config, rng, own, size, True, fill)
    first.images[rows] = torch.lerp(second.images, first.images[rows], share)
    more = [torch.full_like(first.labels, -1), torch.zeros_like(first.boxes), torch.zeros_like(first.ignore)]
    for target, source in zip(more, (second.labels, second.boxes, second.ignore), strict=True):
        target[rows] = source
    return replace(
        first,
        labels=torch.cat([first.labels, more[0]], 1),
        boxes=torch.cat([first.boxes, more[1]], 1),
        ignore=torch.cat([first.ignore, more[2]], 1),
    )
