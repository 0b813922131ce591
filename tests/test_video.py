"""Video files: times, orientation, formats and damage; the output of `predict`."""

import json
import re
import resource
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from boxwright import cli, models, progress, recipe
from boxwright.errors import InputError
from boxwright.predict import video as video_prediction
from boxwright.predict.predictor import Predictor
from boxwright.predict.video import predict_video
from boxwright.predict.video_output import FrameRows, stem_of
from boxwright.types import Detections
from boxwright.video import decode, sound
from boxwright.video.encode import VideoWriter
from boxwright.video.files import VideoFile
from boxwright.video.frames import Clock, Selection
from boxwright.video.sources import open_video
from boxwright.weights import checkpoint
from made_video import av, set_matrix, write_video
from stand_in import Rectangles, rectangles_predictor, scene

BOX = (8, 12, 40, 44)


def moving(count, height=64, width=96):
    """Frames with a green rectangle that moves 4 px per frame to the right, and its boxes."""
    boxes = [(8 + 4 * index, 12, 32 + 4 * index, 36) for index in range(count)]
    return [scene(height, width, [box], [1]) for box in boxes], boxes


def frames_of(path, **selection):
    with open_video(str(path), Selection(**selection)) as video:
        return list(video), video


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.ts"])
def test_frame_times_match_the_time_stamps(tmp_path, name):
    times = [0, 0.04, 0.5, 0.52, 3.0]
    frames, video = frames_of(write_video(tmp_path / name, moving(5)[0], times))
    assert [frame.time for frame in frames] == pytest.approx(times, abs=1e-3)
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4]
    assert video.faults == []


ORIENTATIONS = {  # a, b, c, d -> the image as displayed, by the formula
    (1, 0, 0, 1): lambda image: image,
    (0, 1, -1, 0): lambda image: np.rot90(image, -1),  # clockwise, of a phone held upright
    (-1, 0, 0, -1): lambda image: np.rot90(image, 2),
    (0, -1, 1, 0): lambda image: np.rot90(image, 1),
    (-1, 0, 0, 1): lambda image: image[:, ::-1],  # of a front camera
    (0, 1, 1, 0): lambda image: image.transpose(1, 0, 2),
}


@pytest.mark.parametrize("matrix", ORIENTATIONS)
def test_display_matrix_is_applied(tmp_path, matrix):
    path = write_video(tmp_path / "a.mp4", [scene(48, 80, [BOX], [1])] * 2)
    plain, _ = frames_of(path)
    frames, _ = frames_of(set_matrix(path, *matrix))
    expected = ORIENTATIONS[matrix](plain[0].image)
    assert np.array_equal(frames[0].image, expected)
    if matrix[0] * matrix[3] - matrix[1] * matrix[2] > 0:  # OpenCV does not mirror
        _, decoded = cv2.VideoCapture(str(path)).read()
        assert np.array_equal(frames[0].image, decoded[:, :, ::-1])
    found = rectangles_predictor(data__canvas__fit="letterbox")(frames[0].image)
    rows, columns = np.nonzero(expected[:, :, 1] > 128)
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert np.abs(found.boxes.numpy() - box).max() <= 2


@pytest.mark.parametrize(
    ("codec", "pix_fmt"),
    [("ffv1", "yuv420p10le"), ("ffv1", "yuv422p10le"), ("ffv1", "gray16le"), ("ffv1", "rgb48le"), ("mpeg4", "yuv420p")],
)
@pytest.mark.parametrize("size", [(64, 96), (51, 77)])
def test_pixel_formats_and_odd_sizes(tmp_path, codec, pix_fmt, size):
    image = scene(*size, [BOX], [1])
    frames, _ = frames_of(write_video(tmp_path / "a.mkv", [image] * 3, codec=codec, pix_fmt=pix_fmt))
    assert len(frames) == 3
    assert frames[0].image.shape == (*size, 3)
    if "gray" in pix_fmt:
        image = np.repeat((image @ [0.299, 0.587, 0.114]).round()[:, :, None], 3, axis=2)  # ITU-R BT.601 luma
    # Away from edges, which take color from beside them, and from the first 17 columns: of an odd width, libswscale's
    # conversion from RGB, which wrote this video, sometimes leaves the color there undefined.
    for inside in (np.s_[20:36, 18:32], np.s_[:40, 56:]):
        assert np.abs(frames[0].image[inside].astype(int) - image[inside]).max() <= 10


def test_frame_selection_by_hand(tmp_path):
    path = write_video(tmp_path / "a.mp4", moving(20)[0])  # 10 frames per second
    everything, _ = frames_of(path)

    def times(**selection):
        frames, video = frames_of(path, **selection)
        assert abs(video.total - len(frames)) <= 1
        for frame in frames:
            assert np.array_equal(frame.image, everything[round(frame.time * 10)].image)
        return [round(frame.time * 10) for frame in frames]

    assert times(stride=6) == [0, 6, 12, 18]
    assert times(start=1.25) == [13, 14, 15, 16, 17, 18, 19]
    assert times(start=1.2, stop=1.5) == [12, 13, 14]
    assert times(start=0.5, stride=4) == [5, 9, 13, 17]
    assert times(max_fps=4) == [0, 3, 5, 8, 10, 13, 15, 18]
    assert times(max_fps=100) == list(range(20))
    with pytest.raises(InputError, match=r"no frame from start, 5 s, on; it ends at 2\.00 s"):
        frames_of(path, start=5)


@pytest.mark.parametrize("gop", [6, 20])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "mpeg4.ts", "a.m2ts", "a.h264", "a.avi", "a.flv"])
def test_start_seeks_exactly_in_all_containers(tmp_path, name, gop):
    """Also where seeking lands behind it or between two key frames, or is not possible."""
    codec = {"a.flv": "flv1", "a.avi": "mpeg4", "mpeg4.ts": "mpeg4"}.get(name, "libx264")
    path = write_video(tmp_path / name, moving(20)[0], codec=codec, gop=gop)
    everything, _ = frames_of(path)
    rate = 25 if name == "a.h264" else 10  # it has no times
    for start in (2.5, 11.5):  # the first key frames are 0 and 6
        frames, video = frames_of(path, start=start / rate)
        assert [round(frame.time * rate) for frame in frames] == list(range(round(start + 0.5), 20))
        assert video.faults == []
        for frame in frames:
            number = round(frame.time * rate)
            assert np.array_equal(frame.image, everything[number].image)
            assert abs(np.flatnonzero(frame.image[24, :, 1] > 128)[0] - 8 - 4 * number) <= 1


def test_late_start_seeks_instead_of_reading_all_frames(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.ts", moving(16)[0] * 10, codec="libx264")  # of 16 s, with a key frame each 1.2 s
    monkeypatch.setattr(VideoFile, "_open_again", lambda video: pytest.fail("the file is read from its start on"))
    frames, _ = frames_of(path, start=15.5)
    assert [round(frame.time * 10) for frame in frames] == [155, 156, 157, 158, 159]


def test_invalid_selection_is_rejected():
    for wrong in (
        {"stride": 0},
        {"start": -1.0},
        {"start": 2.0, "stop": 2.0},
        {"max_fps": 0.0},
        {"start": float("nan")},
        {"start": 1e13},  # beyond 64-bit us
    ):
        with pytest.raises(InputError, match="needed"):
            Selection(**wrong)


def test_times_increase_despite_missing_repeated_or_reset_stamps():
    clock = Clock(10.0, 0.1)
    found = [clock.time(stamp) for stamp in (10.0, 10.5, None, 10.55, 10.8, 3.0, 3.2)]
    assert found == pytest.approx([0.0, 0.5, 0.6, 0.7, 0.95, 1.05, 1.25])


def truncated(path):
    """The video with its index in front, as for the web, cut in half; and the number of packets that are left."""
    front = path.with_name("front.mp4")
    with av.open(str(path)) as source, av.open(str(front), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return cut(front, path)


def cut(path, target):
    """`target` with the first half of the bytes of `path`; and the number of packets that are left."""
    half = path.stat().st_size // 2
    with av.open(str(path)) as container:
        left = sum(packet.size > 0 and packet.pos + packet.size <= half for packet in container.demux(video=0))
    target.write_bytes(path.read_bytes()[:half])
    assert 3 < left < 25
    return target, left


def noise(count):
    return list(np.random.default_rng(1).integers(0, 256, (count, 48, 64, 3), np.uint8))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_truncated_video_is_read_up_to_its_end(tmp_path, name):
    path = write_video(tmp_path / name, noise(30))
    path, left = truncated(path) if name == "a.mp4" else cut(path, path)
    frames, video = frames_of(path)
    assert len(frames) == left
    assert [frame.time for frame in frames] == pytest.approx([index / 10 for index in range(left)], abs=1e-3)
    (fault,) = video.faults
    assert fault == f"{path}: ends at {left / 10:.1f} s of the declared 3.0 s; is it truncated?"


@pytest.mark.parametrize("name", ["a.mkv", "a.webm", "a.asf", "a.nut", "a.wtv", "a.mp4", "a.ts"])
def test_time_stamps_that_start_after_0(tmp_path, name):
    """Some containers declare the time stamp of the end, not the duration."""
    codec = {"a.webm": "libvpx", "a.ts": "libx264"}.get(name, "mpeg4")
    path = write_video(tmp_path / name, noise(30), [20 + index / 10 for index in range(30)], codec=codec)
    frames, video = frames_of(path)
    assert (len(frames), video.faults) == (30, [])
    assert video.total == pytest.approx(30, abs=1)
    assert frames_of(path, start=1.0)[1].total == pytest.approx(20, abs=1)
    if name == "a.mkv":
        path, left = cut(path, path)
        (fault,) = frames_of(path)[1].faults
        assert fault == f"{path}: ends at {left / 10:.1f} s of the declared 3.0 s; is it truncated?"


@pytest.mark.parametrize("name", ["a.mp4", "a.ts"])
def test_damage_within_a_video_is_reported(tmp_path, name):
    path = write_video(tmp_path / name, noise(30), codec="libx264")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 10_000] = b"\xff" * 10_000
    path.write_bytes(content)
    frames, video = frames_of(path)
    assert 15 <= len(frames) <= 30
    (fault,) = video.faults
    assert "damaged in " in fault
    assert frames[0].time == 0
    assert frames[-1].time == pytest.approx(2.9, abs=1e-3)


def test_stop_is_not_reported_as_truncation(tmp_path):
    assert frames_of(write_video(tmp_path / "a.mp4", noise(30)), stop=1.0)[1].faults == []


def test_invalid_video_file_is_a_one_line_error(tmp_path, monkeypatch):
    tone = tmp_path / "tone.mp4"
    with av.open(str(tone), "w") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.int16), format="s16", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    whole = write_video(tmp_path / "whole.mp4", noise(3)).read_bytes()
    (tmp_path / "text.mp4").write_text("no video " * 100)
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "half.mp4").write_bytes(whole[: len(whole) // 2])  # without its index, which is at the end
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile '{tmp_path / 'whole.mp4'}'\n")
    play = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{tmp_path / 'whole.mp4'}\n#EXT-X-ENDLIST\n"
    (tmp_path / "play.m3u8").write_text(play)
    for name, words in (
        ("tone.mp4", "has no video, only audio"),
        ("text.mp4", "cannot be read as a video"),
        ("empty.mp4", "cannot be read as a video"),
        ("half.mp4", "is it complete?"),
        ("list.mp4", "cannot be read as a video"),
        ("play.m3u8", "cannot be read as a video"),
        ("missing.mp4", "cannot be read \\(No such file"),
    ):
        with pytest.raises(InputError, match=words):
            frames_of(tmp_path / name)
    monkeypatch.setattr(decode, "MAX_FRAME_PIXELS", 3000)
    with pytest.raises(InputError, match="64 x 48 px, more than the 3000 of a frame"):
        frames_of(tmp_path / "whole.mp4")


def test_video_without_frames_is_an_error(tmp_path):
    path = write_video(tmp_path / "a.avi", noise(3))
    content = path.read_bytes()
    start = content.index(b"movi") + 4
    path.write_bytes(content[:start])
    with pytest.raises(InputError, match=r"a\.avi: "):
        frames_of(path)


def test_predict_video_writes_boxes_times_and_drawn_video(tmp_path):
    images, boxes = moving(12)
    times = [0, 0.1, 0.2, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3]
    path = write_video(tmp_path / "clip.mp4", images, times)
    predictor = rectangles_predictor()
    with open_video(str(path)) as video:
        summary = predict_video(predictor, video, tmp_path / "out")
    assert summary.lines() == ["12 frames: 12 green", f"clip.mp4, detections.json: {tmp_path / 'out'}"]
    found = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [row["index"] for row in found["frames"]] == list(range(12))
    assert [row["time"] for row in found["frames"]] == pytest.approx(times, abs=1e-3)
    for row, box in zip(found["frames"], boxes, strict=True):
        assert (row["height"], row["width"]) == (64, 96)
        (detection,) = row["detections"]
        assert detection["name"] == "green"
        assert np.abs(np.array(detection["box"]) - box).max() <= 96 / 64 + 1
    assert (found["complete"], found["failed"], found["left_out"]) == (True, {}, 0)
    frames, _ = frames_of(path)
    for frame, row in zip(frames, found["frames"], strict=True):  # as of images
        assert predictor(frame.image).boxes.tolist() == [row["detections"][0]["box"]]
    with av.open(str(tmp_path / "out" / "clip.mp4")) as container:
        drawn = [(float(frame.time), frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
        assert container.streams.video[0].codec_context.name == "h264"
    assert [time for time, _ in drawn] == pytest.approx(times, abs=1e-3)
    for (_, image), frame in zip(drawn, frames, strict=True):
        expected = predictor(frame.image).draw().astype(int)
        assert np.abs(image - expected).mean() < 0.3 * np.abs(frame.image - expected).mean()


def test_rows_are_valid_json_after_an_interrupted_write(tmp_path):
    with closing(FrameRows(tmp_path / "a.json", {"names": ["a"]})) as rows:
        rows.write({"index": 0})
        rows.write({"index": 1})
        rows.file.write(b',\n  {"index": 2, "time": 0.5, "detections": [{"label": 0, "name": "long enough')
        rows.finish({"complete": False})
    expected = {"names": ["a"], "frames": [{"index": 0}, {"index": 1}], "complete": False}
    assert json.loads((tmp_path / "a.json").read_text()) == expected


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "aac"), ("a.avi", "pcm_s16le"), ("a.mkv", "libopus")])
@pytest.mark.parametrize("start", [0.0, 1.0])
def test_audio_stays_in_sync(tmp_path, name, codec, start):
    path = write_video(tmp_path / name, moving(20)[0], sound=codec)
    with open_video(str(path), Selection(start=start)) as video:
        predict_video(rectangles_predictor(), video, tmp_path / "out")
    with av.open(str(tmp_path / "out" / "a.mp4")) as container:
        parts = [(frame.time, frame.to_ndarray().astype(float).ravel()) for frame in container.decode(audio=0)]
        rate = container.streams.audio[0].codec_context.sample_rate
    assert parts[-1][0] + len(parts[-1][1]) / rate == pytest.approx(2.0 - start, abs=0.1)
    for time, wave in parts[:-3]:  # the amplitude says when it was: 30000 / 32768 at 2 s
        if time > 0.15:  # Opus needs 80 ms after a start within
            assert np.abs(wave).max() / 0.9155 * 2 == pytest.approx(time + start, abs=0.12)


@pytest.mark.parametrize(("codec", "rate"), [("pcm_s16le", 22_255), ("pcm_s16le", 192_000), ("libmp3lame", 8_000)])
def test_audio_at_rates_that_mp4_or_aac_lack_is_encoded(tmp_path, codec, rate):
    path = write_video(tmp_path / "a.avi", moving(20)[0], sound=codec, rate=rate)
    with open_video(str(path)) as video:
        predict_video(rectangles_predictor(), video, tmp_path / "out")
    with av.open(str(tmp_path / "out" / "a.mp4")) as container:
        stream = container.streams.audio[0]
        assert stream.codec_context.name == "aac"
        assert float(stream.duration * stream.time_base) == pytest.approx(2.0, abs=0.2)  # AAC at 8 kHz: 0.13 s a packet


def test_audio_that_mp4_cannot_hold_is_left_out(tmp_path, monkeypatch, log):
    monkeypatch.setattr(sound, "MIN_MP3_RATE", 0)
    path = write_video(tmp_path / "a.avi", moving(5)[0], sound="libmp3lame", rate=8_000)
    with open_video(str(path)) as video:
        predict_video(rectangles_predictor(), video, tmp_path / "out")
    assert [line for line in log if "its sound is left out (Invalid argument)" in line] == log
    assert len(log) == 1
    with av.open(str(tmp_path / "out" / "a.mp4")) as container:
        assert not container.streams.audio
        assert len(list(container.decode(video=0))) == 5


def test_odd_sizes_are_encoded(tmp_path):
    path = write_video(tmp_path / "a.mkv", [scene(51, 77, [BOX], [1])] * 3, codec="ffv1", pix_fmt="yuv444p")
    with open_video(str(path)) as video:
        predict_video(rectangles_predictor(), video, tmp_path / "out")
    with av.open(str(tmp_path / "out" / "a.mp4")) as container:
        shapes = {frame.to_ndarray(format="rgb24").shape for frame in container.decode(video=0)}
    assert shapes == {(52, 78, 3)}


def test_writer_uses_size_of_first_frame_and_keeps_times(tmp_path):
    times = [5.0, 5.001, 5.5, 9.0]
    with VideoWriter(tmp_path / "a.tmp", 30.0) as writer:
        for size, time in zip([(64, 96), (31, 20), (200, 300), (64, 96)], times, strict=True):
            writer.write(scene(*size, [(0, 0, size[1] // 2, size[0])], [1]), time)
    with av.open(str(tmp_path / "a.tmp")) as container:
        frames = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    assert [time for time, _ in frames] == pytest.approx([0.0, 0.001, 0.5, 4.0], abs=1e-4)
    for _, image in frames:
        assert image.shape == (64, 96, 3)
        assert image[:, :40, 1].mean() > 200 > 60 > image[:, 56:, 1].mean()


def test_gaps_that_mp4_cannot_hold_are_shortened(tmp_path):
    """31 bits of ticks of 1/60,000 s are 9.9 hours, and a frame waits for up to five others."""
    with VideoWriter(tmp_path / "a.mp4", 10.0) as writer:
        for time in (0.0, 0.1, 100_000.0, 100_000.1, *range(200_000, 1_200_000, 100_000)):
            writer.write(scene(64, 96, [BOX], [1]), time)
    with av.open(str(tmp_path / "a.mp4")) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert np.diff(times) == pytest.approx([0.1, 3600, 0.1] + 10 * [3600], abs=1e-3)


def test_size_without_encoder_is_a_one_line_error(tmp_path):
    with (
        pytest.raises(InputError, match=r"cannot be written .*; leave it out by --no-draw"),
        VideoWriter(tmp_path / "a.mp4", 10.0) as writer,
    ):
        writer.write(np.zeros((2, 20_000, 3), np.uint8), 0.0)  # x264: up to 16,384 px


@pytest.mark.slow
def test_mpeg4_is_the_fallback_without_an_h264_encoder(tmp_path, monkeypatch):
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264", "libopenh264"})
    with open_video(str(write_video(tmp_path / "a.mp4", moving(5)[0]))) as video:
        predict_video(rectangles_predictor(), video, tmp_path / "out")
    with av.open(str(tmp_path / "out" / "a.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"
        assert len(list(container.decode(video=0))) == 5


def test_prefetching_does_not_change_results(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", moving(13)[0])
    found = []
    for ahead in (0, 1):
        monkeypatch.setattr(video_prediction, "_ahead", lambda predictor, ahead=ahead: ahead)
        with open_video(str(path)) as video:
            summary = predict_video(rectangles_predictor(predict__batch=4), video, tmp_path / "out")
        assert summary.images == 13
        found.append(json.loads((tmp_path / "out" / "detections.json").read_text()))
    assert found[0] == found[1]


def test_progress_shows_frames_per_second_and_remaining_time(monkeypatch, log):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    for total in (4, None):
        list(progress.track([1], total, "predict", "frames"))
    known, unknown = log
    assert re.fullmatch(r"predict: 1/4, [\d.]+ frames/s, \d+ s left", known)
    assert re.fullmatch(r"predict: 1, [\d.]+ frames/s", unknown)


def test_ctrl_c_leaves_valid_files(tmp_path):
    class Interrupted(type(rectangles_predictor())):
        def postprocess(self, raw, images, args):
            if images[0].frame.image_id >= 6:
                raise KeyboardInterrupt
            return super().postprocess(raw, images, args)

    base = rectangles_predictor()
    path = write_video(tmp_path / "a.mp4", moving(20)[0])
    with pytest.raises(KeyboardInterrupt), open_video(str(path)) as video:
        predict_video(Interrupted(base.model, base.recipe), video, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [row["index"] for row in found["frames"]] == [0, 1, 2, 3, 4, 5]
    assert found["complete"] is False
    with av.open(str(tmp_path / "out" / "a.mp4")) as container:
        assert len(list(container.decode(video=0))) == 6


# The command line, with a prediction that gets SIGTERM after the third frame and once more while it ends.
TERMINATED = """
import os, signal
from boxwright.cli import main
from boxwright.predict.video_output import VideoOutput

write, finish = VideoOutput.write, VideoOutput.finish

def terminate(after, *arguments):
    after(*arguments)
    if arguments[0].frames == 3:
        os.kill(os.getpid(), signal.SIGTERM)

VideoOutput.write = lambda *arguments: terminate(write, *arguments)
VideoOutput.finish = lambda *arguments: terminate(finish, *arguments)
main()
"""


@pytest.mark.slow
def test_sigterm_leaves_valid_files(tmp_path, weights_file):
    path, out = write_video(tmp_path / "a.mp4", moving(20)[0]), tmp_path / "out"
    words = ["predict", weights_file, path, "--out", out, "--track", "--set", "predict.batch=1"]
    command = [sys.executable, "-c", TERMINATED, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (143, "boxwright: stopped by SIGTERM\n")
    assert sorted(file.name for file in out.iterdir()) == ["a.mp4", "detections.json", "tracks.json", "tracks.txt"]
    found = json.loads((out / "detections.json").read_text())
    assert [row["index"] for row in found["frames"]] == [0, 1, 2]
    assert found["complete"] is False
    with av.open(str(out / "a.mp4")) as container:
        assert len(list(container.decode(video=0))) == 3


@pytest.mark.parametrize(
    ("source", "stem"),
    [
        ("clips/name with sp%20ace 100%d.mp4", "name with sp_20ace 100_d"),
        ("clips/50%.mkv", "50_"),
        ("http://host/a%20b.mp4?token=%d", "a_20b"),
        ("clips/%06d.jpg", "clips"),
    ],
)
def test_name_of_the_drawn_video(source, stem):
    assert stem_of(source) == stem


def test_start_after_the_end_of_a_video_with_audio_is_an_error(tmp_path):
    path = write_video(tmp_path / "a.avi", moving(5)[0], sound="pcm_s16le")
    with pytest.raises(InputError, match="no frame from start"), open_video(str(path), Selection(start=9)) as video:
        predict_video(rectangles_predictor(), video, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_failed_prediction_leaves_no_file(tmp_path):
    path = write_video(tmp_path / "a.mp4", moving(20)[0])
    out = tmp_path / "out"
    with pytest.raises(InputError), open_video(str(path), Selection(start=9)) as video:
        predict_video(rectangles_predictor(), video, out)
    assert not out.exists()
    with pytest.raises(InputError, match="would be overwritten"), open_video(str(path)) as video:
        predict_video(rectangles_predictor(), video, tmp_path)


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    """Random weights of a small network."""
    file = tmp_path_factory.mktemp("weights") / "w.safetensors"
    small = recipe.load("demo", {"model.width": 0.125, "data.canvas.size": [64, 64], "predict.batch": 2})
    checkpoint.save(file, models.build(small.model), small)
    return file


def run(*words):
    with pytest.raises(SystemExit) as end:
        cli.main(list(map(str, words)))
    return end.value.code


def test_predict_command_with_videos(tmp_path, weights_file, capsys):
    path, left = truncated(write_video(tmp_path / "a.mp4", noise(30)))
    out = tmp_path / "out"
    assert run("predict", weights_file, path, "--out", out, "--stride", 4, "--no-draw") == 1
    assert "of the declared 3.0 s; is it truncated?" in capsys.readouterr().out
    assert [file.name for file in out.iterdir()] == ["detections.json"]
    found = json.loads((out / "detections.json").read_text())
    assert [row["index"] for row in found["frames"]] == list(range(0, left, 4))
    assert len(found["failed"]) == 1
    assert (
        run("predict", weights_file, path.with_name(f"[{path.name[0]}]{path.name[1:]}"), "--out", out, "--no-draw") == 1
    )
    assert json.loads((out / "detections.json").read_text())["video"] == str(path)
    (tmp_path / "clips").mkdir()
    for name in ("b.mp4", "c.mp4"):
        (tmp_path / "clips" / name).write_bytes(path.read_bytes())
    capsys.readouterr()
    for words, message in (
        ((path, path), "needed one video at a time"),
        ((path, "--tile", 64), "--tile"),
        ((tmp_path / "a.png", "--stride", 2), "--stride: goes with a video"),
        ((tmp_path / "none.mp4",), "No such file"),
        ((tmp_path / "*.avi",), "found 0 videos"),
        ((tmp_path / "clips" / "*.mp4",), "found 2 videos, needed one at a time"),
        ((tmp_path / "clips",), "holds no image, but 2 videos"),
        (("",), "SOURCE: found an empty text"),
    ):
        assert run("predict", weights_file, *words, "--out", tmp_path / "two") == 2
        errors = capsys.readouterr().err.splitlines()
        assert len(errors) == 1
        assert message in errors[0]
        assert not (tmp_path / "two").exists()
    assert run("predict", weights_file, path, "--line", "0.1,0.5,0.9,0.5", "--out", tmp_path / "two") == 2
    assert "line 1: lies within one pixel" in capsys.readouterr().err
    assert not (tmp_path / "two").exists()


class Constant(Rectangles):
    """Twenty boxes in each image."""

    def decode(self, raw, threshold):
        corner = torch.arange(20)[:, None] * 2.0
        boxes = torch.cat([corner, corner, corner + 8, corner + 8], dim=1)
        return [Detections(boxes, torch.full((20,), 0.9), torch.arange(20) % 3) for _ in raw[0]]


@pytest.mark.slow
def test_memory_is_independent_of_the_number_of_frames(tmp_path):
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("reads the size of the process from /proc")
    clip = list(np.random.default_rng(0).integers(0, 256, (10, 48, 64, 3), np.uint8))
    path = write_video(tmp_path / "a.mp4", clip * 240, [index / 30 for index in range(2400)], sound="aac")
    predictor = Predictor(Constant(), rectangles_predictor(predict__batch=8).recipe)
    for draw, count in ((False, 2400), (True, 900)):
        sizes = []
        with open_video(str(path), Selection(stop=count / 30)) as video:

            class Watched(type(video)):
                def __iter__(self):
                    for frame in super().__iter__():
                        yield frame
                        if frame.index in (count // 3, count - 1):  # noqa: B023
                            sizes.append(int(statm.read_text().split()[1]) * resource.getpagesize() / 2**20)  # noqa: B023

            video.__class__ = Watched
            summary = predict_video(predictor, video, tmp_path / "out", draw=draw)
        assert summary.images == count
        assert sizes[1] - sizes[0] < 5  # MB; frames of 9 KB or their results, 12 KB, would be 5 to 20
