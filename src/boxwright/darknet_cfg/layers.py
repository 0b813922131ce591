"""The layers of a .cfg as values.

(C, H, W): channels, height, width of a map
"""

from dataclasses import dataclass

from boxwright.darknet_cfg.text import Section

Shape = tuple[int, int, int]
# By their names in Darknet's activations.c; it takes any other word for relu.
ACTIVATIONS = frozenset({
    "linear", "logistic", "loggy", "relu", "relu6", "elu", "selu", "gelu", "relie", "ramp", "leaky", "revleaky",
    "tanh", "plse", "stair", "hardtan", "lhtan", "swish", "mish", "hard_mish", "normalize_channels",
    "normalize_channels_softmax", "normalize_channels_softmax_maxval",
})  # fmt: skip


@dataclass(frozen=True)
class Layer:
    """A layer.

    Attributes:
        section: Where it stands.
        inputs: The numbers of the layers it reads, the previous one first unless it reads only others; -1: the image.
        shape: Of its output.
    """

    section: Section
    inputs: tuple[int, ...]
    shape: Shape


@dataclass(frozen=True)
class Convolution(Layer):
    """padding: px on every side. stride: (y, x). share: the layer whose numbers it uses, None: it has its own."""

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
    """Of a window. kind: max or average. padding: px in total, half of it (rounded down) before the map."""

    kind: str
    size: int
    stride: tuple[int, int]
    padding: int
    blur: int


@dataclass(frozen=True)
class DepthPool(Layer):
    """The maximum over every `filters`-th channel."""

    filters: int


@dataclass(frozen=True)
class GlobalPool(Layer):
    """The mean of the map."""


@dataclass(frozen=True)
class Upsample(Layer):
    """stride: below 0, blocks of so many px are summed instead. scale: factor on the values."""

    stride: int
    scale: float


@dataclass(frozen=True)
class Route(Layer):
    """The block `group_id` of `groups` equal ones of the channels of each input, one after the other."""

    groups: int
    group_id: int


@dataclass(frozen=True)
class Shortcut(Layer):
    """The sum of the inputs. weights: of each, as (inputs, 1 or C), (0, 0): none. normalization: of these."""

    weights: tuple[int, int]
    normalization: str
    activation: str


@dataclass(frozen=True)
class ScaleChannels(Layer):
    """The second input, each channel (or with `places` each place) times the first input's."""

    places: bool
    activation: str


@dataclass(frozen=True)
class Product(Layer):
    """Of both inputs ([sam])."""

    activation: str


@dataclass(frozen=True)
class Reorg(Layer):
    """Space to depth; reverse: depth to space. in_memory: YOLOv2's, of other shapes of the same memory."""

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
    """The middle of the map; adjust: times 2, less 1."""

    adjust: bool


@dataclass(frozen=True)
class Softmax(Layer):
    groups: int
    temperature: float


@dataclass(frozen=True)
class Same(Layer):
    """[dropout] and [cost], which at inference pass on what comes."""

    dropout: float = 0.0


@dataclass(frozen=True)
class Head(Layer):
    """[yolo], [Gaussian_yolo] or [region].

    Attributes:
        anchors: (width, height) of each anchor of this head, px of the input, or cells for [region].
        classes: How many.
        scale_xy: How far a center may lie, as a factor on the cell about its middle.
        new_coords: The map holds no logits, but what lies in [0, 1] already; sides are (2 t)^2 anchors.
        softmax: Of a [region]: over the classes.
        values: Numbers of an anchor before its classes.
    """

    anchors: tuple[tuple[float, float], ...]
    classes: int
    scale_xy: float
    new_coords: bool
    softmax: bool
    values: int
