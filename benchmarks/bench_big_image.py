"""A scene of 20,000 x 20,000 px from file to boxes: time, memory, and every object exactly once.

    python benchmarks/bench_big_image.py [--sides 10000 20000] [--boxes 100000]

Writes made scenes (tiled GeoTIFF, 25 objects for every million px: 10,000 at 20,000 px) into a temporary folder and
looks at them through windows of 600 px with 20 % overlap and a stub detector that answers with the truth of each
window, so that only reading, cutting and merging are measured. Each scene has a process of its own, whose largest
resident size counts. Then as many boxes as asked for are merged. Prints lines of JSON; ends with 1 when an object is
missing or doubled, memory reaches 1.5 GB, computing time grows by more than 4.6 for 4 times the area, or merging
takes 5 s. The growth is that of computing time, because other work on the machine would show in the elapsed one.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))

import torch

from boxwright.images.windows import grid, open_scene
from boxwright.memory import tune_malloc
from boxwright.predict.merge import merge
from boxwright.predict.tiled import Overview, Tiling, predict_scene
from made_scene import TruthTeller, faults, objects, write_scene

TILING, DENSITY = Tiling(600, 0.2), 25e-6
NEEDED_GB, NEEDED_GROWTH, NEEDED_MERGE_S = 1.5, 4.6, 5.0


def look(path: str, side: int) -> dict[str, object]:
    """Predict one scene, in a separate process, to measure its memory."""
    truth = objects(side, round(side * side * DENSITY))
    predictor = TruthTeller(truth)
    begin, cpu = time.perf_counter(), time.process_time()
    with open_scene(path) as scene:
        found = predict_scene(predictor, scene, TILING, overview=Overview(scene.size))
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    # VmHWM, because the peak that getrusage tells is never below that of the process which started this one
    status = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    return {"side_px": side, "objects": len(truth), "windows": predictor.looks, "seconds": round(seconds, 2),
            "cpu_seconds": round(cpu, 2), "peak_gb": round(peak * 1024 / 1e9, 3),
            "faults": faults(found, truth)}  # fmt: skip


def merging(boxes: int) -> dict[str, object]:
    """Merge the windows' detections of a scene with that many boxes in total."""
    side = round((boxes / 1.75 / DENSITY) ** 0.5)  # at 600 px and 20 % a small object is seen by 1.75 windows
    truth, windows = objects(side, round(side * side * DENSITY)), grid((side, side), TILING.window, TILING.overlap)
    by_column = truth[truth.boxes[:, 0].argsort()]
    found = []
    for window in windows:
        x1, y1, x2, y2 = window.xyxy
        first, last = torch.searchsorted(by_column.boxes[:, 0].contiguous(), torch.tensor([x1 - 1000.0, x2])).tolist()
        near = by_column[first:last]
        low, high = (
            near.boxes[:, :2].clamp_min(torch.tensor([x1, y1])),
            near.boxes[:, 2:].clamp_max(torch.tensor([x2, y2])),
        )
        seen = (high > low).all(1)
        found.append(type(near)(torch.cat((low, high), 1)[seen], near.scores[seen], near.labels[seen], near.names))
    begin = time.perf_counter()
    merged = merge(found, windows, (side, side), 0.45)
    return {"boxes": sum(map(len, found)), "objects": len(truth), "seconds": round(time.perf_counter() - begin, 2),
            "faults": faults(merged, truth)}  # fmt: skip


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--sides", type=int, nargs="+", default=[10_000, 20_000])
    words.add_argument("--boxes", type=int, default=100_000)
    words.add_argument("--look", nargs=2, help=argparse.SUPPRESS)
    given = words.parse_args()
    if given.look:
        tune_malloc()  # as the command line does
        print(json.dumps(look(given.look[0], int(given.look[1]))))
        return
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for side in given.sides:
            scene = write_scene(Path(folder) / f"{side}.tif", side)
            command = [sys.executable, __file__, "--look", str(scene), str(side)]
            results.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
            print(json.dumps(results[-1]), flush=True)
    merged = merging(given.boxes)
    print(json.dumps(merged))
    area = (results[-1]["side_px"] / results[0]["side_px"]) ** 2
    growth = results[-1]["cpu_seconds"] / results[0]["cpu_seconds"]
    print(json.dumps({"growth": round(growth, 2), "area": area}))
    good = not any(result["faults"] for result in [*results, merged])
    good &= all(result["peak_gb"] < NEEDED_GB for result in results) and merged["seconds"] < NEEDED_MERGE_S
    sys.exit(0 if good and growth <= NEEDED_GROWTH * area / 4 else 1)


if __name__ == "__main__":
    main()
