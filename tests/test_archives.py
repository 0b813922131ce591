"""ZIP and tar archives as data sets: equal to the loose files in them, and one-line errors for unsupported archives."""

import io
import json
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from boxwright import cli, files, mirrors
from boxwright.archives import faults
from boxwright.archives.folder import as_folder
from boxwright.batches.loader import Loader
from boxwright.data import folder_index
from boxwright.data.dataset import Dataset
from boxwright.errors import InputError
from boxwright.formats import holds_classes, open_boxes, open_classes, splits
from boxwright.images.decode import read_image
from boxwright.predict.output import find_images, predict_to_folder
from boxwright.recipe import CanvasConfig
from stand_in import rectangles_predictor

COLUMNS = ("xyxy", "labels", "categories", "crowd", "areas", "ids", "entries", "difficult")


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def zipped(folder: Path, file: Path, method: int = zipfile.ZIP_DEFLATED, prefix: str = "") -> Path:
    with zipfile.ZipFile(file, "w", method) as archive:
        for path in files_of(folder):
            archive.write(path, prefix + path.relative_to(folder).as_posix())
    return file


def tarred(folder: Path, pattern: str, count: int = 1) -> Path:
    """The files in turn in archives `pattern`, of which % is the number."""
    for number in range(count):
        with tarfile.open(pattern.replace("%", f"{number:06}"), "w") as archive:
            for path in files_of(folder)[number::count]:
                archive.add(path, path.relative_to(folder).as_posix())
    return Path(pattern.replace("%", f"{0:06}"))


def status(*words: str) -> int:
    with pytest.raises(SystemExit) as end:
        cli.main(list(words))
    assert isinstance(end.value.code, int)
    return end.value.code


def assert_equal_datasets(first: Dataset, second: Dataset) -> None:
    assert first.names == second.names
    assert [Path(first.path(i)).name for i in range(len(first))] == [
        Path(second.path(i)).name for i in range(len(second))
    ]
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(first.rows, name), getattr(second.rows, name))
    for index in range(len(first)):
        np.testing.assert_array_equal(read_image(first.path(index)), read_image(second.path(index)))


FORMS: dict[str, Callable[[Path, Path], str]] = {
    "zip": lambda data, at: str(zipped(data, at / "set.zip")),
    "stored": lambda data, at: str(zipped(data, at / "set.zip", zipfile.ZIP_STORED)),
    "folder in a zip": lambda data, at: str(zipped(data, at / "set.zip", prefix="my set/")),
    "folders in a zip": lambda data, at: str(zipped(data, at / "set.zip", prefix="home/mé/my set/")),
    "folder of a zip": lambda data, at: f"{zipped(data, at / 'set.zip', prefix='other/my set/')}/other/my set",
    "tar": lambda data, at: str(tarred(data, f"{at}/set.tar")),
    "range": lambda data, at: f"{tarred(data, f'{at}/data-%.tar', 3).parent}/data-{{000000..000002}}.tar",
    "pattern": lambda data, at: f"{tarred(data, f'{at}/data-%.tar', 3).parent}/data-*.tar",
    "folder of shards": lambda data, at: str(tarred(data, f"{at}/data-%.tar", 3).parent),
}


@pytest.mark.parametrize("form", FORMS)
def test_archive_equals_the_extracted_data_set(tiny_coco: Path, tmp_path: Path, form: str) -> None:
    root = FORMS[form](tiny_coco, tmp_path)
    assert splits(root) == splits(tiny_coco)
    for split in splits(root):
        assert_equal_datasets(open_boxes(tiny_coco, split), open_boxes(root, split))
    assert {path.suffix for path in tmp_path.iterdir()} <= {".zip", ".tar"}  # nothing is unpacked


def test_data_set_in_one_zip_per_folder_like_coco(tiny_coco: Path, tmp_path: Path) -> None:
    for name in ("train", "val", "annotations"):
        shutil.copytree(tiny_coco / name, tmp_path / "of" / name / name)
        zipped(tmp_path / "of" / name, tmp_path / f"{name}2017.zip")
    shutil.rmtree(tmp_path / "of")
    assert_equal_datasets(open_boxes(tiny_coco, "train"), open_boxes(tmp_path, "train"))


def test_single_top_level_folder_is_not_a_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As Ultralytics' coco8.zip: the layout takes any folder for a split, which would put train and val together."""
    for split, count in (("train", 3), ("val", 2)):
        write_yolo(tmp_path / split, count)
        for kind, suffix in (("images", ".png"), ("labels", ".txt")):
            (tmp_path / "of" / "set" / kind / split).mkdir(parents=True)
            for file in (tmp_path / split).glob(f"*{suffix}"):
                file.rename(tmp_path / "of" / "set" / kind / split / file.name)
    (tmp_path / "of" / "set" / "labels" / "classes.txt").write_text("box\n")
    root = zipped(tmp_path / "of", tmp_path / "set.zip")
    assert splits(root) == ["train", "val"]
    assert [len(open_boxes(root, split)) for split in splits(root)] == [3, 2]
    (tmp_path / "d.yaml").write_text("path: set.zip\ntrain: images/train\nval: images/val\nnames: [box]\n")
    assert_equal_datasets(open_boxes(root, "val"), open_boxes(tmp_path / "d.yaml", "val"))
    with pytest.raises(InputError, match=r"open .*of/set, which is one"):
        splits(tmp_path / "of")


def test_missing_image_is_a_finding(tiny_coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = shutil.copytree(tiny_coco, tmp_path / "copy")
    (copy / "train" / "12.png").unlink()
    root = zipped(copy, tmp_path / "set.zip")
    assert status("data", "check", str(root)) == 1
    assert "1 missing image" in capsys.readouterr().out
    assert status("data", "convert", str(root), "--to", "voc", "-o", str(tmp_path / "voc"), "--skip-bad") == 0
    assert len(open_boxes(tmp_path / "voc", "train")) == 11


def test_nested_archives(tiny_coco: Path, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    tarred(tiny_coco, f"{tmp_path}/shards/data-%.tar", 2)
    for prefix in ("", "in/"):
        root = zipped(tmp_path / "shards", tmp_path / "all.zip", prefix=prefix)
        assert_equal_datasets(open_boxes(tiny_coco, "train"), open_boxes(root, "train"))


def test_symlink_to_an_archive(tiny_coco: Path, tmp_path: Path) -> None:
    zipped(tiny_coco, tmp_path / "0a1b2c")
    (tmp_path / "set.zip").symlink_to("0a1b2c")
    assert_equal_datasets(open_boxes(tiny_coco, "train"), open_boxes(tmp_path / "set.zip", "train"))


def test_classification_data_in_an_archive(tmp_path: Path) -> None:
    for name in ("train/cat/1.png", "train/dog/2.png", "val/cat/3.png"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "data" / name), np.full((9, 9, 3), 50, np.uint8))
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        archive.add(tmp_path / "data", ".")  # names begin with ./, and there are folders
        empty = tarfile.TarInfo("./val/dog")
        empty.type = tarfile.DIRTYPE
        archive.addfile(empty)
    assert holds_classes(tmp_path / "set.tar")
    train, val = (open_classes(tmp_path / "set.tar", name) for name in ("train", "val"))
    assert (train.names, train.labels.tolist(), val.names) == (("cat", "dog"), [0, 1], ("cat", "dog"))


def test_data_yaml_with_archives(tiny_coco: Path, tmp_path: Path) -> None:
    zipped(tiny_coco, tmp_path / "set.zip")
    (tmp_path / "root.yaml").write_text("root: set.zip\ntrain: annotations/train.json\nval: annotations/val.json\n")
    assert_equal_datasets(open_boxes(tiny_coco, "val"), open_boxes(tmp_path / "root.yaml", "val"))
    (tmp_path / "sets.yaml").write_text("sets:\n  - set.zip\n  - path: set.zip\n    class_map: {red: blue}\n")
    both = open_boxes(tmp_path / "sets.yaml", "train")
    assert len(both) == 24
    assert both.members is not None
    assert [member.title for member in both.members.sets] == [str(tmp_path / "set.zip")] * 2


def test_label_file_outside_of_the_archive_of_its_images(tiny_coco: Path, tmp_path: Path) -> None:
    zipped(tiny_coco / "train", tmp_path / "photos.zip")
    shutil.copy(tiny_coco / "annotations" / "train.json", tmp_path / "labels.json")
    (tmp_path / "d.yaml").write_text("train: labels.json\nimages: photos.zip\n")
    assert_equal_datasets(open_boxes(tiny_coco, "train"), open_boxes(tmp_path / "d.yaml", "train"))


def write_yolo(folder: Path, count: int) -> Path:
    """Images and labels beside each other, as WebDataset's samples."""
    folder.mkdir()
    for number in range(count):
        cv2.imwrite(str(folder / f"{number:06}.png"), np.full((20, 30, 3), number, np.uint8))
        (folder / f"{number:06}.txt").write_text(f"0 0.5 0.5 {0.1 * (number % 9 + 1)} 0.5\n")
    return folder


def test_data_yaml_with_shards_per_split(tmp_path: Path) -> None:
    for split, count in (("train", 4), ("val", 2)):
        tarred(write_yolo(tmp_path / split, count), f"{tmp_path}/{split}-%.tar", 2)
    (tmp_path / "d.yaml").write_text("names: [box]\ntrain: train-{000000..000001}.tar\nval: val-*.tar\n")
    dataset = open_boxes(tmp_path / "d.yaml", "train")
    assert [Path(dataset.path(i)).name for i in range(4)] == ["000000.png", "000001.png", "000002.png", "000003.png"]
    np.testing.assert_allclose(dataset.rows.xyxy[:, 2] - dataset.rows.xyxy[:, 0], [3, 6, 9, 12], rtol=1e-6)
    assert len(open_boxes(tmp_path / "d.yaml", "val")) == 2
    (tmp_path / "train-000001.tar").unlink()
    with pytest.raises(InputError, match=r"1 of 2 archives are missing, the first .*train-000001\.tar"):
        open_boxes(tmp_path / "d.yaml", "train")
    (tmp_path / "d.yaml").write_text(f"sets: ['x-{{0..{'1' * 5000}}}.tar']\n")  # Python converts at most 4300 digits
    with pytest.raises(InputError, match="there is no such archive"):
        open_boxes(tmp_path / "d.yaml", "train")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["zip", "range"])
def test_batches_from_archives_are_bit_identical(tiny_coco: Path, tmp_path: Path, form: str) -> None:
    def batches(root: str | Path, workers: int) -> list[tuple[bytes, bytes]]:
        loader = Loader(open_boxes(root, "train"), CanvasConfig(size=(64, 64)), 4, seed=3, workers=workers)
        try:
            return [(batch.images.numpy().tobytes(), batch.boxes.numpy().tobytes()) for batch in loader.epochs(0, 2)]
        finally:
            loader.close()

    expected = batches(tiny_coco, 0)
    assert len(expected) == 6
    assert expected[:3] != expected[3:]  # another order in the second epoch
    root = FORMS[form](tiny_coco, tmp_path)
    assert batches(root, 2) == expected


def test_changed_archive_is_indexed_again(tiny_coco: Path, tmp_path: Path) -> None:
    zipped(tiny_coco, tmp_path / "set.zip")
    assert len(open_boxes(tmp_path / "set.zip", "train")) == 12
    zipped(tiny_coco / "val", tmp_path / "set.zip", prefix="val/")
    with zipfile.ZipFile(tmp_path / "set.zip", "a") as archive:
        archive.write(tiny_coco / "annotations" / "val.json", "annotations/val.json")
    assert splits(tmp_path / "set.zip") == ["val"]


def test_archive_replaced_while_open_is_an_error(
    tiny_coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = open_boxes(zipped(tiny_coco, tmp_path / "set.zip"), "train")
    tarred(tiny_coco, f"{tmp_path}/other.tar").rename(tmp_path / "set.zip")
    mirrors._handle.cache_clear()  # as in a worker that starts later
    with pytest.raises(
        InputError, match=r"^\S*set\.zip/train/1\.png: cannot be read .*has changed since it was opened"
    ):
        read_image(dataset.path(0))


@pytest.mark.slow
def test_index_of_a_large_archive_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_index, "MIN_FILES", 149)
    write_yolo(tmp_path / "data", 150)
    (tmp_path / "data" / "classes.txt").write_text("box\n")
    tarred(tmp_path / "data", f"{tmp_path}/set.tar")
    opened: list[str] = []
    real = mirrors.open_member
    monkeypatch.setattr(mirrors, "open_member", lambda *place: opened.append(place[1].name) or real(*place))
    first = open_boxes(tmp_path / "set.tar", "all")
    assert {f"{number:06}.txt" for number in range(150)} <= {*opened}
    opened.clear()
    assert_equal_datasets(first, open_boxes(tmp_path / "set.tar", "all"))
    assert len({name for name in opened if name.endswith(".txt")}) < 100  # what tells the layout


# -- commands --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_data_commands_accept_archives(tiny_coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(zipped(tiny_coco, tmp_path / "set.zip"))
    report = tmp_path / "report.json"
    assert status("data", "check", source, "--report", str(report)) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"{source}: coco, boxes; splits train, val"
    assert status("data", "convert", source, "--to", "yolo_txt", "--out", str(tmp_path / "yolo")) == 0
    loose = open_boxes(tiny_coco, "train")
    converted = open_boxes(tmp_path / "yolo", "train")
    pairs = {Path(loose.path(i)).name: i for i in range(len(loose))}
    for index in range(len(converted)):
        name = Path(converted.path(index)).name
        content = (tiny_coco / "train" / name).read_bytes()
        assert Path(converted.path(index)).read_bytes() == content  # a copy, not a link to an empty file
        np.testing.assert_allclose(converted[index].boxes, loose[pairs[name]].boxes, atol=1e-3)
    words = ("--split", "train", "--out", str(tmp_path / "parts"), "--parts", "a=0.5,b=0.5")
    assert status("data", "split", source, *words) == 0
    assert status("data", "tile", source, "--out", str(tmp_path / "tiles"), "--window", "64") == 0
    assert status("data", "merge", source, str(tiny_coco), "--out", str(tmp_path / "merged")) == 0
    assert len(open_boxes(tmp_path / "merged", "train")) == 24
    assert status("data", "split", str(tmp_path / "no.zip"), *words) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"boxwright: {tmp_path}/no.zip: there is no such archive"


def test_prediction_reads_images_in_archives(tiny_coco: Path, tmp_path: Path) -> None:
    zipped(tiny_coco / "val", tmp_path / "set.zip", prefix="in/")
    loose = predict_to_folder(rectangles_predictor(), [tiny_coco / "val"], tmp_path / "loose")
    found = predict_to_folder(rectangles_predictor(), [tmp_path / "set.zip"], tmp_path / "found")
    assert (found.images, found.counts, found.failed) == (4, loose.counts, {})
    both = [json.loads((tmp_path / name / "detections.json").read_text())["images"] for name in ("loose", "found")]
    for expected, row in zip(*both, strict=True):
        assert row["file"] == f"{tmp_path}/set.zip/in/{Path(expected['file']).name}"
        assert row["detections"] == expected["detections"]
        assert (tmp_path / "found" / row["drawn"]).read_bytes() == (tmp_path / "loose" / row["drawn"]).read_bytes()


def test_paths_may_continue_inside_an_archive(tiny_coco: Path, tmp_path: Path) -> None:
    """As results and messages name the files in it."""
    archive = zipped(tiny_coco, tmp_path / "set.zip", prefix="in/")
    for end, count in (("in/train/1.png", 1), ("in/train/1*.png", 4), ("in/val", 4)):
        assert len(find_images([archive / end], tmp_path / "out")) == count
    with pytest.raises(InputError, match=r"set\.zip/in/none: there is no such image or folder"):
        find_images([archive / "in" / "none"], tmp_path / "out")
    (tmp_path / "data.yaml").write_text("root: set.zip/in\ntrain: annotations/train.json\n")
    assert_equal_datasets(open_boxes(tiny_coco, "train"), open_boxes(tmp_path / "data.yaml", "train"))


def test_tables_contain_paths_inside_archives(tiny_coco: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra `parquet` is not installed")
    from boxwright.tables.predict import predict_table

    zipped(tiny_coco / "val", tmp_path / "set.zip")
    predict_table(rectangles_predictor(), [tmp_path / "set.zip"], tmp_path / "out")
    (file,) = (tmp_path / "out").glob("*.parquet")
    rows = parquet.read_table(file).to_pylist()
    assert {row["image"] for row in rows} == {f"{tmp_path}/set.zip/{number}.png" for number in range(1, 5)}


def test_findings_contain_paths_inside_archives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_yolo(tmp_path / "data", 3)
    (tmp_path / "data" / "000001.txt").write_text("0 0.5 x 0.1 0.5\n")
    (tmp_path / "data" / "000002.png").write_bytes(b"\x89PNG")
    (tmp_path / "data" / "classes.txt").write_text("box\n")
    zipped(tmp_path / "data", tmp_path / "set.zip")
    report = tmp_path / "report.json"
    assert status("data", "check", str(tmp_path / "set.zip"), "--report", str(report)) == 1
    findings = json.loads(report.read_text())["findings"]
    assert {finding["file"] for finding in findings} >= {f"{tmp_path}/set.zip/000001.txt line 1"}
    text = capsys.readouterr().out + report.read_text()
    assert "mirrors" not in text
    assert f"{tmp_path}/set.zip/000002.png" in text


def test_macos_metadata_files_are_skipped(tiny_coco: Path, tmp_path: Path, log: list[str]) -> None:
    zipped(tiny_coco, tmp_path / "set.zip")
    with zipfile.ZipFile(tmp_path / "set.zip", "a") as archive:
        archive.writestr("__MACOSX/train/._1.png", b"attributes")
        archive.writestr("train/._2.png", b"attributes")
    assert_equal_datasets(open_boxes(tiny_coco, "train"), open_boxes(tmp_path / "set.zip", "train"))
    assert log == [f"{tmp_path}/set.zip: left out 2 files of macOS (__MACOSX, ._*)"]


def test_zip_names_without_the_utf8_flag(tmp_path: Path) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("straße/größe.txt", b"1")
    data = bytearray(content.getvalue())
    flags = [data.index(b"PK\1\2") + 8, data.index(b"PK\3\4") + 6]  # as of Info-ZIP without the mark of UTF-8
    for place in flags:
        assert data[place + 1] == 8
        data[place + 1] = 0
    (tmp_path / "set.zip").write_bytes(data)
    assert files.read_bytes(as_folder(tmp_path / "set.zip") / "straße" / "größe.txt") == b"1"


@pytest.mark.slow
def test_scenes_are_read_from_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOXWRIGHT_CACHE", str(tmp_path / "cache"))
    rasterio = pytest.importorskip("rasterio", reason="the extra `geo` is not installed")
    from boxwright.images.bands import Bands
    from boxwright.images.windows import Window, open_scene

    pixels = np.random.default_rng(3).integers(0, 256, (3, 90, 120)).astype(np.uint8)
    (tmp_path / "data").mkdir()
    options = {"transform": rasterio.Affine(1, 0, 7, 0, -1, 0), "driver": "GTiff", "dtype": "uint8"}
    with rasterio.open(tmp_path / "data" / "a.tif", "w", count=3, height=90, width=120, **options) as file:
        file.write(pixels)
    for name, method in (("stored.zip", zipfile.ZIP_STORED), ("deflated.zip", zipfile.ZIP_DEFLATED)):
        scene_file = as_folder(zipped(tmp_path / "data", tmp_path / name, method)) / "a.tif"
        for bands in (None, Bands((1, 2, 3))):
            with open_scene(scene_file, bands) as scene:
                assert scene.size == (90, 120)
                found = scene.read(Window(10, 20, 30, 40))
                np.testing.assert_array_equal(found, pixels[:, 20:60, 10:40].transpose(1, 2, 0))
    assert [path.name for path in Path(mirrors.root()).glob("*/local/*")] == ["a.tif"]  # only the deflated one


# -- archives that are not read --------------------------------------------------------------------------------------


def made_zip(file: Path, name: str = "x.png", content: bytes = b"abc", **attributes: int) -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        info = zipfile.ZipInfo(name)
        for key, value in attributes.items():
            setattr(info, key, value)
        archive.writestr(info, content)
    return file


def made_tar(file: Path, name: str = "x.png", **attributes: object) -> Path:
    with tarfile.open(file, "w") as archive:
        info = tarfile.TarInfo(name)
        info.size = 3
        for key, value in attributes.items():
            setattr(info, key, value)
        archive.addfile(info, io.BytesIO(b"abc") if info.size else None)
    return file


def patched(file: Path, place: int, value: bytes, signature: bytes = b"PK\1\2") -> Path:
    """Bytes of the first entry of the directory of a ZIP file changed."""
    data = bytearray(file.read_bytes())
    start = data.index(signature) + place
    data[start : start + len(value)] = value
    file.write_bytes(data)
    return file


def cut(file: Path, end: int) -> Path:
    file.write_bytes(file.read_bytes()[:end])
    return file


def bomb(file: Path) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(5):
            archive.writestr(f"{number}.bmp", bytes(1 << 20))
    return file


def overlapping(file: Path) -> Path:
    """Two entries of the directory with the same content, as in D. Fifield's ZIP bomb."""
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.png", b"abc")
        archive.filelist.append(archive.getinfo("a.png"))
        archive._didModify = True  # type: ignore[attr-defined]
    return file


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "truncated zip": (lambda at: cut(made_zip(at / "s.zip", content=bytes(500)), 300), "not a complete ZIP file"),
    "empty zip": (lambda at: cut(made_zip(at / "s.zip"), 0), "not a complete ZIP file"),
    "not a zip": (lambda at: made_tar(at / "s.zip"), "not a complete ZIP file"),
    "zip with ..": (lambda at: made_zip(at / "s.zip", "../x.png"), "with a part '..'"),
    "zip with an absolute name": (lambda at: made_zip(at / "s.zip", "/tmp/x.png"), "an absolute name"),
    "zip with a control character": (lambda at: made_zip(at / "s.zip", "a\x1b]0;x\x07.png"), "control characters"),
    "zip with a NUL": (lambda at: patched(made_zip(at / "s.zip", "ab.png"), 46, b"a\0"), "control characters"),
    "zip with a link": (lambda at: made_zip(at / "s.zip", external_attr=0o120777 << 16), "is a link"),
    "encrypted zip": (lambda at: patched(made_zip(at / "s.zip"), 8, b"\1"), "is encrypted"),
    "LZMA": (lambda at: made_zip(at / "s.zip", compress_type=zipfile.ZIP_LZMA), "compressed by LZMA"),
    "unknown method": (lambda at: patched(made_zip(at / "s.zip"), 10, b"\x63"), "compressed by method 99"),
    "declared too large": (
        lambda at: patched(made_zip(at / "s.zip"), 24, struct.pack("<I", 9999)), "3 bytes cannot hold the declared",
    ),
    "outside of the file": (lambda at: patched(made_zip(at / "s.zip"), 42, b"\xff\xff"), "overlaps another|damaged"),
    "overlap": (lambda at: overlapping(at / "s.zip"), "overlap"),
    "bomb": (lambda at: bomb(at / "s.zip"), "as in a ZIP bomb"),
    "truncated tar": (lambda at: cut(made_tar(at / "s.tar"), 514), "s.tar/x.png: is cut off|not a complete tar"),
    "tar without end": (lambda at: cut(made_tar(at / "s.tar"), 1024), "is cut off"),
    "empty tar": (lambda at: cut(made_tar(at / "s.tar"), 0), "not a complete tar file"),
    "not a tar": (lambda at: made_zip(at / "s.tar", content=bytes(900)), "not a complete tar file"),
    "tar with ..": (lambda at: made_tar(at / "s.tar", "in/../../x.png"), "with a part '..'"),
    "tar with an absolute name": (lambda at: made_tar(at / "s.tar", "/tmp/x.png"), "an absolute name"),
    "tar with a line break": (lambda at: made_tar(at / "s.tar", "a\nb.png"), "control characters"),
    "tar with a link": (
        lambda at: made_tar(at / "s.tar", type=tarfile.SYMTYPE, linkname="/etc/passwd", size=0), "is a link",
    ),
    "tar with a hard link": (
        lambda at: made_tar(at / "s.tar", type=tarfile.LNKTYPE, linkname="y.png", size=0), "is a link",
    ),
    "tar with a device": (lambda at: made_tar(at / "s.tar", type=tarfile.CHRTYPE, size=0), "is a device"),
    "tar with a FIFO": (lambda at: made_tar(at / "s.tar", type=tarfile.FIFOTYPE, size=0), "is a device, or another"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_invalid_archive_is_reported_in_one_line(
    tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOXWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(faults, "MIN_BOMB", 1 << 20)
    make, fault = BAD[case]
    file = make(tmp_path)
    before = sorted(path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)  # long paths are shortened
    assert status("data", "check", file.name) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("boxwright: s.")
    assert any(each in line for each in fault.split("|")), line
    assert len(line) <= 200
    assert line.isprintable()
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.is_relative_to(tmp_path / "cache")]
    assert sorted(path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "cache")) == before


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_duplicate_name_in_an_archive_is_an_error(
    tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    file = tmp_path / f"s{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a.png", b"1")
            with pytest.warns(UserWarning, match="Duplicate name"):
                archive.writestr("a.png", b"2")
    else:
        with tarfile.open(file, "w") as packed:
            packed.add(tmp_path / "x", "a.png")
            packed.add(tmp_path / "x", "a.png")
    assert status("data", "check", str(file)) == 2
    assert f"{file}: holds 'a.png' twice" in capsys.readouterr().err


def test_duplicate_name_in_two_shards_is_an_error(tiny_coco: Path, tmp_path: Path) -> None:
    tarred(tiny_coco, f"{tmp_path}/a-%.tar")
    tarred(tiny_coco / "val", f"{tmp_path}/b-%.tar")
    assert len(open_boxes(tmp_path, "train")) == 12
    (tmp_path / "more").mkdir()
    tarred(tiny_coco, f"{tmp_path}/more/a-%.tar")
    tarred(tiny_coco, f"{tmp_path}/more/b-%.tar")
    with pytest.raises(InputError, match=r"/more: holds 'annotations/train\.json' twice"):
        open_boxes(tmp_path / "more", "train")


@pytest.mark.parametrize("name", ["set.tar.gz", "set.tgz", "set.tar"])
def test_compressed_tar_is_rejected(tiny_coco: Path, tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / name, "w:gz") as archive:
        archive.add(tiny_coco / "val", "val")
    with pytest.raises(InputError, match=r"compressed (by gzip )?as a whole, so its files cannot be read one by one"):
        open_boxes(tmp_path / name, "train")


def test_damaged_content_is_reported_when_read(tiny_coco: Path, tmp_path: Path) -> None:
    file = zipped(tiny_coco, tmp_path / "set.zip")
    with zipfile.ZipFile(file) as archive:
        place = archive.getinfo("train/1.png").header_offset + 200
    data = bytearray(file.read_bytes())
    data[place] ^= 0xFF
    file.write_bytes(data)
    dataset = open_boxes(file, "train")
    with pytest.raises(InputError, match=r"^\S*set\.zip/train/1\.png: cannot be read \(damaged: "):
        read_image(dataset.path(0))


def test_folder_with_other_files_is_not_a_folder_of_shards(tiny_coco: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_coco, tmp_path / "data")
    zipped(tiny_coco / "val", tmp_path / "data" / "backup.zip")
    assert open_boxes(tmp_path / "data", "train").path(0) == str(tmp_path / "data" / "train" / "1.png")
