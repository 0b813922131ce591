"""Live sources: the newest frame, connections that break off, times that go on."""

import http.server
import json
import threading
import time

import cv2
import numpy as np
import pytest

from boxwright.errors import InputError
from boxwright.predict.video import predict_video
from boxwright.video import live
from boxwright.video.frames import Selection
from boxwright.video.live import LiveClock, LiveVideo
from boxwright.video.sources import is_video, open_video, shown
from live_server import LiveServer, RtspServer, number_of
from made_video import write_video
from stand_in import rectangles_predictor

RATE = 5  # frames per second: a frame's time is longer than what a busy machine takes for a turn
SERVERS = pytest.mark.parametrize("server", [LiveServer, RtspServer])


@pytest.mark.slow
@SERVERS
def test_age_of_the_processed_frame_is_bounded(server):
    with server(RATE) as source, open_video(source.address) as video:
        assert video.live
        taken = []
        for frame in video:
            number = number_of(frame.image)
            taken.append((frame.index, number, source.sent - number))
            time.sleep(0.5)  # a network that is 2.5 times as slow as the source
            if len(taken) == 6:
                break
    assert max(newer for *_, newer in taken) <= 2  # frames sent since; each is an interval
    indices = [index for index, *_ in taken]
    numbers = [number for _, number, *_ in taken]
    assert [number - numbers[0] for number in numbers] == [index - indices[0] for index in indices]
    assert indices[-1] - indices[0] >= 10
    assert video.left_out >= indices[-1] + 1 - len(taken)


@SERVERS
def test_reconnects_within_5_s_after_a_server_restart(server, log):
    with server(RATE) as source, open_video(source.address) as video:
        frames, restarted, after, last = [], None, [], 0
        for frame in video:
            number = number_of(frame.image)
            if restarted is not None and number > last:
                after.append((time.monotonic() - restarted, frame, number))
                if len(after) == 3:
                    break
            elif restarted is None:
                frames.append((frame, number))
            if len(frames) == 3 and restarted is None:
                source.kill()
                last = source.sent
                while source.connections == 1 and not any("again in 0.5" in text for text in log):
                    time.sleep(0.05)  # until a pause has grown
                source.start()
                restarted = time.monotonic()
    assert after[0][0] < 5
    times = [frame.time for frame, _ in frames] + [frame.time for _, frame, _ in after]
    assert times == sorted(set(times))
    by_number = (after[-1][2] - frames[0][1]) / RATE  # the server's clock went on
    assert times[-1] - times[0] == pytest.approx(by_number, abs=0.5)
    assert sum("connected again" in text for text in log) == 1
    assert "secret" not in "\n".join(log)


@pytest.mark.slow
def test_lost_source_ends_the_run_with_one_line(tmp_path):
    predictor = rectangles_predictor()
    with LiveServer(RATE) as source, open_video(source.address, Selection(max_fps=RATE / 2)) as video:
        video.patience = 1.0
        original = predictor.postprocess

        def kill_after_three(raw, images, args):
            if images[0].frame.image_id >= 4:
                source.kill()
            return original(raw, images, args)

        predictor.postprocess = kill_after_three
        summary = predict_video(predictor, video, tmp_path)
    found = json.loads((tmp_path / "detections.json").read_text())
    assert (tmp_path / "live.mp4").is_file()
    assert len(found["frames"]) >= 2
    assert all(one["time"] < other["time"] for one, other in zip(found["frames"], found["frames"][1:], strict=False))
    (reason,) = summary.failed.values()
    assert "no frame for 1 s (cannot be read as a video (Connection refused)" in reason
    assert found["complete"]


@pytest.mark.slow
def test_stop_ends_a_live_source():
    with LiveServer(RATE) as source, open_video(source.address, Selection(stop=0.7)) as video:
        times = [frame.time for frame in video]
    assert times[0] == 0
    assert times[-1] < 0.7


def test_unreachable_address_or_unknown_protocol_is_an_error():
    server = LiveServer()
    with server:
        pass
    with pytest.raises(InputError, match=r"^http://127\.0\.0\.1:\d+/live: cannot be read as a video \(Connection ref"):
        open_video(f"http://name:word@127.0.0.1:{server.port}/live?token=word")
    with pytest.raises(InputError, match="protocol 'file', needed one of http, https, rtsp"):
        open_video("file:///etc/passwd")
    assert shown("rtsp://name:p@ss@host:554/a/b?token=word") == "rtsp://host:554/a/b"


@pytest.mark.slow
def test_playlist_from_the_network_cannot_open_local_files(tmp_path):
    """Other addresses are all that it may name."""
    noise = np.random.default_rng(0).integers(0, 256, (30, 48, 64, 3), np.uint8)
    write_video(tmp_path / "clip.ts", list(noise))
    head = "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n"
    (tmp_path / "file.m3u8").write_text(f"{head}file://{tmp_path / 'clip.ts'}\n#EXT-X-ENDLIST\n")
    (tmp_path / "good.m3u8").write_text(f"{head}clip.ts\n#EXT-X-ENDLIST\n")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with open_video(f"http://127.0.0.1:{server.server_port}/good.m3u8") as video:
            assert not video.live  # it has an end, and is read completely
            assert len(list(video)) == 30
        with (
            pytest.raises(InputError, match=r"file\.m3u8: "),
            open_video(f"http://127.0.0.1:{server.server_port}/file.m3u8") as video,
        ):
            list(video)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_times_of_a_live_source_by_hand():
    clock = LiveClock(0.1)
    found = [clock.time(stamp, now) for stamp, now in ((50.0, 7.0), (50.1, 7.3), (50.2, 7.31), (50.3, 7.32))]
    assert found == pytest.approx([0, 0.1, 0.2, 0.3])  # as stamped, not as they arrive
    assert clock.time(900.0, 7.5) == pytest.approx(0.5)  # a jump
    assert clock.time(900.1, 7.6) == pytest.approx(0.6)
    clock.start_anew()
    assert clock.time(0.0, 10.0) == pytest.approx(3.0)
    assert clock.time(0.1, 10.1) == pytest.approx(3.1)
    clock = LiveClock(0.1)
    assert [clock.time(None, now) for now in (7.0, 7.2, 9.0)] == pytest.approx([0.0, 0.2, 2.0])


class FakeCamera:
    """In place of `cv2.VideoCapture`: five frames, then nothing, then five more."""

    opened = 0

    def __init__(self, number):
        self.number, self.left = number, 5
        type(self).opened += 1

    def isOpened(self):  # noqa: N802
        return self.number == 3

    def set(self, key, value):
        assert (key, value) == (cv2.CAP_PROP_BUFFERSIZE, 1)

    def get(self, key):
        return 30.0 if key == cv2.CAP_PROP_FPS else 0.0

    def read(self):
        self.left -= 1
        image = np.full((4, 6, 3), (10, 20, 30), np.uint8)  # BGR
        return self.left >= 0, image if self.left >= 0 else None

    def release(self):
        pass


def test_camera_is_opened_by_number(monkeypatch, tmp_path):
    monkeypatch.setattr(live.cv2, "VideoCapture", FakeCamera)
    monkeypatch.setattr(live, "FIRST_PAUSE", 0.01)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="camera 0: cannot be opened"):
        open_video("0")
    assert not is_video("1" * 5000)  # Python converts at most 4300 digits
    FakeCamera.opened = 0
    with open_video("3") as video:
        assert (video.name, video.rate, video.live) == ("camera 3", 30.0, True)
        for frame in video:
            assert frame.image[0, 0].tolist() == [30, 20, 10]  # RGB
            if FakeCamera.opened > 2:
                break
    assert video.left_out + 1 <= frame.index + 1


def test_errors_of_the_reader_thread_are_raised():
    class Broken:
        rate = 10.0

        def __iter__(self):
            yield 0.0, lambda: np.zeros((4, 6, 3), np.uint8)
            raise ZeroDivisionError

        def close(self):
            pass

    with pytest.raises(ZeroDivisionError), LiveVideo("x", Broken(), Broken, Selection()) as video:
        list(video)


def test_no_frame_is_returned_twice():
    class Slow:
        rate = 100.0

        def __iter__(self):
            for index in range(20):
                time.sleep(0.01)
                yield index / 100, lambda index=index: np.full((1, 1, 3), index, np.uint8)
            raise InputError("done")

        def close(self):
            pass

    with LiveVideo("x", Slow(), Slow, Selection(), patience=0.0) as video:
        frames = list(video)
    numbers = [int(frame.image[0, 0, 0]) for frame in frames]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 19
    assert len(numbers) + video.left_out == 20
