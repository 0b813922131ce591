"""Conversion of a data set to another layout, with a report of what the new layout cannot store."""

import itertools
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from boxwright import formats, mirrors
from boxwright.data.dataset import Dataset
from boxwright.data.layout import Extras, Layout, Split, Writer
from boxwright.data.outlines import areas_of, corners_of, quadrilateral
from boxwright.data.sets import Root, Sets, find_sets, shown
from boxwright.datatools import merged
from boxwright.datatools.check import check
from boxwright.datatools.clean import DEFAULT, UNUSABLE, Cleaning
from boxwright.datatools.report import CheckReport, agreeing, pluralize
from boxwright.errors import InputError, one_line, printable
from boxwright.files import check_outside, link_or_copy, new_folder, open_regular
from boxwright.formats import open_boxes, splits
from boxwright.formats.coco import annotation_ids
from boxwright.images.header import SUFFIXES, read_headers
from boxwright.progress import track


def convert(
    root: Root,
    to: str,
    out: str | Path,
    *,
    outside: bool = False,
    kind: str = "auto",
    cleaning: Cleaning = DEFAULT,
) -> str:
    """Write all splits of a data set in another layout. Images are hard-linked, or copied if that is not possible.

    Several sets become one; image names that occur in several sets get the name of their set as a prefix.

    Args:
        root: The data set, or several.
        to: The layout.
        out: The folder to create.
        outside: Include images outside `root`.
        kind: The layout of the data set; `auto` detects it.
        cleaning: How errors are handled; those that `to` can store are kept.

    Returns:
        A summary for the user, with the number of items of each split that `to` cannot store.

    Raises:
        InputError: Labels or images have errors that cannot be converted, two splits have different classes, the layout
            does not support a name, its reader would not find a split, or `out` exists.
    """
    opened = ((open_boxes(root, name, kind), None) for name in splits(root, kind))
    return write_splits(root, to, out, opened, outside=outside, cleaning=cleaning)


def writable() -> list[str]:
    """The layouts that can be written."""
    return [name for name in formats.names() if formats.layout(name).writer is not None]


def write_splits(
    root: Root,
    to: str,
    out: str | Path,
    labeled: Iterable[tuple[Dataset, Extras | None]],
    *,
    outside: bool = False,
    cleaning: Cleaning = DEFAULT,
) -> str:
    """Write splits as `convert` does.

    Args:
        root: As in `convert`, like `to`, `out` and `outside`.
        to: The layout.
        out: The folder to create.
        labeled: The splits with their extras (label content besides boxes); None: read when needed.
        outside: Include images outside `root`.
        cleaning: As in `convert`.
    """
    if to not in writable():
        raise InputError(f"--to {to}: there is no such layout, needed one of {', '.join(writable())}, folder")
    layout: Layout[Dataset] = formats.layout(to)
    writer = layout.writer
    assert writer is not None
    lines: list[str] = []
    title = shown(root)
    with new_folder(out) as folder:
        names: tuple[str, ...] = ()
        written, boxes = [], 0
        for dataset, extras in labeled:
            name = dataset.split
            if not outside:
                reject_outside(dataset, root)
                check_outside(out, dataset.folders())
            strict = replace(cleaning, kinds=UNUSABLE | writer.unsupported)
            dataset, extras, _, left_out = cleaned(dataset, extras, strict, check(dataset), title)
            split = _split(dataset, title, to, writer, extras)
            if names not in ((), dataset.names) and writer.class_list:
                raise InputError(
                    f"{title}: classes of {name} are {', '.join(dataset.names)}, of other splits {', '.join(names)}; "
                    f"make them the same, since {to} has one list for all splits"
                )
            names, boxes = dataset.names, boxes + len(dataset.rows)
            written.append(name)
            _write(split, writer.write, dataset, folder)
            lines += _summary(dataset, split, left_out, layout, writer, to)
        if writer.needs_box and not boxes:
            raise InputError(f"{title}: has no box, needed one or more for {to}; choose another layout")
        found = layout.find(folder)
        for name in written:
            if name not in found:
                raise InputError(f"{title}: split '{name}': in {to} that name has another meaning; rename it")
    return "\n".join(map(printable, [*lines, str(out)]))


def write_predictions(dataset: Dataset, extras: Extras, to: str, folder: Path, *, links: bool = True) -> None:
    """Write predicted boxes in the layout `to` into `folder`, with links to the images.

    Args:
        dataset: The boxes of a predictor.
        extras: `score` and `source` of each box; layouts leave out what they cannot store.
        to: The layout.
        folder: An empty folder.
        links: Also link the images.

    Raises:
        InputError: The layout does not support a name.
    """
    writer = formats.layout(to).writer
    assert writer is not None
    split = _split(dataset, str(dataset.root), to, writer, extras)
    write = writer.write_predictions or writer.write
    if links:
        _write(split, write, dataset, folder)
    else:
        write(split, folder)


def _write(split: Split, write: Callable[[Split, Path], list[Path]], dataset: Dataset, folder: Path) -> None:
    """Write the labels of a split into `folder`, and link the images of `dataset`."""
    targets = write(split, folder)
    sources = [dataset.path(index) for index in range(len(dataset))]
    pairs = zip(sources, targets, strict=True)
    for source, target in track(pairs, len(sources), f"images of {dataset.split}"):
        link(source, target)


def _summary(
    dataset: Dataset, split: Split, left_out: Sequence[str], layout: Layout[Dataset], writer: Writer, to: str
) -> Iterator[str]:
    """Lines about a split that was written."""
    yield f"{dataset.split}: {_counts(dataset)} from {dataset.kind} to {to}"
    for member, indices, _ in dataset.members.each() if dataset.members else ():
        yield f"  {member.title}: {_counts(dataset.subset(indices))}"
    yield from (one_line(f"  {line}") for line in (*dataset.notes, *left_out))
    lost = count_losses(split, layout, writer)
    if len(split.dataset.rows) < len(dataset.rows):
        _add(lost, len(dataset.rows) - len(split.dataset.rows), "ignore region[s] (left out)")
    if lost:
        yield f"  {to} cannot hold: {', '.join(f'{count} {what}' for what, count in lost.items())}"


def _counts(dataset: Dataset) -> str:
    return f"{pluralize(len(dataset), 'image[s]')}, {pluralize(len(dataset.rows), 'box[es]')}"


def _add(counts: dict[str, int], count: int, phrase: str) -> None:
    counts[agreeing(count, phrase)] = count


def reject_outside(dataset: Dataset, root: Root) -> None:
    """Raise InputError if images are outside `root` (or the folder of the YAML or JSON `root`), following links.

    Untrusted labels can name any file, and the new data set may be published. The sets of a YAML file must be in its
    folder; several roots must have their images in their own folders.
    """
    if isinstance(path := find_sets(root), Path) or isinstance(root, str | Path):
        sets = [(Path(path.title) if isinstance(path, Sets) else path, dataset)]
    else:
        assert dataset.members is not None
        sets = [(Path(member.title), member.dataset) for member in dataset.members.sets]
    for path, own in sets:
        base = path.parent if path.suffix in formats.YAML else own.root
        folder = os.path.realpath(base if base.is_dir() else base.parent)
        paths = (own.path(index) for index in range(len(own)))
        outside = [path for path in paths if not _is_inside(os.path.realpath(path), folder)]
        if outside:
            raise InputError(
                f"{outside[0]}: lies outside {folder}, like {len(outside)} of the {len(own)} images of "
                f"{own.split}; use --outside if the new folder may contain them"
            )


def _is_inside(path: str, folder: str) -> bool:
    """Whether a file, or the archive that contains it, is in a folder. Both are resolved paths.

    A Parquet file of an object store is in the cache, and only its title shows that it belongs to the folder.
    """
    places = ((path, folder), (mirrors.origin(path), folder), (printable(path), printable(folder)))
    return any(Path(place).is_relative_to(base) for place, base in places)


def count_losses(split: Split, layout: Layout[Dataset], writer: Writer) -> dict[str, int]:
    """Count the items of a split that a layout cannot store, by kind."""
    dataset = split.dataset
    crowds = int((dataset.rows.crowd & ~dataset.rows.ignored).sum())
    counts: dict[str, int] = {}
    if not writer.crowd:
        _add(counts, crowds, f"crowd region[s] ({'written as difficult' if writer.difficult else 'left out'})")
    if not writer.difficult:
        _add(counts, int(dataset.rows.difficult.sum()), "mark[s] of difficult objects")
    if not layout.has_ids:
        counts |= _numbers(dataset, split.extras if writer.outlines else None)
    elif annotation_ids(split) is None:
        _add(counts, len(dataset.rows), "id[s] of boxes, since some repeat (renumbered)")
    renamed = [f"{name} becomes {new}" for name in dataset.names if (new := writer.class_name(name)) != name]
    counts[f"{agreeing(len(renamed), 'name[s] of classes')} ({', '.join(renamed)})"] = len(renamed)
    counts |= _keys(split, writer)
    if not writer.labeled and dataset.images.labeled is not None:
        limited = int((~dataset.images.labeled.all(axis=1)).sum())
        _add(counts, limited, "image[s] that [was|were] not searched for all classes")
    return {what: count for what, count in counts.items() if count}


def _numbers(dataset: Dataset, extras: Extras | None) -> dict[str, int]:
    """Count areas that the new reader would compute differently, and ids. extras: None if outlines are not written."""
    if extras is not None:
        implied = areas_of(np.array(corners_of(dataset, extras), dtype=np.float64).reshape(-1, 4, 2))
    else:
        sides = dataset.rows.xyxy[:, 2:].astype(np.float64) - dataset.rows.xyxy[:, :2]
        implied = sides[:, 0] * sides[:, 1]
    counts: dict[str, int] = {}
    other = int((~np.isclose(dataset.rows.areas, implied, rtol=1e-3)).sum())
    _add(counts, other, "area[s] other than [that|those] of the box[es]")
    if dataset.members is None and formats.layout(dataset.kind).has_ids:
        _add(counts, len(dataset), "id[s] of images")
        _add(counts, len(dataset.rows), "id[s] of boxes")
        _add(counts, len(dataset.names), "id[s] of classes")
    return counts


def _keys(split: Split, writer: Writer) -> dict[str, int]:
    """Count extra fields that are not written, by key. Outlines that equal their box do not count."""
    extras, counts = split.extras, Counter[str]()
    # ids of several sets are not kept, and those of layouts with ids are counted by `_numbers`
    ids = {"id"} if split.dataset.members is not None or formats.layout(split.dataset.kind).has_ids else set[str]()
    if writer.row_keys is not None:
        read_back = {*writer.row_keys, "segmentation"} | ids | ({"ignore"} if writer.ignored else set())
        counts.update(f"'{key}' of boxes" for row in extras.rows for key in row if key not in read_back)
        _add(counts, _outlines(split, writer), "outline[s]")
        counts.update(f"'{key}' of classes" for keys in extras.classes for key in keys)
        counts.update(f"'{key}' of the data set" for key in extras.dataset)
    if writer.image_keys is not None:
        keys = (key for image in extras.images for key in image if key not in writer.image_keys | ids)
        counts.update(f"'{key}' of images" for key in keys)
    for what, entries, kept in (("boxes", extras.rows, writer.row_keys), ("images", extras.images, writer.image_keys)):
        changed = (
            key
            for keys in entries
            for key, value in keys.items()
            if key in (kept or ()) and writer.read_back(key, value) != value
        )
        counts.update(f"'{key}' of {what} unchanged (they are read back differently)" for key in changed)
    return dict(counts)


def _outlines(split: Split, writer: Writer) -> int:
    """Count outlines that are not written and do not equal their box."""
    written = corners_of(split.dataset, split.extras if writer.outlines else None)
    lost = 0
    for keys, words in zip(split.extras.rows, written, strict=True):
        if not keys.get("segmentation"):
            continue
        outline, kept = quadrilateral(keys), [float(word) for word in words]
        lost += outline is None or _corners(outline) != _corners(kept)
    return lost


def _corners(values: list[float]) -> set[tuple[float, float]]:
    return {*zip(values[::2], values[1::2], strict=True)}


def _split(dataset: Dataset, title: str, to: str, writer: Writer, extras: Extras) -> Split:
    """The arguments of a writer. Raises InputError if the names in the data set cannot be written."""
    for name in dataset.names:
        if writer.class_list and (name != name.strip() or any(ord(letter) < 32 for letter in name)):
            raise InputError(f"{title}: class {name!r} cannot be one line of a list of classes; rename it")
    if len({*map(writer.class_name, dataset.names)}) < len(dataset.names):
        raise InputError(f"{title}: two classes differ only in white space, which {to} cannot write; rename one")
    images = _image_names(dataset, writer)
    paths = [dataset.path(index) for index in range(len(dataset))]
    headers = track(read_headers(paths, decode=None), len(paths), "reading image sizes")
    sizes = np.array([header.size for header in headers], dtype=np.int64)
    if not writer.ignored and (ignored := dataset.rows.ignored).any():
        extras = replace(extras, rows=list(itertools.compress(extras.rows, (~ignored).tolist())))
        dataset = dataset.without_rows(ignored)
    return Split(dataset, extras, images, sizes)


def cleaned(
    dataset: Dataset, extras: Extras | None, cleaning: Cleaning, report: CheckReport, title: str
) -> tuple[Dataset, Extras, list[int], list[str]]:
    """The data set without the errors of `report`, its extras, the indices of the images that are left, and a line for
    each item left out.

    extras: None to read them. title: names the data set in messages.
    """
    count = len(dataset.rows)
    # Numbers in place of ids identify the remaining rows and images; new rows have larger ones.
    numbered = replace(
        dataset,
        images=replace(dataset.images, ids=np.arange(len(dataset))),
        rows=replace(dataset.rows, ids=np.arange(count)),
    )
    clean, left_out = cleaning.apply(numbered, report, title)
    extras, lost = (extras, ()) if extras else extras_of(dataset)
    rows, images = clean.rows.ids, clean.images.ids
    ids = np.append(dataset.rows.ids, dataset.rows.ids.max(initial=0) + 1 + np.arange(rows.max(initial=0) + 1))
    clean = replace(
        clean,
        images=replace(clean.images, ids=dataset.images.ids[images]),
        rows=replace(clean.rows, ids=ids[rows]),
        notes=clean.notes + lost,
    )
    kept = [extras.rows[row] if row < count else {} for row in rows.tolist()]
    extras = replace(extras, rows=kept, images=[extras.images[index] for index in images.tolist()])
    return clean, extras, images.tolist(), left_out


def _image_names(dataset: Dataset, writer: Writer) -> list[PurePosixPath]:
    """The image names to write. Raises InputError if two would share a label file."""
    paths = [dataset.path(index) for index in range(len(dataset))]
    if dataset.members is None:
        return _names(paths, writer)
    sets = [(member.title, indices.tolist()) for member, indices, _ in dataset.members.each() if len(indices)]
    names = merged.image_names(
        [_names([paths[index] for index in indices], writer) for _, indices in sets],
        [title for title, _ in sets],
        writer,
    )
    places = [index for _, indices in sets for index in indices]
    return [name for _, name in sorted(zip(places, names, strict=True))]


def extras_of(dataset: Dataset) -> tuple[Extras, tuple[str, ...]]:
    """The extras of a complete split (label content besides boxes and classes), and a line for what sets differ in."""
    if dataset.members is None:
        return (formats.layout(dataset.kind).extras or _no_extras)(dataset), ()
    datasets = [member.dataset for member in dataset.members.sets if len(member.dataset)]
    return merged.extras(dataset.names, datasets, [extras_of(own)[0] for own in datasets])


def _no_extras(dataset: Dataset) -> Extras:
    return Extras([{} for _ in range(len(dataset.rows))], [{} for _ in range(len(dataset))])


def _names(paths: list[str], writer: Writer) -> list[PurePosixPath]:
    """The image names relative to their common folder. Raises InputError if two would share a label file."""
    base = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])  # noqa: PTH100, PTH120
    names = [PurePosixPath(Path(os.path.relpath(path, base)).as_posix()) for path in paths]
    seen: dict[str, str] = {}
    for path, name in zip(paths, names, strict=True):
        if name.suffix.lower() not in SUFFIXES:
            raise InputError(f"{path}: needed the name of an image that ends in {', '.join(SUFFIXES)}; rename it")
        if any(ord(letter) < 32 for letter in str(name)):
            raise InputError(
                f"{path}: its name has a control character such as a tab, which labels cannot contain; rename it"
            )
        key = merged.label_key(name, writer)
        if writer.file_per_image and seen.get(key) == path:
            raise InputError(
                f"{path}: is listed twice, which the new layout cannot store; merge its labels, or use coco"
            )
        if writer.file_per_image and key in seen:
            raise InputError(f"{path}: {seen[key]} would have the same label file; rename one")
        seen[key] = path
    return names


def link(source: str, target: Path) -> None:
    """Hard-link or copy a file, unless it exists because it is listed twice."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        return
    real = os.path.realpath(source)
    if mirrors.split(real) is not None:  # where files are empty
        try:
            with open_regular(real) as file, target.open("wb") as copy:
                shutil.copyfileobj(file, copy)
        except OSError as error:
            raise InputError(f"{source}: cannot be copied ({error.strerror})") from error
        return
    link_or_copy(real, target)
