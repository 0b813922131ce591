"""A small labeled set with two evaluated runs, an audit, and `boxwright look` as a process, for tests of its page."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

HTML = '<img src=x onerror="window.hit=1">'  # the name of a class
HEAD = "id,image,box,class,x1,y1,x2,y2,score,status,iou,match"
Box = tuple[str, list[float]]  # class, xyxy px
TRAIN: dict[str, list[Box]] = {  # of images of 640 x 480 px
    "first": [("cell", [100, 100, 300, 260]), (HTML, [400, 200, 500, 400])],
    "gone": [("cell", [0, 0, 64, 48])],
    "second": [("cell", [320, 240, 340, 250])],
    "third": [],
}
MANY = 1000  # boxes of val/many.png
LARGE = (5000, 3000)  # width, height of val/large.png


def line(name: str, box: list[float], width: int, height: int) -> str:
    """A line of a YOLO label file."""
    x1, y1, x2, y2 = box
    values = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
    return " ".join([str(["cell", HTML].index(name)), *(f"{value:.6f}" for value in values)])


def write_image(root: Path, split: str, name: str, size: tuple[int, int], boxes: list[Box]) -> None:
    """size: width, height."""
    for kind in ("images", "labels"):
        (root / kind / split).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(root / "images" / split / f"{name}.png"), np.full((size[1], size[0], 3), 90, np.uint8))
    lines = [line(label, box, *size) + "\n" for label, box in boxes]
    (root / "labels" / split / f"{name}.txt").write_text("".join(lines))


def write_set(root: Path) -> None:
    """YOLO text: `TRAIN`, and in val an image with 1,000 boxes and a large one."""
    for name, boxes in TRAIN.items():
        write_image(root, "train", name, (640, 480), boxes)
    grid = [(x * 40.0, y * 40.0) for y in range(25) for x in range(40)]
    write_image(root, "val", "many", (1600, 1000), [("cell", [x + 4, y + 4, x + 34, y + 30]) for x, y in grid])
    write_image(root, "val", "large", LARGE, [("cell", [4000, 2000, 4400, 2300])])
    names = "".join(f"  {number}: {json.dumps(name)}\n" for number, name in enumerate(["cell", HTML]))
    (root / "data.yaml").write_text(f"path: .\ntrain: images/train\nval: images/val\nnames:\n{names}")


def log_lines(steps: range, loss: float) -> str:
    """Lines of log.jsonl."""
    row = {"epoch": 0, "lr": 0.01, "total": loss, "terms": {"xy": loss / 2, "classes": loss / 2}}
    return "".join(json.dumps({"step": step, **row}) + "\n" for step in steps)


def write_run(folder: Path, data: Path, table: list[str], ap: float, names: tuple[str, ...] = ("cell", HTML)) -> None:
    """Write the files of `train` and `evaluate`. table: rows of errors.csv with {path}; without, no predictions."""
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(f"name: demo\ndata:\n  root: {data.name}\ntrain:\n  epochs: 4\n")
    evaluation = json.dumps({"step": 40, "epoch": 1, "AP": ap, "AP50": ap + 0.2})
    (folder / "log.jsonl").write_text(log_lines(range(10, 50, 10), 4 - ap) + evaluation + "\n")
    if not table:
        return
    first = data / "images" / "train" / "first.png"
    rows = [",".join(HEAD.split(",")), *(row.format(path=first, html=HTML.replace('"', '""')) for row in table)]
    (folder / "errors.csv").write_text("\n".join(rows) + "\n")
    classes = [{"name": name, "ap": ap, "ap_interval": [ap - 0.1, ap + 0.1]} for name in names]
    intervals = {"summary": {"AP": [ap - 0.05, ap + 0.05]}, "rough": True}
    metrics = {
        "data": str(data), "split": "train", "summary": {"AP": ap, "AP50": ap + 0.2}, "classes": classes,
        "intervals": intervals,
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(metrics))


RUN_A = [
    "1,{path},object,cell,100,100,300,260,,correct,0.95,3",
    '2,{path},object,"{html}",400,200,500,400,,missed,0,',
    "3,{path},detection,cell,102,101,299,258,0.9,correct,0.95,1",
    "4,{path},detection,cell,10,10,60,60,0.6,background,0,",
    "5,{path},detection,cell,10,10,50,50,0.1,background,0,",
]
RUN_B = [
    "1,{path},object,cell,100,100,300,260,,correct,0.9,3",
    '2,{path},object,"{html}",400,200,500,400,,correct,0.9,4',
    "3,{path},detection,cell,101,101,299,255,0.8,correct,0.9,1",
    '4,{path},detection,"{html}",402,201,500,398,0.7,correct,0.9,2',
]


def write_audit(file: Path) -> None:
    """A box that is missing in the third image, and a class that is wrong in the second."""
    found: list[dict[str, Any]] = [
        {"kind": "missing", "image": "images/train/third.png", "box": [200, 100, 300, 200], "class": None,
         "suggested_class": "cell", "suggested_box": [200, 100, 300, 200], "score": 0.9, "object": None},
        {"kind": "class", "image": "images/train/second.png", "box": [320, 240, 340, 250], "class": "cell",
         "suggested_class": HTML, "suggested_box": None, "score": 0.8, "object": 1},
    ]  # fmt: skip
    findings = [{"id": number, "split": "train", **one} for number, one in enumerate(found)]
    file.write_text(json.dumps({"format": "boxwright audit 1", "data": "set", "findings": findings}))


@contextmanager
def looking(*words: str) -> Iterator[str]:
    """The address that `boxwright look` prints."""
    process = subprocess.Popen(
        [sys.executable, "-m", "boxwright", "look", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), address + process.stdout.read()
        yield address
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()
