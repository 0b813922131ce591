"""Kinds of sources: numbered images, addresses of images, files with unusual names."""

import http.server
import json
import socket
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from boxwright.errors import InputError
from boxwright.images import fetch
from boxwright.predict.output import predict_to_folder
from boxwright.predict.video import predict_video
from boxwright.video import sources
from boxwright.video.frames import Selection
from boxwright.video.sources import is_video, open_video
from made_video import write_video
from stand_in import rectangles_predictor, scene


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[:, :, ::-1])
    return path


def read(pattern, fps=None, **selection):
    with open_video(str(pattern), Selection(**selection), fps) as video:
        return list(video), video


def test_is_video(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "7").write_bytes(b"an image without a suffix")
    (tmp_path / "shots.mp4").mkdir()
    for source in ("a.mp4", "b.MKV", "0", "12", "rtsp://host/1", "HTTP://host/live", "f/%06d.jpg", "f/x_%d.PNG"):
        assert is_video(source), source
    for source in ("a.jpg", "7", "photos", "photos/*.jpg", "HTTP://host/a.jpg?x=1", "shots.mp4", "1000", "100%.jpg"):
        assert not is_video(source), source


def test_numbered_images_are_read_as_video(tmp_path):
    boxes = {4: (8, 8, 30, 30), 5: (20, 8, 42, 30), 8: (60, 8, 82, 30), 10: (40, 8, 62, 30)}
    for number, box in boxes.items():
        write(tmp_path / "frames" / f"{number:04d}.png", scene(64, 96, [box], [1]))
    write(tmp_path / "frames" / "4.png", scene(64, 96, [], []))  # of no pattern with four digits
    write(tmp_path / "frames" / "0006_small.png", scene(64, 96, [], []))
    frames, video = read(tmp_path / "frames" / "%04d.png", 10)
    assert [frame.time for frame in frames] == pytest.approx([0, 0.1, 0.4, 0.6])
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    assert (video.live, video.rate, video.total) == (False, 10.0, 7)
    assert [frame.time for frame in read(tmp_path / "frames" / "%04d.png")[0]] == pytest.approx([0, 0.04, 0.16, 0.24])
    frames, _ = read(tmp_path / "frames" / "%04d.png", 10, start=0.1, stop=0.6)
    assert [(frame.index, frame.time) for frame in frames] == [(0, pytest.approx(0.1)), (1, pytest.approx(0.4))]
    with open_video(str(tmp_path / "frames" / "%04d.png"), fps=10) as video:
        predict_video(rectangles_predictor(), video, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "detections.json").read_text())
    for row, box in zip(found["frames"], boxes.values(), strict=True):
        assert np.abs(np.array(row["detections"][0]["box"]) - box).max() <= 96 / 64
    assert (tmp_path / "out" / "frames.mp4").is_file()


def test_pattern_with_too_many_digits_is_not_a_video():
    assert not is_video("%099999999999d.png")


def test_unreadable_numbered_images_are_skipped(tmp_path):
    for number in range(3):
        write(tmp_path / f"{number}.png", scene(64, 96, [], []))
    (tmp_path / "1.png").write_bytes(b"broken")
    frames, video = read(tmp_path / "%d.png", 1)
    assert [frame.time for frame in frames] == [0, 2]
    assert len(video.faults) == 1
    assert "1.png" in video.faults[0]
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"0\.png"):
        read(tmp_path / "%d.png")
    with pytest.raises(InputError, match="no image has such a name"):
        open_video(str(tmp_path / "x%d.png"))
    with pytest.raises(InputError, match="fps: found 0"):
        open_video(str(tmp_path / "%d.png"), fps=0)
    with pytest.raises(InputError, match="fps: goes with numbered images"):
        open_video("0", fps=5)


@pytest.fixture
def server(tmp_path):
    """Files of tmp_path/www; /away leads to a file of this machine, /endless never ends."""
    (tmp_path / "www").mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path / "www"))

        def do_GET(self):
            if self.path.startswith("/deep") and self.headers["Authorization"] != "Basic bmFtZTp3QHJk":  # name:w@rd
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="camera"')
                self.end_headers()
            elif self.path.startswith("/away"):
                self.send_response(302)
                self.send_header("Location", f"file://{tmp_path}/www/a.png")
                self.end_headers()
            elif self.path.startswith("/endless"):
                self.send_response(200)
                self.end_headers()
                while not self.wfile.closed:
                    try:
                        self.wfile.write(bytes(1 << 16))
                    except OSError:
                        return
            else:
                super().do_GET()

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow
def test_images_at_web_addresses(tmp_path, server, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    image = scene(64, 96, [(8, 8, 30, 30)], [2])
    write(tmp_path / "www" / "deep" / "a.png", image)
    (tmp_path / "www" / "b.png").write_bytes(b"no image")
    local = write(tmp_path / "a.png", image)
    sources = [f"http://name:w%40rd@{server}/deep/a.png?token=word", str(local), f"http://{server}/b.png"]
    with fetch.fetched(sources) as titles:
        summary = predict_to_folder(rectangles_predictor(), list(titles), tmp_path / "out", titles=titles)
        copies = [path for path in titles if path != str(local)]
    found = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [row["file"] for row in found["images"]] == [f"http://{server}/deep/a.png", str(local)]
    assert [row["drawn"] for row in found["images"]] == ["a.png", "a_2.png"]
    assert found["images"][0]["detections"] == found["images"][1]["detections"] != []
    assert list(summary.failed) == [f"http://{server}/b.png"]
    assert summary.failed[f"http://{server}/b.png"].startswith(f"http://{server}/b.png: ")
    assert len(copies) == 2
    assert not any(Path(path).exists() for path in copies)


@pytest.mark.parametrize("name", ["a%00b%1b%0a.png", "b\u00fc cher.png", "..%2f..%2fa.png", 40 * "%E2%82%AC" + ".png"])
def test_web_addresses_with_unusual_names(tmp_path, server, monkeypatch, name):
    """A NUL, control characters, spaces and letters beyond ASCII, folders, and more bytes than a name may have."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "translate_path", lambda *_: str(tmp_path / "a.png"))
    write(tmp_path / "a.png", scene(64, 96, [], []))
    with fetch.fetched([f"http://{server}/{name}?q=\u00fc"]) as titles:
        (path,) = map(Path, titles)
        assert path.read_bytes() == (tmp_path / "a.png").read_bytes()
        assert path.name.isprintable()
        assert path.suffix == ".png"
        assert path.parent.parent.name.startswith("boxwright-")


def test_stream_without_data_is_a_one_line_error(monkeypatch):
    monkeypatch.setattr(sources, "TIMEOUT", 0.2)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(InputError, match="no data came in time"),
    ):
        open_video(f"http://127.0.0.1:{silent.getsockname()[1]}/stream")


@pytest.mark.slow
def test_failed_downloads_are_errors(tmp_path, server, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(fetch, "MAX_BYTES", 5_000_000)
    write(tmp_path / "www" / "a.png", scene(64, 96, [], []))
    for path, message in (
        ("none.jpg", "cannot be fetched \\(404 File not found"),
        ("deep/a.jpg", "cannot be fetched \\(401"),
        ("away.jpg", "cannot be fetched"),
        ("endless.jpg", "larger than 5,000,000 bytes"),
    ):
        with pytest.raises(InputError, match=message):
            fetch.fetch(f"http://{server}/{path}")
    with pytest.raises(InputError, match="cannot be fetched"):
        fetch.fetch("http://127.0.0.1:1/a.jpg")
    with pytest.raises(InputError, match="cannot be fetched"):
        fetch.fetch("http://[/a.jpg")
    with pytest.raises(InputError, match="not a valid address"):
        is_video("http://[::1/a.jpg")
    monkeypatch.setattr(fetch, "DEADLINE", 0.0)
    with pytest.raises(InputError, match="not complete after 0 s"):
        fetch.fetch(f"http://{server}/endless.jpg")


@pytest.mark.parametrize("name", ["a:b.mp4", "pipe:0.mp4", "caf\udce9.mp4", "two\nlines.mp4", "-i.mp4"])
def test_files_with_unusual_names(tmp_path, name):
    write_video(tmp_path / "plain.mp4", [scene(64, 96, [(8, 8, 30, 30)], [1])] * 2).rename(tmp_path / name)
    with open_video(str(tmp_path / name)) as video:
        predict_video(rectangles_predictor(), video, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.mp4"))) == 1
