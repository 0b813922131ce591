"""Predictions as Parquet tables: rows, parts, shards, invalid input, GeoParquet, and the function for Spark."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import pytest

from boxwright import cli
from boxwright.errors import InputError
from boxwright.predict.tiled import Tiling
from random_detector import write_images, write_weights
from stand_in import rectangles_predictor, scene

pa = pytest.importorskip("pyarrow", reason="needs the extra parquet")
pq = pytest.importorskip("pyarrow.parquet")

from boxwright.tables import folder as folders  # noqa: E402 (it is an InputError without pyarrow)
from boxwright.tables.folder import Shard, locked  # noqa: E402
from boxwright.tables.merge import merge_shards  # noqa: E402
from boxwright.tables.predict import predict_table  # noqa: E402
from boxwright.tables.rows import Source, predict_rows  # noqa: E402

BOXES, LABELS = [(30, 10, 90, 70), (150, 20, 190, 100)], [0, 2]
ROOT = Path(__file__).parents[1]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """12 images with 0 to 2 objects, and one that cannot be read."""
    place = tmp_path / "images"
    place.mkdir()
    for number in range(12):
        count = number % 3
        image = scene(110, 200 + number, BOXES[:count], LABELS[:count])
        cv2.imwrite(str(place / f"{number:02d}.png"), image[:, :, ::-1])
    (place / "broken.png").write_bytes(b"nothing")
    return place


def rows(file: Path) -> list[dict[str, object]]:
    """Sorted, without times."""
    table = pq.read_table(file).drop(["time"])
    return sorted(table.to_pylist(), key=lambda row: (row["image"], -(row["score"] or 0), row["x1"] or 0))


def test_rows_equal_detections_of_the_predictor(images: Path, tmp_path: Path) -> None:
    predictor = rectangles_predictor()
    begin = datetime.now(UTC)
    summary = predict_table(predictor, [images], tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "detections.parquet")
    assert summary.counts == {"red": 8, "blue": 4}
    assert (summary.images, list(summary.failed)) == (12, [str(images / "broken.png")])
    found: dict[str, list[dict[str, object]]] = {}
    for row in table.to_pylist():
        found.setdefault(row["image"], []).append(row)
        assert begin <= row["time"] <= datetime.now(UTC)
    assert len(found) == 13
    for number in range(12):
        truth, of_image = predictor(images / f"{number:02d}.png"), found[str(images / f"{number:02d}.png")]
        boxes = [[row[edge] for edge in ("x1", "y1", "x2", "y2")] for row in of_image if row["score"] is not None]
        assert boxes == truth.boxes.tolist()
        assert [row["class"] for row in of_image] == (truth.class_names or [None])
        assert [row["score"] for row in of_image] == (truth.scores.tolist() or [None])
        assert [row["error"] for row in of_image] == [None] * max(1, len(truth))
    (broken,) = found[str(images / "broken.png")]
    assert "not a readable image" in broken["error"]
    assert (broken["x1"], broken["class"]) == (None, None)


def test_different_images_with_one_name_are_an_error(images: Path, tmp_path: Path) -> None:
    """Such as web addresses that differ in their query, which is not shown."""
    titles = {str(images / f"{number:02d}.png"): "https://host/a.png" for number in (1, 2)}
    with pytest.raises(InputError, match=r"^https://host/a\.png: the name of two different images"):
        predict_table(rectangles_predictor(), list(titles), tmp_path / "out", titles=titles)
    assert not list((tmp_path / "out").iterdir())


def test_unnamed_classes_are_counted(images: Path, tmp_path: Path) -> None:
    predictor = rectangles_predictor(data__names=[], model__classes=3)
    summary = predict_table(predictor, [images], tmp_path / "out")
    assert summary.counts == {"of class 0": 8, "of class 2": 4}


class Stopping:
    """`predict_rows` that fails after some images, like a killed process, and counts all requested images."""

    def __init__(self, stop: int) -> None:
        self.stop, self.asked = stop, list[str]()

    def __call__(self, predictor, sources, settings) -> Iterator[object]:
        for number, batch in enumerate(predict_rows(predictor, sources, settings)):
            if number == self.stop:
                raise KeyboardInterrupt
            self.asked.append(batch["image"][0].as_py())
            yield batch


def test_stopped_run_continues_without_duplicate_rows(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "PART_IMAGES", 2)
    predictor, out = rectangles_predictor(), tmp_path / "out"
    predict_table(predictor, [images], tmp_path / "plain")
    with pytest.raises(KeyboardInterrupt):
        predict_table(predictor, [images], out, rows=Stopping(5))
    assert sorted(path.name for path in (out / "detections.parts").iterdir()) == ["000001.parquet", "000002.parquet"]
    assert not (out / "detections.parquet").exists()
    again = Stopping(100)
    summary = predict_table(predictor, [images], out, rows=again)
    assert len(again.asked) == 13 - 4
    assert summary.notes == ("4 of 13 images were in the table already",)
    assert not (out / "detections.parts").exists()
    assert rows(out / "detections.parquet") == rows(tmp_path / "plain" / "detections.parquet")
    last = Stopping(100)
    cv2.imwrite(str(images / "new.png"), scene(110, 200, BOXES, LABELS)[:, :, ::-1])
    predict_table(predictor, [images], out, rows=last)
    assert last.asked == [str(images / "broken.png"), str(images / "new.png")]
    assert len(rows(out / "detections.parquet")) == 12 + 4 + 1 + 2


def test_repaired_image_is_predicted_again(images: Path, tmp_path: Path) -> None:
    """Also if the new content is of another shard."""
    predictor, broken, out = rectangles_predictor(), images / "broken.png", tmp_path / "out"
    shards = [Shard(index, 3) for index in (1, 2, 3)]
    for shard in shards:
        predict_table(predictor, [images], out, shard=shard)
    (before,) = [shard for shard in shards if shard.holds(Source.of(str(broken)))]
    for width in range(200, 300):
        cv2.imwrite(str(broken), scene(110, width, BOXES, LABELS)[:, :, ::-1])
        if not before.holds(Source.of(str(broken))):
            break
    for shard in shards:
        predict_table(predictor, [images], out, shard=shard)
    merge_shards(out, tmp_path / "all.parquet")
    of_image = [row for row in rows(tmp_path / "all.parquet") if row["image"] == str(broken)]
    assert [(row["class"], row["error"]) for row in of_image] == [("red", None), ("blue", None)]


def test_mismatched_shards_and_settings_are_rejected(images: Path, tmp_path: Path) -> None:
    predictor, out = rectangles_predictor(), tmp_path / "out"
    predict_table(predictor, [images], out, shard=Shard(1, 2))
    with pytest.raises(InputError, match=r"threshold 0\.5, found 0\.6"):
        predict_table(predictor, [images], out, predictor.args(0.6), shard=Shard(2, 2))
    calibrated = rectangles_predictor(predict__temperatures=[2.0, 2.0, 2.0])  # as after `boxwright calibrate`
    with pytest.raises(InputError, match=r"temperatures \[\], found \[2\.0, 2\.0, 2\.0\]"):
        predict_table(calibrated, [images], out, shard=Shard(2, 2))
    with pytest.raises(InputError, match="holds a run with 2 shards, found 3"):
        predict_table(predictor, [images], out, shard=Shard(2, 3))
    other = rectangles_predictor()
    other.model.norm.weight.data[0] = 2  # type: ignore[union-attr]
    with pytest.raises(InputError, match="other weights"):
        predict_table(other, [images], out, shard=Shard(2, 2))
    with locked(out, Shard(2, 2)), pytest.raises(InputError, match="another process writes shard 2/2"):
        predict_table(predictor, [images], out, shard=Shard(2, 2))
    with pytest.raises(InputError, match="1 of 2 shards missing: 2; run --shard 2/2"):
        merge_shards(out, tmp_path / "all.parquet")
    assert not (tmp_path / "all.parquet").exists()
    done = pq.read_table(out / "detections-00001-of-00002.parquet", columns=["image"])["image"].to_pylist()
    cv2.imwrite(done[0], scene(90, 90, [], []))
    with pytest.raises(InputError, match="has changed since it was predicted"):
        predict_table(predictor, [images], out, shard=Shard(1, 2))


def test_rejected_call_does_not_claim_the_folder(images: Path, tmp_path: Path) -> None:
    predictor, out = rectangles_predictor(), tmp_path / "out"
    predict_table(predictor, [images], out)
    (out / "table.json").unlink()
    with pytest.raises(InputError, match="of run"):
        predict_table(predictor, [images], out, predictor.args(0.6))
    assert predict_table(predictor, [images], out).notes == ("12 of 13 images were in the table already",)


def test_rows_of_missing_images_are_reported(images: Path, tmp_path: Path) -> None:
    predictor, out = rectangles_predictor(), tmp_path / "out"
    predict_table(predictor, [images], out)
    first, *_ = sorted(images.iterdir())
    first.rename(images / "renamed.png")
    message = f"1 image of the table not among these sources, such as {first}: rows of earlier calls are kept"
    assert message in predict_table(predictor, [images], out).notes
    assert predict_table(predictor, [images], tmp_path / "new").notes == ()


def test_output_folder_containing_the_images_is_rejected(images: Path) -> None:
    for out in (images, images.parent):
        with pytest.raises(InputError, match=r"images: is the folder for the results, or lies in it"):
            predict_table(rectangles_predictor(), [images], out)
        assert not (out / "table.json").exists()


@pytest.mark.slow
def test_merge_requires_finished_disjoint_shards_of_one_run(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "PART_IMAGES", 1)
    predictor, out, file = rectangles_predictor(), tmp_path / "out", tmp_path / "all.parquet"
    for index in (2, 1):
        predict_table(predictor, [images], out, shard=Shard(index, 2))
    assert merge_shards(out, file).startswith("2 shards, 13 images, 12 detections: ")
    predict_table(predictor, [images], tmp_path / "plain")
    assert rows(file) == rows(tmp_path / "plain" / "detections.parquet")
    first, second = (out / f"detections-0000{index}-of-00002.parquet" for index in (1, 2))
    with pytest.raises(InputError, match="is an input, and would be overwritten"):
        merge_shards(out, first)
    with pytest.raises(InputError, match=r"all\.csv: found the suffix '\.csv', needed \.parquet"):
        merge_shards(out, tmp_path / "all.csv")
    kept = second.read_bytes()
    second.write_bytes(first.read_bytes())
    with pytest.raises(InputError, match="is another shard than its name says"):
        merge_shards(out, file)
    table = pq.read_table(first)
    metadata = {folders.KEY: json.dumps(folders.head_of(first) | {"shard": 2})}
    pq.write_table(table.replace_schema_metadata(metadata), second)
    with pytest.raises(InputError, match="is in detections-00001-of-00002"):
        merge_shards(out, file)
    metadata = {folders.KEY: json.dumps(folders.head_of(first) | {"shard": 2, "run": "of another"})}
    pq.write_table(table.replace_schema_metadata(metadata), second)
    with pytest.raises(InputError, match="needed shards of one run"):
        merge_shards(out, file)
    second.write_bytes(kept[:-20])
    with pytest.raises(InputError, match="cannot be read"):
        merge_shards(out, file)
    second.write_bytes(kept)
    (out / "detections-00002-of-00002.parts").mkdir()
    with pytest.raises(InputError, match="shard 2/2 is not finished"):
        merge_shards(out, file)
    with pytest.raises(InputError, match="holds no shard"):
        merge_shards(images, file)


@pytest.mark.parametrize(
    "text", ["3", "0/4", "5/4", "a/4", "1/", "-1/4", "1/4/2", "1/٤", "1/999999", "1" * 5000 + "/2"]
)
def test_invalid_shards_are_rejected(text: str) -> None:
    """Python converts at most 4300 digits."""
    with pytest.raises(InputError, match=r"^--shard: found "):
        Shard.parse(text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--as", "coco", "--shard", "1/2"], "--as coco and --shard: found both"),
        (["--shard", "3/2"], "needed a number from 1 to 2"),
        (["--as", "parquet", "--geojson", "--tile", "64"], "the table has the polygons"),
        (["--as", "tables"], "label-studio, parquet"),
        (["--as", "coco", "--track"], "--as and --track"),
        (["--shard", "1/2", "--track"], "--as parquet, --shard or --ray and --track"),
    ],
)
def test_conflicting_options_are_rejected(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    weights = "none.safetensors"
    with pytest.raises(SystemExit) as leaving:
        cli.main(["predict", weights, "x.png", "--recipe", "demo", *words])
    assert leaving.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_predict_and_merge_shards_commands(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a network, as a newcomer runs them; status 1 for an image that cannot be read."""
    weights = write_weights(tmp_path / "w.safetensors", write_images(tmp_path / "others"))
    statuses = []

    def run(*words: str) -> str:
        with pytest.raises(SystemExit) as leaving:
            cli.main([str(word) for word in words])
        statuses.append(leaving.value.code)
        return capsys.readouterr().out

    common = [str(weights), str(images), "--threshold", "0.005", "--out"]
    message = run("predict", *common, str(tmp_path / "plain"), "--as", "parquet")
    assert re.search(r"^12 images: .*\ndetections\.parquet: .*plain\nfailed: .*broken\.png: not a", message)
    for number in (2, 1):
        run("predict", *common, str(tmp_path / "out"), "--shard", f"{number}/2")
    file = tmp_path / "all.parquet"
    assert re.search(
        r"^2 shards, 13 images, \d+ detections: .*all\.parquet$",
        run("merge-shards", str(tmp_path / "out"), "-o", str(file)),
    )
    assert sorted(statuses) == [0, 0, 1, 1]
    assert rows(file) == rows(tmp_path / "plain" / "detections.parquet")
    assert sum(row["score"] is not None for row in rows(file)) > 50


# Children are forked before any thread is started.
SHARDS = """
import os, random, signal, sys, time
from pathlib import Path
import cv2, torch
torch.set_num_threads(1); cv2.setNumThreads(1)
from boxwright.tables import folder
from boxwright.tables.folder import Shard, parts_of
from boxwright.tables.predict import predict_table
from boxwright.tables.rows import predict_rows
sys.path.append(sys.argv[3])
from random_detector import write_images, write_weights
from stand_in import rectangles_predictor

folder.PART_IMAGES = 1
images, out = Path(sys.argv[1]), Path(sys.argv[2])
predictor, count = rectangles_predictor(), 16

def stuck(*arguments):
    for batch in predict_rows(*arguments):
        yield batch
        time.sleep(60)  # it is killed then

def run(shard, rows):
    child = os.fork()
    if not child:
        predict_table(predictor, [images], out, shard=shard, rows=rows)
        os._exit(0)
    return child

order = [Shard(index, count) for index in range(1, count + 1)]
random.Random(4).shuffle(order)
killed = 0
for shard in order:
    child = run(shard, stuck if killed < 3 else predict_rows)
    while killed < 3 and not list(parts_of(out, shard).glob("*.parquet")):
        if os.waitpid(child, os.WNOHANG)[0]:  # a shard without images
            child = 0
            break
        time.sleep(0.002)
    if child and killed < 3:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL
        killed += 1
        order.append(shard)  # again, at the end
    elif child:
        assert os.waitpid(child, 0)[1] == 0
assert killed == 3
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_shards_in_any_order_with_kills_equal_a_single_run(images: Path, tmp_path: Path) -> None:
    for number in range(12, 60):
        image = scene(100 + number, 200, BOXES[: number % 3], LABELS[: number % 3])
        cv2.imwrite(str(images / f"{number:02d}.png"), image[:, :, ::-1])
    command = [sys.executable, "-c", SHARDS, str(images), str(tmp_path / "out"), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    merge_shards(tmp_path / "out", tmp_path / "all.parquet")
    predict_table(rectangles_predictor(), [images], tmp_path / "plain")
    assert rows(tmp_path / "all.parquet") == rows(tmp_path / "plain" / "detections.parquet")
    assert sorted(path.suffix for path in (tmp_path / "out").iterdir() if path.suffix == ".parts") == []


def geotiff(path: Path, crs: str | None, left: float = 500_000) -> Path:
    rasterio = pytest.importorskip("rasterio", reason="needs the extra geo")
    from rasterio.transform import Affine

    image = scene(192, 320, [(30, 10, 90, 70)], [0]).transpose(2, 0, 1)
    transform = Affine(2, 0, left, 0, -2, 4_000_000)  # 2 m a px, north up
    with rasterio.open(path, "w", driver="GTiff", width=320, height=192, count=3, dtype="uint8", crs=crs,
                       transform=transform) as file:  # fmt: skip
        file.write(image)
    return path


@pytest.mark.slow
def test_georeferenced_scenes_open_in_geopandas(tmp_path: Path) -> None:
    place = tmp_path / "scenes"
    place.mkdir()
    geotiff(place / "a.tif", "EPSG:32650")
    geotiff(place / "b.tif", "EPSG:32650", left=510_000)
    cv2.imwrite(str(place / "c.png"), scene(192, 320, [(30, 10, 90, 70)], [0])[:, :, ::-1])
    cv2.imwrite(str(place / "d.png"), scene(192, 320, [], []))
    predictor = rectangles_predictor(data__canvas__size=[192, 320])
    predict_table(predictor, [place], tmp_path / "out", tiling=Tiling(400))
    file = tmp_path / "out" / "detections.parquet"
    geopandas = pytest.importorskip("geopandas", reason="needs geopandas to compare with")
    found = geopandas.read_parquet(file).sort_values("image")
    assert found.crs.to_epsg() == 32650
    # by hand: 500,000 + 2 * 30, 4,000,000 - 2 * 10, ...
    bounds = [tuple(round(edge, 2) for edge in shape.bounds) for shape in found.geometry[:2]]
    assert bounds == [(500_060, 3_999_860, 500_180, 3_999_980), (510_060, 3_999_860, 510_180, 3_999_980)]
    assert all(shape.is_valid and shape.exterior.is_ccw for shape in found.geometry[:2])
    assert found.geometry[2:].isna().tolist() == [True, True]
    assert found["class"].tolist()[:3] == ["red"] * 3
    assert found["x1"].tolist()[:3] == pytest.approx([30] * 3, abs=0.1)  # px
    west = geopandas.read_parquet(file, bbox=(500_000, 3_900_000, 501_000, 4_000_000))
    assert west["image"].tolist() == [str(place / "a.tif")]
    head = json.loads(pq.read_schema(file).metadata[b"geo"])
    assert (head["version"], head["columns"]["geometry"]["geometry_types"]) == ("1.1.0", ["Polygon"])
    assert head["columns"]["geometry"]["bbox"] == pytest.approx([500_060, 3_999_860, 510_180, 3_999_980], abs=0.01)


@pytest.mark.slow
def test_scenes_of_two_coordinate_systems_are_rejected(tmp_path: Path) -> None:
    place = tmp_path / "scenes"
    place.mkdir()
    geotiff(place / "a.tif", "EPSG:32650")
    geotiff(place / "b.tif", "EPSG:32651")
    predictor = rectangles_predictor(data__canvas__size=[192, 320])
    with pytest.raises(InputError, match=r"b\.tif: its coordinate reference system is EPSG:32651, that of the table"):
        predict_table(predictor, [place], tmp_path / "out", tiling=Tiling(400))
    assert not list(tmp_path.glob("out/*.parquet"))
    predict_table(
        predictor, [place / "b.tif"], tmp_path / "out", tiling=Tiling(400)
    )  # which is not taken by what failed
    plain = tmp_path / "plain"
    predict_table(predictor, [place], plain)  # without --tile they are images
    assert "geometry" not in pq.read_schema(plain / "detections.parquet").names


def test_spark_example(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on the page, called with an iterator of frames as Spark does."""
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    page = (ROOT / "docs" / "batch_prediction.md").read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"^```python\n(.*?)^```", page, re.S | re.M) if "def predict_fr" in block]
    place: dict[str, object] = {}
    exec(compile(code, "batch_prediction.md", "exec"), place)
    monkeypatch.setattr(place["bw"], "load", lambda *_, **__: rectangles_predictor(), raising=False)
    paths = sorted(map(str, images.iterdir()))
    frames = iter([pandas.DataFrame({"path": paths[:5]}), pandas.DataFrame({"path": paths[5:]})])
    found = list(place["predict_frames"](frames))  # type: ignore[operator]
    names = [column.split()[0] for column in str(place["SCHEMA"]).split(", ")]
    assert [list(frame.columns) for frame in found] == [names, names]
    predictor = rectangles_predictor()
    predict_table(predictor, [images], tmp_path / "out", predictor.args(threshold=0.3))
    table = pq.read_table(tmp_path / "out" / "detections.parquet").to_pandas()
    both = [frame.drop(columns="time").sort_values(["image", "x1"], ignore_index=True)
            for frame in (pandas.concat(found), table)]  # fmt: skip
    pandas.testing.assert_frame_equal(*both)


def test_non_utf8_names_are_escaped(tmp_path: Path) -> None:
    place = tmp_path / "images"
    place.mkdir()
    path = os.fsencode(place) + b"/\xe9.png"
    Path(os.fsdecode(path)).write_bytes(cv2.imencode(".png", np.zeros((9, 9, 3), np.uint8))[1].tobytes())
    predict_table(rectangles_predictor(), [place], tmp_path / "out")
    (row,) = rows(tmp_path / "out" / "detections.parquet")
    assert row["image"] == f"{place}/\\udce9.png"
    assert row["error"] is None
