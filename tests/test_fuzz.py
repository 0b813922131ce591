"""Files damaged at random, the same ones each time: a reader returns a data set or fails with one line.

Each format is a sound file and the reader that users meet; each damage is flipped bits, a cut, an insertion, a
repetition, another number or exchanged words. Any exception but InputError, a message of several lines, a warning or a
reader that takes seconds fails the test, which then says the number of the damage.
"""

import importlib.util
import json
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import boxwright
from boxwright import models, recipe, weights
from boxwright.data import text
from boxwright.datatools.check import check
from boxwright.errors import InputError
from boxwright.export.run import export_model
from boxwright.formats import open_boxes
from boxwright.images import header
from boxwright.images.decode import read_image
from boxwright.recipe import Recipe
from boxwright.weights import checkpoint, darknet, mindspore

ORACLES = Path(__file__).parent / "oracles"
SECONDS = 10  # of one file; all readers take milliseconds
NUMBERS = (b"0", b"-1", b"1e999", b"NaN", b"2147483648", b"9223372036854775808", b"1" * 400, b"0.5", b"null", b'"x"')
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.usefixtures("short_networks")]


@dataclass(frozen=True)
class Format:
    """make(folder): writes a sound file, and what belongs to it, and returns its path. read(path): as users do."""

    make: Callable[[Path], Path]
    read: Callable[[Path], object]
    many: int = 120
    needs: str = ""  # the library without which it is skipped


def damaged(sound: bytes, draw: random.Random) -> bytes:
    """One to three damages. Places are drawn from the start more often: that is where headers are."""

    def place(data: bytearray) -> int:
        return int(len(data) * draw.random() ** draw.choice([1, 4]))

    data = bytearray(sound)
    for _ in range(draw.choice([1, 1, 2, 3])):
        at, length = place(data), draw.choice([1, 2, 4, 16, 200])
        kind = draw.randrange(7)
        if kind == 0:
            for _ in range(draw.choice([1, 1, 8])):
                if data:
                    data[min(place(data), len(data) - 1)] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            data[at:at] = draw.choice([draw.randbytes(length), b"\0" * length, b"\xff" * length, b"[" * length])
        elif kind == 3:
            other = place(data)
            data[other:other] = data[at : at + length]
        elif kind == 4:
            del data[at : at + length]
        elif kind == 5 and (found := [*re.finditer(rb"-?\d+(\.\d+)?", bytes(data[:100_000]))]):
            one = draw.choice(found)
            data[slice(*one.span())] = draw.choice(NUMBERS)
        elif kind == 6 and len(words := [*re.finditer(rb"\w+", bytes(data[:100_000]))]) > 1:
            one, other = draw.choice(words), draw.choice(words)
            data[slice(*one.span())] = other.group()
    return bytes(data)


# --- data sets


def image(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    colors = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    cv2.imwrite(str(file), colors)


def write(file: Path, content: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    return file


def coco(root: Path) -> Path:
    tree = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 32, "height": 24} for n in (1, 2)],
        "annotations": [
            {"id": n, "image_id": 1 + n % 2, "category_id": 1, "bbox": [n, 2, 10.5, 8], "area": 84, "iscrowd": 0,
             "segmentation": [[1, 2, 3, 4, 5, 6]]}
            for n in range(1, 5)
        ],
        "categories": [{"id": 1, "name": "car"}, {"id": 7, "name": "naïve"}],
    }  # fmt: skip
    for number in (1, 2):
        image(root / f"images/{number}.png")
    return write(root / "annotations/train.json", json.dumps(tree, indent=1))


def yolo_labels(root: Path) -> Path:
    image(root / "images/train/1.png")
    write(root / "classes.txt", "car\ntruck\n")
    return write(root / "labels/train/1.txt", "0 0.5 0.5 0.25 0.25\n1 0.1 0.2 0.1 0.1\n")


def yolo_classes(root: Path) -> Path:
    yolo_labels(root)
    return root / "classes.txt"


def yolo_list(root: Path) -> Path:
    yolo_labels(root)
    return write(root / "train.txt", "images/train/1.png\nimages/train/a b.png\n")


def line_txt(root: Path) -> Path:
    image(root / "a/1.png")
    write(root / "classes.txt", "car\ntruck\n")
    return write(root / "train.txt", "a/1.png 1,2,20,22,0 3,4,9,9,1,1\na/2.png\n")


def dota(root: Path) -> Path:
    image(root / "train/images/1.png")
    lines = "imagesource:Sat\ngsd:0.5\n1 1 20 1 20 9 1 9 plane 0\n2 2 8 2.5 8 8 2 8 ship 1\n"
    return write(root / "train/labelTxt/1.txt", lines)


def kitti(root: Path) -> Path:
    image(root / "train/image_2/1.png")
    ignored = "DontCare -1 -1 -10 3 4 9 9 -1 -1 -1 -1000 -1000 -1000 -10\n"
    return write(root / "train/label_2/1.txt", f"Car 0.00 0 -1.5 1 2 20 12 1.3 1.6 3.3 0.2 2 17.7 -1.5\n{ignored}")


def cvat(root: Path) -> Path:
    image(root / "train/images/1.png")
    shapes = (
        '<box label="car" xtl="1" ytl="2" xbr="9" ybr="9" rotation="30"/><polygon label="car" points="1,1;9,2;3,9"/>'
        '<mask label="car" left="1" top="2" width="3" height="4"/><ellipse label="car" cx="9" cy="9" rx="3" ry="2"/>'
    )
    return write(
        root / "train/annotations.xml",
        "<?xml version='1.0' encoding='utf-8'?>\n<annotations><meta><task><labels><label><name>car</name></label>"
        "</labels></task></meta>\n<image id='0' name='1.png' subset='a' width='32' height='24'>"
        f"{shapes}</image></annotations>",
    )


def voc_xml(root: Path) -> Path:
    image(root / "JPEGImages/1.png")
    write(root / "ImageSets/Main/train.txt", "1\n")
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>20</xmax><ymax>12</ymax></bndbox>"
    return write(
        root / "Annotations/1.xml",
        "<?xml version='1.0' encoding='utf-8'?>\n<annotation><filename>1.png</filename><size><width>32</width>"
        f"<height>24</height><depth>3</depth></size><object><name>car</name><difficult>0</difficult>{box}</object>"
        f"<object><name>dog &amp; cat</name>{box}</object></annotation>",
    )


def voc_list(root: Path) -> Path:
    voc_xml(root)
    return root / "ImageSets/Main/train.txt"


def data_yaml(root: Path) -> Path:
    yolo_labels(root)
    return write(
        root / "data.yaml",
        "root: .\nkind: yolo_txt\ntrain: images/train\nnames: {0: car, 1: 'a truck'}\nnc: 2\n# the end\n",
    )


def opened(file: Path) -> None:
    """The set around a file of labels, or that a YAML describes: opened, checked, shown."""
    known = {"annotations", "labels", "train", "ImageSets", "Annotations"}
    root = file if file.suffix == ".yaml" else next(up for up in file.parents if not known & {*up.parts[-2:]})
    report = check(open_boxes(root, "train"), images=False)
    str(report)
    report.raise_on_errors(root)


def recipe_yaml(root: Path) -> Path:
    return write(root / "a.yaml", (Path(recipe.__file__).parents[1] / "recipes" / "demo.yaml").read_text())


def encoded(suffix: str) -> Format:
    def make(root: Path) -> Path:
        image(root / f"a{suffix}")
        return root / f"a{suffix}"

    def read(file: Path) -> None:
        told = header.read_header(str(file), decode=True)
        assert (told.size == (-1, -1)) == bool(told.fault)
        header.read_header(str(file))
        read_image(file)

    return Format(make, read)


# --- networks


@cache
def tiny() -> tuple[nn.Module, Recipe]:
    torch.manual_seed(0)
    settings = recipe.load("demo", {"model.width": 0.03, "data.canvas.size": [64, 64], "evaluate.threshold": 0.3})
    model: nn.Module = models.build(settings.model)
    return model.eval(), settings


def safetensors(root: Path) -> Path:
    checkpoint.save(root / "a.safetensors", *tiny())
    return root / "a.safetensors"


def torch_file(root: Path) -> Path:
    torch.save(tiny()[0].state_dict(), root / "a.pth")
    return root / "a.pth"


def darknet_file(root: Path) -> Path:
    darknet.write(root / "a.weights", tiny()[0])
    return root / "a.weights"


def mindspore_file(root: Path) -> Path:
    (root / "a.ckpt").write_bytes((ORACLES / "mindspore_ckpt/plain.ckpt").read_bytes())
    return root / "a.ckpt"


def filled(file: Path) -> None:
    weights.stored_recipe(file)
    weights.load(*tiny()[:1], file, tiny()[1])


def exported(to: str, suffix: str) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        source = safetensors(root)
        export_model(source, to, root / f"b{suffix}")
        return root / f"b{suffix}"

    return make


def beside(make: Callable[[Path], Path], suffix: str) -> Callable[[Path], Path]:
    """The file of another suffix that belongs to the one that is made."""
    return lambda root: make(root).with_suffix(suffix)


def predicted(file: Path) -> None:
    boxwright.load(file.with_suffix(".xml") if file.suffix == ".bin" else file)(np.zeros((48, 64, 3), np.uint8))


FORMATS = {
    "coco": Format(coco, opened),
    "yolo labels": Format(yolo_labels, opened),
    "yolo classes": Format(yolo_classes, opened, 100),
    "yolo list": Format(yolo_list, opened, 100),
    "line_txt": Format(line_txt, opened),
    "dota": Format(dota, opened),
    "voc": Format(voc_xml, opened),
    "kitti": Format(kitti, opened),
    "cvat": Format(cvat, opened),
    "voc list": Format(voc_list, opened, 100),
    "data.yaml": Format(data_yaml, opened),
    "recipe": Format(recipe_yaml, recipe.load, 150),
    "names": Format(yolo_classes, lambda file: list(text.lines(file)), 100),
    **{suffix: encoded(suffix) for suffix in (".jpg", ".png", ".bmp", ".webp", ".tif")},
    ".safetensors": Format(safetensors, predicted, 100),
    ".pth": Format(torch_file, filled, 200),
    ".weights": Format(darknet_file, filled, 200),
    ".ckpt": Format(mindspore_file, lambda file: list(mindspore.entries(file)), 300),
    ".pt2": Format(exported("pt2", ".pt2"), predicted, 120),
    ".onnx": Format(exported("onnx", ".onnx"), predicted, 60, "onnxruntime"),
    ".xml": Format(exported("openvino", ".xml"), predicted, 60, "openvino"),
    ".bin": Format(beside(exported("openvino", ".xml"), ".bin"), predicted, 50, "openvino"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_are_read_or_rejected_in_one_line(name: str, tmp_path: Path) -> None:
    form = FORMATS[name]
    if form.needs and importlib.util.find_spec(form.needs) is None:
        pytest.skip(f"{form.needs} is not installed")
    file = form.make(tmp_path)
    sound = file.read_bytes()
    form.read(file)
    draw, messages = random.Random(name), []
    for number in range(form.many):
        file.write_bytes(damaged(sound, draw))
        begin = time.process_time()
        try:
            form.read(file)
        except InputError as error:
            messages.append(str(error))
        except BaseException as error:
            error.add_note(f"{name}: damage {number} of {form.many}")
            raise
        assert time.process_time() - begin < SECONDS, f"damage {number}"
    assert messages
    assert all(line.isprintable() for line in messages)
