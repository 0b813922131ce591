"""Broken aerial input through the real command line: one clear line, a status, nothing half-written, no traceback."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from boxwright.datatools import scenes
from test_bad_input import SETTINGS, assert_rejected, originals, place, run

rasterio = pytest.importorskip("rasterio")
__all__ = ["originals", "place"]  # fixtures

GOOD = "10 10 30 10 30 30 10 30 car 0"
CUT = ["data", "tile", "dota", "-o", "tiles", "--window", "64"]
LABELS = Path("dota/val/labelTxt/P1.txt")


@pytest.fixture
def dota(place: Path) -> Path:
    """`place` with a scene of 100 x 80 px and an object in DOTA's layout, as train and as val."""
    for split in ("train", "val"):
        (place / f"dota/{split}/images").mkdir(parents=True)
        (place / f"dota/{split}/labelTxt").mkdir()
        cv2.imwrite(f"dota/{split}/images/P1.png", np.full((80, 100, 3), 90, np.uint8))
        Path(f"dota/{split}/labelTxt/P1.txt").write_text(f"imagesource:GoogleEarth\ngsd:0.1\n{GOOD}\n")
    Path("dota/classes.txt").write_text("\n".join(scenes.NAMES))
    return place


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("10 10 30 10 30 30 10 car 0", "needed eight numbers"),
        ("10 10 30 10 30 30 10 30 submarine 0", "'submarine'"),
        ("10 10 30 10 30 30 10 30 car 7", "needed eight numbers"),
        ("10 10 30 ten 30 30 10 30 car 0", "needed eight numbers"),
        ("10 10 30", "needed eight numbers"),
    ],
)
def test_invalid_label_line_is_rejected(
    line: str, expected: str, dota: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*CUT) == 0
    LABELS.write_text(f"{GOOD}\n{line}\n")
    where = ("P1.txt line 2", expected)
    assert run("data", "check", "dota") == 1
    reported = capsys.readouterr().out
    assert all(word in reported for word in where)
    assert_rejected(capsys, "data", "tile", "dota", "-o", "others", words=where)
    assert_rejected(capsys, "data", "convert", "dota", "--to", "coco", "-o", "coco", words=where)
    assert_rejected(capsys, "evaluate", "w.safetensors", "--data", "tiles", "--scenes", "dota", words=where)
    assert_rejected(capsys, "train", "demo", "--data", "dota", *SETTINGS, words=where)


def test_quadrilateral_outside_the_scene_is_rejected(dota: Path, capsys: pytest.CaptureFixture[str]) -> None:
    LABELS.write_text(f"{GOOD}\n210 10 230 10 230 30 210 30 car 0\n")
    assert run("data", "check", "dota") == 1
    (found,) = [line for line in capsys.readouterr().out.splitlines() if "out of" in line]
    assert "P1.txt line 2" in found
    assert_rejected(capsys, *CUT, words=("P1.txt line 2", "--skip-bad"))
    assert run(*CUT, "--skip-bad") == 0
    assert "P1.txt line 2" in capsys.readouterr().out


def test_quadrilateral_over_the_edge_is_clipped(dota: Path, capsys: pytest.CaptureFixture[str]) -> None:
    LABELS.write_text("90 10 120 10 120 30 90 30 car 0\n")
    assert run(*CUT) == 0
    assert "1 clipped at the scene's edge" in capsys.readouterr().out
    (box,) = [row["bbox"] for row in json.loads(Path("tiles/annotations/val.json").read_text())["annotations"]
              if not row["iscrowd"]][:1]  # fmt: skip
    assert box == [90 - 36, 10, 10, 20]


@pytest.mark.slow
def test_empty_label_file_is_a_scene_without_objects(dota: Path, capsys: pytest.CaptureFixture[str]) -> None:
    LABELS.write_text("")
    assert run("data", "check", "dota") == 0
    assert run(*CUT) == 0
    assert run("data", "convert", "dota", "--to", "coco", "-o", "coco") == 0
    assert json.loads(Path("tiles/annotations/val.json").read_text())["annotations"] == []
    assert run("evaluate", "w.safetensors", "--data", "tiles", "--scenes", "dota", "--out", "found") == 0
    out, error = capsys.readouterr()
    assert "Traceback" not in error
    assert [line.split()[1:4] for line in out.splitlines() if line.startswith("mean")] == [["-", "-", "-"]]


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "val"])
def test_scenes_of_held_out_tiles(split: str, dota: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The tiles of one of two scenes are held out in memory, so that scene is `val`, and the other `train`."""
    shutil.rmtree("dota/val")
    cv2.imwrite("dota/train/images/P2.png", np.full((80, 100, 3), 150, np.uint8))
    Path("dota/train/labelTxt/P2.txt").write_text(f"{GOOD}\n{GOOD.replace('30', '50')}\n")
    assert run(*CUT) == 0
    held_out = ["--set", "data.val_fraction=0.5", "--split", split]
    assert run("evaluate", "w.safetensors", "--data", "tiles", "--scenes", "dota", "--out", "found", *held_out) == 0
    found = json.loads(Path("found/scenes.json").read_text())
    assert found["scenes"] == 1
    assert "scenes without any tile" not in capsys.readouterr().out
    whole = json.loads(Path("found/metrics.json").read_text())
    assert (whole["images"], found["covered"]) == (4, 1), "2 x 2 tiles of one scene"


def test_missing_scene_is_rejected(dota: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*CUT) == 0
    (dota / "dota/val/images/P2.png").write_bytes((dota / "dota/val/images/P1.png").read_bytes())
    (dota / "dota/val/images/P1.png").unlink()
    assert_rejected(
        capsys, "evaluate", "w.safetensors", "--data", "tiles", "--scenes", "dota", words=("dota/val", "P2.txt")
    )
    LABELS.with_name("P2.txt").write_text(GOOD)
    assert_rejected(
        capsys, "evaluate", "w.safetensors", "--data", "tiles", "--scenes", "dota", words=("P1.txt", "dota")
    )
    assert run("data", "check", "dota") == 1
    assert "P1.txt" in capsys.readouterr().out
    assert_rejected(capsys, "data", "tile", "dota", "-o", "others", words=("P1.txt",))


def test_damaged_scene_is_rejected(dota: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("dota/val/images/P1.png").write_text("no image")
    assert_rejected(capsys, "data", "tile", "dota", "-o", "others", "--split", "val", words=("P1.png",))


def test_window_larger_than_the_scene(dota: Path) -> None:
    assert run("data", "tile", "dota", "-o", "tiles") == 0
    (image,) = json.loads(Path("tiles/annotations/val.json").read_text())["images"]
    assert (image["height"], image["width"], image["offset"]) == (80, 100, [0, 0])
    assert run("predict", "w.safetensors", "dota/val/images/P1.png", "--tile", "600", "--out", "found") == 0


@pytest.mark.parametrize("overlap", ["1.0", "-0.1", "7", "nan"])
def test_invalid_overlap_is_rejected(overlap: str, dota: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_rejected(capsys, *CUT, "--overlap", overlap, words=("overlap", "less than 1"))
    assert_rejected(capsys, "predict", "w.safetensors", "good.png", "--tile", "64", "--overlap", overlap,
           words=("overlap", "less than 1"))  # fmt: skip


def test_invalid_tiling_options_are_rejected(dota: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_rejected(capsys, *CUT[:-1], "0", words=("window",))
    assert_rejected(capsys, *CUT, "--scale", "0", words=("scale",))
    assert_rejected(capsys, *CUT, "--min-visible", "1.5", words=("min_visible",))
    assert_rejected(capsys, "predict", "w.safetensors", "good.png", "--tile", "0", words=("--tile",))
    assert_rejected(capsys, "predict", "w.safetensors", "good.png", "--overlap", "0.2", words=("--tile",))
    assert_rejected(capsys, "data", "convert", "dota", "--to", "klingon", "-o", "new", words=("klingon", "coco"))
    assert_rejected(capsys, "data", "tile", "dota", "-o", "dota", words=("dota",))


def tiff(path: str, bands: int, kind: str, **more: object) -> None:
    with rasterio.Env(), rasterio.open(
        path, "w", driver="GTiff", width=100, height=80, count=bands, dtype=kind, **more
    ) as file:  # fmt: skip
        file.write(np.full((bands, 80, 100), 90, kind))


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")  # of the writer above
@pytest.mark.parametrize(("bands", "kind"), [(3, "uint16"), (1, "uint16"), (4, "uint8"), (1, "uint8")])
def test_tiff_with_16_bits_or_4_bands_is_predicted(
    bands: int, kind: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiff("scene.tif", bands, kind, photometric="RGB" if bands > 2 else "MINISBLACK")
    assert run("predict", "w.safetensors", "scene.tif", "--tile", "64", "--out", "found") == 0
    assert json.loads(Path("found/detections.json").read_text())["failed"] == {}


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(("bands", "kind"), [(3, "float32"), (2, "uint8"), (7, "uint16")])
def test_tiff_with_unsupported_bands_is_reported(
    bands: int, kind: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiff("scene.tif", bands, kind, photometric="MINISBLACK")
    assert run("predict", "w.safetensors", "scene.tif", "good.png", "--tile", "64", "--out", "found") == 1
    out, error = capsys.readouterr()
    (line,) = [line for line in out.splitlines() if line.startswith("failed: ")]
    assert "scene.tif" in line
    assert "Traceback" not in error
    tree = json.loads(Path("found/detections.json").read_text())
    assert [row["file"] for row in tree["images"]] == ["good.png"]


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_geojson_needs_a_georeference(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiff("scene.tif", 3, "uint8", photometric="RGB")
    for source in ("good.png", "scene.tif"):
        assert_rejected(
            capsys, "predict", "w.safetensors", source, "--tile", "64", "--geojson", words=(source, "georeference")
        )
    assert_rejected(capsys, "predict", "w.safetensors", "good.png", "--geojson", words=("--tile",))


def test_scenes_that_do_not_match_the_tiles_are_rejected(dota: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "w.safetensors", "--data", "tiles", "--out", "found"]
    assert run(*CUT) == 0
    assert_rejected(capsys, *words, "--scenes", "nowhere", words=("nowhere",))
    assert_rejected(capsys, *words, "--scenes", "data", words=("data", "P1"))
    assert_rejected(capsys, *words, "--scenes", "dota", "--split", "test", words=("test", "train, val"))
    assert_rejected(capsys, *words, "--scenes", "dota", "--no-truth", words=("--no-truth", "--scenes"))
    assert_rejected(capsys, "evaluate", "w.safetensors", "--data", "dota", "--scenes", "dota", words=("data tile",))
