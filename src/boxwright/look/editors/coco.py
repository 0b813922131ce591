"""COCO JSON: values of an annotation are replaced, annotations are removed or appended.

A file holds the labels of all images. The positions of its annotations are cached while no other program changes the
file, since a large file takes seconds to parse.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boxwright.data import coco_json, entries
from boxwright.data.coco_entries import id_text
from boxwright.data.dataset import Boxes
from boxwright.json_text import JsonObject
from boxwright.look.editing import Box, Change, Edited, EditError, Editor, Span, Target, mapped, number, spliced
from boxwright.look.json_spans import (
    decoded,
    elements,
    elements_after,
    end_of_array,
    insertion,
    members,
    numbers_replaced,
    removals,
    skip_space,
    spans_of,
    value_at,
)

DIGITS = 4  # decimals of px of outlines, more than for boxes


@dataclass(slots=True)
class _Places:
    """Positions of values in a file.

    Attributes:
        digest: Digest of the content.
        array: Start of the array `annotations`, in characters.
        spans: (T, 2) start and end of each annotation.
        largest: The largest id of an annotation.
        classes: Name of a class -> its id as written in the file.
        images: Id of an image as text -> as written in the file.
        categories: Entries of the classes.
    """

    digest: bytes
    array: int
    spans: NDArray[np.int64]
    largest: int
    classes: dict[str, str]
    images: dict[str, str]
    categories: list[JsonObject]


_last: list[_Places] = []  # cache for the last changed file; edits are sequential (`repair.py`)


def edit(target: Target, content: bytes, changes: Sequence[Change]) -> Edited:
    """Apply changes. Returns the file, and the image's objects in it."""
    text, encoded = decoded(content)
    places = _places(text, content)
    deleted = sorted(change.entry for change in changes if change.entry is not None and change.deletes)
    parts = removals(places.spans, deleted)
    for change in changes:
        if change.entry is not None and not change.deletes:
            parts += _changed(text, int(places.spans[change.entry, 0]), change, target, places)
    added = [change for change in changes if change.entry is None]
    new = [_annotation(target, change, places, places.largest + count) for count, change in enumerate(added, 1)]
    changed = spliced(text, parts)
    spans = np.delete(_shifted(places.spans, parts), deleted, axis=0)
    changed = spliced(changed, insertion(changed, places.array, spans, new))
    ends = elements_after(changed, int(spans[-1, 1]) if len(spans) else places.array, len(new))
    spans = np.concatenate([spans, np.array([*ends], dtype=np.int64).reshape(-1, 2)])
    result = encoded(changed)
    _last[:] = [replace(places, digest=_digest(result), spans=spans, largest=places.largest + len(new))]
    dataset, index = target.dataset, target.index
    kept = np.setdiff1d(dataset.rows.entries[dataset.starts[index] : dataset.starts[index + 1]], deleted)
    entries = [*(kept - np.searchsorted(deleted, kept)).tolist(), *range(len(spans) - len(new), len(spans))]
    trees = [value_at(changed, int(spans[entry, 0]))[0] for entry in entries]
    return Edited(result, _rows(trees, entries, target, places), tuple(deleted))


def _places(text: str, content: bytes) -> _Places:
    digest = _digest(content)
    if _last and _last[0].digest == digest:
        return _last[0]
    found = _Places(digest, 0, np.zeros((0, 2), dtype=np.int64), 0, {}, {}, [])
    ends: dict[int, int] = {}
    for key, array in members(text, skip_space(text, 0), ends):
        if key not in ("images", "annotations", "categories"):
            continue
        spans = []
        for start, end, value in elements(text, array):
            spans.append((start, end))
            entry = value if isinstance(value, dict) else {}
            if key == "annotations":
                found.largest = max(found.largest, entry["id"]) if type(entry.get("id")) is int else found.largest
            elif key == "images" and "id" in entry:
                found.images.setdefault(id_text(entry["id"]) or "", _written(text, start, "id"))
            elif key == "categories":
                found.categories.append(entry)
                found.classes[str(entry["name"])] = _written(text, start, "id")
        ends[array] = end_of_array(text, array, [end for _, end in spans])
        if key == "annotations":
            found.array, found.spans = array, np.array(spans, dtype=np.int64).reshape(-1, 2)
    _last[:] = [found]
    return found


def _written(text: str, start: int, key: str) -> str:
    """A value of the object at `start`, as written in the file."""
    return text[slice(*spans_of(text, start)[key])]


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content).digest()


def _shifted(spans: NDArray[np.int64], parts: Sequence[Span]) -> NDArray[np.int64]:
    """The spans after `parts` are replaced."""
    ordered = sorted(parts, key=lambda part: part.end)
    deltas = np.cumsum([0, *(len(part.text) - (part.end - part.start) for part in ordered)])
    shifted: NDArray[np.int64] = spans + deltas[np.searchsorted([part.end for part in ordered], spans, side="right")]
    return shifted


def _changed(text: str, start: int, change: Change, target: Target, places: _Places) -> list[Span]:
    entry, spans = value_at(text, start)[0], spans_of(text, start)
    assert isinstance(entry, dict)
    parts = []
    if change.label is not None:
        parts.append(Span(*spans["category_id"], places.classes[target.dataset.names[change.label]]))
    if change.box is not None:
        if "bbox" not in spans:
            raise EditError("an annotation without bbox, whose outline cannot take a box; delete it, and add a box")
        parts += numbers_replaced(text, spans["bbox"], _corner_form(change.box))
        x, y, width, height = map(float, entry["bbox"])
        outline, area = entry.get("segmentation"), (change.box[2] - change.box[0]) * (change.box[3] - change.box[1])
        if outline:
            moved = _outline(outline, (x, y, x + width, y + height), change.box)
            parts += numbers_replaced(text, spans["segmentation"], [number(value, DIGITS) for value in moved])
            area *= _fraction(_area(entry), width * height)
        if _area(entry) is not None:
            parts.append(Span(*spans["area"], number(area, DIGITS)))
    return parts


def _outline(outline: object, old: Box, new: Box) -> list[float]:
    """All coordinates of polygons for the new box. Raises EditError for a mask."""
    if not isinstance(outline, list) or not all(isinstance(polygon, list) for polygon in outline):
        raise EditError("has a mask, which cannot take another box; delete it, and add a box")
    return [value for polygon in outline for value in mapped([float(each) for each in polygon], old, new)]


def _area(entry: Mapping[str, object]) -> float | None:
    """The area of an annotation, a number or text, as the reader takes it; None if it has none."""
    try:
        return entries.number(entry.get("area"), "area")
    except ValueError:
        return None


def _fraction(area: float | None, of_box: float) -> float:
    """Fraction of the box that an outline covers."""
    return 1.0 if area is None or of_box <= 0 else area / of_box


def _annotation(target: Target, change: Change, places: _Places, annotation_id: int) -> JsonObject:
    assert change.box is not None
    assert change.label is not None
    dataset = target.dataset
    image, name = places.images[str(dataset.images.ids[target.index].item())], dataset.names[change.label]
    x, y, width, height = (json.loads(word) for word in _corner_form(change.box))
    return {
        "id": annotation_id, "image_id": json.loads(image), "category_id": json.loads(places.classes[name]),
        "bbox": [x, y, width, height], "area": json.loads(number(width * height, DIGITS)), "iscrowd": 0,
    }  # fmt: skip


def _corner_form(box: Box) -> list[str]:
    return [number(value) for value in (box[0], box[1], box[2] - box[0], box[3] - box[1])]


def _rows(trees: Sequence[object], entries: Sequence[int], target: Target, places: _Places) -> Boxes:
    """Objects of the image, read as if the file had no other images."""
    dataset = target.dataset
    image_id = dataset.images.ids[target.index].item()
    image = {"id": image_id, "file_name": "image"}
    tree = {"images": [image], "annotations": trees, "categories": places.categories}
    rows = coco_json.to_contents(tree, list(trees), Path(dataset.label_file(target.index))).rows  # type: ignore[arg-type]
    rows = replace(rows, entries=np.array(entries, dtype=np.int64)[rows.entries])
    return replace(rows, crowd=rows.ignored) if dataset.origin and dataset.origin.crowd == "objects" else rows


EDITOR = Editor(edit=edit)
