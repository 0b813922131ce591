"""Functions shared by text layouts: lines, numbers, class names, and lists of images."""

import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright import config, files
from boxwright.errors import InputError
from boxwright.images.header import SUFFIXES
from boxwright.recipe import class_names as class_names_called

NAME_FILES = ("classes.txt", "obj.names", "names.txt", "data.yaml", "dataset.yaml", "data.yml")
# A path, which may contain spaces, ends at the last image suffix; anything after it follows a space.
LISTED_IMAGE = re.compile(rf"(.*(?:{'|'.join(re.escape(suffix) for suffix in SUFFIXES)}))(?:\s+(.*))?", re.IGNORECASE)
PREFIX_LENGTH = 65536  # characters of a line that are enough to detect its kind
MAX_LINE = 1 << 24  # characters; those of an image with 700,000 boxes
MAX_PATH = 4096  # bytes, Linux's PATH_MAX; limits the width of a column of paths


def lines(file: Path) -> Iterator[tuple[int, str]]:
    """Nonempty lines, stripped, with their numbers from 1.

    Raises InputError if the file cannot be read, is not UTF-8, or has a line of more than `MAX_LINE` characters.
    """
    number = 1
    try:
        with io.TextIOWrapper(files.open_regular(file), encoding="utf-8-sig") as opened:
            for number, line in enumerate(iter(lambda: opened.readline(MAX_LINE + 1), ""), 1):
                if len(line) > MAX_LINE and line[-1] != "\n":
                    raise InputError(f"{file} line {number}: has more than {MAX_LINE:,} characters, needed labels")
                if "\0" in line:
                    raise InputError(f"{file} line {number}: holds a NUL, needed text; write the file anew")
                if stripped := line.strip():
                    yield number, stripped
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}), needed a text file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not a text file (a byte in line {number} or after it is not UTF-8)") from error


def list_kind(file: Path) -> str | None:
    """`line_txt` if images are followed by boxes, `yolo_txt` if there are only paths, None if it lists no images."""
    try:
        with io.TextIOWrapper(files.open_regular(file), encoding="utf-8-sig") as opened:
            stripped = (line.strip() for line in iter(lambda: opened.readline(PREFIX_LENGTH), "") if not line.isspace())
            first = LISTED_IMAGE.fullmatch(next(stripped, ""))
            if first is None or (first[2] or "").isdigit():  # a class index follows, as in Caffe's lists
                return None
            # many images without boxes may come first; `endswith` is much cheaper than the pattern
            rest = (LISTED_IMAGE.fullmatch(line) for line in stripped if not line.lower().endswith(SUFFIXES))
            return "line_txt" if first[2] or any(match and match[2] for match in rest) else "yolo_txt"
    except (OSError, UnicodeDecodeError):
        return None


def find_lists(root: Path, kind: str) -> dict[str, Path]:
    """Split -> list file of that kind, directly in `root`."""
    kinds = {file: list_kind(file) for file in sorted(root.glob("*.txt")) if file.name not in NAME_FILES}
    if "line_txt" in kinds.values():  # other lists of paths may be splits without boxes
        unlabeled = [file for file, found in kinds.items() if found == "yolo_txt"]
        kinds |= {file: "line_txt" for file in unlabeled if not _has_labels(file, root)}
    return {file.stem: file for file, found in kinds.items() if found == kind}


def _has_labels(file: Path, root: Path) -> bool:
    """Whether an image of the list has a YOLO label file."""
    return any(os.path.isfile(label_file(image_path(line, file, root))) for _, line in lines(file))  # noqa: PTH113


def label_file(image: str) -> str:
    """The YOLO label file of an image: with `images` in its path replaced by `labels`, or in the same folder."""
    stem = os.path.splitext(image)[0] + ".txt"  # noqa: PTH122
    parts = Path(stem).parts
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        swapped = str(Path(*parts[:last], "labels", *parts[last + 1 :]))
        if os.path.isfile(swapped) or not os.path.isfile(stem):  # noqa: PTH113
            return swapped
    return stem


def image_path(written: str, file: Path, root: Path, images: Path | None = None) -> str:
    """The path of an image in a list: absolute, or relative to `images`, else to the list's folder or to `root`."""
    if not can_be_path(written):
        raise InputError(f"{file}: '{written[:50]}...' cannot be a path")
    if images is not None:
        return str(images / written)
    sibling = file.parent / written
    use_sibling = os.path.isfile(sibling) or not os.path.isfile(root / written)  # noqa: PTH113  (False for a name too long)
    return str(sibling if use_sibling else root / written)


def can_be_path(name: str) -> bool:
    """Whether the name is valid in a file system."""
    try:
        return 0 < len(os.fsencode(name)) <= MAX_PATH and "\0" not in name
    except UnicodeEncodeError:
        return False


def class_names(root: Path, given: Sequence[str]) -> tuple[str, ...]:
    """`given`, or else the names in the first file of class names in `root`. Raises InputError if there is none."""
    names = tuple(given) or find_class_names(root)
    if names:
        return names
    raise InputError(
        f"{root}: no class names; looked for {', '.join(NAME_FILES)}, *.names and labels/classes.txt; write one name a "
        f"line, in label order, into classes.txt"
    )


def find_class_names(root: Path) -> tuple[str, ...]:
    """The names in the first file of class names in `root`, () if there is none. Raises InputError if it is empty."""
    files = [root / name for name in NAME_FILES] + [root / "labels" / "classes.txt", *sorted(root.glob("*.names"))]
    for file in files:
        if file.is_file():
            names = _from_yaml(file) if file.suffix in {".yaml", ".yml"} else _from_lines(file)
            if not names:
                raise InputError(f"{file}: empty, needed one class name a line")
            return names
    return ()


def _from_lines(file: Path) -> tuple[str, ...]:
    names = []
    for number, name in lines(file):
        if fault := config.class_name_fault(name):
            raise InputError(f"{file} line {number}: {fault}")
        names.append(name)
    return tuple(names)


def _from_yaml(file: Path) -> tuple[str, ...]:
    names = config.read_yaml(file).get("names")
    try:
        return parse_class_names(names)
    except ValueError as error:
        raise InputError(f"{file}: names: {error}") from error


def subfolders(folder: Path) -> list[Path]:
    """The folders in `folder`, sorted; [] if it does not exist."""
    return sorted(entry for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []


def walk(folder: Path, suffixes: tuple[str, ...]) -> list[str]:
    """Files below `folder` with one of the suffixes, sorted.

    Links to folders are followed, but each folder is visited once, and those that contain `folder` are not.
    """
    top = Path(os.path.realpath(folder))
    found: list[str] = []
    visited: set[str] = set()
    queue = [str(folder)]
    for start in queue:  # links are appended, so a folder that is also found without a link has that path
        for parent, inner, names in os.walk(start):
            real = os.path.realpath(parent)
            if real in visited or (start != queue[0] and top.is_relative_to(real)):
                inner.clear()
                continue
            visited.add(real)
            found += [os.path.join(parent, name) for name in names]  # noqa: PTH118
            queue += sorted(path for name in inner if os.path.islink(path := os.path.join(parent, name)))  # noqa: PTH114, PTH118
    return sorted(file for file in found if file.lower().endswith(suffixes))


def parse_class_names(names: object) -> tuple[str, ...]:
    """`names` of a YAML file: a list, a mapping from the labels 0, 1, ..., or the name of a shipped list like dota15.

    Raises ValueError for anything else, and for invalid names.
    """
    if isinstance(names, str):
        return class_names_called(names)
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise ValueError(f"found labels {', '.join(map(str, names))}, needed 0 to {len(names) - 1}")
        names = [names[label] for label in range(len(names))]
    if not isinstance(names, list | tuple) or not names or not all(isinstance(n, str | int) for n in names):
        raise ValueError(f"found {type(names).__name__}, needed a list of class names")
    texts = tuple(str(name) for name in names)
    if fault := next(filter(None, map(config.class_name_fault, texts)), ""):
        raise ValueError(fault)
    return texts


def write_lines(file: Path, written: Sequence[str]) -> None:
    """Write a text file. Raises InputError if a name in it is not valid UTF-8."""
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        file.write_text("".join(line + "\n" for line in written), encoding="utf-8", newline="\n")
    except UnicodeEncodeError as error:
        line = error.object[error.object.rfind("\n", 0, error.start) + 1 :].partition("\n")[0]
        raise InputError(
            f"{file.name}: cannot hold '{line[:100]}', a name that is no UTF-8; rename that file, or convert to coco"
        ) from error


def decimals(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """The shortest decimal of each float32, as float64: 10.1 instead of 10.100000381469727."""
    return values.astype(np.str_).astype(np.float64)


def shortest_decimals(values: NDArray[Any]) -> list[list[str]]:
    """The shortest decimals that restore each value, as text."""
    return [[value.removesuffix(".0") for value in row] for row in values.astype(np.str_).tolist()]


def value_text(value: object) -> str:
    """A JSON value as text: booleans as 0 and 1, null as the empty string."""
    return "" if value is None else str(int(value) if isinstance(value, bool) else value)
