"""Layers of a .cfg as data classes.

(C, H, W): channels, height, width of a map
"""

from dataclasses import dataclass

from boxwright.darknet_cfg.text import Section

Shape = tuple[int, int, int]
# By their names in Darknet's activations.c, which treats any other word as relu.
ACTIVATIONS = frozenset({
    "linear", "logistic", "loggy", "relu", "relu6", "elu", "selu", "gelu", "relie", "ramp", "leaky", "revleaky",
    "tanh", "plse", "stair", "hardtan", "lhtan", "swish", "mish", "hard_mish", "normalize_channels",
    "normalize_channels_softmax", "normalize_channels_softmax_maxval",
})  # fmt: skip


@dataclass(frozen=True)
class Layer:
    """Base of all layers.

    Attributes:
        section: Its section in the file.
        inputs: Numbers of the layers it reads, the previous one first if it reads that; -1: the image.
        shape: (C, H, W) of its output.
    """

    section: Section
    inputs: tuple[int, ...]
    shape: Shape


@dataclass(frozen=True)
class Convolution(Layer):
    """[convolutional]. padding: px on every side. stride: (y, x). share: layer whose weights it uses; None: its own."""

    channels: int
    filters: int
    size: int
    stride: tuple[int, int]
    padding: int
    dilation: int
    groups: int
    norm: bool
    activation: str
    blur: int
    share: int | None


@dataclass(frozen=True)
class Pool(Layer):
    """Pooling over windows. kind: max or average. padding: px in total, half of it (rounded down) before the map."""

    kind: str
    size: int
    stride: tuple[int, int]
    padding: int
    blur: int


@dataclass(frozen=True)
class DepthPool(Layer):
    """Maximum over every `filters`-th channel."""

    filters: int


@dataclass(frozen=True)
class GlobalPool(Layer):
    """Global average pooling."""


@dataclass(frozen=True)
class Upsample(Layer):
    """[upsample]. stride: factor; if negative, blocks of -stride px are summed instead. scale: factor on the values."""

    stride: int
    scale: float


@dataclass(frozen=True)
class Route(Layer):
    """Concatenation of group `group_id` of `groups` equal groups of channels of each input."""

    groups: int
    group_id: int


@dataclass(frozen=True)
class Shortcut(Layer):
    """Sum of the inputs. weights: shape (inputs, 1 or C) of the factors, (0, 0): none. normalization: of them."""

    weights: tuple[int, int]
    normalization: str
    activation: str


@dataclass(frozen=True)
class ScaleChannels(Layer):
    """The second input times the first, per channel (or with `places` per position)."""

    places: bool
    activation: str


@dataclass(frozen=True)
class Product(Layer):
    """Product of both inputs ([sam])."""

    activation: str


@dataclass(frozen=True)
class Reorg(Layer):
    """Space to depth; reverse: depth to space. in_memory: YOLOv2's, which reinterprets the memory in another shape."""

    stride: int
    reverse: bool
    in_memory: bool


@dataclass(frozen=True)
class Connected(Layer):
    size: int
    outputs: int
    norm: bool
    activation: str


@dataclass(frozen=True)
class Norm(Layer):
    """[batchnorm]."""


@dataclass(frozen=True)
class Activation(Layer):
    activation: str


@dataclass(frozen=True)
class Crop(Layer):
    """Center crop of the map. adjust: values times 2, minus 1."""

    adjust: bool


@dataclass(frozen=True)
class Softmax(Layer):
    groups: int
    temperature: float


@dataclass(frozen=True)
class Same(Layer):
    """[dropout] and [cost], which are the identity at inference."""

    dropout: float = 0.0


@dataclass(frozen=True)
class Head(Layer):
    """[yolo], [Gaussian_yolo] or [region].

    Attributes:
        anchors: (width, height) of each anchor of this head, in px of the input, or in cells for [region].
        classes: Number of classes.
        scale_xy: Range of a center, as a factor on the cell around its middle.
        new_coords: Whether the map holds values in [0, 1] instead of logits; sides are (2 t)^2 anchors.
        softmax: Whether scores of a [region] are a softmax over the classes.
        values: Values per anchor before its classes.
    """

    anchors: tuple[tuple[float, float], ...]
    classes: int
    scale_xy: float
    new_coords: bool
    softmax: bool
    values: int
