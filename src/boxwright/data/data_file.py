"""The file that describes a data set: YAML (docs/data.md), such as Ultralytics' `data.yaml`, or Darknet's `obj.data`.

Such files often come from other machines: missing paths are also searched beside the file.
"""

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from boxwright import config
from boxwright.archives.folder import exists, only_folders
from boxwright.config import QUOTES, ClassName, Tree
from boxwright.data import text
from boxwright.data.split_names import STANDARD, canonical_name
from boxwright.data.yolo_labels import IMAGE_FOLDERS
from boxwright.errors import InputError
from boxwright.remote.address import BUCKETS, is_remote, parse
from boxwright.remote.folders import local_data

DARKNET = ".data"
SUFFIXES = (".yaml", ".yml", DARKNET)
PATHS = {"root", "path", "images"}  # keys with a path as the value
DARKNET_KEYS = {"backup", "eval", "results", "labels", "top", "map", "hier"}  # for its programs, not for the data set
MAX_SHOWN = 60  # characters of a value in a message
MIN_LIKENESS = 0.75  # similarity to a known key from which an unknown key is a typo; `roboflow` and `root` have 0.5
KeypointShape = tuple[Annotated[int, Field(ge=0, le=10_000)], Annotated[int, Field(ge=0, le=3)]]


def _as_text(value: object) -> object:
    """Class names that YAML reads as whole numbers become text, as in `names`."""
    if not isinstance(value, dict):
        return value
    return {str(key) if type(key) is int else key: str(new) if type(new) is int else new for key, new in value.items()}


# Class of the set -> new name, `drop` or `ignore`
ClassMap = Annotated[dict[str, Annotated[ClassName, Field(min_length=1)]], pydantic.BeforeValidator(_as_text)]


class DataFile(config.Config):
    """The content of the file.

    Attributes:
        root: Base folder of all paths.
        kind: The layout.
        images: Base folder of the images.
        names: Number in label files -> class name.
        nc: Number of names, in YOLO's files.
        kpt_shape: Keypoints of an object and numbers of each, in YOLO's files.
        splits: Split -> its paths, as written.
        unknown: Ignored keys -> a similar known key, or "".
    """

    root: str = Field("", validation_alias=pydantic.AliasChoices("root", "path"))
    kind: str = "auto"
    images: str | None = None
    crowd: Literal["", "objects", "regions"] = ""
    bbox: Literal["", "xywh", "xyxy"] = ""
    names: Annotated[dict[int, str], pydantic.BeforeValidator(text.parse_class_names)] | None = None
    nc: int | None = None
    # the classes that were looked for, of all splits or by split; None: all
    labelled_classes: tuple[str, ...] | dict[str, tuple[str, ...]] | None = None
    kpt_shape: KeypointShape = (0, 0)
    splits: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    unknown: dict[str, str] = Field(default_factory=dict)
    class_map: ClassMap = Field(default_factory=dict)

    @pydantic.model_validator(mode="after")
    def _counts_agree(self) -> "DataFile":
        if self.nc is not None and self.names and self.nc not in (len(self.names), max(self.names) + 1):
            raise ValueError(f"nc is {self.nc}, names holds {len(self.names)} names")
        return self

    @property
    def keypoints(self) -> int:
        """Count of the numbers of keypoints after a box in YOLO's label files."""
        return self.kpt_shape[0] * self.kpt_shape[1]

    def notes(self) -> list[str]:
        """Notes about keys of the file that are ignored."""
        lines = [
            f"{key[:MAX_SHOWN]}: unknown key (did you mean '{near}'?)" for key, near in self.unknown.items() if near
        ]
        if others := [key for key, near in self.unknown.items() if not near]:
            lines.append(f"keys of other tools, ignored: {', '.join(others)[:MAX_SHOWN]}")
        return lines


def read(file: Path) -> DataFile:
    """Read the file. Keys named like splits are splits; unknown keys are ignored, since other tools write many.

    Raises InputError if it cannot be read or has an invalid value.
    """
    tree = _darknet_tree(file) if file.suffix == DARKNET else config.read_yaml(file)
    own = {"path", *DataFile.model_fields} - {"splits", "unknown"}
    values = {str(key): value for key, value in tree.items() if value is not None}
    content = {key: _local(value, f"{file}: {key}") if key in PATHS else value
               for key, value in values.items() if key in own}  # fmt: skip
    splits = {key: value for key, value in values.items() if key not in own and canonical_name(key) in STANDARD}
    content["splits"] = {key: _paths(value, f"{file}: {key}") for key, value in splits.items()}
    content["unknown"] = {key: _meant(key, own) for key in values if key not in own | splits.keys()}
    result = config.validate(DataFile, content, str(file))
    if not result.splits and (wrong := next((key for key, near in result.unknown.items() if near in STANDARD), None)):
        raise InputError(f"{file}: {wrong[:MAX_SHOWN]}: unknown key (did you mean '{result.unknown[wrong]}'?)")
    return result


def locate(file: Path, root: str, written: str) -> tuple[Path, bool] | None:
    """The path of `written` in a data file, and whether it was found elsewhere; None if it was not found.

    Relative paths start at `root`, or at its longest end that is a folder beside the file. If the path does not exist,
    its longest end that exists below these or beside the file is used: Roboflow writes `../train/images` for
    `train/images`, Darknet's paths start at the folder above, and other tools write absolute paths.
    """
    if not text.can_be_path(written):
        return None
    folder = data_root(file, root)
    bases = list(dict.fromkeys((folder, *only_folders(folder), file.parent)))
    parts = _split_path(written)
    for index, path in enumerate([base / written for base in bases] + list(_ends(bases, parts))):
        if exists(path):
            return path, index > 0
    return None


def data_root(file: Path, root: str) -> Path:
    """The folder `root` of a data file, or the longest end of it that is a folder beside the file."""
    folder = local_data(file.parent / root)
    parts = _split_path(root)
    beside = (file.parent.joinpath(*parts[start:]) for start in range(len(parts)))
    return folder if exists(folder) else next((place for place in beside if place.is_dir()), folder)


def _split_path(path: str) -> list[str]:
    return [part for part in re.split(r"[/\\]+", path) if part not in ("", ".", "..")]


def _ends(bases: list[Path], parts: list[str]) -> Iterator[Path]:
    """The ends of a path below the bases, the longest first; not `images` alone, which is in every split."""
    for start in range(len(parts)):
        if start == 0 or start < len(parts) - 1 or parts[-1].lower() not in IMAGE_FOLDERS:
            yield from (base.joinpath(*parts[start:]) for base in bases)


def _paths(value: object, place: str) -> tuple[str, ...]:
    paths = value if isinstance(value, list) else [value]
    if not paths or not all(isinstance(path, str) and path for path in paths):
        raise InputError(f"{place}: found {str(value)[:MAX_SHOWN]}, needed a path or a list of paths")
    return tuple(_local(path, place) for path in paths)


def _local(value: Any, place: str) -> Any:
    """A path in an object store as its path in the cache; other values unchanged. Files must not name web servers.

    For a folder of images, such as `s3://bucket/set/images/train`, its parent is listed: labels may be beside it.

    Raises InputError for control characters: backslashes in double quotes make them of `"C:\\new\\train"`.
    """
    if isinstance(value, str) and any(ord(letter) < 32 for letter in value):
        raise InputError(f"{place}: found a control character in '{value[:MAX_SHOWN]}'; {QUOTES}")
    if not (isinstance(value, str) and is_remote(value) and parse(value).scheme in BUCKETS):
        return value
    address = parse(value)
    parts = address.key.split("/")
    above = next((index for index, part in enumerate(parts) if part.lower() in IMAGE_FOLDERS), 0)
    if not above:
        return str(local_data(value))
    return str(local_data(f"{address.scheme}://{address.bucket}/{'/'.join(parts[:above])}").joinpath(*parts[above:]))


def _meant(key: str, known: set[str]) -> str:
    """The known key that is similar to an unknown one, or ""."""
    near = difflib.get_close_matches(key[:MAX_SHOWN], [*STANDARD, *sorted(known)], n=1, cutoff=MIN_LIKENESS)
    return near[0] if near else ""


def _darknet_tree(file: Path) -> Tree:
    """Lines `key = value` of `obj.data` as a YAML tree: `names` is a file, `classes` the number of classes."""
    tree: Tree = {}
    for number, line in text.lines(file):
        key, sign, value = (part.strip() for part in line.partition("="))
        if line.startswith(("#", ";")):
            continue
        if not sign or not key or key in tree:
            raise InputError(f"{file} line {number}: found '{line[:MAX_SHOWN]}', needed key = value, each key once")
        if value and key not in DARKNET_KEYS:
            tree[key] = value
    if (classes := tree.pop("classes", None)) is not None:
        if not (classes.isascii() and classes.isdigit() and len(classes) < 10):
            raise InputError(f"{file}: classes: found '{classes[:MAX_SHOWN]}', needed a number and nothing after it")
        tree["nc"] = int(classes)
    if "names" in tree:
        found = locate(file, "", tree["names"])
        if found is None:
            raise InputError(f"{file}: names: there is no {tree['names'][:MAX_SHOWN]}; put the class names there")
        tree["names"] = list(text.read_class_names(found[0]).values())
        count = len(tree["names"])
        if tree.get("nc", count) != count:
            raise InputError(
                f"{file}: classes is {tree['nc']}, {found[0]} holds {count} names; needed a line per class"
            )
    return tree
