"""Generate the sections of a Darknet .cfg from a network.

torch.export lists the network's operations in the order in which they run; each becomes a section, or a key of the
section before it. Values below are the number of the layer whose output they are, -1 for the image.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from torch import Tensor, fx
from torch.export import ExportedProgram

from boxwright.errors import InputError
from boxwright.extras import first_line
from boxwright.json_text import JsonObject
from boxwright.runtimes.base.graph import Graph, exported
from boxwright.weights import darknet

Section = tuple[str, JsonObject]  # name, keys
Pair = Sequence[int]
N = TypeVar("N", int, float)
WORDS = {"relu": "relu", "mish": "mish", "silu": "swish"}
SLOPES = {0.1: "leaky", 0.01: "relie"}  # as in Darknet's activations.c
PLACES = ((2, 3), (-2, -1))  # axes that [avgpool] averages over


class Padded(NamedTuple):
    """Map padded with px before and after it, on both axes."""

    layer: int
    before: int
    after: int


class Part(NamedTuple):
    """One of equal groups of a map's channels."""

    layer: int
    groups: int
    number: int


class Sections:
    """Sections of a network's layers.

    Args:
        graph: The network; its module has weights in the order of .weights files.
        heads: Keys of the [yolo] section after each output; empty for a classifier.

    Attributes:
        found: The sections, without [net].
        order: The numbers of the outputs in the order of their heads.

    Raises:
        InputError: Why Darknet cannot run the network.
    """

    def __init__(self, graph: Graph, heads: Sequence[Mapping[str, object]] = ()) -> None:
        self.found: list[Section] = []
        self.order: list[int] = []
        self.weights: list[str] = []  # names of convolution weights, in the order in which they run
        self.pools: dict[int, tuple[int, int]] = {}  # pools of stride 1: layer -> (the layer that it reads, size)
        self.state: dict[str, Tensor] = graph.module.state_dict()
        self._translate(graph, heads)
        if self.weights != [layer[-1][0] for layer in darknet.layers(graph.module)]:
            raise InputError("its layers run in another order than that of their numbers in the file")

    def add(self, kind: str, **keys: object) -> int:
        """Add a section and return its number."""
        self.found.append((kind, keys))
        return len(self.found) - 1

    def read(self, layer: int) -> None:
        """Make the next section read `layer`, with a [route] if it is not the previous one."""
        if layer != len(self.found) - 1:
            self.add("route", layers=self.back(layer))

    def back(self, layer: int) -> int:
        """`layer` relative to the next section, a negative number."""
        if not isinstance(layer, int):
            raise InputError("it pads, splits or adds something else than Darknet can")
        return layer - len(self.found)

    def convolution(self, layer: int) -> JsonObject:
        """Keys of the convolution `layer`, to which batch norm or an activation is added."""
        kind, keys = self.found[layer]
        if layer != len(self.found) - 1 or kind != "convolutional" or keys["activation"] != "linear":
            raise InputError("batch norm or an activation follows something else than its convolution")
        return keys

    def _translate(self, graph: Graph, heads: Sequence[Mapping[str, object]]) -> None:
        program = _listed(graph)
        sources = {spec.arg.name: spec.target for spec in program.graph_signature.input_specs if spec.target}
        *nodes, last = program.graph.nodes
        outputs: list[fx.Node] = list(last.args[0])
        values: dict[fx.Node, Any] = {}
        for node in nodes:
            if node.op == "placeholder":
                values[node] = sources.get(node.name, -1)
            elif node.users:
                name = str(node.target).removeprefix("aten.").partition(".")[0].removesuffix("_")
                if name not in OPERATIONS:
                    raise InputError(f"Darknet has no layer for its operation {name}")
                args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
                try:
                    values[node] = OPERATIONS[name](self, *args, **kwargs)
                except (TypeError, KeyError) as error:  # arguments that no network here has
                    raise InputError(f"Darknet has no layer for its operation {name} with these arguments") from error
            if heads and node in outputs:
                number = outputs.index(node)
                if heads[number].get("new_coords"):
                    self.convolution(values[node])["activation"] = "logistic"
                self.order.append(number)
                self.read(values[node])
                self.add("yolo", **heads[number])


def _listed(graph: Graph) -> ExportedProgram:
    try:
        return exported(graph)
    except Exception as error:  # torch.export's exceptions have no other common base class
        raise InputError(f"torch.export cannot list its operations ({first_line(error)[:80]})") from error


# Each function takes the arguments of PyTorch's operation of that name.


def _conv2d(
    s: Sections, x: int, weight: str, bias: str | None = None,
    stride: Pair = (1, 1), padding: Pair = (0, 0), dilation: Pair = (1, 1), groups: int = 1,
) -> int:  # fmt: skip
    if isinstance(x, Padded):
        raise InputError("it pads maps on two of their sides (model.padding: same), Darknet on all four")
    filters, _, *kernel = s.state[weight].shape
    size = _square(kernel, "a convolution")
    if tuple(dilation) != (1, 1):
        raise InputError("it has dilated convolutions, which Darknets pad differently")
    s.weights.append(weight)
    s.read(x)
    around = _square(padding, "a convolution")
    pad = {"pad": 1} if around == size // 2 else {"padding": around}
    more = {"groups": groups} if groups > 1 else {}
    step = _square(stride, "a convolution")
    return s.add("convolutional", filters=filters, size=size, stride=step, **pad, **more, activation="linear")


def _batch_norm(s: Sections, x: int, *_: object) -> int:
    s.found[x] = ("convolutional", {"batch_normalize": 1, **s.convolution(x)})
    return x


def _activation(word: str | None) -> Callable[..., int]:
    """Translation of an activation. word: None for LeakyReLU, whose slope determines it."""

    def apply(s: Sections, x: int, slope: float = 0.01) -> int:
        found = word or SLOPES.get(slope)
        if found is None:
            raise InputError(f"its LeakyReLU has the slope {slope:g}, Darknet's has 0.1")
        s.convolution(x)["activation"] = found
        return x

    return apply


def _pad(s: Sections, x: int, sides: Sequence[int], mode: str = "constant", value: float | None = None) -> Padded:
    before, after, *others = sides
    if mode != "constant" or others != [before, after]:
        raise InputError("Darknet has no layer for its operation pad")
    return Padded(x, before, after)


def _max_pool2d(
    s: Sections, x: int | Padded, kernel: Pair, stride: Pair = (), padding: Pair = (0, 0), dilation: Pair = (1, 1),
    ceil_mode: bool = False,
) -> int:  # fmt: skip
    """In Darknet the padding is fixed: size - 1 px in total."""
    size, step = _square(kernel, "a pool"), _square(stride or kernel, "a pool")
    layer, before = (x.layer, x.before) if isinstance(x, Padded) else (x, _square(padding, "a pool"))
    if before != (size - 1) // 2:
        raise InputError(f"a pool of {size} px starts {before} px before the map, Darknet's {(size - 1) // 2}")
    if step == 1 and size % 2 and layer in s.pools:  # merge consecutive pools, as in yolov4.cfg
        layer, inner = s.pools[layer]
        size += inner - 1
    s.read(layer)
    number = s.add("maxpool", size=size, stride=step)
    if step == 1 and size % 2:
        s.pools[number] = layer, size
    return number


def _upsample(s: Sections, x: int, size: object, factors: Sequence[float]) -> int:
    s.read(x)
    return s.add("upsample", stride=int(_square(factors, "an upsampling")))


def _cat(s: Sections, maps: Sequence[int], axis: int = 0) -> int:
    return s.add("route", layers=tuple(s.back(layer) for layer in maps))


def _chunk(s: Sections, x: int, groups: int, axis: int = 0) -> list[Part]:
    return [Part(x, groups, number) for number in range(groups)]


def _part(s: Sections, parts: Sequence[Part], place: int) -> int:
    part = parts[place]
    return s.add("route", layers=s.back(part.layer), groups=part.groups, group_id=part.number)


def _add(s: Sections, x: int, y: int) -> int:
    earlier, later = sorted((x, y), key=s.back)
    s.read(later)
    return s.add("shortcut", **{"from": s.back(earlier)}, activation="linear")


def _mean(s: Sections, x: int, axes: Sequence[int], keep: bool = False) -> int:
    if tuple(axes) not in PLACES:
        raise InputError("Darknet has no layer for its operation mean")
    s.read(x)
    return s.add("avgpool")


def _unchanged(neutral: float) -> Callable[..., int]:
    def apply(s: Sections, x: int, name: str) -> int:
        if (s.state[name] != neutral).any():
            raise InputError("it normalizes its input by model.mean and model.std, Darknet takes it as it is")
        return x

    return apply


def _square(pair: Sequence[N], what: str) -> N:
    if len(set(pair)) != 1:
        raise InputError(f"{what} differs between height and width")
    return pair[0]


OPERATIONS: dict[str, Callable[..., object]] = {
    "sub": _unchanged(0.0), "div": _unchanged(1.0), "conv2d": _conv2d, "batch_norm": _batch_norm,
    "leaky_relu": _activation(None), **{name: _activation(word) for name, word in WORDS.items()},
    "pad": _pad, "max_pool2d": _max_pool2d, "upsample_nearest2d": _upsample, "cat": _cat, "chunk": _chunk,
    "<built-in function getitem>": _part, "add": _add, "mean": _mean, "flatten": lambda s, x, *_: x,
}  # fmt: skip
