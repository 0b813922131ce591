"""`open_classes` finds out which files of a classification set a folder holds, and reads one split of it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from boxwright.data import FINDERS as DETECTION_FINDERS
from boxwright.data import cifar, class_folders
from boxwright.data.class_dataset import ClassSample, ClassSet
from boxwright.data.split_names import ordered, plain
from boxwright.errors import InputError

__all__ = ["ClassSample", "ClassSet", "class_splits", "holds_classes", "open_classes"]

# In the order of looking: a set of ImageNet is also one of folders.
FINDERS: dict[str, Callable[[Path], Mapping[str, Any]]] = {
    "cifar10": cifar.find,
    "imagenet": class_folders.find_imagenet,
    "folder": class_folders.find,
}
LOOKED_FOR = {
    "cifar10": cifar.LOOKED_FOR, "imagenet": class_folders.IMAGENET_LOOKED_FOR, "folder": class_folders.LOOKED_FOR,
}  # fmt: skip


def open_classes(root: str | Path, split: str, kind: str = "auto") -> ClassSet:
    """The pictures and classes of one split: train, val, test or another that the folder holds. kind: one of FINDERS,
    or auto.

    CIFAR-10 and ImageNet publish the classes of two parts, train and val; CIFAR-10's val is also its test.
    Raises InputError when nothing is found, when splits have different classes, and for files that say what cannot be.
    """
    place = Path(root)
    found, kind = _find(place, kind)
    if kind == "cifar10" and split == "test":
        split = "val"
    meant = [name for name in found if name == split] or [name for name in found if plain(name) == plain(split)]
    if len(meant) != 1:
        held = ", ".join(ordered(found))
        raise InputError(f"{place}: found {len(meant)} splits '{split}', needed one; it holds {held}")
    if kind == "cifar10":
        return cifar.read(found[meant[0]], split, place)
    others = {name: folder for name, folder in found.items() if name != meant[0]}
    read = class_folders.read_imagenet if kind == "imagenet" else class_folders.read
    return read(found[meant[0]], split, place, others)


def class_splits(root: str | Path, kind: str = "auto") -> list[str]:
    """The splits that `root` holds: train, val, test first, then others by name."""
    return ordered(_find(Path(root), kind)[0])


def holds_classes(root: str | Path) -> bool:
    """Whether `root` is a classification set and not a detection set, whose folders may look like classes."""
    place = Path(root)
    if not place.is_dir():
        return False
    found = next((name for name, find in FINDERS.items() if find(place)), "")
    return found in {"cifar10", "imagenet"} or (found == "folder" and not _has_boxes(place))


def _has_boxes(place: Path) -> bool:
    """Whether this is a detection set, of one kind or of several, whose folders may look like classes."""
    return any(find(place) for find in DETECTION_FINDERS.values())


def _find(place: Path, kind: str) -> tuple[Mapping[str, Any], str]:
    """Split -> what its reader takes, and the kind."""
    if kind not in {"auto", *FINDERS}:
        raise InputError(f"{place}: data.kind is {kind}, of sets with boxes; classifiers need {', '.join(FINDERS)}")
    if not place.is_dir():
        raise InputError(f"{place}: there is no such folder; needed one of {', '.join(FINDERS)} with pictures to learn")
    wanted = list(FINDERS) if kind == "auto" else [kind]
    for name in wanted:
        if found := FINDERS[name](place):
            if name == "folder" and kind == "auto" and _has_boxes(place):
                raise InputError(
                    f"{place}: a set with boxes, needed one with classes; cut the boxes out with `boxwright data "
                    f"convert {place} --to folder -o NEW`, or say data.kind folder"
                )
            return found, name
    looked_for = "; ".join(f"{name}: {LOOKED_FOR[name]}" for name in wanted)
    raise InputError(f"{place}: no pictures with classes found; looked for {looked_for}")
