"""The demo: render scenes, train a small detector on them, evaluate it, and draw its predictions."""

import logging
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from boxwright.data import open_dataset, scenes
from boxwright.engine.train import train
from boxwright.evaluation.run import evaluate
from boxwright.predict.predictor import load
from boxwright.predict.sinks import predict_to_folder
from boxwright.runtimes.base.runtime import RuntimeOptions

logger = logging.getLogger(__name__)

SUMMARY = """
{metrics}

Rendered images and labels     {data}
Run: curves, weights, log      {run}
Detections on validation scenes
                               {pictures}

Next, with images of your own (a folder in COCO or YOLO layout):
    boxwright data check DIR
    boxwright train yolov3_tiny_coco_416_darknet --data DIR
"""


def run(out: Path, overrides: Sequence[str] = ()) -> str:
    """Run the demo in `out` and return a summary of the metrics and the output paths.

    The scenes are rendered once and reused by later demos; each run gets a new folder (run, run-2, run-3, ...), so
    nothing is overwritten.
    """
    data = out / "data"
    if data.exists():
        logger.info("%s: already rendered, reused", data)
    else:
        logger.info("%s: rendered", scenes.write(data))
    folder = _unused(out)
    train("demo", str(data), folder, overrides=overrides)
    predictor = load(folder, running=RuntimeOptions(fuse=True))
    held_out = open_dataset(data, "val")
    metrics = evaluate(predictor, held_out)
    pictures = folder / "pictures"
    predict_to_folder(predictor, [held_out.path(index) for index in range(len(held_out))], pictures)
    return SUMMARY.format(metrics=metrics, data=data, run=folder, pictures=pictures)


def _unused(out: Path) -> Path:
    """The first of run, run-2, run-3, ... that does not exist yet."""
    names = ("run" if number == 1 else f"run-{number}" for number in count(1))
    return next(out / name for name in names if not (out / name).exists())
