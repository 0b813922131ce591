"""The layers of Darknet's .cfg files as modules, each built from its description in `darknet_cfg/layers.py`.

    B images, C x H x W numbers of a map

Parameters are declared in the order of .weights files.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.darknet_cfg import layers
from boxwright.nn.darknet_activations import DARKNET_EPS, activation

EPS = 1e-5  # of batch norm, under the root
# Lowest sum of the weights of a shortcut with weights_normalization=relu, as Darknet folds it for inference
MIN_WEIGHT = 1e-3


class Convolution(nn.Module):
    """[convolutional]: (B, C, H, W) -> (B, filters, H', W'), blurred if it has antialiasing."""

    def __init__(self, plan: layers.Convolution, momentum: float) -> None:
        super().__init__()
        self.plan = plan
        self.stride = (1, 1) if plan.blur else plan.stride
        self.padding = plan.padding * plan.dilation
        if plan.share is None:
            self.conv = nn.Conv2d(
                plan.channels, plan.filters, plan.size, self.stride, self.padding, plan.dilation, plan.groups,
                bias=not plan.norm,
            )  # fmt: skip
            self.norm = nn.BatchNorm2d(plan.filters, EPS, momentum) if plan.norm else nn.Identity()
        self.act = activation(plan.activation)
        self.blur = Blur(plan.filters, plan.blur, plan.stride) if plan.blur else nn.Identity()

    def forward(self, x: Tensor, other: "Convolution | None" = None) -> Tensor:
        """Run the layer. other: the layer whose weights and batch norm it uses (`share_index`)."""
        if other is None:
            y = self.norm(self.conv(x))
        else:
            groups, dilation = self.plan.groups, self.plan.dilation
            y = other.norm(F.conv2d(x, other.conv.weight, other.conv.bias, self.stride, self.padding, dilation, groups))
        blurred: Tensor = self.blur(self.act(y))
        return blurred


class Blur(nn.Module):
    """Antialiasing: the mean of 2 x 2 px without padding, or (1 2 1) / 4 in both directions, at a stride."""

    kernel: Tensor

    def __init__(self, channels: int, kind: int, stride: tuple[int, int]) -> None:
        super().__init__()
        self.stride, self.padding = stride, 0 if kind == 2 else 1
        row = torch.tensor([0.5, 0.5] if kind == 2 else [0.25, 0.5, 0.25])
        self.register_buffer("kernel", torch.outer(row, row).expand(channels, 1, -1, -1).contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, None, self.stride, self.padding, groups=len(self.kernel))


class Pool(nn.Module):
    """[maxpool] or [local_avgpool]; padding is never the maximum, and does not count in the average."""

    def __init__(self, plan: layers.Pool) -> None:
        super().__init__()
        self.plan = plan
        self.stride = (1, 1) if plan.blur else plan.stride
        first = plan.padding // 2
        self.first, self.last = first, plan.padding - first
        self.blur = Blur(plan.shape[0], plan.blur, plan.stride) if plan.blur else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        size, first, last = self.plan.size, self.first, self.last
        if self.plan.kind == "average":
            places = F.pad(torch.ones_like(x[:1, :1]), (first, last, first, last))
            sums = F.avg_pool2d(F.pad(x, (first, last, first, last)), size, self.stride)
            return sums / F.avg_pool2d(places, size, self.stride)
        if first == last <= size // 2:
            y = F.max_pool2d(x, size, self.stride, first)
        else:
            y = F.max_pool2d(F.pad(x, (first, last, first, last), value=-math.inf), size, self.stride)
        pooled: Tensor = self.blur(y)
        return pooled


class DepthPool(nn.Module):
    """(B, C, H, W) -> (B, filters, H, W): channel g is the maximum over g, g + filters, ..."""

    def __init__(self, plan: layers.DepthPool) -> None:
        super().__init__()
        self.filters = plan.filters

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        return x.reshape(b, -1, self.filters, h, w).amax(1)


class GlobalPool(nn.Module):
    """Global average pooling: (B, C, H, W) -> (B, C, 1, 1)."""

    def __init__(self, plan: layers.GlobalPool) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=True)


class Upsample(nn.Module):
    def __init__(self, plan: layers.Upsample) -> None:
        super().__init__()
        self.stride, self.scale = plan.stride, plan.scale

    def forward(self, x: Tensor) -> Tensor:
        if self.stride > 0:
            y = F.interpolate(x, scale_factor=float(self.stride), mode="nearest") if self.stride > 1 else x
        else:
            y = F.avg_pool2d(x, -self.stride) * self.stride**2
        return y if self.scale == 1 else y * self.scale


class Route(nn.Module):
    """Concatenation of the same group of channels of each input map."""

    def __init__(self, plan: layers.Route) -> None:
        super().__init__()
        self.groups, self.group_id = plan.groups, plan.group_id

    def forward(self, *maps: Tensor) -> Tensor:
        if self.groups > 1:
            maps = tuple(self.block(x) for x in maps)
        return maps[0] if len(maps) == 1 else torch.cat(maps, 1)

    def block(self, x: Tensor) -> Tensor:
        size = x.shape[1] // self.groups
        return x[:, self.group_id * size : (self.group_id + 1) * size]


class Shortcut(nn.Module):
    """Sum of maps, in the shape of the first; missing channels count as 0, extra ones are dropped.

    Of a larger map, every second (third, ...) row and column is used.
    """

    def __init__(self, plan: layers.Shortcut) -> None:
        super().__init__()
        self.normalization = plan.normalization
        self.weights = nn.Parameter(torch.empty(plan.weights)) if plan.weights[0] else None
        if self.weights is not None:
            nn.init.ones_(self.weights)
        self.act = activation(plan.activation)

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        factors = None if self.weights is None else self.factors(self.weights)
        y = x if factors is None else x * factors[0]
        for number, other in enumerate(others, 1):
            y = _add(y, other, None if factors is None else factors[number])
        summed: Tensor = self.act(y)
        return summed

    def factors(self, weights: Tensor) -> Tensor:
        """Normalized weights: (inputs, 1 or C) -> (inputs, 1 or C, 1, 1)."""
        if self.normalization in {"relu", "avg_relu"}:
            weights = weights.clamp(min=MIN_WEIGHT)
        elif self.normalization == "softmax":
            weights = (weights - weights.amax(0, keepdim=True)).exp()
        if self.normalization != "none":
            weights = weights / (DARKNET_EPS + weights.sum(0, keepdim=True))
        return weights[..., None, None]


def _add(x: Tensor, other: Tensor, factor: Tensor | None) -> Tensor:
    """x (B, C, H, W) + other (B, C', H', W') times factor (1 or C, 1, 1), in the size of x."""
    (c, h, w), (c2, h2, w2) = x.shape[1:], other.shape[1:]
    if factor is not None:
        other = other[:, :c] * factor[: min(c, c2)]
    if (h, w) == (h2, w2):
        if c == c2:
            return x + other
        if c2 > c:
            return x + other[:, :c]
        return torch.cat((x[:, :c2] + other, x[:, c2:]), 1)
    down, up = max(1, w2 // w), max(1, w // w2)
    part = other[:, :c, ::down, ::down][:, :, :h, :w]
    if up > 1:  # zeros between its cells
        part = F.pad(part[:, :, :, None, :, None], (0, up - 1, 0, 0, 0, up - 1)).flatten(4, 5).flatten(2, 3)
    return x + F.pad(part, (0, w - part.shape[3], 0, h - part.shape[2], 0, c - part.shape[1]))


class ScaleChannels(nn.Module):
    """(B, C, 1, 1) or (B, 1, H, W), (B, C, H, W) -> their product."""

    def __init__(self, plan: layers.ScaleChannels | layers.Product) -> None:
        super().__init__()
        self.act = activation(plan.activation)

    def forward(self, factor: Tensor, x: Tensor) -> Tensor:
        y: Tensor = self.act(x * factor)
        return y


class Reorg(nn.Module):
    """(B, C, H, W) -> (B, C s s, H / s, W / s), or back. [reorg], and [reorg3d] back, first reinterpret the map's
    memory as (C / s s, H s, W s), so that they mix cells and channels (as in YOLOv2)."""

    def __init__(self, plan: layers.Reorg) -> None:
        super().__init__()
        self.stride, self.reverse = plan.stride, plan.reverse
        self.step = depth_to_space if plan.reverse else space_to_depth
        self.mixed = plan.in_memory != plan.reverse

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        s = self.stride
        if self.mixed:
            x = x.reshape(b, c // (s * s), h * s, w * s)
        y = self.step(x, s)
        if not self.mixed:
            return y
        out = (c // (s * s), h * s, w * s) if self.reverse else (c * s * s, h // s, w // s)
        return y.reshape(b, *out)


def space_to_depth(x: Tensor, s: int) -> Tensor:
    """(B, C, H, W) -> (B, s s C, H / s, W / s), by row and column in the block, then channel."""
    b, c, h, w = x.shape
    blocks = x.reshape(b, c, h // s, s, w // s, s)
    return blocks.permute(0, 3, 5, 1, 2, 4).reshape(b, s * s * c, h // s, w // s)


def depth_to_space(x: Tensor, s: int) -> Tensor:
    """Inverse of `space_to_depth`: (B, s s C, H, W) -> (B, C, H s, W s)."""
    b, c, h, w = x.shape
    blocks = x.reshape(b, s, s, c // (s * s), h, w)
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape(b, c // (s * s), h * s, w * s)


class Norm(nn.BatchNorm2d):
    """[batchnorm]: batch norm that is not part of a convolution."""


class Connected(nn.Module):
    """[connected]: (B, C, H, W) -> (B, outputs, 1, 1)."""

    def __init__(self, plan: layers.Connected, momentum: float) -> None:
        super().__init__()
        self.linear = nn.Linear(plan.size, plan.outputs, bias=not plan.norm)
        self.norm = nn.BatchNorm1d(plan.outputs, EPS, momentum) if plan.norm else nn.Identity()
        self.act = activation(plan.activation)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.norm(self.linear(x.flatten(1))))
        return y[:, :, None, None]


class Crop(nn.Module):
    """Center crop of a map."""

    def __init__(self, plan: layers.Crop) -> None:
        super().__init__()
        self.size, self.adjust = plan.shape[1:], plan.adjust

    def forward(self, x: Tensor) -> Tensor:
        height, width = self.size
        top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
        x = x[:, :, top : top + height, left : left + width]
        return 2 * x - 1 if self.adjust else x


class Softmax(nn.Module):
    """Softmax over equal groups of the values of a map."""

    def __init__(self, plan: layers.Softmax) -> None:
        super().__init__()
        self.groups, self.temperature = plan.groups, plan.temperature

    def forward(self, x: Tensor) -> Tensor:
        runs = x.reshape(len(x), self.groups, -1) / self.temperature
        return runs.softmax(2).reshape(x.shape)


class Head(nn.Module):
    """Head as a layer, whose output other layers may read: (B, A * values, h, w) -> the activated map of that shape."""

    def __init__(self, plan: layers.Head) -> None:
        super().__init__()
        self.plan = plan

    def forward(self, x: Tensor) -> Tensor:
        plan = self.plan
        cells = x.reshape(len(x), len(plan.anchors), -1, *x.shape[2:])
        place, size, rest = cells[:, :, :2], cells[:, :, 2:4], cells[:, :, 4:]
        if plan.values == 9:  # x, sx, y, sy, w, sw, h, sh
            parts = [cells[:, :, i : i + 1] if i in (4, 6) else cells[:, :, i : i + 1].sigmoid() for i in range(9)]
            for i in (0, 2):
                parts[i] = parts[i] * plan.scale_xy - (plan.scale_xy - 1) / 2
            return torch.cat((*parts, cells[:, :, 9:].sigmoid()), 2).flatten(1, 2)
        if not plan.new_coords:
            place = place.sigmoid()
            rest = (
                torch.cat((rest[:, :, :1].sigmoid(), rest[:, :, 1:].softmax(2)), 2) if plan.softmax else rest.sigmoid()
            )
        place = place * plan.scale_xy - (plan.scale_xy - 1) / 2
        return torch.cat((place, size, rest), 2).flatten(1, 2)


def module(plan: layers.Layer, momentum: float) -> nn.Module:
    """Build the module of a layer, with random weights. momentum: of batch norm, as torch defines it."""
    match plan:
        case layers.Convolution():
            return Convolution(plan, momentum)
        case layers.Connected():
            return Connected(plan, momentum)
        case layers.Norm():
            return Norm(plan.shape[0], EPS, momentum)
        case layers.Activation():
            return _apart(activation(plan.activation))
        case layers.Same():
            return nn.Dropout(plan.dropout) if plan.dropout else nn.Identity()
    return PARTS[type(plan)](plan)


def _apart(act: nn.Module) -> nn.Module:
    """`act` as a separate layer, not in place, since other layers may read its input."""
    if hasattr(act, "inplace"):
        setattr(act, "inplace", False)  # noqa: B010 (mypy takes it for a parameter)
    return act


PARTS: dict[type[layers.Layer], Callable[..., nn.Module]] = {
    layers.Pool: Pool, layers.DepthPool: DepthPool, layers.GlobalPool: GlobalPool, layers.Upsample: Upsample,
    layers.Route: Route, layers.Shortcut: Shortcut, layers.ScaleChannels: ScaleChannels, layers.Product: ScaleChannels,
    layers.Reorg: Reorg, layers.Crop: Crop, layers.Softmax: Softmax, layers.Head: Head,
}  # fmt: skip
