"""Network of a .cfg: its layers, its input, its heads, and the keys that have no effect on its output."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from boxwright.darknet_cfg.layers import ACTIVATIONS, Connected, Convolution, Head, Layer, Shape
from boxwright.darknet_cfg.readers import check_kind, head_mask, read_layer
from boxwright.darknet_cfg.text import Section, parse

MAX_SIDE = 1 << 14  # px
MAX_CHANNELS = 1 << 22  # of all layers together, since batch norm takes memory before the file of weights is read
# The keys of each section that affect the output of a network
WINDOW = {"size", "stride", "stride_x", "stride_y", "padding"}
USED_KEYS = {
    "net": {"width", "height", "channels", "letter_box"},
    "convolutional": WINDOW
    | {"filters", "groups", "pad", "dilation", "batch_normalize", "cbn", "activation", "antialiasing", "share_index"},
    "maxpool": WINDOW | {"maxpool_depth", "out_channels", "antialiasing"},
    "local_avgpool": WINDOW,
    "upsample": {"stride", "scale"},
    "route": {"layers", "groups", "group_id"},
    "shortcut": {"from", "weights_type", "weights_normalization", "activation"},
    "scale_channels": {"from", "scale_wh", "activation"},
    "sam": {"from", "activation"},
    "reorg": {"stride", "reverse"},
    "reorg3d": {"stride", "reverse"},
    "connected": {"output", "batch_normalize", "activation"},
    "activation": {"activation"},
    "crop": {"crop_height", "crop_width", "noadjust"},
    "softmax": {"groups", "temperature"},
    "yolo": {"classes", "num", "mask", "anchors", "scale_x_y", "new_coords", "nms_kind", "beta_nms"},
    "Gaussian_yolo": {"classes", "num", "mask", "anchors", "scale_x_y", "nms_kind", "beta_nms"},
    "region": {"classes", "num", "anchors", "softmax"},
}
# Unsupported keys that change the output, with the values that do not: 0, or these.
UNSUPPORTED: dict[str, dict[str, tuple[str, ...]]] = {
    "convolutional": dict.fromkeys(("binary", "xnor", "bin_output", "flipped"), ()),
    "maxpool": {"maxpool_zero_nonmax": ()},
    "softmax": {"tree": (), "spatial": ()},
    "Gaussian_yolo": {"yolo_point": ("center",)},
    "region": {"tree": (), "map": (), "coords": ("4",), "classfix": (), "log": (), "sqrt": (), "background": ()},
}
UNSUPPORTED_ANYWHERE = ("dontload", "dontloadscales")


@dataclass(frozen=True)
class Plan:
    """A network as its .cfg describes it.

    Attributes:
        net: The section [net].
        image: (C, H, W) of its input, px.
        layers: In the file's order, which is also the order of .weights files.
        heads: The detection heads among `layers`; empty: a classifier.
        classes: Number of classes.
        ignored: Keys that have no effect on the output, sorted: keys for training, and unknown ones.
        notes: Notes, one line each, about values that may be read otherwise than intended.
    """

    net: Section
    image: Shape
    layers: tuple[Layer, ...]
    heads: tuple[Head, ...]
    classes: int
    ignored: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def sections(self) -> tuple[Section, ...]:
        return (self.net, *(layer.section for layer in self.layers))

    @property
    def strides(self) -> tuple[tuple[float, float], ...]:
        """(x, y) of each head: the side of the input over that of the map, px."""
        _, height, width = self.image
        return tuple((width / head.shape[2], height / head.shape[1]) for head in self.heads)

    @property
    def last(self) -> Layer:
        """The last layer before [cost], which gives a classifier's output."""
        return next((layer for layer in reversed(self.layers) if layer.section.kind != "cost"), self.layers[-1])


@lru_cache(maxsize=8)
def plan(text: str, source: str = "the .cfg") -> Plan:
    """Parse the network that the text of a .cfg describes.

    Raises:
        InputError: With file, line and section, for a text that is invalid or not supported.
    """
    net, *sections = parse(text, source)
    for section in sections:  # before the input, since recurrent networks have no width
        check_kind(section)
        _check_supported(section)
    image = _image(net)
    layers: list[Layer] = []
    for section in sections:
        layers.append(read_layer(section, image, layers))
    heads = tuple(layer for layer in layers if isinstance(layer, Head))
    _check_ends(net, layers, heads)
    ignored = {key for each in (net, *sections) for key in each.options.keys() - USED_KEYS.get(each.kind, set())}
    found = Plan(net, image, tuple(layers), heads, 0, tuple(sorted(ignored)), _notes(sections))
    return Plan(**{**vars(found), "classes": heads[0].classes if heads else _count(found.last.shape)})


def with_classes(text: str, classes: int) -> str:
    """Change the number of classes in the text: `classes` of each head and the filters of the layer before it, or the
    outputs of the last layer of a classifier. The rest stays unchanged.

    Raises InputError if the layer before a head is not a convolution, so its channels cannot be set, and if the last
    map of a classifier has more than one position.
    """
    now = plan(text)
    if now.classes == classes:
        return text
    changes: list[tuple[Section, str, object]] = []
    for head in now.heads:
        before = now.layers[head.inputs[0]]
        if not isinstance(before, Convolution):
            raise head.section.error(f"the layer before is not [convolutional], so {classes} classes cannot be set")
        changes.append((head.section, "classes", classes))
        changes.append((before.section, "filters", len(head.anchors) * (head.values + classes)))
    if not now.heads:
        last = next(layer for layer in reversed(now.layers) if isinstance(layer, Convolution | Connected))
        changes.append((last.section, "output" if isinstance(last, Connected) else "filters", classes))
    changed = _rewritten(text, changes)
    if (found := plan(changed)).classes != classes:
        size = "x".join(map(str, found.last.shape))
        raise found.last.section.error(f"a classifier's last map is {classes}x1x1, here {size}; is the file cut off?")
    return changed


def anchor_count(network: Plan) -> int:
    """Number of anchors in the list that the masks of the heads refer to; 0 for a classifier.

    Raises InputError if the lists of two heads differ.
    """
    lists = [head.section.numbers("anchors") for head in network.heads]
    for head, found in zip(network.heads, lists, strict=True):
        if found != lists[0]:
            raise head.section.error("anchors are chosen for one list, needed the same as in the first head", "anchors")
    return max((1 + max(head_mask(head.section)) for head in network.heads), default=0)


def with_anchors(text: str, anchors: Sequence[tuple[float, float]]) -> str:
    """Set the list of anchors, (width, height) px, of each head in the text. [region] has them in cells."""
    network = plan(text)
    changes: list[tuple[Section, str, object]] = []
    for head, (x, y) in zip(network.heads, network.strides, strict=True):
        across, down = (x, y) if head.section.kind == "region" else (1, 1)
        pairs = (f"{width / across:.9g},{height / down:.9g}" for width, height in anchors)
        changes += [(head.section, "anchors", ", ".join(pairs)), (head.section, "num", len(anchors))]
    return _rewritten(text, changes)


def with_size(text: str, height: int, width: int) -> str:
    """Change the input size, px, in the text."""
    net = plan(text).net
    return _rewritten(text, [(net, "height", height), (net, "width", width)])


def _rewritten(text: str, changes: list[tuple[Section, str, object]]) -> str:
    """Change or add values of keys in the text."""
    lines = text.split("\n")
    missing = [change for change in changes if change[1] not in change[0].options]
    for section, key, value in changes:
        if key in section.options:
            lines[section.options[key][1] - 1] = f"{key}={value}"
    for section, key, value in sorted(missing, key=lambda change: -change[0].line):  # from the end: lines keep numbers
        lines.insert(section.line, f"{key}={value}")
    return "\n".join(lines)


def _image(net: Section) -> Shape:
    channels, height, width = (net.integer(key) for key in ("channels", "height", "width"))
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise net.error(f"width={width}, height={height}; needed 1 to {MAX_SIDE:,} px")
    if channels not in (1, 3):
        raise net.error(f"found {channels} channels, needed 3, or 1 for gray images", "channels")
    return channels, height, width


def _check_supported(section: Section) -> None:
    """Raise InputError for an unsupported key that would change the output."""
    keys = UNSUPPORTED.get(section.kind, {}) | dict.fromkeys(UNSUPPORTED_ANYWHERE, ())
    for key in (key for key in section.options if key in keys):
        value = section.word(key)
        if value and value not in keys[key] and not re.fullmatch(r"[+-]?0*\.?0*", value):
            raise section.error("not supported, and would change what the network answers", key)


def _check_ends(net: Section, layers: list[Layer], heads: tuple[Head, ...]) -> None:
    """Raise InputError if heads disagree, or no layer has weights."""
    for head in heads:
        if head.classes != heads[0].classes:
            raise head.section.error(f"needed classes={heads[0].classes}, as the first head has", "classes")
    if (channels := sum(layer.shape[0] for layer in layers)) > MAX_CHANNELS:
        raise net.error(f"the layers have {channels:,} channels in all, needed at most {MAX_CHANNELS:,}")
    if not any(isinstance(layer, Convolution | Connected) for layer in layers):
        raise net.error("the network has neither [convolutional] nor [connected] layers")


def _notes(sections: list[Section]) -> tuple[str, ...]:
    """Notes about words that Darknet reads as other words."""
    unknown = {section.word("activation") for section in sections if "activation" in USED_KEYS.get(section.kind, ())}
    words = sorted(word for word in unknown - ACTIVATIONS if word)
    return tuple(f"activation={word[:40]} is not an activation of Darknet, which reads it as relu" for word in words)


def _count(shape: Shape) -> int:
    return shape[0] * shape[1] * shape[2]
