"""Division of a data set into splits, written as a new data set.

P images
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from boxwright import formats, mirrors
from boxwright.data import text
from boxwright.data.class_dataset import ClassSet
from boxwright.data.dataset import Dataset
from boxwright.data.layout import Extras
from boxwright.data.merge import join
from boxwright.data.split_names import canonical_name
from boxwright.datatools import class_check, merged
from boxwright.datatools.check import check
from boxwright.datatools.clean import DEFAULT, UNUSABLE, Cleaning
from boxwright.datatools.convert import cleaned, link, writable, write_splits
from boxwright.datatools.groups import group, keys_of
from boxwright.datatools.report import pluralize
from boxwright.datatools.stratify import Rows, image_classes, stratify
from boxwright.errors import InputError, printable
from boxwright.files import check_outside, new_folder
from boxwright.formats import folder as class_folders
from boxwright.formats import holds_classes, open_boxes, open_classes, yolo_txt

PART = re.compile(r"([A-Za-z][\w.-]{0,63})=([0-9.eE-]+)")
MAX_CLASSES = 20  # listed in the summary


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """Settings for the division of a data set.

    Attributes:
        parts: Name -> fraction of the images; the sum is 1.
        splits: The splits that are pooled and divided; () for the only one. Other splits are written unchanged.
        by: Which images stay together, as in `groups.keys_of`.
        near: Whether near-duplicates stay together, too.
        seed: Seed of the division.
    """

    parts: Mapping[str, float]
    splits: Sequence[str] = ()
    by: str = "image"
    near: bool = True
    seed: int = 0


def parse_parts(value: str) -> dict[str, float]:
    """`train=0.8,val=0.2` -> {"train": 0.8, "val": 0.2}. Raises InputError if the fractions do not sum to 1."""
    parts: dict[str, float] = {}
    for word in value.split(","):
        match = PART.fullmatch(word.strip())
        share = _number(match[2]) if match else 0.0
        if match is None or not 0 < share < 1 or canonical_name(match[1]) in map(canonical_name, parts):
            raise InputError(
                f"--parts: found '{word[:60]}', needed different names with a fraction from 0 to 1, such as "
                "train=0.8,val=0.1,test=0.1"
            )
        parts[match[1]] = share
    if abs(sum(parts.values()) - 1) > 1e-6:
        raise InputError(f"--parts: the fractions sum to {sum(parts.values()):g}, needed 1, such as train=0.8,val=0.2")
    return parts


def split(
    root: str | Path,
    out: str | Path,
    division: Division,
    *,
    to: str | None = None,
    lists: bool = False,
    outside: bool = False,
    cleaning: Cleaning = DEFAULT,
) -> str:
    """Divide a data set into splits, by groups of images and stratified by class.

    Args:
        root: The data set.
        out: The folder to create, with hard links to the images.
        division: How to divide it.
        to: The layout to write; None for that of `root` if it can be written, else `coco`.
        lists: Write lists of the image files of `root` instead, without links; for `yolo_txt`.
        outside: Include images outside `root`.
        cleaning: How errors are handled; not with `lists`, which leave the labels as they are.

    Returns:
        A summary for the user.

    Raises:
        InputError: It is not clear what to divide, there are fewer groups than parts, or as in `convert`.
    """
    divided, others = _choose(root, division)
    if holds_classes(root):
        if lists or to not in (None, "folder"):
            raise InputError(f"{root}: folders of classes are divided into folders; leave --to and --lists out")
        return _split_classes(root, out, division, divided, others, cleaning)
    if lists and cleaning != DEFAULT:
        raise InputError("--lists: labels stay as they are; leave --skip-bad and --clip-boxes out, or --lists")
    dataset, extras, keys, left_out = _open(root, divided, division.by, cleaning, images=not lists)
    kind = dataset.kind
    groups, parts = _groups(dataset, keys, division), [*division.parts]
    split_of = assign(dataset, groups, division.parts, division.seed)
    kept = [open_boxes(root, name) for name in others]
    divided_sets = _divide(dataset, extras, split_of, parts)
    if lists:
        if kind != "yolo_txt":
            raise InputError(f"{root}: --lists: labels are {kind}, needed yolo_txt; leave --lists out")
        if mirrors.split(dataset.path(0)) is not None:
            raise InputError(f"{root}: --lists: an archive holds the images, needed files; leave --lists out")
        summary = _write_lists([*(part for part, _ in divided_sets), *kept], out)
    else:
        to = to or (kind if kind in writable() else "coco")
        sets = [*divided_sets, *((each, None) for each in kept)]
        summary = write_splits(root, to, out, sets, outside=outside, cleaning=cleaning)
    *lines, end = summary.split("\n")
    return "\n".join([*left_out, *lines, *map(printable, report(dataset, groups, split_of, parts)), end])


def _open(
    root: str | Path, splits: Sequence[str], by: str, cleaning: Cleaning, *, images: bool
) -> tuple[Dataset, Extras, list[str], list[str]]:
    """The splits merged, without errors; their extras, the keys of the images, and a line for each item left out.

    images: Also check the images.
    """
    datasets, each_extras, keys, lines = [], [], list[str](), list[str]()
    for name in splits:
        complete = open_boxes(root, name)
        found, strict = check(complete, images=images), replace(cleaning, kinds=UNUSABLE)
        dataset, extras, kept, left_out = cleaned(complete, None, strict, found, str(root))
        all_keys = keys_of(complete, by)
        keys += [all_keys[index] for index in kept]
        datasets.append(dataset)
        each_extras.append(extras)
        lines += left_out
    if len(datasets) == 1:
        return datasets[0], each_extras[0], keys, lines
    joined = join(datasets)
    extras, lost = merged.extras(joined.names, datasets, each_extras)
    return joined, extras, keys, [*lines, *lost]


def assign(dataset: Dataset | ClassSet, groups: Rows, parts: Mapping[str, float], seed: int = 0) -> Rows:
    """(P,) the index of each image's part. Raises InputError if there are fewer groups than parts."""
    count = len(np.unique(groups))
    if count < len(parts):
        raise InputError(
            f"{dataset.root}: {pluralize(len(dataset), 'image[s]')} in {pluralize(count, 'group[s]')} whose images "
            f"stay together (copies, near-duplicates), needed {len(parts)}; see --group and "
            "--no-near-duplicates of `boxwright data split`"
        )
    return stratify(dataset, groups, list(parts.values()), seed)


def report(dataset: Dataset | ClassSet, groups: Rows, split_of: Rows, parts: Sequence[str]) -> list[str]:
    """A line with the images of each part, and one with those of each class, the most frequent first."""
    images, labels, classes = image_classes(dataset)
    counts = np.stack(
        [np.bincount(labels[split_of[images] == number], minlength=classes) for number in range(len(parts))]
    )
    totals = counts.sum(axis=0)

    def line(title: str, row: Rows) -> str:
        shares = zip(parts, row.tolist(), (row / row.sum()).tolist(), strict=True)
        return f"{title}: {', '.join(f'{part} {count} ({share:.1%})' for part, count, share in shares)}"

    names = [*dataset.names, "no box"]
    shown = [label for label in np.argsort(-totals, kind="stable").tolist() if totals[label]]
    lines = [
        line(
            f"{pluralize(len(dataset), 'image[s]')} in {pluralize(len(np.unique(groups)), 'group[s]')}",
            np.bincount(split_of),
        )
    ]
    lines += [line(f"  with {names[label]}", counts[:, label]) for label in shown[:MAX_CLASSES]]
    return [*lines, f"  and {len(shown) - MAX_CLASSES} more classes"] if len(shown) > MAX_CLASSES else lines


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return 0.0


def _groups(dataset: Dataset | ClassSet, keys: Sequence[str], division: Division) -> Rows:
    return group(keys, [dataset.path(index) for index in range(len(dataset))] if division.near else ())


def _choose(root: str | Path, division: Division) -> tuple[list[str], list[str]]:
    """The splits to divide, and the remaining splits."""
    names, chosen = formats.splits(root), division.splits
    if not chosen and len(names) > 1:
        raise InputError(
            f"{root}: holds the splits {', '.join(names)}; name those to divide with --split (several are divided "
            "together); other splits stay unchanged"
        )
    divided = [name if name in names else canonical_name(name) for name in chosen] or names
    if missing := [name for name in divided if name not in names]:
        raise InputError(f"{root}: no split '{missing[0]}'; it holds {', '.join(names)}")
    divided = list(dict.fromkeys(divided))
    others = [name for name in names if name not in divided]
    if clash := [name for name in others if canonical_name(name) in map(canonical_name, division.parts)]:
        raise InputError(
            f"--parts: {clash[0]} is a split of {root} that would stay unchanged; choose another name, or divide it, "
            f"too, with --split {clash[0]}"
        )
    return divided, others


def _divide(dataset: Dataset, extras: Extras, split_of: Rows, parts: Sequence[str]) -> list[tuple[Dataset, Extras]]:
    """The data set and the extras of each part."""
    owners, result = dataset.image_indices(), []
    for number, part in enumerate(parts):
        own = np.flatnonzero(split_of == number)
        rows = [extras.rows[row] for row in np.flatnonzero(split_of[owners] == number).tolist()]
        images = [extras.images[index] for index in own.tolist()]
        chosen = replace(dataset.subset(own), split=part, findings=())
        result.append((chosen, replace(extras, rows=rows, images=images)))
    return result


def _write_lists(datasets: Sequence[Dataset], out: str | Path) -> str:
    """Write a list of image files for each split, and check that its reader finds the labels."""
    lines = []
    with new_folder(out) as folder:
        yolo_txt.write_names(folder, datasets[0].names, {each.split: f"{each.split}.txt" for each in datasets})
        for dataset in datasets:
            paths = [os.path.abspath(dataset.path(index)) for index in range(len(dataset))]  # noqa: PTH100  (100,000s)
            text.write_lines(folder / f"{dataset.split}.txt", paths)
        for dataset in datasets:
            read = open_boxes(folder, dataset.split, "yolo_txt")
            paths = [os.path.abspath(dataset.label_file(index)) for index in range(len(dataset))]  # noqa: PTH100
            wrong = [path for index, path in enumerate(paths) if not _same_file(path, read.label_file(index))]
            if wrong or read.names != dataset.names or len(read.rows) != len(dataset.rows):
                raise InputError(
                    f"{wrong[0] if wrong else dataset.root}: a list of images would not lead to these labels; leave "
                    "--lists out"
                )
            lines.append(f"{dataset.split}: list of {_shown(dataset)}")
    return "\n".join(map(printable, [*lines, str(out)]))


def _shown(dataset: Dataset) -> str:
    return f"{pluralize(len(dataset), 'image[s]')}, with {pluralize(len(dataset.rows), 'box[es]')}"


def _same_file(first: str, second: str) -> bool:
    return first == os.path.abspath(second) or not os.path.lexists(first)  # noqa: PTH100  (100,000s of them)


def _split_classes(
    root: str | Path,
    out: str | Path,
    division: Division,
    divided: Sequence[str],
    others: Sequence[str],
    cleaning: Cleaning,
) -> str:
    """Link the images of each class to `out`/PART/CLASS."""
    sets, left_out = [open_classes(root, name) for name in [*divided, *others]], list[str]()
    for each in sets:
        check_outside(out, each.folders())
    if sets[0].members is not None:
        raise InputError(f"{root}: lists several sets of class folders, needed one; divide each by itself")
    if cleaning.skip_bad:
        clean = [cleaning.apply(each, class_check.check(each), root) for each in sets]
        sets, left_out = [each for each, _ in clean], [line for _, lines in clean for line in lines]
    if sets[0].kind != "folder":
        raise InputError(f"{root}: images are in the layout {sets[0].kind}, needed a folder for each class, or boxes")
    found = {canonical_name(name): path for name, path in class_folders.find(sets[0].root).items()}
    bases = [found[canonical_name(each.split)] for each in sets]
    count = len(divided)
    dataset = replace(
        sets[0],
        paths=np.array([path for each in sets[:count] for path in each.paths.tolist()], dtype=np.bytes_),
        labels=np.concatenate([each.labels for each in sets[:count]]),
    )
    keys = [key for each in sets[:count] for key in keys_of(each, division.by)]
    groups, parts = _groups(dataset, keys, division), [*division.parts]
    split_of = assign(dataset, groups, division.parts, division.seed)
    names = [parts[number] for number in split_of.tolist()]
    names += [each.split for each in sets[count:] for _ in range(len(each))]
    files = [(each.path(index), base) for each, base in zip(sets, bases, strict=True) for index in range(len(each))]
    with new_folder(out) as folder:
        for name in {*parts, *others}:
            for class_name in dataset.names:
                (folder / name / class_name).mkdir(parents=True)
        for (path, base), name in zip(files, names, strict=True):
            target = folder / name / os.path.relpath(path, base)
            if target.exists():
                raise InputError(f"{path}: another image of {name} has the same name in its class; rename one")
            link(path, target)
    lines = [*left_out, *report(dataset, groups, split_of, parts)] + [
        f"{each.split}: {pluralize(len(each), 'image[s], as [it was|they were]')}" for each in sets[count:]
    ]
    return "\n".join(map(printable, [*lines, str(out)]))
