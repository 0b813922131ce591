"""ByteTrack of Roboflow's trackers (Apache-2.0) for `tracking.py`, in a separate environment, without boxwright.

    python benchmarks/tracking_peer.py DETECTIONS.json TRACKS.txt SETTINGS

Reads {"rate": frames per second, "frames": [[[x1, y1, x2, y2, score], ...], ...]}, writes MOT text, and prints the
milliseconds per frame. SETTINGS: arguments of ByteTrackTracker as JSON.
"""

import json
import sys
import time
import warnings

import numpy as np
import supervision as sv
from trackers import ByteTrackTracker

warnings.simplefilter("ignore")
source, target, settings = sys.argv[1:]
with open(source) as file:
    data = json.load(file)
tracker = ByteTrackTracker(frame_rate=data["rate"], **json.loads(settings))
lines = []
spent = 0.0
for number, rows in enumerate(data["frames"], 1):
    table = np.array(rows, np.float32).reshape(-1, 5)
    labels = np.zeros(len(table), np.int64)
    start = time.perf_counter()
    found = tracker.update(sv.Detections(xyxy=table[:, :4], confidence=table[:, 4], class_id=labels))
    spent += time.perf_counter() - start
    for (x1, y1, x2, y2), track in zip(found.xyxy.tolist(), found.tracker_id.tolist(), strict=True):
        if track >= 0:
            lines.append(f"{number},{track + 1},{x1},{y1},{x2 - x1},{y2 - y1},1\n")
with open(target, "w") as file:
    file.writelines(lines)
print(1000 * spent / len(data["frames"]))
