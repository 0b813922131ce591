"""LabelMe: values of a shape are replaced, shapes are removed or appended."""

import json
from collections.abc import Sequence
from pathlib import Path

from boxwright.data.builder import Builder
from boxwright.data.dataset import Boxes
from boxwright.formats.labelme import add_shape, load
from boxwright.look.editing import Change, Edited, EditError, Editor, Span, Target, mapped, number, spliced
from boxwright.look.json_spans import (
    decoded,
    elements,
    insertion,
    members,
    numbers_replaced,
    removals,
    skip_space,
    spans_of,
    value_at,
)

DIGITS = 4  # decimals of px; outlines have more than boxes


def read(target: Target, file: Path) -> tuple[Boxes, list[str]]:
    """Objects of a file, and messages about shapes that cannot be read."""
    dataset, origin = target.dataset, target.dataset.origin
    assert origin is not None
    builder = Builder(origin, None, "shapes[{}]")
    image = builder.add_image(dataset.path(target.index), str(file))
    try:
        tree = load(file)
    except ValueError as fault:
        raise EditError(str(fault)) from fault
    shapes = tree.get("shapes", [])
    if not isinstance(shapes, list):
        raise EditError("shapes: needed a list")
    for index, shape in enumerate(shapes):
        add_shape(builder, image, f"{file} shapes[{index}]", index, shape)
    found = builder.dataset(dataset.names)
    return found.rows, [f"{fault.file}: {fault.text}" for fault in found.findings if fault.level == "error"]


def edit(target: Target, content: bytes, changes: Sequence[Change]) -> Edited:
    """Apply changes. Returns the changed file."""
    text, encoded = decoded(content)
    shapes = dict(members(text, skip_space(text, 0))).get("shapes")
    if shapes is None:
        raise EditError("no key 'shapes', needed a LabelMe file")
    found = list(elements(text, shapes))
    spans = [(start, end) for start, end, _ in found]
    parts = removals(spans, [change.entry for change in changes if change.entry is not None and change.deletes])
    for change in changes:
        if change.entry is not None and not change.deletes:
            parts += _changed(text, spans[change.entry][0], change, target)
    new = [_shape(target, change) for change in changes if change.entry is None]
    changed = spliced(text, parts)
    if new:
        shapes = dict(members(changed, skip_space(changed, 0)))["shapes"]
        left = [(start, end) for start, end, _ in elements(changed, shapes)]
        changed = spliced(changed, insertion(changed, shapes, left, new))
    return Edited(encoded(changed))


def _changed(text: str, start: int, change: Change, target: Target) -> list[Span]:
    shape, spans = value_at(text, start)[0], spans_of(text, start)
    assert isinstance(shape, dict)
    parts = []
    if change.label is not None:
        parts.append(Span(*spans["label"], json.dumps(target.dataset.names[change.label])))
    if change.box is not None:
        if shape.get("shape_type") == "circle":
            raise EditError("a circle, which cannot take a box; delete it, and add a box")
        values = [float(value) for point in shape["points"] for value in point]
        xs, ys = values[::2], values[1::2]
        moved = mapped(values, (min(xs), min(ys), max(xs), max(ys)), change.box)
        parts += numbers_replaced(text, spans["points"], [number(value, DIGITS) for value in moved])
    return parts


def _shape(target: Target, change: Change) -> dict[str, object]:
    assert change.box is not None
    assert change.label is not None
    x1, y1, x2, y2 = change.box
    return {
        "label": target.dataset.names[change.label], "points": [[x1, y1], [x2, y2]], "group_id": None,
        "description": "", "shape_type": "rectangle", "flags": {},
    }  # fmt: skip


EDITOR = Editor(edit=edit, read=read)
