"""Serving over HTTP: responses, errors as one line, limits, and the Open Inference Protocol.

The images are rectangles that the stand-in detector finds exactly, so the boxes are known by hand.
"""

import contextlib
import http.client
import json
import re
import socket
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import pytest

from serve_stand_in import ServerProcess, running, stand_in
from stand_in import scene

for module in ("fastapi", "uvicorn", "python_multipart"):
    pytest.importorskip(module, reason="needs the extra serve")

MAX_BODY, MAX_PIXELS = 200_000, 1_000_000
RED = scene(64, 64, [(10, 20, 30, 40)], [0])
RED_AND_BLUE = scene(64, 64, [(10, 20, 30, 40), (40, 8, 60, 16)], [0, 2])
Answer = tuple[int, Any, dict[str, str]]


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with running(stand_in(max_body=MAX_BODY, max_pixels=MAX_PIXELS, max_wait=0.001)) as process:
        yield process


def encoded(image: np.ndarray, suffix: str = ".png") -> bytes:
    return cv2.imencode(suffix, image[..., ::-1])[1].tobytes()


def ask(server: ServerProcess, method: str, path: str, body: Any = None, **headers: str) -> Answer:
    """Status, body (parsed if it is JSON), headers by lower-case name. In header names _ stands for -."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        content = response.read()
        found = {name.lower(): value for name, value in response.getheaders()}
    finally:
        connection.close()
    is_json = found.get("content-type") == "application/json"
    return response.status, json.loads(content) if is_json else content, found


def form(*parts: tuple[str, bytes], end: bytes = b"--") -> tuple[bytes, str]:
    """A multipart body and its content type. parts: what follows `Content-Disposition: form-data`, and the content."""
    chunks = [b"--edge\r\nContent-Disposition: form-data" + head.encode() + b"\r\n\r\n" + data for head, data in parts]
    return b"\r\n".join([*chunks, b"--edge" + end + b"\r\n"]), "multipart/form-data; boundary=edge"


def rows(answer: Answer) -> list[tuple[str, list[float]]]:
    assert answer[0] == 200, answer
    return [(row["name"], row["box"]) for row in answer[1]["detections"]]


def test_image_as_request_body(server: ServerProcess) -> None:
    status, answer, headers = ask(server, "POST", "/predict", encoded(RED))
    assert status == 200
    assert headers["content-type"] == "application/json"
    (row,) = answer.pop("detections")
    assert row.pop("score") == pytest.approx(0.9)
    assert row == {"label": 0, "name": "red", "box": [10, 20, 30, 40]}
    assert answer == {"model": "shapes", "height": 64, "width": 64}


def test_image_in_multipart_form(server: ServerProcess) -> None:
    body, kind = form(('; name="note"', b"hello"), ('; name="file"; filename="a.png"\r\nX: y', encoded(RED_AND_BLUE)))
    for content_type in (kind, kind.replace("multipart", "Multipart")):
        found = rows(ask(server, "POST", "/predict", body, content_type=content_type))
        assert sorted(found) == [("blue", [40, 8, 60, 16]), ("red", [10, 20, 30, 40])]


def test_query_arguments(server: ServerProcess) -> None:
    image = encoded(RED_AND_BLUE)
    assert [name for name, _ in rows(ask(server, "POST", "/predict?class=blue&model=shapes", image))] == ["blue"]
    assert len(rows(ask(server, "POST", "/predict?class=blue&class=red&threshold=0.89", image))) == 2
    assert rows(ask(server, "POST", "/predict?threshold=0.95", image)) == []


def test_draw_returns_a_jpeg(server: ServerProcess) -> None:
    status, content, headers = ask(server, "POST", "/predict?draw=1", encoded(RED))
    assert (status, headers["content-type"]) == (200, "image/jpeg")
    drawn = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert drawn.shape == (64, 64, 3)
    assert np.abs(drawn.astype(int) - RED[..., ::-1]).max() > 60, "a box and a name"


def test_concurrent_requests_get_their_own_responses(server: ServerProcess) -> None:
    boxes = [(x, y, x + 9, y + 7) for x in range(1, 50, 6) for y in range(2, 50, 12)]

    def one(box: tuple[int, ...]) -> list[tuple[str, list[float]]]:
        return rows(ask(server, "POST", "/predict", encoded(scene(64, 64, [box], [1]))))

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(one, boxes)) == [[("green", list(box))] for box in boxes]


def bomb(side: int) -> bytes:
    """A PNG of side x side px in a few hundred bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(side * 3 + 1))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


MULTIPART = "multipart/form-data; boundary=edge"
FILE = '; name="file"; filename="a.png"'
HEADERS = "".join(f"\r\nX-{number}: y" for number in range(100))


@pytest.mark.parametrize(
    ("path", "body", "kind", "status", "line"),
    [
        ("/predict", b"", "", 400, "found none, needed an image"),
        ("/predict", b"<html>", "image/png", 400, "not a readable image"),
        ("/predict", encoded(RED)[:100], "image/png", 400, "cut off"),
        ("/predict", bomb(20_000), "image/png", 413, "found more than 200000000 px, needed at most 1000000"),
        ("/predict", bomb(1001), "image/png", 413, "found 1002001 px, needed at most 1000000"),
        ("/predict", bytes(MAX_BODY + 1), "image/png", 413, "needed at most 200000 bytes"),
        ("/predict", form((FILE, b"x"))[0], "multipart/form-data", 400, "no boundary"),
        ("/predict", b"no boundary in here", MULTIPART, 400, "malformed"),
        ("/predict", b"--edge\r\nContent-Disposition", MULTIPART, 400, "no end"),
        ("/predict", form((FILE, b"x"), end=b"")[0], MULTIPART, 400, "no end"),
        ("/predict", form((FILE, b"x"), (FILE, b"y"))[0], MULTIPART, 400, "found 2 files"),
        ("/predict", form(('; name="file"', b"x"))[0], MULTIPART, 400, "found 0 files"),
        ("/predict", form((FILE + HEADERS, b"x"))[0], MULTIPART, 400, ""),
        ("/predict", form((FILE + "\r\nX: " + "y" * 20_000, b"x"))[0], MULTIPART, 400, ""),
        ("/predict", form(*[(FILE, b"x")] * 17)[0], MULTIPART, 400, "more than 16 parts"),
        ("/predict?threshold=2", encoded(RED), "", 400, "threshold: found 2.0, needed a number from 0 to 1"),
        ("/predict?threshold=nan", encoded(RED), "", 400, "threshold"),
        ("/predict?threshold=high", encoded(RED), "", 400, "threshold: found 'high', needed a number"),
        ("/predict?class=violet", encoded(RED), "", 400, "class 'violet'"),
        ("/predict?top_k=3", encoded(RED), "", 400, "top_k"),
        (
            "/predict?treshold=0.5",
            encoded(RED),
            "",
            400,
            "query: found 'treshold', needed some of model, threshold, iou",
        ),
        (
            "/predict?threshold=0.1&class=red&threshold=0.9",
            encoded(RED),
            "",
            400,
            "threshold: found 2 values, needed one",
        ),
        ("/predict?draw=maybe", encoded(RED), "", 400, "draw: found 'maybe'"),
        ("/predict?model=other%0a", encoded(RED), "", 404, "model 'other\\n': not served; needed one of shapes"),
        ("/v2/models/other/infer", b"{}", "", 404, "not served"),
        ("/v2/models/shapes/versions/2/infer", b"{}", "", 404, "version '2'"),
        ("/nothing", b"", "", 404, "Not Found"),
        ("/metrics", b"", "", 405, "Method Not Allowed"),
    ],
)
def test_invalid_requests_are_one_line_errors(
    path: str, body: bytes, kind: str, status: int, line: str, server: ServerProcess
) -> None:
    found, answer, _ = ask(server, "POST", path, body, content_type=kind)
    assert found == status
    assert list(answer) == ["error"]
    assert line in answer["error"]
    assert answer["error"].isprintable()
    assert len(answer["error"]) <= 200
    assert rows(ask(server, "POST", "/predict", encoded(RED))) == [("red", [10, 20, 30, 40])], "and it goes on"


def test_compressed_body_is_rejected(server: ServerProcess) -> None:
    status, answer, _ = ask(server, "POST", "/predict", zlib.compress(encoded(RED)), content_encoding="deflate")
    assert (status, answer["error"][:17]) == (415, "content-encoding:")


def test_oversized_body_is_not_read(server: ServerProcess) -> None:
    """Declared, it is rejected before any of it is sent; in chunks, as soon as it is over the limit."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")
    before, sent, chunk = server.megabytes(), 0, b"10000\r\n" + bytes(0x10000) + b"\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while sent < 1e9:
                connection.sendall(chunk)
                sent += len(chunk)
    assert sent < 5e7, "the connection was closed"
    assert server.megabytes() < before + 50


def test_health_and_metadata(server: ServerProcess) -> None:
    assert [ask(server, "GET", f"/v2/health/{what}")[0] for what in ("live", "ready")] == [200, 200]
    assert ask(server, "GET", "/v2/models/shapes/ready")[0] == 200
    assert ask(server, "GET", "/v2/models/other/ready")[0] == 404
    assert ask(server, "GET", "/v2")[1]["extensions"] == ["binary_tensor_data"]
    metadata = ask(server, "GET", "/v2/models/shapes/versions/1")[1]
    assert metadata == ask(server, "GET", "/v2/models/shapes")[1]
    assert metadata["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}]
    assert [(entry["name"], entry["datatype"]) for entry in metadata["outputs"]] == [
        ("boxes", "FP32"), ("scores", "FP32"), ("labels", "INT64"),
    ]  # fmt: skip


@pytest.mark.parametrize("nested", [False, True])
def test_infer_in_json(nested: bool, server: ServerProcess) -> None:
    images = np.stack([RED, RED_AND_BLUE])
    data = (images if nested else images.ravel()).tolist()
    tensor = {"name": "images", "datatype": "UINT8", "shape": list(images.shape), "data": data}
    tree = {"id": "7", "inputs": [tensor], "parameters": {"threshold": 0.5, "unknown": 1}}
    status, answer, _ = ask(server, "POST", "/v2/models/shapes/infer", json.dumps(tree))
    assert (status, answer["id"], answer["model_name"], answer["model_version"]) == (200, "7", "shapes", "1")
    outputs = {entry["name"]: entry for entry in answer["outputs"]}
    assert (outputs["boxes"]["shape"], outputs["labels"]["shape"]) == ([2, 2, 4], [2, 2])
    assert outputs["boxes"]["data"][:8] == [10, 20, 30, 40, 0, 0, 0, 0], "a row without a detection"
    assert outputs["labels"]["data"][:2] == [0, -1]
    assert sorted(outputs["labels"]["data"][2:]) == [0, 2]


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "images", "datatype": "UINT8", "shape": [1, 2, 2, 3], "data": [0] * 12} | changes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tree", "line"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        (b"\xff\xfe", "not JSON"),
        ('{"inputs": [], "inputs": []}', "a key is repeated in one JSON object"),
        ([], "request: needed a JSON object"),
        ({}, "inputs: needed a list of one tensor"),
        ({"inputs": [tensor(), tensor()]}, "inputs: needed a list of one tensor"),
        ({"inputs": ["images"]}, "inputs[0]: needed a JSON object"),
        ({"inputs": [tensor(name="x")]}, "found x of UINT8, needed images of UINT8"),
        ({"inputs": [tensor(datatype="FP32")]}, "found images of FP32"),
        ({"inputs": [tensor(shape=[2, 2, 3])]}, "found the shape [2, 2, 3], needed (images, height, width, 3)"),
        ({"inputs": [tensor(shape=[1, 2, 2, 4])]}, "found the shape [1, 2, 2, 4]"),
        ({"inputs": [tensor(shape=[1, 2, True, 3])]}, "found the shape"),
        ({"inputs": [tensor(shape=[1, 2, -2, 3])]}, "found the shape"),
        ({"inputs": [tensor(shape=[1, 9**9, 9**9, 3])]}, "found 12 numbers"),
        ({"inputs": [tensor(data=[0] * 11)]}, "found 11 numbers, needed 12"),
        ({"inputs": [tensor(data=[0] * 11 + [256])]}, "whole numbers from 0 to 255"),
        ({"inputs": [tensor(data=[0] * 11 + [-1])]}, "whole numbers from 0 to 255"),
        ({"inputs": [tensor(data=[0] * 11 + [0.5])]}, "whole numbers from 0 to 255"),
        ({"inputs": [tensor(data=[0] * 11 + [9**99])]}, "whole numbers from 0 to 255"),
        ({"inputs": [tensor(data=["0"] * 12)]}, "whole numbers from 0 to 255"),
        ({"inputs": [tensor(data=[[0, 0], [0]])]}, "whole numbers from 0 to 255"),
        ({"inputs": [tensor(data={"a": 1})]}, "whole numbers from 0 to 255"),
        ({"inputs": [tensor(parameters={"binary_data_size": 12})]}, "found 12 as binary_data_size, needed 0"),
        ({"inputs": [tensor(parameters=[])]}, "images.parameters: needed a JSON object"),
        ({"inputs": [tensor()], "outputs": [{"name": "masks"}]}, "outputs: found 'masks', needed some of boxes"),
        (
            {"inputs": [tensor()], "outputs": [{"name": "scores", "parameters": {"classification": 3}}]},
            "outputs: found classification of scores",
        ),
        ({"inputs": [tensor()], "outputs": {}}, "outputs: needed a list"),
        ({"inputs": [tensor()], "parameters": {"threshold": "low"}}, "parameters.threshold: found low"),
        ({"inputs": [tensor()], "parameters": {"threshold": 7}}, "threshold: found 7, needed a number from 0 to 1"),
        ({"inputs": [tensor(shape=[65, 1, 1, 3], data=[0] * 195)]}, "found 65 images, needed at most 64"),
    ],
)
def test_infer_with_invalid_tensor_is_a_one_line_error(tree: Any, line: str, server: ServerProcess) -> None:
    body = tree if isinstance(tree, str | bytes) else json.dumps(tree)
    status, answer, _ = ask(server, "POST", "/v2/models/shapes/infer", body)
    assert status == (413 if "images, needed at most" in line else 400)
    assert line in answer["error"]
    assert len(answer["error"]) <= 200


@pytest.mark.slow
@pytest.mark.parametrize("length", ["-1", "5000", "nine", "", "0" * 5000])
def test_infer_with_invalid_header_length_is_an_error(length: str, server: ServerProcess) -> None:
    status, answer, _ = ask(
        server, "POST", "/v2/models/shapes/infer", b"{}", **{"inference_header_content_length": length}
    )
    assert status == 400
    assert "inference-header-content-length" in answer["error"]


def test_triton_client(server: ServerProcess) -> None:
    client_module = pytest.importorskip("tritonclient.http", reason="needs tritonclient[http]")
    images = np.stack([RED, RED_AND_BLUE, scene(64, 64, [], [])])
    with client_module.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("shapes")
        assert client.is_model_ready("shapes", "1")
        assert not client.is_model_ready("other")
        assert client.get_server_metadata()["name"] == "boxwright"
        assert client.get_model_metadata("shapes")["inputs"][0]["name"] == "images"
        for binary_in in (True, False):
            given = client_module.InferInput("images", list(images.shape), "UINT8")
            given.set_data_from_numpy(images, binary_data=binary_in)
            wanted = [
                client_module.InferRequestedOutput(name, binary_data=name == "boxes") for name in ("labels", "boxes")
            ]
            for outputs in (None, wanted):
                found = client.infer("shapes", [given], outputs=outputs, request_id="5")
                assert found.get_response()["id"] == "5"
                labels, boxes = found.as_numpy("labels"), found.as_numpy("boxes")
                assert (labels.dtype, boxes.dtype) == (np.int64, np.float32)
                assert sorted(labels.tolist()) == sorted([[0, -1], labels[1].tolist(), [-1, -1]])
                assert sorted(labels[1].tolist()) == [0, 2]
                assert boxes[0].tolist() == [[10, 20, 30, 40], [0, 0, 0, 0]]
                assert (found.as_numpy("scores") is None) == (outputs is not None)
        with pytest.raises(client_module.InferenceServerException, match="needed images of UINT8"):
            client.infer(
                "shapes", [client_module.InferInput("x", [1], "INT32").set_data_from_numpy(np.zeros(1, np.int32))]
            )
        given = client_module.InferInput("images", [1, 64, 64, 3], "UINT8")
        given.set_data_from_numpy(scene(64, 64, [], [])[None])
        nothing = client.infer("shapes", [given]).as_numpy("boxes")
        assert nothing.shape == (1, 0, 4)


def metrics(server: ServerProcess) -> dict[str, float]:
    """Sample -> value of Prometheus' text format."""
    text = ask(server, "GET", "/metrics")[1].decode()
    for line in text.splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) .+|\w+(\{(\w+="[^"\n]*",?)+\})? [0-9.e+-]+', line), line
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"}


def test_metrics(server: ServerProcess) -> None:
    before = metrics(server)
    for content in (encoded(RED), encoded(RED), b"<html>"):
        ask(server, "POST", "/predict", content)
    after = metrics(server)

    def more(sample: str) -> float:
        return after[sample] - before.get(sample, 0)

    assert more('boxwright_requests_total{model="shapes",status="200"}') == 2
    assert more('boxwright_requests_total{model="shapes",status="400"}') == 1
    assert more('boxwright_errors_total{model="shapes"}') == 1
    assert after['boxwright_queue_images{model="shapes"}'] == 0
    assert more('boxwright_batch_images_sum{model="shapes"}') == 2
    assert more('boxwright_queue_seconds_count{model="shapes"}') == 3
    assert more('boxwright_network_seconds_count{model="shapes"}') == more(
        'boxwright_batch_images_count{model="shapes"}'
    )
    for name in ("batch_images", "queue_seconds", "network_seconds"):
        buckets = [value for sample, value in after.items() if sample.startswith(f"boxwright_{name}_bucket")]
        assert buckets == sorted(buckets)
        assert buckets[-1] == after[f'boxwright_{name}_count{{model="shapes"}}']


def test_startup_message_names_local_access(server: ServerProcess) -> None:
    assert server.lines[0].startswith("serving shapes on http://127.0.0.1:")
    assert "(this machine only" in server.lines[0]


def test_head_equals_get_without_body(server: ServerProcess) -> None:
    for path, status in (("/v2/health/ready", 200), ("/metrics", 200), ("/predict", 405)):
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
            connection.request("HEAD", path)
            response = connection.getresponse()
            assert (response.status, response.read()) == (status, b"")
            assert int(response.headers["content-length"]) > 0


def test_infer_accepts_null_for_optional_fields(server: ServerProcess) -> None:
    """As clients write it that make JSON of objects."""
    given = {"inputs": [tensor(parameters=None)], "outputs": [{"name": "scores", "parameters": None}]}
    status, answer, _ = ask(
        server, "POST", "/v2/models/shapes/infer", json.dumps(given | {"id": None, "parameters": None})
    )
    assert (status, [entry["name"] for entry in answer["outputs"]]) == (200, ["scores"])
    assert "id" not in answer
