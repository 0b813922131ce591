"""Interpreter of torch.export archives (.pt2): runs the file's list of operators, one after the other.

PyTorch's own reader unpickles, evaluates formulas, and generates Python with names from the file. It is not used, since
running a list of operators needs none of that: the list is read from JSON, tensors are raw bytes, and an operator is
only called if it is in `operators`. The rest of the file (formulas of lengths, guards, origins of nodes, sample inputs)
is ignored.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, TypeVar

import torch
from torch import Tensor

from boxwright import json_text
from boxwright.errors import InputError
from boxwright.json_text import JsonObject
from boxwright.runtimes.serialization import operators
from boxwright.runtimes.serialization.archive import TYPES, Archive

# Entries that torch.export.save writes. Older layouts have other names.
ENTRIES = re.compile(
    r"models/model\.json|data/weights/(?:weight_\d+|model_weights_config\.json)"
    r"|data/constants/(?:tensor_\d+|model_constants_config\.json)|data/sample_inputs/model\.pt"
    r"|extra/boxwright|archive_format|archive_version|byteorder|version|\.data/(?:version|serialization_id)"
)
FORMAT, VERSION, SCHEMA = "pt2", "0", 8
STRIDED, WHILE = 7, "torch.ops.higher_order.while_loop"
TABLES: dict[str, dict[int, object]] = {
    "as_scalar_type": {**TYPES},
    "as_layout": {STRIDED: torch.strided},
    "as_memory_format": {1: torch.contiguous_format, 2: torch.channels_last, 4: torch.preserve_format},
}
DEPTH = 8  # of nested loops
SYMBOLS = ("as_sym_int", "as_sym_bool")  # data-dependent lengths and conditions
PLAIN = {"as_int": int, "as_bool": bool, "as_string": str}

T = TypeVar("T")
Values = dict[str, object]
Get = Callable[[Values], object]


class UnknownError(Exception):
    """The file is not a supported program; the text says what was found."""


@dataclass(frozen=True, slots=True)
class Step:
    """A call of an operator.

    Attributes:
        results: Names of the results of `call`, "" for unused ones; empty for checks.
        is_list: Whether `call` returns a list.
        unused: Names that no later step needs.
    """

    call: Callable[..., Any]
    args: tuple[Get, ...]
    named: tuple[tuple[str, Get], ...]
    results: tuple[str, ...]
    is_list: bool
    unused: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Steps:
    """A graph: names of inputs, steps in order, and names of outputs."""

    inputs: tuple[str, ...]
    steps: tuple[Step, ...]
    outputs: tuple[str, ...]

    def __call__(self, *given: object) -> tuple[object, ...]:
        """Run the steps. PyTorch's exceptions for inputs that do not fit are not converted."""
        values = dict(zip(self.inputs, given, strict=True))
        for step in self.steps:
            found = step.call(*(get(values) for get in step.args), **{name: get(values) for name, get in step.named})
            if step.results:
                values.update(zip(step.results, found if step.is_list else (found,), strict=True))
            for name in step.unused:
                values.pop(name, None)
        return tuple(values[name] for name in self.outputs)


@dataclass(frozen=True, slots=True)
class Exported:
    """A program, ready to run.

    Attributes:
        steps: Graph whose last inputs are the images.
        weights: Weights and constants, the inputs before the images.
        shape: Shape of the first image input; None for an axis that varies.
    """

    steps: Steps
    weights: tuple[Tensor, ...]
    shape: tuple[int | None, ...]

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run the program."""
        found = self.steps(*self.weights, *inputs)
        tensors = tuple(output for output in found if isinstance(output, Tensor))
        if len(tensors) < len(found):
            raise TypeError("it gives numbers in place of tensors")
        return tensors


def read(archive: Archive) -> Exported:
    """Read the program in an archive. Raises InputError if it is invalid, or calls operators that no export uses."""
    if (archive.text("archive_format"), archive.text("archive_version")) != (FORMAT, VERSION):
        raise archive.error("archive_version", "another version of the archive")
    tree = json_text.parse(archive.text("models/model.json"), f"{archive.source}: models/model.json")
    try:
        if tree["schema_version"]["major"] != SCHEMA:
            raise UnknownError(f"schema {tree['schema_version']['major']}; this PyTorch writes {SCHEMA}")
        module = tree["graph_module"]
        tensors = _tensors(archive, "weights", "weight_") | _tensors(archive, "constants", "tensor_")
        specs = [_only(entry) for entry in module["signature"]["input_specs"]]
        weights = tuple(tensors[_stored(kind, spec)] for kind, spec in specs if kind != "user_input")
        if any(kind == "user_input" for kind, _ in specs[: len(weights)]) or len(weights) == len(specs):
            raise UnknownError("weights after the inputs")
        if any(_only(entry)[0] != "user_output" for entry in module["signature"]["output_specs"]):
            raise UnknownError("outputs that change what is stored")
        steps = _steps(module["graph"], 0)
        first = module["graph"]["tensor_values"][steps.inputs[len(weights)]]["sizes"]
        shape = tuple(_typed(side["as_int"], int) if "as_int" in side else None for side in first)
        return Exported(steps, weights, shape)
    except UnknownError as error:
        raise archive.error("models/model.json", str(error)) from error
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        # a missing key or a value of another kind: not a program that PyTorch wrote
        raise archive.error("models/model.json", f"no program ({type(error).__name__}: {error})") from error


def _tensors(archive: Archive, group: str, prefix: str) -> dict[str, Tensor]:
    """Weights or constants by their names."""
    name = f"data/{group}/model_{group}_config.json"
    found = {}
    for own, entry in json_text.parse(archive.text(name), f"{archive.source}: {name}")["config"].items():
        meta, path = entry["tensor_meta"], entry["path_name"]
        if entry["use_pickle"] is not False or not re.fullmatch(prefix + r"\d+", path):
            raise UnknownError(f"{path!s:.40} stored otherwise than as numbers, in {name}")
        if meta["layout"] != STRIDED or meta["dtype"] not in TYPES:
            raise UnknownError(f"{path} of another layout or type")
        sizes, strides = ([side["as_int"] for side in meta[key]] for key in ("sizes", "strides"))
        offset = meta["storage_offset"]["as_int"]
        found[own] = archive.tensor(f"data/{group}/{path}", TYPES[meta["dtype"]], sizes, strides, offset)
    return found


def _stored(kind: str, spec: JsonObject) -> str:
    """Name in the archive of an input that is not an image."""
    keys = {"parameter": "parameter_name", "buffer": "buffer_name", "tensor_constant": "tensor_constant_name"}
    if kind not in keys:
        raise UnknownError(f"an input of kind {kind}")
    return str(spec[keys[kind]])


def _steps(graph: JsonObject, depth: int) -> Steps:
    if depth > DEPTH:
        raise UnknownError("too deeply nested loops")
    inputs = [_name(entry) for entry in graph["inputs"]]
    parsed, defined = [], set(inputs)
    for node in graph["nodes"]:
        step, used = _step(node, depth)
        if missing := set(used) - defined:
            raise UnknownError(f"{node['target']} of {', '.join(missing)}, which is not defined")
        defined.update(step.results)
        parsed.append((step, used))
    outputs = tuple(_name(entry) for entry in graph["outputs"])
    if missing := set(outputs) - defined:
        raise UnknownError(f"output {', '.join(missing)}, which is not defined")
    return Steps(tuple(inputs), tuple(_freeing(parsed, outputs)), outputs)


def _freeing(parsed: Sequence[tuple[Step, list[str]]], outputs: tuple[str, ...]) -> list[Step]:
    """Set `unused` of the steps, so that memory is freed as soon as possible."""
    needed, steps = set(outputs), []
    for step, used in reversed(parsed):
        unused = {*used, *step.results} - needed
        needed |= set(used)
        steps.append(Step(step.call, step.args, step.named, step.results, step.is_list, tuple(unused)))
    return steps[::-1]


def _step(node: JsonObject, depth: int) -> tuple[Step, list[str]]:
    """The step of a node, and the names that it uses."""
    used: list[str] = []
    args = [(entry["name"], entry.get("kind"), _argument(entry["arg"], used, depth)) for entry in node["inputs"]]
    call = _while if node["target"] == WHILE else operators.resolve(node["target"])
    if call is None:
        raise UnknownError(f"a call of {node['target']!s:.80}")
    results, is_list = _results(node["outputs"])
    is_list = is_list or call is _while
    positional = tuple(get for _, kind, get in args if kind != 2)
    named = tuple((str(name), get) for name, kind, get in args if kind == 2)
    return Step(call, positional, named, results, is_list, ()), used


def _results(outputs: Sequence[JsonObject]) -> tuple[tuple[str, ...], bool]:
    if len(outputs) == 1 and "as_tensors" in outputs[0]:
        return tuple(_typed(entry["name"], str) for entry in outputs[0]["as_tensors"]), True
    return tuple("" if "as_none" in entry else _name(entry) for entry in outputs), len(outputs) > 1


def _name(argument: JsonObject) -> str:
    kind, value = _only(argument)
    name = value["name"] if kind == "as_tensor" else value["as_name"] if kind in SYMBOLS else None
    if not isinstance(name, str):
        raise UnknownError(f"{kind} where a tensor is named")
    return name


def _only(tree: JsonObject) -> tuple[str, Any]:
    ((kind, value),) = tree.items()
    return kind, value


def _argument(argument: JsonObject, used: list[str], depth: int) -> Get:
    """Function that looks up an argument among the values so far; the names that it needs are added to `used`."""
    kind, value = _only(argument)
    if kind in PLAIN:
        return _constant(_typed(value, PLAIN[kind]))
    if kind == "as_none":
        return _constant(None)
    if kind == "as_float":
        return _constant(_float(value))
    if kind in ("as_ints", "as_bools"):
        return _constant([_typed(item, int if kind == "as_ints" else bool) for item in value])
    if kind == "as_floats":
        return _constant([_float(item) for item in value])
    if kind in TABLES:
        return _constant(TABLES[kind][value])
    if kind == "as_device" and value["type"] == "cpu":
        return _constant(torch.device("cpu"))
    if kind == "as_tensor" or kind in SYMBOLS:
        return _variable(value, used)
    if kind in ("as_tensors", "as_sym_ints"):
        return _list([_variable(item, used) for item in value])
    if kind == "as_optional_tensors":
        return _list([_constant(None) if "as_none" in item else _variable(item["as_tensor"], used) for item in value])
    if kind == "as_graph":
        return _constant(_steps(value["graph"], depth + 1))
    raise UnknownError(f"an argument of kind {kind}")


def _variable(value: JsonObject, used: list[str]) -> Get:
    if "as_int" in value:
        return _constant(_typed(value["as_int"], int))
    name = value["name"] if "name" in value else value["as_name"]
    used.append(_typed(name, str))
    return itemgetter(name)


def _list(items: list[Get]) -> Get:
    return lambda values: [get(values) for get in items]


def _constant(value: object) -> Get:
    return lambda _: value


def _typed(value: object, kind: type[T]) -> T:
    if type(value) is not kind:
        raise UnknownError(f"{value!r:.40}, where {kind.__name__} is needed")
    return value


def _float(value: object) -> float:
    """A float; PyTorch writes values that JSON lacks as words."""
    is_number = type(value) in (int, float) or value in ("Infinity", "-Infinity", "NaN")
    if is_number and isinstance(value, int | float | str):
        return float(value)
    raise UnknownError(f"{value!r:.40}, where a number is needed")


def _while(
    condition: object, body: object, carried: Sequence[object], more: Sequence[object] = ()
) -> tuple[object, ...]:
    """Loop as torch.export writes it: `body` is applied to `carried` while `condition` holds."""
    if not isinstance(condition, Steps) or not isinstance(body, Steps):
        raise UnknownError("a loop without graphs")
    while condition(*carried, *more)[0]:
        carried = body(*carried, *more)
    return tuple(carried)
