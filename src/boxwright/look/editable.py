"""Whether the labels of a set and of an image can be changed, and why not."""

import os
from pathlib import Path

from boxwright import mirrors
from boxwright.data import data_file
from boxwright.data.dataset import Dataset
from boxwright.data.sets import mentions
from boxwright.look.catalog import Catalog
from boxwright.look.editing import Editor
from boxwright.look.editors import editor, names
from boxwright.look.journal import folder_of


def set_reason(catalog: Catalog) -> str:
    """Why labels of this kind of set cannot be changed; "" if they can."""
    if not isinstance(catalog.root, Path):
        return "several sets together cannot be changed here; open one of them alone"
    dataset = first_dataset(catalog)
    if editor(dataset.kind) is None:
        return (
            f"labels of the layout {dataset.kind} cannot be changed here, needed {', '.join(names())}; write others "
            f"with `boxwright data convert {catalog.data} --to coco --out DIR`"
        )
    if mirrors.split(dataset.label_file(0)) is not None:
        return "labels in an archive or an object store cannot be changed here; copy them to a folder"
    if mentions(catalog.root, "class_map") and data_file.read(catalog.root).class_map:
        return "its data YAML renames classes (class_map); open the folder of the set itself to change labels"
    return ""


def folder_reason(catalog: Catalog) -> str:
    """Why the set's folders cannot be written; "" if they can."""
    dataset = first_dataset(catalog)
    for folder in (folder_of(dataset), _existing(Path(dataset.label_file(0)).parent)):
        if not os.access(folder, os.W_OK):
            return f"{folder}: cannot be written to (read-only); change its permissions, or copy the set"
    return ""


def image_reason(dataset: Dataset, index: int, found: Editor | None, fault: str) -> str:
    """Why the labels of an image cannot be changed; "" if they can. fault: why the image cannot be read."""
    file = Path(dataset.label_file(index))
    if fault:
        return f"the image cannot be read, so its labels are not changed here: {fault}"
    if found is not None:
        label_files = dataset.images.label_files
        if len(label_files) > 1 and int((label_files == label_files[index]).sum()) > 1:
            return f"{file}: holds the labels of several images; give each its own"
        if not found.creates and not file.exists():
            return f"{file}: no longer exists"
    real = Path(os.path.realpath(file))
    if not any(real.is_relative_to(os.path.realpath(folder)) for folder in _folders(dataset)):
        return f"{file}: is not in the folder of the set, and so not changed here"
    folder = _existing(real.parent)
    if not os.access(folder, os.W_OK) or (real.exists() and not os.access(real, os.W_OK)):
        return f"{file}: cannot be written (read-only); change its permissions"
    return ""


def _folders(dataset: Dataset) -> list[Path]:
    """Folders that the user has opened: those of the set and of the split."""
    paths = [dataset.root] if dataset.origin is None else [dataset.origin.root, dataset.origin.path]
    return [path if path.is_dir() else path.parent for path in paths]


def _existing(folder: Path) -> Path:
    """The folder, or its nearest parent that exists."""
    return next((each for each in (folder, *folder.parents) if each.is_dir()), folder)


def first_dataset(catalog: Catalog) -> Dataset:
    return next(split.dataset for split in catalog.splits if split.dataset is not None)
