"""HOTA and time of the tracker on the sample sequences, fed with their ground truth: boxes moved, dropped and added.

    python benchmarks/tracking.py ../shared/data/video [--peer PYTHON]

PYTHON: of an environment with `trackers` (pip install trackers), which needs another build of OpenCV; its ByteTrack
gets the same boxes. `--stride 3` leaves frames out.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from boxwright.metrics.tracks import TrackMetrics, score
from boxwright.tracking import mot
from boxwright.tracking.tracker import Tracker
from boxwright.types import Detections

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import track_sequences

RATE = 30.0  # frames per second
SAMPLES = ("birds", "birds_far", "drones")
SEEDS = 5
# of the peer: its defaults, and values that are as near to ours as it has them
PEERS = {
    "trackers": {},
    "trackers, our thresholds": {
        "track_activation_threshold": 0.5,
        "high_conf_det_threshold": 0.5,
        "minimum_consecutive_frames": 3,
        "minimum_iou_threshold": 0.2,
        "lost_track_buffer": 45,
    },
}
Frames = list[list[tuple[float, float, float, float, float]]]


def noisy_detections(rows: list[track_sequences.Row], seed: int, noise: float) -> Frames:
    """Boxes with scores, per frame; noise: largest change of a side, fraction dropped, fraction added.

    A fifth of the scores are low, 0.15 to 0.45; those of added boxes are 0.2 to 0.7.
    """
    draw = random.Random(seed).random
    frames: Frames = [[] for _ in range(max(row[0] for row in rows))]
    for frame, _, left, top, width, height, *_ in sorted(rows):
        x, y = left + (2 * draw() - 1) * noise * width, top + (2 * draw() - 1) * noise * height
        w, h = width * (1 + (2 * draw() - 1) * noise), height * (1 + (2 * draw() - 1) * noise)
        confidence = 0.6 + 0.4 * draw() if draw() < 0.8 else 0.15 + 0.3 * draw()
        if draw() >= noise:
            frames[frame - 1].append((x, y, x + w, y + h, confidence))
        if draw() < noise:
            x, y = 600 * draw(), 480 * draw()
            frames[frame - 1].append((x, y, x + width, y + height, 0.2 + 0.5 * draw()))
    return frames


def ours(frames: Frames, rate: float, target: Path) -> float:
    """Write the tracks; returns ms per frame."""
    tracker, spent = Tracker(), 0.0
    with target.open("w") as file:
        for index, boxes in enumerate(frames):
            table = torch.from_numpy(np.array(boxes, np.float32).reshape(-1, 5))
            found = Detections(table[:, :4], table[:, 4], torch.zeros(len(table), dtype=torch.int64))
            start = time.perf_counter()
            tracks = tracker.update(found, None, index / rate)
            spent += time.perf_counter() - start
            mot.write_rows(file, index + 1, tracks)
    return 1000 * spent / len(frames)


def peer(python: str, settings: dict[str, float], frames: Frames, rate: float, target: Path) -> float:
    """The same by the peer."""
    source = target.with_suffix(".json")
    source.write_text(json.dumps({"rate": rate, "frames": frames}))
    script = str(Path(__file__).with_name("tracking_peer.py"))
    command = [python, script, str(source), str(target), json.dumps(settings)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("samples", type=Path)
    parser.add_argument("--peer", default="")
    parser.add_argument("--noise", type=float, default=0.1)
    parser.add_argument("--stride", type=int, default=1)
    options = parser.parse_args()
    systems = ["boxwright", *(PEERS if options.peer else ())]
    print("| sequence | tracker | HOTA | IDF1 | id switches | ms per frame |\n| --- | --- | --- | --- | --- | --- |")
    for name in SAMPLES:
        rows = track_sequences.read_rows(options.samples / name / "gt" / "gt.txt")
        rows = [(row[0] // options.stride, *row[1:]) for row in rows if row[0] % options.stride == 0]
        with tempfile.TemporaryDirectory() as folder:
            truth = mot.read(track_sequences.write_rows(Path(folder) / "truth.txt", rows))
            for system in systems:
                total, spent, target = TrackMetrics(), 0.0, Path(folder) / "found.txt"
                for seed in range(SEEDS):
                    frames, rate = noisy_detections(rows, seed, options.noise), RATE / options.stride
                    if system == "boxwright":
                        spent += ours(frames, rate, target)
                    else:
                        spent += peer(options.peer, PEERS[system], frames, rate, target)
                    total += score(truth, mot.read(target))
                values = f"{total.hota:.3f} | {total.idf1:.3f} | {total.switches / SEEDS:.1f} | {spent / SEEDS:.2f}"
                print(f"| {name} | {system} | {values} |", flush=True)


if __name__ == "__main__":
    main()
