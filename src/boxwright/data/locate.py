"""Finding the image files that labels name, also by paths from other machines.

Label tools write absolute paths, backslashes, URLs, percent escapes, other Unicode forms and suffixes in other case.
An image that is not at the path in its label is searched by the last part of its name among all images below the data
set's folder; of several, the one whose path agrees in the most parts is used. A name without the suffix of an image,
such as an id, is searched without suffix.
"""

import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from boxwright.data.source import Source
from boxwright.data.split_names import canonical_name
from boxwright.data.text import subfolders, walk
from boxwright.images.header import SUFFIXES

ID_SUFFIXES = (*SUFFIXES, *map(str.upper, SUFFIXES))  # tried behind an id
QUERY = re.compile(r"^(?:[a-z]+://|/).*?\?d=", re.IGNORECASE)  # Label Studio's local files: /data/local-files/?d=PATH
URL = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def locator(source: Source, file: Path) -> "Locator":
    """A locator for the images named in `file`, the label file of a whole split: the usual folders come first."""
    root = source.root if source.root.is_dir() else file.parent
    split = canonical_name(source.split)
    own = [f for base in (root, root / "images") for f in subfolders(base) if canonical_name(f.name) == split]
    folders = [file.parent, *own, file.parent / "images", root / "images", root]
    return Locator([source.images] if source.images else [folder for folder in folders if folder.is_dir()], root)


@dataclass(frozen=True, slots=True)
class Located:
    """The location of an image.

    Attributes:
        path: The file; if it does not exist, the expected path.
        exists: Whether it was found.
        elsewhere: Whether it was found at another path than its name; False for URLs and ids, which are not paths.
        candidates: Files that match equally well, if there are several.
    """

    path: str
    exists: bool = True
    elsewhere: bool = False
    candidates: tuple[str, ...] = ()


class Locator:
    """Locates images by the names in label files.

    Args:
        folders: Folders that relative names may refer to; the first has precedence.
        root: Images that are not in `folders` are searched below this folder.
    """

    def __init__(self, folders: Sequence[Path], root: Path) -> None:
        self._folders = list(dict.fromkeys(folders)) or [root]
        self._root = root
        self._listed: dict[Path, frozenset[str]] = {}
        self._by_name: dict[str, list[str]] | None = None

    def locate(self, name: str) -> Located:
        """The file of the image `name`. Does not raise: a missing file is reported when it is read."""
        names = [name] if name.lower().endswith(SUFFIXES) else [*(name + suffix for suffix in ID_SUFFIXES), name]
        for folder in self._folders:
            for existing in names:
                if self._exists(folder, existing):
                    return Located(os.path.join(folder, existing))  # noqa: PTH118  (100,000s of them)
        parts = _parts(name)
        files = self._candidates(parts)
        if len(files) > 1:
            agreeing = [_common_tail(parts, _parts(file)) for file in files]
            files = [file for file, count in zip(files, agreeing, strict=True) if count == max(agreeing)]
        if len(files) == 1:
            return Located(files[0], elsewhere=parts[-1].endswith(SUFFIXES) and not URL.match(name))
        return Located(os.path.join(self._folders[0], name), exists=False, candidates=tuple(files))  # noqa: PTH118

    def _exists(self, folder: Path, name: str) -> bool:
        if "/" in name or os.sep in name or not name:
            return os.path.isfile(os.path.join(folder, name))  # noqa: PTH113, PTH118
        if folder not in self._listed:  # one listing is much faster than checking each of 100,000 files
            self._listed[folder] = _files_in(folder)
        return name in self._listed[folder]

    def _candidates(self, parts: Sequence[str]) -> list[str]:
        if self._by_name is None:
            self._by_name = {}
            for file in walk(self._root, SUFFIXES):
                last = _parts(file)[-1]
                for key in (last, os.path.splitext(last)[0]):  # noqa: PTH122  (100,000s of them)
                    self._by_name.setdefault(key, []).append(file)
        return self._by_name.get(parts[-1], []) if parts else []


def _files_in(folder: Path) -> frozenset[str]:
    if not folder.is_dir():
        return frozenset()
    with os.scandir(folder) as entries:
        return frozenset(entry.name for entry in entries if entry.is_file())


def _parts(name: str) -> list[str]:
    """The parts of a path or URL, normalized so that all spellings of a name are equal."""
    if QUERY.match(name):
        name = QUERY.sub("", name)
    elif URL.match(name):
        name = name.partition("?")[0].partition("#")[0]
    name = unicodedata.normalize("NFC", unquote(name, errors="surrogateescape"))
    return [part.casefold() for part in re.split(r"[/\\]+", name) if part not in ("", ".", "..")]


def _common_tail(first: Sequence[str], second: Sequence[str]) -> int:
    """Number of equal parts from the end."""
    count = 0
    for a, b in zip(reversed(first), reversed(second), strict=False):
        if a != b:
            break
        count += 1
    return count
