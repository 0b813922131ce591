"""YOLOv4-tiny built from Darknet's .cfg against the hand-written one: a training step, and a prediction.

    python benchmarks/darknet_cfg.py --cfg yolov4-tiny.cfg [--rounds 30] [--batch 4]

Both have the same layers, weights of the same shapes, images and labels, and the loss of the recipe
yolov4_tiny_coco_416_darknet. A training step is forward, loss, backward and SGD; a prediction is forward with fused
batch norm as on the command line, decoding and NMS of one image. Turns alternate, and change places every round; time
is that of the processor, which other programs disturb least. The medians of the ratios are printed; the goal is at most
1.03.
"""

import argparse
import datetime
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

import boxwright
from boxwright import models
from boxwright import recipe as recipes
from boxwright.nn.network import Network
from boxwright.predict.predictor import AnyPredictor
from boxwright.recipe import Recipe
from boxwright.runtimes.base.runtime import RuntimeOptions
from boxwright.runtimes.base.torch_runtime import TorchRuntime
from boxwright.types import Batch, Frame

NAME = "yolov4_tiny_coco_416_darknet"


def batch_of(count: int, size: tuple[int, int]) -> Batch:
    """Noise with 8 boxes per image."""
    draw = torch.Generator().manual_seed(0)
    low = torch.rand(count, 8, 2, generator=draw) * 300
    boxes = torch.cat((low, low + 10 + 100 * torch.rand(count, 8, 2, generator=draw)), -1)
    labels = torch.randint(80, (count, 8), generator=draw)
    frames = tuple(Frame(index, "", size, size, (1.0, 1.0)) for index in range(count))
    images = torch.rand(count, 3, *size, generator=draw).contiguous(memory_format=torch.channels_last)
    return Batch(images, boxes, labels, labels < 0, frames)


def training(recipe: Recipe, batch: Batch) -> Callable[[], object]:
    network: Network = models.build(recipe.model).train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-5, momentum=0.9)

    def step() -> None:
        torch.stack(list(network.loss(batch).values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def predicting(recipe: Recipe) -> Callable[[], object]:
    network = models.build(recipe.model).eval()
    runtime = TorchRuntime(network, RuntimeOptions(1, fuse=True))
    predictor = AnyPredictor(network, recipe, torch.device("cpu"), runtime)
    image = np.random.default_rng(0).integers(0, 255, (*recipe.data.canvas.size, 3)).astype(np.uint8)
    return lambda: predictor(image)


def ratio(first: Callable[[], object], second: Callable[[], object], rounds: int) -> tuple[float, float, float]:
    """Median seconds of both, and the median of first / second."""
    seconds: list[list[float]] = [[], []]
    for number in range(rounds + 3):  # of which three warm up
        for which in (0, 1) if number % 2 else (1, 0):
            begin = time.process_time()
            (first, second)[which]()
            seconds[which].append(time.process_time() - begin)
    one, other = (each[3:] for each in seconds)
    return statistics.median(one), statistics.median(other), statistics.median(map(lambda a, b: a / b, one, other))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cfg", required=True, help="Darknet's yolov4-tiny.cfg")
    options.add_argument("--rounds", type=int, default=30)
    options.add_argument("--batch", type=int, default=4, help="images of a training step")
    given = options.parse_args()
    by_hand = recipes.load(NAME)
    loss = {"box_loss": "mse", "box": [1], "assign_iou": [1], "ignore_iou": [0.7], "normalize": "boxes"}
    from_cfg = recipes.load(given.cfg, {"model.loss": loss})
    batch = batch_of(given.batch, by_hand.data.canvas.size)
    for what, build in (("training step", lambda each: training(each, batch)), ("prediction", predicting)):
        mine, other, middle = ratio(build(from_cfg), build(by_hand), given.rounds)
        print(f"{what:14} .cfg {mine * 1000:7.1f} ms, by hand {other * 1000:7.1f} ms, ratio {middle:.3f}")
    print(
        f"{datetime.date.today()}, boxwright {boxwright.__version__}, torch {torch.__version__}, "
        f"Python {platform.python_version()}, {torch.get_num_threads()} threads"
    )


if __name__ == "__main__":
    main()
