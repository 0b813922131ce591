"""Strict parsing of YAML and overrides into frozen pydantic models, and the base class of all model configs."""

import difflib
import re
import unicodedata
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar, get_args

import pydantic
import yaml
from pydantic import Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, ErrorDetails, core_schema

from boxwright import files
from boxwright.errors import InputError, shortened


class Config(pydantic.BaseModel):
    """A frozen section of a recipe: unknown keys are errors, types are checked."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Triple = tuple[float, float, float]
MAX_CLASSES = 32_768  # ImageNet's largest set has 21,841
ClassCount = Annotated[int, Field(ge=1, le=MAX_CLASSES)]
BatchSize = Annotated[int, Field(ge=1, le=65_536)]
Width = Annotated[float, Field(gt=0, le=100)]  # factor on channels
Padding = Literal["symmetric", "same"]
RGB = 3  # channels
Channels = Annotated[int, Field(ge=1, le=512)]
AUTO: Final = "auto"


class OrAuto:
    """Marks a field `values | Literal["auto"]`: faults of the values are reported at the same keys as without auto."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(
            lambda value, validate: value if value == AUTO else validate(value),
            handler(get_args(source)[0]),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda value: value),
        )


Pair = tuple[Positive, Positive]
Pairs = tuple[Pair, ...]
Anchors = Annotated[Pairs | Literal["auto"], OrAuto()]  # (width, height) px, small to large; auto: see `anchor_count`


def numbers_of(anchors: Pairs | Literal["auto"]) -> Pairs:
    """The anchors as numbers. Training replaces auto, and `models.build` rejects it."""
    assert anchors != AUTO
    return anchors


class ModelConfig(Config):
    """Base class of the `Config` of each model: all that other packages use.

    Attributes:
        task: A module in `tasks/`: detect (boxes) or classify (classes of images).
        augment: The section of `train` with its augmentation.
        size_step: Both sides of the input are multiples of this, px.
        name: The model's file in `models/`, or the dotted path of a user's module.
        classes: Number of classes.
        input_channels: 3, or the number of `data.bands`, which sets it. Published weights are for RGB.
        mean: Mean of RGB in [0, 1], subtracted by the network; for other channels see `nn/channels.py`.
        std: Standard deviation of RGB in [0, 1], by which the network then divides; likewise.
    """

    task: ClassVar[str] = "detect"
    augment: ClassVar[str] = "augment"
    size_step: ClassVar[int] = 32

    name: str
    classes: ClassCount
    input_channels: Channels = RGB
    mean: Triple = (0.0, 0.0, 0.0)
    std: tuple[Positive, Positive, Positive] = (1.0, 1.0, 1.0)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Arguments of the network's `forward`: `images`, and `extents` if it needs the height and width of each image
        on its canvas; images are then at the top left."""
        return ("images",)

    @property
    def anchor_count(self) -> int:
        """Number of anchors that a training chooses for `anchors: auto`; 0 for a model without anchors."""
        return 0


class BatchNormModelConfig(ModelConfig):
    """Base class of the `Config` of models with batch norm."""

    norm_eps: Positive = 1e-5  # added to the variance
    norm_momentum: Fraction = 0.1  # weight of the new statistic, as in PyTorch


MAX_CLASS_NAME = 200  # letters
MAX_SHOWN = 100  # letters of a value in a message
MAX_NAME = 60  # letters of a class name in a message
MAX_FAULTS = 5  # faults in a message
QUOTES = "backslashes in double quotes are escapes: write the path without quotes, or in single ones"

# Limits of a YAML file, which takes some ten microseconds per byte to read: a recipe with 32,768 numbered names
MAX_YAML = 1 << 20  # bytes
MAX_VALUES = 70_000


def class_name_fault(name: str) -> str:
    """The fault of a class name, as "what was found, what is needed"; "" if it is valid.

    Names are written into files, tables and images: no control characters, line breaks and lone surrogates (which no
    file can hold), and at most `MAX_CLASS_NAME` letters.
    """
    if len(name) > MAX_CLASS_NAME:
        return f"a class name of {len(name):,} letters ({name[:20]!r}...), needed at most {MAX_CLASS_NAME}"
    kinds = {"Cc": "a control character", "Cs": "a lone surrogate", "Zl": "a line break", "Zp": "a line break"}
    for letter in name:
        if kind := kinds.get(unicodedata.category(letter)):
            return (
                f"{kind} in the class name {shortened(repr(name), MAX_NAME)}, needed one without it; rename the class"
            )
    return ""


def _class_name(name: str) -> str:
    if fault := class_name_fault(name):
        raise ValueError(fault)
    return name


def _file_name(name: str) -> str:
    if not re.fullmatch(r"\w[\w.-]{0,63}", name):
        raise ValueError("needed at most 64 letters, digits, '_', '-' and '.', no other sign, and no '.' or '-' first")
    return name


ClassName = Annotated[str, pydantic.AfterValidator(_class_name)]
FileName = Annotated[str, pydantic.AfterValidator(_file_name)]  # or a part of one

C = TypeVar("C", bound=pydantic.BaseModel)
Tree = dict[str, Any]
Overrides = Mapping[str, object] | Sequence[str]  # by dotted key, or as "key=value"


class _Loader(yaml.SafeLoader):
    """YAML with JSON's types: no aliases or repeated keys; `no`, `on`, dates and 1:30 are strings; bounded memory."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.values = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        # An alias can refer to itself or, nested, expand to more values than memory holds.
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.constructor.ConstructorError(None, None, "aliases are not read", mark)
        self.values += 1
        if self.values > MAX_VALUES:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.constructor.ConstructorError(None, None, f"more than {MAX_VALUES:,} values", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"'{key.value[:MAX_SHOWN]}' is given twice", key.start_mark
                )
            seen.add(key.value)
        return yaml.constructor.BaseConstructor.construct_mapping(self, node, deep)  # SafeConstructor's merges `<<`


def _scalar(tag: str, pattern: str, first: Sequence[str], convert: Callable[[str], object]) -> None:
    """Read scalars that match `pattern`, and start with one of `first`, as `tag`; reject others with this tag."""
    full = re.compile(rf"(?:{pattern})\Z")

    def construct(loader: _Loader, node: yaml.ScalarNode) -> object:
        text = loader.construct_scalar(node)
        if not full.match(text):
            raise yaml.constructor.ConstructorError(
                None, None, f"'{text[:MAX_SHOWN]}' is not a valid {tag}", node.start_mark
            )
        return convert(text)

    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", full, first)
    _Loader.add_constructor(f"tag:yaml.org,2002:{tag}", construct)


_Loader.yaml_implicit_resolvers = {}
_Loader.yaml_constructors = {
    tag: constructor
    for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
    if tag in {f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map")} or tag is None  # rejects all others
}
# Longer numbers are strings: Python is slow with many digits, and with many long integers as keys.
_DIGITS = "[0-9_]{0,39}"
_scalar("null", "|~|null|Null|NULL", ("", *"~nN"), lambda text: None)
_scalar("bool", "true|True|false|False", tuple("tTfF"), lambda text: text.lower() == "true")
_scalar("int", "[-+]?(?:0|[1-9][0-9_]{0,19})", tuple("-+0123456789"), lambda text: int(text.replace("_", "")))
_scalar(
    "float",
    rf"[-+]?(?:[0-9]{_DIGITS}\.{_DIGITS}|\.[0-9]{_DIGITS})(?:[eE][-+][0-9]{{1,4}})?|[-+]?\.inf|\.nan",
    tuple("-+0123456789."),
    lambda text: float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan")),
)


def read_yaml(path: Path) -> Tree:
    """The mapping in a YAML file. Raises InputError with file and line if it does not hold one."""
    try:
        tree = _parse(files.read_input(path, ", needed a YAML file", MAX_YAML).decode())
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8, if it is a text") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be parsed"
        hint = f"; {QUOTES}" if "unknown escape character" in str(reason) else ""
        raise InputError(f"{path}{line}: not valid YAML ({str(reason)[:200]}){hint}") from error
    if not isinstance(tree, dict):
        raise InputError(f"{path}: holds {type(tree).__name__}, needed a mapping of keys to values")
    return tree


def override(tree: Tree, changes: Overrides) -> Tree:
    """A copy of `tree` with `a.b.c` set to new values.

    `changes` is a mapping of dotted keys to values, or command line words `a.b=value` whose value is read as YAML, or
    one such word.
    """
    if not isinstance(changes, Mapping):
        changes = dict(_read_assignment(word) for word in ([changes] if isinstance(changes, str) else changes))
    result = _copy(tree)
    for dotted, value in changes.items():
        *parents, leaf = dotted.split(".")
        node = result
        for key in parents:
            child = node.setdefault(key, {})
            if not isinstance(child, dict):
                raise InputError(f"{dotted}: '{key}' holds {_shown(child)}, which has no keys below it")
            node = child
        node[leaf] = value
    return result


def validate(kind: type[C], tree: object, source: str, place: str = "") -> C:
    """Validate `tree` as a `kind`.

    place: the dotted key of `tree` in `source`.

    Raises InputError with one line that names the keys of the faults and, for unknown keys, the most similar ones.
    """
    try:
        result = kind.model_validate(tree)
    except pydantic.ValidationError as error:
        faults: list[ErrorDetails] = []
        for fault in error.errors(include_url=False):
            if len(faults) > MAX_FAULTS:
                break
            # A list with a bad value is also reported as too short; only the value matters.
            if not any(other["loc"][: len(fault["loc"])] == fault["loc"] for other in faults):
                faults.append(fault)
        lines = [_explain(kind, fault, place) for fault in faults[:MAX_FAULTS]] + ["..."] * (len(faults) > MAX_FAULTS)
        raise InputError(f"{source}: " + "; ".join(lines)) from error
    if converted := list(_converted_booleans(tree, result, place)):
        raise InputError(f"{source}: " + "; ".join(converted[:MAX_FAULTS]) + "; ..." * (len(converted) > MAX_FAULTS))
    return result


def _converted_booleans(found: object, result: object, place: str) -> Iterator[str]:
    """Faults of booleans that pydantic has converted to numbers: `flip: true` is not a probability of 1."""
    if isinstance(found, bool):
        if isinstance(result, int | float) and not isinstance(result, bool):
            yield f"{place}: needed a number (found {found})"
    elif isinstance(found, dict):
        for key, value in found.items():
            part = result.get(key) if isinstance(result, Mapping) else getattr(result, str(key), None)
            yield from _converted_booleans(value, part, f"{place}.{key}" if place else str(key))
    elif isinstance(found, list | tuple) and isinstance(result, list | tuple):
        for index, (value, part) in enumerate(zip(found, result, strict=False)):
            yield from _converted_booleans(value, part, f"{place}.{index}")


def _parse(text: str) -> object:
    try:
        return yaml.load(text, _Loader)
    except RecursionError as error:
        raise yaml.constructor.ConstructorError(None, None, "nested too deeply") from error
    except (ValueError, OverflowError) as error:  # an escape of an invalid character, such as "\\UFFFFFFFF"
        raise yaml.constructor.ConstructorError(None, None, str(error)) from error


def _read_assignment(word: str) -> tuple[str, object]:
    key, sign, value = word.partition("=")
    if not sign or not key:
        raise InputError(f"--set {word}: needed key=value, for example train.epochs=3")
    try:
        return key, _parse(value)
    except yaml.YAMLError as error:
        raise InputError(f"--set {word}: '{value}' is not a YAML value") from error


def _copy(tree: Tree) -> Tree:
    return {key: _copy(value) if isinstance(value, dict) else value for key, value in tree.items()}


def _explain(kind: type[pydantic.BaseModel], fault: ErrorDetails, above: str) -> str:
    """The text `place: reason` of a fault."""
    keys = fault["loc"]
    if fault["type"] == "missing" and isinstance(keys[-1], int):  # a list that ends too early: name the list
        keys = keys[:-1]
    place = ".".join(part for part in (above, *(str(key)[:MAX_SHOWN] for key in keys)) if part)
    return f"{place}: {_reason(kind, fault)}" if place else _reason(kind, fault)


def _reason(kind: type[pydantic.BaseModel], fault: ErrorDetails) -> str:
    keys, found = fault["loc"], fault["input"]
    match fault["type"]:
        case "extra_forbidden":
            near = difflib.get_close_matches(str(keys[-1])[:MAX_SHOWN], _keys_at(kind, keys[:-1]), n=1, cutoff=0.5)
            return "unknown key" + (f" (did you mean '{near[0]}'?)" if near else "")
        case "missing":
            return f"too few values, found {_shown(found)}" if isinstance(keys[-1], int) else "missing, needed here"
        case "too_short":
            return f"needed at least {fault['ctx']['min_length']} values, found {len(found)}"
        case "too_long":
            return f"needed at most {fault['ctx']['max_length']} values, found {len(found)}"
        case "tuple_type":
            return f"needed a list of values (found {_shown(found)})"
        case "model_type":
            return f"needed a mapping of keys to values (found {_shown(found)})"
    message: str = fault["msg"].removeprefix("Value error, ")
    if not keys:  # a rule of the whole section: its message is complete
        return message
    shown = "" if isinstance(found, dict) else f" (found {_shown(found)})"
    return f"{message[0].lower()}{message[1:]}{shown}"


def _shown(found: object) -> str:
    text = repr(found)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _keys_at(kind: type[pydantic.BaseModel], path: Sequence[int | str]) -> list[str]:
    for key in path:
        field = kind.model_fields.get(str(key))
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel)):
            return []
        kind = annotation
    return list(kind.model_fields)
