"""Several data sets as one: the roots of a command, or the key `sets` of a data YAML; and `class_map`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pydantic
from pydantic import Field

from boxwright import config, files
from boxwright.data import text
from boxwright.data.data_file import SUFFIXES, ClassMap
from boxwright.errors import InputError
from boxwright.remote import address
from boxwright.remote.address import BUCKETS, is_remote, parse
from boxwright.remote.folders import local_data

DROP, IGNORE = "drop", "ignore"  # in place of a new name
MAX_SETS = 1000
MAX_WEIGHT = 100  # an epoch's list of visits stays small


def _as_set(value: object) -> object:
    return {"path": value} if isinstance(value, str) else value


def _names(value: object) -> tuple[str, ...]:
    return tuple(text.parse_class_names(value).values())


class SetConfig(config.Config):
    """One of several sets, in a data YAML or from a command."""

    path: str = Field(min_length=1)  # a folder, an archive, a JSON file, or a data YAML of one set
    weight: Annotated[float, Field(gt=0, le=MAX_WEIGHT)] = 1.0  # how often an epoch visits its images
    class_map: ClassMap = Field(default_factory=dict)


class SetsFile(config.Config):
    """A data YAML of several sets."""

    sets: Annotated[
        tuple[Annotated[SetConfig, pydantic.BeforeValidator(_as_set)], ...], Field(min_length=1, max_length=MAX_SETS)
    ]
    names: Annotated[tuple[str, ...], pydantic.BeforeValidator(_names)] | None = None
    class_map: ClassMap = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sets:
    """Several sets.

    Attributes:
        title: Names of all sets, for messages.
        sets: The sets, with the paths to open.
        names: The classes in label order; None for all classes, in order of first appearance.
        class_map: Applied to all sets after their own class maps.
    """

    title: str
    sets: tuple[SetConfig, ...]
    names: tuple[str, ...] | None = None
    class_map: Mapping[str, str] = field(default_factory=dict)


Root = str | Path | Sequence[str | Path] | Sets  # what commands and functions take as a data set


def find_sets(root: Root) -> Sets | Path:
    """The sets of several roots or of a data YAML with the key `sets`; else the root of the only set.

    An archive becomes its folder. Raises InputError if it or a YAML file cannot be read, or if unsupported keys are
    beside `sets`.
    """
    if isinstance(root, Sets):
        return root
    if isinstance(root, str | Path):
        path = local_data(root)
        return _of_yaml(path) or path
    if len(root) == 1:
        return find_sets(root[0])
    return several(root)


def several(roots: Sequence[str | Path], class_map: Mapping[str, str] | None = None) -> Sets:
    """Several roots as sets of weight 1. Raises InputError for a single root, a root that itself lists sets, or web
    addresses as `_public`."""
    if len(roots) < 2:
        hint = "; it lists sets itself, and `data convert` writes them as one" if any(map(is_list, roots)) else ""
        raise InputError(f"{shown(roots) or 'data'}: found {len(roots)}, needed two or more sets{hint}")
    for root in roots:
        if is_list(root):
            raise InputError(f"{root}: itself lists several sets; use it alone, and list the other sets in it")
    sets = tuple(SetConfig(path=path) for path in _public(roots))
    return Sets(shown(roots), sets, None, dict(class_map or {}))


def _public(roots: Sequence[str | Path]) -> list[str]:
    """`address.public` of each root. Raises InputError for two web addresses that only differ in secret parts."""
    originals: dict[str, str] = {}
    for root in map(str, roots):
        if originals.setdefault(bare := address.public(root), root) != root:
            raise InputError(
                f"{bare}: named twice with different queries, which are not stored; download these files, and name them"
            )
    return list(map(address.public, map(str, roots)))


def read_class_map(words: Sequence[str]) -> dict[str, str]:
    """`old=new` words of a command. Raises InputError for other words, or a class given twice."""
    class_map: dict[str, str] = {}
    for word in words:
        old, sign, new = word.partition("=")
        if not (old and sign and new):
            raise InputError(f"--class-map {word}: needed OLD=NEW, for example lorry=truck or sign=drop")
        if fault := config.class_name_fault(new):
            raise InputError(f"--class-map {word}: {fault}")
        if class_map.setdefault(old, new) != new:
            raise InputError(f"--class-map {word}: {old} was already renamed to {class_map[old]}; leave one out")
    return class_map


def is_list(root: str | Path) -> bool:
    """Whether `root` is a data YAML with the key `sets`."""
    path = Path(root).expanduser()
    return mentions(path, "sets") and "sets" in config.read_yaml(path)


def mentions(path: Path, key: str) -> bool:
    """Whether `path` is a YAML file that may have the key; avoids slow parsing of files with thousands of classes."""
    if path.suffix not in SUFFIXES or not path.is_file():
        return False
    try:
        with files.open_regular(path) as file:
            return key.encode() in file.read(config.MAX_YAML)
    except OSError:
        return True  # `read_yaml` reports it


def shown(root: Root) -> str:
    """The root as text for messages."""
    if isinstance(root, Sets):
        return root.title
    return address.shown(str(root)) if isinstance(root, str | Path) else ", ".join(map(shown, root))


def stored(root: Root) -> str | list[str]:
    """The root as `data.root` of a recipe, without secret parts of addresses.

    Raises InputError for sets that are in no file, or web addresses as `_public`."""
    if isinstance(root, Sets):
        raise InputError("data: found sets that are in no file, needed paths; write them into a data YAML")
    if isinstance(root, str | Path):
        return address.public(str(root))
    paths = _public(root)
    return paths[0] if len(paths) == 1 else paths


def _of_yaml(path: Path) -> Sets | None:
    if not is_list(path):
        return None
    file = config.validate(SetsFile, config.read_yaml(path), str(path))
    sets = []
    for entry in file.sets:
        stored_there = is_remote(entry.path) and parse(entry.path).scheme in BUCKETS
        resolved = local_data(entry.path) if stored_there else path.parent / Path(entry.path).expanduser()
        if is_list(resolved):
            raise InputError(
                f"{path}: {entry.path}: itself lists several sets, needed a single one; list its sets here"
            )
        sets.append(entry.model_copy(update={"path": str(resolved)}))
    return Sets(str(path), tuple(sets), file.names, file.class_map)
