"""Checks of detection data for label and image errors.

    P images, T boxes

Errors would harm training or stop a run; notes are only reported. Nothing is repaired. `skip_bad` leaves out exactly
the labels and images with errors; the area of a label that it leaves out is ignored, since an object may be there.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boxwright import formats
from boxwright.data.dataset import ANY_CLASS, Boxes, Dataset
from boxwright.data.findings import TITLES, Finding
from boxwright.data.layout import Labels
from boxwright.data.sets import Root
from boxwright.datatools import class_check, set_check
from boxwright.datatools.duplicates import EQUAL, MIN_IOU, same_object
from boxwright.datatools.headers import checked_headers
from boxwright.datatools.report import CheckReport, check_all, pluralize, reject_other_files
from boxwright.errors import InputError
from boxwright.formats import open_boxes, open_classes
from boxwright.images.header import Header, read_headers

MAX_LISTED = 100  # files named in one finding
MAX_SHOWN = 10  # classes named in one finding
MAX_SIDE = 2**24  # px, of images of unknown size; float32 represents all whole numbers up to this one
OUTSIDE_TOLERANCE = 1.0  # px beyond the image's edges, as in labels with inclusive pixel coordinates


def check(
    dataset: Dataset, *, images: bool = True, decode: bool | None = False, scenes: bool = False, rgb: bool = False
) -> CheckReport:
    """Check one split.

    Args:
        dataset: The split.
        images: Also read the header of every image, and decode images that look truncated.
        decode: Decode every image; None: decode no image.
        scenes: Require that `open_scene` can read windows of the images.
        rgb: Images are read as RGB, without chosen bands, so TIFFs that cannot be are errors.
    """
    if dataset.members is not None:
        each = partial(check, images=images, decode=decode, scenes=scenes, rgb=rgb)
        return set_check.check_sets(dataset, each)
    headers: list[Header] = []
    if images:
        paths = dataset.paths()
        headers = checked_headers(paths, dataset.split, decode)
        if scenes:
            from boxwright.images.windows import scene_fault  # imports torch, which checks of labels do not need

            faults = (scene_fault(path, rgb=rgb) for path in paths)
            headers = [
                header if header.fault else Header(fault=fault) if fault else replace(header, not_rgb="")
                for header, fault in zip(headers, faults, strict=True)
            ]
        elif rgb:
            headers = [Header(fault=header.not_rgb) if header.not_rgb else header for header in headers]
    findings = [*_labels(dataset, headers), *dataset.findings, *_image_ids(dataset), *_images(dataset, headers)]
    findings += [*_image_twice(dataset), *_without_boxes(dataset), *_partly_labeled(dataset), *set_check.notes(dataset)]
    findings.sort(key=lambda finding: list(TITLES).index(finding.kind))  # stable: the data set's order stays
    return CheckReport(tuple(findings), {dataset.split: (len(dataset), len(dataset.rows))})


def check_splits(first: Dataset, second: Dataset) -> CheckReport:
    """Check that two splits of a data set have the same classes and share no image."""
    findings = []
    if (first.names, first.category_ids) != (second.names, second.category_ids):
        text = f"classes are {_classes(second)}, those of {first.split} are {_classes(first)}; make them the same"
        findings.append(Finding("classes_differ", second.split, str(second.root), text))
    seen = {os.path.abspath(path) for path in first.paths()}  # noqa: PTH100  (100,000s of them)
    for index, path in enumerate(second.paths()):
        if os.path.abspath(path) in seen:  # noqa: PTH100
            text = f"is also in {first.split}, which makes results look better than they are"
            findings.append(_of_image(second, index, "shared_image", text))
    return CheckReport(tuple(findings))


def check_folder(
    root: Root,
    splits: Sequence[str] = (),
    report: Path | None = None,
    *,
    decode: bool | None = False,
    kind: str = "auto",
) -> CheckReport:
    """Check the splits of a data set, and each pair of them.

    Args:
        root: The data set.
        splits: The splits to check; () for all.
        report: JSON file for the findings; replaces only an earlier report.
        decode: Decode every image, not only its header; None for none, also if it looks truncated.
        kind: The layout; `auto` detects it.

    Raises:
        InputError: The data set cannot be opened, or the report cannot be written.
    """
    if report is not None:
        reject_other_files(report)
    names = splits or formats.splits(root, kind)
    title = formats.describe(root, kind)
    if formats.holds_classes(root, kind):
        sets = [open_classes(root, split, kind) for split in names]
        class_checker = partial(class_check.check, decode=decode)
        result = check_all(CheckReport(title=title, unit="classes"), sets, class_checker, class_check.check_splits)
    else:
        datasets = [open_boxes(root, split, kind) for split in names]
        result = check_all(CheckReport(title=title), datasets, partial(check, decode=decode), check_splits)
    if report is not None:
        result.write(report)
    return result


def skip_bad(dataset: Labels, report: CheckReport) -> Labels:
    """The data set without the labels and images that have errors in the report.

    A label becomes an ignore region: its box within the image, or the whole image if that box has no area or the label
    could not be read. A repeated box is dropped, since the first one labels its object.

    Raises InputError if an error cannot be skipped, or if no image is left.
    """
    errors = [finding for finding in report.errors if finding.split == dataset.split]
    for finding in errors:
        if finding.leave_out == "nothing":
            raise InputError(f"{finding}; skipping cannot repair this")
    bad_images = {finding.index for finding in errors if finding.leave_out == "image"}
    kept = [index for index in range(len(dataset)) if index not in bad_images]
    if not kept:
        raise InputError(f"{dataset.root}: split {dataset.split} has no image left when the faulty ones are skipped")
    if isinstance(dataset, Dataset):
        if not dataset.names:
            raise InputError(f"{dataset.root}: split {dataset.split} has no class, since no label can be read")
        dataset = _without_labels(dataset, [finding for finding in errors if finding.leave_out == "label"])
        dataset = replace(dataset, findings=tuple(finding for finding in dataset.findings if finding.index is None))
    return dataset.subset(kept)


def _without_labels(dataset: Dataset, errors: Sequence[Finding]) -> Dataset:
    """The data set with ignore regions in place of the labels with errors."""
    rows, owners = dataset.rows, dataset.image_indices()
    bad, repeated = np.zeros((2, len(rows)), dtype=bool)
    for finding in errors:
        if finding.row is not None:
            (repeated if finding.kind == "duplicate_box" else bad)[finding.row] = True
    unread = np.array(sorted({found.index for found in errors if found.row is None and found.index is not None}), int)
    extents = _extents(dataset, [*owners[bad].tolist(), *unread.tolist()])
    corners = rows.xyxy.reshape(-1, 2, 2)
    low, high = np.maximum(corners.min(axis=1), 0), np.minimum(corners.max(axis=1), extents[owners, 2:])
    has_area = (np.isfinite(rows.xyxy) & np.tile(high > low, 2)).all(axis=1, keepdims=True)
    boxes = np.where(has_area, np.concatenate([low, high], axis=1), extents[owners])
    regions = replace(
        rows.as_ignored(bad),
        xyxy=np.where(bad[:, None], boxes, rows.xyxy),
        areas=np.where(bad, _areas(boxes), rows.areas),
    )
    return _with_ignored_images(replace(dataset, rows=regions).without_rows(repeated), unread, extents[unread])


def _with_ignored_images(dataset: Dataset, indices: NDArray[np.int64], boxes: NDArray[np.float32]) -> Dataset:
    """Add the ignore regions `boxes` to the images at `indices`, as their first rows, which `data.max_boxes` keeps."""
    rows, count = dataset.rows, len(indices)
    columns = {
        "xyxy": boxes, "labels": ANY_CLASS, "categories": ANY_CLASS, "crowd": True, "areas": _areas(boxes),
        "ids": rows.ids.max(initial=0) + 1 + np.arange(count), "entries": 0, "difficult": False,
    }  # fmt: skip
    places = dataset.starts[indices]
    rows = Boxes(**{name: np.insert(getattr(rows, name), places, new, axis=0) for name, new in columns.items()})
    added = np.cumsum(np.bincount(indices, minlength=len(dataset)))
    return replace(dataset, rows=rows, starts=dataset.starts + np.concatenate([[0], added]))


def _extents(dataset: Dataset, indices: Sequence[int]) -> NDArray[np.float32]:
    """(P, 4) the box of each image at `indices`; for other images, and if the size is unknown, a very large box."""
    sizes = dataset.images.sizes.copy()
    unknown = [index for index in sorted({*indices}) if sizes[index, 0] < 0]
    for index, header in zip(unknown, read_headers([dataset.path(index) for index in unknown]), strict=True):
        sizes[index] = header.size
    sizes = np.where(sizes < 0, MAX_SIDE, sizes)
    return np.concatenate([np.zeros_like(sizes), sizes[:, ::-1]], axis=1).astype(np.float32)


def _areas(boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    sides = boxes[:, 2:].astype(np.float64) - boxes[:, :2]
    return np.asarray(sides[:, 0] * sides[:, 1])


def _labels(dataset: Dataset, headers: list[Header]) -> Iterator[Finding]:
    rows, owners = dataset.rows, dataset.image_indices()
    x1, y1, x2, y2 = rows.xyxy.T.astype(np.float64)
    sizes = _image_sizes(dataset, headers)[owners]
    finite = np.isfinite(rows.xyxy).all(axis=1)
    # Relative boxes of an unreadable image are not finite, which is not an error of the labels.
    has_size = (dataset.images.sizes[owners, 0] >= 0) | (not dataset.relative or not headers)
    negative = finite & ((x2 < x1) | (y2 < y1))
    zero = finite & ~negative & ((x2 == x1) | (y2 == y1))
    valid = finite & ~negative & ~zero
    height, width = sizes.T
    over = np.maximum.reduce([-x1, -y1, x2 - width, y2 - height])
    beyond = (
        valid & (height >= 0) & ((over > OUTSIDE_TOLERANCE) | (x1 >= width) | (y1 >= height) | (x2 <= 0) | (y2 <= 0))
    )

    def box(row: int) -> str:
        return "box " + ",".join(f"{value:g}" for value in rows.xyxy[row]) + " (x1,y1,x2,y2)"

    def outside(row: int) -> str:
        return f"{box(row)} reaches {over[row]:g} px out of the {width[row]} x {height[row]} image"

    def category(row: int) -> str:
        number = int(rows.categories[row])
        if named := dataset.undefined and -len(dataset.undefined) <= number < 0:
            shown, defined = f"class '{dataset.undefined[-1 - number]}'", list(dataset.names)
        else:
            shown, defined = f"category {number}", [str(category) for category in dataset.category_ids]
        remedy = "; add it to classes.txt" if named else ""
        return f"{shown} is not defined; there are {_some(defined, 4)}{remedy}"

    yield from _of_rows(dataset, owners, "not_finite", has_size & ~finite, lambda row: f"{box(row)} is not finite")
    yield from _of_rows(dataset, owners, "negative_size", negative, lambda row: f"{box(row)} has a negative side")
    yield from _of_rows(dataset, owners, "zero_area", zero, lambda row: f"{box(row)} has no area")
    yield from _of_rows(dataset, owners, "outside", beyond, outside)
    bad_area = valid & ~np.isfinite(rows.areas)
    yield from _of_rows(dataset, owners, "not_finite", bad_area, lambda row: f"area {rows.areas[row]:g} is not finite")
    bad_area = valid & (rows.areas < 0)
    yield from _of_rows(dataset, owners, "negative_area", bad_area, lambda row: f"area {rows.areas[row]:g} is negative")
    yield from _of_rows(dataset, owners, "unknown_category", (rows.labels < 0) & ~rows.ignored, category)
    yield from _repeated_ids(dataset, owners)
    yield from _duplicates(dataset, owners, valid & ~rows.ignored)


def _image_sizes(dataset: Dataset, headers: list[Header]) -> NDArray[np.int64]:
    """(P, 2) (height, width) px as declared, or else from the image's header, or else -1."""
    if not headers:
        return dataset.images.sizes
    stored = np.array([header.size for header in headers], dtype=np.int64).reshape(-1, 2)
    return np.where(dataset.images.sizes < 0, stored, dataset.images.sizes)


def _repeated_ids(dataset: Dataset, owners: NDArray[np.int64]) -> Iterator[Finding]:
    """One finding for all repeated ids, since ids are not needed."""
    ids, places = dataset.rows.ids, dataset.rows.entries
    order = np.lexsort((places, ids))
    first = order[np.searchsorted(ids[order], ids)]  # (T,) the first row with the same id, in the file's order
    repeated = np.flatnonzero(first != np.arange(len(ids)))
    if len(repeated):
        row = int(repeated[np.argmin(places[repeated])])
        place = dataset.location(int(owners[row]), row)
        text = (
            f"{pluralize(len(repeated), 'box[es] [has|have]')} the id of an earlier one, here that of "
            f"{dataset.entry.format(places[first[row]])}; read, since ids are not needed"
        )
        number = int(ids[row])
        yield Finding("duplicate_annotation_id", dataset.split, place, text, annotation_id=number)


def _duplicates(dataset: Dataset, owners: NDArray[np.int64], valid: NDArray[np.bool_]) -> Iterator[Finding]:
    partner, overlap = _partners(dataset.rows, owners, valid)

    def text(row: int) -> str:
        number, entry = dataset.rows.ids[partner[row]], dataset.entry.format(dataset.rows.entries[partner[row]])
        other = f"{entry} (annotation id {number})"
        return f"the same box as {other}" if overlap[row] == EQUAL else f"IoU {overlap[row]:.3f} with {other}"

    yield from _of_rows(dataset, owners, "duplicate_box", overlap == EQUAL, text)
    near = (overlap >= MIN_IOU) & (overlap < EQUAL)
    yield from _of_rows(dataset, owners, "near_duplicate", near, text)


def _partners(
    rows: Boxes, owners: NDArray[np.int64], valid: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """`same_object` among the boxes of an image and category, for all T rows."""
    partner, overlap = np.full(len(rows), -1), np.zeros(len(rows))
    chosen = np.flatnonzero(valid)
    categories, inverse = np.unique(rows.categories[chosen], return_inverse=True)
    groups = owners[chosen] * len(categories) + inverse
    match, overlap[chosen] = same_object(rows.xyxy[chosen].astype(np.float64), groups)
    partner[chosen[match >= 0]] = chosen[match[match >= 0]]
    return partner, overlap


def _image_ids(dataset: Dataset) -> Iterator[Finding]:
    """Errors for image ids shared by several files (all of them) or by several entries of a file (after the first)."""
    places: dict[int | str, list[int]] = defaultdict(list)
    for index, image_id in enumerate(dataset.images.ids.tolist()):
        places[image_id].append(index)
    for indices in places.values():
        if len(indices) == 1:
            continue
        files = {dataset.path(index) for index in indices}
        named = ", ".join(sorted(files)[:MAX_LISTED]) + (", ..." if len(files) > MAX_LISTED else "")
        for index in indices[0 if len(files) > 1 else 1 :]:
            text = f"the id stands for {len(indices)} entries: {named}"
            yield _of_image(dataset, index, "duplicate_image_id", text)


def _images(dataset: Dataset, headers: list[Header]) -> Iterator[Finding]:
    for index, header in enumerate(headers):
        declared = tuple(dataset.images.sizes[index].tolist())
        if header.not_rgb and not header.fault:
            yield _of_image(dataset, index, "not_rgb", header.not_rgb)
        if header.missing:
            yield _of_image(dataset, index, "missing_image", header.fault)
        elif header.fault:
            yield _of_image(dataset, index, "unreadable_image", header.fault)
        elif declared in (header.size, (-1, -1)):
            if header.orientation != 1:
                text = f"EXIF orientation {header.orientation}, displayed as {_shown(header.size)}"
                yield _of_image(dataset, index, "rotated", text)
        elif declared == header.stored_size:
            text = f"declared {_shown(declared)}, displayed as {_shown(header.size)} by EXIF {header.orientation}"
            yield _of_image(dataset, index, "labeled_unrotated", text)
        else:
            text = f"declared {_shown(declared)}, the file has {_shown(header.size)}"
            yield _of_image(dataset, index, "size_differs", text)


def _image_twice(dataset: Dataset) -> Iterator[Finding]:
    seen: dict[str, int] = {}
    ids = dataset.images.ids.tolist()
    for index, path in enumerate(dataset.paths()):
        first = seen.setdefault(path, index)
        if first != index and ids[first] != ids[index]:
            yield _of_image(dataset, index, "image_twice", f"is also image id {ids[first]}")


def _without_boxes(dataset: Dataset) -> Iterator[Finding]:
    for index in np.flatnonzero(np.diff(dataset.starts) == 0).tolist():
        yield _of_image(dataset, index, "no_boxes", "has no box")
    labels = dataset.rows.labels
    counts = np.bincount(labels[labels >= 0], minlength=len(dataset.names))
    empty = [name for label, name in enumerate(dataset.names) if not counts[label] and label != dataset.group]
    if empty:
        text = f"no box has class {_some(empty)}" if len(empty) == 1 else f"no box has the classes {_some(empty)}"
        yield Finding("class_without_box", dataset.split, str(dataset.root), text)


def _partly_labeled(dataset: Dataset) -> Iterator[Finding]:
    """Notes that summarize ignore regions, and images that were not searched for all classes."""
    if count := int(dataset.rows.ignored.sum()):
        images = len(np.unique(dataset.image_indices()[dataset.rows.ignored]))
        text = f"{pluralize(count, 'ignore region[s]')} in {images} of {pluralize(len(dataset), 'image[s]')}"
        yield Finding("ignore_regions", dataset.split, str(dataset.root), text)
    if (labeled := dataset.images.labeled) is not None:
        limited, counts = int((~labeled.all(axis=1)).sum()), labeled.sum(axis=0).tolist()
        shown = [f"{name} in {count}" for name, count in zip(dataset.names, counts, strict=True)][:MAX_LISTED]
        of = f"{limited} of {pluralize(len(dataset), 'image[s] [was|were]')}"
        text = f"{of} not searched for all classes; searched for {', '.join(shown)}"
        yield Finding("limited_classes", dataset.split, str(dataset.root), text)


def _of_rows(
    dataset: Dataset, owners: NDArray[np.int64], kind: str, which: NDArray[np.bool_], text: Callable[[int], str]
) -> Iterator[Finding]:
    """A finding for each row where the mask `which` (T,) is true."""
    for row in np.flatnonzero(which).tolist():
        found = _of_image(dataset, int(owners[row]), kind, text(row))
        place = dataset.location(int(owners[row]), row)
        yield replace(found, file=place, annotation_id=int(dataset.rows.ids[row]), row=row)


def _of_image(dataset: Dataset, index: int, kind: str, text: str) -> Finding:
    place, path, image_id = dataset.label_file(index), dataset.path(index), dataset.own_id(index)
    return Finding(kind, dataset.split, place, text, path, image_id, index=index)


def _classes(dataset: Dataset) -> str:
    return _some([f"{name} ({id})" for name, id in zip(dataset.names, dataset.category_ids, strict=True)])


def _some(words: Sequence[str], count: int = MAX_SHOWN) -> str:
    """The first words, and the number of remaining ones."""
    more = f" and {len(words) - count} more" if len(words) > count else ""
    return ", ".join(words[:count]) + more


def _shown(size: tuple[int, ...]) -> str:
    return f"{size[1]} x {size[0]} px (width x height)"
