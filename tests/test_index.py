"""The index of a COCO JSON: it equals the JSON, and is never stale; the limit on boxes."""

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from boxwright import recipe
from boxwright.cache import cache_folder
from boxwright.data import coco_index, coco_json, index
from boxwright.data.dataset import Dataset
from boxwright.data.source import Source
from boxwright.datatools.clean import Cleaning
from boxwright.engine import datasets
from boxwright.errors import InputError
from boxwright.formats import coco, open_dataset
from boxwright.tasks.detect import TASK

FOREVER = 10**15  # ns


def labels(example_images: int = 6, text_ids: bool = False) -> dict[str, Any]:
    """Images with 0, 1, 2, ... boxes, not in order; one label of no image and one of no category."""
    draw = np.random.default_rng(3)
    ids: list[Any] = [f"scene é {number}" if text_ids else 10 * number for number in range(example_images)]
    annotations = [
        {
            "id": 100 * number + row, "image_id": ids[number], "category_id": int(draw.integers(2, 4)),
            "bbox": draw.uniform(1, 9, 4).round(2).tolist(), "area": 7.25, "iscrowd": row % 2,
            "difficult": int(row % 3 == 1), "segmentation": [[1, 2, 3, 4, 5, 6]],
        }
        for number in reversed(range(example_images)) for row in range(number)
    ]  # fmt: skip
    annotations[1]["category_id"] = 77
    annotations[4]["image_id"] = "gone" if text_ids else 999
    images = [{"id": ids[n], "file_name": f"in/é{n}.png", "width": 40, "height": 20 + n} for n in range(example_images)]
    del images[2]["width"]
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 3, "name": "LKW \N{DELIVERY TRUCK}"}, {"id": 2, "name": "car"}],
    }


def make(root: Path, tree: dict[str, Any], folder: str = "train") -> Path:
    file = root / "annotations" / "train.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(tree))
    for image in tree["images"]:
        place = root / folder / image["file_name"]
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 20)).save(place)
    return file


def contents(data: Dataset) -> list[Any]:
    """All that a data set holds."""
    columns = [*(getattr(data.rows, name) for name in data.rows.__slots__), data.starts]
    columns += [data.images.ids, data.images.paths, data.images.sizes, data.images.label_files]
    plain = [(column.dtype.str, column.shape, column.tolist()) for column in columns]
    return [data.names, data.category_ids, data.split, data.root, data.kind, data.findings, *plain]


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The JSONs that were parsed. Any JSON is indexed, however small and new."""
    monkeypatch.setattr(coco_index, "MIN_SIZE", 0)
    monkeypatch.setattr(index, "CLOCK_TICK", 0)
    real, files = coco.parse, []

    def parse(file: Path) -> coco_index.Contents:
        files.append(file)
        return real(file)

    monkeypatch.setattr(coco, "parse", parse)
    return files


@pytest.mark.parametrize("text_ids", [False, True])
def test_index_matches_the_json(tmp_path: Path, parsed: list[Path], text_ids: bool) -> None:
    file = make(tmp_path, labels(text_ids=text_ids))
    without = contents(coco.to_dataset(coco.parse(file), Source("coco", file, "train", tmp_path)))
    assert len(parsed) == 1
    first, second = (contents(open_dataset(tmp_path, "train", cache=tmp_path / "cache")) for _ in range(2))
    assert len(parsed) == 2
    assert without == first == second
    assert [finding.kind for finding in first[5] if finding.level == "error"] == ["unknown_image"]
    (place,) = (tmp_path / "cache").iterdir()
    assert place.suffix == ".npz"


def test_index_without_boxes(tmp_path: Path, parsed: list[Path]) -> None:
    make(tmp_path, labels() | {"annotations": []})
    first, second = (contents(open_dataset(tmp_path, "train")) for _ in range(2))
    assert (first, len(parsed)) == (second, 1)


def test_all_paths_to_a_file_share_one_index(
    tmp_path: Path, parsed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, labels())
    open_dataset(tmp_path, "train")
    (tmp_path / "link").symlink_to(tmp_path)
    assert open_dataset(tmp_path / "link", "train").path(0).startswith(str(tmp_path / "link"))
    monkeypatch.chdir(tmp_path / "annotations")
    data = open_dataset(Path("../annotations/train.json"), "val")
    assert (data.split, data.location(5, int(data.starts[5])), data.findings[0].file) == (
        "val", "../annotations/train.json annotations[0]", "../annotations/train.json annotations[4]",
    )  # fmt: skip
    assert len(parsed) == 1


def test_moved_images_are_found_with_an_index(tmp_path: Path, parsed: list[Path]) -> None:
    make(tmp_path, labels())
    assert "/train/" in open_dataset(tmp_path, "train").path(0)
    (tmp_path / "train").rename(tmp_path / "images")
    assert Path(open_dataset(tmp_path, "train").path(0)).is_file()
    (tmp_path / "images").rename(tmp_path / "far")
    assert open_dataset(tmp_path, "train").path(0) == f"{tmp_path}/far/in/é0.png"
    (tmp_path / "far").rename(tmp_path.parent / f"{tmp_path.name} far")
    with pytest.raises(InputError, match="none of its 6 images"):
        open_dataset(tmp_path, "train")
    assert len(parsed) == 1


def test_absolute_file_names(tmp_path: Path, parsed: list[Path]) -> None:
    tree = labels()
    make(tmp_path, tree)
    tree["images"][3]["file_name"] = str(tmp_path / "elsewhere" / "a.png")
    make(tmp_path, tree)
    for _ in range(2):
        data = open_dataset(tmp_path, "train")
        assert (data.path(3), data.path(4)) == (f"{tmp_path}/elsewhere/a.png", f"{tmp_path}/train/in/é4.png")
    assert len(parsed) == 1


def in_place(file: Path, text: str) -> None:
    file.write_text(text)


def with_its_old_time(file: Path, text: str) -> None:
    before = file.stat()
    file.write_text(text)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def by_another_file(file: Path, text: str) -> None:
    before, new = file.stat(), file.with_suffix(".new")
    new.write_text(text)
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    new.replace(file)


@pytest.mark.parametrize("change", [in_place, with_its_old_time, by_another_file])
def test_changed_json_is_read_again(tmp_path: Path, parsed: list[Path], change: Callable[[Path, str], None]) -> None:
    """Same path and same size: only a digit differs."""
    file = make(tmp_path, labels())
    open_dataset(tmp_path, "train")
    text = file.read_text()
    time.sleep(0.05)  # a tick of the clock
    change(file, text.replace("7.25", "8.25"))
    assert file.stat().st_size == len(text)
    for _ in range(2):
        assert set(open_dataset(tmp_path, "train").rows.areas.tolist()) == {8.25}
    assert len(parsed) == 2


def test_index_of_another_version_is_not_used(
    tmp_path: Path, parsed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, labels())
    open_dataset(tmp_path, "train")
    other = tmp_path / "coco_json.py"
    other.write_bytes(Path(coco_json.__file__).read_bytes() + b"# another reader\n")
    monkeypatch.setattr(coco_json, "__file__", str(other))
    open_dataset(tmp_path, "train")
    assert len(parsed) == 2


def test_index_of_another_file_is_not_used(tmp_path: Path, parsed: list[Path]) -> None:
    """Also under the right name."""
    make(tmp_path / "a", labels())
    make(tmp_path / "b", labels(5))
    for name in "ab":
        open_dataset(tmp_path / name, "train", cache=tmp_path / f"cache {name}")
    (mine,), (other,) = ((tmp_path / f"cache {name}").iterdir() for name in "ab")
    mine.write_bytes(other.read_bytes())
    assert len(open_dataset(tmp_path / "a", "train", cache=mine.parent)) == 6
    assert len(parsed) == 3


@pytest.mark.slow
def test_damaged_index_is_rebuilt(tmp_path: Path, parsed: list[Path]) -> None:
    make(tmp_path, labels())
    truth = contents(open_dataset(tmp_path, "train", cache=tmp_path / "cache"))
    (place,) = (tmp_path / "cache").iterdir()
    sound = place.read_bytes()
    pieces = [sound[:cut] for cut in range(0, len(sound), 97)] + [sound + b"\0", sound[1:], b"\x93NUMPY\1\0", b"{}"]
    for position in range(0, len(sound), 31):
        pieces.append(bytearray(sound))
        pieces[-1][position] ^= 1 << position % 8
    for piece in pieces:
        place.write_bytes(piece)
        source = Source("coco", tmp_path / "annotations/train.json", "train", tmp_path, cache=place.parent)
        assert contents(coco.read(source)) == truth
    assert len(parsed) > len(pieces) / 2  # the others fell on bytes that say nothing
    place.write_bytes(sound[:-1])
    open_dataset(tmp_path, "train", cache=tmp_path / "cache")
    seen = len(parsed)
    open_dataset(tmp_path, "train", cache=tmp_path / "cache")
    assert len(parsed) == seen


class Trap:
    def __reduce__(self) -> Any:
        return os.mkdir, ("trapped",)


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "starts fall": lambda arrays: arrays["starts"].__setitem__(1, 5),
    "starts end early": lambda arrays: arrays["starts"].__setitem__(-1, 13),
    "starts begin late": lambda arrays: arrays["starts"].__setitem__(slice(0, 2), 1),
    "starts of other length": lambda arrays: arrays.update(starts=np.append(arrays["starts"], 14)),
    "a row too few": lambda arrays: arrays.update(areas=arrays["areas"][1:]),
    "three corners": lambda arrays: arrays.update(xyxy=arrays["xyxy"][:, :3].copy()),
    "other type": lambda arrays: arrays.update(xyxy=arrays["xyxy"].astype(np.float64)),
    "other byte order": lambda arrays: arrays.update(xyxy=arrays["xyxy"].astype(">f4")),
    "names as numbers": lambda arrays: arrays.update(files=np.arange(6)),
    "ids as floats": lambda arrays: arrays.update(image_ids=np.arange(6.0)),
    "an image too many": lambda arrays: arrays.update(files=np.append(arrays["files"], b"x")),
    "sizes of another shape": lambda arrays: arrays.update(sizes=arrays["sizes"].T.copy()),
    "label too high": lambda arrays: arrays["labels"].__setitem__(0, 2),
    "label too low": lambda arrays: arrays["labels"].__setitem__(0, -3),
    "a column is missing": lambda arrays: arrays.pop("crowd"),
    "pickled": lambda arrays: arrays.update(files=np.array([Trap()] * 6, dtype=object)),
    "an id too few": lambda arrays: arrays.update(metadata=edited(arrays["metadata"], category_ids=[2])),
    "findings of another shape": lambda arrays: arrays.update(metadata=edited(arrays["metadata"], findings=[[1]])),
    "finding of no kind": lambda arrays: arrays.update(metadata=finding(arrays["metadata"], 0, "mine")),
    "finding with a number as text": lambda arrays: arrays.update(metadata=finding(arrays["metadata"], 2, 5)),
    "finding of no image": lambda arrays: arrays.update(metadata=finding(arrays["metadata"], 5, 6)),
    "finding of an image as text": lambda arrays: arrays.update(metadata=finding(arrays["metadata"], 5, "0")),
    "a group that is no class": lambda arrays: arrays.update(metadata=edited(arrays["metadata"], group=2)),
    "a group as text": lambda arrays: arrays.update(metadata=edited(arrays["metadata"], group="0")),
    "an object of any class": lambda arrays: (
        arrays["labels"].__setitem__(0, -2),
        arrays["crowd"].__setitem__(0, False),
    ),
    "entries too few": lambda arrays: arrays.update(image_entries=arrays["image_entries"][1:]),
    "metadata is a list": lambda arrays: arrays.update(metadata=np.frombuffer(b"[]", dtype=np.uint8)),
}


def finding(metadata: Any, field: int, value: object) -> Any:
    """With another value in a field of the first finding."""
    values: list[Any] = json.loads(metadata.tobytes())["findings"][0]
    return edited(metadata, findings=[[*values[:field], value, *values[field + 1 :]]])


def edited(metadata: Any, **changes: object) -> Any:
    return np.frombuffer(json.dumps(json.loads(metadata.tobytes()) | changes).encode(), dtype=np.uint8)


@pytest.mark.parametrize("change", [None, *CHANGES])
def test_inconsistent_index_is_not_used(
    tmp_path: Path, parsed: list[Path], monkeypatch: pytest.MonkeyPatch, change: str | None
) -> None:
    """Whole files with right checksums; the unchanged one is used, so nothing but the change makes the others fail."""
    monkeypatch.chdir(tmp_path)
    make(tmp_path, labels())
    truth = contents(open_dataset(tmp_path, "train", cache=tmp_path / "cache"))
    (place,) = (tmp_path / "cache").iterdir()
    with np.load(place) as opened:
        arrays = {name: opened[name].copy() for name in opened}
    assert len(arrays["labels"]) == 14
    if change is not None:
        CHANGES[change](arrays)
    made = io.BytesIO()
    np.savez(made, **arrays)
    place.write_bytes(made.getvalue())
    assert contents(open_dataset(tmp_path, "train", cache=tmp_path / "cache")) == truth
    assert len(parsed) == (1 if change is None else 2)
    assert not (tmp_path / "trapped").exists()


def test_compressed_index_is_not_read(tmp_path: Path, parsed: list[Path]) -> None:
    """Such a file may hold a thousand times the bytes it has."""
    make(tmp_path, labels())
    open_dataset(tmp_path, "train", cache=tmp_path / "cache")
    (place,) = (tmp_path / "cache").iterdir()
    with np.load(place) as opened:
        np.savez_compressed(place, **{name: opened[name] for name in opened})
    open_dataset(tmp_path, "train", cache=tmp_path / "cache")
    assert len(parsed) == 2


def test_data_set_opens_without_a_writable_cache(
    tmp_path: Path, parsed: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, labels())
    (tmp_path / "file").touch()
    for _ in range(2):
        assert len(open_dataset(tmp_path, "train", cache=tmp_path / "file" / "cache")) == 6
        (line,) = capsys.readouterr().err.splitlines()
        assert "train.json: its index cannot be written" in line
    assert len(parsed) == 2

    def no_home_folder() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(index, "cache_folder", no_home_folder)
    assert len(open_dataset(tmp_path, "train")) == 6
    (tmp_path / "cache").mkdir()
    (place,) = [tmp_path / "cache" / place.name for place in _kept(tmp_path)]
    place.mkdir()  # in the index's way
    assert len(open_dataset(tmp_path, "train", cache=tmp_path / "cache")) == 6
    assert [entry.name for entry in place.parent.iterdir()] == [place.name]


def _kept(root: Path) -> list[Path]:
    open_dataset(root, "train", cache=root / "other")
    return list((root / "other").iterdir())


def test_faulty_json_is_not_indexed(tmp_path: Path, parsed: list[Path]) -> None:
    tree = labels()
    tree["annotations"] = None
    make(tmp_path, tree)
    for _ in range(2):
        with pytest.raises(InputError, match="key 'annotations': found NoneType"):
            open_dataset(tmp_path, "train", cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    with pytest.raises(InputError, match="no such folder or file"):
        open_dataset(tmp_path / "gone.json", "train")


def test_small_and_new_files_are_not_indexed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new one may change again within the tick of the clock that its times are taken from."""
    file, cache = make(tmp_path, labels()), tmp_path / "cache"
    monkeypatch.setattr(index, "CLOCK_TICK", 0)
    open_dataset(file, "train", cache=cache)
    monkeypatch.setattr(coco_index, "MIN_SIZE", 0)
    monkeypatch.setattr(index, "CLOCK_TICK", FOREVER)
    open_dataset(file, "train", cache=cache)
    assert not cache.exists()
    monkeypatch.setattr(index, "CLOCK_TICK", 0)
    open_dataset(file, "train", cache=cache)
    assert len(list(cache.iterdir())) == 1


@pytest.mark.slow
def test_age_of_a_json_is_measured_before_parsing(
    tmp_path: Path, parsed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a JSON is old enough is asked of the moment before it was read."""
    file, real = make(tmp_path, labels()), coco.parse
    monkeypatch.setattr(index, "CLOCK_TICK", 2 * 10**8)

    def parse(place: Path) -> coco_index.Contents:
        time.sleep(0.3)
        return real(place)

    monkeypatch.setattr(coco, "parse", parse)
    open_dataset(file, "train", cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    open_dataset(file, "train", cache=tmp_path / "cache")
    assert (tmp_path / "cache").exists()


def test_json_changed_during_reading_is_not_indexed(
    tmp_path: Path, parsed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, real = make(tmp_path, labels()), coco.parse

    def parse(place: Path) -> coco_index.Contents:
        held = real(place)
        time.sleep(0.05)
        in_place(place, json.dumps(labels(5)))
        return held

    monkeypatch.setattr(coco, "parse", parse)
    open_dataset(file, "train", cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_two_processes_index_concurrently(tmp_path: Path) -> None:
    make(tmp_path, labels())
    code = (
        "import sys; from boxwright.data import coco_index, index; from boxwright.formats import open_dataset\n"
        "coco_index.MIN_SIZE = index.CLOCK_TICK = 0\n"
        "for _ in range(20): print(len(open_dataset(sys.argv[1], 'train', cache=sys.argv[2]).rows))\n"
        "assert 'torch' not in sys.modules\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path), str(tmp_path / "cache")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=60)[0].split() for process in both] == [["14"] * 20] * 2
    assert [process.returncode for process in both] == [0, 0]
    assert [place.suffix for place in (tmp_path / "cache").iterdir()] == [".npz"]


def test_cache_folder_follows_environment_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BOXWRIGHT_CACHE", str(tmp_path / "chosen"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_folder() == tmp_path / "chosen"
    monkeypatch.delenv("BOXWRIGHT_CACHE")
    assert cache_folder() == tmp_path / "x" / "boxwright"
    monkeypatch.setenv("HOME", str(tmp_path))
    for unset in ("", None):
        monkeypatch.delenv("XDG_CACHE_HOME") if unset is None else monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert cache_folder() == tmp_path / ".cache" / "boxwright"


@pytest.fixture
def crowded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """a.png with 300 boxes, b.png with 128, to train on and to validate. No process but this one."""
    monkeypatch.setattr(datasets, "on_main", lambda work, accelerator: work())
    counts = {"a.png": 300, "b.png": 128}
    for split in ("train", "val"):
        images = [{"id": i, "file_name": name, "width": 400, "height": 400} for i, name in enumerate(counts)]
        annotations = [
            {"id": 1000 * i + row, "image_id": i, "category_id": 1, "bbox": [row, i, 5, 5 + row % 7], "area": 25}
            for row in range(300) for i, count in enumerate(counts.values()) if row < count
        ]  # fmt: skip
        tree = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "bird"}]}
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / f"{split}.json").write_text(json.dumps(tree))
        (tmp_path / split).mkdir()
        for name in counts:
            Image.new("RGB", (400, 400)).save(tmp_path / split / name)
    return tmp_path


@pytest.mark.parametrize(("most", "kept"), [(None, 300), (300, 300), (299, 299), (128, 128), (1, 1)])
def test_max_boxes_limits_training_but_not_validation(crowded: Path, most: int | None, kept: int) -> None:
    changes = {"data.root": str(crowded), "data.max_boxes": most}
    training, validation, lines = datasets.open_checked(
        TASK, recipe.load("demo", changes), Cleaning(), SimpleNamespace(num_processes=1)
    )
    assert training[0].annotation_ids.tolist() == list(range(kept))
    assert training[1].annotation_ids.tolist() == list(range(1000, 1000 + min(kept, 128)))
    assert [len(sample) for sample in validation] == [300, 128]
    assert len(lines) == (kept < 300) + (kept < 128)
    if most == 128:
        file, image = crowded / "annotations/train.json", crowded / "train/a.png"
        assert lines == [f"{file}: image {image} has 300 boxes, data.max_boxes is 128: 172 left out"]


@pytest.mark.slow
def test_index_is_in_the_folder_of_the_recipe(crowded: Path, parsed: list[Path]) -> None:
    changes = {"data.root": str(crowded), "data.cache": str(crowded / "kept")}
    for _ in range(2):
        datasets.open_checked(TASK, recipe.load("demo", changes), Cleaning(), SimpleNamespace(num_processes=1))
    assert len(list((crowded / "kept").iterdir())) == 2
    assert len(parsed) == 2
