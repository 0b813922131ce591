"""Fixtures that several test files share."""

import gc
import importlib.util
import json
import logging
import os
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from urllib.parse import quote

os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # as on the command line; read when OpenCV is imported

import cv2
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # all that Triton can do here; read when it is imported

import object_store
import torchvision_on_cpu
from boxwright import interrupt
from boxwright.cache import VARIABLE
from boxwright.cli.output import log_to_stderr
from boxwright.extras import silence_telemetry
from boxwright.memory import tune_malloc
from boxwright.ops import kernels
from boxwright.runtimes import openvino
from boxwright.weights import names
from object_store import Store
from short import make_networks_short

silence_telemetry()  # of what tests import by themselves
tune_malloc()  # as the command line does
if openvino.ISA_LIMIT in os.environ and importlib.util.find_spec("openvino"):
    openvino.core()  # before NNCF and tests that make cores of their own; it says why
torchvision_on_cpu.load()
BLANK = cv2.imencode(".png", np.full((8, 8, 3), 255, np.uint8))[1].tobytes()
SAVEFIG = Figure.savefig
PALETTE = ((220, 60, 40), (40, 90, 220))  # BGR, one a class


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that the processes end at the same time; each in one piece, for its fixtures."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Garbage is collected among what tests make, which is a lot of small objects in exports, not among all imports."""
    gc.freeze()
    gc.set_threshold(20_000)


@pytest.fixture(scope="session")
def tiny_coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO folder: 12 images to train on and 4 to validate, 96 x 96 px, 1 to 3 filled rectangles of two classes."""
    root = tmp_path_factory.mktemp("tiny_coco")
    (root / "annotations").mkdir()
    draw = np.random.default_rng(5)
    for split, count in (("train", 12), ("val", 4)):
        (root / split).mkdir()
        images, annotations = [], []
        for image_id in range(1, count + 1):
            image = draw.integers(90, 130, (96, 96, 3)).astype(np.uint8)
            for _ in range(draw.integers(1, 4)):
                label, (w, h) = int(draw.integers(2)), draw.integers(16, 40, 2).tolist()
                x, y = int(draw.integers(0, 96 - w)), int(draw.integers(0, 96 - h))
                image[y : y + h, x : x + w] = PALETTE[label]
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": image_id, "category_id": (3, 7)[label],
                     "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
                )  # fmt: skip
            cv2.imwrite(str(root / split / f"{image_id}.png"), image)
            images.append({"id": image_id, "file_name": f"{image_id}.png", "height": 96, "width": 96})
        categories = [{"id": 3, "name": "blue"}, {"id": 7, "name": "red"}]
        labels = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"{split}.json").write_text(json.dumps(labels))
    return root


@pytest.fixture(scope="session")
def torchvision_ops() -> ModuleType:
    """torchvision.ops"""
    ops = kernels.torchvision_ops()
    if ops is None:
        pytest.skip("torchvision cannot be imported here: it is absent, or its CUDA libraries are, or cc and nm")
    return ops


@pytest.fixture(autouse=True)
def logged_to_stderr() -> None:
    """Log to stderr as the command line does, so that tests can capture it."""
    log_to_stderr()


@pytest.fixture(scope="session", autouse=True)
def blank_figures() -> Iterator[None]:
    """Disable drawing, which takes half of the time of a short training, unless a test uses `figures`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda _, file, **__: Path(file).write_bytes(BLANK))
        yield


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matplotlib draws."""
    monkeypatch.setattr(Figure, "savefig", SAVEFIG)


@pytest.fixture(scope="session", autouse=True)
def no_flushing() -> Iterator[None]:
    """No test ends with the machine, so nothing has to reach the disk, which takes milliseconds for each file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(autouse=True)
def no_signal_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the command line would stay: later tests would fork processes that SIGTERM does not end."""
    monkeypatch.delattr(interrupt, "install")  # which `cli.main` calls unless it is given arguments


@pytest.fixture
def log() -> Iterator[list[str]]:
    """The lines that the package logs. Not by `caplog`, since the command line's log does not reach the root logger."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("boxwright").addHandler(handler)
    yield lines
    logging.getLogger("boxwright").removeHandler(handler)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the cache folder to a temporary one, so that the user's is not changed."""
    monkeypatch.setenv(VARIABLE, str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Store]:
    """An S3 server on loopback; see `store`."""
    pytest.importorskip("obstore")
    pytest.importorskip("moto")
    with object_store.running() as started:
        yield started


@pytest.fixture
def store(s3_server: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The S3 server with an empty `s3://bucket`, calm, named by the environment, and a cache that is empty."""
    from boxwright.remote import folders, overlap, stores

    for name in list(os.environ):
        if name.startswith(("AWS_", "OBS_", "GOOGLE_", "AZURE_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", object_store.KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", object_store.SECRET)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.url)
    monkeypatch.setenv("BOXWRIGHT_CACHE_SIZE", "1GB")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(stores, "_stores", {})
    monkeypatch.setattr(overlap, "_read", set())
    folders.forget()
    s3_server.calm()
    for key in s3_server.keys("bucket"):
        s3_server.call("DELETE", f"/bucket/{quote(key)}")
    s3_server.call("PUT", "/bucket")
    yield s3_server
    s3_server.calm()


# Tables of names count the blocks of a network once, on import: before a test makes networks short.
for module in pkgutil.iter_modules(names.__path__, f"{names.__name__}."):
    importlib.import_module(module.name)


@pytest.fixture
def short_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    make_networks_short(monkeypatch)
