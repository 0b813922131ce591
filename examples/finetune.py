"""Fine-tune a detector on a folder of labeled images, and measure it.

    python examples/finetune.py data/mine runs/mine yolov3-tiny.weights

The folder is in any layout of docs/data.md, with the splits train and val. Without weights, training starts from random
ones. The run folder gets checkpoints, log, curves and metrics.
"""

import sys

import boxwright as bw

RECIPE = "yolov3_tiny_coco_416_darknet"


def main(data: str, out: str, weights: str | None = None, recipe: str = RECIPE, changes: dict | None = None) -> float:
    """Train `recipe` with some keys changed, print the metrics of the best network on val, and return its AP."""
    run = bw.train(recipe, data, out, weights=weights, transfer=weights is not None, overrides=changes or {})
    metrics = bw.evaluate(bw.load(run), data, split="val")
    print(metrics)
    print(f"next: boxwright predict {run} PHOTOS")
    return metrics.ap


if __name__ == "__main__":  # processes that load images import this file again
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(*sys.argv[1:])
