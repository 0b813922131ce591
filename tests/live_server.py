"""A live source on loopback: MPEG-TS over HTTP, or RTSP, with the number of each frame in its pixels."""

import contextlib
import io
import socket
import struct
import threading
import time
from fractions import Fraction

import numpy as np

from made_video import av

BITS, SIDE = 12, 16  # a square for each bit


def numbered_image(number):
    """(32, 192, 3) uint8: squares, white for 1, above squares of the opposite."""
    bits = np.array([number >> place & 1 for place in range(BITS)], np.uint8) * 255
    row = np.repeat(bits, SIDE)[None].repeat(SIDE, 0)
    return np.concatenate([row, 255 - row])[:, :, None].repeat(3, 2)


def number_of(image):
    """The number that `numbered_image` drew."""
    assert image.shape == (2 * SIDE, BITS * SIDE, 3)
    squares = image[:SIDE, :, 1].reshape(SIDE, BITS, SIDE)[4:-4, :, 4:-4].mean((0, 2))
    return sum(1 << place for place in range(BITS) if squares[place] > 128)


class LiveServer:
    """Serves one image per interval, by one clock for all connections, from `start` to `kill`."""

    def __init__(self, rate=5):
        self.rate, self.port, self.sent = rate, 0, -1
        self.begin = time.monotonic()
        self._sockets, self._running = [], None
        self.connections = 0

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *error):
        self.kill()

    @property
    def address(self):
        return f"http://user:secret@127.0.0.1:{self.port}/live?token=secret"

    def start(self):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen()
        self.port = listener.getsockname()[1]
        self._running = threading.Event()
        self._running.set()
        self._sockets = [listener]
        self._threads = [threading.Thread(target=self._accept, args=(listener, self._running))]
        self._threads[0].start()

    def kill(self):
        """Break all connections off."""
        self._running.clear()
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join()

    def _accept(self, listener, running):
        while running.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self._sockets.append(connection)
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(connection, running))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection, running):
        with contextlib.suppress(OSError), connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\nConnection: close\r\n\r\n")
            self._stream(Sink(connection), running)

    def _stream(self, sink, running):
        container = av.open(sink, "w", format="mpegts", options={"flush_packets": "1"})
        stream = container.add_stream("mpeg4", rate=self.rate, options={"qscale": "2"})
        stream.height, stream.width, stream.pix_fmt = 2 * SIDE, BITS * SIDE, "yuv420p"
        stream.codec_context.gop_size = 3
        try:
            for number, frame in self.frames(running):
                container.mux(stream.encode(frame))
                self.sent = max(self.sent, number)
        finally:
            sink.open = False
            with contextlib.suppress(OSError, av.error.FFmpegError):
                container.close()

    def frames(self, running):
        """Number and frame of each image, when it is due."""
        first = number = int((time.monotonic() - self.begin) * self.rate) + 1
        while running.is_set():
            time.sleep(max(0.0, self.begin + number / self.rate - time.monotonic()))
            frame = av.VideoFrame.from_ndarray(numbered_image(number), format="rgb24")
            frame.pts, frame.time_base = number - first, Fraction(1, self.rate)
            yield number, frame
            number += 1


class RtspServer(LiveServer):
    """The same by RTSP, over TCP: MPEG-4 in RTP (RFC 6416), one frame per packet."""

    @property
    def address(self):
        return f"rtsp://user:secret@127.0.0.1:{self.port}/live?token=secret"

    def _serve(self, connection, running):
        media = "m=video 0 RTP/AVP 96\r\na=rtpmap:96 MP4V-ES/90000\r\n"
        sdp = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=live\r\nt=0 0\r\n" + media
        answers = {
            "OPTIONS": "Public: DESCRIBE, SETUP, PLAY, TEARDOWN\r\n\r\n",
            "DESCRIBE": f"Content-Type: application/sdp\r\nContent-Length: {len(sdp)}\r\n\r\n{sdp}",
            "SETUP": "Session: 1\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n\r\n",
            "PLAY": "Session: 1\r\n\r\n",
        }
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as requests:
            while running.is_set():
                method, *_ = requests.readline().decode().split() or [""]
                headers = list(iter(lambda: requests.readline().decode().strip(), ""))
                if method not in answers:
                    return
                number = next(header for header in headers if header.lower().startswith("cseq"))
                connection.sendall(f"RTSP/1.0 200 OK\r\n{number}\r\n{answers[method]}".encode())
                if method == "PLAY":
                    self._stream(connection, running)
                    return

    def _stream(self, connection, running):
        encoder = av.CodecContext.create("mpeg4", "w")
        encoder.height, encoder.width, encoder.pix_fmt = 2 * SIDE, BITS * SIDE, "yuv420p"
        encoder.time_base, encoder.gop_size, encoder.options = Fraction(1, self.rate), 3, {"qscale": "2"}
        for count, (number, frame) in enumerate(self.frames(running)):
            for packet in encoder.encode(frame):
                stamp = count * 90_000 // self.rate
                header = struct.pack(">BBHII", 0x80, 0x80 | 96, count & 0xFFFF, stamp, 1)  # a marker: the frame's end
                content = header + bytes(packet)
                connection.sendall(struct.pack(">cBH", b"$", 0, len(content)) + content)
            self.sent = max(self.sent, number)


class Sink(io.RawIOBase):
    """Writes to a socket."""

    def __init__(self, connection):
        super().__init__()
        self.connection, self.open = connection, True

    def write(self, data):
        if self.open:
            self.connection.sendall(bytes(data))
        return len(data)

    def writable(self):
        return True
