"""The queue of a model: batches of several requests, faulty images among them, timeouts, and closing."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from boxwright.errors import InputError
from boxwright.images.draw import encode_image
from boxwright.serve import batcher as batching
from boxwright.serve.batcher import Answer, Batcher, BusyError, Limits, PredictionError, TooLargeError
from boxwright.serve.metrics import Histogram, Metrics, ModelMetrics
from boxwright.serve.models import Model, named_paths
from boxwright.serve.request_error import RequestError
from stand_in import Rectangles, rectangles_predictor, scene

PATIENCE = 60
RED, BLUE = scene(64, 64, [(10, 20, 30, 40)], [0]), scene(64, 64, [(1, 2, 33, 44)], [2])


class PausedNetwork:
    """A network that sets `entered` and waits for `go`, and records the `sizes` of its batches."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go, self.entered, self.sizes = threading.Event(), threading.Event(), []
        forward = Rectangles.forward

        def wait(model, images):
            self.sizes.append(len(images))
            self.entered.set()
            assert self.go.wait(PATIENCE)
            return forward(model, images)

        monkeypatch.setattr(Rectangles, "forward", wait)


@pytest.fixture
def paused(monkeypatch: pytest.MonkeyPatch) -> PausedNetwork:
    monkeypatch.setattr(batching, "batch_size", lambda predictor, max_batch: max_batch)  # 1 in PyTorch on a CPU
    return PausedNetwork(monkeypatch)


@pytest.fixture
def batcher(paused: PausedNetwork) -> Iterator[Batcher]:
    found = Batcher(rectangles_predictor(), Limits(4, 0.001, 6, 10_000), ModelMetrics())
    yield found
    paused.go.set()
    found.close()


def submit(batcher: Batcher, *images: object, threshold: float | None = None) -> "list[Future[Answer]]":
    return batcher.submit(images, batcher.predictor.args(threshold))


def boxes(future: "Future[Answer]") -> list[list[float]]:
    return future.result(PATIENCE).result.boxes.tolist()


def test_requests_share_batches_and_keep_their_arguments(batcher: Batcher, paused: PausedNetwork) -> None:
    first = submit(batcher, RED)
    assert paused.entered.wait(PATIENCE)
    later = [*submit(batcher, BLUE), *submit(batcher, RED, threshold=0.95), *submit(batcher, RED, BLUE)]
    paused.go.set()
    assert boxes(first[0]) == [[10, 20, 30, 40]]
    assert list(map(boxes, later)) == [[[1, 2, 33, 44]], [], [[10, 20, 30, 40]], [[1, 2, 33, 44]]]
    assert paused.sizes == [1, 4]


def test_invalid_images_do_not_fail_their_batch(batcher: Batcher, paused: PausedNetwork) -> None:
    submit(batcher, RED)
    assert paused.entered.wait(PATIENCE)
    broken, float_, large, fine = submit(
        batcher, b"no image", np.zeros((8, 8, 3)), np.zeros((101, 100, 3), np.uint8), BLUE
    )
    paused.go.set()
    assert boxes(fine) == [[1, 2, 33, 44]]
    for future, line in ((broken, "not a readable image"), (float_, "found float64"), (large, "found 10100 px")):
        with pytest.raises(InputError, match=line):
            future.result(PATIENCE)
    assert isinstance(large.exception(), TooLargeError)
    assert paused.sizes == [1, 1]


@pytest.mark.parametrize("step", ["preprocess", "forward", "postprocess"])
def test_batcher_continues_after_an_exception(
    step: str, batcher: Batcher, paused: PausedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused.go.set()

    def fail(*args: object, **kwargs: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(batcher.predictor, step, fail)
        for future in submit(batcher, RED, BLUE):
            with pytest.raises(PredictionError, match="MemoryError"):
                future.result(PATIENCE)
    assert boxes(submit(batcher, RED)[0]) == [[10, 20, 30, 40]]


def test_full_queue_rejects_requests(batcher: Batcher, paused: PausedNetwork) -> None:
    taken = submit(batcher, RED)
    assert paused.entered.wait(PATIENCE)
    taken += submit(batcher, *[BLUE] * 6)
    assert len(batcher) == 6
    with pytest.raises(BusyError, match="try again in 1 s"):
        submit(batcher, RED)
    with pytest.raises(TooLargeError, match="found 7 images, needed at most 6"):
        batcher.check_room(7)
    paused.go.set()
    assert len([boxes(future) for future in taken]) == 7
    batcher.check_room(6)


def test_canceled_images_are_not_run(batcher: Batcher, paused: PausedNetwork) -> None:
    submit(batcher, RED)
    assert paused.entered.wait(PATIENCE)
    canceled, fine = submit(batcher, RED, BLUE)
    assert canceled.cancel()
    paused.go.set()
    assert boxes(fine) == [[1, 2, 33, 44]]
    assert paused.sizes == [1, 1]


def test_closing_finishes_requests_in_the_queue(batcher: Batcher, paused: PausedNetwork) -> None:
    futures = submit(batcher, *[RED] * 5)
    paused.go.set()
    batcher.close()
    assert all(future.done() for future in futures)
    assert [boxes(future) for future in futures] == [[[10, 20, 30, 40]]] * 5
    with pytest.raises(BusyError):
        submit(batcher, RED)


def test_request_timeout_is_status_504(paused: PausedNetwork) -> None:
    model = Model("shapes", rectangles_predictor(), Limits(4, 0.001, 6, 10_000), ModelMetrics())

    async def ask() -> None:
        with pytest.raises(RequestError, match="not answered in time") as rejected:
            await model.predict([RED, RED], model.args(), asyncio.get_running_loop().time() + 0.05)
        assert rejected.value.status == 504

    try:
        asyncio.run(ask())
    finally:
        paused.go.set()
        model.batcher.close()


def test_client_disconnect_removes_its_images_from_the_queue(paused: PausedNetwork) -> None:
    """They run nothing, and free their place in the queue."""
    for module in ("fastapi", "python_multipart"):
        pytest.importorskip(module, reason="needs the extra serve")
    from boxwright.serve.app import State, create_app
    from boxwright.serve.bodies import Bodies

    model = Model("shapes", rectangles_predictor(), Limits(1, 0.001, 6, 10_000), ModelMetrics())
    model.ready = True
    app = create_app(State({"shapes": model}, Metrics(["shapes"]), Bodies(100_000), PATIENCE))
    content = encode_image(RED, ".png")
    running = model.batcher.submit([BLUE], model.args())
    assert paused.entered.wait(PATIENCE)
    statuses: list[int] = []

    async def ask() -> None:
        left = [{"type": "http.request", "body": content, "more_body": False}]

        async def receive() -> Any:
            if left:
                return left.pop()
            while not len(model.batcher):
                await asyncio.sleep(0.001)
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            statuses.extend([message["status"]] if "status" in message else [])

        scope = {
            "type": "http", "method": "POST", "path": "/predict", "query_string": b"", "headers": [],
        }  # fmt: skip
        await asyncio.wait_for(app(scope, receive, send), PATIENCE)
        assert len(model.batcher) == 0

    try:
        asyncio.run(ask())
    finally:
        paused.go.set()
        model.batcher.close()
    assert statuses == [400]
    assert boxes(running[0]) == [[1, 2, 33, 44]]
    assert paused.sizes == [1]


def test_pytorch_on_a_cpu_runs_one_image_at_a_time() -> None:
    """Its kernels for several images differ in the last bits."""
    assert batching.batch_size(rectangles_predictor(), 8) == 1


def test_histogram_lines() -> None:
    histogram = Histogram((1, 2.5))
    for value in (0.5, 1, 2, 3):
        histogram.observe(value)
    assert histogram.lines("x", 'm="a"') == [
        'x_bucket{m="a",le="1"} 2', 'x_bucket{m="a",le="2.5"} 3', 'x_bucket{m="a",le="+Inf"} 4',
        'x_sum{m="a"} 6.5', 'x_count{m="a"} 4',
    ]  # fmt: skip


def test_model_names_from_paths(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine" / "best").mkdir(parents=True)
    (tmp_path / "odd=name.xml").touch()
    assert named_paths(["a.xml", "b=x/a.xml", "runs/mine/best"]) == {
        "a": "a.xml", "b": "x/a.xml", "mine": "runs/mine/best",
    }  # fmt: skip
    for wrong, line in (
        (["a.xml", "x/a.onnx"], "'a' is taken by a.xml; say another by NAME=x/a.onnx"),
        (["odd=name.xml"], "found the model name 'odd=name'"),
        (["a/b=x.xml"], "found the model name 'a/b'"),
        (["=x.xml"], "found the model name ''"),
    ):
        with pytest.raises(InputError, match=line):
            named_paths(wrong)
