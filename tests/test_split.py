"""`data split`: what stays together, the share of each class, and the labels that are written."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

import class_folder
from boxwright import cli
from boxwright.data.dataset import Boxes, Dataset
from boxwright.data.layout import Source
from boxwright.datatools import image_hash, split, stratify
from boxwright.datatools.groups import group, keys_of
from boxwright.datatools.split import Division, parse_parts
from boxwright.errors import InputError
from boxwright.formats import open_boxes, open_classes, splits

HALVES = {"train": 0.5, "val": 0.5}


def photo(seed: int, size: tuple[int, int] = (96, 128)) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Soft blobs, as unlike those of another seed as two photographs."""
    coarse = np.random.default_rng(seed).integers(0, 220, (7, 9, 3)).astype(np.uint8)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)


def encoded(image: np.ndarray[Any, Any], quality: int) -> np.ndarray[Any, Any]:
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1))


def yolo(root: Path, labels: dict[str, list[int]], folder: str = "train") -> Path:
    """`root`/`folder`/images and labels: image name -> the classes of its boxes, side by side."""
    for kind in ("images", "labels"):
        (root / folder / kind).mkdir(parents=True, exist_ok=True)
    for seed, (name, classes) in enumerate(labels.items()):
        cv2.imwrite(str(root / folder / "images" / name), photo(seed + 1000 * len(folder)))
        rows = [f"{label} {(n + 1) / 10} 0.5 0.1 0.25" for n, label in enumerate(classes)]
        (root / folder / "labels" / name).with_suffix(".txt").write_text("\n".join(rows))
    (root / "classes.txt").write_text("car\ntruck")
    return root


def contents(dataset: Dataset) -> dict[str, list[Any]]:
    """Image name -> boxes and classes."""
    return {Path(each.path).name: [each.boxes.tolist(), each.labels.tolist()] for each in dataset}


def unread(paths: list[str], labels: list[list[int]] | None = None, names: tuple[str, ...] = ("a", "b")) -> Dataset:
    """A data set of files that do not exist."""
    labels = labels or [[0] for _ in paths]
    flat = [label for own in labels for label in own]
    rows = Boxes.without_ids(np.tile([0.0, 0, 9, 9], (len(flat), 1)), flat, list(range(len(flat))))
    source = Source("yolo_txt", Path("x"), "train", Path("x"))
    return Dataset.without_ids(source, names, paths, ["x.txt"], rows, [len(own) for own in labels])


class TestHash:
    def test_by_hand(self) -> None:
        """Gray values rise to the right and stay the same downwards: all right bits are 1, all lower bits 0."""
        ramp = np.tile(np.arange(0, 90, 10, dtype=np.uint8), (9, 1))
        image = np.repeat(ramp[..., None], 3, axis=2)
        assert image_hash.image_hash(image) == b"\xff" * 8 + b"\0" * 8
        assert image_hash.image_hash(image.transpose(1, 0, 2)) == b"\0" * 8 + b"\xff" * 8
        notch = image.copy()
        notch[0, 1] = 0  # not brighter than the first, and the pixel below is brighter
        assert image_hash.image_hash(notch) == b"\x7f" + b"\xff" * 7 + b"\x40" + b"\0" * 7

    def test_edited_copies_are_near_duplicates(self, tmp_path: Path) -> None:
        first = photo(1)
        brighter = np.clip(first * 1.15 + 8, 0, 255).astype(np.uint8)
        half = cv2.resize(first, (64, 48), interpolation=cv2.INTER_AREA)
        images = [photo(2), first, photo(3), encoded(first, 40), brighter, *map(photo, range(4, 20)), half]
        files = [str(tmp_path / f"{number}.png") for number in range(len(images))]
        for file, image in zip(files, images, strict=True):
            cv2.imwrite(file, image)
        expected = [*range(21), 1]
        expected[3] = expected[4] = 1
        assert image_hash.near_duplicates(files).tolist() == expected
        assert image_hash.near_duplicates(images).tolist() == expected  # as arrays, in memory

    def test_flat_images_match_only_in_equal_color(self) -> None:
        gray, red, noisy = (np.full((40, 40, 3), color, np.uint8) for color in ((90,) * 3, (250, 20, 8), (90,) * 3))
        noisy[20:] += 3
        assert image_hash.near_duplicates([gray, red, noisy, gray.copy()]).tolist() == [0, 1, 2, 0]

    def test_unreadable_image_has_no_duplicates(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(b"nothing")
        files = [str(tmp_path / "a.png"), str(tmp_path / "missing.png"), str(tmp_path / "a.png")]
        assert image_hash.near_duplicates(files).tolist() == [0, 1, 2]

    def test_groups_match_a_search_over_all_pairs(self) -> None:
        """Clusters with chains, against a search over all pairs of hashes."""
        draw = np.random.default_rng(0)
        bits = np.repeat(draw.integers(0, 2, (30, 128)), 10, axis=0)
        for row in range(1, len(bits)):
            if row % 10:  # from the one before it: 3 to 9 bits, of which 6 are the limit
                bits[row] = bits[row - 1]
                bits[row, draw.choice(128, draw.integers(3, 10), replace=False)] ^= 1
        order = draw.permutation(len(bits))
        hashes = np.packbits(bits[order].astype(np.uint8), axis=1)
        near = (bits[order][:, None] != bits[order][None]).sum(axis=2) <= 6
        expected = np.arange(len(bits))
        for _ in range(len(bits)):  # the lowest label of any neighbor, until nothing changes
            expected = np.where(near, expected[None], len(bits)).min(axis=1)
        assert 40 < len(set(expected.tolist())) < 200
        assert image_hash._connect(hashes).tolist() == expected.tolist()

    def test_cached_hashes_are_invalidated_by_changed_files(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(image_hash, "MIN_CACHED", 1)
        files, read = [str(tmp_path / name) for name in ("a.png", "b.png")], []
        for seed, file in enumerate(files):
            cv2.imwrite(file, photo(seed))
        real = image_hash.read_image
        monkeypatch.setattr(image_hash, "read_image", lambda *words: read.append(words) or real(*words))
        cache = tmp_path / "cache"
        for _ in range(2):
            assert image_hash.near_duplicates(files, cache).tolist() == [0, 1]
        assert len(read) == 2
        cv2.imwrite(files[1], photo(0))
        assert image_hash.near_duplicates(files, cache).tolist() == [0, 0]
        for file in cache.iterdir():
            file.write_bytes(b"damaged")
        assert image_hash.near_duplicates(files, cache).tolist() == [0, 0]


class TestGroups:
    @pytest.mark.parametrize(
        ("by", "paths", "groups"),
        [
            (
                "image",
                ["s/a_jpg.rf.0a1.jpg", "s/b_jpg.rf.0a1.jpg", "t/a_jpg.rf.Zz9.jpg", "s/a.jpg", "t/a.jpg", "s/a.rf.jpg"],
                [0, 1, 0, 3, 4, 5],
            ),
            ("folder", ["s/a.jpg", "t/a.jpg", "s/b.jpg"], [0, 1, 0]),
            (
                "video",
                ["s/clip_001.jpg", "s/clip_002.jpg", "t/clip_003.jpg", "s/tree.jpg", "s/clip-frame 4.png",
                 "s/clip2_1.jpg", "s/0001.jpg", "s/0002.jpg", "s/roof (2).jpg", "s/roof (11).jpg"],
                [0, 0, 2, 3, 0, 5, 6, 6, 8, 8],
            ),
            ("video", ["s/x_mp4-12_jpg.rf.0a.jpg", "s/x_mp4-7_jpg.rf.0b.jpg", "s/y_mp4-7_jpg.rf.0c.jpg"], [0, 0, 2]),
            ("/(p[0-9]+)_", ["s/p1_a.jpg", "s/p12_a.jpg", "t/p1_b.jpg"], [0, 1, 0]),
        ],
    )  # fmt: skip
    def test_by_hand(self, by: str, paths: list[str], groups: list[int]) -> None:
        assert group(keys_of(unread(paths), by)).tolist() == groups

    @pytest.mark.parametrize(
        ("by", "words"),
        [
            ("nothing", "--group: found 'nothing', needed one of image, folder, video, scene, or a regular"),
            ("(", r"--group: found '\(' \("),
            ("(p[0-9])", r"s/x\.jpg: does not match --group '\(p\[0-9\]\)', needed a match for every image"),
            ("scene", r"s/p1\.jpg: found no 'scene' in its labels"),
        ],
    )
    def test_invalid_group_rules_are_rejected(self, by: str, words: str) -> None:
        with pytest.raises(InputError, match=words) as caught:
            keys_of(unread(["s/p1.jpg", "s/x.jpg"]), by)
        assert len(str(caught.value)) <= 200


class TestStratify:
    def counts(self, dataset: Dataset, split_of: np.ndarray[Any, Any], number: int) -> list[int]:
        """Images with a, with b, with none."""
        own = [set(dataset[index].labels.tolist()) for index in np.flatnonzero(split_of == number).tolist()]
        return [sum(0 in each for each in own), sum(1 in each for each in own), sum(not each for each in own)]

    def test_classes_by_hand(self) -> None:
        """40 images with a, 30 with b, 20 with both, 10 with none: 0.8 and 0.1 of 60, 50 and 10 are whole numbers."""
        labels = [[0, 0]] * 40 + [[1]] * 30 + [[0, 1]] * 20 + [[]] * 10
        order = np.random.default_rng(1).permutation(100).tolist()
        dataset = unread([str(n) for n in range(100)], [labels[n] for n in order])
        for seed in range(5):
            split_of = stratify.stratify(dataset, np.arange(100), [0.8, 0.1, 0.1], seed)
            assert [self.counts(dataset, split_of, number) for number in range(3)] == [
                [48, 40, 8],
                [6, 5, 1],
                [6, 5, 1],
            ]

    def test_groups_by_hand(self) -> None:
        """20 groups of 5 images: 10 groups of a, 10 of b. Halves have 5 groups of each."""
        labels = [[0]] * 50 + [[1]] * 50
        dataset = unread([str(n) for n in range(100)], labels)
        groups = np.arange(100) // 5
        split_of = stratify.stratify(dataset, groups, [0.5, 0.5])
        assert [self.counts(dataset, split_of, number) for number in range(2)] == [[25, 25, 0], [25, 25, 0]]
        assert all(len(set(split_of[groups == each].tolist())) == 1 for each in range(20))

    def test_largest_group_is_assigned_first(self) -> None:
        """Groups of 6, 1, 1, 1, 1 images in halves of 5: in the order of the images, the last would unbalance them."""
        dataset = unread([str(n) for n in range(10)])
        split_of = stratify.stratify(dataset, np.array([0, 1, 2, 3, *[4] * 6]), [0.5, 0.5])
        assert sorted(np.bincount(split_of).tolist()) == [4, 6]

    def test_rarest_class_is_assigned_first(self) -> None:
        """Five groups have 3, 1, 2, 1, 3 images with a, and 2, 1, 0, 0, 1 with b. Halves of b are the first group and
        those of the others; then halves of a are possible in one way only."""
        labels = [[0], [0, 1], [0], [1], [1], [0], [0], [0], [0], [0], [0, 1], [0]]
        groups = np.array([0, 0, 0, 0, 1, 1, 2, 2, 3, 4, 4, 4])
        dataset = unread([str(n) for n in range(12)], labels)
        for seed in range(4):
            split_of = stratify.stratify(dataset, groups, [0.5, 0.5], seed)
            assert [self.counts(dataset, split_of, number) for number in range(2)] == [[5, 2, 0], [5, 2, 0]]
            assert set(split_of[groups == 0].tolist()) == set(split_of[groups == 2].tolist())

    def test_crowds_and_unknown_categories_do_not_count(self) -> None:
        dataset = unread(["x", "y", "z"], [[-1], [0, -1, 0], [1, 0]])
        crowd = np.array([False] * 4 + [True, False])
        images, labels, classes = stratify.image_classes(replace(dataset, rows=replace(dataset.rows, crowd=crowd)))
        assert (images.tolist(), labels.tolist(), classes) == ([1, 2, 0], [0, 0, 2], 3)

    @pytest.mark.parametrize("shares", [[0.98, 0.01, 0.01], [0.01, 0.01, 0.98]])
    def test_no_split_is_empty(self, shares: list[float]) -> None:
        for groups in (np.arange(3), np.array([0, 0, 0, 1, 1, 2])):
            split_of = stratify.stratify(unread(["x"] * len(groups)), groups, shares)
            assert set(split_of.tolist()) == {0, 1, 2}
            assert all(len(set(split_of[groups == each].tolist())) == 1 for each in range(3))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("train=0.8", "sum to 0.8, needed 1"),
        ("train=0.8,val=0.3", "sum to 1.1, needed 1"),
        ("train=0.5,train=0.5", "found 'train=0.5', needed different names"),
        ("train=0.5,Train=0.5", "found 'Train=0.5', needed different names"),
        ("train=0.6,val=0.2,valid=0.2", "found 'valid=0.2', needed different names"),  # both are val
        ("train=1.5,val=-0.5", "found 'train=1.5'"),
        ("train=nan,val=1", "found 'train=nan'"),
        ("../x=0.5,val=0.5", r"found '\.\./x=0.5'"),
        ("train", "found 'train'"),
        ("", "found ''"),
    ],
)
def test_invalid_parts_are_rejected(value: str, words: str) -> None:
    with pytest.raises(InputError, match=f"--parts: .*{words}"):
        parse_parts(value)


def test_parts_are_parsed() -> None:
    assert parse_parts("train=0.7, val=0.2,test=.1") == {"train": 0.7, "val": 0.2, "test": 0.1}


NAMES = {f"{n}_jpg.rf.{copy:08x}.jpg": [n % 2] for n in range(10) for copy in range(2)}


def test_parts_are_disjoint_and_complete(tmp_path: Path) -> None:
    """Ten photographs with two copies each: the copies stay together, and each half has five of them."""
    root = yolo(tmp_path / "from", NAMES)
    summary = split.split(root, tmp_path / "to", Division(parts=HALVES))
    before = contents(open_boxes(root, "train"))
    parts = {name: contents(open_boxes(tmp_path / "to", name)) for name in splits(tmp_path / "to")}
    assert {name: len(part) for name, part in parts.items()} == {"train": 10, "val": 10}
    assert parts["train"] | parts["val"] == before
    sources = {name: {image.split("_")[0] for image in part} for name, part in parts.items()}
    assert not sources["train"] & sources["val"]
    assert [sum(labels == [0] for _, labels in part.values()) for part in parts.values()] in ([4, 6], [6, 4])
    assert "20 images in 10 groups: train 10 (50.0%), val 10 (50.0%)" in summary
    dataset = open_boxes(tmp_path / "to", "val")
    original = root / "train" / "images" / Path(dataset.path(0)).name
    assert original.samefile(dataset.path(0))


@pytest.mark.slow
def test_split_depends_on_the_seed(tmp_path: Path) -> None:
    root = yolo(tmp_path / "from", NAMES)

    def validation(seed: int, out: str) -> set[str]:
        split.split(root, tmp_path / out, Division(parts=HALVES, seed=seed))
        return set(contents(open_boxes(tmp_path / out, "val")))

    assert validation(0, "a") == validation(0, "b")
    assert len({frozenset(validation(seed, f"s{seed}")) for seed in range(1, 5)}) > 1


@pytest.mark.slow
def test_near_duplicates_stay_together(tmp_path: Path) -> None:
    """Each photograph has a copy under another name: with another compression, or brighter."""
    root = yolo(tmp_path / "from", {f"{letter}.png": [0] for letter in "abcdefghijklmnopqrst"})
    folder = root / "train" / "images"
    for number in range(10):
        image = photo(50 + number)
        cv2.imwrite(str(folder / f"{'abcdefghij'[number]}.png"), image)
        other = encoded(image, 60) if number % 2 else np.clip(image * 1.1 + 5, 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{'klmnopqrst'[number]}.png"), other)
    split.split(root, tmp_path / "to", Division(parts=HALVES))
    for name in HALVES:
        found = {Path(path).stem for path in contents(open_boxes(tmp_path / "to", name))}
        assert all((a in found) == (b in found) for a, b in zip("abcdefghij", "klmnopqrst", strict=True))
    summary = split.split(root, tmp_path / "other", Division(parts=HALVES, near=False))
    assert "20 images in 20 groups" in summary


def coco(root: Path, split_name: str, scenes: list[str], first: int = 1) -> Path:
    """A COCO split with an image, an outline, a crowd region and further keys for each scene's tile."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "images" / split_name).mkdir(parents=True)
    images, annotations = [], []
    for number, scene in enumerate(scenes, first):
        name = f"{split_name}{number}.png"
        cv2.imwrite(str(root / "images" / split_name / name), photo(number + len(split_name)))
        images.append({"id": number, "file_name": name, "width": 128, "height": 96, "scene": scene, "gsd": number})
        outline = [[number, 1, number + 10.5, 1, number + 5, 30]]
        keys = {"image_id": number, "category_id": 4, "difficult": number % 2}
        box, area = [number, 1, 10.5, 29], 152.25
        annotations.append({"id": 2 * number, "bbox": box, "area": area, "segmentation": outline, "iscrowd": 0} | keys)
        annotations.append({"id": 2 * number + 1, "bbox": [0, 0, 9, 8], "area": 72, "iscrowd": 1} | keys)
    tree = {"images": images, "annotations": annotations, "categories": [{"id": 4, "name": "ship", "hull": "steel"}]}
    (root / "annotations" / f"{split_name}.json").write_text(json.dumps(tree | {"info": {"year": 2026}}))
    return root


def entries(root: Path, names: list[str], key: str) -> list[Any]:
    """The entries of all JSONs, sorted by id, with the image's name for its path."""
    trees = [json.loads((root / "annotations" / f"{name}.json").read_text()) for name in names]
    assert all(tree["info"] == {"year": 2026} and tree["categories"][0]["hull"] == "steel" for tree in trees)
    found = [entry for tree in trees for entry in tree[key]]
    for entry in found:
        if "file_name" in entry:
            entry["file_name"] = Path(entry["file_name"]).name
    return sorted(found, key=lambda entry: int(entry["id"]))


def test_all_keys_of_a_coco_file_are_kept(tmp_path: Path) -> None:
    """And tiles of a scene stay together by themselves."""
    scenes = ["harbor", "coast", "harbor", "river", "coast", "lake", "river", "harbor"]
    root = coco(tmp_path / "from", "train", scenes)
    split.split(root, tmp_path / "to", Division(parts=HALVES))
    for key in ("images", "annotations"):
        assert entries(tmp_path / "to", ["train", "val"], key) == entries(root, ["train"], key)
    of_part = [{entry["scene"] for entry in entries(tmp_path / "to", [name], "images")} for name in HALVES]
    assert not of_part[0] & of_part[1]
    assert of_part[0] | of_part[1] == set(scenes)


def test_named_splits_are_divided_together_and_the_rest_is_kept(tmp_path: Path) -> None:
    """train and val number their images and boxes from 1 alike."""
    root = coco(coco(coco(tmp_path / "from", "train", list("abcd")), "val", list("efgh")), "test", list("ij"))
    with pytest.raises(
        InputError, match="holds the splits train, val, test; name those to divide with --split"
    ) as caught:
        split.split(root, tmp_path / "to", Division(parts=HALVES))
    assert len(str(caught.value)) - len(str(root)) <= 160
    with pytest.raises(InputError, match=r"--parts: val is a split of .* that would stay unchanged"):
        split.split(root, tmp_path / "to", Division(parts=HALVES, splits=["train"]))
    with pytest.raises(InputError, match="no split 'nix'; it holds train, val, test"):
        split.split(root, tmp_path / "to", Division(parts=HALVES, splits=["nix"]))
    split.split(root, tmp_path / "to", Division(parts=HALVES, splits=["train", "valid"]))
    before = contents(open_boxes(root, "train")) | contents(open_boxes(root, "val"))
    parts = [open_boxes(tmp_path / "to", name) for name in HALVES]
    assert contents(parts[0]) | contents(parts[1]) == before
    assert [len(part) for part in parts] == [4, 4]
    ids = [number for part in parts for number in part.images.ids.tolist()]
    assert sorted(ids) == list(range(1, 9))
    assert contents(open_boxes(tmp_path / "to", "test")) == contents(open_boxes(root, "test"))


def test_splits_with_different_classes_are_rejected(tmp_path: Path) -> None:
    root = coco(coco(tmp_path / "from", "train", list("ab")), "val", list("cd"))
    file = root / "annotations" / "val.json"
    file.write_text(file.read_text().replace("ship", "boat"))
    with pytest.raises(InputError, match="classes of val differ from those of train"):
        split.split(root, tmp_path / "to", Division(parts=HALVES, splits=["train", "val"]))


def test_orphan_annotation_is_an_error(tmp_path: Path) -> None:
    root = coco(tmp_path / "from", "train", list("abcd"))
    file = root / "annotations" / "train.json"
    tree = json.loads(file.read_text())
    tree["annotations"][0]["image_id"] = 99
    file.write_text(json.dumps(tree))
    with pytest.raises(InputError, match="there is no image 99"):
        split.split(root, tmp_path / "to", Division(parts=HALVES))
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("layout", ["voc", "dota", "line_txt", "yolo_txt"])
def test_layout_is_preserved(tmp_path: Path, layout: str) -> None:
    from boxwright.datatools.convert import convert

    coco_root = coco(tmp_path / "coco", "all", list("abcdef"))
    convert(coco_root, layout, tmp_path / "from")
    summary = split.split(tmp_path / "from", tmp_path / "to", Division(parts={"train": 2 / 3, "val": 1 / 3}))
    parts = [open_boxes(tmp_path / "to", name) for name in HALVES]
    assert [(part.kind, len(part)) for part in parts] == [(layout, 4), (layout, 2)]
    assert contents(parts[0]) | contents(parts[1]) == contents(open_boxes(tmp_path / "from", "all"))
    assert "cannot hold" not in summary


def test_image_lists(tmp_path: Path) -> None:
    """Label Studio's folders: all images in one folder."""
    root = tmp_path / "from"
    names = {f"ab12cd3{n}-photo_{n}.png": [0] * n for n in range(4)}
    yolo(root, names, "all")
    for kind in ("images", "labels"):
        (root / "all" / kind).rename(root / kind)
    (root / "all").rmdir()
    summary = split.split(root, tmp_path / "to", Division(parts=HALVES), lists=True)
    assert {file.name for file in (tmp_path / "to").iterdir()} == {"train.txt", "val.txt", "classes.txt", "data.yaml"}
    described = yaml.safe_load((tmp_path / "to" / "data.yaml").read_text())
    assert described == {"train": "train.txt", "val": "val.txt", "names": {0: "car", 1: "truck"}}
    parts = [open_boxes(tmp_path / "to", name) for name in HALVES]
    assert contents(parts[0]) | contents(parts[1]) == contents(open_boxes(root, "all"))
    assert [len(part) for part in parts] == [2, 2]
    assert "train: list of 2 images" in summary
    coco_root = coco(tmp_path / "coco", "train", list("ab"))
    with pytest.raises(InputError, match="--lists: labels are coco, needed yolo_txt; leave --lists out"):
        split.split(coco_root, tmp_path / "x", Division(parts=HALVES), lists=True)


def test_image_lists_find_labels_of_nested_images_folders(tmp_path: Path) -> None:
    """Also of images/images/a.png, whose labels replace the first folder `images`."""
    root = yolo(tmp_path / "from", {f"{letter}.png": [0] for letter in "abcd"})
    for kind in ("images", "labels"):
        (root / "train" / kind).rename(root / kind)
    (root / "images" / "images").mkdir()
    (root / "labels" / "images").mkdir()
    (root / "images" / "a.png").rename(root / "images" / "images" / "a.png")
    (root / "labels" / "a.txt").rename(root / "labels" / "images" / "a.txt")
    (root / "train").rmdir()
    split.split(root, tmp_path / "to", Division(parts=HALVES, splits=["all"]), lists=True)
    assert sum(len(open_boxes(tmp_path / "to", name).rows) for name in HALVES) == 4


def test_too_few_groups_is_an_error(tmp_path: Path) -> None:
    root = yolo(tmp_path / "from", {f"x_jpg.rf.{n:08x}.jpg": [0] for n in range(5)})
    with pytest.raises(
        InputError, match=r"5 images in 1 group whose images stay together .*, needed 2; see --group"
    ) as caught:
        split.split(root, tmp_path / "to", Division(parts=HALVES))
    assert len(str(caught.value)) - len(str(root)) <= 200


def test_class_folders(tmp_path: Path) -> None:
    root = class_folder.write(tmp_path / "from", {"all": 10})
    summary = split.split(root / "all", tmp_path / "to", Division(parts={"train": 0.8, "val": 0.1, "test": 0.1}))
    parts = [open_classes(tmp_path / "to", name) for name in ("train", "val", "test")]
    assert [part.counts().tolist() for part in parts] == [[8, 8, 8], [1, 1, 1], [1, 1, 1]]
    found = {Path(part.path(n)).relative_to(tmp_path / "to").parts[1:] for part in parts for n in range(len(part))}
    assert found == {file.relative_to(root / "all").parts for file in (root / "all").glob("*/*.png")}
    assert "with blue: train 8 (80.0%), val 1 (10.0%), test 1 (10.0%)" in summary
    with pytest.raises(InputError, match="leave --to and --lists out"):
        split.split(root / "all", tmp_path / "x", Division(parts=HALVES), lists=True)


def test_several_sets_of_class_folders_are_rejected(tmp_path: Path) -> None:
    for name in "ab":
        class_folder.write(tmp_path / name, {"train": 2})
    (tmp_path / "both.yaml").write_text("sets: [a, b]\n")
    with pytest.raises(InputError, match="lists several sets of class folders, needed one; divide each by itself"):
        split.split(tmp_path / "both.yaml", tmp_path / "to", Division(parts=HALVES))


def test_class_with_one_image_has_a_folder_in_every_split(tmp_path: Path) -> None:
    """Its label is the index of its folder in every split."""
    root = class_folder.write(tmp_path / "from", {"all": 5}) / "all"
    for file in sorted((root / "blue").iterdir())[1:]:
        file.unlink()
    split.split(root, tmp_path / "to", Division(parts={"train": 0.8, "val": 0.2}))
    parts = [open_classes(tmp_path / "to", name) for name in HALVES]
    assert [part.counts().tolist() for part in parts] == [[1, 4, 4], [0, 1, 1]]


def test_class_folders_of_several_splits(tmp_path: Path) -> None:
    """Both have blue/0.png."""
    root = class_folder.write(tmp_path / "from", {"train": 2, "val": 2})
    with pytest.raises(InputError, match=r"another image of .* has the same name in its class; rename one"):
        split.split(root, tmp_path / "to", Division(parts={"x": 0.99, "y": 0.01}, splits=["train", "val"]))
    summary = split.split(root, tmp_path / "to", Division(parts={"train": 0.5, "test": 0.5}, splits=["train"]))
    assert splits(tmp_path / "to") == ["train", "val", "test"]
    assert len(open_classes(tmp_path / "to", "val")) == 6
    assert "val: 6 images, as they were" in summary


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = yolo(tmp_path / "from", NAMES)
    words = ["data", "split", str(root), "-o", str(tmp_path / "to"), "--parts", "train=0.8,val=0.2", "--seed", "3"]
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main([*words, "--group", "folder", "--no-near-duplicates", "--to", "coco", "--group", "image"])
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "to")
    assert sorted(file.name for file in (tmp_path / "to" / "annotations").iterdir()) == ["train.json", "val.json"]
