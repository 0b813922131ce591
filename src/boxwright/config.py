"""YAML and overrides to frozen pydantic models, strictly. Knows nothing of detection."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from boxwright.errors import InputError


class Config(pydantic.BaseModel):
    """A frozen section of a recipe: unknown keys are errors, types are checked."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


C = TypeVar("C", bound=pydantic.BaseModel)
Tree = dict[str, Any]


def read_yaml(path: Path) -> Tree:
    """The mapping a YAML file holds; InputError with file and line where it does not hold one."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}{place}: not valid YAML ({getattr(error, 'problem', None) or error})") from error
    if not isinstance(tree, dict):
        raise InputError(f"{path}: holds {type(tree).__name__}, needed a mapping of keys to values")
    return tree


def override(tree: Tree, changes: Mapping[str, Any] | Sequence[str]) -> Tree:
    """A copy of `tree` with `a.b.c` set to new values.

    `changes` is a mapping of dotted keys to values, or command line words `a.b=value` whose value is read as YAML.
    """
    if not isinstance(changes, Mapping):
        changes = dict(_read_assignment(word) for word in changes)
    result = _copy(tree)
    for dotted, value in changes.items():
        *parents, leaf = dotted.split(".")
        node = result
        for key in parents:
            child = node.setdefault(key, {})
            if not isinstance(child, dict):
                raise InputError(f"{dotted}: '{key}' holds {child!r}, which has no keys below it")
            node = child
        node[leaf] = value
    return result


def validate(kind: type[C], tree: Any, source: str) -> C:
    """`tree` as a `kind`; the first fault becomes one line that names the place and, for keys, the nearest word."""
    try:
        return kind.model_validate(tree)
    except pydantic.ValidationError as error:
        raise InputError(f"{source}: " + "; ".join(_explain(kind, fault) for fault in error.errors())) from error


def _read_assignment(word: str) -> tuple[str, Any]:
    key, sign, value = word.partition("=")
    if not sign or not key:
        raise InputError(f"--set {word}: needed key=value, for example train.epochs=3")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise InputError(f"--set {word}: '{value}' is not a YAML value") from error


def _copy(tree: Tree) -> Tree:
    return {key: _copy(value) if isinstance(value, dict) else value for key, value in tree.items()}


def _explain(kind: type[pydantic.BaseModel], fault: Any) -> str:
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(fault["loc"][-1]), _keys_at(kind, fault["loc"][:-1]), n=1, cutoff=0.5)
        return f"{place}: unknown key" + (f" (did you mean '{near[0]}'?)" if near else "")
    if fault["type"] == "missing":
        return f"{place}: missing, needed here"
    message = fault["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(fault["input"], dict) else f" (found {fault['input']!r})"
    return f"{place}: {message[0].lower()}{message[1:]}{shown}" if place else message


def _keys_at(kind: type[pydantic.BaseModel], path: Sequence[Any]) -> list[str]:
    for key in path:
        field = kind.model_fields.get(str(key))
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel)):
            return []
        kind = annotation
    return list(kind.model_fields)
