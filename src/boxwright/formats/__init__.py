"""Data set formats, one module each, and opening data sets with automatic detection of their layout.

A layout is a module in this package with a `LAYOUT` (`data/layout.py`). docs/data.md describes the layouts and the YAML
file that can name the files of a data set; nothing in it is executed or downloaded.
"""

import difflib
import importlib
import os
import pkgutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from boxwright.archives.folder import exists, only_folders
from boxwright.data import contents, data_file, text
from boxwright.data.class_dataset import ClassSet
from boxwright.data.class_map import check_keys, map_classes
from boxwright.data.dataset import Dataset
from boxwright.data.findings import Finding
from boxwright.data.folder_index import read_indexed
from boxwright.data.labeled_classes import limit_classes
from boxwright.data.layout import Labels, Layout
from boxwright.data.listing import listed_once
from boxwright.data.merge import open_sets
from boxwright.data.sets import Root, Sets, find_sets, mentions
from boxwright.data.source import Source
from boxwright.data.split_names import STANDARD, canonical_name, canonical_names
from boxwright.errors import InputError, MissingSplitError
from boxwright.remote.folders import local_data

YAML = data_file.SUFFIXES
MAX_INNER = 20  # subfolders that are checked, for a message
HOLDS: Mapping[type, str] = {Dataset: "boxes", ClassSet: "images with one class each"}


def names() -> list[str]:
    """The names of the layouts. Does not import them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def layout(name: str) -> Layout[Any]:
    """The layout called `name`. Raises InputError for an unknown name, with the closest match."""
    if name not in names():
        near = difflib.get_close_matches(name[:60], names(), n=1)
        hint = f"did you mean '{near[0]}'?" if near else "docs/data.md lists them, such as coco, voc and yolo_txt"
        raise InputError(f"data.kind: there is no layout '{name[:60]}'; {hint}")
    result: Layout[Any] = importlib.import_module(f"{__name__}.{name}").LAYOUT
    return result


def find(root: str | Path, kind: str = "auto") -> dict[str, Source]:
    """Find the splits and the layout of a data set, for all commands.

    Args:
        root: A folder, an archive or shards, a file of labels, or a YAML file that names the files (docs/data.md).
        kind: The layout; `auto` detects it.

    Returns:
        Split -> source, with the detected layout as `Source.kind`.

    Raises:
        InputError: No layout or several layouts match.
    """
    path = _only_folder(local_data(root, str(root)))
    file = _data_file(path, kind)
    if file is None:
        return _in_folder(path, kind)
    spec = data_file.read(file)
    base = path if path.is_dir() else file.parent
    named = data_file.data_root(file, spec.root)
    folder = named if spec.root and named.is_dir() else base
    sources, notes = _named(file, spec, folder, spec.kind if kind == "auto" else kind)
    sources = sources or _in_folder(_only_folder(folder), spec.kind if kind == "auto" else kind)
    images = data_file.locate(file, spec.root, spec.images) if spec.images is not None else (None, False)
    if images is None:
        raise InputError(f"{file}: images: there is no '{str(spec.images)[-60:]}'")
    notes += [f"images: '{str(spec.images)[-40:]}' does not exist, read {images[0]}"] * images[1]
    names, ids = tuple((spec.names or {}).values()), tuple(spec.names or ())
    first, labeled = next(iter(sources)), _labeled(spec, file, sources)
    return {
        split: replace(
            source,
            names=names,
            ids=ids,
            images=None if images[0] is None else local_data(images[0]),
            keypoints=spec.keypoints,
            crowd=spec.crowd,
            bbox=spec.bbox,
            data_file=file,
            labeled=labeled.get(canonical_name(split)),
            notes=tuple((str(file), note) for note in notes) if split == first else (),
        )
        for split, source in sources.items()
    }


def open_dataset(
    root: Root, split: str = "train", kind: str = "auto", cache: str | Path | None = None
) -> Dataset | ClassSet:
    """Open one split of a data set.

    Args:
        root: A folder, a COCO JSON, or a YAML file that names the files (docs/data.md); a list of them is opened as one
            data set, with classes matched by name.
        split: `train`, `val`, `test`, or another split of the data set.
        kind: The layout; `auto` detects it.
        cache: Folder for the indexes of large data sets; None for the user's cache folder.

    Returns:
        A `Dataset` of boxes, including labels with errors, or a `ClassSet` of images with one class each.

    Raises:
        InputError: No layout or several layouts match, or a file cannot be read.
    """
    dataset: Dataset | ClassSet = _open(root, split, kind, cache)
    return dataset


def open_boxes(root: Root, split: str, kind: str = "auto", cache: str | Path | None = None) -> Dataset:
    """Open one split of detection data, as `open_dataset`. Also raises InputError for classification data."""
    dataset: Dataset = _open(root, split, kind, cache, Dataset)
    return dataset


def open_classes(root: Root, split: str, kind: str = "auto") -> ClassSet:
    """Open one split of classification data, as `open_dataset`. Also raises InputError for detection data."""
    dataset: ClassSet = _open(root, split, kind, None, ClassSet)
    return dataset


def open_images(root: Root, split: str, kind: str = "auto") -> Dataset:
    """Open a split of detection data without its labels, which may be missing.

    Arguments as in `open_dataset`. COCO's lists of unlabeled test images have precedence: `image_info_SPLIT2017.json`,
    for `test` also `image_info_test-dev2017.json`.
    """
    if isinstance(path := find_sets(root), Sets):
        return open_sets(path, split, lambda member, name: open_images(member, name, kind), partial(splits, kind=kind))
    listed = {
        name: Source(kind, file, name, path)
        for kind in names()
        for name, file in layout(kind).find_unlabeled(path).items()
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
    return _mapped(dataset, path, lambda name: _read(_source(path, name, kind, Dataset), None))


def splits(root: Root, kind: str = "auto") -> list[str]:
    """The splits of a data set: train, val, test first, then others by name. kind: as in `open_dataset`."""
    if isinstance(root := find_sets(root), Sets):
        return canonical_names(dict.fromkeys(canonical_name(n) for s in root.sets for n in splits(s.path, kind)))
    return canonical_names(find(root, kind))


def holds_classes(root: Root, kind: str = "auto") -> bool:
    """Whether `root` is classification data. Raises InputError for several sets of both types."""
    if isinstance(root := find_sets(root), Sets):
        types = {entry.path: holds_classes(entry.path, kind) for entry in root.sets}
        if len({*types.values()}) > 1:
            boxes, classes = (next(path for path, value in types.items() if value is type_) for type_ in (False, True))
            raise InputError(f"{boxes} has boxes, {classes} images with one class each; needed sets of one kind")
        return next(iter(types.values()))
    return dataset_type(find(root, kind)) is ClassSet


def describe(root: Root, kind: str = "auto") -> str:
    """A description of the result of `find`, one line per set. Example: `data/mine: voc, boxes; splits train, val`."""
    if isinstance(path := find_sets(root), Sets):
        return "\n".join(describe(entry.path, kind) for entry in path.sets)
    sources = find(path, kind)
    names = [name if name == canonical_name(name) else f"{canonical_name(name)} ({name})" for name in sources]
    kinds = ", ".join(sorted({source.kind for source in sources.values()}))
    return f"{root}: {kinds}, {HOLDS[dataset_type(sources)]}; splits {', '.join(sorted(names))}"


def dataset_type(sources: Mapping[str, Source]) -> type[Dataset | ClassSet]:
    """The type of the splits found by `find`."""
    result: type[Dataset | ClassSet] = layout(next(iter(sources.values())).kind).dataset_type
    return result


def _open(
    root: Root, split: str, kind: str, cache: str | Path | None, holds: type[Dataset | ClassSet] | None = None
) -> Any:
    """One split of one or several sets. holds: the needed type of labels."""
    if isinstance(path := find_sets(root), Sets):
        same = holds or (ClassSet if holds_classes(path, kind) else Dataset)
        return open_sets(path, split, lambda s, name: _open(s, name, kind, cache, same), partial(splits, kind=kind))

    def open_split(name: str) -> Any:
        return _read(_source(path, name, kind, holds), cache)

    return _mapped(open_split(split), path, open_split)


def _mapped(dataset: Labels, path: Path, open_split: Callable[[str], Labels]) -> Labels:
    """Apply the `class_map` of the data YAML `path`. open_split: opens a split without it."""
    if not mentions(path, "class_map"):
        return dataset
    class_map = data_file.read(path).class_map
    check_keys(
        class_map, dataset.names, str(path), lambda: {n for name in splits(path) for n in open_split(name).names}
    )
    return map_classes(dataset, class_map, str(path))


def _read(source: Source, cache: str | Path | None) -> Any:
    source = replace(source, cache=cache)
    dataset = read_indexed(source, layout(source.kind).read)
    if repeated := sorted(name for name, count in Counter(dataset.names).items() if count > 1):
        raise InputError(
            f"{source.path}: {len(repeated)} class names are repeated ({', '.join(repeated[:5])}), needed different "
            "names; rename or merge these classes"
        )
    if not isinstance(dataset, Dataset):
        if source.labeled is not None:
            raise InputError(
                f"{source.data_file}: labelled_classes: found for images with classes, needed boxes; remove it"
            )
        return dataset
    notes = list(source.notes)
    if not source.names and (file := text.find_class_file(source.root)) and (note := text.encoding_note(file)):
        notes.append((str(file), note))
    unusual = (Finding("unusual", source.split, place, note) for place, note in notes)
    dataset = replace(dataset, origin=source, findings=(*dataset.findings, *unusual))
    return dataset if source.labeled is None else limit_classes(dataset, source.labeled, str(source.data_file))


def _source(root: Path, split: str, kind: str, holds: type[Dataset | ClassSet] | None = None) -> Source:
    """The source of the labeled split `split`. holds: the needed type of labels."""
    root = root.expanduser()
    sources = find(root, kind)
    if holds is not None and dataset_type(sources) is not holds:
        _reject_type(root, sources, holds)
    if split not in sources:
        split = layout(next(iter(sources.values())).kind).aliases.get(split, split)
    matching = {name: source for name, source in sources.items() if canonical_name(name) == canonical_name(split)}
    if split in sources or not (root.suffix in YAML or root.is_dir()):  # a file of labels serves as any split
        matching = {split: sources.get(split) or next(iter(sources.values()))}
    if not matching:
        notes = (note for source in sources.values() for _, note in source.notes)
        hint = next((f" ({note})" for note in notes if canonical_name(note.partition(":")[0]) == split), "")
        raise MissingSplitError(f"{root}: no split '{split}'; it holds {', '.join(canonical_names(sources))}{hint}")
    source = _single(root, split, matching)
    others = tuple(path for other in sources.values() if other is not source for path in (other.path, *other.more))
    return replace(source, split=split, others=others)


def _reject_type(root: Path, sources: Mapping[str, Source], holds: type[Dataset | ClassSet]) -> None:
    """Raise InputError for labels of the other task."""
    kind, found = next(iter(sources.values())).kind, dataset_type(sources)
    cut = "; cut the boxes out with `boxwright data convert --to folder`" if found is Dataset else ""
    raise InputError(
        f"{root}: {kind}, {HOLDS[found]}, needed {HOLDS[holds]}{cut}; choose another layout with --kind (data.kind)"
    )


def _single(root: Path, split: str, matching: Mapping[str, Source]) -> Source:
    if len(matching) > 1:
        raise InputError(f"{root}: split '{split}' may be {' or '.join(matching)}; use one of these names")
    (source,) = matching.values()
    return source


def _data_file(path: Path, kind: str) -> Path | None:
    """The file that describes the data set: `path` itself or Darknet's file in it; None if there is none."""
    if path.suffix in YAML and not path.is_dir():
        return path
    darknet = [path / "obj.data", path / "data" / "obj.data"] if kind in ("auto", "yolo_txt") else []
    return next((file for file in darknet if file.is_file()), None)


def _labeled(spec: data_file.DataFile, path: Path, sources: Mapping[str, Source]) -> dict[str, tuple[str, ...]]:
    """Canonical name of a split -> the classes that were looked for in it; splits with all classes are left out."""
    splits, labeled = {canonical_name(split) for split in sources}, spec.labelled_classes
    if not isinstance(labeled, dict):
        return {} if labeled is None else dict.fromkeys(splits, labeled)
    for split in labeled:
        if canonical_name(split) not in splits:
            raise InputError(
                f"{path}: labelled_classes: no split '{split[:40]}', there are {', '.join(sorted(splits))}"
            )
    return {canonical_name(split): names for split, names in labeled.items()}


def _named(file: Path, spec: data_file.DataFile, folder: Path, kind: str) -> tuple[dict[str, Source], list[str]]:
    """The splits that a data file names, and notes. Raises InputError if none of them exists."""
    sources, notes, missing = dict[str, Source](), spec.notes(), list[str]()
    for split, written in spec.splits.items():
        paths = []
        for name in written:
            if (located := data_file.locate(file, spec.root, name)) is None:
                missing.append(f"{split}: there is no '{name[-60:]}'")
                continue
            paths.append(local_data(located[0]))
            if located[1] and file.suffix != data_file.DARKNET:
                notes.append(f"{split}: '{name[-40:]}' does not exist, read {os.path.relpath(located[0], file.parent)}")
        if len(paths) < len(written):
            continue
        same = next((name for name, other in sources.items() if other.path == paths[0]), None)
        if same and file.suffix == data_file.DARKNET:
            notes.append(f"{same} and {split} are the same list, read as one split")
            continue
        kinds = {_kind_of(path, kind) for path in paths}
        if len(paths) > 1 and kinds != {"yolo_txt"}:
            raise InputError(f"{file}: {split}: found {len(paths)} paths of {', '.join(sorted(kinds))}, needed one")
        sources[split] = Source(kinds.pop(), paths[0], split, folder, more=tuple(paths[1:]))
    if missing and not sources:
        path = (
            f"'path', '{spec.root[-60:]}', which is not there either"
            if not exists(data_file.data_root(file, spec.root))
            else "'path'"
        )
        raise InputError(f"{file}: {missing[0]}, needed a path from this file's folder or from {path}")
    return sources, notes + [f"{text}; the split is left out" for text in missing]


def _only_folder(root: Path) -> Path:
    """The folder that holds all of an archive, also several levels deep.

    It ends at a data set whose splits have their usual names. Another one is taken for the data set in its only folder,
    if that is one: layouts take any folder for a split of that name.
    """
    for inner in only_folders(root):
        splits = _splits_of(root)
        if any(canonical_name(split) in STANDARD for split in splits) or (splits and not _splits_of(inner)):
            break
        root = inner
    return root


def _splits_of(folder: Path, classes: bool = True) -> set[str]:
    """The splits that any layout finds in a folder; none if it is not a data set by itself. classes: whether folders of
    images count as classes."""
    try:
        kinds = [name for name in names() if classes or not layout(name).fallback]
        return {split for name in kinds for split in layout(name).find(folder)}
    except InputError:
        return set()


def _kind_of(path: Path, kind: str) -> str:
    """The layout of a path in a data YAML."""
    kinds = [kind] if kind != "auto" else [name for name in names() if layout(name).accepts(path)]
    if len(kinds) != 1:
        candidates = f"may be {' or '.join(kinds)}" if kinds else "is of no known layout"
        raise InputError(f"{path}: {candidates}; add the key 'kind' to the data YAML")
    return kinds[0]


def _in_folder(root: Path, kind: str) -> dict[str, Source]:
    """Split -> source, for a folder or a file of labels."""
    candidates = {name: layout(name) for name in ([kind] if kind != "auto" else names())}
    if not root.exists():
        raise InputError(f"{root}: there is no such folder or file, needed a data set")
    with listed_once():
        detected = {name: files for name, layout in candidates.items() if (files := layout.find(root))}
    certain = {name: files for name, files in detected.items() if not candidates[name].fallback}
    usual = any(canonical_name(split) in {*STANDARD, "all"} for files in certain.values() for split in files)
    yaml = next((file for name in text.NAME_FILES if text.is_yaml(file := root / name) and file.is_file()), None)
    if kind == "auto" and yaml and not usual and data_file.read(yaml).splits:
        return find(yaml)
    if kind == "auto" and detected and not certain and root.is_dir() and (labels := contents.box_labels(root)):
        raise InputError(
            f"{root}: found folders of images, but also {labels}, which match no layout of boxes; set kind: folder in "
            "a data YAML if the folders are classes"
        )
    detected = certain or detected
    if len(detected) > 1:
        raise InputError(
            f"{root}: may be {' or '.join(detected)}; choose with --kind, data.kind, or 'kind' in a data YAML"
        )
    if not detected:
        found = contents.summary(root) if root.is_dir() else "another kind of file"
        needed = f"needed {candidates[kind].expected}" if kind != "auto" else "docs/data.md describes the layouts"
        classes = not contents.box_labels(root)  # else a folder of images is not taken for one of classes
        if inner := next((each for each in text.subfolders(root)[:MAX_INNER] if _splits_of(each, classes)), None):
            needed = f"open {inner}, which is one"
        raise InputError(f"{root}: no data set found in it ({found}); {needed}, or name its files in a data YAML")
    ((name, files),) = detected.items()
    return {split: Source(name, file, split, root) for split, file in files.items()}
