"""Classes renamed, merged and dropped (`class_map`), and the classes of several sets."""

import difflib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from boxwright.data.class_dataset import ClassSet
from boxwright.data.dataset import ANY_CLASS, Dataset
from boxwright.data.layout import Labels
from boxwright.data.members import Member
from boxwright.data.sets import DROP, IGNORE
from boxwright.errors import InputError

DROPPED = -3  # in place of a label


def map_classes(dataset: Labels, class_map: Mapping[str, str], title: str) -> Labels:
    """A data set with other classes. Classes that get the same name become one.

    Args:
        dataset: A data set that was not merged from several sets.
        class_map: Class -> its new name; `drop`: its labels (in a `ClassSet` its images) are left out; `ignore`: its
            boxes become ignore regions. Other classes keep their names.
        title: Name of the data set in messages.

    Raises:
        InputError: No class is left, or a class of images is to be ignored.
    """
    used = {name: class_map[name] for name in dataset.names if name in class_map}
    if not used:
        return dataset
    if isinstance(dataset, ClassSet) and IGNORE in used.values():
        name = next(name for name, new in used.items() if new == IGNORE)
        raise InputError(f"{title}: class_map: {name}: found ignore, which needs boxes; needed a new name or drop")
    words = {DROP: DROPPED, IGNORE: ANY_CLASS}
    kept = {name: used.get(name, name) for name in dataset.names if used.get(name) not in words}
    names = tuple(dict.fromkeys(kept.values()))
    if not names:
        raise InputError(f"{title}: class_map leaves no class; needed at least one that is neither drop nor ignore")
    new = np.array([names.index(kept[name]) if name in kept else words[used[name]] for name in dataset.names])
    if isinstance(dataset, Dataset):
        return _map_boxes(dataset, new, names, title)
    labels = new[dataset.labels]
    notes = _notes(dataset, labels, dataset.labels, title, "images")
    mapped = replace(dataset, names=names, labels=labels, notes=dataset.notes + notes)
    return mapped.subset(np.flatnonzero(labels != DROPPED))


def check_keys(
    class_map: Mapping[str, str], names: Collection[str], title: str, others: Callable[[], Collection[str]]
) -> None:
    """Raise InputError if a key is neither in `names`, the classes of a split, nor in `others`, those of all splits."""
    unknown = [key for key in class_map if key not in names]
    existing = others() if unknown else ()
    if unknown := [key for key in unknown if key not in existing]:
        raise InputError(f"{title}: class_map: {no_such_class(unknown[0], existing)}")


def no_such_class(name: str, known: Collection[str]) -> str:
    """The message for an unknown class `name`. known: the existing classes."""
    near = difflib.get_close_matches(name[:60], known, n=1)
    listed = ", ".join([*known][:5]) + (", ..." if len(known) > 5 else "")
    hint = f"did you mean '{near[0]}'?" if near else f"there are {listed}"
    return f"there is no class '{name[:60]}'; {hint}"


def _map_boxes(dataset: Dataset, new: NDArray[np.int64], names: tuple[str, ...], title: str) -> Dataset:
    """Map the boxes. new: the new label of each old one. A class gets the id of the first category mapped to it."""
    rows = dataset.rows
    labels = np.where(rows.labels >= 0, new[np.maximum(rows.labels, 0)], rows.labels)
    ids = tuple(dataset.category_ids[int(np.flatnonzero(new == label)[0])] for label in range(len(names)))
    valid, ignored = labels >= 0, (labels == ANY_CLASS) & (rows.labels != ANY_CLASS)
    categories = np.where(valid, np.array(ids)[np.maximum(labels, 0)], np.where(ignored, ANY_CLASS, rows.categories))
    crowd, difficult = rows.crowd | ignored, rows.difficult & ~ignored
    mapped = replace(rows, labels=labels, categories=categories, crowd=crowd, difficult=difficult)
    notes = _notes(dataset, labels, rows.labels, title, "labels")
    images = dataset.images
    if (labeled := images.labeled) is not None:  # a merged class was searched for if all its old classes were
        columns = [labeled[:, new == label].all(axis=1) for label in range(len(names))]
        images = replace(images, labeled=np.stack(columns, axis=1))
    result = replace(dataset, names=names, category_ids=ids, images=images, rows=mapped, notes=dataset.notes + notes)
    return result.without_rows(labels == DROPPED)


def _notes(
    dataset: Dataset | ClassSet, labels: NDArray[np.int64], before: NDArray[np.int64], title: str, what: str
) -> tuple[str, ...]:
    def lines() -> Iterator[str]:
        for word, target in ((DROP, DROPPED), (IGNORE, ANY_CLASS)):
            old = before[(labels == target) & (before >= 0)]
            for label, count in zip(*np.unique(old, return_counts=True), strict=True):
                done = "leaves out" if word == DROP else "makes ignore regions of"
                yield f"{title}: class_map {done} class {dataset.names[label]} ({dataset.split}, {what}: {count})"

    return tuple(lines())


def common_names(members: Sequence[Member], names: tuple[str, ...] | None) -> tuple[str, ...]:
    """`names`, or the classes of all sets in order of first appearance.

    Raises InputError if a set has a class that is not in `names`.
    """
    union = tuple(dict.fromkeys(name for member in members for name in member.dataset.names))
    if names is None:
        return union
    for member in members:
        if unknown := [name for name in member.dataset.names if name not in names]:
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            raise InputError(
                f"{member.title}: class {unknown[0][:40]}{more} not in names ({', '.join(names)[:60]}); give it a name "
                "there, drop or ignore by class_map"
            )
    return names


def lacking(members: Sequence[Member], names: Sequence[str]) -> Iterator[str]:
    """A note for each set of boxes that lacks classes."""
    for member in members:
        missing = [name for name in names if name not in member.dataset.names]
        if missing and len(member.dataset) and isinstance(member.dataset, Dataset):
            listed = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            noun = "class" if len(missing) == 1 else "classes"
            split = member.dataset.split
            yield f"{member.title}: has no {noun} {listed} ({split}); its images were not searched for them"


def in_order(dataset: Dataset | ClassSet, names: Sequence[str]) -> NDArray[np.int64]:
    """The label in `names` of each label of the data set."""
    label_of = {name: label for label, name in enumerate(names)}
    return np.array([label_of[name] for name in dataset.names], dtype=np.int64)
