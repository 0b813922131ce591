"""Data set formats, one module each, and opening data sets with automatic detection of their layout.

A layout is a module here with a `LAYOUT` (`data/layout.py`). docs/data.md describes the layouts and the YAML file that
can name the files of a data set; nothing in it is executed or downloaded.
"""

import difflib
import importlib
import pkgutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pydantic
from pydantic import Field

from boxwright import config
from boxwright.data import text
from boxwright.data.class_dataset import ClassSet
from boxwright.data.class_map import check_keys, map_classes
from boxwright.data.dataset import Dataset
from boxwright.data.layout import Labels, Layout, Source
from boxwright.data.merge import open_sets
from boxwright.data.sets import YAML, ClassMap, Root, Sets, find_sets, mentions
from boxwright.data.split_names import canonical_name, canonical_names
from boxwright.errors import InputError, MissingSplitError


class DataFile(config.Config):
    """The YAML file of a data set."""

    root: str = Field("", validation_alias=pydantic.AliasChoices("root", "path"))
    kind: str = "auto"
    train: str | None = None
    val: str | None = None
    test: str | None = None
    images: str | None = None
    names: Annotated[tuple[str, ...], pydantic.BeforeValidator(text.parse_class_names)] | None = None
    nc: int | None = None  # number of names, in YOLO's files
    class_map: ClassMap = Field(default_factory=dict)  # class -> new name, drop or ignore

    @pydantic.model_validator(mode="after")
    def _counts_agree(self) -> "DataFile":
        if self.nc is not None and self.names is not None and self.nc != len(self.names):
            raise ValueError(f"nc is {self.nc}, names holds {len(self.names)} names")
        return self


def names() -> list[str]:
    """The names of the layouts. Does not import them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def layout(name: str) -> Layout[Any]:
    """The layout called `name`. Raises InputError for an unknown name, with the closest match."""
    if name not in names():
        near = difflib.get_close_matches(name[:60], names(), n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(names())}"
        raise InputError(f"data.kind: there is no layout '{name[:60]}'; {hint}")
    result: Layout[Any] = importlib.import_module(f"{__name__}.{name}").LAYOUT
    return result


def open_dataset(
    root: Root, split: str = "train", kind: str = "auto", cache: str | Path | None = None
) -> Dataset | ClassSet:
    """Open one split of a data set.

    Args:
        root: A folder, a COCO JSON, or a YAML file that names the files (docs/data.md); a list of them is opened as one
            data set, with classes matched by name.
        split: `train`, `val`, `test`, or another split of the data set.
        kind: The layout; `auto` detects it.
        cache: Folder for the index of a COCO JSON; None for the user's cache folder.

    Returns:
        A `Dataset` of boxes, including labels with errors, or a `ClassSet` of images with one class each.

    Raises:
        InputError: No layout or several layouts match, or a file cannot be read.
    """
    if holds_classes(root, kind):
        return _open(root, split, kind, cache, ClassSet)
    return _open(root, split, kind, cache, Dataset)


def open_boxes(root: Root, split: str, kind: str = "auto", cache: str | Path | None = None) -> Dataset:
    """Like `open_dataset`, for boxes. Also raises InputError for classification data."""
    return _open(root, split, kind, cache, Dataset)


def open_classes(root: Root, split: str, kind: str = "auto") -> ClassSet:
    """Like `open_dataset`, for images with one class each. Also raises InputError for detection data."""
    return _open(root, split, kind, None, ClassSet)


def open_images(root: Root, split: str, kind: str = "auto") -> Dataset:
    """Open a split of detection data without its labels, which may be missing.

    Arguments as in `open_dataset`. COCO's lists of unlabeled test images have precedence: `image_info_SPLIT2017.json`,
    for `test` also `image_info_test-dev2017.json`.
    """
    if isinstance(path := find_sets(root), Sets):
        return open_sets(path, split, lambda one, name: open_images(one, name, kind), splits)
    listed = {
        name: Source(kind, file, name, path)
        for kind, layout in _layouts("auto", Dataset).items()
        for name, file in layout.find_unlabeled(path).items()
    }
    matching = {
        name: source
        for name, source in listed.items()
        if canonical_name(name) in {canonical_name(split), f"{canonical_name(split)}-dev"}
    }
    if split in listed:
        matching = {split: listed[split]}
    source = _single(path, split, matching) if matching else _source(path, split, kind, Dataset)
    source = replace(source, split=split)
    detected: Layout[Dataset] = layout(source.kind)
    dataset = (detected.read_unlabeled or detected.read)(source)
    dataset = dataset.without_rows(np.ones(len(dataset.rows), dtype=bool))
    return _mapped(dataset, path, lambda name: _open_one(path, name, kind, None, Dataset))


def splits(root: Root) -> list[str]:
    """The splits of a data set: train, val, test first, then others by name."""
    if isinstance(path := find_sets(root), Sets):
        found = [canonical_name(name) for entry in path.sets for name in splits(entry.path)]
        return canonical_names(dict.fromkeys(found))
    return canonical_names(_find(path, "auto", ClassSet) if holds_classes(path) else _find(path, "auto", Dataset))


def holds_classes(root: Root, kind: str = "auto") -> bool:
    """Whether `root` is classification data, and not detection data, whose folders may look like classes.

    Raises InputError for several sets of both.
    """
    if isinstance(path := find_sets(root), Sets):
        held = {entry.path: holds_classes(entry.path, kind) for entry in path.sets}
        if len({*held.values()}) > 1:
            boxes, classes = (next(name for name, found in held.items() if found is is_one) for is_one in (False, True))
            raise InputError(f"{boxes} has boxes, {classes} images with one class each; needed sets of one kind")
        return next(iter(held.values()))
    if path.suffix in YAML and kind == "auto":
        kind = config.validate(DataFile, config.read_yaml(path), str(path)).kind
    if path.suffix in YAML or kind != "auto":
        return kind != "auto" and layout(kind).dataset_type is ClassSet
    detected = _detect(_layouts(kind, ClassSet), path)
    is_certain = any(not layout(name).fallback for name in detected)
    return is_certain or bool(detected and not _detect(_layouts(kind, Dataset), path))


def _layouts(kind: str, holds: type[Labels]) -> dict[str, Layout[Labels]]:
    """The layouts for `kind`. Raises InputError if `kind` is unknown, or is of the other task."""
    fitting = {name: candidate for name in names() if (candidate := layout(name)).dataset_type is holds}
    if kind == "auto":
        return fitting
    if layout(kind).dataset_type is not holds:
        other, users = ("classes", "detectors") if holds is Dataset else ("boxes", "classifiers")
        raise InputError(f"data.kind is {kind}, of sets with {other}; {users} need {', '.join(fitting)}")
    return {kind: fitting[kind]}


def _open(root: Root, split: str, kind: str, cache: str | Path | None, holds: type[Labels]) -> Labels:
    if isinstance(path := find_sets(root), Sets):
        return open_sets(path, split, lambda one, name: _open(one, name, kind, cache, holds), splits)

    def open_split(name: str) -> Labels:
        return _open_one(path, name, kind, cache, holds)

    return _mapped(open_split(split), path, open_split)


def _open_one(path: Path, split: str, kind: str, cache: str | Path | None, holds: type[Labels]) -> Labels:
    """A single set with its own classes."""
    source = _source(path, split, kind, holds)
    dataset: Labels = layout(source.kind).read(replace(source, cache=cache))
    if repeated := sorted(name for name, count in Counter(dataset.names).items() if count > 1):
        raise InputError(
            f"{source.path}: {len(repeated)} class names stand more than once ({', '.join(repeated[:5])}), needed "
            "different ones; rename or merge these classes"
        )
    return dataset


def _mapped(dataset: Labels, path: Path, open_split: Callable[[str], Labels]) -> Labels:
    """With the `class_map` of the data YAML `path`. open_split: opens a split as it is."""
    if not mentions(path, "class_map"):
        return dataset
    class_map = config.validate(DataFile, config.read_yaml(path), str(path)).class_map
    check_keys(
        class_map, dataset.names, str(path), lambda: {n for name in splits(path) for n in open_split(name).names}
    )
    return map_classes(dataset, class_map, str(path))


def _source(root: Path, split: str, kind: str, holds: type[Labels]) -> Source:
    """The source of the labeled split `split`."""
    sources = _find(root, kind, holds)
    if split not in sources:
        split = layout(next(iter(sources.values())).kind).aliases.get(split, split)
    matching = {name: source for name, source in sources.items() if canonical_name(name) == canonical_name(split)}
    if split in sources or not (root.suffix in YAML or root.is_dir()):  # a file of labels serves as any split
        matching = {split: sources.get(split) or next(iter(sources.values()))}
    if not matching:
        raise MissingSplitError(f"{root}: no split '{split}'; it holds {', '.join(canonical_names(sources))}")
    source = _single(root, split, matching)
    others = tuple(other.path for other in sources.values() if other is not source)
    return replace(source, split=split, others=others)


def _single(root: Path, split: str, matching: Mapping[str, Source]) -> Source:
    if len(matching) > 1:
        raise InputError(f"{root}: split '{split}' may be {' or '.join(matching)}; say which")
    (source,) = matching.values()
    return source


def _find(path: Path, kind: str, holds: type[Labels]) -> dict[str, Source]:
    """Split -> source, for any data set root."""
    if path.suffix not in YAML:
        return _in_folder(path, kind, holds)
    spec = config.validate(DataFile, config.read_yaml(path), str(path))
    root = path.parent / spec.root
    kind = spec.kind if kind == "auto" else kind
    images = None if spec.images is None else root / spec.images
    paths = {split: root / value for split in ("train", "val", "test") if (value := getattr(spec, split)) is not None}
    for split, file in paths.items():
        if not file.exists():
            raise InputError(f"{path}: {split}: there is no {file}")
    sources = {split: Source(_kind_of(file, kind, holds), file, split, root) for split, file in paths.items()}
    sources = sources or _in_folder(root, kind, holds)
    return {split: replace(source, names=spec.names or (), images=images) for split, source in sources.items()}


def _kind_of(path: Path, kind: str, holds: type[Labels]) -> str:
    layouts = _layouts(kind, holds)
    kinds = [name for name, layout in layouts.items() if kind != "auto" or layout.accepts(path)]
    if len(kinds) != 1:
        unknown = "neither a COCO JSON, a folder of images, nor a list of them"
        candidates = f"may be {' or '.join(kinds)}" if kinds else unknown
        raise InputError(f"{path}: {candidates}; say 'kind'")
    return kinds[0]


def _in_folder(root: Path, kind: str, holds: type[Labels]) -> dict[str, Source]:
    """Split -> source, for a folder or a file of labels."""
    layouts = _layouts(kind, holds)
    detected = _detect(layouts, root)
    if not detected and not root.is_dir():
        raise InputError(f"{root}: there is no such folder; needed a data set's folder, COCO JSON, or YAML")
    if not detected:
        looked_for = "; ".join(f"{name}: {layout.expected}" for name, layout in layouts.items())
        what = "data set" if holds is Dataset else "images with classes"
        raise InputError(f"{root}: no {what} found; looked for {looked_for}")
    if len(detected) > 1:
        kinds = " or ".join(detected)
        raise InputError(f"{root}: may be {kinds}; say which with the key 'kind' (data.kind in a recipe)")
    ((name, files),) = detected.items()
    if kind == "auto" and layouts[name].fallback and _detect(_layouts(kind, Dataset), root):
        raise InputError(
            f"{root}: a set with boxes, needed one with classes; cut the boxes out with `boxwright data convert "
            f"{root} --to folder -o NEW`, or say data.kind folder"
        )
    return {split: Source(name, file, split, root) for split, file in files.items()}


def _detect(layouts: Mapping[str, Layout[Labels]], root: Path) -> dict[str, Mapping[str, Path]]:
    """Layout -> its files by split, for the layouts that match; fallbacks only if no other does."""
    detected = {name: files for name, layout in layouts.items() if (files := layout.find(root))}
    return {name: files for name, files in detected.items() if not layouts[name].fallback} or detected
