"""`boxwright predict` over a folder of images, end to end, against the bare network in the same backend.

    python benchmarks/bench_predict.py [--weights FILE] [--recipe NAME] [--images DIR] [--count 200] [--rounds 5]
                                       [--runtimes torch onnxruntime openvino] [--device cpu]

End to end: files in, detections.json out (no drawing), with decoding, resizing, suppression and writing. Bare: the
network alone on the same canvases, ready in memory, in batches of the recipe's size, both ways that a backend has: a
plain loop in which all cores look at one batch, and with the cores shared out, the next batches waiting. All in turns;
medians. By default YOLOv3-tiny and YOLOv3 at 416 with random weights, which find next to nothing, on made images of
640 x 480 px as JPEG. Every runtime that is installed is measured.
"""

import argparse
import importlib.util
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from boxwright import __version__, models, recipe, runtimes
from boxwright.export import run
from boxwright.memory import tune_malloc
from boxwright.predict import output, stream
from boxwright.predict.pipeline import CanvasPipeline
from boxwright.predict.predictor import Predictor, load
from boxwright.recipe import Recipe
from boxwright.runtimes.base.graph import raw_graph
from boxwright.runtimes.base.metadata import Metadata
from boxwright.runtimes.base.runtime import RuntimeOptions
from boxwright.weights import checkpoint

RECIPES = ("yolov3_tiny_coco_416_darknet", "yolov3_coco_416_darknet")
RUNTIMES = ("torch", "onnxruntime", "openvino")


def in_turns(rounds: int, *tasks: Callable[[], object]) -> list[list[float]]:
    """Seconds of each; one after the other in every round, so that a busy moment touches all."""
    times: list[list[float]] = [[] for _ in tasks]
    for _ in range(rounds):
        for task, seconds in zip(tasks, times, strict=True):
            begin = time.perf_counter()
            task()
            seconds.append(time.perf_counter() - begin)
    return times


def write_images(folder: Path, count: int) -> None:
    """Blurred noise at several scales: JPEGs of some 140 KB, as photographs of this size are."""
    draw = np.random.default_rng(0)
    for index in range(count):
        layers = [cv2.resize(draw.normal(0, 40, (480 // k, 640 // k, 3)), (640, 480)) for k in (4, 16, 80)]
        cv2.imwrite(str(folder / f"{index:04d}.jpg"), np.clip(sum(layers) + 128, 0, 255).astype(np.uint8))


def random_weights(chosen: Recipe, file: Path) -> None:
    torch.manual_seed(0)
    checkpoint.save(file, models.build(chosen.model), chosen)


def write_for(runtime: str, weights: str, name: str, file: Path) -> None:
    """An exported file, not compared with PyTorch as by `boxwright export`: Faster R-CNN with random weights would not
    pass, for its proposals are all as good as each other, and rounding chooses among them."""
    model, chosen = run.network(weights, name, (), None)
    graph = raw_graph(model, chosen)
    card = Metadata(chosen, "raw", "float32", graph.outputs, "not compared", __version__)
    target = runtimes.target("onnx" if runtime == "onnxruntime" else runtime)
    target.write["float32"](graph, file, card.to_text())


def measure(alone: Predictor[Any], loaded: Predictor[Any], images: Path, out: Path, rounds: int, count: int) -> None:
    """alone: the same network as `loaded`, with all cores at one batch."""
    batch = loaded.recipe.predict.batch
    files = sorted(images.iterdir())[:count]
    placed = [loaded.preprocess(file) for file in files]
    groups = [placed[start : start + batch] for start in range(0, len(placed), batch)]
    assert isinstance(loaded.pipeline, CanvasPipeline)
    inputs = [loaded.pipeline.inputs(group) for group in groups]

    def done() -> None:
        if loaded.device.type != "cpu":
            torch.accelerator.synchronize()

    def loop(groups: int = len(inputs)) -> None:
        for one in inputs[:groups]:
            alone.runtime.forward(*one)  # type: ignore[union-attr]
        done()

    def shared(groups: int = len(inputs)) -> None:
        with ThreadPoolExecutor(stream.BATCHES) as pool:
            for _ in pool.map(lambda one: loaded.runtime.forward(*one), inputs[:groups]):  # type: ignore[union-attr]
                pass
        done()

    def end_to_end(count: int = len(files)) -> None:
        output.predict_to_folder(loaded, files[:count], out, draw=False)

    for warm_up in (loop, shared, lambda _: end_to_end(batch)):
        warm_up(1)
    *bare, end = in_turns(rounds, loop, shared, end_to_end)
    print(f"{loaded.recipe.name} {loaded.runtime.name}, batch {batch}, {len(files)} images:", end=" ")  # type: ignore[union-attr]
    print(f"end to end {statistics.median(end):.2f} s", end="")
    for what, seconds in zip(("loop", "shared cores"), bare, strict=True):
        ratios = sorted(e / b for e, b in zip(end, seconds, strict=True))
        print(f"; network, {what} {statistics.median(seconds):.2f} s", end="")
        print(f", ratio {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})", end="")
    print(f"; {rounds} turns; goal at most 1.15", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="in place of random ones")
    parser.add_argument("--recipe", help="of random weights, or of weights that do not carry their own")
    parser.add_argument("--images", help="a folder, in place of made ones")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=RUNTIMES)
    parser.add_argument("--device", default="cpu", help="another one with torch only")
    words = parser.parse_args()
    tune_malloc()  # as the command line does
    print(f"{date.today()}  torch {torch.__version__}, Python {platform.python_version()}", end="  ")
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads", end="")
    print(f", {torch.cuda.get_device_name(words.device)}" if words.device.startswith("cuda") else "")
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        images = Path(words.images) if words.images else root / "images"
        if not words.images:
            images.mkdir()
            write_images(images, words.count)
        for name in [words.recipe] if words.weights or words.recipe else RECIPES:
            weights = words.weights or str(root / "random.safetensors")
            if not words.weights:
                random_weights(recipe.load(name), Path(weights))
            for runtime in words.runtimes:
                if importlib.util.find_spec(runtime) is None:
                    continue
                source = weights
                if runtime != "torch":
                    source = str(root / ("model.onnx" if runtime == "onnxruntime" else "model.xml"))
                    write_for(runtime, weights, name, Path(source))
                given = name if runtime == "torch" else None
                alone = load(source, given, words.device, backend=runtime)
                running = RuntimeOptions(alone.recipe.predict.batch, fuse=True)
                loaded = load(source, given, words.device, backend=runtime, runtime_options=running)
                measure(alone, loaded, images, root / "out", words.rounds, words.count)


if __name__ == "__main__":
    main()
