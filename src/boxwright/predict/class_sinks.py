"""Many pictures to a folder of pictures with their classes and one classes.json."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from boxwright import json_text
from boxwright.errors import printable
from boxwright.predict import sinks
from boxwright.predict.class_predictor import MOST, ClassPrediction, ClassPredictor
from boxwright.predict.draw import name_of

FILE = "classes.json"


def predict_to_folder(
    predictor: ClassPredictor, sources: Sequence[str | Path], out: str | Path, most: int = MOST, *, draw: bool = True
) -> tuple[sinks.Summary, list[str]]:
    """Classify pictures, folders of pictures and glob patterns; write drawn pictures and `classes.json`.

    Returns the summary and a line for each picture. Failures and what is raised: as in `sinks.predict_to_folder`.
    """
    folder = Path(out)
    files = sinks.find_pictures(sources, folder)
    targets = sinks.targets_of(files, folder) if draw else {}
    sinks.make_writable(folder)
    found, failed = sinks.look_at(predictor, files, targets, most)
    rows = [_row(one, None if one.path in failed else targets.get(Path(one.path))) for one in found]
    tree = {"recipe": predictor.recipe.name, "names": list(predictor.names), "pictures": rows, "failed": failed}
    json_text.write(folder / FILE, tree, indent=1)
    counts = Counter(str(each["classes"][0]["name"]) for each in rows)
    lines = [printable(f"{one.path}: {one}") for one in found]
    return sinks.Summary(folder, len(rows), dict(counts), failed, FILE, draw), lines


def _row(prediction: ClassPrediction, target: Path | None) -> dict[str, Any]:
    """One picture in `classes.json`, best class first."""
    columns = prediction.labels.tolist(), prediction.scores.tolist()
    return {
        "file": prediction.path,
        "drawn": target.name if target else None,
        "height": prediction.size[0],
        "width": prediction.size[1],
        "classes": [
            {"label": label, "name": name_of(prediction.names, label), "score": score}
            for label, score in zip(*columns, strict=True)
        ],
    }
