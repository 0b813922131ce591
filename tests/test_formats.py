"""A layout of labels is one file in `formats`: nothing else names it."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import boxwright
from boxwright import cli, formats, recipe
from boxwright.data.class_dataset import ClassSet
from boxwright.data.dataset import Dataset
from boxwright.errors import InputError

BOXES = '''
"""SPLIT.rows: `image;x1;y1;x2;y2;class` a line; the classes are the letters a and b."""
import numpy as np
from boxwright.data.dataset import Boxes, Dataset, Images, paths_column
from boxwright.data.layout import Extras, Layout, Writer

def find(root):
    return {file.stem: file for file in root.glob("*.rows")}

def read(source):
    rows = [line.split(";") for line in source.path.read_text().splitlines()]
    names = sorted({row[0] for row in rows})
    rows.sort(key=lambda row: row[0])
    n, sizes = np.arange(len(rows)), np.full((len(names), 2), -1)
    paths = paths_column([str(source.root / name) for name in names])
    images = Images(np.arange(len(names)), paths, sizes, paths_column([str(source.path)]))
    xyxy = np.array([row[1:5] for row in rows], np.float32).reshape(-1, 4)
    labels = np.array(["ab".index(row[5]) for row in rows])
    no = np.zeros(len(rows), bool)
    table = Boxes(xyxy, labels, labels, no, (xyxy[:, 2:] - xyxy[:, :2]).prod(1).astype(float), n + 1, n, no)
    starts = np.searchsorted([row[0] for row in rows], [*names, "~"])
    return Dataset(("a", "b"), (0, 1), source.split, source.root, "letters", images, table, starts, entry="row {}")

def extras(dataset):
    return Extras([{"pose": "left"} for _ in range(len(dataset.rows))], [{} for _ in range(len(dataset))])

def write(split, folder):
    data, lines = split.dataset, []
    for index, path in enumerate(split.images):
        for row in split.rows(index):
            x1, y1, x2, y2 = data.rows.xyxy[row].astype(int)
            lines.append(f"{path};{x1};{y1};{x2};{y2};{data.names[data.rows.labels[row]]}")
    (folder / f"{data.split}.rows").write_text("\\n".join(lines))
    return [folder / path for path in split.images]

LAYOUT = Layout(dataset_type=Dataset, expected="SPLIT.rows", find=find, read=read, extras=extras,
                accepts=lambda path: path.suffix == ".rows", writer=Writer(write=write))
'''

CLASSES = '''
"""SPLIT.classes: `image class` a line."""
import numpy as np
from boxwright.data.class_dataset import ClassSet
from boxwright.data.dataset import paths_column
from boxwright.data.layout import Layout

def read(source):
    rows = [line.split() for line in source.path.read_text().splitlines()]
    names = sorted({name for _, name in rows})
    paths = paths_column([str(source.root / file) for file, _ in rows])
    labels = np.array([names.index(name) for _, name in rows])
    return ClassSet(tuple(names), source.split, source.root, "words", paths, labels)

LAYOUT = Layout(dataset_type=ClassSet, expected="SPLIT.classes", read=read,
                find=lambda root: {file.stem: file for file in root.glob("*.classes")})
'''


@pytest.fixture
def letters_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two layouts of one's own."""
    (tmp_path / "formats").mkdir()
    (tmp_path / "formats" / "letters.py").write_text(BOXES)
    (tmp_path / "formats" / "words.py").write_text(CLASSES)
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(tmp_path / "formats")])
    yield
    for name in ("letters", "words"):
        sys.modules.pop(f"boxwright.formats.{name}", None)
        vars(formats).pop(name, None)


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    root.mkdir()
    for number in range(3):
        Image.new("RGB", (40, 30), (number, 0, 0)).save(root / f"{number}.png")
    (root / "train.rows").write_text("0.png;1;2;11;12;a\n1.png;3;4;9;9;b\n0.png;5;5;8;8;b\n")
    (root / "val.rows").write_text("2.png;0;0;40;30;a\n")
    return root


def status(*words: str) -> object:
    with pytest.raises(SystemExit) as ended:
        cli.main([*words])
    return ended.value.code


@pytest.mark.usefixtures("letters_layout")
def test_added_layout_is_opened(letters: Path, tmp_path: Path) -> None:
    dataset = boxwright.open_dataset(letters, "train")
    assert isinstance(dataset, Dataset)
    assert (dataset.kind, dataset.names, len(dataset)) == ("letters", ("a", "b"), 2)
    np.testing.assert_array_equal(dataset[0].boxes, [[1, 2, 11, 12], [5, 5, 8, 8]])
    assert formats.splits(letters) == ["train", "val"]
    (tmp_path / "mine.yaml").write_text("root: set\nval: val.rows\n")
    assert len(formats.open_boxes(tmp_path / "mine.yaml", "val", "letters").rows) == 1
    assert len(formats.open_boxes(tmp_path / "mine.yaml", "val").rows) == 1
    assert len(formats.open_images(letters, "train").rows) == 0
    (tmp_path / "code").mkdir()
    for name in ("a.py", "b.py"):
        (tmp_path / "code" / name).touch()
    with pytest.raises(InputError, match=r"code: no data set found in it \(2 \.py\)"):
        formats.open_boxes(tmp_path / "code", "train")


@pytest.mark.usefixtures("letters_layout")
def test_added_layout_is_checked_and_converted(
    letters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert status("data", "check", str(letters)) == 0
    assert "train: 2 images, 3 boxes" in capsys.readouterr().out
    assert status("data", "convert", str(letters), "--to", "coco", "-o", "coco") == 0
    written = json.loads((tmp_path / "coco/annotations/train.json").read_text())
    assert sorted(row["bbox"] for row in written["annotations"]) == [[1, 2, 10, 10], [3, 4, 6, 5], [5, 5, 3, 3]]
    assert {row["pose"] for row in written["annotations"]} == {"left"}
    capsys.readouterr()
    assert status("data", "convert", "coco", "--to", "letters", "-o", "back") == 0
    assert "letters cannot hold: 2 ids of images, 3 ids of boxes, 2 ids of classes, 3 'pose' of boxes" in (
        capsys.readouterr().out
    )
    assert sorted((tmp_path / "back/train.rows").read_text().split("\n")) == sorted(
        (letters / "train.rows").read_text().split("\n")[:-1]
    )
    (letters / "val.rows").write_text("2.png;0;0;90;30;a\n")
    assert status("data", "check", str(letters)) == 1
    assert "val.rows row 0" in capsys.readouterr().out


@pytest.mark.usefixtures("letters_layout")
def test_added_layout_of_classes_is_opened(letters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for file in letters.glob("*.rows"):
        file.unlink()
    (letters / "train.classes").write_text("0.png dog\n1.png cat\n2.png dog\n")
    dataset = boxwright.open_dataset(letters)
    assert isinstance(dataset, ClassSet)
    assert (dataset.kind, dataset.names, dataset.labels.tolist()) == ("words", ("cat", "dog"), [1, 0, 1])
    assert status("data", "check", str(letters)) == 0
    with pytest.raises(InputError, match=r"set: words, images with one class each, needed boxes"):
        formats.open_boxes(letters, "train", "words")


def test_unknown_layout_suggests_the_closest() -> None:
    chosen = recipe.load("demo", {"data.kind": "coko"})
    for open_one in (boxwright.open_dataset, formats.open_boxes, formats.open_classes):
        with pytest.raises(InputError, match=r"data\.kind: there is no layout 'coko'; did you mean 'coco'\?"):
            open_one("anywhere", "train", chosen.data.kind)
    with pytest.raises(InputError, match=r"no layout .*; docs/data.md lists them"):
        formats.open_boxes("anywhere", "train", "?!")


def test_every_layout_is_documented() -> None:
    folder = Path(boxwright.__file__).parents[2] / "docs"
    page = "".join(file.read_text(encoding="utf-8") for file in folder.glob("data*.md"))
    for name in formats.names():
        assert f"\n| `{name}` | " in page


MISREAD = {
    "XML files": ("train/cat/0.xml", "<annotation><object><name>cat</name></object></annotation>"),
    "a JSON with boxes": ("train/cat/labels.json", '{"annotations": [{"bbox": [1, 2, 3, 4]}]}'),
    "a CSV with boxes": ("train/cat/boxes.csv", "image,xmin,xmax,ymin,ymax,what,else\n"),
    "a folder of labels": ("train/cat/labels/0.csv", ""),
    "rows of numbers beside the images": ("train/cat/0.txt", "car 1 2 3 4 left\n"),
}


@pytest.mark.parametrize("name", MISREAD)
def test_folders_with_box_labels_are_not_read_as_classes(tmp_path: Path, name: str) -> None:
    """Nothing here reads these labels, but they are not passed over either."""
    for split in ("train", "val"):
        for label in ("cat", "dog"):
            (tmp_path / split / label).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / split / label / "0.png")
    assert isinstance(boxwright.open_dataset(tmp_path), ClassSet)
    place, content = MISREAD[name]
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text(content)
    found = place if name != "a folder of labels" else "train/cat/labels"
    for use in (lambda: boxwright.open_dataset(tmp_path), lambda: formats.splits(tmp_path)):
        with pytest.raises(InputError, match=rf"folders of images, but also .*{found}.*kind: folder"):
            use()
    assert isinstance(boxwright.open_dataset(tmp_path, kind="folder"), ClassSet)
