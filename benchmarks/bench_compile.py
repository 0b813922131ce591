"""A training step with the loss compiled (`train.compile`) against the same step without, on any device.

    python benchmarks/bench_compile.py [--recipe NAME ...] [--batch N] [--rounds N] [--device cuda]

A step is forward, loss, backward and SGD, on noise with 8 boxes an image, in the recipe's memory format. Steps
alternate and change places every round. On a CPU the time is that of the processor, which other programs disturb least.
The medians and the median of the ratios are printed, and the seconds of compiling.
"""

import argparse
import datetime
import platform
import statistics
import time
from collections.abc import Callable

import torch

from boxwright import models
from boxwright import recipe as recipes
from boxwright.engine.compiling import Loss, compiled_loss
from boxwright.nn.network import Network
from boxwright.types import Batch, ClassBatch

RECIPES = {"yolov3_tiny_coco_416_darknet": 8, "tiny_darknet_imagenet_224": 64}  # with the images of a step


def batch_of(name: str, count: int, device: torch.device) -> Batch | ClassBatch:
    recipe, draw = recipes.load(name), torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, *recipe.data.canvas.size, generator=draw)
    if recipe.train.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    keys = torch.arange(count)
    if recipe.model.task == "classify":
        return ClassBatch(images, torch.randint(1000, (count,), generator=draw), (), keys=keys).to(device)
    low = torch.rand(count, 8, 2, generator=draw) * 300
    boxes = torch.cat((low, low + 10 + 100 * torch.rand(count, 8, 2, generator=draw)), -1)
    labels = torch.randint(80, (count, 8), generator=draw)
    return Batch(images, boxes, labels, labels < 0, (), keys=keys).to(device)


def step_of(name: str, batch: Batch | ClassBatch, device: torch.device, compiled: bool) -> Callable[[], None]:
    recipe = recipes.load(name)
    torch.manual_seed(0)
    network: Network = models.build(recipe.model).train().to(device)
    if recipe.train.channels_last:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    loss: Loss = compiled_loss(network) if compiled else network.loss
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-5, momentum=0.9)

    def step() -> None:
        torch.stack(list(loss(batch).values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", nargs="+", default=list(RECIPES), help="names of shipped recipes")
    parser.add_argument("--batch", type=int, help="images of a step; default: 8, for Tiny-DarkNet 64")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    device = torch.device(args.device)

    def seconds(step: Callable[[], None]) -> float:
        clock = time.process_time if device.type == "cpu" else time.perf_counter
        begin = clock()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return clock() - begin

    for name in args.recipe:
        count = args.batch or RECIPES.get(name, 8)
        batch = batch_of(name, count, device)
        steps = [step_of(name, batch, device, compiled) for compiled in (False, True)]
        begin = time.perf_counter()
        for step in steps:
            seconds(step)
        first = time.perf_counter() - begin
        times: list[list[float]] = [[], []]
        for number in range(args.rounds):
            for which in (0, 1) if number % 2 else (1, 0):
                times[which].append(seconds(steps[which]))
        ratios = [compiled / eager for eager, compiled in zip(*times, strict=True)]
        eager, compiled = map(statistics.median, times)
        print(
            f"{name}, batch {count}: eager {eager * 1000:.0f} ms, compiled {compiled * 1000:.0f} ms, ratio "
            f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}); compiling took {first:.0f} s",
            flush=True,
        )
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{datetime.date.today()}, {name}, torch {torch.__version__}, Python {platform.python_version()}")


if __name__ == "__main__":
    main()
