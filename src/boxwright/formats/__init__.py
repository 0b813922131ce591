"""One layout of labels a file; a data set is opened by the layout that finds itself in it.

There is no registry: a layout is a module here with a `LAYOUT` (`data/layout.py`). docs/data.md describes the layouts,
and the YAML file that may say what lies where; nothing in it is executed or fetched.
"""

import difflib
import importlib
import pkgutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pydantic
from pydantic import Field

from boxwright import config
from boxwright.data import text
from boxwright.data.class_dataset import ClassSet
from boxwright.data.dataset import Dataset
from boxwright.data.layout import Labels, Layout, Source
from boxwright.data.split_names import canonical_name, canonical_names
from boxwright.errors import InputError

YAML = (".yaml", ".yml")


class DataFile(config.Config):
    """The YAML that `--data` may name."""

    root: str = Field("", validation_alias=pydantic.AliasChoices("root", "path"))
    kind: str = "auto"
    train: str | None = None
    val: str | None = None
    test: str | None = None
    images: str | None = None
    names: Annotated[tuple[str, ...], pydantic.BeforeValidator(text.parse_class_names)] | None = None
    nc: int | None = None  # how many names, as YOLO's files say it again

    @pydantic.model_validator(mode="after")
    def _counts_agree(self) -> "DataFile":
        if self.nc is not None and self.names is not None and self.nc != len(self.names):
            raise ValueError(f"nc is {self.nc}, names holds {len(self.names)} names")
        return self


def names() -> list[str]:
    """The layouts in this folder. Imports none of them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def layout(name: str) -> Layout[Any]:
    """The layout called `name`. Raises InputError for an unknown name, with the nearest one."""
    if name not in names():
        near = difflib.get_close_matches(name[:60], names(), n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(names())}"
        raise InputError(f"data.kind: there is no layout '{name[:60]}'; {hint}")
    found: Layout[Any] = importlib.import_module(f"{__name__}.{name}").LAYOUT
    return found


def open_dataset(
    root: str | Path, split: str = "train", kind: str = "auto", cache: str | Path | None = None
) -> Dataset | ClassSet:
    """Open one split of a data set.

    Args:
        root: A folder, a COCO JSON, or a YAML file that says what lies where (docs/data.md).
        split: `train`, `val`, `test`, or another that the folder holds.
        kind: The layout; `auto` finds it out.
        cache: Folder for the index of a COCO JSON; None for the user's cache folder.

    Returns:
        A `Dataset` of boxes, faulty labels included, or a `ClassSet` where images have one class each.

    Raises:
        InputError: When nothing or more than one thing is found, and for files that cannot be read.
    """
    if holds_classes(root, kind):
        return _open(root, split, kind, cache, ClassSet)
    return _open(root, split, kind, cache, Dataset)


def open_boxes(root: str | Path, split: str, kind: str = "auto", cache: str | Path | None = None) -> Dataset:
    """`open_dataset` where boxes are needed. Raises InputError also where there are none."""
    return _open(root, split, kind, cache, Dataset)


def open_classes(root: str | Path, split: str, kind: str = "auto") -> ClassSet:
    """`open_dataset` where images with one class each are needed. Raises InputError also where there are none."""
    return _open(root, split, kind, None, ClassSet)


def open_images(root: str | Path, split: str, kind: str = "auto") -> Dataset:
    """The images of one split of a set with boxes, whose labels need not be there: for results that others score.

    root, split, kind: as in `open_dataset`. Lists of images without labels, as COCO publishes them for its test sets,
    come first: `image_info_SPLIT2017.json`, for `test` also `image_info_test-dev2017.json`.
    """
    place = Path(root)
    listed = {
        name: Source(kind, path, name, place)
        for kind, layout in _layouts("auto", Dataset).items()
        for name, path in layout.find_unlabeled(place).items()
    }
    matching = {
        name: found
        for name, found in listed.items()
        if canonical_name(name) in {canonical_name(split), f"{canonical_name(split)}-dev"}
    }
    if split in listed:
        matching = {split: listed[split]}
    source = _single(place, split, matching) if matching else _source(place, split, kind, Dataset)
    source = replace(source, split=split)
    chosen: Layout[Dataset] = layout(source.kind)
    if chosen.read_unlabeled is not None:
        return chosen.read_unlabeled(source)
    dataset = chosen.read(source)
    return dataset.without_rows(np.ones(len(dataset.rows), dtype=bool))


def splits(root: str | Path, kind: str = "auto") -> list[str]:
    """The splits that `root` holds: train, val, test first, then others by name."""
    place = Path(root)
    return canonical_names(_find(place, kind, ClassSet) if holds_classes(place, kind) else _find(place, kind, Dataset))


def holds_classes(root: str | Path, kind: str = "auto") -> bool:
    """Whether `root` is a set of images with one class each, and not one of boxes, whose folders may look like
    classes."""
    place = Path(root)
    if place.suffix in YAML and kind == "auto":
        kind = config.validate(DataFile, config.read_yaml(place), str(place)).kind
    if place.suffix in YAML or kind != "auto":
        return kind != "auto" and layout(kind).dataset_type is ClassSet
    found = _found(_layouts(kind, ClassSet), place)
    return any(not layout(name).fallback for name in found) or bool(
        found and not _found(_layouts(kind, Dataset), place)
    )


def _layouts(kind: str, holds: type[Labels]) -> dict[str, Layout[Labels]]:
    """The layouts that may be meant. Raises InputError where `kind` is unknown, or holds something else."""
    fitting = {name: found for name in names() if (found := layout(name)).dataset_type is holds}
    if kind == "auto":
        return fitting
    if layout(kind).dataset_type is not holds:
        other, users = ("classes", "detectors") if holds is Dataset else ("boxes", "classifiers")
        raise InputError(f"data.kind is {kind}, of sets with {other}; {users} need {', '.join(fitting)}")
    return {kind: fitting[kind]}


def _open(root: str | Path, split: str, kind: str, cache: str | Path | None, holds: type[Labels]) -> Labels:
    source = _source(Path(root), split, kind, holds)
    dataset: Labels = layout(source.kind).read(replace(source, cache=cache))
    if repeated := sorted(name for name, count in Counter(dataset.names).items() if count > 1):
        raise InputError(
            f"{source.path}: {len(repeated)} class names stand more than once ({', '.join(repeated[:5])}), needed "
            "different ones; rename or merge these classes"
        )
    return dataset


def _source(place: Path, split: str, kind: str, holds: type[Labels]) -> Source:
    """The labeled split called `split`."""
    found = _find(place, kind, holds)
    if split not in found:
        split = layout(next(iter(found.values())).kind).aliases.get(split, split)
    matching = {name: source for name, source in found.items() if canonical_name(name) == canonical_name(split)}
    if split in found or not (place.suffix in YAML or place.is_dir()):  # a file of labels is every split
        matching = {split: found.get(split) or next(iter(found.values()))}
    if not matching:
        raise InputError(f"{place}: no split '{split}'; it holds {', '.join(canonical_names(found))}")
    source = _single(place, split, matching)
    others = tuple(other.path for other in found.values() if other is not source)
    return replace(source, split=split, others=others)


def _single(place: Path, split: str, matching: Mapping[str, Source]) -> Source:
    if len(matching) > 1:
        raise InputError(f"{place}: split '{split}' may be {' or '.join(matching)}; say which")
    (source,) = matching.values()
    return source


def _find(place: Path, kind: str, holds: type[Labels]) -> dict[str, Source]:
    """Split -> source, for anything that `--data` may name."""
    if place.suffix not in YAML:
        return _in_folder(place, kind, holds)
    spec = config.validate(DataFile, config.read_yaml(place), str(place))
    root = place.parent / spec.root
    kind = spec.kind if kind == "auto" else kind
    images = None if spec.images is None else root / spec.images
    paths = {split: root / value for split in ("train", "val", "test") if (value := getattr(spec, split)) is not None}
    for split, path in paths.items():
        if not path.exists():
            raise InputError(f"{place}: {split}: there is no {path}")
    found = {split: Source(_kind_of(path, kind, holds), path, split, root) for split, path in paths.items()}
    found = found or _in_folder(root, kind, holds)
    return {split: replace(source, names=spec.names or (), images=images) for split, source in found.items()}


def _kind_of(path: Path, kind: str, holds: type[Labels]) -> str:
    layouts = _layouts(kind, holds)
    found = [name for name, layout in layouts.items() if kind != "auto" or layout.accepts(path)]
    if len(found) != 1:
        known = (
            f"may be {' or '.join(found)}" if found else "neither a COCO JSON, a folder of images, nor a list of them"
        )
        raise InputError(f"{path}: {known}; say 'kind'")
    return found[0]


def _in_folder(place: Path, kind: str, holds: type[Labels]) -> dict[str, Source]:
    """Split -> source, for a folder or a file of labels."""
    layouts = _layouts(kind, holds)
    found = _found(layouts, place)
    if not found and not place.is_dir():
        raise InputError(f"{place}: there is no such folder; needed a data set's folder, COCO JSON, or YAML")
    if not found:
        expected = "; ".join(f"{name}: {layout.expected}" for name, layout in layouts.items())
        what = "data set" if holds is Dataset else "images with classes"
        raise InputError(f"{place}: no {what} found; looked for {expected}")
    if len(found) > 1:
        raise InputError(f"{place}: may be {' or '.join(found)}; say which with the key 'kind' (data.kind in a recipe)")
    ((name, files),) = found.items()
    if kind == "auto" and layouts[name].fallback and _found(_layouts(kind, Dataset), place):
        raise InputError(
            f"{place}: a set with boxes, needed one with classes; cut the boxes out with `boxwright data convert "
            f"{place} --to folder -o NEW`, or say data.kind folder"
        )
    return {split: Source(name, path, split, place) for split, path in files.items()}


def _found(layouts: Mapping[str, Layout[Labels]], place: Path) -> dict[str, Mapping[str, Path]]:
    """Layout -> what it finds there; a fallback only where nothing else is found."""
    found = {name: files for name, layout in layouts.items() if (files := layout.find(place))}
    return {name: files for name, files in found.items() if not layouts[name].fallback} or found
