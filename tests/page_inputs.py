"""Small inputs for the commands on pages: each file or folder under its name on the pages."""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import boxwright as bw
from boxwright import cli
from boxwright.weights import darknet, mindspore
from darknet_loop import cfg
from small_run import SMALL

COLORS = ((220, 60, 40), (40, 90, 220))  # BGR, one a class
NAMES = ["blue", "red"]
LEARNING = ("train.epochs=16", "train.schedule.kind=constant", "train.schedule.lr=0.02")
CHANGES = tuple(f"{key}={json.dumps(value)}" for key, value in SMALL.items() if key != "train.epochs")
Box = tuple[int, int, int, int, int]  # class, left, top, width, height


def run(*words: str, allowed: tuple[int, ...] = (0,)) -> None:
    with pytest.raises(SystemExit) as leaving:
        cli.main([*words])
    assert leaving.value.code in allowed, words


def sets(changes: tuple[str, ...]) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


def drawn(seed: int, height: int = 96, width: int = 96, count: int = 3) -> tuple[np.ndarray, list[Box]]:
    """An image of noise with filled rectangles of two classes, which do not overlap."""
    draw = np.random.default_rng(seed)
    image, boxes = draw.integers(90, 130, (height, width, 3)).astype(np.uint8), []
    for column in range(count):
        label, (w, h) = int(draw.integers(2)), draw.integers(16, min(height, width // count), 2).tolist()
        x, y = int(draw.integers(column * width // count, (column + 1) * width // count - w + 1)), 0
        y = int(draw.integers(0, height - h + 1))
        image[y : y + h, x : x + w] = COLORS[label]
        boxes.append((label, x, y, w, h))
    return image, boxes


def write_image(file: Path, seed: int, *size: int) -> list[Box]:
    image, boxes = drawn(seed, *size)
    file.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(file), image)
    return boxes


def images(file: Path) -> None:
    for number in range(1, 5):
        write_image(file / f"{number:06d}.jpg", number)


def image(file: Path) -> None:
    write_image(file, 1, 120, 160)


def coco(
    folder: Path, names: list[str] = NAMES, first: int = 0, side: int = 96, splits: dict[str, int] | None = None
) -> None:
    """Splits train, val and test in the layout of COCO."""
    (folder / "annotations").mkdir(parents=True)
    for split, count in (splits or {"train": 8, "val": 4, "test": 4}).items():
        rows: list[dict[str, Any]] = []
        listed: list[dict[str, Any]] = []
        for number in range(1, count + 1):
            first += 1
            name = f"{split}{number}.png"
            listed.append({"id": first, "file_name": name, "height": side, "width": side})
            for label, *box in write_image(folder / split / name, first, side, side):
                rows.append(
                    {"id": len(rows) + 1, "image_id": first, "category_id": label + 1, "bbox": box,
                     "area": box[2] * box[3], "iscrowd": 0}
                )  # fmt: skip
        categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
        content = {"images": listed, "annotations": rows, "categories": categories}
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(content))


def bands(folder: Path) -> None:
    """COCO, of TIFFs with five bands."""
    rasterio = pytest.importorskip("rasterio", reason="needs the extra geo")
    coco(folder)
    for file in [*folder.rglob("*.png")]:
        image = cv2.imread(str(file)).transpose(2, 0, 1)
        place = rasterio.Affine(0.3, 0, 500_000, 0, -0.3, 4_000_000)
        with rasterio.open(file.with_suffix(".tif"), "w", "GTiff", 96, 96, 5, None, place, "uint8") as written:
            written.write(np.concatenate([image, image[:2]]))
        file.unlink()
    for file in (folder / "annotations").iterdir():
        file.write_text(file.read_text().replace(".png", ".tif"))


def coco_80(folder: Path) -> None:
    """With the classes of published weights."""
    coco(folder, [*bw.Recipe.load("yolov3_coco_416").data.names])


def labelimg(folder: Path) -> None:
    """LabelImg's "YOLO": labels beside the images, and classes.txt."""
    for number in range(1, 21):
        boxes, file = write_image(folder / f"{number:03d}.jpg", number, 96, 128), folder / f"{number:03d}.txt"
        rows = [f"{label} {(x + w / 2) / 128} {(y + h / 2) / 96} {w / 128} {h / 96}" for label, x, y, w, h in boxes]
        file.write_text("\n".join(rows) + "\n")
    (folder / "classes.txt").write_text("\n".join(NAMES) + "\n")


def dota(folder: Path) -> None:
    """Scenes larger than a tile; a split `large`, as in the set of docs/results.md."""
    coco(folder.with_name("scenes_as_coco"), side=640, splits={"train": 2, "val": 1, "large": 1})
    run("data", "convert", str(folder.with_name("scenes_as_coco")), "--to", "dota", "-o", str(folder))


def classes(folder: Path) -> None:
    coco(folder.with_name("boxes"))
    run("data", "convert", str(folder.with_name("boxes")), "--to", "folder", "-o", str(folder))


def obj_data(file: Path) -> None:
    """Darknet's list files, names, and labels beside the images."""
    for split, first, count in (("train", 0, 16), ("valid", 16, 4)):
        listed = [f"obj/{first + number}.jpg" for number in range(count)]
        for number, name in enumerate(listed, first):
            boxes = write_image(file.parent / name, number)
            rows = [f"{label} {(x + w / 2) / 96} {(y + h / 2) / 96} {w / 96} {h / 96}" for label, x, y, w, h in boxes]
            (file.parent / name).with_suffix(".txt").write_text("\n".join(rows) + "\n")
        (file.parent / f"{split}.txt").write_text("\n".join(listed) + "\n")
    obj_names(file.with_suffix(".names"))
    file.write_text("classes = 2\ntrain = train.txt\nvalid = valid.txt\nnames = obj.names\nbackup = backup/\n")


def obj_names(file: Path) -> None:
    file.write_text("\n".join(NAMES) + "\n")


def net_cfg(file: Path) -> None:
    text = cfg().replace("batch=64\nsubdivisions=16", "batch=8\nsubdivisions=2").replace("classes=3", "classes=2")
    file.write_text(text.replace("filters=24", "filters=21").replace("filters=16", "filters=14"))


def clip(file: Path) -> None:
    """12 frames at 10 a second, 912 x 432 px, on which rectangles move down."""
    write_video = pytest.importorskip("made_video").write_video
    still, _ = drawn(5, 300, 912, 8)
    frames = [np.full((432, 912, 3), 110, np.uint8) for _ in range(12)]
    for number, frame in enumerate(frames):
        frame[10 * number : 10 * number + 300] = still[..., ::-1]
    write_video(file, frames)


def scene(file: Path, side: int = 700) -> None:
    """A GeoTIFF."""
    pytest.importorskip("rasterio", reason="needs the extra geo")
    file.parent.mkdir(exist_ok=True)
    pytest.importorskip("made_scene").write_scene(file, side)


def scenes(folder: Path) -> None:
    for name in ("a", "b"):
        scene(folder / f"{name}.tif")


def tracks(file: Path) -> None:
    """MOT text: two objects in 12 frames."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = (f"{frame},{number},{100 * number},{10 * frame},50,40,1,1,1" for number in (1, 2) for frame in range(1, 13))
    file.write_text("\n".join(rows) + "\n")


def places(file: Path) -> None:
    file.write_text("lines:\n  bridge: [100, 400, 900, 400]\nzones:\n  parking: [0, 0, 300, 0, 300, 360, 0, 360]\n")


def trained(folder: Path, *changes: str) -> None:
    """A run that finds rectangles."""
    data = folder.with_name("its_data")
    coco(data, splits={"train": 16, "val": 4})
    run("train", "demo", "--data", str(data), "--out", str(folder), *sets((*CHANGES, *LEARNING, *changes)))
    shutil.rmtree(data)


@cache
def network(recipe: str) -> tuple[Any, bw.Recipe]:
    """One with random weights, of a shipped recipe or a .cfg."""
    loaded = bw.Recipe.load(recipe)
    torch.manual_seed(0)
    return bw.create_model(loaded), loaded


def darknet_weights(recipe: str) -> Callable[[Path], None]:
    return lambda file: darknet.write(file, network(recipe)[0])


def zoo(recipe: str) -> Callable[[Path], None]:
    return lambda file: mindspore.write(file, *network(recipe))


def net_weights(file: Path, convolutions: int | None = None) -> None:
    """Of `net.cfg`, or its first convolutions."""
    cfg_file = file.with_name("net.cfg")
    net_cfg(cfg_file)
    darknet.write(file, network(str(cfg_file))[0], convolutions=convolutions)


def torchvisions(kind: str) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        torchvision = pytest.importorskip("torchvision", reason="needs the extra train")
        torch.manual_seed(0)
        made = torchvision.models.resnet50() if kind == "resnet50" else torchvision.models.detection.__dict__[kind](
            weights=None, weights_backbone=None
        )  # fmt: skip
        torch.save(made.state_dict(), file)

    return write


def mmdetections(file: Path) -> None:
    oracle = pytest.importorskip("mmdet_oracle")
    if not oracle.FOLDER.is_dir():
        pytest.skip("no names of mmdetection's weights: ../shared is absent")
    file.parent.mkdir(parents=True, exist_ok=True)
    meta = {"mmdet_version": "2.28.2", "config": "model = dict(backbone=dict(style='pytorch'))"}
    torch.save({"meta": meta, "state_dict": oracle.state("faster_rcnn_r50")}, file)


# Name on pages -> what writes it, and what it needs beside it; or the place of what it is a copy of.
INPUTS: dict[str, Callable[[Path], None] | str] = {
    "pictures": labelimg,
    "data/all": "pictures",
    "data/mine": coco,
    "data/new": lambda folder: coco(folder, first=100),
    "data/bands": bands,
    "data/coco": coco_80,
    "/shared/coco": "data/coco",
    "data/dota": dota,
    "data/classes": classes,
    "obj.data": obj_data,
    "obj.names": obj_names,
    "photos": images,
    "/shared/photos": "photos",
    "photo.jpg": image,
    "dog.jpg": "photo.jpg",
    "street.jpg": "photo.jpg",
    "scene.tif": scene,
    "scenes": scenes,
    "clip.mp4": clip,
    "drone.mp4": "clip.mp4",
    "truth/clip.txt": tracks,
    "MOT17/train": lambda folder: tracks(folder / "MOT17-02" / "gt" / "gt.txt"),
    "results": lambda folder: tracks(folder / "MOT17-02.txt"),
    "places.yaml": places,
    "net.cfg": net_cfg,
    "net.weights": net_weights,
    "runs/mine": trained,
    "runs/a": "runs/mine",
    "runs/b": lambda folder: trained(folder, "train.seed=1"),
    "runs/other": "runs/b",
    "/shared/runs/mine": "runs/mine",
    "yolov3.weights": darknet_weights("yolov3_coco_416_darknet"),
    "yolov3-tiny.weights": darknet_weights("yolov3_tiny_coco_416_darknet"),
    "yolov4-tiny.weights": darknet_weights("yolov4_tiny_coco_416_darknet"),
    "yolov4-tiny.conv.29": lambda file: net_weights(file, 4),
    "tiny.weights": darknet_weights("tiny_darknet_imagenet_224_darknet"),
    "0-320_102400.ckpt": zoo("yolov3_coco_416"),
    "faster_rcnn-12_7393.ckpt": zoo("faster_rcnn_r50_dcn_coco"),
    "bccd": "data/mine",  # on docs/results.md
    "aerial": "data/dota",
    "cifar": "data/classes",
    "yolo-fastest-1.1.cfg": "net.cfg",
    "yolo-fastest-1.1.weights": "net.weights",
    "resnet50.pth": torchvisions("resnet50"),
    "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth": torchvisions("fasterrcnn_resnet50_fpn"),
    "epoch_12.pth": mmdetections,
    "work_dirs/mine/epoch_12.pth": "epoch_12.pth",
}


class Inputs:
    """What pages name, made once each, below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, name: str, page_folder: Path) -> None:
        """Write an input into the folder of a page."""
        source = INPUTS[name]
        if callable(source):
            shutil.copytree(self._made(name, source), page_folder, dirs_exist_ok=True)
            return
        original, write = next((one, write) for one, write in INPUTS.items() if callable(write) and within(source, one))
        place, target = self._made(original, write) / source, page_folder / name.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if place.is_dir() else shutil.copy)(place, target)

    def _made(self, name: str, write: Callable[[Path], None]) -> Path:
        folder = self.folder / name.replace("/", "_")
        if not folder.exists():
            (folder / name).parent.mkdir(parents=True)
            write(folder / name)
        return folder


def within(path: str, other: str) -> bool:
    return path == other or path.startswith(f"{other}/")
