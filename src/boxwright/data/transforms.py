"""Everything random that happens to pictures and boxes, for a whole batch on its own device.

    B images, M boxes an image, H x W canvas px, h x w px of the result; K results of one warp (B, or fewer for mixup),
    T tiles a result is made of (1, or 4 in a mosaic)

What is drawn for a picture is a pure function of (seed, step, its place in the batch of the whole group of
processes). A resumed run draws what the interrupted one would have drawn, and two processes with half a batch draw
what one with the whole batch draws; but mosaic and mixup take their partners from the process's own batch.

Coordinates are continuous: pixel i covers i to i + 1.
"""

import random
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright.recipe import AugmentConfig
from boxwright.types import Batch

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


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
    """Random flips, placement, mosaic, mixup and colours: uint8 canvases -> (B, 3, *size) float32 in [0, 1].

    size: (height, width) px of the result. mosaic: False leaves out mosaic and mixup (the last epochs). fill: grey, 0
    to 255, of what no picture covers; the canvas's own. Rows of boxes and labels: M, 4M with mosaic, and twice that
    where mixup blended something.

    A box that the warp leaves with a side of `config.min_side` px or less, or with less than `config.min_visible` of
    its area, gets label -1: it is no target in this step. Configured to do nothing, this changes no box.
    """
    dice = _Dice.for_batch(seed, step, rank, len(batch.images))
    hue, saturation, value = _draw_colours(dice, config)
    if size == batch.images.shape[2:] and not _moves(config, mosaic):
        result = replace(batch, images=batch.images.float().div_(255))
    else:
        own = np.arange(len(batch.images))
        result = _warp(batch, _draw_placement(dice, batch, config, size, own, mosaic), config, size, fill)
        if mosaic and config.mixup:
            result = _mix(batch, result, dice, config, size, fill)
    if config.hue or config.saturation != (1.0, 1.0) or config.value != (1.0, 1.0):
        device = batch.images.device
        change_colours(result.images, *(torch.tensor(v, dtype=torch.float32).to(device) for v in (hue, saturation, value)))
    return result


def step_size(config: AugmentConfig, canvas_size: tuple[int, int], seed: int, step: int) -> tuple[int, int]:
    """(height, width) px of the network's input in a step: the same in all processes, new every `resize_every` steps.

    The MindSpore zoo's rule: a list of keys from 1 to 1000 is drawn from the seed (the zoo's is 1234), and each key
    seeds the choice of a size.
    """
    if not config.sizes:
        return canvas_size
    keys = _size_keys(seed)
    return random.Random(keys[step // config.resize_every % len(keys)]).choice(config.sizes)


@cache
def _size_keys(seed: int) -> list[int]:
    draw = random.Random(seed)
    return [draw.randint(1, 1000) for _ in range(10**6)]


def change_colours(images: Tensor, hue: Tensor, saturation: Tensor, value: Tensor) -> None:
    """Change (B, 3, h, w) RGB in [0, 1] in place, through hue, saturation and value (HSV).

    hue (B,): added, in turns of the colour circle. saturation, value (B,): factors; the products are cut at 1.

    With chroma C = V * S, channel n of (5, 3, 1) is V - C * clamp(min(k, 4 - k), 0, 1), k = (n + 6 * hue) mod 6
    (the usual closed form of HSV to RGB).
    """
    hue, saturation, value = (each[:, None, None] for each in (hue, saturation, value))
    red, green, blue = images.unbind(1)
    top = images.amax(1)
    chroma = top - images.amin(1)
    safe = chroma.clamp(min=1e-12)
    sixth = (red - green).div_(safe).add_(4)
    sixth = torch.where(green == top, (blue - red).div_(safe).add_(2), sixth)
    sixth = torch.where(red == top, (green - blue).div_(safe), sixth).add_(6 * hue)
    chroma.div_(top.clamp(min=1e-12)).mul_(saturation).clamp_(max=1)  # now saturation
    top.mul_(value).clamp_(max=1)
    chroma.mul_(top)
    for channel, n in zip((red, green, blue), (5, 3, 1), strict=True):
        k = (sixth + n).remainder_(6)
        k = torch.minimum(k, 4 - k, out=k).clamp_(0, 1)
        torch.sub(top, k.mul_(chroma), out=channel)


class _Dice:
    """One generator of random numbers for each of K pictures; each draw gives (K, ...) values."""

    def __init__(self, generators: list[np.random.Generator]) -> None:
        self.generators = generators

    @classmethod
    def for_batch(cls, seed: int, step: int, rank: int, count: int) -> "_Dice":
        places = range(rank * count, (rank + 1) * count)
        return cls([np.random.default_rng([seed % 2**64, step, place]) for place in places])

    def of(self, rows: Rows) -> "_Dice":
        return _Dice([self.generators[row] for row in rows])

    def uniform(self, low: float, high: float, *shape: int) -> Array:
        return np.stack([each.uniform(low, high, shape) for each in self.generators])

    def chance(self, probability: float) -> npt.NDArray[np.bool_]:
        return self.uniform(0, 1) < probability

    def below(self, end: int, count: int) -> Rows:
        """(K, count) whole numbers from 0 to end - 1."""
        return np.stack([each.integers(end, size=count) for each in self.generators])

    def beta(self, a: float, b: float) -> Array:
        return np.array([each.beta(a, b) for each in self.generators])

    def factor(self, low: float, high: float) -> Array:
        """Down or up with equal chance, then uniform between 1 and that end."""
        return np.where(self.chance(0.5), self.uniform(low, 1), self.uniform(1, high))


def _draw_colours(dice: _Dice, config: AugmentConfig) -> tuple[Array, Array, Array]:
    """(B,) each: hue in turns, factors of saturation and value."""
    return dice.uniform(-config.hue, config.hue), dice.factor(*config.saturation), dice.factor(*config.value)


def _moves(config: AugmentConfig, mosaic: bool) -> bool:
    amounts = (config.flip, config.jitter, config.translate, config.degrees, config.shear, config.perspective)
    tiled = mosaic and (config.mosaic > 0 or config.mixup > 0)
    # translate null moves only what does not fill the canvas, and then scale or jitter is set as well
    return any(amounts) or config.scale != (1.0, 1.0) or tiled


@dataclass(frozen=True)
class _Placement:
    """Where the pictures of a batch go: first onto a plane, then by one matrix from the plane to the result.

    tiles (K, T): the picture that each tile shows. shift (K, T, 2): plane (x, y) px of its canvas's corner. centre
    (K, 2): plane point where the four tiles meet; infinite where tile 0 covers all. matrix (K, 3, 3): plane -> result.
    """

    tiles: Rows
    shift: Array
    centre: Array
    matrix: Array


def _draw_placement(
    dice: _Dice, batch: Batch, config: AugmentConfig, size: tuple[int, int], own: Rows, mosaic: bool
) -> _Placement:
    """own (K,): the picture that each result shows, in a mosaic as its first tile."""
    canvas = np.array(batch.images.shape[:1:-1], dtype=np.float64)  # (width, height)
    if not (mosaic and config.mosaic):
        plane, one = np.tile(canvas, (len(own), 1)), np.zeros((len(own), 1, 2))
        return _Placement(own[:, None], one, np.full_like(plane, np.inf), _draw_matrix(dice, config, plane, canvas, size))
    is_mosaic = dice.chance(config.mosaic)[:, None]
    tiles = np.concatenate([own[:, None], dice.below(len(batch.images), 3)], axis=1)
    content = np.array([frame.content for frame in batch.frames])[tiles]  # (K, 4, xyxy)
    centre = dice.uniform(0.5, 1.5, 2) * canvas
    # top left, top right, bottom left, bottom right: the corner of the content that touches the centre
    touching = np.stack([content[:, range(4), [2, 0, 2, 0]], content[:, range(4), [3, 3, 1, 1]]], axis=-1)
    shift = np.where(is_mosaic[..., None], centre[:, None] - touching, 0.0)
    plane = np.where(is_mosaic, 2.0, 1.0) * canvas
    matrix = _draw_matrix(dice, config, plane, canvas, size)
    return _Placement(tiles, shift, np.where(is_mosaic, centre, np.inf), matrix)


def _draw_matrix(dice: _Dice, config: AugmentConfig, plane: Array, canvas: Array, size: tuple[int, int]) -> Array:
    """(K, 3, 3): turn, shear, scale and tilt about the middle of the plane ((K, 2) px), then place, then flip."""
    result = np.array(size[::-1], dtype=np.float64)
    aspect = dice.uniform(1 - config.jitter, 1 + config.jitter) / dice.uniform(1 - config.jitter, 1 + config.jitter)
    # as in the zoo, the longer side gets the scale: width times aspect below 1, else height divided by it
    factors = dice.uniform(*config.scale)[:, None] * np.stack([np.minimum(aspect, 1), np.minimum(1 / aspect, 1)], axis=1)
    factors = factors * (result / canvas)
    angle = np.deg2rad(dice.uniform(-config.degrees, config.degrees))
    shear = np.tan(np.deg2rad(dice.uniform(-config.shear, config.shear, 2)))
    tilt = dice.uniform(-config.perspective, config.perspective, 2)
    where = dice.uniform(0, 1, 2)
    if config.translate is None:
        middle = factors * plane / 2 + where * (result - factors * plane)
    else:
        middle = result * (0.5 + (2 * where - 1) * config.translate)
    eye = np.tile(np.eye(3), (len(plane), 1, 1))
    centred, tilted, turned, sheared, placed = (eye.copy() for _ in range(5))
    centred[:, :2, 2] = -plane / 2
    tilted[:, 2, :2] = tilt
    turned[:, 0, 0], turned[:, 0, 1] = np.cos(angle), np.sin(angle)
    turned[:, 1, 0], turned[:, 1, 1] = -np.sin(angle), np.cos(angle)
    sheared[:, 0, 1], sheared[:, 1, 0] = shear[:, 0], shear[:, 1]
    placed[:, [0, 1], [0, 1]], placed[:, :2, 2] = factors, middle
    matrix = placed @ sheared @ turned @ tilted @ centred
    flipped = np.array([[-1.0, 0, result[0]], [0, 1, 0], [0, 0, 1]])
    return np.where(dice.chance(config.flip)[:, None, None], flipped @ matrix, matrix)


def _mix(batch: Batch, first: Batch, dice: _Dice, config: AugmentConfig, size: tuple[int, int], fill: float) -> Batch:
    """Blend some of the results with another result each; the boxes of both count."""
    chosen = np.flatnonzero(dice.chance(config.mixup))
    if not len(chosen):
        return first
    dice = dice.of(chosen)
    share = torch.tensor(dice.beta(8, 8), dtype=torch.float32)[:, None, None, None].to(first.images.device)
    own = dice.below(len(batch.images), 1)[:, 0]
    second = _warp(batch, _draw_placement(dice, batch, config, size, own, True), config, size, fill)
    rows = torch.from_numpy(chosen).to(first.images.device)
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


def _warp(batch: Batch, placement: _Placement, config: AugmentConfig, size: tuple[int, int], fill: float) -> Batch:
    """K results: pixels by one sampling of the canvases, boxes by the same matrices."""
    device = batch.images.device
    content = np.array([frame.content for frame in batch.frames])[placement.tiles]
    tiles = torch.from_numpy(placement.tiles).to(device)
    shift, centre, matrix, inverse, content = (
        torch.tensor(each, dtype=torch.float32).to(device)
        for each in (placement.shift, placement.centre, placement.matrix, np.linalg.inv(placement.matrix), content)
    )
    canvases = batch.images.float().sub_(fill).div_(255)  # so that the zeros which sampling pads with are the fill
    flat = config.perspective == 0
    if tiles.shape[1] == 1:
        images = _sample_one(canvases, tiles, inverse, size, flat)
    else:
        images = _sample_mosaic(canvases, tiles, shift, centre, content, inverse, size, flat)
    images.add_(fill / 255).clamp_(0, 1)
    boxes, labels, ignore = _move_boxes(batch, config, tiles, shift, centre, matrix, size)
    return Batch(images, boxes, labels, ignore, batch.frames)
