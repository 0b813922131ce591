"""Cached data of the images of an archive: it equals the images, and is never stale."""

import errno
import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL
import pytest
from numpy.typing import NDArray
from PIL import Image

from boxwright import mirrors
from boxwright.archives.folder import as_folder
from boxwright.data import fingerprint as fingerprints
from boxwright.data import mirror_cache
from boxwright.data.dataset import Dataset
from boxwright.datatools import headers
from boxwright.datatools.check import check
from boxwright.formats import open_boxes, open_classes
from boxwright.images import budget
from boxwright.images.header import Header
from boxwright.recipe import load
from boxwright.tasks.classify import TASK as CLASSIFY
from boxwright.tasks.detect import TASK as DETECT

COUNT = 6
BOX = "0 0.5 0.5 0.25 0.5"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A letter for each image that is read: h for its header by `check`, d for its digest."""
    monkeypatch.setattr(mirror_cache, "MIN_IMAGES", 1)
    read: list[str] = []
    read_headers, digest = headers.read_headers, fingerprints._digest

    def noted_headers(paths: list[str], decode: bool | None = False) -> Iterator[Header]:
        read.extend("h" for _ in paths)
        return read_headers(paths, decode)

    def noted_digest(path: str, kind: fingerprints.Kind) -> tuple[bytes, bool]:
        read.append("d")
        return digest(path, kind)

    monkeypatch.setattr(headers, "read_headers", noted_headers)
    monkeypatch.setattr(fingerprints, "_digest", noted_digest)
    return read


def jpeg(shade: int, width: int = 40) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, 30), (shade, 0, 0)).save(stream, "jpeg")
    return stream.getvalue()


def write(folder: Path, changes: dict[str, bytes | str] | None = None) -> Path:
    """A YOLO folder of images with one box each."""
    files: dict[str, bytes | str] = {"classes.txt": "lorry\ncar\n"}
    for number in range(COUNT):
        files[f"images/train/{number}.jpg"] = jpeg(number)
        files[f"labels/train/{number}.txt"] = BOX
    for name, content in (files | (changes or {})).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def zipped(folder: Path) -> Path:
    """The folder as an archive, stored as it is, beside it."""
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            archive.write(path, path.relative_to(folder))
    return folder.with_suffix(".zip")


def checked(dataset: Dataset) -> tuple[str, list[tuple[str, int | None, str]]]:
    """The fingerprint at a start, and the findings of its check: kind, image, text."""
    report = DETECT.check(dataset, rgb=True)
    findings = [(finding.kind, finding.index, finding.text) for finding in report.findings]
    return DETECT.fingerprint(dataset, load("demo")), findings


CHANGES: dict[str, dict[str, bytes | str]] = {
    "nothing": {},
    "image": {"images/train/3.jpg": jpeg(200)},
    "size of an image": {"images/train/3.jpg": jpeg(3, width=44)},
    "image cut off": {"images/train/3.jpg": jpeg(3)[:-40]},
    "no image": {"images/train/3.jpg": "text"},
    "label": {"labels/train/3.txt": "1 0.5 0.5 0.25 0.5"},
    "faulty label": {"labels/train/3.txt": "0 0.9 0.5 0.5 0.5"},
    "class name": {"classes.txt": "lorry\nvan\n"},
    "new image": {"images/train/33.jpg": jpeg(33), "labels/train/33.txt": BOX},
}


@pytest.mark.parametrize("change", CHANGES)
def test_cached_start_matches_unpacked_files(tmp_path: Path, reads: list[str], change: str) -> None:
    archive = zipped(write(tmp_path / "set"))
    assert checked(open_boxes(archive, "train")) == checked(open_boxes(tmp_path / "set", "train"))
    reads.clear()
    if change != "nothing":
        write(tmp_path / "set", CHANGES[change])
        zipped(tmp_path / "set")
    found = checked(open_boxes(archive, "train"))
    assert bool(reads) == (change != "nothing")
    assert found == checked(open_boxes(tmp_path / "set", "train"))


def test_changed_labels_beside_an_archive_do_not_reread_images(
    tiny_coco: Path, tmp_path: Path, reads: list[str]
) -> None:
    """They may change while the archive does not: no image is read again, and the change is noticed."""
    for folder in ("annotations", "train"):
        shutil.copytree(tiny_coco / folder, tmp_path / "set" / folder)
    labels = tmp_path / "set" / "annotations" / "train.json"
    zipped(tmp_path / "set" / "train").rename(tmp_path / "photos.zip")
    (tmp_path / "d.yaml").write_text(f"train: {labels}\nimages: photos.zip\n")
    first = checked(open_boxes(tmp_path / "d.yaml", "train"))
    content = json.loads(labels.read_text())
    content["annotations"][0]["bbox"] = [90, 90, 20, 20]
    labels.write_text(json.dumps(content))
    reads.clear()
    second = checked(open_boxes(tmp_path / "d.yaml", "train"))
    assert reads == []
    assert second == checked(open_boxes(tmp_path / "set", "train"))
    assert first[0] != second[0]
    assert "reaches 14 px out of the 96 x 96 image" in str(second[1])


@pytest.mark.parametrize("indices", [[4, 1, 0], [1], list(range(COUNT))[::-1]])
def test_subsets_match_unpacked_files(tmp_path: Path, reads: list[str], indices: list[int]) -> None:
    archive = zipped(write(tmp_path / "set", {f"images/train/{n}.jpg": jpeg(n, width=40 + n) for n in range(COUNT)}))
    checked(open_boxes(archive, "train"))
    expected = checked(open_boxes(tmp_path / "set", "train").subset(indices))
    for _ in range(2):
        reads.clear()
        assert checked(open_boxes(archive, "train").subset(indices)) == expected
    assert reads == []


@pytest.mark.parametrize(("owner", "name", "value"), [(PIL, "__version__", "0"), (budget, "MAX_PIXELS", 100)])
def test_cache_depends_on_versions_and_limits(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, value: object
) -> None:
    archive = zipped(write(tmp_path / "set"))
    checked(open_boxes(archive, "train"))
    reads.clear()
    monkeypatch.setattr(owner, name, value)
    found = checked(open_boxes(archive, "train"))
    assert len(reads) == 2 * COUNT
    assert found == checked(open_boxes(tmp_path / "set", "train"))


def test_unpacked_images_are_read_at_every_start(tmp_path: Path, reads: list[str]) -> None:
    """Also those beside images of an archive, and those to which a path leads out of one."""
    tree = as_folder(zipped(write(tmp_path / "set")))
    loose = tmp_path / "loose.jpg"
    outside = f"{tree}/images/{os.path.relpath(loose, tree / 'images')}"
    for paths in ([str(tree / "images" / "train" / "0.jpg"), str(loose)], [outside], [str(loose)]):
        digests = set()
        for shade in (1, 2):
            loose.write_bytes(jpeg(shade))
            digests.add(fingerprints.fingerprint([], [], paths, "sample"))
        assert len(digests) == 2
    assert len(reads) == 8


def test_temporary_read_error_is_not_cached(tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    archive = zipped(write(tmp_path / "set"))
    expected, real = checked(open_boxes(tmp_path / "set", "train")), mirrors.open_member

    def failing(source: mirrors.Source, member: mirrors.Member) -> BinaryIO:
        if member.name == "images/train/3.jpg":
            raise OSError(errno.EIO, "no answer")
        return real(source, member)

    dataset = open_boxes(archive, "train")
    monkeypatch.setattr(mirrors, "open_member", failing)
    fingerprint, findings = checked(dataset)
    assert fingerprint != expected[0]
    assert "no answer" in str(findings)
    monkeypatch.setattr(mirrors, "open_member", real)
    reads.clear()
    assert checked(dataset) == expected
    assert reads == ["h", "d"]


def other(file: Path, rows: NDArray[Any]) -> None:
    with np.load(file) as columns:
        np.savez(file, rows=rows, metadata=columns["metadata"])


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut off": lambda file: os.truncate(file, file.stat().st_size // 2),
    "empty": lambda file: file.write_bytes(b""),
    "text": lambda file: file.write_text("rows"),
    "fewer rows": lambda file: other(file, np.ones((COUNT - 1, 3), np.int64)),
    "another type": lambda file: other(file, np.ones((COUNT, 3), np.float32)),
    "objects": lambda file: other(file, np.array([[print] * 3] * COUNT)),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_cache_is_rebuilt(tmp_path: Path, reads: list[str], log: list[str], damage: str) -> None:
    dataset = open_boxes(zipped(write(tmp_path / "set")), "train")
    expected = checked(dataset)
    kept = sorted(as_folder(tmp_path / "set.zip").parent.glob("*.npz"))
    assert [file.name.partition("-")[0] for file in kept] == ["digests", "headers"]
    for file in kept:
        DAMAGE[damage](file)
    for count in (COUNT, COUNT if damage == "a folder" else 0):
        reads.clear()
        assert checked(dataset) == expected
        assert len(reads) == 2 * count
    assert len([line for line in log if "are read again at the next start" in line]) == 4 * (damage == "a folder")


def test_checks_of_complete_images_are_not_cached(tmp_path: Path, reads: list[str]) -> None:
    dataset = open_boxes(zipped(write(tmp_path / "set")), "train")
    for _ in range(2):
        fingerprints.fingerprint([], [], [dataset.path(index) for index in range(COUNT)], "content")
        check(dataset, decode=True)
    assert reads == ["d"] * COUNT + ["h"] * COUNT + ["d"] * COUNT + ["h"] * COUNT


def test_classification_set_in_an_archive(tmp_path: Path, reads: list[str]) -> None:
    for number in range(COUNT):
        file = tmp_path / "set" / "train" / f"class{number % 2}" / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg(number))
    results = []
    for root in (tmp_path / "set", zipped(tmp_path / "set"), tmp_path / "set.zip"):
        dataset = open_classes(root, "train")
        reads.clear()
        results.append((CLASSIFY.fingerprint(dataset, load("demo")), CLASSIFY.check(dataset)))
    assert reads == []
    assert results[0] == results[1] == results[2]
