"""Locations of YOLO's images and label files relative to each other.

The label file of an image is in a folder `labels` in place of `images`, or beside the image.
"""

import os
import re
from itertools import islice
from pathlib import Path

from boxwright.data.listing import listing
from boxwright.files import open_regular
from boxwright.images.header import SUFFIXES

IMAGE_FOLDERS = {"images", "jpegimages"}  # in any case; the second is Pascal VOC's, which Darknet uses
DATED = re.compile(r"labels_.+", re.IGNORECASE)  # makesense exports such a folder
NOT_LABELS = {"classes.txt"}
MAX_HEADS = 20  # label files that are read to detect the layout
MAX_ENTRIES = 1000  # entries that are checked per folder
HEAD = 1 << 12  # bytes of a label file that are enough to detect its kind


class LabelFinder:
    """Finds the label files of images. Lists each folder once, which is much faster than checking 100,000 files."""

    def __init__(self) -> None:
        self._places: dict[str, list[tuple[str, dict[str, str]]]] = {}
        self._siblings: dict[Path, list[Path]] = {}

    def find(self, image: str) -> tuple[str, bool]:
        """The label file of an image, and whether it exists."""
        folder, name = os.path.split(image)
        stem, places = os.path.splitext(name)[0], self.places(folder)  # noqa: PTH122
        for place, files in places:
            if stem in files:
                return os.path.join(place, files[stem]), True  # noqa: PTH118
        return os.path.join(places[0][0], f"{stem}.txt"), False  # noqa: PTH118

    def places(self, folder: str) -> list[tuple[str, dict[str, str]]]:
        """Folders for the labels of the images in `folder`, preferred ones first, with stem -> name of their files."""
        if folder not in self._places:
            path = Path(folder)
            swapped = sorted(self._swapped(path), key=lambda place: not place.is_dir())
            self._places[folder] = [(str(place), _texts(place)) for place in [*swapped, path]]
        return self._places[folder]

    def _swapped(self, folder: Path) -> list[Path]:
        """`folder` with `images` replaced by `labels`, the last `images` first."""
        parts = folder.parts
        found = []
        for index in reversed(range(len(parts))):
            if parts[index].lower() in IMAGE_FOLDERS:
                parent = Path(*parts[:index])
                if parent not in self._siblings:
                    self._siblings[parent] = label_folders(parent) or [parent / "labels"]
                found += [place.joinpath(*parts[index + 1 :]) for place in self._siblings[parent]]
        return found


def label_folders(parent: Path) -> list[Path]:
    """The folders of labels in `parent`: `labels` in any case, else makesense's dated one if it has no similar CSV."""
    try:
        names = sorted(listing(parent).names)
    except OSError:
        return []
    found = [parent / name for name in names if name.lower() == "labels"]
    dated = [parent / name for name in names if DATED.fullmatch(name) and f"{name}.csv" not in names]
    found = found or (dated if len(dated) == 1 else [])
    return [folder for folder in found if folder.is_dir()]


def image_folders(parent: Path) -> list[Path]:
    """The folders of images in `parent`: `images` or `JPEGImages`, in any case."""
    try:
        names = sorted(listing(parent).names)
    except OSError:
        return []
    return [folder for name in names if name.lower() in IMAGE_FOLDERS and (folder := parent / name).is_dir()]


def can_hold_labels(folder: Path) -> bool:
    """Whether a folder of labels may be YOLO's: its first text files are, or it contains no labels of other kinds."""
    files = ((parent, name) for parent, _, names in os.walk(folder) for name in names)
    names = [os.path.join(parent, name) for parent, name in islice(files, MAX_ENTRIES)]  # noqa: PTH118
    texts = [name for name in names if name.lower().endswith(".txt") and Path(name).name not in NOT_LABELS]
    if not texts:
        return not any(name.lower().endswith((".xml", ".json", ".csv")) for name in names)
    first = [_first_line(name) for name in texts[:MAX_HEADS]]
    return any(map(is_label, filter(None, first))) or not any(first)


def has_labels_beside(folder: Path, limit: int | None = None) -> bool:
    """Whether a folder contains images with YOLO's labels beside them. limit: number of entries that are checked."""
    try:
        names = listing(folder).names[:limit]
    except OSError:
        return False
    texts = [name for name in names if name.lower().endswith(".txt") and name not in NOT_LABELS]
    if not texts:
        return False
    images = {os.path.splitext(name)[0] for name in names if name.lower().endswith(SUFFIXES)}  # noqa: PTH122
    labels = islice((name for name in texts if os.path.splitext(name)[0] in images), MAX_HEADS)  # noqa: PTH122
    return any(is_label(_first_line(os.path.join(folder, name))) for name in labels)  # noqa: PTH118


def is_label(line: bytes) -> bool:
    """Whether a line may be a label of YOLO: numbers; a word in place of the first one may be a mistake.

    Lines of DOTA (a word after eight numbers) and KITTI (a word before fourteen numbers) are not.
    """
    words = line.split()
    try:
        [float(word) for word in words[1:]]
        float(words[0] if len(words) > 6 else b"0")
    except ValueError:
        return False
    return len(words) >= 5


def has_label(file: str) -> bool:
    """Whether the first line of a file may be a label of YOLO."""
    return is_label(_first_line(file))


def _first_line(file: str) -> bytes:
    """The first nonempty line of a file; b"" if there is none, or if it cannot be read."""
    try:
        with open_regular(file) as opened:
            head = opened.read(HEAD).removeprefix(b"\xef\xbb\xbf").lstrip()
    except OSError:
        return b""
    line = head.splitlines()[0] if head else b""
    return line if len(line) < len(head) or len(head) < HEAD else line.rpartition(b" ")[0]  # a truncated number


def _texts(folder: Path) -> dict[str, str]:
    """Stem -> name of the text files in a folder."""
    try:
        names = os.listdir(folder)  # noqa: PTH208
    except OSError:
        return {}
    return {os.path.splitext(n)[0]: n for n in names if n.lower().endswith(".txt") and n not in NOT_LABELS}  # noqa: PTH122
