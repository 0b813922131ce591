"""Images of any size in windows: the same boxes as for the full image, bounded memory, maps, bad input."""

import json
import math
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import Affine

from boxwright import cli
from boxwright.errors import InputError
from boxwright.images.windows import Georeference, grid, open_scene
from boxwright.predict import loading
from boxwright.predict import predictor as predictors
from boxwright.predict.geojson import is_georeferenced, write_geojson
from boxwright.predict.prefetch import prefetch_map
from boxwright.predict.scene_output import predict_scenes_to_folder
from boxwright.predict.tiled import Overview, Tiling, predict_scene
from boxwright.types import Detections
from made_scene import TruthTeller, faults, objects, write_scene
from stand_in import rectangles_predictor, scene

BOXES, LABELS = [(30, 10, 90, 70), (150, 20, 190, 100), (130, 130, 250, 170)], [0, 2, 1]
FOUND = torch.tensor(BOXES, dtype=torch.float32)
UTM = Affine(2, 0, 500_000, 0, -2, 4_000_000)  # 2 m a px, north up


def example_image(path, boxes=BOXES, labels=LABELS, size=(192, 320)):
    assert cv2.imwrite(str(path), scene(*size, boxes, labels)[:, :, ::-1])
    return path


def tiff(path, crs="EPSG:32650", transform=UTM, **profile):
    """The same image as a GeoTIFF."""
    image = scene(192, 320, BOXES, LABELS).transpose(2, 0, 1)
    with rasterio.open(path, "w", driver="GTiff", width=320, height=192, count=3, dtype="uint8", crs=crs,
                       transform=transform, **profile) as file:  # fmt: skip
        file.write(image)
    return path


def by_place(found):
    return found[found.boxes[:, 0].argsort()]


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
@pytest.mark.parametrize(("window", "overlap"), [(64, 0.25), (128, 0.5), (1000, 0.2)])
def test_tiled_detections_equal_the_full_image(tmp_path, name, window, overlap):
    """One object is longer than the overlap, one longer than the smaller windows; on the last all is one window."""
    file = tiff(tmp_path / name) if name.endswith("tif") else example_image(tmp_path / name)
    canvas = [min(window, 192), min(window, 320)]
    predictor = rectangles_predictor(data__canvas__size=canvas)
    with open_scene(file) as opened:
        found = by_place(predict_scene(predictor, opened, Tiling(window, overlap)))
    assert found.boxes == pytest.approx(FOUND[FOUND[:, 0].argsort()], abs=0.02)
    assert found.labels.tolist() == [0, 1, 2]
    assert (found.path, found.size) == (str(file), (192, 320))


@pytest.mark.slow
def test_large_scene_has_each_object_once_in_bounded_memory(tmp_path):
    """The small version of benchmarks/bench_big_image.py."""
    truth = objects(2500, 160)
    predictor, reads = TruthTeller(truth, batch=4), []
    with open_scene(write_scene(tmp_path / "made.tif", 2500)) as opened:

        def read(window, size):
            reads.append(len(reads) - predictor.looks)  # windows read and not yet looked at
            return opened._pixels(window, size)

        found = predict_scene(predictor, replace(opened, _pixels=read), Tiling(600, 0.2))
    assert faults(found, truth) == ""
    assert len(reads) == len(grid((2500, 2500), 600, 0.2)) == 25
    assert max(reads) <= 2 * 4  # one batch at work, one ahead
    short, twice = found[: len(found) - 1], found[torch.cat((torch.arange(len(found) - 1), torch.tensor([0])))]
    assert faults(short, truth)  # `faults` finds errors
    assert faults(twice, truth)


def test_prefetch_reads_one_item_ahead():
    begun = []
    with ThreadPoolExecutor(1) as pool:
        results = prefetch_map(pool, [0, 1, 2], lambda number: begun.append(number) or -number)
        assert next(results) == 0
        pool.submit(int).result()  # everything handed in before is done
        assert begun == [0, 1]
        assert list(results) == [-1, -2]


def test_prefetch_stops_after_an_error():
    begun, ended, second = [], [], threading.Event()

    def work(number):
        begun.append(number)
        if number == 0:
            assert second.wait(5)
            raise ValueError("the first")
        second.set()
        time.sleep(0.1)
        ended.append(number)

    with ThreadPoolExecutor(2) as pool:
        with pytest.raises(ValueError, match="the first"):
            list(prefetch_map(pool, range(10), work, 5))
        assert {0, 1} <= set(begun)
        assert sorted(ended) == sorted(set(begun) - {0})  # what had begun was waited for; two threads have no order
        assert len(begun) <= 3


def test_threshold_and_classes_apply_to_windows(tmp_path):
    predictor = rectangles_predictor(data__canvas__size=[128, 128])
    with open_scene(example_image(tmp_path / "x.png")) as opened:
        assert len(predict_scene(predictor, opened, Tiling(128), threshold=0.95)) == 0
        assert predict_scene(predictor, opened, Tiling(128), classes=["blue"]).labels.tolist() == [2]


@pytest.mark.parametrize("limit", [80, 4096])
def test_overview_is_the_downscaled_image(tmp_path, limit):
    with open_scene(example_image(tmp_path / "x.png")) as opened:
        overview = Overview(opened.size, limit)
        for window in grid(opened.size, 64, 0.25):
            overview.add(window, opened.read(window))
    height, width = (48, 80) if limit == 80 else (192, 320)
    wanted = cv2.resize(scene(192, 320, BOXES, LABELS), (width, height), interpolation=cv2.INTER_AREA)
    assert overview.image.shape == wanted.shape
    assert np.abs(overview.image.astype(int) - wanted).mean() < 3  # an edge may move by less than one px of it


def test_geojson_is_written_only_for_georeferenced_scenes(tmp_path):
    sources = tmp_path / "in"
    sources.mkdir()
    placed, plain = tiff(sources / "a.tif"), example_image(sources / "b.png")
    broken = sources / "c.tif"
    broken.write_bytes(placed.read_bytes()[:2000])
    predictor = rectangles_predictor(data__canvas__size=[128, 128])
    summary = predict_scenes_to_folder(predictor, [sources], tmp_path / "out", Tiling(128))
    assert (summary.images, summary.counts) == (2, {"red": 1, "green": 1, "blue": 1} | dict.fromkeys(NAMES, 2))
    assert list(summary.failed) == [str(broken)]
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"a.jpg", "a.geojson", "a.wgs84.geojson", "b.jpg", "detections.json"}
    tree = json.loads((tmp_path / "out/detections.json").read_text())
    assert (tree["tile"], tree["overlap"]) == (128, 0.2)
    rows = {row["file"]: row for row in tree["images"]}
    assert rows[str(placed)]["geojson"] == ["a.geojson", "a.wgs84.geojson"]
    assert "geojson" not in rows[str(plain)]
    assert len(rows[str(plain)]["detections"]) == 3
    assert cv2.imread(str(tmp_path / "out/a.jpg")).shape == (192, 320, 3)


def test_scene_beyond_its_projection_keeps_its_detections(tmp_path):
    """PROJ rejects the point 10,200 km west of a UTM zone's middle and 15,000 km north."""
    good, pole = tiff(tmp_path / "good.tif"), tiff(tmp_path / "pole.tif", transform=BEYOND)
    predictor = rectangles_predictor(data__canvas__size=[128, 128])
    summary = predict_scenes_to_folder(predictor, [good, pole], tmp_path / "out", Tiling(128))
    assert (summary.images, summary.failed) == (2, {})
    rows = {row["file"]: row for row in json.loads((tmp_path / "out/detections.json").read_text())["images"]}
    assert len(rows[str(pole)]["detections"]) == 3
    assert "geojson" not in rows[str(pole)]
    assert "geojson" in rows[str(good)]
    with pytest.raises(InputError, match=r"pole.tif: no georeference that leads"):
        predict_scenes_to_folder(predictor, [good, pole], tmp_path / "none", Tiling(128), geojson=True)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("names", [("a.tif", "A.WGS84.tif"), ("a.wgs84.tif", "a.png")])
def test_colliding_geojson_names_are_rejected(tmp_path, names):
    sources = [tiff(tmp_path / name) if name.endswith("tif") else example_image(tmp_path / name) for name in names]
    with pytest.raises(InputError, match=r"would both be a.wgs84.geojson"):
        predict_scenes_to_folder(rectangles_predictor(), sources, tmp_path / "out", Tiling(128))
    assert not (tmp_path / "out").exists()


NAMES = ("red", "green", "blue")
BEYOND = Affine(2e5, 0, -1e7, 0, -2e5, 1.5e7)


def geojson(tmp_path, crs, transform, boxes=BOXES):
    found = Detections(torch.tensor(boxes).float(), torch.tensor([0.5] * len(boxes)), torch.tensor(LABELS), NAMES)
    names = write_geojson(found, Georeference(crs, tuple(transform)[:6]), tmp_path, "x")
    return {name: json.loads((tmp_path / name).read_text()) for name in names}


def rings(tree):
    return np.array([feature["geometry"]["coordinates"][0] for feature in tree["features"]])


def test_geojson_corners_match_rasterio(tmp_path):
    """In UTM, 2 m a px, with the WGS84 of a file's own corner as the other truth."""
    with rasterio.open(tiff(tmp_path / "x.tif")) as file:
        files = geojson(tmp_path, str(file.crs), file.transform)
        corners = [file.xy(row, column, offset="ul") for row, column in ((10, 30), (70, 90))]
    own = rings(files["x.geojson"])
    (west, north), (east, south) = corners
    assert (own[0].min(0), own[0].max(0)) == (pytest.approx([west, south]), pytest.approx([east, north]))
    member = files["x.geojson"]["crs"]["properties"]["name"]
    assert member == "urn:ogc:def:crs:EPSG::32650"
    assert "crs" not in files["x.wgs84.geojson"]
    globe = rings(files["x.wgs84.geojson"])
    assert ((globe[..., 0] > 117) & (globe[..., 0] < 117.01)).all()  # zone 50's middle is 117 degrees east
    assert ((globe[..., 1] > 36.1) & (globe[..., 1] < 36.2)).all()
    features = files["x.geojson"]["features"]
    assert [feature["properties"]["name"] for feature in features] == ["red", "blue", "green"]


def test_web_mercator_matches_its_formula(tmp_path):
    """Snyder 1987, equations 7-4 and 7-5, on a sphere of 6,378,137 m."""
    files = geojson(tmp_path, "EPSG:3857", Affine(10, 0, 1_000_000, 0, -10, 5_000_000))
    east, north = np.moveaxis(rings(files["x.geojson"]), -1, 0)
    radius = 6_378_137.0
    longitude, latitude = np.degrees(east / radius), np.degrees(2 * np.arctan(np.exp(north / radius)) - math.pi / 2)
    assert rings(files["x.wgs84.geojson"]) == pytest.approx(np.stack((longitude, latitude), -1), abs=1e-7)


@pytest.mark.parametrize(
    "transform",
    [UTM, Affine(2, 0, 5e5, 0, 2, 4e6), Affine.translation(5e5, 4e6) @ Affine.rotation(30) @ Affine.scale(2, -2)],
)
def test_rings_are_closed_and_counterclockwise(tmp_path, transform):
    for tree in geojson(tmp_path, "EPSG:32650", transform).values():
        ring = rings(tree)
        assert (ring[:, 0] == ring[:, -1]).all()
        x, y = np.moveaxis(ring - ring.mean(1, keepdims=True), -1, 0)
        assert ((x[:, :-1] * y[:, 1:] - x[:, 1:] * y[:, :-1]).sum(1) > 0).all()  # the shoelace formula


def test_geojson_of_degrees_and_of_systems_without_epsg_code(tmp_path):
    files = geojson(tmp_path, "EPSG:4326", Affine(1e-4, 0, 8.5, 0, -1e-4, 47.4))
    assert (rings(files["x.geojson"]) == rings(files["x.wgs84.geojson"])).all()
    assert rings(files["x.geojson"])[0, 0] == pytest.approx([8.503, 47.399])
    assert files["x.geojson"]["crs"]["properties"]["name"] == "urn:ogc:def:crs:OGC:1.3:CRS84"
    (tmp_path / "own").mkdir()
    assert list(geojson(tmp_path / "own", "+proj=utm +zone=33 +ellps=bessel", UTM)) == ["x.wgs84.geojson"]


@pytest.mark.parametrize(
    ("crs", "px", "left"),
    [("EPSG:4326", 0.01, 179.4), ("EPSG:3832", 6_378_137 * math.radians(0.01), 6_378_137 * math.radians(29.4))],
)
def test_box_on_the_antimeridian_becomes_two_polygons(tmp_path, crs, px, left):
    """In degrees of up to 360, and in Mercator around 150 degrees east; both with 0.01 degrees of longitude a px."""
    tree = geojson(tmp_path, crs, Affine(px, 0, left, 0, -px, 10 * px))["x.wgs84.geojson"]
    crossing, *others = (feature["geometry"] for feature in tree["features"])
    assert crossing["type"] == "MultiPolygon"  # RFC 7946, section 3.1.9
    spans = [sorted({longitude for longitude, _ in ring}) for (ring,) in crossing["coordinates"]]
    assert spans == [pytest.approx([179.7, 180], abs=1e-7), pytest.approx([-180, -179.7], abs=1e-7)]
    east = [np.array(geometry["coordinates"])[0, :, 0] for geometry in others]
    assert [(each.min(), each.max()) for each in east] == [
        (pytest.approx(-179.1, abs=1e-7), pytest.approx(-178.7, abs=1e-7)),
        (pytest.approx(-179.3, abs=1e-7), pytest.approx(-178.1, abs=1e-7)),
    ]


def test_parts_of_a_rotated_box_on_the_antimeridian_have_its_area(tmp_path):
    transform = Affine.translation(179.93, 0) @ Affine.rotation(30) @ Affine.scale(0.001, -0.001)
    tree = geojson(tmp_path, "EPSG:4326", transform)["x.wgs84.geojson"]
    areas = []
    for (ring,) in tree["features"][0]["geometry"]["coordinates"]:
        (x, y), closed = np.array(ring).T, ring[0] == ring[-1]
        assert closed
        assert ((np.abs(x) <= 180) & (np.abs(x) > 179.9)).all()
        areas.append((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)  # positive: counterclockwise
    assert len(areas) == 2
    assert min(areas) > 1e-3
    assert sum(areas) == pytest.approx(60 * 60 * 1e-6, rel=1e-4)


def test_wgs84_file_is_omitted_without_valid_coordinates(tmp_path):
    files = geojson(tmp_path, "EPSG:32650", BEYOND, [(0, 0, 4, 4), *BOXES[1:]])
    assert list(files) == ["x.geojson"] == [path.name for path in tmp_path.iterdir()]
    assert len(rings(files["x.geojson"])) == 3


def test_local_crs_and_empty_detections(tmp_path):
    local = 'LOCAL_CS["yard",UNIT["metre",1]]'
    assert not is_georeferenced(Georeference(local, tuple(UTM)[:6]), (192, 320))
    assert not is_georeferenced(None, (192, 320))
    assert is_georeferenced(Georeference("EPSG:32650", tuple(UTM)[:6]), (192, 320))
    write_geojson(Detections.empty(NAMES), Georeference("EPSG:32650", tuple(UTM)[:6]), tmp_path, "none")
    assert json.loads((tmp_path / "none.wgs84.geojson").read_text()) == {"type": "FeatureCollection", "features": []}


@pytest.mark.parametrize(
    ("crs", "transform", "result"),
    [
        ("EPSG:4326", UTM, False),  # meters that the file declares as degrees
        ("EPSG:32650", Affine(2, 0, 5e5, 0, -5e303, 4e6), False),  # a damaged file
        ("EPSG:4326", Affine(0.25, 0, -0.125, 0, -0.25, 90.125), True),  # ERA5: px centered on the poles
    ],
)
def test_coordinates_that_are_not_on_earth_are_no_georeference(crs, transform, result):
    assert is_georeferenced(Georeference(crs, tuple(transform)[:6]), (721, 1440)) == result


def test_latitudes_end_at_the_poles(tmp_path):
    tree = geojson(tmp_path, "EPSG:4326", Affine(0.25, 0, -0.125, 0, -0.25, 90.125), [(0, 0, 4, 4), *BOXES[1:]])
    ring = rings(tree["x.wgs84.geojson"])[0]
    assert [(ring[:, axis].min(), ring[:, axis].max()) for axis in (0, 1)] == [(-0.125, 0.875), (89.125, 90)]


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Run `boxwright predict` with the stand-in for weights; return exit status and output."""
    stand_in = rectangles_predictor(data__canvas__size=[128, 128])
    monkeypatch.setattr(loading, "recipe_of", lambda *_: stand_in.recipe)
    monkeypatch.setattr(predictors, "load", lambda *_, **__: stand_in)

    def run(*words):
        with pytest.raises(SystemExit) as leaving:
            cli.main(["predict", "w.safetensors", *map(str, words), "--out", str(tmp_path / "out")])
        return leaving.value.code or 0, capsys.readouterr()

    return run


def test_no_draw_writes_no_overviews(tmp_path, command):
    sources = [tiff(tmp_path / "x.tif"), example_image(tmp_path / "y.png")]
    status, output = command(*sources, "--tile", 128, "--no-draw")
    assert (status, output.err) == (0, "")
    assert "drawn" not in output.out
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"x.geojson", "x.wgs84.geojson", "detections.json"}
    rows = json.loads((tmp_path / "out/detections.json").read_text())["images"]
    assert [(row["drawn"], len(row["detections"])) for row in rows] == [(None, 3), (None, 3)]


def test_command_writes_boxes_and_geojson(tmp_path, command):
    status, output = command(tiff(tmp_path / "x.tif"), "--tile", 128, "--overlap", 0.25, "--geojson")
    assert status == 0
    assert output.out.startswith("1 image: 1 blue, 1 green, 1 red\n")
    assert len(rings(json.loads((tmp_path / "out/x.geojson").read_text()))) == 3


def test_lost_bit_depth_is_logged_once(tmp_path, command):
    deep = tmp_path / "deep.tif"
    image = scene(192, 320, BOXES, LABELS).transpose(2, 0, 1).astype(np.uint16) << 8
    with rasterio.open(deep, "w", driver="GTiff", width=320, height=192, count=3, dtype="uint16", crs="EPSG:32650",
                       transform=UTM) as file:  # fmt: skip
        file.write(image)
    status, output = command(deep, "--tile", 128, "--geojson")
    assert status == 0
    assert output.err.count("of 16 bits the upper 8 are used") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("x.png", "--tile", 128, "--geojson"),
            "x.png: no georeference that leads to a location on Earth, needed one for GeoJSON",
        ),
        (("x.png", "--tile", 128, "--overlap", 1.0), "overlap: found 1.0"),
        (("x.png", "--tile", 128, "--overlap", -0.1), "overlap: found -0.1"),
        (("x.png", "--tile", 0), "'--tile'"),
        (("x.png", "--tile", 31), "window (--tile): found 31 px, needed 32 px or more"),
        (("x.png", "--overlap", 0.2), "--overlap and --geojson go with --tile"),
        (("x.png", "--geojson"), "--overlap and --geojson go with --tile"),
        (("absent.tif", "--tile", 128), "there is no such image"),
    ],
)
def test_invalid_options_are_one_line_errors_before_any_work(tmp_path, monkeypatch, command, words, message):
    example_image(tmp_path / "x.png")
    monkeypatch.chdir(tmp_path)
    status, output = command(*words)
    assert status == 2
    assert message in output.err
    assert output.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_tiff_without_rasterio_names_the_extra(tmp_path, monkeypatch, command):
    tiff(tmp_path / "x.tif")
    monkeypatch.setitem(sys.modules, "rasterio", None)
    status, output = command(tmp_path / "x.tif", "--tile", 128)
    assert status == 1
    assert "boxwright[geo]" in output.out


def test_invalid_settings_are_errors_before_any_work(tmp_path):
    file, out = example_image(tmp_path / "x.png"), Path(tmp_path / "out")
    for settings in ({"threshold": 2.0}, {"iou": -1.0}, {"classes": ["cat"]}):
        with pytest.raises(InputError, match=next(iter(settings)).removesuffix("es")):
            predict_scenes_to_folder(rectangles_predictor(), [file], out, Tiling(64), **settings)
    assert not out.exists()
