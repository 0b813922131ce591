"""`boxwright look` at the level of HTTP: who may ask, lists and filters, pixels, runs, curves and findings."""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

for module in ("fastapi", "uvicorn"):
    pytest.importorskip(module, reason="needs the extra web")

from boxwright import cli  # noqa: E402
from boxwright.data.dataset import Sample  # noqa: E402
from boxwright.errors import InputError  # noqa: E402
from boxwright.images.windows import Window  # noqa: E402
from boxwright.look import images as look_images  # noqa: E402
from boxwright.look.audit import ObjectIndex  # noqa: E402
from boxwright.look.images import Cache, ImageReader  # noqa: E402
from boxwright.metrics import error_table  # noqa: E402
from boxwright.metrics.matching import match  # noqa: E402
from look_client import PORT, TOKEN, Client  # noqa: E402

W, H = 400, 200  # px of the images
EVIL = "<img src=x onerror=alert(1)>\u202e"
CLASSES = ("cat", "dog", EVIL)
# split -> image -> (class, box); areas: 400 (small), 2500 (medium), 15000 (large)
LABELS: dict[str, dict[str, list[tuple[int, list[float]]]]] = {
    "train": {
        "a": [(0, [10, 10, 30, 30]), (1, [100, 50, 250, 150])],
        "b": [(1, [50, 50, 100, 100])],
        "c": [],
    },
    "val": {"a": [(2, [10, 10, 30, 30])], "d": [(0, [100, 50, 250, 150]), (0, [300, 10, 320, 30])]},
}
IDS = {"train/a": 0, "train/b": 1, "train/c": 2, "val/a": 3, "val/d": 4}


def pixels() -> np.ndarray:
    """An image whose pixels encode their position: red for x, green for y."""
    y, x = np.mgrid[:H, :W]
    return np.stack([x * 255 // W, y * 255 // H, np.full_like(x, 60)], -1).astype(np.uint8)


def write_set(root: Path) -> Path:
    for split, images in LABELS.items():
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for name, boxes in images.items():
            cv2.imwrite(str(root / "images" / split / f"{name}.png"), pixels()[..., ::-1])
            lines = [
                f"{label} {(x1 + x2) / 2 / W} {(y1 + y2) / 2 / H} {(x2 - x1) / W} {(y2 - y1) / H}\n"
                for label, (x1, y1, x2, y2) in boxes
            ]
            (root / "labels" / split / f"{name}.txt").write_text("".join(lines))
    (root / "data.yaml").write_text(json.dumps({"names": list(CLASSES)}))
    return root


class Found:
    """Detections of one image, as `match` takes them."""

    def __init__(self, rows: list[tuple[int, list[float], float]]) -> None:
        import torch

        self.labels = torch.tensor([label for label, _, _ in rows], dtype=torch.int64)
        self.boxes = torch.tensor([box for _, box, _ in rows], dtype=torch.float32).reshape(-1, 4)
        self.scores = torch.tensor([score for _, _, score in rows], dtype=torch.float32)


# of val: the dog of `a` is called a cat, one cat of `d` is found, and something where nothing is
DETECTIONS = {
    "a": [(0, [10.0, 10, 30, 31], 0.9)],
    "d": [(0, [100.0, 50, 250, 148], 0.8), (1, [200.0, 160, 240, 190], 0.3)],
}


def write_run(folder: Path, root: Path, split: str = "val", names: tuple[str, ...] = CLASSES) -> Path:
    """What an evaluation leaves: errors.csv by the function that writes it, and metrics.json."""
    folder.mkdir(parents=True)
    samples, results = [], []
    for name, boxes in LABELS[split].items():
        count = len(boxes)
        samples.append(
            Sample(
                name, str(root / "images" / split / f"{name}.png"), (H, W),
                np.array([box for _, box in boxes], np.float32).reshape(-1, 4), np.array([label for label, _ in boxes]),
                np.zeros(count, bool), np.ones(count), np.arange(count), np.zeros(count, bool),
            )
        )  # fmt: skip
        results.append(Found(DETECTIONS.get(name, [])))
    error_table.write(folder / "errors.csv", samples, match(samples, results), names)
    metrics = {
        "recipe": "demo", "data": str(root), "split": split, "summary": {"AP": 0.5},
        "intervals": {"summary": {"AP": [0.4, 0.6]}}, "classes": [{"name": name} for name in names],
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def line(step: int, **values: float) -> str:
    return json.dumps({"step": step, "epoch": step // 10, **values}) + "\n"


def loss(step: int, total: float = 1.0) -> str:
    row = {"lr": 0.1, "total": total, "terms": {"xy": total}}
    return json.dumps({"step": step, "epoch": step // 10, **row}) + "\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("look") / "set")


@pytest.fixture(scope="module")
def client(data: Path) -> Client:
    return Client(data, write_run(data.parent / "run", data))


def ids(client: Client, **query: Any) -> list[int]:
    found = client.get("images", **query)
    assert found["total"] == len(found["images"])
    return [each["id"] for each in found["images"]]


def test_requests_without_the_token_are_rejected(client: Client) -> None:
    assert client.ask("GET", f"/{TOKEN}/api/set").status == 200
    paths = ("/", "/api/set", f"/{TOKEN}", f"/{TOKEN}x/api/set", f"/{TOKEN[:-1]}/api/set", f"/x/{TOKEN}/api/set", "//")
    for path in (*paths, "/\udcff/api/set", "/" + "a" * 10_000):
        answer = client.ask("GET", path.encode("utf-8", "surrogateescape").decode("latin-1"))
        assert (answer.status, list(answer.json)) == (403, ["error"]), path
    for host in ("evil.example", f"evil.example:{PORT}", "127.0.0.1", "127.0.0.1:80", ""):
        assert client.ask("GET", f"/{TOKEN}/api/set", host=host).status == 403, host
    assert client.ask("GET", f"/{TOKEN}/api/set", host=f"LocalHost:{PORT}").status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x_boxwright": ""}, 403),
        ({"x_boxwright": "2"}, 403),
        ({"content_type": "text/plain"}, 415),
        ({"content_type": "application/x-www-form-urlencoded"}, 415),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"content_encoding": "gzip"}, 415),
        ({"content_length": "2000000"}, 413),
        ({"origin": f"http://127.0.0.1:{PORT}", "content_type": "application/json; charset=utf-8"}, 404),
    ],
)
def test_cross_site_requests_are_rejected(client: Client, headers: dict[str, str], status: int) -> None:
    assert client.post("findings/0", {"state": "open"}, **headers).status == status


def test_invalid_request_bodies_are_rejected(client: Client) -> None:
    path, headers = f"/{TOKEN}/api/findings/0", {"x_boxwright": "1", "content_type": "application/json"}
    for body, status in ((b"", 400), (b"[1]", 400), (b"{", 400), (b'{"a": ' + b"[" * 100_000, 400)):
        assert client.ask("POST", path, body, **headers).status == status
    assert client.ask("POST", path, b" " * 2_000_000, **headers).status == 413
    assert client.ask("PUT", path, b"{}", **headers).status == 405
    assert client.ask("POST", f"/{TOKEN}/api/set", b"{}", **headers).status == 405


def test_security_headers(client: Client) -> None:
    for path in ("api/set", "api/images/0/thumbnail", "api/nothing", "page/nothing"):
        headers = client.ask("GET", f"/{TOKEN}/{path}").headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert (headers["referrer-policy"], headers["x-content-type-options"]) == ("no-referrer", "nosniff")
        assert headers["cache-control"] in ("no-store", "private, no-cache")
    answer = client.ask("HEAD", f"/{TOKEN}/api/set")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")


def test_only_files_of_the_page_are_served(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from boxwright.look import app

    page = tmp_path / "page"
    page.mkdir()
    (page / "main.js").write_text("1;")
    (tmp_path / "secret.js").write_text("2;")
    monkeypatch.setattr(app, "PAGE", page)
    answer = client.ask("GET", f"/{TOKEN}/page/main.js")
    assert (answer.status, answer.content) == (200, b"1;")
    assert answer.headers["content-type"].startswith("text/javascript")
    again = client.ask("GET", f"/{TOKEN}/page/main.js", if_none_match=answer.headers["etag"])
    assert (again.status, again.content) == (304, b"")
    for name in ("../secret.js", "..%2fsecret.js", "/etc/passwd", "..", "", "x\0.js", "main.js/../../secret.js"):
        assert client.ask("GET", f"/{TOKEN}/page/{name}").status == 404, name
    assert client.ask("GET", f"/{TOKEN}/").status == 404, "no index.html"
    assert client.ask("GET", f"/{TOKEN}/api/set/").status == 404, "no redirection to a path without the token"


def test_summary_of_the_data_set(client: Client, data: Path) -> None:
    found = client.get("set")
    assert found["splits"] == [
        {"name": "train", "images": 3, "message": ""},
        {"name": "val", "images": 2, "message": ""},
    ]
    assert (found["data"], found["layout"], found["classes"]) == (str(data), "yolo_txt", list(CLASSES))
    assert (found["editable"], found["reason"], found["audit"], found["message"]) == (True, "", None, "")
    run = {"name": "run", "split": "val", "classes_match": True, "predictions": True, "message": ""}
    assert found["runs"] == [run]
    kinds = ["correct", "classification", "localization", "both", "duplicate", "background", "missed"]
    assert found["statuses"] == kinds


def test_image_list_and_filters(client: Client) -> None:
    found = client.get("images", limit=2, offset=1)
    assert found["total"] == 5
    assert found["images"] == [
        {"id": 1, "index": 1, "name": "images/train/b.png", "split": "train", "height": H, "width": W, "objects": 1,
         "detections": 0},
        {"id": 2, "index": 2, "name": "images/train/c.png", "split": "train", "height": H, "width": W, "objects": 0,
         "detections": 0},
    ]  # fmt: skip
    assert ids(client, split="val") == [3, 4]
    assert ids(client, **{"class": "dog"}) == [0, 1]
    assert ids(client, **{"class": EVIL}) == [3]
    assert ids(client, size="small") == [0, 3, 4]
    assert ids(client, size="medium") == [1]
    assert ids(client, size="large") == [0, 4]
    assert ids(client, size="large", **{"class": "dog"}) == [0]
    assert ids(client, size="small", **{"class": "dog"}) == [], "of one object both"
    assert ids(client, size="large", split="train") == [0]


def test_filters_of_a_run(client: Client) -> None:
    assert ids(client, run="run", status="correct") == [4]
    assert ids(client, run="run", status="missed") == [4]
    assert ids(client, run="run", status="classification") == [3]
    assert ids(client, run="run", status="background") == [4]
    assert ids(client, run="run", status="background", min_score=0.31) == []
    assert ids(client, run="run", status="missed", min_score=0.99) == [4], "objects have no score"
    assert ids(client, run="run", status="classification", **{"class": EVIL}) == [3], "the object"
    assert ids(client, run="run", status="classification", **{"class": "cat"}) == [3], "the detection"
    assert ids(client, run="run", status="missed", size="large") == []
    assert ids(client, run="run", status="missed", size="small", split="val") == [4]
    assert ids(client, run="run", status="missed", split="train") == []
    rows = client.get("images", run="run")["images"]
    assert [row["detections"] for row in rows] == [0, 0, 0, 1, 2]
    rows = client.get("images", run="run", min_score=0.5)["images"]
    assert [row["detections"] for row in rows] == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("query", "line"),
    [
        ("split=test", "split: there is no 'test', needed train, val"),
        ("class=horse", "class: there is no 'horse'"),
        ("size=huge", "size: found 'huge', needed small, medium, large"),
        ("status=missed", "status: needs a run"),
        ("run=other", "run: there is no 'other' on this page"),
        ("run=run&status=odd", "status: found 'odd'"),
        ("finding=any", "finding: needs an audit"),
        ("offset=-1", "offset: "),
        ("limit=0", "limit: "),
        ("limit=100000", "limit: "),
        ("min_score=much", "min_score: "),
    ],
)
def test_invalid_queries_are_rejected(client: Client, query: str, line: str) -> None:
    answer = client.ask("GET", f"/{TOKEN}/api/images?{query}")
    assert (answer.status, answer.json["error"].startswith(line)) == (400, True), answer
    assert "\n" not in answer.json["error"]


def test_image_with_its_detections(client: Client) -> None:
    found = client.get("images/4", run="run", min_score=0.1)
    assert (found["name"], found["split"], found["height"], found["width"]) == ("images/val/d.png", "val", H, W)
    first, second = found["objects"]
    assert first == {
        "id": 0, "box": [100, 50, 250, 150], "class": "cat", "crowd": False, "difficult": False, "status": "correct",
        "statuses": {"run": "correct"},
    }  # fmt: skip
    assert (second["id"], second["status"]) == (1, "missed")
    detections = found["detections"]["run"]
    assert [(each["class"], each["status"], each["match"]) for each in detections] == [
        ("cat", "correct", 0),
        ("dog", "background", None),
    ]
    assert detections[0]["box"] == [100, 50, 250, 148]
    assert [each["score"] for each in detections] == pytest.approx([0.8, 0.3])
    assert [each["class"] for each in client.get("images/4", run="run", min_score=0.5)["detections"]["run"]] == ["cat"]
    (wrong,) = client.get("images/3", run="run")["detections"]["run"]
    assert (wrong["class"], wrong["status"], wrong["match"]) == ("cat", "classification", 0)
    assert client.get("images/0", run="run")["detections"]["run"] == [], "not in the split that was evaluated"


def test_unknown_images_are_an_error(client: Client) -> None:
    for image in (5, -1, 10**30):
        answer = client.ask("GET", f"/{TOKEN}/api/images/{image}")
        assert answer.status == 400, answer
    assert client.ask("GET", f"/{TOKEN}/api/images/one").status == 400
    assert client.ask("GET", f"/{TOKEN}/api/images/99/thumbnail").status == 400


def decoded(answer: Any) -> np.ndarray:
    assert (answer.status, answer.headers["content-type"]) == (200, "image/jpeg"), answer
    return cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_thumbnails(client: Client) -> None:
    answer = client.ask("GET", f"/{TOKEN}/api/images/0/thumbnail")
    found = decoded(answer)
    assert found.shape == (160, 320, 3)
    expected = cv2.resize(pixels(), (320, 160), interpolation=cv2.INTER_AREA)
    assert np.abs(found.astype(int) - expected).mean() < 3
    again = client.ask("GET", f"/{TOKEN}/api/images/0/thumbnail", if_none_match=answer.headers["etag"])
    assert again.status == 304


@pytest.mark.parametrize(
    ("query", "x", "y", "width", "height"),
    [
        ("x=20&y=30&width=100&height=50", 20, 30, 100, 50),
        ("x=20&y=30&width=100&height=50&scale=0.5", 20, 30, 100, 50),
        ("x=-10&y=-10&width=60&height=60", 0, 0, 50, 50),
        ("x=350&y=150&width=512&height=512", 350, 150, 50, 50),
    ],
)
def test_windows_of_an_image(client: Client, query: str, x: int, y: int, width: int, height: int) -> None:
    found = decoded(client.ask("GET", f"/{TOKEN}/api/images/0/window?{query}"))
    factor = 0.5 if "scale" in query else 1
    assert found.shape == (height * factor, width * factor, 3)
    middle = found[found.shape[0] // 2, found.shape[1] // 2].astype(int)
    assert middle == pytest.approx([(x + width / 2) * 255 / W, (y + height / 2) * 255 / H, 60], abs=8)


@pytest.mark.parametrize(
    "query",
    [
        "x=0&y=0&width=0&height=9",
        "x=400&y=0&width=9&height=9",
        "x=0&y=0&width=9&height=9&scale=0",
        "x=0&y=0&width=9&height=9&scale=2",
        "x=0&y=0&width=9&height=9&scale=nan",
        "x=0&y=0&width=9",
        "x=0.5&y=0&width=9&height=9",
    ],
)
def test_invalid_windows_are_rejected(client: Client, query: str) -> None:
    answer = client.ask("GET", f"/{TOKEN}/api/images/0/window?{query}")
    assert (answer.status, list(answer.json)) == (400, ["error"])


@pytest.mark.slow
def test_only_the_window_of_a_large_tiff_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a scene needs it that is too large to be decoded; here at a tenth of its size."""
    rasterio = pytest.importorskip("rasterio")
    y, x = np.mgrid[:3000, :4000]
    scene = np.stack([x // 16, y // 12, np.full_like(x, 60)]).astype(np.uint8)
    path = str(tmp_path / "a.tif")
    profile = {"driver": "GTiff", "width": 4000, "height": 3000, "count": 3, "dtype": "uint8", "tiled": True}
    profile |= {"transform": rasterio.Affine(2, 0, 0, 0, -2, 0)}
    with rasterio.open(path, "w", photometric="RGB", compress="deflate", **profile) as file:
        file.write(scene)
    for module in ("look.images", "images.windows"):
        monkeypatch.setattr(f"boxwright.{module}.read_image", None)
    reader = ImageReader()
    found = cv2.imdecode(np.frombuffer(reader.window(path, Window(1000, 600, 2000, 1000), 0.1), np.uint8), 1)
    assert found.shape == (100, 200, 3)
    assert found[50, 100, ::-1].astype(int) == pytest.approx([2000 / 16, 1100 / 12, 60], abs=4)
    thumbnail = cv2.imdecode(np.frombuffer(reader.thumbnail(path), np.uint8), 1)
    assert thumbnail.shape == (240, 320, 3)


def test_cached_pixels_are_bounded() -> None:
    cache, made = Cache(100), list[str]()

    def make(name: str, size: int) -> Any:
        def value() -> tuple[object, int]:
            made.append(name)
            return name, size

        return value

    for name in ("a", "b", "a", "c", "a", "b"):
        assert cache.get(name, make(name, 40)) == name
    assert made == ["a", "b", "c", "b"], "b was the least recently used when c came"
    assert cache.get("large", make("large", 101)) == "large"
    cache.get("a", make("a", 40))
    assert made[-1] == "large", "what is too large is not kept, and removes nothing"


def test_changed_image_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    reader = ImageReader()
    for value in (10, 200):
        cv2.imwrite(str(path), np.full((8, 9, 3), value, np.uint8))
        os.utime(path, ns=(0, value * 10**9))
        for content in (reader.thumbnail(str(path)), reader.window(str(path), Window(0, 0, 9, 8), 1)):
            assert cv2.imdecode(np.frombuffer(content, np.uint8), 1).mean() == pytest.approx(value, abs=2)


def test_decompression_bombs_and_other_files_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = ImageReader()
    (tmp_path / "text.png").write_text("none")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "fifo.png")
    monkeypatch.setattr(look_images, "MAX_SIDE", 64)
    for name in ("text", "empty", "folder", "fifo", "missing"):
        for read in (reader.thumbnail, lambda path: reader.window(path, Window(0, 0, 9, 9), 1)):
            with pytest.raises(InputError, match=f"{name}.png: "):
                read(str(tmp_path / f"{name}.png"))
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((100, 100, 3), np.uint8))
    with pytest.raises(InputError, match="needed at most 64 per side; lower scale"):
        reader.window(str(tmp_path / "a.png"), Window(0, 0, 100, 100), 1)


def test_unsupported_tiff_is_reported(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    file = write_set(tmp_path / "set") / "images" / "train" / "a.png"
    file.unlink()
    profile = {"driver": "GTiff", "width": W, "height": H, "count": 2, "dtype": "uint8"}
    profile |= {"transform": rasterio.Affine(2, 0, 0, 0, -2, 0)}
    with rasterio.open(file.with_suffix(".tif"), "w", **profile) as opened:
        opened.write(np.zeros((2, H, W), np.uint8))
    found = Client(tmp_path / "set").get("images/0")
    assert "a.tif: 2 bands" in found["message"]
    assert len(found["objects"]) == 2


def test_deleted_image_is_reported(data: Path, tmp_path: Path) -> None:
    client = Client(write_set(tmp_path / "set"))
    (tmp_path / "set" / "images" / "train" / "a.png").unlink()
    answer = client.ask("GET", f"/{TOKEN}/api/images/0/thumbnail")
    assert (answer.status, "a.png: cannot be read" in answer.json["error"]) == (400, True)
    found = client.get("images/0")
    assert (found["height"], found["width"], len(found["objects"])) == (H, W, 2)
    assert "a.png" in found["message"]


def test_runs_without_predictions_and_with_other_classes(data: Path, tmp_path: Path) -> None:
    training = tmp_path / "training"
    training.mkdir()
    (training / "log.jsonl").write_text(loss(1))
    other = write_run(tmp_path / "other", data, names=("cat", "horse", "x"))
    elsewhere = write_run(tmp_path / "elsewhere", tmp_path / "another set")
    client = Client(data, training, other, elsewhere)
    first, second, _ = client.get("set")["runs"]
    assert (first["predictions"], first["split"]) == (False, None)
    command = f"boxwright evaluate {training} --data {data} --out {training}"
    assert first["message"] == f"no predictions: found no errors.csv; run `{command}`"
    (alone,) = Client(data, training, only="train").get("set")["runs"]
    assert f"{command} --split train`" in alone["message"]
    assert (second["classes_match"], second["predictions"]) == (False, True)
    assert second["message"] == "2 of its 3 classes are not in this set, such as horse"
    answer = client.ask("GET", f"/{TOKEN}/api/images?run=training&status=missed")
    assert (answer.status, "found no errors.csv" in answer.json["error"]) == (400, True)
    found = client.get("images/4", run=["training", "other"])
    assert "found no errors.csv" in found["message"]
    assert [each["class"] for each in found["detections"]["other"]] == ["cat", "horse"]
    # of a set that has moved, or of another one with images of the same names
    assert len(client.get("images/4", run="elsewhere")["detections"]["elsewhere"]) == 2


def test_evaluated_images_are_marked(data: Path, tmp_path: Path) -> None:
    """The split has another name here after `train --val-fraction`, whose images are part of `train`, or `--split
    valid`; images without rows are of the split, too."""
    run = write_run(tmp_path / "run", data, split="train")
    client = Client(data, run)
    assert [client.get(f"images/{image}", run="run")["evaluated"] for image in range(4)] == [["run"]] * 3 + [[]]
    metrics = json.loads((run / "metrics.json").read_text()) | {"split": "val"}
    (run / "metrics.json").write_text(json.dumps(metrics))
    client = Client(data, run, only="train")
    assert [client.get(f"images/{image}", run="run")["evaluated"] for image in range(3)] == [["run"], ["run"], []]
    renamed = Path(shutil.copytree(data, tmp_path / "renamed"))
    for kind in ("images", "labels"):
        (renamed / kind / "val").rename(renamed / kind / "valid")
    table = write_run(tmp_path / "other", renamed) / "errors.csv"
    table.write_text(table.read_text().replace("images/val/", "images/valid/"))
    client = Client(renamed, table.parent, only="valid")
    assert client.get("images/0", run="other")["evaluated"] == ["other"]


def test_predictions_of_other_images_are_reported(data: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", data)
    table = run / "errors.csv"
    table.write_text(table.read_text().replace("d.png", "elsewhere.png"))
    client = Client(data, run)
    assert "of images that are not in this set" in client.get("images", run="run")["message"]
    table.write_text(table.read_text().replace("a.png", "nowhere.png"))  # and a new evaluation is read
    answer = client.ask("GET", f"/{TOKEN}/api/images?run=run")
    assert (answer.status, "none of its images is in" in answer.json["error"]) == (400, True)


@pytest.mark.parametrize("text", ["", "id,image\n1,2\n", "{head}\n1,a.png,thing,cat,1,2,3,4,0.5,correct,1,\n",
                                  "{head}\n1,a.png,object,cat,1,2,3,four,,missed,1,\n",
                                  "{head}\n1,a.png,object,cat,1,2,3,4,,odd,1,\n", "{head}\n1,a.png\n",
                                  "{head}\n99999999999999999999,a.png,object,cat,1,2,3,4,,missed,1,\n",
                                  "{head}\n-5,a.png,object,cat,1,2,3,4,,missed,1,\n",
                                  "{head}\n4000000000,a.png,object,cat,1,2,3,4,,missed,1,\n"])  # fmt: skip
def test_damaged_error_tables_are_reported(data: Path, tmp_path: Path, text: str) -> None:
    run = write_run(tmp_path / "run", data)
    (run / "errors.csv").write_text(text.format(head=",".join(error_table.COLUMNS)))
    answer = Client(data, run).ask("GET", f"/{TOKEN}/api/images?run=run")
    assert (answer.status, "errors.csv: " in answer.json["error"]) == (400, True), answer


@pytest.mark.slow
def test_curves_and_the_table_of_runs(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    for name, steps in (("one", 3), ("two", 5000)):
        (folder / name).mkdir(parents=True)
        (folder / name / "recipe.yaml").write_text("name: demo\ntrain:\n  epochs: 4\n")
        (folder / name / "log.jsonl").write_text("".join(loss(step, step / 10) for step in range(1, steps + 1)))
    evaluation = write_run(tmp_path / "evaluation", data)
    client = Client(data, folder, evaluation)
    with (folder / "one" / "log.jsonl").open("a") as file:
        file.write(line(3, AP=0.25, AP50=float("nan")))
    found = client.get("curves")
    one, two, third = found["runs"]
    assert [run["name"] for run in found["runs"]] == ["one", "two", "evaluation"]
    assert one["points"] == [
        {"step": step, "epoch": 0, "lr": 0.1, "total": step / 10, "terms": {"xy": step / 10}} for step in (1, 2, 3)
    ]
    assert one["evaluations"] == [{"step": 3, "epoch": 0, "AP": 0.25, "AP50": None}]
    assert (len(two["points"]), two["points"][0]["step"], two["points"][-1]["step"]) == (2000, 1, 5000)
    assert third["points"] == []
    assert client.get("curves", after=found["cursor"])["runs"] == []
    with (folder / "one" / "log.jsonl").open("a") as file:
        file.write(loss(4) + '{"step": 5, "epo')  # a line that is being written
    changed = client.get("curves", after=found["cursor"])
    assert [(run["name"], run["points"][-1]["step"]) for run in changed["runs"]] == [("one", 4)]
    (folder / "one" / "log.jsonl").write_text("broken\n")
    (broken,) = client.get("curves", after=changed["cursor"])["runs"]
    assert (broken["points"], "log.jsonl: line 1" in broken["message"]) == ([], True)
    for cursor in ("x", "0:", "9:1-2,,:", "%00"):
        assert len(client.get("curves", after=cursor)["runs"]) == 3
    rows = client.get("runs")["runs"]
    assert [(row["name"], row["value"]) for row in rows] == [("one", None), ("two", None), ("evaluation", 0.5)]
    assert rows[2]["metrics"]["intervals"]["summary"]["AP"] == rows[2]["interval"] == [0.4, 0.6]
    assert (rows[0]["metrics"], rows[0]["recipe"]) == (None, "demo")
    twice = Client(data, folder / "one", folder).get("runs")["runs"]
    assert len(twice) == len({row["name"] for row in twice}) == 2


def test_objects_are_found_by_class_and_box() -> None:
    """Within 0.02 px, also across the border of a pixel."""
    objects = [
        {"id": 0, "class": "cat", "box": [10.0, 20.0, 30.0, 40.0]},
        {"id": 1, "class": None, "box": [0, 0, 1, 1]},
    ]
    index = ObjectIndex(objects)
    assert index.find([9.99, 20.01, 30.01, 39.99], "cat") is objects[0]
    assert index.find([0.01, -0.01, 1, 1], None) is objects[1]
    for box, name in (([9.97, 20, 30, 40], "cat"), ([10, 20, 30, 41], "cat"), ([10, 20, 30, 40], "dog")):
        assert index.find(box, name) is None
    assert index.find([float("nan"), 20, 30, 40], "cat") is None


def finding(number: int, **changes: Any) -> dict[str, Any]:
    row = {
        "id": number, "kind": "class", "image": "images/val/d.png", "split": "val", "box": [100, 50, 250, 150],
        "class": "cat", "suggested_class": EVIL, "suggested_box": None, "score": 0.5, "object": 1,
    }  # fmt: skip
    return row | changes


def audit(file: Path, *findings: Any) -> Path:
    file.write_text(json.dumps({"format": "boxwright audit 1", "data": "set", "findings": list(findings)}))
    return file


def test_findings_and_their_states(data: Path, tmp_path: Path) -> None:
    missing = {"kind": "missing", "box": None, "class": None, "suggested_box": [1, 2, 3, 4], "object": None}
    file = audit(
        tmp_path / "audit.json",
        finding(0),
        finding(1, image="images/train/a.png", split="train", score=0.9, **missing),
        finding(2, image="images/val/a.png", score=0.7, **missing),
        finding(3, image="images/val/vanished.png"),
    )
    client = Client(data, audit=file)
    described = client.get("set")
    assert described["audit"] == {"file": str(file), "findings": 4, "kinds": {"class": 2, "missing": 2}}
    assert "1 of 4 findings are of images not in this set" in described["message"]
    assert ids(client, finding="any") == [0, 3, 4], "the highest score first"
    assert ids(client, finding="missing") == [0, 3]
    assert ids(client, finding="missing", split="val") == [3]
    (found,) = client.get("images/4")["findings"]
    assert found == {
        "id": 0, "kind": "class", "box": [100, 50, 250, 150], "class": "cat", "suggested_class": EVIL,
        "suggested_box": None, "score": 0.5, "state": "open", "object": 0,
    }  # fmt: skip
    answer = client.post("findings/1", {"state": "dismissed"})
    assert (answer.status, answer.json["state"]) == (200, "dismissed")
    assert client.post("findings/0", {"state": "accepted"}).status == 200
    assert ids(client, finding="any") == [3], "open ones"
    assert json.loads(file.read_text())["findings"][0] == finding(0), "the audit is not changed"
    again = Client(data, audit=file)
    assert again.get("images/4")["findings"][0]["state"] == "accepted"
    assert again.post("findings/1", {"state": "open"}).status == 200
    assert ids(again, finding="any") == [0, 3]
    for number, state in ((9, "open"), (0, "maybe"), (0, None), (0, ["open"])):
        assert again.post(f"findings/{number}", {"state": state}).status == 400


def test_states_are_kept_for_equal_findings_of_a_new_audit(data: Path, tmp_path: Path) -> None:
    """The numbers of findings are their ranks, which change."""
    rows = [finding(0), finding(1, image="images/train/a.png", split="train")]
    file = audit(tmp_path / "audit.json", *rows)
    client = Client(data, audit=file)
    assert client.post("findings/1", {"state": "dismissed"}).status == 200
    assert ids(client, finding="any") == [4]
    audit(file, rows[1] | {"id": 0, "score": 0.9}, rows[0] | {"id": 1}, finding(2, box=[1, 2, 3, 4]))
    again = Client(data, audit=file)
    assert [again.state.audit.state(number) for number in range(3)] == ["dismissed", "open", "open"]
    assert ids(again, finding="any") == [4]


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        '{"format": "other", "findings": []}',
        '{"format": "boxwright audit 1", "findings": 3}',
        '{"format": "boxwright audit 1", "findings": [3]}',
        json.dumps({"format": "boxwright audit 1", "findings": [finding(0, kind="odd")]}),
        json.dumps({"format": "boxwright audit 1", "findings": [finding(0, box=[1, 2, 3])]}),
        json.dumps({"format": "boxwright audit 1", "findings": [finding(0, image=None)]}),
        json.dumps({"format": "boxwright audit 1", "findings": [finding(0, score="high")]}),
        json.dumps({"format": "boxwright audit 1", "findings": [finding(0, score=10**400)]}),
        json.dumps({"format": "boxwright audit 1", "findings": [finding(0), finding(0)]}),
    ],
)
def test_invalid_audit_files_are_rejected(data: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "audit.json").write_text(content)
    with pytest.raises(InputError, match=r"audit\.json: "):
        Client(data, audit=tmp_path / "audit.json")


def test_invalid_state_files_are_rejected(data: Path, tmp_path: Path) -> None:
    file = audit(tmp_path / "audit.json", finding(0))
    states = '{"format": "boxwright audit states 2", "states": %s}'
    for content in ("[]", states % '{"a": "open"}', states % "[3]", states % '[{"state": ["open"]}]', "{"):
        (tmp_path / "audit.states.json").write_text(content)
        with pytest.raises(InputError, match=r"audit\.states\.json: "):
            Client(data, audit=file)


def test_invalid_sets_and_runs_are_rejected(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        Client(data, tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="found neither a run nor"):
        Client(data, tmp_path / "empty")
    with pytest.raises(InputError, match="no split 'test'"):
        Client(data, only="test")
    for name in ("cat", "dog"):
        (tmp_path / "classes" / "train" / name).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "classes" / "train" / name / "a.png"), pixels())
    with pytest.raises(InputError, match="images with one class each, needed boxes"):
        Client(tmp_path / "classes")
    assert len(Client(data, only="val").get("images")["images"]) == 2


def test_split_that_cannot_be_opened_is_reported(data: Path, tmp_path: Path) -> None:
    write_set(tmp_path / "set")
    (tmp_path / "set" / "images" / "test").mkdir()
    (tmp_path / "set" / "labels" / "test").mkdir()
    client = Client(tmp_path / "set")
    described = client.get("set")
    assert [split["images"] for split in described["splits"]] == [3, 2, 0]
    assert "split test: " in described["message"]
    assert "holds no image" in described["message"]
    assert len(client.get("images")["images"]) == 5


@pytest.mark.slow
def test_yaml_file_in_the_folder_names_the_splits(tmp_path: Path) -> None:
    """As for the other commands: its folders are not splits."""
    for kind, suffix in (("images", "png"), ("labels", "txt")):
        for year in ("2025", "2026"):
            (tmp_path / kind / year).mkdir(parents=True)
            file = tmp_path / kind / year / f"a.{suffix}"
            cv2.imwrite(str(file), pixels()) if kind == "images" else file.write_text("0 0.5 0.5 0.1 0.1\n")
    (tmp_path / "data.yaml").write_text("train: [images/2025, images/2026]\nval: images/2026\nnames: [cat]\n")
    found = Client(tmp_path).get("set")
    assert [(split["name"], split["images"]) for split in found["splits"]] == [("train", 2), ("val", 1)]


def test_look_command(data: Path, tmp_path: Path) -> None:
    """The address is printed when the server listens, nothing else is, and Ctrl-C ends it."""
    command = [sys.executable, "-W", "error", "-m", "boxwright", "look", str(data), "--split", "val"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    before = sorted(data.rglob("*"))
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path
    )
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    host, _, rest = address.removeprefix("http://").partition("/")
    assert host.startswith("127.0.0.1:"), address
    assert len(rest) > 20
    connection = http.client.HTTPConnection(host, timeout=60)
    for path, status in ((f"/{rest}api/set", 200), (f"/{rest}api/images/0/thumbnail", 200), ("/api/set", 403)):
        connection.request("GET", path)
        response = connection.getresponse()
        assert response.status == status
        response.read()
    connection.close()
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (0, "", "")
    assert sorted(data.rglob("*")) == before, "nothing is written"


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that were to start ends at once."""
    monkeypatch.setattr("boxwright.look.run.asyncio.run", lambda work: work.close())


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nothing"], "nothing: there is no such folder"),
        (["{data}", "nothing"], "nothing: no such folder"),
        (["{data}", "--audit", "nothing.json"], "nothing.json: cannot be read"),
        (["{data}", "--split", "odd"], "no split 'odd'"),
        (["{data}", "--port", "70000"], "'--port'"),
        ([], "Missing argument"),
    ],
)
def test_invalid_arguments_are_an_error(
    arguments: list[str], line: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], stopped: None,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as leaving:
        cli.main(["look", *(each.format(data=data) for each in arguments)])
    assert leaving.value.code == 2
    (found,) = capsys.readouterr().err.splitlines()
    assert line in found


@pytest.mark.slow
def test_help_imports_neither_torch_nor_the_server() -> None:
    code = (
        "import sys\nfrom boxwright import cli\ntry:\n    cli.main(['look', '--help'])\n"
        "except SystemExit as leaving:\n    assert not leaving.code\n"
        "print(sorted({'torch', 'fastapi', 'uvicorn'} & set(sys.modules)), file=sys.stderr)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.slow
def test_server_starts_without_torch() -> None:
    """Which takes seconds to import, and is not needed to show images."""
    code = "import sys\nimport boxwright.look.run\nimport boxwright.look.editors.coco\nprint('torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "False"
