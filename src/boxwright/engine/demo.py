"""The demonstration: rendered scenes, a small detector trained on them, its score, its pictures."""

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

LAST_WORDS = """
{metrics}

Rendered pictures and labels   {data}
The run: curves, weights, log  {run}
Detections drawn on scenes the detector never saw
                               {pictures}

Now with pictures of your own (a folder in COCO or YOLO layout):
    boxwright data check DIR
    boxwright train yolov3_tiny_coco_416_darknet --data DIR
"""


def run(out: Path, overrides: Sequence[str] = ()) -> str:
    """Do all of it below `out` and return the text that says what came out and where it is.

    The scenes are rendered once and used again by later demonstrations; each training gets a folder of its own
    (run, run-2, run-3, ...), so nothing is overwritten.
    """
    data = out / "data"
    if data.exists():
        logger.info("%s: already rendered, used again", data)
    else:
        logger.info("%s: rendered", scenes.write(data))
    folder = _unused(out)
    train("demo", str(data), folder, overrides=overrides)
    predictor = load(folder, running=RuntimeOptions(fuse=True))
    held_out = open_dataset(data, "val")
    metrics = evaluate(predictor, held_out)
    pictures = folder / "pictures"
    predict_to_folder(predictor, [held_out.path(index) for index in range(len(held_out))], pictures)
    return LAST_WORDS.format(metrics=metrics, data=data, run=folder, pictures=pictures)


def _unused(out: Path) -> Path:
    """run, or the first of run-2, run-3, ... that is not there yet."""
    names = ("run" if number == 1 else f"run-{number}" for number in count(1))
    return next(out / name for name in names if not (out / name).exists())
