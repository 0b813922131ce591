"""Readers of the sections of a .cfg, with Darknet's defaults and the size of each layer's map.

    (C, H, W): channels, height, width of a map; all divisions of sizes are integer divisions

Where the forks of Darknet differ, this follows AlexeyAB's; shortcuts between maps of different sizes follow pjreddie's.
"""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from boxwright.config import MAX_CLASSES
from boxwright.darknet_cfg.layers import (
    ACTIVATIONS,
    Activation,
    Connected,
    Convolution,
    Crop,
    DepthPool,
    GlobalPool,
    Head,
    Layer,
    Norm,
    Pool,
    Product,
    Reorg,
    Route,
    Same,
    ScaleChannels,
    Shape,
    Shortcut,
    Softmax,
    Upsample,
)  # fmt: skip
from boxwright.darknet_cfg.text import Section

MAX_MAP = 1 << 28  # numbers, 1 GiB: many times the largest of a detector at 1280 px
MAX_FILTERS = 1 << 16
USUAL_STEP = 32  # px: the largest stride of most networks
# Darknet's other layers: of YOLOv1, of recurrent networks, for training, and rare ones
UNSUPPORTED = {
    "local", "detection", "rnn", "gru", "lstm", "crnn", "conv_lstm", "history", "contrastive", "implicit", "lrn",
    "normalization", "empty", "deconvolutional", "logistic", "l2norm", "iseg",
}  # fmt: skip
SIMPLE = ACTIVATIONS - {"swish", "mish"}  # activations of [scale_channels] and [sam]


@dataclass(frozen=True)
class Before:
    """Layers before a section, and helpers for its reader."""

    section: Section
    image: Shape
    layers: Sequence[Layer]

    @property
    def shape(self) -> Shape:
        """Shape of the map of the previous layer."""
        return self.layers[-1].shape if self.layers else self.image

    @property
    def previous(self) -> int:
        return len(self.layers) - 1

    @property
    def size_hint(self) -> str:
        """End of a message about maps that do not fit, if the input size may be the reason."""
        odd = any(side % USUAL_STEP for side in self.image[1:])
        return f"; try a width and height in [net] that are multiples of {USUAL_STEP}" if odd else ""

    def numbers(self, key: str) -> tuple[int, ...]:
        """Numbers of the layers that `key` names: negative ones count from here, others from the first.

        Raises InputError if the key is missing, or there is no such layer before this one.
        """
        found = []
        for number in self.section.integers(key):
            index = number + len(self.layers) if number < 0 else number
            if not 0 <= index < len(self.layers):
                raise self.section.error(
                    f"there is no layer {number} here, this is layer {len(self.layers)}; "
                    f"needed -1 to -{len(self.layers)}, or 0 to {self.previous}", key
                )  # fmt: skip
            jumped = self.layers[index]
            if getattr(jumped, "blur", 0) and index != self.previous:
                raise self.section.error(f"layer {index} has antialiasing, only the next layer can read it", key)
            found.append(index)
        if not found:
            raise self.section.error(f"needed {key}=, the numbers of layers")
        return tuple(found)

    def positive(self, key: str, default: int, largest: int = MAX_FILTERS) -> int:
        """An integer of at least 1 and at most `largest`."""
        value = self.section.integer(key, default)
        if not 1 <= value <= largest:
            raise self.section.error(f"needed {key} of 1 to {largest:,}", key)
        return value

    def strides(self, default: int) -> tuple[int, int]:
        """Stride (y, x)."""
        both = self.section.integer("stride", default)
        pair = tuple(value if (value := self.section.integer(key)) > 0 else both for key in ("stride_y", "stride_x"))
        if min(pair) < 1:
            raise self.section.error("needed a stride of 1 or more", "stride")
        return pair[0], pair[1]

    def activation(self, default: str, *, allowed: frozenset[str] = ACTIVATIONS) -> str:
        """Name of the activation; relu for an unknown one, as in Darknet."""
        word = self.section.word("activation", default)
        word = word if word in ACTIVATIONS else "relu"
        if word not in allowed:
            raise self.section.error(f"[{self.section.kind}] cannot have this activation", "activation")
        return word

    def map_size(self, size: int, padding: int, stride: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of the output of a window. padding: of both sides together, px."""
        _, h, w = self.shape
        sides = [(side + padding - size) // step + 1 for side, step in zip((h, w), stride, strict=True)]
        return sides[0], sides[1]


def _convolution(before: Before) -> Convolution:
    section, channels = before.section, before.shape[0]
    size, filters = before.positive("size", 1, 1024), before.positive("filters", 1)
    stride = before.strides(1)
    groups, dilation = before.positive("groups", 1), before.positive("dilation", 1, 1024) if size > 1 else 1
    padding = size // 2 if section.integer("pad") else section.integer("padding")
    if not 0 <= padding <= 4096:
        raise section.error("needed a padding of 0 to 4096", "padding")
    if dilation > 1 and (padding != size // 2 or size % 2 == 0):
        raise section.error("needed pad=1 and an odd size, without which Darknet's own output is undefined", "dilation")
    if channels % groups or filters % groups:
        raise section.error(f"{channels} channels and {filters} filters do not divide into {groups} groups", "groups")
    blur = section.integer("antialiasing")
    h, w = before.map_size(size, 2 * padding, (1, 1) if blur else stride)
    if blur:
        h, w = _blurred(h, w, blur, stride)
    own = Convolution(
        section, (before.previous,), (filters, h, w), channels, filters, size, stride, padding, dilation, groups,
        bool(section.integer("batch_normalize") or section.integer("cbn")), before.activation("logistic"), blur, None,
    )  # fmt: skip
    return own if not section.has("share_index") else _shared(own, before)


def _shared(own: Convolution, before: Before) -> Convolution:
    (index,) = before.numbers("share_index")
    other = before.layers[index]
    while isinstance(other, Convolution) and other.share is not None:
        index, other = other.share, before.layers[other.share]
    same = ("channels", "filters", "size", "groups", "norm")
    if not isinstance(other, Convolution) or any(getattr(own, name) != getattr(other, name) for name in same):
        line = f"layer {index} is not a convolution of equal channels, filters and size"
        raise own.section.error(line, "share_index")
    return Convolution(**{**vars(own), "share": index})


def _blurred(h: int, w: int, blur: int, stride: tuple[int, int]) -> tuple[int, int]:
    """(H, W) after the blur: 2 is the mean of 2 x 2 px without padding, others are 3 x 3 px with padding 1."""
    lost = 2 if blur == 2 else 1
    return (h - lost) // stride[0] + 1, (w - lost) // stride[1] + 1


def _pool(before: Before) -> Layer:
    section, (c, _, _) = before.section, before.shape
    average = section.kind == "local_avgpool"
    if not average and section.integer("maxpool_depth"):
        filters = before.positive("out_channels", 1)
        if c % filters:
            raise section.error(f"{c} channels do not divide into {filters}", "out_channels")
        return DepthPool(section, (before.previous,), (filters, *before.shape[1:]), filters)
    stride = before.strides(1)
    size = before.positive("size", section.integer("stride", 1), 4096)
    padding = section.integer("padding", size - 1)
    # PyTorch and exported files only pad by less than the window
    if not 0 <= padding <= 2 * (size - 1):
        raise section.error(f"needed a padding of 0 to {2 * (size - 1)} in total for size {size}", "padding")
    blur = 0 if average else section.integer("antialiasing")
    h, w = before.map_size(size, padding, (1, 1) if blur else stride)
    if blur:
        h, w = _blurred(h, w, blur, stride)
    return Pool(section, (before.previous,), (c, h, w), "average" if average else "max", size, stride, padding, blur)


def _upsample(before: Before) -> Upsample:
    section, (c, h, w) = before.section, before.shape
    stride, scale = section.integer("stride", 2), section.number("scale", 1.0)
    if not 1 <= abs(stride) <= 1024:
        raise section.error("needed a stride of 1 to 1024", "stride")
    shape = (c, h * stride, w * stride) if stride > 0 else (c, h // -stride, w // -stride)
    return Upsample(section, (before.previous,), shape, stride, scale)


def _route(before: Before) -> Route:
    section, inputs = before.section, before.numbers("layers")
    shapes = [before.layers[index].shape for index in inputs]
    groups, group_id = before.positive("groups", 1), section.integer("group_id")
    if len({shape[1:] for shape in shapes}) > 1:
        sizes = ", ".join(f"{h}x{w}" for _, h, w in shapes[:6])
        raise section.error(f"the maps have the sizes {sizes}, needed equal ones{before.size_hint}", "layers")
    if not 0 <= group_id < groups or any(shape[0] % groups for shape in shapes):
        raise section.error(f"channels do not divide into {groups} groups, or there is no group {group_id}", "groups")
    channels = sum(shape[0] // groups for shape in shapes)
    return Route(section, inputs, (channels, *shapes[0][1:]), groups, group_id)


def _shortcut(before: Before) -> Shortcut:
    section, others = before.section, before.numbers("from")
    c, h, w = before.shape
    for index in others:
        _, y, x = before.layers[index].shape
        if (y, x) != (h, w) and (
            len(others) > 1 or max(1, y // h) != max(1, x // w) or max(1, h // y) != max(1, w // x)
        ):
            raise section.error(f"maps of {h}x{w} and {y}x{x} px cannot be added", "from")
    kind, normalization = section.word("weights_type", "none"), section.word("weights_normalization", "none")
    if kind not in {"none", "per_feature", "per_layer", "per_channel"}:
        raise section.error("needed none, per_feature or per_channel", "weights_type")
    if kind != "none" and normalization not in {"none", "relu", "avg_relu", "softmax"}:
        raise section.error("needed relu or softmax", "weights_normalization")
    weights = (0, 0) if kind == "none" else (len(others) + 1, c if kind == "per_channel" else 1)
    inputs = (before.previous, *others)
    return Shortcut(section, inputs, before.shape, weights, normalization, before.activation("linear"))


def _scale_channels(before: Before) -> ScaleChannels:
    section, (index, *_) = before.section, before.numbers("from")
    other, (c, h, w) = before.layers[index].shape, before.shape
    places = bool(section.integer("scale_wh"))
    if (c, h, w) != ((1, *other[1:]) if places else (other[0], 1, 1)):
        raise section.error(f"a map of {c}x{h}x{w} cannot scale one of {'x'.join(map(str, other))}", "from")
    activation = before.activation("linear", allowed=SIMPLE)
    return ScaleChannels(section, (before.previous, index), other, places, activation)


def _product(before: Before) -> Product:
    section, (index, *_) = before.section, before.numbers("from")
    if before.layers[index].shape != before.shape:
        raise section.error(f"needed two equal maps, found {before.shape} and {before.layers[index].shape}", "from")
    return Product(section, (before.previous, index), before.shape, before.activation("linear", allowed=SIMPLE))


def _reorg(before: Before) -> Reorg:
    section, (c, h, w) = before.section, before.shape
    stride, reverse = before.positive("stride", 1, 1024), bool(section.integer("reverse"))
    area = stride * stride
    shape = (c // area, h * stride, w * stride) if reverse else (c * area, h // stride, w // stride)
    in_memory = section.kind == "reorg"
    # divisor of the channels: [reorg] reinterprets as (C / area, H s, W s), [reorg3d] back divides once more
    divisor = 1 if not (reverse or in_memory) else area if in_memory else area * area
    if c % divisor or (not reverse and (h % stride or w % stride)):
        raise section.error(
            f"a map of {c}x{h}x{w} does not divide by {stride}, or its channels by {divisor}{before.size_hint}",
            "stride",
        )
    return Reorg(section, (before.previous,), shape, stride, reverse, in_memory)


def _connected(before: Before) -> Connected:
    section, (c, h, w) = before.section, before.shape
    outputs = before.positive("output", 1)
    norm, activation = bool(section.integer("batch_normalize")), before.activation("logistic")
    if "normalize" in activation:
        raise section.error("a connected layer cannot have this activation", "activation")
    return Connected(section, (before.previous,), (outputs, 1, 1), c * h * w, outputs, norm, activation)


def _crop(before: Before) -> Crop:
    section, (c, h, w) = before.section, before.shape
    shape = (c, before.positive("crop_height", 1), before.positive("crop_width", 1))
    if shape[1] > h or shape[2] > w:
        raise section.error(f"cannot cut {shape[1]}x{shape[2]} px out of {h}x{w}")
    return Crop(section, (before.previous,), shape, not section.integer("noadjust"))


def _softmax(before: Before) -> Softmax:
    section, (c, h, w) = before.section, before.shape
    groups, temperature = before.positive("groups", 1), section.number("temperature", 1.0)
    if (c * h * w) % groups:
        raise section.error(f"{c * h * w} numbers do not divide into {groups} groups", "groups")
    if temperature <= 0:
        raise section.error("needed a temperature above 0", "temperature")
    return Softmax(section, (before.previous,), before.shape, groups, temperature)


def head_mask(section: Section) -> tuple[int, ...]:
    """Indices of a head's anchors in its list `anchors`."""
    mask = () if section.kind == "region" else section.integers("mask", end="#")
    return mask or tuple(range(section.integer("num", 1)))


def _head(before: Before) -> Head:
    section = before.section
    region = section.kind == "region"
    classes = before.positive("classes", 20, MAX_CLASSES)
    before.positive("num", 1)  # check the range before a mask of this length is made
    mask = head_mask(section)
    values = 9 if section.kind == "Gaussian_yolo" else 5
    needed, found = len(mask) * (values + classes), before.shape[0]
    if found != needed:
        raise section.error(
            f"{len(mask)} anchors of {values} + {classes} numbers take {needed} channels, the layer before has {found};"
            f" set its filters={needed}"
        )
    numbers = section.numbers("anchors")
    pairs = tuple(zip(numbers[::2], numbers[1::2], strict=False))  # an odd number at the end is dropped
    missing = [index for index in mask if not 0 <= index < len(pairs)]
    if missing:
        raise section.error(
            f"anchor {missing[0]} is used, there are {len(pairs)} pairs; needed a pair for each, commas between",
            "anchors",
        )
    anchors = tuple(pairs[index] for index in mask)
    if any(side <= 0 for pair in anchors for side in pair):
        raise section.error("needed anchors above 0", "anchors")
    scale_xy, new_coords = section.number("scale_x_y", 1.0), bool(section.integer("new_coords"))
    plain = section.kind == "yolo"
    return Head(
        section, (before.previous,), before.shape, anchors, classes, 1.0 if region else scale_xy,
        plain and new_coords, region and bool(section.integer("softmax")), values,
    )  # fmt: skip


def _same(kind: type[Layer]) -> Callable[[Before], Layer]:
    """Reader of a layer without keys whose output has the shape of its input."""
    return lambda before: kind(before.section, (before.previous,), before.shape)


def _dropout(before: Before) -> Same:
    section = before.section
    probability = section.number("probability", 0.2)
    if not 0 <= probability < 1:
        raise section.error("needed a probability of 0 to less than 1", "probability")
    return Same(section, (before.previous,), before.shape, probability)


def _global_pool(before: Before) -> GlobalPool:
    return GlobalPool(before.section, (before.previous,), (before.shape[0], 1, 1))


def _activation(before: Before) -> Activation:
    return Activation(before.section, (before.previous,), before.shape, before.activation("linear"))


READERS: dict[str, Callable[[Before], Layer]] = {
    "convolutional": _convolution, "maxpool": _pool, "local_avgpool": _pool, "avgpool": _global_pool,
    "upsample": _upsample, "route": _route, "shortcut": _shortcut, "scale_channels": _scale_channels,
    "sam": _product, "reorg": _reorg, "reorg3d": _reorg, "connected": _connected, "batchnorm": _same(Norm),
    "activation": _activation, "crop": _crop, "softmax": _softmax, "dropout": _dropout, "cost": _same(Same),
    "yolo": _head, "Gaussian_yolo": _head, "region": _head,
}  # fmt: skip


def check_kind(section: Section) -> None:
    """Raise InputError for a kind of layer that is not supported, or that Darknet does not have."""
    if section.kind in READERS:
        return
    if section.kind in UNSUPPORTED:
        raise section.error("layers of this kind are not supported")
    near = difflib.get_close_matches(section.kind[:40], READERS, n=1)
    raise section.error("not a layer of Darknet" + (f"; did you mean [{near[0]}]?" if near else ""))


def read_layer(section: Section, image: Shape, layers: Sequence[Layer]) -> Layer:
    """Read the layer of `section`, whose kind is supported, and which follows `layers`.

    Raises:
        InputError: With file, line and section, for values that do not fit.
    """
    layer = READERS[section.kind](Before(section, image, layers))
    c, h, w = layer.shape
    if min(c, h, w) < 1:
        raise section.error(f"its output would be {c}x{h}x{w}, needed a larger input or a smaller window")
    if c * h * w > MAX_MAP:
        raise section.error(f"its output of {c}x{h}x{w} is more than {MAX_MAP:,} numbers, needed a smaller one")
    return layer
