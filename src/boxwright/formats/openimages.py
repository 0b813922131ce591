"""Open Images: `{split}-annotations-bbox.csv` with one box per row, in fractions of the image size.

Images are found by their id, which is their name without suffix. `class-descriptions-boxable.csv` contains the names of
the classes. A box around a group of objects (`IsGroupOf`) is a crowd region. Images without boxes are included only if
there is a list of images such as `{split}-images-with-rotation.csv`.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path, PurePosixPath

from boxwright.data import text
from boxwright.data.builder import Builder, extras_with, read_with
from boxwright.data.csv_rows import first_row, rows, write_rows
from boxwright.data.dataset import Dataset
from boxwright.data.entries import Corners, number
from boxwright.data.label_files import by_split, candidates
from boxwright.data.layout import Keys, Layout, Split, Writer
from boxwright.data.locate import locator
from boxwright.data.source import Source
from boxwright.data.split_names import canonical_name
from boxwright.errors import InputError
from boxwright.images.header import read_headers
from boxwright.progress import track

SIDES = ("XMin", "YMin", "XMax", "YMax")
NEEDED = {"ImageID", "LabelName", *SIDES}
FLAGS = ("IsOccluded", "IsTruncated", "IsDepiction", "IsInside")
HEADER = ["ImageID", "Source", "LabelName", "Confidence", "XMin", "XMax", "YMin", "YMax", "IsOccluded", "IsTruncated",
          "IsGroupOf", "IsDepiction", "IsInside"]  # fmt: skip
CLASS_FILE = "class-descriptions-boxable.csv"


def find(root: Path) -> dict[str, Path]:
    """Split -> CSV file, in `root` or a subfolder."""
    return by_split([file for file in candidates(root, (".csv",)) if _is_openimages(file)], root)


def read(source: Source) -> Dataset:
    """Read a CSV file and the header of every image, since boxes are relative to its size."""
    return replace(read_with(collect)(source), relative=True)


def collect(source: Source) -> Builder:
    """Read a CSV file and the header of every image."""
    file = source.path
    locate = locator(source, file)
    builder = Builder(source, locate)
    names = _class_names(source)
    lines = rows(file)
    columns = next(lines, (0, []))[1]
    if not {*columns} >= NEEDED:
        raise InputError(f"{file}: found the columns {','.join(columns)[:60]}, needed {','.join(HEADER[:8])}")
    table: list[tuple[int, dict[str, str]]] = []
    for line, fields in lines:
        if len(fields) == len(columns):
            table.append((line, dict(zip(columns, fields, strict=True))))
        else:
            fault = f"found {len(fields)} columns, needed {len(columns)} as in the first line"
            builder.error(f"{file} line {line}", fault)
    ids = dict.fromkeys(row["ImageID"] for _, row in table)
    listed = ((name, locate.locate(name)) for name in _listed(source))
    ids |= dict.fromkeys(name for name, located in listed if located.exists or located.candidates)
    paths = [locate.locate(name).path for name in ids]
    headers = track(read_headers(paths, decode=None), len(paths), "reading image sizes")
    sizes = [header.size for header in headers]
    images = {name: builder.add_image(name, str(file), size) for name, size in zip(ids, sizes, strict=True)}
    for line, row in table:
        image = images[row["ImageID"]]
        try:
            box = _box(row, sizes[image])
        except ValueError as fault:
            builder.error(f"{file} line {line}", str(fault), image)
            continue
        label = names.get(row["LabelName"], row["LabelName"])
        keys: Keys = {flag: 1 for flag in FLAGS if row.get(flag) == "1"}
        builder.add_box(image, label, box, line, crowd=row.get("IsGroupOf") == "1", keys=keys)
    return builder


def write(split: Split, folder: Path) -> list[Path]:
    """Write {split}-annotations-bbox.csv, {split}-images-with-rotation.csv and the class names, which are also ids."""
    dataset, rows, name = split.dataset, split.dataset.rows, split.dataset.split
    boxes, crowd = text.decimals(rows.xyxy).tolist(), rows.crowd.astype(int).tolist()
    table = [HEADER]
    for index, path in enumerate(split.images):
        height, width = split.sizes[index].tolist()
        for row in split.rows(index):
            x1, y1, x2, y2 = boxes[row]
            occluded, truncated, depiction, inside = (str(split.extras.rows[row].get(flag, 0)) for flag in FLAGS)
            sides = map(repr, (x1 / width, x2 / width, y1 / height, y2 / height))
            label = dataset.names[rows.labels[row]]
            flags = [occluded, truncated, str(crowd[row]), depiction, inside]
            table.append([_image_id(path), "xclick", label, "1", *sides, *flags])
    write_rows(folder / f"{name}-annotations-bbox.csv", table)
    listed = [["ImageID", "Subset", "Rotation"], *([_image_id(path), name, "0.0"] for path in split.images)]
    write_rows(folder / f"{name}-images-with-rotation.csv", listed)
    write_rows(folder / CLASS_FILE, [[label, label] for label in dataset.names])
    text.write_lines(folder / "classes.txt", dataset.names)
    return [folder / name / path.name for path in split.images]


def _image_id(path: PurePosixPath) -> str:
    return path.stem


def _box(row: dict[str, str], size: tuple[int, int]) -> Corners:
    """xyxy px; NaN if the image cannot be read."""
    height, width = size if size[0] > 0 else (float("nan"), float("nan"))
    x1, y1, x2, y2 = (number(row[side], side) for side in SIDES)
    return x1 * width, y1 * height, x2 * width, y2 * height


def _class_names(source: Source) -> dict[str, str]:
    """Id of a class (/m/01g317) -> its name, with the id added if two classes have the same name."""
    root = source.root if source.root.is_dir() else source.path.parent
    files = [file for file in candidates(root, (".csv",)) if "class" in file.name.lower()]
    pairs = [fields for file in files[:1] for _, fields in rows(file) if len(fields) == 2]
    counts = Counter(name for _, name in pairs)
    return {label: name if counts[name] == 1 else f"{name} ({label})" for label, name in pairs}


def _listed(source: Source) -> list[str]:
    """The ids in the list of images of the split; [] if there is none."""
    root = source.root if source.root.is_dir() else source.path.parent
    lists = []
    for file in candidates(root, (".csv",)):
        columns = first_row(file)
        if "ImageID" in columns and not any(column.startswith("LabelName") for column in columns):
            lists.append(file)
    for split, file in by_split(lists, root).items():
        if canonical_name(split) == canonical_name(source.split) or (len(lists) == 1 and split == "all"):
            column = first_row(file).index("ImageID")
            return [fields[column] for number, fields in rows(file) if number > 1 and len(fields) > column]
    return []


def _is_openimages(file: Path) -> bool:
    return {*first_row(file)} >= NEEDED


LAYOUT = Layout(
    dataset_type=Dataset,
    expected="{split}-annotations-bbox.csv of Open Images",
    find=find,
    read=read,
    accepts=lambda path: path.is_file() and bool(find(path)),
    extras=extras_with(collect),
    writer=Writer(write=write, crowd=True, flat=True, row_keys=frozenset(FLAGS)),
)
