"""Responses of the server are bit-identical to `boxwright predict`, whatever else is in their batch."""

import asyncio
import importlib.util
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boxwright import cli, runtimes
from boxwright.errors import InputError
from boxwright.export.run import export_model, load_for_export
from boxwright.predict.predictor import load
from boxwright.runtimes.base.graph import raw_graph
from boxwright.runtimes.base.metadata import Metadata
from boxwright.serve.batcher import Limits
from boxwright.serve.metrics import ModelMetrics
from boxwright.serve.models import Model, load_for_serving
from random_detector import images, weights
from serve_stand_in import running
from test_serve import ask, metrics

for module in ("fastapi", "uvicorn", "python_multipart"):
    pytest.importorskip(module, reason="needs the extra serve")

__all__ = ["images", "weights"]  # fixtures
REPEATS = 5  # of each image, at the same time
THRESHOLD = 0.01  # with which boxes are found in all images
needs_runtimes = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnxscript", "onnxruntime", "openvino")),
    reason="needs the extras onnx and openvino",
)


@pytest.fixture(scope="module")
def onnx_file(weights: Path) -> Path:
    """Raw, of dynamic batch, not compared with PyTorch."""
    model, recipe = load_for_export(weights, None, (), None)
    graph, file = raw_graph(model, recipe, dynamic_batch=True), weights.with_suffix(".onnx")
    card = Metadata(recipe, "raw", "float32", graph.outputs, "not compared", "0")
    runtimes.target("onnx").write["float32"](graph, file, card.to_text())
    return file


def rows_of_predict(weights: Path, image: Path, out: Path) -> Any:
    """What the command line writes for one image."""
    with pytest.raises(SystemExit) as leaving:
        cli.main(["predict", str(weights), str(image), "--out", str(out), "--no-draw", "--threshold", str(THRESHOLD)])
    assert not leaving.value.code
    (row,) = json.loads((out / "detections.json").read_text())["images"]
    return row["detections"]


@pytest.mark.slow
def test_responses_equal_the_predict_command(weights: Path, images: list[Path], tmp_path: Path) -> None:
    wanted = [rows_of_predict(weights, image, tmp_path / image.stem) for image in images]
    assert all(wanted)
    assert len({json.dumps(rows) for rows in wanted}) == len(images), "answers depend on the image"
    command = ["-m", "boxwright", "serve", str(weights), f"again={weights}", "--port", "0", "--device", "cpu"]
    with running([sys.executable, *command]) as server, ThreadPoolExecutor(8) as pool:
        jobs = [(image, name) for image in images for name in ("det", "again")] * 2

        def one(job: tuple[Path, str]) -> Any:
            status, answer, _ = ask(
                server, "POST", f"/predict?model={job[1]}&threshold={THRESHOLD}", job[0].read_bytes()
            )
            assert (status, answer["model"]) == (200, job[1])
            return answer["detections"]

        for (image, _), found in zip(jobs, pool.map(one, jobs), strict=True):
            assert found == wanted[images.index(image)], "to the last bit"
        status, answer, _ = ask(server, "POST", "/predict", images[0].read_bytes())
        assert (status, answer["error"]) == (400, "model: several are served; name one by ?model=, of det, again")
        found = metrics(server)
    for name in ("det", "again"):
        assert found[f'boxwright_requests_total{{model="{name}",status="200"}}'] == 8
    assert found['boxwright_requests_total{model="",status="400"}'] == 1


@pytest.mark.runtimes
@needs_runtimes
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_batched_responses_equal_single_predictions(backend: str, onnx_file: Path, images: list[Path]) -> None:
    """All at once, in batches of several images and in streams."""
    alone = load(onnx_file, device="cpu", backend=backend)
    wanted = [alone(image, THRESHOLD) for image in images]
    assert all(len(result) for result in wanted)
    predictor = load_for_serving(str(onnx_file), None, "cpu", (), backend, 8)
    measured = ModelMetrics()
    model = Model("det", predictor, Limits(max_batch=8, max_wait=0.05), measured)
    assert model.batcher.batch > 1
    contents = [image.read_bytes() for image in images] * REPEATS

    async def ask_all() -> Any:
        return await model.predict(contents, model.args(THRESHOLD), asyncio.get_running_loop().time() + 60)

    try:
        answers = asyncio.run(ask_all())
    finally:
        model.batcher.close()
    for answer, result in zip(answers, wanted * REPEATS, strict=True):
        for name in ("boxes", "scores", "labels"):
            assert np.array_equal(getattr(answer.result, name).numpy(), getattr(result, name).numpy())
    assert measured.batch_images.lines("x", "m")[0].endswith(" 0"), "no batch of one"


def test_invalid_triton_model_name_is_an_error(tmp_path: Path) -> None:
    """It would end the text of the configuration."""
    with pytest.raises(InputError, match="found the model name 'my \"run', needed letters, digits"):
        export_model(tmp_path / 'my "run.safetensors', "triton", tmp_path / "models")
    assert not (tmp_path / "models").exists()


@pytest.mark.runtimes
@needs_runtimes
def test_triton_model_repository(weights: Path, images: list[Path], tmp_path: Path) -> None:
    """The configuration is valid by Triton's definition, and matches the file."""
    pytest.importorskip("tritonclient.grpc", reason="needs tritonclient and grpcio")
    import onnxruntime
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    from boxwright.export import triton

    report = export_model(weights, "triton", tmp_path / "models", batch=4)
    folder = tmp_path / "models" / "det"
    assert report.file == folder / "1" / "model.onnx"
    config = text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    assert (config.name, config.backend, config.max_batch_size) == ("det", "onnxruntime", 4)
    assert config.HasField("dynamic_batching")
    session = onnxruntime.InferenceSession(report.file, providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(0).integers(0, 256, (3, 50, 70, 3)).astype(np.uint8)
    outputs = dict(zip([value.name for value in config.output], session.run(None, {"images": pixels}), strict=True))
    ((name, dims),) = ((value.name, list(value.dims)) for value in config.input)
    assert (name, dims, config.input[0].data_type) == ("images", [-1, -1, 3], model_config_pb2.TYPE_UINT8)
    types = {"float32": model_config_pb2.TYPE_FP32, "int64": model_config_pb2.TYPE_INT64}
    for value in config.output:
        assert outputs[value.name].shape == (3, *value.dims)
        assert value.data_type == types[outputs[value.name].dtype.name]
    with pytest.raises(InputError, match="det: is there already"):
        export_model(weights, "triton", tmp_path / "models")
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["det"]
    assert "max_batch_size: 1\n" in triton.config("det", report.file, 1)
    with pytest.raises(InputError):
        export_model(weights, "triton", tmp_path / "none", size=(33, 33))
    assert not (tmp_path / "none").exists()
