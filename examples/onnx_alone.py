"""Run an exported detector with ONNX Runtime alone: neither boxwright nor PyTorch is imported.

    boxwright export runs/mine --to onnx --with-nms -o mine.onnx
    python examples/onnx_alone.py mine.onnx photo.jpg

Needs numpy, onnxruntime and Pillow. The file contains resizing, network, decoding and NMS; its threshold is that of the
recipe (`--set predict.threshold=0.4` of the export changes it).
"""

import json
import os
import sys

import numpy as np
import PIL.Image
import PIL.ImageOps

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the import
import onnxruntime


def detect(file: str, photo: str) -> list[tuple[str, float, list[float]]]:
    """Returns class name, score and box (x1, y1, x2, y2 in px of the image) of each object, best score first."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    metadata = json.loads(session.get_modelmeta().custom_metadata_map["boxwright"])
    names = metadata["recipe"]["data"]["names"]
    with PIL.Image.open(photo) as opened:
        image = PIL.ImageOps.exif_transpose(opened).convert("RGB")  # cameras store how they were held
    boxes, scores, labels = session.run(["boxes", "scores", "labels"], {"images": np.asarray(image)[None]})
    found = labels[0] >= 0  # the rest is padding
    rows = zip(labels[0][found].tolist(), scores[0][found].tolist(), boxes[0][found].tolist(), strict=True)
    return [(names[label], score, box) for label, score, box in rows]


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    for name, score, box in detect(*sys.argv[1:]):
        print(name, round(score, 4), [round(value, 1) for value in box])
