"""Predictors in several threads, pickled, and in other processes."""

import copy
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import boxwright as bw
from boxwright import models, recipe
from boxwright.predict import output
from boxwright.predict.predictor import Predictor
from boxwright.runtimes.base.runtime import RuntimeOptions
from boxwright.runtimes.base.torch_runtime import TorchRuntime
from boxwright.weights import checkpoint

pytestmark = pytest.mark.slow

SMALL = {"model.width": 0.03, "data.canvas.size": [64, 64], "predict.threshold": 0.0, "predict.nms.max_detections": 20}
IMAGES = [np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8) for seed in range(4)]


def network() -> tuple[torch.nn.Module, recipe.Recipe]:
    small = recipe.load("demo", SMALL)
    torch.manual_seed(0)
    return models.build(small.model), small


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    model, small = network()
    checkpoint.save(tmp_path / "w.safetensors", model, small)
    return tmp_path / "w.safetensors"


def is_equal(a: bw.Detections, b: bw.Detections) -> bool:
    return len(a) > 0 and torch.allclose(a.boxes, b.boxes, atol=1e-3) and a.names == b.names


def test_predictor_in_train_mode_is_thread_safe() -> None:
    model, small = network()
    model.train()
    next(model.children()).eval()  # frozen, say
    modes = [module.training for module in model.modules()]
    predictor = Predictor(model, small)
    alone = [predictor(image) for image in IMAGES]

    def ask(turn: int) -> bool:
        return all(is_equal(predictor(image), expected) for image, expected in zip(IMAGES, alone, strict=True))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(24)))
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize("way", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_copied_and_pickled_predictors_predict_equally(way, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(weights.parent)
    changed = {"predict.nms.max_detections": 7}
    loaded = bw.load("w.safetensors", overrides=changed, runtime_options=RuntimeOptions(2))
    model, small = network()
    around = Predictor(model, small)
    monkeypatch.chdir("/")
    for predictor in (loaded, around):
        twin = way(predictor)
        assert is_equal(twin(IMAGES[0]), predictor(IMAGES[0]))
        assert twin.recipe == predictor.recipe
    assert len(way(loaded)(IMAGES[0])) == 7


def test_predictor_with_a_custom_runtime_cannot_be_pickled() -> None:
    model, small = network()
    predictor = Predictor(model.eval(), small, runtime=TorchRuntime(model.eval(), RuntimeOptions()))
    with pytest.raises(TypeError, match="create it with boxwright"):
        pickle.dumps(predictor)


# Two threads, so that a forked process waits for one that it has not.
ELSEWHERE = """
import multiprocessing, os, pickle, signal, sys
import numpy as np
import boxwright as bw

if __name__ == "__main__":
    import torch
    torch.set_num_threads(2)
    predictor, image = bw.load(sys.argv[1]), np.full((64, 64, 3), 99, np.uint8)
    here = predictor(image)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.map_async(predictor, [image]).get(60)[0]
    assert len(here) and torch.allclose(here.boxes, there.boxes, atol=1e-3)
    sys.stdout.flush()
    streams = bw.load(sys.argv[1], runtime_options=bw.RuntimeOptions(batch_size=2))
    assert streams.runtime.streams == 2
    for predictor, threads in ((predictor, 2), (streams, 1), (bw.load(sys.argv[1]), 1)):
        if os.fork() == 0:
            signal.alarm(10)
            torch.set_num_threads(threads)  # a worker of a DataLoader has one
            try:
                assert len(predictor(image))
                print("predicted", flush=True)
            except RuntimeError as error:
                print(error, flush=True)
            os._exit(0)
        assert os.wait()[1] == 0
"""


def test_predictor_works_in_spawned_and_fails_in_forked_processes(weights: Path) -> None:
    script = weights.parent / "elsewhere.py"
    script.write_text(ELSEWHERE)
    done = subprocess.run([sys.executable, script, weights], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    several, streams, single = done.stdout.splitlines()
    assert several == streams
    assert several.startswith("this predictor was created before the process was forked")
    assert "spawn" in several
    assert single == "predicted"


def test_concurrent_checks_for_a_writable_folder(tmp_path: Path) -> None:
    (tmp_path / ".boxwright").symlink_to(tmp_path / "elsewhere")
    begin = threading.Barrier(8)

    def ask(_: int) -> None:
        begin.wait()
        for _ in range(200):
            output.make_writable(tmp_path)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))
    assert [path.name for path in tmp_path.iterdir()] == [".boxwright"]


def test_concurrent_predictions_into_one_folder(tmp_path: Path, weights: Path) -> None:
    """The later detections.json counts; neither fails."""
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), IMAGES[0])
    with ThreadPoolExecutor(2) as pool:
        predictor = bw.load(weights)
        done = [
            pool.submit(output.predict_to_folder, predictor, [tmp_path / f"{n}.png"], tmp_path / "out") for n in "ab"
        ]
        assert [each.result().failed for each in done] == [{}, {}]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.png", "b.png", "detections.json"}
