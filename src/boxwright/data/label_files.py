"""Label files for a whole split: candidates in a folder, and their splits."""

import heapq
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from boxwright.data.contents import MAX_HEADS
from boxwright.data.listing import listing
from boxwright.data.split_names import STANDARD, canonical_name
from boxwright.data.text import subfolders

AFFIX = re.compile(r"(?:[-_. ]?(?:annotations?|labels?|bbox|images?|with|rotation|createml))+$", re.IGNORECASE)


def find_files(root: Path, suffixes: tuple[str, ...], fits: Callable[[Path], bool]) -> dict[str, Path]:
    """Split -> label file: `root` itself if it is a file, else files in `root` and its subfolders."""
    return by_split([file for file in candidates(root, suffixes) if fits(file)], root)


def candidates(root: Path, suffixes: tuple[str, ...], limit: int = MAX_HEADS) -> list[Path]:
    """Visible files with one of the suffixes in `root` and in its subfolders; the first `limit` of each folder."""
    if root.is_file():
        return [root] if root.name.lower().endswith(suffixes) else []
    folders = [root, *folders_in(root)]
    return [folder / name for folder in folders if folder.is_dir() for name in _first_names(folder, suffixes, limit)]


def folders_in(folder: Path) -> list[Path]:
    """The visible folders in `folder`, sorted; [] if it does not exist."""
    return [inner for inner in subfolders(folder) if inner.name[0] != "."]


def by_split(files: Sequence[Path], root: Path) -> dict[str, Path]:
    """Split -> file, for files in `root`. The split is in the name of the file (train_labels.csv) or of its folder
    (valid/labels.csv).

    Otherwise a single file is the split `all`, and each of several is a split with the name of the file, without words
    such as `labels`.
    """
    folders = ["" if file.parent == root or file == root else file.parent.name for file in files]
    names = [_split_in(file.stem) or _split_in(folder) or "" for file, folder in zip(files, folders, strict=True)]
    if len(files) == 1:
        return {names[0] or "all": files[0]}
    names = [name or AFFIX.sub("", file.stem) or file.parent.name for name, file in zip(names, files, strict=True)]
    for unlike in (lambda file: file.stem, lambda file: f"{file.parent.name}_{file.stem}"):
        counts = Counter(names)
        names = [name if counts[name] == 1 else unlike(file) for name, file in zip(names, files, strict=True)]
    return dict(zip(names, files, strict=True))


def _first_names(folder: Path, suffixes: tuple[str, ...], limit: int) -> list[str]:
    by_suffix = listing(folder).by_suffix()
    names = [name for suffix in suffixes for name in by_suffix.get(suffix, ())]
    return heapq.nsmallest(limit, (name for name in names if name[0] != "."))


def _split_in(name: str) -> str | None:
    """The first word of a name that is the name of a split."""
    return next((word for word in re.findall(r"[A-Za-z]+", name) if canonical_name(word) in STANDARD), None)
