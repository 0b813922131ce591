"""Writes the errors that TIDE's package finds, to tests/oracles/errors/numbers.json.

Run by hand in a separate environment:

    pip install tidecv==1.0.1
    python tests/tide_numbers.py
"""

import json
from pathlib import Path
from typing import Any

from tidecv import TIDE, Data

import error_cases
from error_cases import Image


def numbers(images: list[Image]) -> dict[str, Any]:
    """AP50 in percent, and of each kind of error the count and the AP50 that it takes."""
    truth, found = Data("truth"), Data("found")
    for number, image in enumerate(images):
        for box, label in zip(image.boxes.tolist(), image.labels.tolist(), strict=True):
            truth.add_ground_truth(number, label, _xywh(box))
        truth.add_image(number, str(number))
        truth.images[number]
        for box, score, label in zip(image.found.tolist(), image.scores.tolist(), image.guesses.tolist(), strict=True):
            found.add_detection(number, label, score, _xywh(box))
    run = TIDE().evaluate(truth, found, mode=TIDE.BOX)
    counts, gains = run.count_errors(), run.fix_main_errors()
    return {
        "ap50": run.ap,
        "counts": {error.short_name: count for error, count in counts.items()},
        "gains": {error.short_name: gain for error, gain in gains.items()},
    }


def _xywh(box: list[float]) -> list[float]:
    x1, y1, x2, y2 = box
    return [x1, y1, x2 - x1, y2 - y1]


def main() -> None:
    table = {str(seed): numbers(error_cases.made(seed)) for seed in range(error_cases.CASES)}
    file = Path(__file__).parent / "oracles" / "errors" / "numbers.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text("{\n" + ",\n".join(f'"{name}": {json.dumps(row)}' for name, row in table.items()) + "\n}\n")


if __name__ == "__main__":
    main()
