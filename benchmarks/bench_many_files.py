"""Seconds to open and to check a data set of 100,000 images with a label file each.

    python benchmarks/bench_many_files.py [--images N]

Writes tiny images with 0 to 5 boxes each, always the same, into a temporary folder: in YOLO's layout and in VOC's, 0.9
GB of disk space each. Then fresh processes open it: once without an index, which makes one, and three times with it;
and `boxwright data check --fast` runs on it with an index. Seconds are those of `open_dataset`, and of the process with
its start and imports; `cpu` is the time of both cores in the process. Prints lines of JSON; ends with 1 when
the first opening or the check takes 60 s or more, or a later opening 3 s.
"""

import argparse
import io
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
import PIL
from PIL import Image

from bench_loader import cpu_name

IMAGES, CLASSES, ROUNDS = 100_000, 20, 3
WIDTH, HEIGHT = 64, 48  # px
NEEDED_S, NEEDED_LATER_S, NEEDED_CHECK_S = 60.0, 3.0, 60.0
OPEN = """
import os, sys, time
from boxwright.formats import open_dataset
begin = time.perf_counter()
data = open_dataset(sys.argv[1], sys.argv[2])
seconds, times = time.perf_counter() - begin, os.times()
print(seconds, times.user + times.system, len(data), len(data.rows), "torch" in sys.modules)
"""
OBJECT = """	<object>
		<name>class {}</name>
		<pose>Unspecified</pose>
		<truncated>0</truncated>
		<difficult>0</difficult>
		<bndbox>
			<xmin>{}</xmin>
			<ymin>{}</ymin>
			<xmax>{}</xmax>
			<ymax>{}</ymax>
		</bndbox>
	</object>
"""
XML = """<annotation>
	<folder>JPEGImages</folder>
	<filename>{0}.jpg</filename>
	<path>/data/JPEGImages/{0}.jpg</path>
	<source>
		<database>Unknown</database>
	</source>
	<size>
		<width>64</width>
		<height>48</height>
		<depth>3</depth>
	</size>
	<segmented>0</segmented>
{1}</annotation>
"""


def labels(example_images: int) -> Iterator[list[tuple[int, int, int, int, int]]]:
    """(class, x1, y1, x2, y2) of each box of each image, px."""
    draw = np.random.default_rng(2017)
    for count in draw.integers(0, 6, example_images).tolist():
        corners, sides = draw.integers(0, 30, (count, 2)), draw.integers(2, 17, (count, 2))
        classes = draw.integers(0, CLASSES, (count, 1))
        yield [tuple(row) for row in np.concatenate([classes, corners, corners + sides], axis=1).tolist()]


def yolo_text(boxes: list[tuple[int, int, int, int, int]]) -> str:
    return "".join(
        f"{label} {(x1 + x2) / 2 / WIDTH:.6f} {(y1 + y2) / 2 / HEIGHT:.6f} "
        f"{(x2 - x1) / WIDTH:.6f} {(y2 - y1) / HEIGHT:.6f}\n"
        for label, x1, y1, x2, y2 in boxes
    )


def voc_text(name: str, boxes: list[tuple[int, int, int, int, int]]) -> str:
    return XML.format(name, "".join(OBJECT.format(label, x1 + 1, y1 + 1, x2, y2) for label, x1, y1, x2, y2 in boxes))


def write(folder: Path, layout: str, example_images: int) -> None:
    """A data set with one split: `train` of YOLO, `all` of VOC."""
    draw, encoded = np.random.default_rng(0), io.BytesIO()
    Image.fromarray(draw.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(encoded, "jpeg")
    images, texts = ("images/train", "labels/train") if layout == "yolo_txt" else ("JPEGImages", "Annotations")
    for inner in (images, texts):
        (folder / inner).mkdir(parents=True)
    (folder / "classes.txt").write_text("".join(f"class {label}\n" for label in range(CLASSES)))
    for number, boxes in enumerate(labels(example_images)):
        name = f"{number:012d}"
        (folder / images / f"{name}.jpg").write_bytes(encoded.getvalue())
        if layout == "yolo_txt":
            (folder / texts / f"{name}.txt").write_text(yolo_text(boxes))
        else:
            (folder / texts / f"{name}.xml").write_text(voc_text(name, boxes))


def run(arguments: list[str], cache: Path) -> tuple[str, float]:
    """What a fresh Python prints, and its seconds."""
    begin = time.perf_counter()
    process = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=900, cwd=cache.parent,
        env=os.environ | {"XDG_CACHE_HOME": str(cache)},
    )  # fmt: skip
    if process.returncode:
        raise SystemExit(process.stderr)
    return process.stdout, time.perf_counter() - begin


def measure(layout: str, example_images: int) -> tuple[dict[str, float], str]:
    """The seconds, and what was found."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, cache = Path(temporary) / "set", Path(temporary) / "cache"
        write(folder, layout, example_images)
        time.sleep(3)  # files that are newer than two seconds are not indexed
        opened, answers = list[tuple[float, float, float]](), set[str]()
        for _ in range(1 + ROUNDS):
            printed, whole = run(["-c", OPEN, str(folder), "train" if layout == "yolo_txt" else "all"], cache)
            seconds, processor, *found = printed.split()
            opened.append((float(seconds), float(processor), whole))
            answers.add("{} images, {} boxes, torch imported: {}".format(*found))
        (file,) = cache.rglob("*.npz")
        size = file.stat().st_size / 1e6
        _, check = run(["-m", "boxwright", "data", "check", str(folder), "--fast"], cache)
    (answer,) = answers  # the same each time
    later = [statistics.median(row[column] for row in opened[1:]) for column in range(3)]
    keys = ("first_s", "first_cpu_s", "first_process_s", "later_s", "later_cpu_s", "later_process_s")
    values = dict(zip(keys, (*opened[0], *later), strict=True))
    values |= {"ratio": opened[0][0] / later[0], "check_fast_s": check, "index_MB": size}
    return {key: round(value, 2) for key, value in values.items()}, answer


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=IMAGES, help="fewer, to try it out; over 2,000")
    count = parser.parse_args().images
    about = {
        "date": datetime.now(UTC).date().isoformat(), "python": platform.python_version(), "numpy": np.__version__,
        "pillow": PIL.__version__, "cpu": cpu_name(), "cores": os.cpu_count(),
        "load": [round(load, 1) for load in os.getloadavg()],
    }  # fmt: skip
    print(json.dumps(about))
    fits = True
    for layout in ("yolo_txt", "voc"):
        values, found = measure(layout, count)
        print(json.dumps({"layout": layout, "found": found} | values), flush=True)
        fits &= values["first_s"] < NEEDED_S and values["later_s"] < NEEDED_LATER_S
        fits &= values["check_fast_s"] < NEEDED_CHECK_S
    return 0 if fits else 1


if __name__ == "__main__":
    sys.exit(main())
