"""Finding the images that a COCO JSON names.

P images
"""

import os
from pathlib import Path

import numpy as np

from boxwright.arrays import Array
from boxwright.data.coco_entries import Remarks, shown
from boxwright.data.coco_index import Contents
from boxwright.data.findings import Finding
from boxwright.data.locate import Locator
from boxwright.data.source import Source
from boxwright.errors import InputError

SEPARATOR = os.fsencode(os.sep)


def image_paths(contents: Contents, source: Source, root: Path, remarks: Remarks) -> Array:
    """(P,) bytes, the paths of the images.

    Relative names refer to `source.images`, or else to the usual folder that contains the most of them. Images that are
    not there are searched by the last part of their name.

    Raises:
        InputError: None of the images is found, and the data YAML does not name their folder.
    """
    usual = [source.images] if source.images else _usual_folders(source, root)
    folder = _best_folder(usual, contents.files) or usual[0]
    prefix = os.path.join(os.fsencode(folder), b"")  # noqa: PTH118  (bytes, of which there are 100,000s)
    names = contents.files.tolist()
    paths = [name if os.path.isabs(name) else prefix + name for name in names]  # noqa: PTH117
    missing = _missing(paths)
    if missing:
        found = _locate(contents, missing, Locator([folder], source.images or root), root, remarks)
        if not found and len(missing) == len(paths) and not source.images:
            raise InputError(
                f"{source.path}: none of its {len(paths)} images ({shown(os.fsdecode(names[0]))[-60:]} ...) is below "
                f"{root}; put them there, or name their folder with the key 'images' of a data YAML"
            )
        for index, path in found.items():
            paths[index] = os.fsencode(path)
    return np.array(paths, dtype=np.bytes_)


def _usual_folders(source: Source, root: Path) -> list[Path]:
    file = source.path
    stem = file.stem.removeprefix("instances_").removeprefix("image_info_")
    stem = stem.replace("-dev", "")  # COCO's test-dev2017 is a subset of the images in test2017
    names = [stem, f"images/{stem}", source.split, f"images/{source.split}", "images", "."]
    beside = [file.parent, file.parent / "images", file.parent / "data"]
    return list(dict.fromkeys([*(root / name for name in names), *beside]))


def _best_folder(folders: list[Path], names: Array) -> Path | None:
    """The folder that contains the most of a few sampled images, or else of all images; None if none contains any."""
    sample = names[np.linspace(0, len(names) - 1, 20).astype(int)]
    for column in (sample, names):
        files = [os.fsdecode(name) for name in column.tolist()]
        counts = [sum(map(os.path.isfile, map(folder.joinpath, files))) if folder.is_dir() else 0 for folder in folders]
        if max(counts):
            return folders[counts.index(max(counts))]
    return None


def _missing(paths: list[bytes]) -> list[int]:
    """The indices of paths that do not exist. Each folder is listed once, which is faster than checking each file."""
    listed: dict[bytes, frozenset[bytes]] = {}
    missing = []
    for index, path in enumerate(paths):
        folder, _, name = path.rpartition(SEPARATOR)
        if folder not in listed:
            try:
                listed[folder] = frozenset(os.listdir(folder or SEPARATOR))  # noqa: PTH208
            except OSError:
                listed[folder] = frozenset()
        if name not in listed[folder]:
            missing.append(index)
    return missing


def _locate(contents: Contents, missing: list[int], locator: Locator, root: Path, remarks: Remarks) -> dict[int, str]:
    """Index -> path of the images at `missing` that are found elsewhere, with a note; an ambiguous name is an error."""
    found = {}
    for index in missing:
        name = os.fsdecode(contents.files[index].item())
        located, place = locator.locate(name), f"images[{contents.image_entries[index]}]"
        if located.exists:
            found[index] = located.path
            if located.elsewhere:
                remarks.note("image is not at the named path; found by the last part of the name", place)
        elif located.candidates:
            first, second = (os.path.relpath(file, root) for file in located.candidates[:2])
            fault = f"'{name[-60:]}' may be {first} or {second}; write the path"
            image_id = contents.image_ids[index].item()
            remarks.findings.append(Finding("ambiguous_image", "", place, fault, "", image_id, index=index))
    return found
