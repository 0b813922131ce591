"""`boxwright predict` over a folder of pictures, end to end, against the bare network in the same backend.

    python benchmarks/bench_predict.py [--weights FILE] [--recipe NAME] [--pictures DIR] [--count 200] [--rounds 5]
                                       [--runtimes torch onnxruntime openvino] [--device cpu]

End to end: files in, detections.json out (no drawing), with decoding, resizing, suppression and writing. Bare: the
network alone on the same canvases, ready in memory, in batches of the recipe's size, both ways that a backend has: a
plain loop in which all cores look at one batch, and with the cores shared out, the next batches waiting. All in turns;
medians. By default YOLOv3-tiny and YOLOv3 at 416 with random weights, which find next to nothing, on made pictures of
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

import cv2
import numpy as np
import torch

from boxwright import __version__, models, recipe, runtimes
from boxwright.export.run import network
from boxwright.memory import tune_malloc
from boxwright.predict import class_predictor, class_sinks, predictor, sinks
from boxwright.predict.class_predictor import ClassPredictor
from boxwright.predict.inputs import arguments, canvases_of, scaled
from boxwright.predict.predictor import Predictor
from boxwright.recipe import Recipe
from boxwright.runtimes.base.graph import raw_graph
from boxwright.runtimes.base.metadata import Metadata
from boxwright.runtimes.base.runtime import RuntimeOptions
from boxwright.weights import checkpoint

RECIPES = ("yolov3_tiny_coco_416_darknet", "yolov3_coco_416_darknet")
Looker = Predictor | ClassPredictor
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


def write_pictures(folder: Path, count: int) -> None:
    """Blurred noise at several scales: JPEGs of some 140 KB, as photographs of this size are."""
    draw = np.random.default_rng(0)
    for index in range(count):
        layers = [cv2.resize(draw.normal(0, 40, (480 // k, 640 // k, 3)), (640, 480)) for k in (4, 16, 80)]
        cv2.imwrite(str(folder / f"{index:04d}.jpg"), np.clip(sum(layers) + 128, 0, 255).astype(np.uint8))


def random_weights(chosen: Recipe, file: Path) -> None:
    torch.manual_seed(0)
    module = models.module(chosen.model.name)  # type: ignore[attr-defined]
    checkpoint.save(file, module.build(chosen.model), chosen)


def write_for(runtime: str, weights: str, name: str, file: Path) -> None:
    """An exported file, not compared with PyTorch as by `boxwright export`: Faster R-CNN with random weights would not
    pass, for its proposals are all as good as each other, and rounding chooses among them."""
    model, chosen = network(weights, name, (), None)
    graph = raw_graph(model, chosen)
    metadata = Metadata(chosen, "raw", "float32", graph.outputs, "not compared", __version__)
    target = runtimes.target("onnx" if runtime == "onnxruntime" else runtime)
    target.write["float32"](graph, file, metadata.to_text())


def measure(alone: Looker, loaded: Looker, pictures: Path, out: Path, rounds: int, count: int) -> None:
    """alone: the same network as `loaded`, with all cores at one batch."""
    batch = loaded.recipe.predict.batch
    files = sorted(pictures.iterdir())[:count]
    placed = [loaded.place(str(file)) for file in files]
    into_folder = sinks if isinstance(loaded, Predictor) else class_sinks
    groups = [placed[start : start + batch] for start in range(0, len(placed), batch)]
    frames = [[one.frame for one in group] for group in groups]
    images = [scaled(canvases_of(group), loaded.device, loaded.backend) for group in groups]
    asks = getattr(loaded.model, "inputs", ("images",))
    inputs = [arguments(asks, *pair) for pair in zip(images, frames, strict=True)]

    def done() -> None:
        if loaded.device.type != "cpu":
            torch.accelerator.synchronize()

    def loop(groups: int = len(inputs)) -> None:
        for one in inputs[:groups]:
            alone.backend.forward(*one)  # type: ignore[union-attr]
        done()

    def shared(groups: int = len(inputs)) -> None:
        with ThreadPoolExecutor(sinks.BATCHES) as pool:
            for _ in pool.map(lambda one: loaded.backend.forward(*one), inputs[:groups]):  # type: ignore[union-attr]
                pass
        done()

    def whole(count: int = len(files)) -> None:
        into_folder.predict_to_folder(loaded, files[:count], out, draw=False)

    for warm_up in (loop, shared, lambda _: whole(batch)):
        warm_up(1)
    *bare, end = in_turns(rounds, loop, shared, whole)
    print(f"{loaded.recipe.name} {loaded.backend.name}, batch {batch}, {len(files)} pictures:", end=" ")  # type: ignore[union-attr]
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
    parser.add_argument("--pictures", help="a folder, in place of made ones")
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
        pictures = Path(words.pictures) if words.pictures else root / "pictures"
        if not words.pictures:
            pictures.mkdir()
            write_pictures(pictures, words.count)
        for name in [words.recipe] if words.weights or words.recipe else RECIPES:
            detects = recipe.load(name).model.task == "detect"
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
                load = predictor.load if detects else class_predictor.load_classifier
                alone = load(source, given, words.device, backend=runtime)
                running = RuntimeOptions(alone.recipe.predict.batch, fuse=True)
                loaded = load(source, given, words.device, backend=runtime, running=running)
                measure(alone, loaded, pictures, root / "out", words.rounds, words.count)


if __name__ == "__main__":
    main()
