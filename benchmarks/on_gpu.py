"""Training on one GPU: images per second, bare steps, waiting for the loader, memory, cost of deformable layers.

    python benchmarks/on_gpu.py [--only PATTERN] [--minutes 8]

Writes gpu-NAME.json after every case, and all tables of such files into results.md, between two markers. A case that is
in the file is not measured again, so the command can be stopped and repeated; to measure one again, delete its entry. A
case that may not end in the minutes that are left is skipped. Random weights, 80 classes (1000 for classifiers), the
recipe's canvas without other sizes, channels last if not said otherwise, rendered scenes of 640 px. Columns:

- training: the training loop of `boxwright train`, with loader, augmentation and log; waiting: for batches, in its log;
- step: forward, loss, backward and optimizer on one batch that stays on the GPU;
- loader: batches taken as fast as they come, with nothing else running;
- memory: the most that tensors took at once.

Warm-up and compiling come before the clock starts, but count among the minutes.
"""

import argparse
import datetime
import gc
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

import boxwright
from bench_train_step import processor
from boxwright import recipe as recipes
from boxwright.datatools import scenes
from boxwright.engine import job as jobs
from boxwright.engine.compiling import compiled_loss
from boxwright.errors import one_line
from boxwright.json_text import JsonObject, write
from boxwright.ops.kernels import DeformKernel, prefer_deform_kernel
from boxwright.recipe import Recipe
from training_speed import measure, measure_torchvision

HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- on_gpu.py: begin -->", "<!-- on_gpu.py: end -->"
IMAGES, COPIES, SIDE = 64, 16, 640  # rendered scenes; of each for the classifier; px
OBJECTS = 8  # labeled in a scene, at most; COCO has 7.3 on average, and a mosaic of 32 needs no further graph
SECONDS = 4.0  # of each of the three measurements
NEED = {False: 40, True: 180}  # seconds of a case, by whether it is compiled


@dataclass(frozen=True)
class System:
    """goal: images a second on an H100 or H200."""

    name: str
    recipe: str
    batches: tuple[int, int]
    goal: int


FASTER = System("Faster R-CNN-DCN 800 x 1344", "faster_rcnn_r50_dcn_coco_standard", (2, 8), 60)
SYSTEMS = (
    System("YOLOv3 416", "yolov3_coco_416", (32, 64), 900),
    System("YOLOv3-640", "yolov3_640_coco", (16, 32), 400),
    System("YOLOv4 608", "yolov4_coco_608", (8, 16), 250),
    FASTER,
    System("Tiny-DarkNet 224", "tiny_darknet_imagenet_224", (128, 512), 12_000),
)


@dataclass(frozen=True)
class Case:
    """One measurement. peer: torchvision's network, of which only steps are measured."""

    system: System
    batch: int
    precision: str = "bf16"
    compiled: bool = False
    variant: str = ""
    kernel: DeformKernel = "torchvision"
    channels_last: bool = True
    overrides: tuple[str, ...] = ()
    peer: bool = False

    @property
    def loads(self) -> str:
        """The part of the name on which the loader depends."""
        return f"{self.system.name}, batch {self.batch},"

    @property
    def name(self) -> str:
        precision, how = "fp32" if self.precision == "no" else self.precision, "compiled" if self.compiled else "eager"
        return f"{self.loads} {precision}, {how}" + (f", {self.variant}" if self.variant else "")


def cases() -> list[Case]:
    """The most important ones first."""
    small, large = FASTER.batches
    found = [Case(system, system.batches[1]) for system in SYSTEMS]
    for precision, batch in (("bf16", large), ("no", small), ("bf16", small)):
        deformable = partial(Case, FASTER, batch, precision)
        found += [
            deformable(),
            deformable(variant="Triton kernel", kernel="triton"),
            deformable(variant="ordinary convolutions", overrides=("model.deform=none",)),
            deformable(variant="torchvision's network, not deformable", peer=True),
        ]
    found += [Case(system, system.batches[1], compiled=True) for system in SYSTEMS]
    found.append(Case(FASTER, large, compiled=True, variant="Triton kernel", kernel="triton"))
    found.append(Case(SYSTEMS[0], 64, variant="channels first", channels_last=False))
    for precision, compiled, which in (("no", False, 1), ("bf16", False, 0), ("bf16", True, 0), ("no", True, 1)):
        found += [Case(system, system.batches[which], precision, compiled) for system in SYSTEMS]
    for compiled in (False, True):
        found += [Case(system, system.batches[0], "no", compiled) for system in SYSTEMS]
    return list({case.name: case for case in found}.values())


def render(root: Path, small: bool) -> None:
    """`root`/boxes: scenes with boxes; `root`/classes: each several times in folders of three classes."""
    scenes.write_dataset(root / "boxes", 8 if small else IMAGES, 1, 96 if small else SIDE)
    labels = root / "boxes" / "annotations" / "train.json"
    tree, kept = json.loads(labels.read_text()), dict[int, list[JsonObject]]()
    for row in tree["annotations"]:
        kept.setdefault(row["image_id"], []).append(row)
    tree["annotations"] = [row for rows in kept.values() for row in rows[:OBJECTS]]
    labels.write_text(json.dumps(tree))
    for number, file in enumerate(sorted((root / "boxes" / "images").iterdir())):
        for split, copies in (("train", COPIES), ("val", 1)):
            folder = root / "classes" / split / scenes.NAMES[number % 3]
            folder.mkdir(parents=True, exist_ok=True)
            for copy in range(copies):
                shutil.copy(file, folder / f"{file.stem}-{copy}.jpg")


def recipe_of(case: Case, data: Path, small: bool) -> Recipe:
    recipe = recipes.load(case.system.recipe, case.overrides)
    changes: dict[str, object] = {
        "data.root": str(data / ("classes" if recipe.model.task == "classify" else "boxes")),
        "data.workers": 0 if small else max(1, min(14, (os.cpu_count() or 2) - 2)),
        "train.batch": 2 if small else case.batch,
        "train.precision": case.precision,
        "train.compile": case.compiled,
        "train.channels_last": case.channels_last,
        "train.augment.sizes": [],
        "train.schedule": {"kind": "cosine", "lr": 1e-6},  # so small that random weights do not diverge
        "train.epochs": 10_000,
        "train.log_every": 1000,  # once, at the end
    }
    if small:
        changes |= {"data.canvas.size": [64, 64]} | (
            {"model.roi": {"samples": 8, "max_positives": 4}} if case.system is FASTER else {}
        )
    return recipe.with_overrides(changes)


def table(found: Mapping[str, Any]) -> str:
    """In Markdown."""
    columns = {
        "training": ".0f", "waiting": ".1%", "step": ".0f", "ms": ".1f", "loader": ".0f", "memory": ".1f",
    }  # fmt: skip
    lines = [
        "| images/s of | goal | training | waiting | step | step, ms | loader | memory, GiB |",
        "| --- " * (2 + len(columns)) + "|",
    ]
    for name, row in found["cases"].items():
        cells = [format(row[key], form) if key in row else "" for key, form in columns.items()]
        if "error" in row:
            cells[0] = row["error"].replace("|", "/")
        lines.append(f"| {' | '.join([name, str(row['goal']), *cells])} |")
    return f"{found['about']}:\n\n" + "\n".join(lines) + "\n"


def publish(out: Path) -> str:
    """The tables of all files; written between the markers of results.md, if `out` has one."""
    text = "\n".join(table(json.loads(file.read_text())) for file in sorted(out.glob("gpu-*.json")))
    results = out / "results.md"
    if results.exists() and BEGIN in (before := results.read_text()):
        head, _, rest = before.partition(BEGIN)
        results.write_text(f"{head}{BEGIN}\n\n{text}\n{END}{rest.partition(END)[2]}")
    return text


def outcome(case: Case, data: Path, small: bool, loader: float | None) -> dict[str, Any]:
    """What a case measures, or the reason why it failed, in one line."""
    start, row = time.perf_counter(), dict[str, Any](goal=case.system.goal)
    try:
        prefer_deform_kernel(case.kernel)
        torch._dynamo.reset()
        recipe, spent = recipe_of(case, data, small), 0.0 if small else SECONDS
        row |= measure_torchvision(recipe, spent) if case.peer else measure(recipe, spent, loader)
    except torch.OutOfMemoryError:
        row["error"] = "out of memory"
    except Exception as error:  # whatever it is, the next case is measured
        row["error"] = one_line(f"{type(error).__name__}: {' '.join(str(error).split())}")
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return row | {"seconds": time.perf_counter() - start, "date": str(datetime.date.today())}


def run(chosen: list[Case], file: Path, data: Path, end: float, small: bool) -> None:
    """Measure what is not in `file`; `end`, by `time.perf_counter`, is when the minutes are over."""
    found = json.loads(file.read_text()) if file.exists() else {"cases": {}}
    rows, need = found["cases"], {False: 0, True: 0} if small else NEED
    found["about"] = (
        f"{gpu()}, {os.cpu_count()} cores of {processor()}, boxwright {boxwright.__version__}, "
        f"torch {torch.__version__}, CUDA {torch.version.cuda}, {datetime.date.today()}"
    )
    for case in chosen:
        left = end - time.perf_counter()
        if case.name in rows:
            continue
        if left < need[case.compiled]:
            print(f"skipped, {max(left, 0):.0f} s are left and it may take {need[case.compiled]}: {case.name}")
            continue
        known = (row["loader"] for name, row in rows.items() if "loader" in row and name.startswith(case.loads))
        rows[case.name] = outcome(case, data, small, next(known, None))
        write(file, found)
        publish(file.parent)
        print(f"{case.name}: {rows[case.name]}", flush=True)
        if "CUDA error" in rows[case.name].get("error", ""):
            raise SystemExit("after an error of CUDA nothing more can be measured in this process; run it again")


def gpu() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a regular expression that is found in the names of cases")
    parser.add_argument("--minutes", type=float, default=8, help="of the command; no case begins that may take longer")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of gpu-NAME.json and results.md")
    parser.add_argument("--small", action="store_true", help="tiny and without a compiler, to try this on a CPU")
    args = parser.parse_args()
    if args.small == torch.cuda.is_available() or (args.small and args.out == HERE):
        raise SystemExit("needs a GPU, or none, --small and --out to try the command")
    if args.small:
        setattr(jobs, "compiled_loss", partial(compiled_loss, backend="aot_eager"))  # noqa: B010 (mypy forbids the other)
        setattr(jobs, "compiler_works", lambda device: True)  # noqa: B010
    end = time.perf_counter() + 60 * args.minutes
    with tempfile.TemporaryDirectory() as temporary:
        render(Path(temporary), args.small)
        chosen = [case for case in cases() if re.search(args.only, case.name)]
        file = args.out / f"gpu-{re.sub('[^A-Za-z0-9]+', '-', gpu()).strip('-')}.json"
        run(chosen, file, Path(temporary), end, args.small)
    print(publish(args.out))


if __name__ == "__main__":
    main()
