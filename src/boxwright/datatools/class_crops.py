"""Cropping the labeled boxes of detection data into one folder per class, for a classifier."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boxwright.data.dataset import Dataset, Sample
from boxwright.data.split_names import canonical_name, canonical_names
from boxwright.datatools.check import check
from boxwright.datatools.clean import DEFAULT, UNUSABLE, Cleaning
from boxwright.datatools.convert import reject_outside
from boxwright.datatools.report import pluralize
from boxwright.errors import InputError, one_line, printable
from boxwright.files import check_outside, new_folder
from boxwright.formats import open_boxes, splits
from boxwright.formats.folder import SPLITS
from boxwright.images.decode import read_image
from boxwright.images.draw import encode_image
from boxwright.progress import track

UNSUPPORTED = UNUSABLE - {"size_differs", "labeled_unrotated", "duplicate_image_id"} | {"negative_size"}


def crop(
    root: str | Path, out: str | Path, *, outside: bool = False, kind: str = "auto", cleaning: Cleaning = DEFAULT
) -> str:
    """Write each labeled box as OUT/SPLIT/CLASS/IMAGE_NUMBER.png.

    The split `all` is written to OUT/CLASS. Boxes are enlarged to integer px and clipped to their image; NUMBER is the
    index of the label in its image. Crowd regions and boxes outside their image are left out and counted.

    Args:
        root: The detection data.
        out: The folder to create.
        outside: Include images outside `root`, as in `convert`.
        kind: The layout of the detection data; `auto` detects it.
        cleaning: How errors are handled.

    Returns:
        A summary for the user.

    Raises:
        InputError: A split has a name that classification data cannot have; labels or images have errors; a class
            cannot be a folder name or has no box; or `out` exists.
    """
    lines = []
    split_names = splits(root, kind)
    allowed = {*SPLITS, "all"} if len(split_names) == 1 else SPLITS
    if invalid := [split for split in split_names if canonical_name(split) not in allowed]:
        raise InputError(
            f"{root}: split '{invalid[0]}' is not a split of classification data, needed "
            f"{', '.join(canonical_names(allowed))} (`all` only by itself); rename it"
        )
    with new_folder(out) as folder:
        for split in split_names:
            split_folder = folder if split == "all" else folder / split
            dataset = open_boxes(root, split, kind).without_group()
            if not outside:
                reject_outside(dataset, root)
                check_outside(out, dataset.folders())
            dataset, left_out = replace(cleaning, kinds=UNSUPPORTED).apply(dataset, check(dataset), root)
            _check_names(dataset)
            for name in dataset.names:
                (split_folder / name).mkdir(parents=True)
            lines += [*_crop_split(dataset, split_folder), *(one_line(f"  {line}") for line in left_out)]
    return "\n".join(map(printable, [*lines, str(out)]))


def _check_names(dataset: Dataset) -> None:
    """Raise InputError for names of classes and images that would collide, and for classes without boxes."""
    folded = Counter(name.casefold() for name in dataset.names)  # some file systems are case-insensitive
    for name in dataset.names:
        if name != Path(name).name or name.startswith(".") or name != name.strip() or folded[name.casefold()] > 1:
            raise InputError(f"{dataset.root}: class {name!r} cannot be the name of a separate folder; rename it")
    names = [f"{Path(dataset.path(index)).stem}" for index in range(len(dataset))]
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise InputError(f"{dataset.root}: two images of {dataset.split} are called {repeated[0]}; rename one")
    counts = np.bincount(dataset.rows.labels[~dataset.rows.crowd], minlength=len(dataset.names))
    if dataset.split in {"train", "all"} and not counts.all():
        name = dataset.names[int(np.argmin(counts))]
        raise InputError(f"{dataset.root}: class {name} has no box in {dataset.split} to learn from; leave it out")


def _crop_split(dataset: Dataset, folder: Path) -> list[str]:
    counts = np.zeros(len(dataset.names), dtype=np.int64)
    outside = 0
    for index in track(range(len(dataset)), len(dataset), f"cutting {dataset.split}"):
        sample = dataset[index]
        if not len(sample):
            continue
        for row, crop in _crops(sample, read_image(sample.path)):
            if not crop.size:
                outside += 1
                continue
            label = int(sample.labels[row])
            counts[label] += 1
            file = folder / dataset.names[label] / f"{Path(sample.path).stem}_{row}.png"
            file.write_bytes(encode_image(crop, ".png"))
    each = ", ".join(f"{count} {name}" for name, count in zip(dataset.names, counts.tolist(), strict=True))
    lines = [f"{dataset.split}: {pluralize(int(counts.sum()), 'image[s]')} from {len(dataset)} ({each})"]
    left_out = {
        "crowd region[s]": int(dataset.rows.crowd.sum()),
        "box[es] without a px inside [the|their] image": outside,
    }
    if any(left_out.values()):
        lines.append(f"  left out: {', '.join(pluralize(count, what) for what, count in left_out.items() if count)}")
    return lines


def _crops(sample: Sample, image: NDArray[np.uint8]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """(row, pixels of the box) for each label except crowd regions."""
    height, width = image.shape[:2]
    low, high = np.floor(sample.boxes[:, :2]), np.ceil(sample.boxes[:, 2:])
    edges = np.concatenate([low, high], axis=1).clip(0, [width, height, width, height]).astype(int)
    for row in np.flatnonzero(~sample.crowd).tolist():
        left, top, right, bottom = edges[row].tolist()
        yield row, image[top:bottom, left:right]
