"""An S3 server on loopback for tests: moto behind a front that counts requests and makes them fail.

The front also answers as Huawei's OBS, which takes the bucket from the host: as a proxy, so that any host leads to it.
"""

import html
import http.client
import logging
import re
import socket
import struct
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

KEY, SECRET = "TESTKEY", "very-secret"
OBS_ENDPOINT = "http://obs.region-1.example.test"
SIGNATURE = f"AWS4-HMAC-SHA256 Credential={KEY}/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
NOT_FOUND = b"<Error><Code>NoSuchKey</Code><Message>path style</Message></Error>"
DENIED = b"<Error><Code>InvalidAccessKeyId</Code><Message>no such key</Message></Error>"
BUSY = b"<Error><Code>SlowDown</Code><Message>slow down</Message></Error>"


@dataclass
class Store:
    """The server, and its behavior for the next requests.

    Attributes:
        requests: (method, bucket/key, bytes of the answer) so far.
        fail_every: Each n-th request fails; 0 for none.
        reset: It fails by a reset of the connection instead of a 503.
        latency: Seconds before each answer.
        cut: Keys of which all GETs end after half of the body.
        broken: Pattern of keys whose PUTs are answered by 503.
    """

    port: int = 0
    moto: int = 0
    requests: list[tuple[str, str, int]] = field(default_factory=list)
    fail_every: int = 0
    reset: bool = False
    latency: float = 0.0
    cut: set[str] = field(default_factory=set)
    broken: str = ""
    lost: str = ""  # pattern of keys whose PUTs are done, but answered by 503
    public: bool = False  # whether requests need no credentials
    count: int = 0
    now: int = 0  # requests that are being answered
    most: int = 0  # at a time
    waited: threading.Event = field(default_factory=threading.Event)  # set at each request

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def calm(self) -> None:
        """No faults, and nothing counted."""
        self.requests.clear()
        self.fail_every, self.latency, self.cut, self.broken, self.lost, self.count = 0, 0.0, set(), "", "", 0
        self.reset, self.public, self.now, self.most = False, False, 0, 0

    def read(self) -> list[str]:
        """The keys whose content was asked for, in this order."""
        return [path for method, path, _ in self.requests if method == "GET" and "?" not in path]

    def call(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """A request to moto itself."""
        connection = http.client.HTTPConnection("127.0.0.1", self.moto)
        connection.request(method, path, body, {"Authorization": SIGNATURE})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, content

    def put(self, path: str, content: bytes) -> None:
        assert self.call("PUT", f"/{quote(path)}", content)[0] == 200

    def put_folder(self, path: str, folder: Path) -> None:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                self.put(f"{path}/{file.relative_to(folder).as_posix()}", file.read_bytes())

    def get(self, path: str) -> bytes:
        status, content = self.call("GET", f"/{quote(path)}")
        assert status == 200, content
        return content

    def keys(self, bucket: str) -> list[str]:
        _, content = self.call("GET", f"/{bucket}?list-type=2")
        return [html.unescape(key) for key in re.findall(r"<Key>([^<]*)</Key>", content.decode())]


class Front(BaseHTTPRequestHandler):
    """Forwards requests to moto, with faults."""

    protocol_version = "HTTP/1.1"
    store: Store

    def log_message(self, *arguments: object) -> None:
        pass

    def answer(self) -> None:
        store, body = self.store, self.rfile.read(int(self.headers.get("Content-Length") or 0))
        target = urlsplit(self.path)
        path = target.path + (f"?{target.query}" if target.query else "")
        if target.scheme:  # a request to a proxy: its host is the endpoint, with the bucket in front
            bucket = (target.hostname or "").removesuffix(urlsplit(OBS_ENDPOINT).hostname or "").rstrip(".")
            if not bucket:
                self.send(404, NOT_FOUND)
                return
            path = f"/{bucket}{path}"
        store.count, store.now = store.count + 1, store.now + 1
        store.most = max(store.most, store.now)
        name = unquote(path.lstrip("/"))
        store.requests.append((self.command, name, 0))
        index = len(store.requests) - 1
        store.waited.set()
        time.sleep(store.latency)
        store.now -= 1
        if store.fail_every and store.count % store.fail_every == 0:
            self.fail()
        elif f"Credential={KEY}/" not in self.headers.get("Authorization", "") and not store.public:
            self.send(403, DENIED)
        elif self.command == "PUT" and store.broken and re.search(store.broken, name):
            self.send(503, BUSY)
        else:
            self.forward(path, body, name, index)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer  # noqa: N815

    def fail(self) -> None:
        if not self.store.reset:
            self.send(503, BUSY)
            return
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def forward(self, path: str, body: bytes, name: str, index: int) -> None:
        store = self.store
        connection = http.client.HTTPConnection("127.0.0.1", store.moto)
        headers = {key: value for key, value in self.headers.items() if key.lower() not in ("host", "connection")}
        if store.public:
            headers["Authorization"], path = SIGNATURE, path.partition("?")[0]
        connection.request(self.command, path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        self.store.requests[index] = (self.command, name, len(content))
        if self.command == "PUT" and store.lost and re.search(store.lost, name):
            self.send(503, BUSY)
            return
        kept = {key: value for key, value in answer.getheaders() if key.lower() not in (
            "connection", "transfer-encoding", "content-length", "server", "date")}  # fmt: skip
        length = answer.getheader("Content-Length") or str(len(content))
        if name in self.store.cut and self.command == "GET":
            content = content[: len(content) // 2]
            length = str(len(content))
        self.send(answer.status, content, kept | {"Content-Length": length})

    def send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {"Content-Length": str(len(content))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that have closed their connection."""


@contextmanager
def running() -> Iterator[Store]:
    """Start moto and the front, each on a free port, until the block ends."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what moto imports
        from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # which else logs each request
    moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    store = Store(moto=moto.get_host_and_port()[1])
    server = Server(("127.0.0.1", 0), type("StoreFront", (Front,), {"store": store}))
    store.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        moto.stop()
