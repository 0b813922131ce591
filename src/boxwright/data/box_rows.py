"""Data sets of CSV files with one box per row, px."""

from collections.abc import Callable, Mapping

from boxwright.data.builder import Builder
from boxwright.data.csv_rows import rows
from boxwright.data.entries import number, size_of
from boxwright.data.locate import locator
from boxwright.data.source import Source
from boxwright.errors import InputError

SIDES = ("x1", "y1", "x2", "y2", "w", "h")
Columns = Mapping[str, int]  # field (image, class, two corners or a corner and a size, height, width) -> column


def collect_rows(source: Source, columns: Columns, header: bool, classes: Callable[[Source], list[str]]) -> Builder:
    """Read a file. A row with an image but without box and class means an image without objects.

    Args:
        source: The split.
        columns: The position of each field.
        header: Whether the first row contains names of columns.
        classes: Reads the classes in label order, if there is a file of them.

    Raises:
        InputError: The file is not readable, or its boxes are fractions of the image size.
    """
    file = source.path
    builder = Builder(source, locator(source, file))
    builder.classes = classes(source)
    images: dict[str, int] = {}
    boxes, largest = 0, 0.0
    lines = rows(file)
    width = len(next(lines, (0, []))[1]) if header else max(columns.values()) + 1
    for line, fields in lines:
        place = f"{file} line {line}"
        if len(fields) != width:
            builder.error(place, f"found {len(fields)} columns, needed {width}; correct the row")
            continue
        values = {field: fields[column] for field, column in columns.items()}
        name = values["image"]
        if name not in images:
            size = size_of(values.get("height"), values.get("width"))
            images[name] = builder.add_image(name, str(file), size, place=place)
        if not any(values[key] for key in ("class", *SIDES) if key in values):
            continue
        try:
            box = _box(values)
        except ValueError as fault:
            builder.error(place, str(fault), images[name])
            continue
        builder.add_box(images[name], values["class"], box, line)
        boxes, largest = boxes + 1, max(largest, *map(abs, box))
    if boxes and largest <= 1:
        raise InputError(f"{file}: all coordinates are at most 1, fractions of the image size? needed px; convert them")
    return builder


def _box(values: Mapping[str, str]) -> tuple[float, float, float, float]:
    x, y = number(values["x1"], "x1"), number(values["y1"], "y1")
    if "w" in values:
        return x, y, x + number(values["w"], "width"), y + number(values["h"], "height")
    return x, y, number(values["x2"], "x2"), number(values["y2"], "y2")
