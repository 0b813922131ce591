"""`predict --as`: boxes as labels that tools import, of images and of a video."""

import json
import xml.etree.ElementTree as ET

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from boxwright import cli, models, recipe
from boxwright.errors import InputError
from boxwright.formats import open_boxes
from boxwright.predict.prelabels import LAYOUTS, prelabel_images, prelabel_video
from boxwright.video.frames import Selection
from boxwright.video.live import LiveVideo
from boxwright.video.sources import open_video
from boxwright.weights import checkpoint
from stand_in import NAMES, rectangles_predictor, scene

SIZE = (64, 128)  # (height, width) px; a canvas px is 1 x 2 of them
BOXES = {"a.png": [((8, 8, 40, 40), 1), ((60, 16, 100, 48), 0)], "deep/b.png": [], "c.png": [((16, 4, 48, 60), 2)]}


@pytest.fixture
def photos(tmp_path):
    for name, objects in BOXES.items():
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = scene(*SIZE, [box for box, _ in objects], [label for _, label in objects])
        assert cv2.imwrite(str(path), image[:, :, ::-1])
    return tmp_path / "photos"


def assert_same(found, expected):
    """Boxes (xyxy px, name) in any order, to 2 px."""
    assert sorted(name for _, name in found) == sorted(NAMES[label] for _, label in expected)
    for box, label in expected:
        near = [np.abs(np.array(other) - box).max() for other, name in found if name == NAMES[label]]
        assert min(near) <= 2


def read_coco(out):
    labels = COCO(str(out / "annotations" / "train.json"))
    found = {}
    for image in labels.loadImgs(labels.getImgIds()):
        rows = labels.loadAnns(labels.getAnnIds(image["id"]))
        assert (image["height"], image["width"]) == SIZE
        assert all(0.8 < row["score"] <= 0.9 for row in rows)
        found[image["file_name"]] = [
            ((x, y, x + w, y + h), labels.loadCats(row["category_id"])[0]["name"])
            for row in rows
            for x, y, w, h in [row["bbox"]]
        ]
    return found


def read_yolo(out):
    names = (out / "classes.txt").read_text().split()
    found = {}
    for file in (out / "labels" / "train").rglob("*.txt"):
        rows = [line.split() for line in file.read_text().splitlines()]
        scale = np.array([SIZE[1], SIZE[0]] * 2)
        centers = [(names[int(row[0])], np.array(row[1:], float) * scale) for row in rows]
        found[str(file.relative_to(out / "labels" / "train").with_suffix(".png"))] = [
            ((x - w / 2, y - h / 2, x + w / 2, y + h / 2), name) for name, (x, y, w, h) in centers
        ]
    return found


def read_cvat(out):
    tree = ET.parse(out / "train" / "annotations.xml").getroot()
    assert [label.findtext("name") for label in tree.iterfind(".//label")] == list(NAMES)
    assert all(box.get("source") == "auto" for box in tree.iter("box"))
    return {
        image.get("name"): [
            (tuple(float(box.get(side)) for side in ("xtl", "ytl", "xbr", "ybr")), box.get("label"))
            for box in image.iter("box")
        ]
        for image in tree.iter("image")
    }


def read_label_studio(out):
    found = {}
    for task in json.loads((out / "train.json").read_text()):
        assert "annotations" not in task  # which would be a person's
        (prediction,) = task["predictions"]
        url = task["data"]["image"].removeprefix("/data/local-files/?d=images/train/")
        found[url] = []
        for one in prediction["result"]:
            assert (one["type"], one["original_height"], one["original_width"]) == ("rectanglelabels", *SIZE)
            assert 0.8 < one["score"] <= 0.9
            x, y, w, h = (
                one["value"][key] / 100 * side
                for key, side in (("x", SIZE[1]), ("y", SIZE[0]), ("width", SIZE[1]), ("height", SIZE[0]))
            )
            (name,) = one["value"]["rectanglelabels"]
            found[url].append(((x, y, x + w, y + h), name))
        scores = [one["score"] for one in prediction["result"]]
        assert prediction["score"] == pytest.approx(np.mean(scores) if scores else 0)
    assert 'value="green"' in (out / "label_config.xml").read_text()
    return found


READERS = {"coco": read_coco, "yolo": read_yolo, "cvat": read_cvat, "label-studio": read_label_studio}


@pytest.mark.parametrize("name", LAYOUTS)
def test_prelabels_of_images(photos, tmp_path, name):
    out = tmp_path / "out"
    summary = prelabel_images(rectangles_predictor(), [photos], out, name)
    assert summary.lines() == ["3 images: 1 blue, 1 green, 1 red", f"labels as {name}: {out}"]
    found = READERS[name](out)
    assert found.keys() == BOXES.keys()
    for image, expected in BOXES.items():
        assert_same(found[image], expected)
        (copied,) = [path for path in out.rglob("*.png") if str(path).endswith(f"/{image}")]
        assert copied.read_bytes() == (photos / image).read_bytes()
    if name != "label-studio":  # whose predictions are not labels yet
        dataset = open_boxes(out, "train")
        assert len(dataset) == 3
        assert len(dataset.rows) == 3


@pytest.mark.parametrize("name", LAYOUTS)
def test_prelabels_of_video_frames(tmp_path, name):
    pytest.importorskip("av", reason="needs the extra video")
    from made_video import write_video

    boxes = [(8 + 8 * index, 8, 40 + 8 * index, 40) for index in range(9)]
    path = write_video(tmp_path / "a.mp4", [scene(*SIZE, [box], [1]) for box in boxes])
    out = tmp_path / "out"
    with open_video(str(path), Selection(stride=4)) as video:
        summary = prelabel_video(rectangles_predictor(), video, out, name)
    assert summary.lines() == ["3 frames: 3 green", f"labels as {name}: {out}"]
    files = sorted(out.rglob("*.jpg"))
    assert [file.name for file in files] == ["frame_000000.jpg", "frame_000004.jpg", "frame_000008.jpg"]
    assert cv2.imread(str(files[1]))[10:38, 42:70, 1].min() > 200
    found = READERS[name](out)
    for (image, rows), index in zip(sorted(found.items()), (0, 4, 8), strict=True):
        assert image.rpartition(".")[0] == f"frame_{index:06d}"
        assert_same(rows, [(boxes[index], 1)])


def test_live_source_requires_stop(tmp_path):
    class Camera:
        rate = 10.0

        def __iter__(self):
            for index in range(5):
                yield index / 10, lambda: scene(*SIZE, [BOXES["a.png"][0][0]], [1])

        def close(self):
            pass

    with (
        pytest.raises(InputError, match=r"camera 0: found a live source, needed a stop, .*; add for example --stop 60"),
        LiveVideo("camera 0", Camera(), Camera, Selection(), patience=0.0) as video,
    ):
        prelabel_video(rectangles_predictor(), video, tmp_path / "out", "coco")
    assert not (tmp_path / "out").exists()
    with LiveVideo("camera 0", Camera(), Camera, Selection(stop=0.3), patience=0.0) as video:
        assert prelabel_video(rectangles_predictor(), video, tmp_path / "out", "coco").images > 0


def test_unreadable_images_are_left_out(photos, tmp_path):
    (photos / "c.png").write_bytes(b"broken")
    summary = prelabel_images(rectangles_predictor(), [photos], tmp_path / "out", "coco")
    assert list(summary.failed) == [str(photos / "c.png")]
    assert read_coco(tmp_path / "out").keys() == {"a.png", "deep/b.png"}
    with pytest.raises(InputError, match=r"c\.png"):
        prelabel_images(rectangles_predictor(), [photos / "c.png"], tmp_path / "two", "coco")
    assert not (tmp_path / "two").exists()
    with pytest.raises(InputError, match="is there already"):
        prelabel_images(rectangles_predictor(), [photos], tmp_path / "out", "coco")


@pytest.mark.parametrize(
    ("name", "image", "fault"),
    [
        ("yolo", "a.jpg", "would have the same label file"),
        ("coco", "tab\t.png", "control character"),
        ("cvat", "no\uffffcharacter.png", "has characters that XML cannot hold"),
    ],
)
def test_file_names_are_checked_before_predicting(photos, tmp_path, monkeypatch, name, image, fault):
    (photos / image).write_bytes((photos / "a.png").read_bytes())
    predictor = rectangles_predictor()
    monkeypatch.setattr(predictor, "forward", lambda images: pytest.fail("it predicts"))
    with pytest.raises(InputError, match=fault):
        prelabel_images(predictor, [photos], tmp_path / "out", name)
    assert not (tmp_path / "out").exists()


def test_unnamed_classes_are_numbered(photos, tmp_path):
    predictor = rectangles_predictor()
    predictor.names = ()
    prelabel_images(predictor, [photos], tmp_path / "out", "yolo")
    assert (tmp_path / "out" / "classes.txt").read_text().split() == ["0", "1", "2"]


def test_command_line(photos, tmp_path, capsys):
    small = recipe.load("demo", {"model.width": 0.125, "data.canvas.size": [64, 64]})
    checkpoint.save(tmp_path / "w.safetensors", models.build(small.model), small)

    def run(*words):
        with pytest.raises(SystemExit) as end:
            cli.main(["predict", str(tmp_path / "w.safetensors"), str(photos), "--out", str(tmp_path / "out"), *words])
        return end.value.code, capsys.readouterr()

    for words, message in (
        (("--as", "voc"), "--as: found 'voc', needed one of coco, yolo, cvat, label-studio"),
        (("--as", "coco", "--tile", "64"), "--as and --tile: found both"),
    ):
        status, output = run(*words)
        assert status == 2
        assert message in output.err
        assert len(output.err.splitlines()) == 1
        assert not (tmp_path / "out").exists()
    status, output = run("--as", "coco", "--threshold", "0.9")
    assert status == 0
    assert "labels as coco" in output.out
    assert len(json.loads((tmp_path / "out" / "annotations" / "train.json").read_text())["images"]) == 3
