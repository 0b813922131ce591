"""Seconds and memory to open COCO's largest label file: the first time, and from its index.

    python benchmarks/bench_index.py [--images N]

Writes a JSON as large as COCO 2017's train labels (118,287 images, 860,001 boxes with outlines, some 450 MB) into a
temporary folder, always the same bytes. Then fresh processes open it: once without an index, which makes one, and
three times with it. Seconds are those of `open_dataset`, and of the whole process with its start and imports; memory is
the largest resident size of that process. Prints lines of JSON; ends with 1 when the first opening takes 30 s or more,
or a later one 1 s or 300 MB.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from bench_loader import cpu_name

IMAGES, BOXES_A_IMAGE, ROUNDS, PART = 118_287, 860_001 / 118_287, 3, 4096
NEEDED_S, NEEDED_LATER_S, NEEDED_LATER_MB = 30.0, 1.0, 300.0
# VmHWM, because the peak that getrusage tells is never below that of the process which started this one.
OPEN = """
import sys, time
from pathlib import Path
from boxwright.formats import open_dataset
begin = time.perf_counter()
data = open_dataset(sys.argv[1], "train", cache=sys.argv[2])
seconds = time.perf_counter() - begin
(peak,) = (line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(seconds, int(peak) * 1024 / 1e6, len(data), len(data.rows), "torch" in sys.modules)
"""


def entries(example_images: int) -> Iterator[tuple[str, str]]:
    """The texts of `images` and `annotations`, some thousand images at a time."""
    draw = np.random.default_rng(2017)
    total, number = round(example_images * BOXES_A_IMAGE), 0
    counts = draw.multinomial(total, draw.dirichlet(np.full(example_images, 0.9)))
    for first in range(0, example_images, PART):
        numbers = range(first, min(first + PART, example_images))
        images = [
            {
                "license": 3, "file_name": f"{n:012d}.jpg", "coco_url": f"http://images.example/train2017/{n:012d}.jpg",
                "height": 480, "width": 640, "date_captured": "2013-11-14 11:18:45",
                "flickr_url": f"http://farm.example/3153/{n:010d}_cbb5d8b1a5_z.jpg", "id": n,
            }
            for n in numbers
        ]  # fmt: skip
        annotations = []
        for n in numbers:
            corners = draw.uniform(0, 300, (counts[n], 2)).round(2)
            sides = draw.uniform(4, 170, (counts[n], 2)).round(2)
            points = draw.geometric(1 / 21, counts[n]) + 3
            for (x, y), (w, h), many in zip(corners.tolist(), sides.tolist(), points.tolist(), strict=True):
                outline = draw.uniform(0, 1, (many, 2)) * (w, h) + (x, y)
                number += 1
                annotations.append(
                    {
                        "segmentation": [outline.round(2).ravel().tolist()], "area": round(w * h * 0.6, 4),
                        "iscrowd": 0, "image_id": n, "bbox": [x, y, w, h], "category_id": number % 80 + 1, "id": number,
                    }
                )  # fmt: skip
        yield json.dumps(images)[1:-1], json.dumps(annotations)[1:-1]


def write(folder: Path, example_images: int) -> Path:
    """The JSON, and one of its images: enough for the folder to be found."""
    (folder / "annotations").mkdir()
    (folder / "train2017").mkdir()
    (folder / "train2017" / f"{0:012d}.jpg").touch()
    file = folder / "annotations" / "instances_train2017.json"
    parts = []
    with file.open("w") as opened:
        opened.write('{"info": {}, "licenses": [], "annotations": [')
        for number, (images, annotations) in enumerate(entries(example_images)):
            parts.append(images)
            opened.write(", " * (number > 0 and bool(annotations)) + annotations)
        categories = json.dumps([{"supercategory": "thing", "id": i, "name": f"class {i}"} for i in range(1, 81)])
        opened.write(f'], "images": [{", ".join(parts)}], "categories": {categories}}}')
    return file


def opened(file: Path, cache: Path) -> tuple[float, float, float, str]:
    """Seconds of the opening and of the whole fresh process, its MB, and what it found."""
    begin = time.perf_counter()
    seconds, peak, example_images, boxes, torch = subprocess.run(
        [sys.executable, "-c", OPEN, str(file), str(cache)], capture_output=True, text=True, check=True, timeout=600
    ).stdout.split()
    whole = time.perf_counter() - begin
    return float(seconds), whole, float(peak), f"{example_images} images, {boxes} boxes, torch imported: {torch}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=IMAGES, help="fewer, to try it out")
    with tempfile.TemporaryDirectory() as folder:
        file, cache = write(Path(folder), parser.parse_args().images), Path(folder) / "cache"
        size = file.stat().st_size / 1e6
        first = opened(file, cache)
        later = [opened(file, cache) for _ in range(ROUNDS)]
        indexes = [place.stat().st_size / 1e6 for place in cache.glob("*.npz")]
    assert len(indexes) == 1, "no index was written"
    assert {row[-1] for row in later} == {first[-1]}
    about = {
        "date": datetime.now(UTC).date().isoformat(), "python": platform.python_version(), "numpy": np.__version__,
        "cpu": cpu_name(), "cores": os.cpu_count(), "load": [round(load, 1) for load in os.getloadavg()],
        "json_MB": round(size), "index_MB": round(indexes[0]), "found": first[-1],
    }  # fmt: skip
    print(json.dumps(about))
    middle = [statistics.median(row[column] for row in later) for column in range(3)]
    for what, (seconds, whole, peak) in (("first opening", first[:3]), ("from the index", middle)):
        numbers = {"seconds": round(seconds, 2), "process_s": round(whole, 2), "peak_MB": round(peak)}
        print(json.dumps({"what": what} | numbers))
    return 0 if first[0] < NEEDED_S and middle[0] < NEEDED_LATER_S and middle[2] < NEEDED_LATER_MB else 1


if __name__ == "__main__":
    sys.exit(main())
