"""Images with classes: folders, ImageNet as downloaded, boxes cut out; crops equal to the zoo's; invalid input."""

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from accelerate import Accelerator

from boxwright import recipe, tasks
from boxwright.batches.class_loader import ClassLoader, random_crop
from boxwright.cli import main
from boxwright.datatools import check, class_check, class_crops
from boxwright.datatools.clean import Cleaning
from boxwright.engine.datasets import open_checked
from boxwright.errors import InputError
from boxwright.formats import holds_classes, open_classes, splits
from boxwright.formats.imagenet import imagenet_names
from boxwright.images.canvas import frame_for, resize_to_canvas
from boxwright.images.decode import read_image
from boxwright.recipe import CanvasConfig, ClassAugmentConfig
from boxwright.tasks.classify import training_canvas
from boxwright.types import ClassBatch
from test_canvas import smooth, waves

ORACLE = np.load(Path(__file__).parent / "oracles" / "tinydarknet" / "eval_preprocess.npz")
TENCH, GOLDFISH, KIT_FOX = "n01440764", "n01443537", "n02119789"  # ImageNet's numbers 449, 450 and 1


def example_image(file: Path, gray: int, size: tuple[int, int] = (20, 30)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), np.full((*size, 3), gray, np.uint8))


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Two classes; the gray of an image is 100 for cats and 200 for dogs, and 1 more for each further one."""
    for split, count in (("train", 3), ("val", 2)):
        for number in range(count):
            example_image(tmp_path / "pets" / split / "cat" / f"{number}.png", 100 + number)
            example_image(tmp_path / "pets" / split / "dog" / "deeper" / f"{number}.JPG", 200 + number)
    return tmp_path / "pets"


def rejection(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("index", range(3))
def test_crop_matches_zoo_evaluation(index: int) -> None:
    """The oracle holds the uint8 crop of MindSpore's pipeline: shorter side to 256, center 224."""
    h, w = ORACLE[f"in_hw.{index}"].tolist()
    canvas = CanvasConfig(size=(224, 224), fit="crop", short_side=256)
    placed = resize_to_canvas(waves(31 + index, h, w), frame_for((h, w), canvas, 0), canvas)
    np.testing.assert_array_equal(placed.ravel()[:: int(ORACLE[f"uint8.{index}.stride"])], ORACLE[f"uint8.{index}.sub"])
    given = (placed / np.float32(255) - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    stride = int(ORACLE[f"out.{index}.stride"])
    np.testing.assert_allclose(given.transpose(2, 0, 1).ravel()[::stride], ORACLE[f"out.{index}.sub"], atol=1e-6)


def test_stretch_matches_zoo_cifar() -> None:
    canvas = recipe.load("tiny_darknet_cifar10").data.canvas
    placed = resize_to_canvas(waves(40, 32, 32), frame_for((32, 32), canvas, 0), canvas).astype(np.float32) / 255
    given = (placed - np.float32([0.4914, 0.4822, 0.4465])) / np.float32([0.2023, 0.1994, 0.2010])
    stride = int(ORACLE["cifar_out.stride"])
    np.testing.assert_allclose(given.transpose(2, 0, 1).ravel()[::stride], ORACLE["cifar_out.sub"], atol=1e-6)


@pytest.mark.parametrize(("size", "short"), [((40, 61), 24), ((61, 40), 0), ((33, 33), 30), ((10, 99), 0)])
def test_center_crop_and_its_frame(size: tuple[int, int], short: int) -> None:
    """A marked px of the image is at the position given by the frame."""
    canvas = CanvasConfig(size=(24, 24), fit="crop", short_side=short)
    image = np.zeros((*size, 3), np.uint8)
    image[size[0] // 2 - 2 : size[0] // 2 + 3, size[1] // 2 - 2 : size[1] // 2 + 3] = 255
    frame = frame_for(size, canvas, 0)
    placed = resize_to_canvas(image, frame, canvas)
    assert placed.shape == (24, 24, 3)
    bright = np.argwhere(placed[..., 0] > 127)
    found = [*bright.min(0)[::-1], *(bright.max(0)[::-1] + 1)]
    middle = torch.tensor([[size[1] // 2 - 2, size[0] // 2 - 2, size[1] // 2 + 3, size[0] // 2 + 3]]).float()
    np.testing.assert_allclose(frame.to_canvas(middle)[0], found, atol=1.0)
    np.testing.assert_allclose(frame.to_original(frame.to_canvas(middle)), middle, atol=1e-4)


def test_crop_of_a_smaller_image_is_filled() -> None:
    canvas = CanvasConfig(size=(10, 30), fit="crop", fill=7)
    placed = resize_to_canvas(np.full((20, 20, 3), 200, np.uint8), frame_for((20, 20), canvas, 0), canvas)
    assert (placed[:, 10:20] == 200).all()
    assert (placed[:, :10] == 7).all()
    assert (placed[:, 20:] == 7).all()


def test_folder_names_are_classes(pets: Path) -> None:
    assert splits(pets) == ["train", "val"]
    assert holds_classes(pets)
    train = open_classes(pets, "train")
    assert (train.names, train.kind, len(train)) == (("cat", "dog"), "folder", 6)
    assert train.counts().tolist() == [3, 3]
    for sample in train:
        assert abs(int(sample.image()[0, 0, 0]) // 100 - 1 - sample.label) == 0
    assert open_classes(pets / "train", "all").labels.tolist() == train.labels.tolist()
    assert train.subset([5, 0]).labels.tolist() == [1, 0]
    shutil.move(pets / "val", pets / "validation")
    assert len(open_classes(pets, "val")) == 4


def test_detection_set_is_not_a_classification_set(tiny_coco: Path) -> None:
    assert not holds_classes(tiny_coco)
    assert "coco, boxes, needed images with one class each" in rejection(lambda: open_classes(tiny_coco, "train"))


def test_yolo_folders_are_not_classes(tmp_path: Path) -> None:
    example_image(tmp_path / "train" / "images" / "1.png", 9)
    (tmp_path / "train" / "labels").mkdir()
    (tmp_path / "classes.txt").write_text("a\n")
    assert not holds_classes(tmp_path)


def test_splits_with_different_classes_are_rejected(pets: Path) -> None:
    example_image(pets / "val" / "emu" / "1.png", 9)
    for split in ("train", "val"):
        assert rejection(lambda split=split: open_classes(pets, split)).startswith(f"{pets / 'val' / 'emu'}: ")
    (pets / "train" / "emu").mkdir()
    assert open_classes(pets, "val").counts().tolist() == [2, 2, 1]
    message = rejection(lambda: open_classes(pets, "train"))  # nothing to learn it from
    assert message.startswith(f"{pets / 'train' / 'emu'}: holds no image (1 classes without images)")
    assert message.endswith("or move the folder if it is no class")  # not shortened


def test_missing_folder_split_or_images_are_rejected(pets: Path, tmp_path: Path) -> None:
    assert "there is no such folder or file" in rejection(lambda: open_classes(tmp_path / "nowhere", "train"))
    assert "no split 'test'; it holds train, val" in rejection(lambda: open_classes(pets, "test"))
    for file in (pets / "val").rglob("*.*"):
        file.unlink()
    assert "hold no image" in rejection(lambda: open_classes(pets, "val"))


def test_check_reports_unreadable_unused_and_shared_images(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pets / "train" / "cat" / "0.png").write_bytes(b"no image")
    (pets / "train" / "cat" / "notes.txt").write_text("x")
    (pets / "val" / "dog" / "same.png").symlink_to(pets / "train" / "cat" / "1.png")
    shutil.rmtree(pets / "val" / "cat")
    (pets / "val" / "cat").mkdir()
    found = check.check_folder(pets)
    assert [(one.kind, one.level) for one in found.findings] == [
        ("unreadable_image", "error"), ("not_a_image", "note"), ("class_without_image", "note"),
        ("shared_image", "note"),
    ]  # fmt: skip
    assert found.errors[0].file == str(pets / "train" / "cat" / "0.png")
    train = open_classes(pets, "train")
    report = class_check.check(train)
    kept = check.skip_bad(train, report)
    assert [kept.path(index) for index in range(len(kept))] == [train.path(index) for index in range(1, 6)]
    assert report.left_out() == [f"left out the image: {report.errors[0]}"]
    with pytest.raises(SystemExit) as ended:
        main(["data", "check", str(pets), "--report", str(pets / "report.json")])
    assert ended.value.code == 1
    assert "train: 6 images, 2 classes" in capsys.readouterr().out
    assert json.loads((pets / "report.json").read_text())["checked"]["val"] == {"images": 3, "classes": 2}


@pytest.mark.slow
@pytest.mark.parametrize("size", [(100, 150), (37, 20), (30, 300)])
def test_random_crop_statistics_match_torchvision(torchvision_ops: ModuleType, size: tuple[int, int]) -> None:
    """Moments of area, aspect and place over many draws; whole px inside the image. Very wide: the fallback."""
    count = 4000
    config = ClassAugmentConfig(area=(0.08, 1.0))
    draw = np.random.default_rng(0)
    top, left, bottom, right = np.array([random_crop(config, draw, size) for _ in range(count)]).T
    assert min(left.min(), top.min()) >= 0
    assert right.max() <= size[1]
    assert bottom.max() <= size[0]
    from torchvision.transforms import v2

    torch.manual_seed(0)
    params = v2.RandomResizedCrop.make_params
    crop, example_image = v2.RandomResizedCrop(8, (0.08, 1.0)), torch.zeros(3, *size)
    drawn = [params(crop, [example_image]) for _ in range(count)]
    theirs = np.array([[one["left"], one["top"], one["width"], one["height"]] for one in drawn], dtype=np.float64)
    ours = np.stack([left, top, right - left, bottom - top], axis=1)
    spread = theirs.std(0)
    assert (np.abs(ours.mean(0) - theirs.mean(0)) <= 5 * spread * np.sqrt(2 / count) + 1e-6).all()  # 5 standard errors
    np.testing.assert_allclose(ours.std(0), spread, rtol=0.08, atol=1e-6)


def test_show_draws_class_names_on_images(pets: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["data", "show", str(pets), "--split", "val", "--out", str(pets / "shown"), "--count", "3"])
    assert ended.value.code == 0
    shown = [read_image(file) for file in sorted((pets / "shown").glob("*.png"))]
    assert len(shown) == 3
    assert shown[0].shape[0] > 320  # a line of text under 320 px


def test_loader_gives_each_image_its_label(pets: Path) -> None:
    train = open_classes(pets, "train")
    loader = ClassLoader(train, CanvasConfig(size=(8, 8)), 3, seed=5)
    batches = list(loader.epoch(0))
    assert [batch.images.shape for batch in batches] == [(3, 3, 8, 8)] * 2
    seen = torch.cat([batch.images[:, 0, 0, 0] for batch in batches]).tolist()
    labels = torch.cat([batch.labels for batch in batches])
    assert labels.dtype == torch.int64
    assert [gray // 100 - 1 for gray in seen] == labels.tolist()
    assert sorted(seen) == [100, 101, 102, 200, 201, 202]
    assert [frame.size for frame in batches[0].frames] == [(20, 30)] * 3
    again = list(ClassLoader(train, CanvasConfig(size=(8, 8)), 3, seed=5, workers=1).epoch(0, skip=1))
    assert torch.equal(again[0].images, batches[1].images)
    halves = [next(ClassLoader(train, CanvasConfig(size=(8, 8)), 3, seed=5, rank=r, world=2).epoch(0)) for r in (0, 1)]
    assert torch.equal(torch.cat([half.images for half in halves]), torch.cat([batch.images for batch in batches]))
    assert [len(batch.labels) for batch in ClassLoader(train, CanvasConfig(size=(8, 8)), 4).epoch(0)] == [4]


def ramps(size: tuple[int, int]) -> np.ndarray:
    """(h, w, 3) RGB: red rises from left to right and green from top to bottom, both from 0 to 255."""
    red, green = np.meshgrid(*(np.linspace(0, 255, side) for side in size[::-1]))
    return np.stack([red, green, np.zeros(size)], -1).round().astype(np.uint8)


def write_ramps(file: Path, size: tuple[int, int]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), ramps(size)[:, :, ::-1])


def places_shown(batch: ClassBatch) -> np.ndarray:
    """(B, 2, H, W) image px, across and down, that the canvases of ramps show."""
    sizes = np.array([frame.size[::-1] for frame in batch.frames])[:, :, None, None]
    return batch.images[:, :2].numpy() / 255 * (sizes - 1) + 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "size"), [("png", (150, 200)), ("jpg", (150, 200)), ("jpg", (1600, 1200)), ("pixels", (150, 200))]
)
def test_loader_crops_match_their_frames(tmp_path: Path, kind: str, size: tuple[int, int]) -> None:
    """Each canvas matches its frame, mirrored in half the cases; large JPEGs are decoded at reduced size."""
    count, side = 40, 64
    train: Any = [SimpleNamespace(pixels=ramps(size), label=0, image_id=0, path="") for _ in range(count)]
    if kind != "pixels":
        for number in range(count):
            write_ramps(tmp_path / "train" / "one" / f"{number}.{kind}", size)
        train = open_classes(tmp_path, "train")
    config = ClassAugmentConfig(area=(0.08, 1.0), flip=0.5)
    (batch,) = ClassLoader(train, CanvasConfig(size=(side, side)), count, augment=config).epoch(0)
    assert batch.images.shape == (count, 3, side, side)
    centers = torch.arange(side) + 0.5
    grid = torch.stack([centers.expand(side, -1), centers[:, None].expand(-1, side)]).flatten(1).T  # (x, y) px
    mirrored = 0
    for shown, frame in zip(places_shown(batch), batch.frames, strict=True):
        if shown[0, 0, 0] > shown[0, 0, -1]:
            shown, mirrored = shown[:, :, ::-1], mirrored + 1
        wanted = frame.to_original(torch.cat([grid, grid], 1))[:, :2].T.reshape(2, side, side).numpy()
        near = 0.02 * max(size)  # of JPEG's losses; half a px of the window is lost at its edges
        np.testing.assert_allclose(shown, wanted, atol=near if kind == "jpg" else 1.6)
        assert frame.content[0] <= 1e-6
        assert frame.content[2] >= side - 1e-6
    assert 10 < mirrored < 30
    assert len({frame.scale for frame in batch.frames}) == count


def test_random_crops_depend_only_on_seed_step_and_index(pets: Path) -> None:
    for number in range(9):
        write_ramps(pets / "train" / "cat" / f"ramp{number}.png", (40, 50))
    config = ClassAugmentConfig(area=(0.1, 0.6), flip=0.5)
    train = open_classes(pets, "train")  # 15 images

    def epoch(number: int, batch: int = 6, skip: int = 0, **order: int) -> list[ClassBatch]:
        loader = ClassLoader(train, CanvasConfig(size=(8, 8)), batch, augment=config, **order)
        return list(loader.epoch(number, skip))

    first, other = epoch(0), epoch(1)
    seen = {(frame.path, frame.scale, frame.offset) for batch in (*first, *other) for frame in batch.frames}
    assert len(seen) == 24
    assert torch.equal(epoch(1, skip=1, workers=1)[0].images, other[1].images)
    halves = [epoch(1, 3, rank=rank, world=2)[1].images for rank in (0, 1)]
    assert torch.equal(torch.cat(halves), other[1].images)
    assert not torch.equal(epoch(0, seed=1)[0].images, first[0].images)


@pytest.mark.parametrize("workers", [0, 1])
def test_loader_names_unreadable_image(pets: Path, workers: int) -> None:
    (pets / "train" / "dog" / "deeper" / "1.JPG").write_bytes(b"")
    with closing(ClassLoader(open_classes(pets, "train"), CanvasConfig(size=(8, 8)), 6, workers=workers)) as loader:
        assert "1.JPG: is empty (0 bytes)" in rejection(lambda: list(loader.epoch(0)))


def test_training_canvas_of_classifiers() -> None:
    loaded = recipe.load("tiny_darknet_imagenet_224")
    assert (training_canvas(loaded).fit, training_canvas(loaded).size) == ("stretch", (224, 224))  # random windows
    whole = loaded.with_overrides(["train.class_augment.area=null"])
    assert (training_canvas(whole).fit, training_canvas(whole).size) == ("stretch", (280, 280))
    assert training_canvas(recipe.load("tiny_darknet_cifar10")).size == (32, 32)


def test_augmentation_of_the_other_task_is_rejected() -> None:
    message = rejection(lambda: recipe.load("tiny_darknet_cifar10", ["train.augment.mosaic=1"]))
    assert "train.augment: mosaic set; classify models use train.class_augment" in message
    assert "class_augment: flip" in rejection(lambda: recipe.load("yolov3_coco_416", ["train.class_augment.flip=1"]))
    both = ["train.class_augment.area=[0.1, 1]", "train.class_augment.pad=4"]
    assert "area and pad both choose a window" in rejection(lambda: recipe.load("tiny_darknet_cifar10", both))
    both = ["train.class_augment.area=[0.1, 1]", "train.class_augment.canvas=[90, 90]"]
    assert "canvas is for whole images" in rejection(lambda: recipe.load("tiny_darknet_imagenet_224", both))


@pytest.fixture(params=["", "ILSVRC/Data/CLS-LOC"])
def imagenet(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """A data set's root and the folder in it that holds train (two classes) and a flat val (two images)."""
    inside = tmp_path / request.param
    for number, wordnet_id in enumerate((GOLDFISH, TENCH)):
        example_image(inside / "train" / wordnet_id / f"{wordnet_id}_1.JPEG", number)
        example_image(inside / "val" / f"ILSVRC2012_val_{number + 1:08d}.JPEG", number)
    return tmp_path, inside


GROUND_TRUTHS = {
    "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": "450\n449\n",
    "LOC_val_solution.csv": f"ImageId,PredictionString\nILSVRC2012_val_00000002,{TENCH} 1 2 3 4\n"
    f"ILSVRC2012_val_00000001,{GOLDFISH} 1 2 3 4 {GOLDFISH} 5 6 7 8 \n",
    "val.txt": "ILSVRC2012_val_00000001.JPEG 1\nILSVRC2012_val_00000002.JPEG 0\n",
}


@pytest.mark.parametrize("where", GROUND_TRUTHS)
def test_imagenet_layout_as_downloaded(imagenet: tuple[Path, Path], where: str) -> None:
    """Caffe's numbers are places among the sorted WordNet ids (tench 0, goldfish 1), the devkit's are its own."""
    root, _ = imagenet
    (root / where).parent.mkdir(parents=True, exist_ok=True)
    (root / where).write_text(GROUND_TRUTHS[where])
    train, val = open_classes(root, "train"), open_classes(root, "val")
    assert train.kind == val.kind == "imagenet"
    assert train.names == val.names == ("tench", "goldfish")
    assert [Path(train.path(index)).name[:9] for index in range(2)] == [TENCH, GOLDFISH]
    assert train.labels.tolist() == [0, 1]
    assert val.labels.tolist() == [1, 0]
    assert holds_classes(root)


def test_imagenet_class_names_in_both_orders() -> None:
    names = imagenet_names()
    ids = list(names)
    assert ids.index(KIT_FOX) == 0
    assert (ids.index(TENCH), ids.index(GOLDFISH)) == (448, 449)
    # The first five lines of the devkit's truth, and of Caffe's list of the same images.
    for own, sorted_place in ((490, 65), (361, 970), (171, 230), (822, 809), (297, 516)):
        assert ids[own - 1] == sorted(ids)[sorted_place]
    assert tuple(names[one] for one in sorted(ids)) == recipe.class_names("imagenet")


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ("449\n1001\n", "line 2: '1001' is not one of ImageNet's 1000 classes"),
        ("449\n0\n", "line 2: '0' is not one"),
        ("449\ntench\n", "line 2: 'tench' is not one"),
        ("449\n", "says nothing of this image"),
        ("449\n1\n", f"says class {KIT_FOX}, which is not in train"),
    ],
)
def test_imagenet_with_invalid_ground_truth_is_rejected(imagenet: tuple[Path, Path], truth: str, message: str) -> None:
    root, inside = imagenet
    assert "none of ILSVRC2012_validation_ground_truth.txt" in rejection(lambda: open_classes(root, "val"))
    (root / "ILSVRC2012_validation_ground_truth.txt").write_text(truth)
    assert message in rejection(lambda: open_classes(root, "val"))
    shutil.rmtree(inside / "val")
    example_image(inside / "val" / "n99999999" / "1.JPEG", 1)
    assert "no folder for this class" in rejection(lambda: open_classes(root, "val"))


def test_cropped_boxes_keep_image_pixels(tmp_path: Path) -> None:
    """A box is widened to whole px; what of it is outside, crowd regions and boxes outside altogether go."""
    image = smooth(40, 60)
    root = tmp_path / "boxes"
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        cv2.imwrite(str(root / split / "a.png"), image[..., ::-1])
        boxes = [([2.5, 3.2, 10, 8], 1, 0), ([50, 30, 20, 20], 2, 0), ([0, 0, 30, 30], 1, 1), ([100, 100, 5, 5], 1, 0)]
        rows = [
            {"id": i, "image_id": 1, "bbox": box, "category_id": category, "area": 1, "iscrowd": crowd}
            for i, (box, category, crowd) in enumerate(boxes, 1)
        ]
        tree = {
            "images": [{"id": 1, "file_name": "a.png", "height": 40, "width": 60}],
            "annotations": rows,
            "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}],
        }
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"{split}.json").write_text(json.dumps(tree))
    out = tmp_path / "cut"
    with pytest.raises(SystemExit) as ended:
        main(["data", "convert", str(root), "--to", "folder", "-o", str(out)])
    assert ended.value.code == 0
    np.testing.assert_array_equal(read_image(out / "train" / "red" / "a_0.png"), image[3:12, 2:13])
    np.testing.assert_array_equal(read_image(out / "val" / "blue" / "a_1.png"), image[30:, 50:])
    found = open_classes(out, "train")
    assert (found.names, found.counts().tolist()) == (("blue", "red"), [1, 1])
    shutil.rmtree(out)
    summary = class_crops.crop(root, out)
    assert "train: 2 images from 1 (1 red, 1 blue)" in summary
    assert "left out: 1 crowd region, 1 box without a px inside the image" in summary
    assert "is there already" in rejection(lambda: class_crops.crop(root, out))


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", " x"])
def test_class_names_invalid_as_folders_are_rejected(tmp_path: Path, tiny_coco: Path, name: str) -> None:
    root = tmp_path / "copy"
    shutil.copytree(tiny_coco, root)
    for file in (root / "annotations").iterdir():
        tree = json.loads(file.read_text())
        tree["categories"][0]["name"] = name
        file.write_text(json.dumps(tree))
    assert "rename it" in rejection(lambda: class_crops.crop(root, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def test_hidden_folders_are_ignored_and_unknown_folders_named(imagenet: tuple[Path, Path], pets: Path) -> None:
    root, inside = imagenet
    (root / "val.txt").write_text(GROUND_TRUTHS["val.txt"])
    for folder in (inside / "train", inside / "val", pets / "train"):
        example_image(folder / ".ipynb_checkpoints" / "1.png", 1)
    example_image(pets / "test" / ".thumbs" / "1.png", 1)
    assert splits(root) == ["train", "val"]
    assert open_classes(root, "val").labels.tolist() == [1, 0]
    assert splits(pets) == ["train", "val"]
    example_image(root / "bare" / ".thumbs" / "1.png", 1)
    assert "no data set found" in rejection(lambda: holds_classes(root / "bare"))
    (inside / "train" / "tmp").mkdir()
    assert rejection(lambda: splits(root)).startswith(f"{inside / 'train' / 'tmp'}: not named after a WordNet id")


def yolo(root: Path, split: str) -> Path:
    """One image with one box of the class `a`, in a split, or with "" in none."""
    example_image(root / "images" / split / "1.png", 9)
    (root / "labels" / split).mkdir(parents=True)
    (root / "labels" / split / "1.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (root / "classes.txt").write_text("a\n")
    return root


def test_crops_of_a_set_without_splits_can_be_opened(tmp_path: Path) -> None:
    class_crops.crop(yolo(tmp_path / "boxes", ""), tmp_path / "cut")
    assert open_classes(tmp_path / "cut", "all").counts().tolist() == [1]
    assert [file.name for file in (tmp_path / "cut").iterdir()] == ["a"]
    message = rejection(lambda: class_crops.crop(yolo(tmp_path / "odd", "summer"), tmp_path / "none"))
    assert "split 'summer' is not a split of classification data" in message
    assert not (tmp_path / "none").exists()


def test_ambiguous_detection_set_is_not_a_classification_set(tmp_path: Path, tiny_coco: Path) -> None:
    root = tmp_path / "both"
    shutil.copytree(tiny_coco, root)
    yolo(root, "train")
    example_image(root / "train" / "some" / "1.png", 9)
    for use in (lambda: holds_classes(root), lambda: open_classes(root, "train"), lambda: check.check_folder(root)):
        assert "may be coco or yolo_txt; choose with --kind" in rejection(use)


def test_images_in_symlinked_folders_are_found_once(pets: Path, tmp_path: Path) -> None:
    cat = pets / "train" / "cat"
    example_image(tmp_path / "elsewhere" / "far.png", 5)
    (tmp_path / "elsewhere" / "back").symlink_to(cat)
    (cat / "more").symlink_to(tmp_path / "elsewhere")
    (cat / "again").symlink_to(cat / "more")
    (cat / "up").symlink_to(pets)
    train = open_classes(pets, "train")
    assert train.counts().tolist() == [4, 3]
    assert "far.png" in {Path(train.path(index)).name for index in range(len(train))}


def test_skip_bad_must_not_empty_a_class(pets: Path) -> None:
    for file in (pets / "train" / "cat").iterdir():
        file.write_bytes(b"no image")
    loaded = recipe.load("tiny_darknet_cifar10", [f"data.root={pets}", "data.kind=folder"])
    message = rejection(lambda: open_checked(tasks.of(loaded), loaded, Cleaning(skip_bad=True), Accelerator(cpu=True)))
    assert "class cat has no image left in train" in message
