"""CSV files of the RetinaNet implementations: rows `path,x1,y1,x2,y2,class` without names of columns, px.

Rows of an image without objects have empty columns after the path. A file `classes.csv` has rows `name,id`.
"""

from pathlib import Path

from boxwright.data import text
from boxwright.data.box_rows import collect_rows
from boxwright.data.builder import Builder, extras_with, read_with
from boxwright.data.csv_rows import first_row, rows, write_rows
from boxwright.data.dataset import Dataset
from boxwright.data.entries import number
from boxwright.data.label_files import candidates, find_files
from boxwright.data.layout import Layout, Split, Writer
from boxwright.data.source import Source
from boxwright.images.header import SUFFIXES

COLUMNS = {"image": 0, "x1": 1, "y1": 2, "x2": 3, "y2": 4, "class": 5}


def find(root: Path) -> dict[str, Path]:
    """Split -> CSV file, in `root` or a subfolder."""
    return find_files(root, (".csv", ".txt"), _is_retinanet)


def collect(source: Source) -> Builder:
    """Read a CSV file. Raises InputError as `collect_rows`."""
    return collect_rows(source, COLUMNS, header=False, classes=_classes)


def write(split: Split, folder: Path) -> list[Path]:
    """Write {split}.csv and classes.csv."""
    dataset, rows, name = split.dataset, split.dataset.rows, split.dataset.split
    boxes = text.shortest_decimals(rows.xyxy)
    table = []
    for index, path in enumerate(split.images):
        objects = [[*boxes[row], dataset.names[rows.labels[row]]] for row in split.objects(index)]
        table += [[f"images/{name}/{path}", *columns] for columns in objects or [[""] * 5]]
    write_rows(folder / f"{name}.csv", table)
    write_rows(folder / "classes.csv", [[label, str(number)] for number, label in enumerate(dataset.names)])
    return [folder / "images" / name / path for path in split.images]


def _is_retinanet(file: Path) -> bool:
    first = first_row(file)
    if len(first) != len(COLUMNS) or not first[0].lower().endswith(SUFFIXES):
        return False
    try:
        return not any(first[1:]) or len([number(field, "") for field in first[1:5]]) == 4
    except ValueError:
        return False


def _classes(source: Source) -> list[str]:
    """The classes in order of their ids; [] if there is no `classes.csv`."""
    root = source.root if source.root.is_dir() else source.path.parent
    for file in candidates(root, (".csv",)):
        first = first_row(file)
        if len(first) == 2 and _is_id(first[1]):
            pairs = [fields for _, fields in rows(file) if len(fields) == 2 and _is_id(fields[1])]
            return [name for name, _ in sorted(pairs, key=lambda pair: int(pair[1]))]
    return []


def _is_id(field: str) -> bool:
    return field.isdecimal() and len(field) < 19


LAYOUT = Layout(
    dataset_type=Dataset,
    expected="{split}.csv with rows path,x1,y1,x2,y2,class",
    find=find,
    read=read_with(collect),
    accepts=lambda path: path.is_file() and bool(find(path)),
    extras=extras_with(collect),
    writer=Writer(write=write, file_per_image=False),
)
