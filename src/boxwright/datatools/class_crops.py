"""Labeled boxes cut out of the images of a detection set, into one folder a class: a set for a classifier."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boxwright.data.dataset import Dataset, Sample
from boxwright.data.split_names import canonical_name, canonical_names
from boxwright.datatools.check import check
from boxwright.datatools.convert import refuse_outside
from boxwright.errors import InputError, printable
from boxwright.files import new_folder
from boxwright.formats import open_boxes, splits
from boxwright.formats.folder import SPLITS
from boxwright.images.canvas import read_image
from boxwright.images.draw import encode_image
from boxwright.progress import track

FATAL = {"not_finite", "negative_size", "unknown_category", "unknown_image", "missing_image", "unreadable_image"}


def crop(root: str | Path, out: str | Path, *, outside: bool = False) -> str:
    """Write each labeled box of the detection set `root` as out/SPLIT/CLASS/IMAGE_NUMBER.png; say how many.

    The split `all` of a set without others goes into out/CLASS, where `open_classes` looks for it. A box is widened to
    whole px and cut at its image's edges; NUMBER is its place among the image's labels. Left out, and counted in
    what comes back, are crowd regions and boxes of which nothing is inside the image.
    outside: also of images that lie outside `root`, as in `convert`.
    Raises InputError for a split that `open_classes` would not find, for faulty labels and images, for a class that
    cannot name a folder or has no box to learn from, and when `out` is there already.
    """
    lines = []
    found = splits(root)
    known = {*SPLITS, "all"} if len(found) == 1 else SPLITS
    if strange := [split for split in found if canonical_name(split) not in known]:
        raise InputError(
            f"{root}: split '{strange[0]}' would not be found among folders of classes, needed "
            f"{', '.join(canonical_names(known))} (`all` only by itself); rename it"
        )
    with new_folder(out) as folder:
        for split in found:
            place = folder if split == "all" else folder / split
            dataset = open_boxes(root, split)
            if not outside:
                refuse_outside(dataset, root)
            check(dataset).raise_on_errors(root, FATAL)
            _refuse(dataset)
            for name in dataset.names:
                (place / name).mkdir(parents=True)
            lines += _crop_split(dataset, place)
    return "\n".join(map(printable, [*lines, str(out)]))


def _refuse(dataset: Dataset) -> None:
    """InputError for what no image of one class can come from."""
    folded = Counter(name.casefold() for name in dataset.names)  # some file systems take A and a for one
    for name in dataset.names:
        if name != Path(name).name or name.startswith(".") or name != name.strip() or folded[name.casefold()] > 1:
            raise InputError(f"{dataset.root}: class {name!r} cannot be the name of a folder of its own; rename it")
    names = [f"{Path(dataset.path(index)).stem}" for index in range(len(dataset))]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise InputError(f"{dataset.root}: two images of {dataset.split} are called {twice[0]}; rename one")
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
        for row, part in _parts(sample, read_image(sample.path)):
            if not part.size:
                outside += 1
                continue
            label = int(sample.labels[row])
            counts[label] += 1
            file = folder / dataset.names[label] / f"{Path(sample.path).stem}_{row}.png"
            file.write_bytes(encode_image(part, ".png"))
    each = ", ".join(f"{count} {name}" for name, count in zip(dataset.names, counts.tolist(), strict=True))
    lines = [f"{dataset.split}: {counts.sum()} images from {len(dataset)} ({each})"]
    left = {"crowd regions": int(dataset.rows.crowd.sum()), "boxes without a px inside their image": outside}
    if any(left.values()):
        lines.append(f"  left out: {', '.join(f'{count} {what}' for what, count in left.items() if count)}")
    return lines


def _parts(sample: Sample, image: NDArray[np.uint8]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """(row, the px of its box) of each label that is one object."""
    height, width = image.shape[:2]
    low, high = np.floor(sample.boxes[:, :2]), np.ceil(sample.boxes[:, 2:])
    edges = np.concatenate([low, high], axis=1).clip(0, [width, height, width, height]).astype(int)
    for row in np.flatnonzero(~sample.crowd).tolist():
        left, top, right, bottom = edges[row].tolist()
        yield row, image[top:bottom, left:right]
