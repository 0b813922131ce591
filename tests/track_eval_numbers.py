"""Writes the metrics that TrackEval computes, to tests/oracles/tracks/numbers.json.

Run by hand in a separate environment, since TrackEval needs another build of OpenCV:

    pip install trackeval==1.3.0
    python tests/track_eval_numbers.py ../shared/data/video
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trackeval.datasets import MotChallenge2DBox
from trackeval.metrics import CLEAR, HOTA, Identity

import track_sequences

SEQUENCES = 50
SAMPLES = ("birds", "birds_far", "drones")
MEANS = ("HOTA", "DetA", "AssA", "LocA")
SINGLE = ("MOTA", "MOTP", "IDF1", "IDP", "IDR", "IDSW", "Frag", "MT", "PT", "ML", "CLR_FP", "CLR_FN")
Rows = list[track_sequences.Row]


def sequences(samples: Path) -> Iterator[tuple[str, Rows, Rows]]:
    """Name, ground truth and tracks."""
    for seed in range(SEQUENCES):
        yield (f"made_{seed}", *track_sequences.made(seed))
    for seed, name in enumerate(SAMPLES):
        truth = track_sequences.read_rows(samples / name / "gt" / "gt.txt")
        yield name, truth, list(track_sequences.noisy(truth, seed))


def numbers(results: list[dict[str, Any]]) -> dict[str, float]:
    merged = {key: value for result in results for key, value in result.items()}
    means = {name: float(merged[name].mean()) for name in MEANS}
    return means | {name.removeprefix("CLR_"): float(merged[name]) for name in SINGLE}


def main(samples: Path) -> None:
    quiet = {"PRINT_CONFIG": False}
    metrics = [HOTA(), CLEAR(quiet), Identity(quiet)]
    with tempfile.TemporaryDirectory() as folder:
        truth_folder, found_folder = Path(folder) / "truth", Path(folder) / "found"
        lengths = {}
        for name, truth, found in sequences(samples):
            track_sequences.write_rows(truth_folder / name / "gt" / "gt.txt", truth)
            track_sequences.write_rows(found_folder / "x" / "data" / f"{name}.txt", found)
            lengths[name] = max(row[0] for row in truth + found)
        places = {"GT_FOLDER": str(truth_folder), "TRACKERS_FOLDER": str(found_folder), "SKIP_SPLIT_FOL": True}
        data = MotChallenge2DBox({**quiet, **places, "BENCHMARK": "MOT17", "SEQ_INFO": lengths, "DO_PREPROC": True})
        results: dict[str, list[dict[str, Any]]] = {}
        for name in lengths:
            prepared = data.get_preprocessed_seq_data(data.get_raw_seq_data("x", name), "pedestrian")
            results[name] = [metric.eval_sequence(prepared) for metric in metrics]
    table = {name: numbers(result) for name, result in results.items()}
    columns = [{name: result[index] for name, result in results.items()} for index in range(len(metrics))]
    table["all"] = numbers([metric.combine_sequences(one) for metric, one in zip(metrics, columns, strict=True)])
    file = Path(__file__).parent / "oracles" / "tracks" / "numbers.json"
    file.parent.mkdir(exist_ok=True)
    lines = [f'"{name}": {json.dumps(row)}' for name, row in table.items()]
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
