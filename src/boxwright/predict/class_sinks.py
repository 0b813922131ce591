"""Many pictures to a folder of pictures with their classes and one classes.json."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from boxwright.files import whole
from boxwright.predict import sinks
from boxwright.predict.class_predictor import MOST, ClassPrediction, ClassPredictor
from boxwright.predict.draw import name_of

FILE = "classes.json"


def predict_to_folder(
    predictor: ClassPredictor, sources: Sequence[str | Path], out: str | Path, most: int = MOST
) -> tuple[sinks.Summary, list[str]]:
    """Classify pictures, folders of pictures and glob patterns; write drawn pictures and `classes.json`.

    Returns the summary and a line for each picture. Failures and what is raised: as in `sinks.predict_to_folder`.
    """
    folder = Path(out)
    files = sinks.find_pictures(sources, folder)
    targets = sinks.targets_of(files, folder)
    sinks.make_writable(folder)
    lines: list[str] = []

    def row(prediction: ClassPrediction, target: Path) -> dict[str, Any]:
        lines.append(f"{prediction.path}: {prediction}")
        return _row(prediction, target)

    batch = predictor.recipe.predict.batch
    rows, failed = sinks.look_at(files, targets, batch, lambda images: predictor(images, most), row)
    with whole(folder / FILE) as part:
        tree = {"recipe": predictor.recipe.name, "names": list(predictor.names), "pictures": rows, "failed": failed}
        part.write_text(json.dumps(tree, indent=1, ensure_ascii=False), encoding="utf-8")
    counts = Counter(str(each["classes"][0]["name"]) for each in rows)
    return sinks.Summary(folder, len(rows), dict(counts), failed, FILE), lines


def _row(prediction: ClassPrediction, target: Path) -> dict[str, Any]:
    """One picture in `classes.json`, best class first."""
    columns = prediction.labels.tolist(), prediction.scores.tolist()
    return {
        "file": prediction.path,
        "drawn": target.name,
        "height": prediction.size[0],
        "width": prediction.size[1],
        "classes": [
            {"label": label, "name": name_of(prediction.names, label), "score": score}
            for label, score in zip(*columns, strict=True)
        ],
    }
