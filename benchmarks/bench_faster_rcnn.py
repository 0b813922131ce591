"""Faster R-CNN against torchvision's, and what the deformable layers cost by themselves.

    python benchmarks/bench_faster_rcnn.py [--device cpu] [--pairs 5] [--batch 1] [--size 800 1344]

Three networks with ResNet-50 and the same weights: torchvision's, ours without deformable layers, ours with them. A
train step is forward, loss, backward and SGD; predicting is everything from the canvas to boxes after suppression. The
first stages and all of batch norm are frozen in all three. Images have the canvas's size, so that torchvision neither
shrinks nor pads them.

The cost of the deformable layers: each of the 13, with the input that it gets in the network, against an ordinary
convolution of the same size. The goal is that ours with them takes at most that much longer than torchvision's.

All take turns in one process, so that each meets the same moods of the machine; of times, differences and ratios the
medians over the turns count. Ends with 1 when the goal is missed.
"""

import argparse
import datetime
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

import boxwright
from bench_train_step import processor
from boxwright import models, recipe
from boxwright.engine import optim
from boxwright.models.faster_rcnn import FasterRCNN
from boxwright.nn.deform import DeformConv2d
from boxwright.predict.loading import evaluating
from boxwright.tasks.base import RawOutputs
from boxwright.tasks.detect import TASK
from boxwright.types import Batch, Frame
from boxwright.weights.names.faster_rcnn import Names

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import torchvision_on_cpu

torchvision_on_cpu.load()
import torchvision  # noqa: E402 (must come after `load`)
from torchvision.models import detection  # noqa: E402

PLAIN, DEFORMABLE = "faster_rcnn_r50_coco_torchvision", "faster_rcnn_r50_dcn_coco_standard"
CLASSES, OBJECTS = 80, 8  # of COCO; objects an image, of which COCO has 7.3 on average
RATE = 1e-6  # so small that all keep their weights, and with them the same proposals
Work = Callable[[], object]


class Side(NamedTuple):
    """One network at work, once a call."""

    train: Work
    predict: Work


def torchvisions(images: Tensor, batch: Batch) -> tuple[Side, Mapping[str, Tensor]]:
    """torchvision's network with its weights. Its defaults for proposals and samples equal ours."""
    body = detection.backbone_utils.resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=3)
    height, width = images.shape[-2:]
    network = detection.FasterRCNN(body, CLASSES + 1, min_size=min(height, width), max_size=max(height, width))
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            if name.endswith("bn3.weight"):
                buffer.fill_(0.2)  # an untrained ResNet whose frozen batch norm does nothing doubles with every block
        network.roi_heads.box_predictor.cls_score.weight.mul_(30)  # else no class is surer than the threshold
    network.to(images.device)
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=RATE, momentum=0.9)
    truth = [{"boxes": b, "labels": c + 1} for b, c in zip(batch.boxes, batch.labels, strict=True)]

    def train() -> None:
        network.train()
        torch.stack(list(network(list(images), truth).values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    def predict() -> object:
        network.eval()
        with torch.inference_mode():
            return [{name: part.cpu() for name, part in one.items()} for one in network(list(images))]

    return Side(train, predict), network.state_dict()


def ours(name: str, weights: Mapping[str, Tensor], images: Tensor, batch: Batch) -> tuple[Side, FasterRCNN]:
    """A recipe's network at work with torchvision's weights, and the network."""
    plan = recipe.load(name, ["train.freeze_norm=true", "predict.threshold=0.05"])
    network = models.build(plan.model)
    assert isinstance(network, FasterRCNN)
    missing, unknown = network.load_state_dict(Names(network.config).translate(weights), strict=False)
    assert not unknown
    assert all("mask" in key or "offset" in key or "num_batches" in key or key in ("mean", "std") for key in missing)
    network.to(images.device)
    optimizer = optim.build(network, plan.train)
    for group in optimizer.param_groups:
        group["lr"] = RATE
    args = TASK.args(plan)
    size = images.shape[-2], images.shape[-1]
    frames = [Frame(i, "", size, size, (1.0, 1.0)) for i in range(len(images))]

    def train() -> None:
        optim.training_mode(network, plan.train)
        torch.stack(list(network.loss(batch).values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    def predict() -> object:
        with evaluating(network):
            raw = RawOutputs(network(images), size)
        return TASK.postprocess(network, raw, frames, args, plan)

    return Side(train, predict), network


def layers(network: FasterRCNN, images: Tensor) -> tuple[Side, Side]:
    """All deformable layers of the network, each with its input, and ordinary convolutions in their place."""
    pairs: list[tuple[nn.Module, Tensor]] = []

    def note(module: nn.Module, given: tuple[Tensor]) -> None:
        pairs.append((module, given[0].clone()))

    hooks = [m.register_forward_pre_hook(note) for m in network.modules() if isinstance(m, DeformConv2d)]
    with torch.no_grad():
        network.pyramid(images)
    for hook in hooks:
        hook.remove()

    def usual(layer: DeformConv2d) -> nn.Module:
        outputs, inputs = layer.weight.shape[:2]
        return nn.Conv2d(inputs, outputs, 3, layer.stride, 1, bias=False).to(images.device)

    def side(some: list[tuple[nn.Module, Tensor]]) -> Side:
        def train() -> None:
            # All forward, then all backward, as in a network: what backward needs is held meanwhile.
            torch.stack([layer(given.requires_grad_()).sum() for layer, given in some]).sum().backward()
            for layer, given in some:
                layer.zero_grad()
                given.grad = None

        def predict() -> None:
            with torch.no_grad():
                for layer, given in some:
                    layer(given)

        return Side(train, predict)

    convolutions = [(usual(layer), given.clone()) for layer, given in pairs if isinstance(layer, DeformConv2d)]
    return side(pairs), side(convolutions)


def in_turns(tasks: Mapping[str, Work], turns: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each task in each turn, after one that does not count."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(turns + 1):
        for name, work in tasks.items():
            begin = seconds(device)
            work()
            if turn:
                times[name].append(seconds(device) - begin)
        print(f"turn {turn} of {turns}", file=sys.stderr)
    return times


def seconds(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def report(times: dict[str, list[float]]) -> bool:
    """Print one block; whether the goal is met."""
    base, middle = times["torchvision"], statistics.median
    for name, row in times.items():
        ratio = middle([a / b for a, b in zip(row, base, strict=True)])
        print(f"  {name:24s}{middle(row):8.3f}  ({min(row):.3f} to {max(row):.3f}), ratio {ratio:.3f}")
    more = middle([a - b for a, b in zip(times["ours, deformable"], base, strict=True)])
    cost = middle([a - b for a, b in zip(times["deformable layers"], times["usual layers"], strict=True)])
    print(f"  ours, deformable, less torchvision {more:.3f}; layers' own cost {cost:.3f}; goal met: {more <= cost}")
    return more <= cost


def made(batch: int, height: int, width: int) -> tuple[Tensor, Batch]:
    """Images of coarse noise, in [0, 1], and boxes of 16 to 300 px."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(batch, 3, height // 16, width // 16, generator=draw)
    images = nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    side = 16 + torch.rand(batch, OBJECTS, 2, generator=draw) ** 2 * 284
    low = torch.rand(batch, OBJECTS, 2, generator=draw) * (torch.tensor([width, height]) - side).clamp(min=0)
    labels = torch.randint(0, CLASSES, (batch, OBJECTS), generator=draw)
    boxes = torch.cat((low, low + side), -1)
    return images, Batch(images, boxes, labels, torch.zeros_like(labels, dtype=torch.bool), ())


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--device", default="cpu", type=torch.device)
    options.add_argument("--pairs", type=int, default=5, help="turns that count")
    options.add_argument("--batch", type=int, default=1)
    options.add_argument("--size", type=int, nargs=2, default=[800, 1344], help="height and width, multiples of 32")
    given = options.parse_args()
    torch.manual_seed(0)
    batch = made(given.batch, *given.size)[1].to(given.device)
    images = batch.images
    theirs, weights = torchvisions(images, batch)
    plain, _ = ours(PLAIN, weights, images, batch)
    deformable, network = ours(DEFORMABLE, weights, images, batch)
    own, usual = layers(network, images)
    sides = {
        "torchvision": theirs, "ours, plain": plain, "ours, deformable": deformable,
        "deformable layers": own, "usual layers": usual,
    }  # fmt: skip
    print(
        f"{datetime.date.today()}, boxwright {boxwright.__version__}, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}, Python {platform.python_version()}, "
        f"{torch.get_num_threads()} threads, {processor()}"
        + (f", {torch.cuda.get_device_name(given.device)}" if given.device.type == "cuda" else "")
    )
    met = []
    for what in Side._fields:
        print(f"{what}, {given.size[0]} x {given.size[1]}, batch {given.batch}, seconds")
        times = in_turns({name: getattr(side, what) for name, side in sides.items()}, given.pairs, given.device)
        met.append(report(times))
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
