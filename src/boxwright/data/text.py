"""Functions shared by text layouts: lines, numbers, class names, and lists of images."""

import codecs
import contextlib
import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boxwright import config, files
from boxwright.arrays import Array
from boxwright.data.listing import listing
from boxwright.data.source import Source
from boxwright.data.yolo_labels import LabelFinder
from boxwright.errors import InputError
from boxwright.images.header import SUFFIXES
from boxwright.recipe import class_names as class_names_called

NAME_FILES = ("classes.txt", "obj.names", "names.txt", "data.yaml", "dataset.yaml", "data.yml")
INNER_NAME_FILES = (
    "labels/classes.txt",
    "labels/*/classes.txt",
    "*/labels/classes.txt",
    "*.names",
    "*/_darknet.labels",
)
MAX_NAMES = 1 << 24  # bytes of a file of class names
MAX_COUNT = 32_768  # classes without names, as many as `config.ClassCount` allows
# A path, which may contain spaces, ends at the last image suffix; anything after it follows a space.
LISTED_IMAGE = re.compile(rf"(.*(?:{'|'.join(re.escape(suffix) for suffix in SUFFIXES)}))(?:\s+(.*))?", re.IGNORECASE)
PREFIX_LENGTH = 65536  # characters of a line that are enough to detect its kind
MAX_LINE = 1 << 24  # characters; those of an image with 700,000 boxes
MAX_PATH = 4096  # bytes; Linux's PATH_MAX limits the width of a column of paths


def lines(file: Path, errors: str = "strict") -> Iterator[tuple[int, str]]:
    """Nonempty lines, stripped, with their numbers from 1.

    Raises InputError if the file cannot be read, is not UTF-8, or has a line of more than `MAX_LINE` characters.
    errors: `surrogateescape` keeps other bytes, for lists of file names.
    """
    number = 1
    try:
        with io.TextIOWrapper(files.open_regular(file), encoding="utf-8-sig", errors=errors) as opened:
            for number, line in enumerate(iter(lambda: opened.readline(MAX_LINE + 1), ""), 1):
                if len(line) > MAX_LINE and line[-1] != "\n":
                    raise InputError(f"{file} line {number}: has more than {MAX_LINE:,} characters, needed labels")
                if "\0" in line:
                    raise InputError(f"{file} line {number}: contains a NUL, needed text; rewrite the file")
                if stripped := line.strip():
                    yield number, stripped
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}), needed a text file") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file}: a byte in line {number} or after it is not UTF-8; save the file as UTF-8, if it is a text"
        ) from error


def list_kind(file: Path) -> str | None:
    """`line_txt` if images are followed by boxes, `yolo_txt` if there are only paths, None if it lists no images."""
    try:
        with io.TextIOWrapper(files.open_regular(file), encoding="utf-8-sig", errors="surrogateescape") as opened:
            stripped = (line.strip() for line in iter(lambda: opened.readline(PREFIX_LENGTH), "") if not line.isspace())
            first = LISTED_IMAGE.fullmatch(next(stripped, ""))
            if first is None or (first[2] or "").isdigit():  # a class index follows, as in Caffe's lists
                return None
            # many images without boxes may come first; `endswith` is much cheaper than the pattern
            rest = (LISTED_IMAGE.fullmatch(line) for line in stripped if not line.lower().endswith(SUFFIXES))
            return "line_txt" if first[2] or any(match and match[2] for match in rest) else "yolo_txt"
    except OSError:
        return None


def find_lists(root: Path, kind: str) -> dict[str, Path]:
    """Split -> list file of the kind, directly in `root`."""
    if not root.is_dir():
        return {}
    names = sorted(listing(root).names)
    images = {os.path.splitext(name)[0] for name in names if name.lower().endswith(SUFFIXES)}  # noqa: PTH122
    texts = (name for name in names if name.lower().endswith(".txt") and name not in NAME_FILES)
    # a text file with the name of an image contains its labels
    kinds = {root / name: list_kind(root / name) for name in texts if os.path.splitext(name)[0] not in images}  # noqa: PTH122
    if "line_txt" in kinds.values():  # other lists of paths may be splits without boxes
        unlabeled = [file for file, found in kinds.items() if found == "yolo_txt"]
        kinds |= {file: "line_txt" for file in unlabeled if not _has_labels(file, root)}
    return {file.stem: file for file, found in kinds.items() if found == kind}


def _has_labels(file: Path, root: Path) -> bool:
    """Whether an image of the list has a YOLO label file."""
    finder = LabelFinder()
    return any(finder.find(image_path(line, file, root))[1] for _, line in lines(file, "surrogateescape"))


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


def numbered_classes(source: Source) -> dict[int, str]:
    """Number in label files -> class name, from a data YAML or else from a file of class names in the root.

    If a data YAML has only their number (`nc`), the names are class_0, class_1, ..., as in Ultralytics. Raises
    InputError if there is neither.
    """
    if source.names:
        return dict(zip(source.ids or range(len(source.names)), source.names, strict=True))
    if (file := find_class_file(source.root)) is not None:
        return read_class_names(file)
    yamls = [source.data_file, *(source.root / name for name in NAME_FILES)]
    for file in (file for file in yamls if file is not None and is_yaml(file) and file.is_file()):
        if type(count := config.read_yaml(file).get("nc")) is int and 0 < count <= MAX_COUNT:
            return {number: f"class_{number}" for number in range(count)}
    raise InputError(
        f"{source.root}: no class names; looked for classes.txt, obj.names, data.yaml; write them into classes.txt "
        "there in label order, one per line"
    )


def labels_of(categories: NDArray[np.int64], ids: Sequence[int]) -> NDArray[np.int64]:
    """The index of each category in `ids`, which are ascending; -1 if it is not there."""
    numbers = np.array(ids, dtype=np.int64)
    labels = np.searchsorted(numbers, categories).clip(max=len(numbers) - 1)
    return np.where(numbers[labels] == categories, labels, -1)


def find_class_names(root: Path) -> tuple[str, ...]:
    """The names in the file of class names in `root`; () if there is none. Raises InputError as `read_class_names`."""
    file = find_class_file(root)
    return () if file is None else tuple(read_class_names(file).values())


def find_class_file(root: Path) -> Path | None:
    """The file of class names of a data set. Raises InputError if its folders contain several that differ."""
    if not root.is_dir():
        return None
    direct = [root / name for name in NAME_FILES if (root / name).is_file()]
    if file := next(
        (file for file in direct if not is_yaml(file) or config.read_yaml(file).get("names") is not None), None
    ):
        return file
    inner = [file for pattern in INNER_NAME_FILES for file in sorted(root.glob(pattern)) if file.is_file()]
    inner += [file for file in sorted(root.glob("*.y*ml")) if is_yaml(file) and _has_names(file)]
    for file in inner[1:]:
        if read_class_names(file) != read_class_names(inner[0]):
            first, second = (path.relative_to(root) for path in (inner[0], file))
            raise InputError(
                f"{root}: {first} and {second} have different class names; write the right ones into classes.txt there"
            )
    return inner[0] if inner else None


def _has_names(file: Path) -> bool:
    try:
        return bool(parse_class_names(config.read_yaml(file).get("names")))
    except ValueError:  # another kind of YAML file; InputError is a ValueError
        return False


def read_class_names(file: Path) -> dict[int, str]:
    """Number in label files -> name, from a file with one name per line, or from the key `names` of a YAML file.

    Raises InputError if it cannot be read, and for invalid names.
    """
    if is_yaml(file):
        try:
            return parse_class_names(config.read_yaml(file).get("names"))
        except ValueError as error:
            raise InputError(f"{file}: names: {error}") from error
    names = []
    for number, line in enumerate(
        io.StringIO(_decode(file)[0], newline=None), 1
    ):  # splitlines would also split at form feeds
        if fault := "a NUL" if "\0" in line else config.class_name_fault(line.strip()):
            raise InputError(f"{file} line {number}: {fault}")
        names += [line.strip()] * bool(line.strip())
    if not names:
        raise InputError(f"{file}: empty, needed one class name per line")
    return dict(enumerate(names))


def encoding_note(file: Path) -> str:
    """A note about the assumed encoding of a file of class names if it is not UTF-8; else ""."""
    if is_yaml(file):
        return ""
    content, encoding = _decode(file)
    first = next((line.strip() for line in content.splitlines() if not line.isascii()), "")
    return f"not UTF-8, read as {encoding}, for example '{first[:40]}'; save it as UTF-8" if encoding else ""


def _decode(file: Path) -> tuple[str, str]:
    """The text of a file of class names, and its encoding if that is not UTF-8.

    Without a byte order mark, the encoding is uncertain. Single accented letters between ASCII are read as
    Windows-1252. Longer runs of other bytes may be in any language; raises InputError for them.
    """
    content = files.read_input(file, ", needed class names", MAX_NAMES)
    with contextlib.suppress(UnicodeDecodeError):
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return content.decode("utf-16"), "UTF-16"
        return content.decode("utf-8-sig"), ""
    runs = re.findall(rb"[\x80-\xff]+", content)
    with contextlib.suppress(UnicodeDecodeError):
        if all(len(run) == 1 and run.decode("cp1252").isalpha() for run in runs):
            return content.decode("cp1252"), "Windows-1252"
    line = content[: content.find(runs[0])].count(b"\n") + 1
    raise InputError(f"{file} line {line}: not UTF-8, and no other encoding is certain; save the file as UTF-8")


def is_yaml(file: Path) -> bool:
    """Whether the name of a file is that of a YAML file."""
    return file.suffix in {".yaml", ".yml"}


def subfolders(folder: Path) -> list[Path]:
    """The folders in `folder`, sorted; [] if it does not exist. Fast also with 100,000s of files in it."""
    if not folder.is_dir():
        return []
    return sorted(folder / name for name in listing(folder).folders)


def walk(folder: Path, suffixes: tuple[str, ...]) -> list[str]:
    """Files below `folder` with one of the suffixes, sorted, without hidden folders and macOS's `._` files.

    Links to folders are followed, but each folder is visited once, and folders that contain `folder` are not visited.
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
            inner[:] = [name for name in inner if name[0] != "."]
            found += [os.path.join(parent, name) for name in names if name[:2] != "._"]  # noqa: PTH118
            queue += sorted(path for name in inner if os.path.islink(path := os.path.join(parent, name)))  # noqa: PTH114, PTH118
    return sorted(file for file in found if file.lower().endswith(suffixes))


def parse_class_names(names: object) -> dict[int, str]:
    """Number in label files -> class name, in the order of the numbers.

    names: `names` of a YAML file: a list, a mapping from numbers, or the name of a shipped list such as dota15. Raises
    ValueError for anything else, and for invalid names.
    """
    if isinstance(names, str):
        return dict(enumerate(class_names_called(names)))
    if isinstance(names, list | tuple):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise ValueError(f"found {'no class' if names == {} else type(names).__name__}, needed a list of class names")
    if wrong := [(key, name) for key, name in names.items() if not isinstance(name, str | int)]:
        key, name = wrong[0]
        raise ValueError(f"class {str(key)[:40]}: found {str(name)[:40]}, needed a name; write it in quotes")
    numbered = {_class_number(key): str(name) for key, name in names.items()}
    if len(numbered) < len(names):
        raise ValueError(f"found keys {', '.join(map(repr, names))[:60]}, needed each number once")
    if fault := next(filter(None, map(config.class_name_fault, numbered.values())), ""):
        raise ValueError(fault)
    return dict(sorted(numbered.items()))


def _class_number(key: object) -> int:
    word = str(key)
    if isinstance(key, bool) or not (word.isascii() and word.isdigit()) or len(word) > 9:
        raise ValueError(f"found the key {word[:40]!r}, needed class numbers from 0")
    return int(word)


def write_lines(file: Path, written: Sequence[str]) -> None:
    """Write a text file. Raises InputError if a name in it is not valid UTF-8."""
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        file.write_text("".join(line + "\n" for line in written), encoding="utf-8", newline="\n")
    except UnicodeEncodeError as error:
        line = error.object[error.object.rfind("\n", 0, error.start) + 1 :].partition("\n")[0]
        raise InputError(
            f"{file.name}: cannot hold '{line[:100]}', a name that is not UTF-8; rename that file, or convert to coco"
        ) from error


def decimals(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """The shortest decimal of each float32, as float64: 10.1 instead of 10.100000381469727."""
    return values.astype(np.str_).astype(np.float64)


def shortest_decimals(values: Array) -> list[list[str]]:
    """The shortest decimals that restore each value, as text."""
    return [[value.removesuffix(".0") for value in row] for row in values.astype(np.str_).tolist()]


def value_text(value: object) -> str:
    """A JSON value as text: booleans as 0 and 1, null as the empty string."""
    return "" if value is None else str(int(value) if isinstance(value, bool) else value)
