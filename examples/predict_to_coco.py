"""Predict a folder of images into one JSON in COCO's format, with the score of each box.

    python examples/predict_to_coco.py runs/mine photos found.json

The JSON is a data set of its own: label tools import it to correct the boxes. For a table of millions of images see
docs/batch_prediction.md.
"""

import json
import sys
from pathlib import Path

import boxwright as bw

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}


def main(weights: str, folder: str, out: str, threshold: float = 0.3) -> int:
    """Write the boxes from `threshold` on, and return their number."""
    predictor = bw.load(weights)
    files = sorted(file for file in Path(folder).rglob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        sys.exit(f"{folder}: this folder holds no image")
    categories = range(1, len(predictor.names) + 1)  # COCO counts from 1
    images, annotations = [], []
    for number, found in enumerate(predictor(iter(files), threshold), 1):  # an iterator is read batch by batch
        height, width = found.size
        name = Path(found.path).relative_to(folder).as_posix()
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        for row in bw.interop.to_coco(found, number, categories):
            _, _, box_width, box_height = row["bbox"]
            annotations.append({"id": len(annotations) + 1, "area": box_width * box_height, "iscrowd": 0} | row)
    named = [{"id": number, "name": name} for number, name in zip(categories, predictor.names, strict=True)]
    content = {"images": images, "annotations": annotations, "categories": named}
    Path(out).write_text(json.dumps(content), encoding="utf-8")
    print(f"{out}: {len(annotations)} boxes in {len(images)} images")
    return len(annotations)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
