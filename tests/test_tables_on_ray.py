"""A table made by Ray: a worker is killed, and the rows are those of a plain run."""

import importlib.util
import socket
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

import boxwright as bw
from boxwright.errors import InputError
from boxwright.predict.predictor import AnyPredictor
from random_detector import write_images, write_small_images, write_weights

pa = pytest.importorskip("pyarrow", reason="needs the extra parquet")
pq = pytest.importorskip("pyarrow.parquet")
if importlib.util.find_spec("ray") is None:
    pytest.skip("needs the extra ray", allow_module_level=True)

from boxwright.tables.on_ray import ATTEMPTS, _Actor, _Attempts, check_address, predict_on_ray  # noqa: E402 (it is an InputError without pyarrow)
from boxwright.tables.predict import predict_table  # noqa: E402
from boxwright.tables.rows import Source, to_block  # noqa: E402
from boxwright.tables.run import settings_of  # noqa: E402

IMAGES = 2
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's, of its own settings


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_small_images(tmp_path / "images", IMAGES)


@pytest.fixture
def predictor(tmp_path: Path) -> AnyPredictor:
    weights = write_weights(tmp_path / "w.safetensors", write_images(tmp_path / "others"))
    return bw.load(weights, device="cpu", overrides={"predict.threshold": 0.005})


def test_image_that_kills_every_actor_is_an_error(
    images: Path, predictor: AnyPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray itself would try for ever. Without Ray: what is counted is that a block begins."""
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get=lambda value: value))
    counts = _Attempts()
    actor = _Actor.__new__(_Actor)
    actor.predictor, actor.settings = predictor, settings_of(predictor)
    actor.attempts = SimpleNamespace(begin=SimpleNamespace(remote=counts.begin))
    monkeypatch.chdir(images)
    one, other = (to_block([Source.of(name)]) for name in ("000.png", "broken.png"))
    monkeypatch.chdir("/")  # of another machine
    assert actor(one)["error"][0].as_py() is None
    for _ in range(ATTEMPTS):
        assert actor(other)["image"].to_pylist() == ["broken.png"]
    with pytest.raises(InputError, match=r"^broken\.png: 4 processes died on it"):
        actor(other)
    assert actor(one)["error"][0].as_py() is None


def test_ray_addresses_are_validated() -> None:
    for address in ("local", "auto", "10.0.0.1:6379", "head:6379", "[::1]:6379"):
        assert check_address(address) == address
    for address in ("", "photos/", "a.jpg", "ray://head:10001", "http://head:8265", "local\x1b"):
        with pytest.raises(InputError, match="needed local, auto, or HOST:PORT"):
            check_address(address)


def test_unreachable_cluster_is_an_error(images: Path, predictor: AnyPredictor, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(InputError, match=f"--ray: no Ray cluster at {address}"):
        predict_table(predictor, [images], tmp_path / "out", rows=partial(predict_on_ray, address=address))
    assert list((tmp_path / "out").glob("*.parquet")) == []
