"""A rendered video with known motions: what `predict --track` counts, writes and draws."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import moving_scene
import track_sequences
from boxwright import cli
from boxwright.counting.config import CountingConfig
from boxwright.counting.counter import Counter
from boxwright.metrics.tracks import score
from boxwright.predict.predictor import AnyPredictor
from boxwright.predict.tracked_output import Tracking
from boxwright.predict.video import predict_video
from boxwright.tracking import mot
from boxwright.tracking.tracker import Tracker
from boxwright.types import Detections
from boxwright.video.sources import open_video
from stand_in import NAMES, Rectangles, rectangles_predictor

pytest.importorskip("scipy", reason="needs the extra video")
RATE = 10  # frames per second
PLACES = CountingConfig(lines={"gate": moving_scene.GATE}, zones={"yard": moving_scene.YARD})


def predictor() -> AnyPredictor:
    return rectangles_predictor(data__canvas__size=[moving_scene.HEIGHT, moving_scene.WIDTH], predict__batch=8)


def detected(frame: int, rate: float) -> Detections:
    """What the stand-in finds in a rendered frame, without a video between."""
    image = torch.from_numpy(moving_scene.render(frame / rate, rate)).permute(2, 0, 1) / 255
    found = Rectangles()._one(image, 0.1)
    return Detections(found.boxes.float(), found.scores.float(), found.labels, NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("rate", [25, 10])
def test_counts_are_exact_and_track_ids_are_stable(tmp_path: Path, rate: float) -> None:
    """A round of 20 s."""
    tracker, counter = Tracker(), Counter(PLACES)
    seen: dict[int, list[int]] = {}
    with (tmp_path / "found.txt").open("w") as file:
        for frame in range(round(moving_scene.ROUND * rate)):
            tracks = tracker.update(detected(frame, rate), None, frame / rate)
            counter.update(tracks, frame / rate)
            mot.write_rows(file, frame + 1, tracks)
            for track in tracks[tracks.confirmed].ids.tolist():
                seen.setdefault(track, []).append(frame)
    assert counter.totals()["gate"] == moving_scene.COUNTS
    truth = track_sequences.write_rows(tmp_path / "truth.txt", moving_scene.truth(moving_scene.ROUND, rate))
    metrics = score(mot.read(truth), mot.read(tmp_path / "found.txt"))
    assert metrics.switches == 0
    assert metrics.truth_ids == metrics.found_ids == len(seen) == 9
    assert metrics.hota > 0.93  # boxes of objects that are partly hidden are smaller than their ground truth


def write(path: Path, seconds: float, rate: float) -> Path:
    """The scene as a video without losses."""
    from made_video import write_video

    count = round(seconds * rate)
    images = [moving_scene.render(frame / rate, rate) for frame in range(count)]
    times = [frame / rate for frame in range(count)]
    return write_video(path, images, times, codec="ffv1", pix_fmt="bgr0")


@pytest.mark.slow
def test_output_files_of_a_video(tmp_path: Path) -> None:
    """8 s at 10 frames per second."""
    path = write(tmp_path / "scene.mkv", 8, 10)
    with open_video(str(path)) as video:
        summary = predict_video(predictor(), video, tmp_path / "out", tracking=Tracking(PLACES))
    lines = summary.lines()
    assert lines[0] == "tracks: 4 red, 2 blue, 2 green"
    assert lines[1] == "gate: in 4 (1 green, 3 red), out 1 (1 green)"
    assert lines[-1].startswith("scene.mp4, detections.json, tracks.txt, tracks.json, events.csv: ")

    rows = list(csv.DictReader((tmp_path / "out" / "events.csv").read_text().splitlines()))
    gate = [(row["class"], row["direction"]) for row in rows if row["place"] == "gate"]
    assert sorted(gate) == [("green", "in"), ("green", "out"), ("red", "in"), ("red", "in"), ("red", "in")]
    passing = next(row for row in rows if row["place"] == "gate" and row["direction"] == "out")
    assert float(passing["time"]) == pytest.approx(0.5 + 172 / 40, abs=0.02)

    read = mot.read(tmp_path / "out" / "tracks.txt")
    found = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert len(found["frames"]) == 80
    last = {one["track"]: one for one in found["frames"][79]["detections"]}
    assert sorted(one for one in last if one) == sorted(read.ids[read.frames == 80].tolist())
    for track, box in zip(read.ids[read.frames == 80].tolist(), read.boxes[read.frames == 80], strict=True):
        assert last[track]["box"] == pytest.approx(box.tolist(), abs=0.02)

    coco = json.loads((tmp_path / "out" / "tracks.json").read_text())
    assert coco["videos"] == [{"id": 1, "name": "scene", "height": 256, "width": 320, "length": 80}]
    assert len(coco["images"]) == 80
    assert len(coco["annotations"]) == len(read)
    names = {category["id"]: category["name"] for category in coco["categories"]}
    assert sorted(names[track["category_id"]] for track in coco["tracks"]) == ["blue"] * 2 + ["green"] * 2 + ["red"] * 4
    assert {row["track_id"] for row in coco["annotations"]} == {track["id"] for track in coco["tracks"]}
    first = next(row for row in coco["annotations"] if row["image_id"] == 80)
    assert first["bbox"][2] == pytest.approx(last[first["track_id"]]["box"][2] - last[first["track_id"]]["box"][0])

    with open_video(str(tmp_path / "out" / "scene.mp4")) as video:
        frame = list(video)[79].image
    line = frame[200:220, 158:163].astype(int)  # red on gray, whose channels are equal
    assert (line[:, :, 0] - line[:, :, 2]).max() > 60
    assert np.abs(frame[:12, :60].astype(int) - 90).max() > 60  # totals at the top left


def test_tentative_tracks_have_no_id_in_the_files(tmp_path: Path) -> None:
    path = write(tmp_path / "scene.mkv", 0.8, 10)
    with open_video(str(path)) as video:
        predict_video(predictor(), video, tmp_path / "out", tracking=Tracking(), draw=False)
    frames = json.loads((tmp_path / "out" / "detections.json").read_text())["frames"]
    ids = [[one["track"] for one in frame["detections"]] for frame in frames]
    assert {one for found in ids[:2] for one in found} == {None}
    assert not (tmp_path / "out" / "events.csv").exists()
    assert mot.read(tmp_path / "out" / "tracks.txt").frames.min() >= 3
    with open_video(str(path)) as video:
        summary = predict_video(predictor(), video, tmp_path / "out", draw=False)
    assert "tracks.txt, tracks.json: from an earlier run into this folder, not from this one" in summary.lines()


def test_low_score_detections_of_tracks_are_written(tmp_path: Path) -> None:
    """A blue square becomes hollow and scores low, as a green one does always, and more; a red one scores high."""
    from made_video import write_video

    images = []
    for k in range(10):
        image = np.full((64, 96, 3), 90, np.uint8)
        image[4:28, 4:28, 0] = image[36:60, 4:28, 2] = image[4:28, 60:84, 1] = 230
        for rows, columns, width in ((slice(36, 60), slice(4, 28), 2), (slice(4, 28), slice(60, 84), 3)):
            if width == 3 or k > 4:
                image[rows, columns][width:-width, width:-width] = 90
        images.append(image)
    path = write_video(tmp_path / "a.mkv", images, codec="ffv1", pix_fmt="bgr0")
    with open_video(str(path)) as video:
        found = rectangles_predictor(data__canvas__size=[64, 96])
        predict_video(found, video, tmp_path / "out", tracking=Tracking(), draw=False)
    frames = json.loads((tmp_path / "out" / "detections.json").read_text())["frames"]
    ids = {one["name"]: one["track"] for one in frames[4]["detections"]}
    assert set(ids) == {"red", "blue"}
    assert None not in ids.values()
    last = [(one["name"], one["track"], one["score"] < 0.5) for one in frames[-1]["detections"]]
    assert last == [("red", ids["red"], False), ("blue", ids["blue"], True)]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[object, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(["predict", *map(str, arguments)])
    return ended.value.code, capsys.readouterr().err


def test_incompatible_options_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((10, 10, 3), np.uint8))
    weights = tmp_path / "no.weights"
    image, video = tmp_path / "a.png", tmp_path / "a.mp4"
    demo = ("--recipe", "demo")
    code, line = run(capsys, weights, image, *demo, "--track")
    assert (code, line.count("\n")) == (2, 1)
    assert "--track: goes with a video" in line
    code, line = run(capsys, weights, video, *demo, "--line", "1,2,3")
    assert (code, "--line, --zone: lines.line 1: too few values" in line) == (2, True)
    code, line = run(capsys, weights, video, *demo, "--counting", tmp_path / "none.yaml")
    assert (code, "none.yaml: cannot be read" in line) == (2, True)
    code, line = run(capsys, weights, video, "--recipe", "darknet53_imagenet_256_darknet", "--track")
    assert (code, "--track: recipe darknet53_imagenet_256_darknet is a classifier" in line) == (2, True)


@pytest.mark.slow
def test_counts_of_a_one_minute_video_are_exact(tmp_path: Path) -> None:
    """Three rounds, through an encoded video; docs/results.md has the numbers at 25 frames per second."""
    path = write(tmp_path / "scene.mkv", 60, RATE)
    with open_video(str(path)) as video:
        predict_video(predictor(), video, tmp_path / "out", tracking=Tracking(PLACES), draw=False)
    counts: dict[str, dict[str, int]] = {}
    for row in csv.DictReader((tmp_path / "out" / "events.csv").read_text().splitlines()):
        if row["place"] == "gate":
            classes = counts.setdefault(row["direction"], {})
            classes[row["class"]] = classes.get(row["class"], 0) + 1
    assert counts == {
        way: {name: 3 * count for name, count in classes.items()} for way, classes in moving_scene.COUNTS.items()
    }
    truth = track_sequences.write_rows(tmp_path / "truth.txt", moving_scene.truth(60, RATE))
    found = mot.read(tmp_path / "out" / "tracks.txt")
    metrics = score(mot.read(truth), found)
    assert (metrics.switches, metrics.found_ids, metrics.truth_ids) == (0, 27, 27)
    begins = [int(found.frames[found.ids == track].min()) for track in np.unique(found.ids)]
    assert begins == sorted(begins)  # ids ascend, none is used again
