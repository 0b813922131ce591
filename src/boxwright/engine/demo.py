"""The demo: render scenes, train a small detector on them, evaluate it, and draw its predictions."""

import logging
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from boxwright.datatools import scenes
from boxwright.engine.train import train
from boxwright.evaluation.evaluate import evaluate
from boxwright.formats import open_dataset
from boxwright.predict.output import predict_to_folder
from boxwright.predict.predictor import load
from boxwright.runtimes.base.runtime import RuntimeOptions

logger = logging.getLogger(__name__)

SUMMARY = """
{metrics}

Rendered images and labels     {data}
Run: curves, weights, log      {run}
Detections on validation scenes
                               {images}

Next, with your own images (a folder in COCO or YOLO layout):
    boxwright data check DIR
    boxwright train yolov3_tiny_coco_416_darknet --data DIR
"""

QUICK_SCENES = {"train": 128, "val": 16}
# Smaller batches give twice the steps in the same time: with batches of 8, no score reaches the threshold.
QUICK = ("train.epochs=9", "train.evaluate_every=9", "train.batch=4")
LEFT_OUT = """
A quick demo: 128 scenes instead of 240, and 9 epochs instead of 26. It shows that the installation works; its AP is
that of a short training. `boxwright demo` trains the network to the end.
"""


def run(out: Path, overrides: Sequence[str] = (), *, quick: bool = False) -> str:
    """Run the demo in `out` and return a summary of the metrics and the output paths.

    The scenes are rendered once and reused by later demos; each run gets a new folder (run, run-2, run-3, ...), so
    nothing is overwritten.
    """
    data = out / ("data-quick" if quick else "data")
    scene_counts = QUICK_SCENES if quick else {}
    changes = [*(QUICK if quick else ()), *overrides]
    if data.exists():
        logger.info("%s: already rendered, reused", data)
    else:
        logger.info("%s: rendered", scenes.write_dataset(data, **scene_counts))
    folder = _unused(out)
    train("demo", str(data), folder, overrides=changes)
    predictor = load(folder, device="cpu", runtime_options=RuntimeOptions(fuse=True))
    held_out = open_dataset(data, "val")
    metrics = evaluate(predictor, held_out)
    images = folder / "images"
    files = [held_out.path(index) for index in range(len(held_out))]
    predict_to_folder(predictor, files, images)
    left_out = LEFT_OUT if quick else ""
    return left_out + SUMMARY.format(metrics=metrics, data=data, run=folder, images=images)


def _unused(out: Path) -> Path:
    """The first of run, run-2, run-3, ... that does not exist yet."""
    names = ("run" if number == 1 else f"run-{number}" for number in count(1))
    return next(out / name for name in names if not (out / name).exists())
