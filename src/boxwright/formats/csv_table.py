"""CSV files with one box per row and names of columns in the first row, one file per split.

Tables of the TensorFlow tutorials, `filename,width,height,class,xmin,ymin,xmax,ymax`, with a label map (*.pbtxt);
of makesense.ai, `label_name,bbox_x,bbox_y,bbox_width,bbox_height,image_name,image_width,image_height`, in older
versions without the first row; and of other tools with the usual names of such columns.
"""

import re
from pathlib import Path

from boxwright.data import text
from boxwright.data.box_rows import Columns, collect_rows
from boxwright.data.builder import Builder, extras_with, read_with
from boxwright.data.csv_rows import first_row, write_rows
from boxwright.data.dataset import Dataset
from boxwright.data.entries import number
from boxwright.data.label_files import candidates, find_files
from boxwright.data.layout import Layout, Split, Writer
from boxwright.data.source import Source
from boxwright.errors import InputError
from boxwright.files import read_input
from boxwright.images.header import SUFFIXES

HEADER = ["filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"]
FIELDS = {  # names of columns without case and punctuation; the first that exists is used
    "image": ("filename", "imagename", "imagefilename", "imagefile", "imagepath", "filepath", "image", "file", "path",
              "img", "imgname", "imgpath", "imageid"),
    "class": ("classname", "labelname", "class", "label", "category", "categoryname", "name"),
    "x1": ("xmin", "x1", "left", "bboxxmin", "bboxx", "x"),
    "y1": ("ymin", "y1", "top", "bboxymin", "bboxy", "y"),
    "x2": ("xmax", "x2", "right", "bboxxmax"),
    "y2": ("ymax", "y2", "bottom", "bboxymax"),
    "w": ("bboxwidth", "boxwidth", "bboxw", "w"),
    "h": ("bboxheight", "boxheight", "bboxh", "h"),
    "width": ("imagewidth", "imgwidth", "imgw", "imagew"),
    "height": ("imageheight", "imgheight", "imgh", "imageh"),
}  # fmt: skip
MAKESENSE = ("class", "x1", "y1", "w", "h", "image", "width", "height")
OTHERS = (  # columns of tables that this layout does not read
    {"imageid", "labelname"},  # Open Images, a separate layout with fractions
    {"score", "status", "match"},  # errors.csv of `evaluate`
    {"score", "suggestedclass"},  # audit.csv of `data audit`
)
MAX_LABEL_MAP = 1 << 20  # bytes
ITEM = re.compile(r"item\s*\{([^{}]*)\}")
ITEM_ID = re.compile(r"\bid\s*:\s*(\d{1,18})(?!\d)")
ITEM_NAME = re.compile(r"\bname\s*:\s*(?:'([^']*)'|\"([^\"]*)\")")


def find(root: Path) -> dict[str, Path]:
    """Split -> CSV file, in `root` or a subfolder."""
    return find_files(root, (".csv", ".tsv", ".txt"), lambda file: _columns(first_row(file)) is not None)


def collect(source: Source) -> Builder:
    """Read a CSV file. Raises InputError if its columns are unknown, and as `collect_rows`."""
    first = first_row(source.path)
    if (columns := _columns(first)) is None:
        raise InputError(f"{source.path}: found the columns {','.join(first)[:60]}, needed {','.join(HEADER)}")
    return collect_rows(source, columns, not _is_makesense(first), _label_map)


def write(split: Split, folder: Path) -> list[Path]:
    """Write {split}.csv and label_map.pbtxt. An image without objects is a row with empty columns."""
    dataset, rows, name = split.dataset, split.dataset.rows, split.dataset.split
    boxes = text.shortest_decimals(rows.xyxy)
    table = [HEADER]
    for index, path in enumerate(split.images):
        height, width = split.sizes[index].tolist()
        image = [f"images/{name}/{path}", str(width), str(height)]
        objects = [[dataset.names[rows.labels[row]], *boxes[row]] for row in split.objects(index)]
        table += [image + columns for columns in objects or [[""] * 5]]
    write_rows(folder / f"{name}.csv", table)
    items = [f"item {{\n  id: {number}\n  name: {_quoted(label)}\n}}" for number, label in enumerate(dataset.names, 1)]
    text.write_lines(folder / "label_map.pbtxt", items)
    text.write_lines(folder / "classes.txt", dataset.names)
    return [folder / "images" / name / path for path in split.images]


def _columns(first: list[str]) -> Columns | None:
    """The position of each field, from the first row; None if columns are missing."""
    if _is_makesense(first):
        return {field: column for column, field in enumerate(MAKESENSE)}
    names = [re.sub(r"[^a-z0-9]", "", name.lower()) for name in first]
    if any({*names} >= columns for columns in OTHERS):
        return None
    fields = dict(FIELDS)
    if {*names} & {*FIELDS["x2"]}:  # otherwise width and height are those of the box
        fields |= {"width": (*FIELDS["width"], "width", "w"), "height": (*FIELDS["height"], "height", "h"), "w": (),
                  "h": ()}  # fmt: skip
    else:
        fields |= {"w": (*FIELDS["w"], "width"), "h": (*FIELDS["h"], "height")}
    found = {
        field: names.index(options[0])
        for field, spellings in fields.items()
        if (options := [name for name in spellings if name in names])
    }
    has_box = found.keys() >= {"x1", "y1", "x2", "y2"} or found.keys() >= {"x1", "y1", "w", "h"}
    return found if has_box and found.keys() >= {"image", "class"} else None


def _is_makesense(first: list[str]) -> bool:
    """Whether the first row is a box in a file of makesense.ai without names of columns."""
    if len(first) != len(MAKESENSE) or not first[5].lower().endswith(SUFFIXES):
        return False
    try:
        return all(number(first[column], "") >= 0 for column in (1, 2, 3, 4, 6, 7))
    except ValueError:
        return False


def _label_map(source: Source) -> list[str]:
    """The classes in order of their ids in the label map; [] if there is none. Raises InputError if several differ."""
    root = source.root if source.root.is_dir() else source.path.parent
    maps = {}
    for file in candidates(root, (".pbtxt",)):
        if file.stat().st_size > MAX_LABEL_MAP:
            raise InputError(f"{file}: has more than {MAX_LABEL_MAP >> 20} MiB, needed a label map; move it away")
        items = ITEM.findall(read_input(file).decode("utf-8-sig", "replace"))
        pairs = [(ITEM_ID.search(item), ITEM_NAME.search(item)) for item in items]
        entries = sorted((int(id_[1]), name[1] or name[2] or "") for id_, name in pairs if id_ and name)
        if names := tuple(name for _, name in entries):
            maps[names] = file
    if len(maps) > 1:
        first, second = [*maps.values()][:2]
        raise InputError(f"{first}: another label map than {second.name}; move the wrong one away")
    return [*next(iter(maps), ())]


def _quoted(name: str) -> str:
    return f'"{name}"' if "'" in name else f"'{name}'"


LAYOUT = Layout(
    dataset_type=Dataset,
    expected="{split}.csv with columns such as filename,width,height,class,xmin,ymin,xmax,ymax",
    find=find,
    read=read_with(collect),
    accepts=lambda path: path.is_file() and bool(find(path)),
    extras=extras_with(collect),
    writer=Writer(write=write, file_per_image=False),
)
