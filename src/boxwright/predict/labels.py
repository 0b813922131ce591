"""Pictures of a data set with its labels drawn, to look at before learning from them."""

import os
from pathlib import Path

import cv2
import numpy as np

from boxwright.data.canvas import read_image
from boxwright.data.class_dataset import ClassSet
from boxwright.data.dataset import Dataset
from boxwright.errors import InputError, printable
from boxwright.files import atomic_write, make_folder
from boxwright.predict.draw import draw_boxes
from boxwright.progress import track


def draw_labels(dataset: Dataset, out: Path, count: int) -> str:
    """Draw `count` pictures, spread evenly over the data set, into the folder `out`; say what was done.

    Raises InputError when a picture cannot be read, and for a folder that cannot be written or holds the pictures.
    """
    refuse_pictures_folder(dataset, out)
    make_folder(out)
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int))
    for index in track(chosen.tolist(), len(chosen), "drawing labels"):
        sample = dataset[index]
        texts = [
            (dataset.names[label] if label >= 0 else "unknown category")
            + (" (crowd)" if crowd else "")
            + (" (difficult)" if hard else "")
            for label, crowd, hard in zip(
                sample.labels.tolist(), sample.crowd.tolist(), sample.difficult.tolist(), strict=True
            )
        ]
        drawn = draw_boxes(read_image(sample.path), sample.boxes, sample.labels.tolist(), texts)
        _, encoded = cv2.imencode(".png", drawn[..., ::-1])
        with atomic_write(out / f"{index:06d}_{Path(sample.path).stem[:60]}.png") as tmp:
            tmp.write_bytes(encoded.tobytes())
    return printable(f"{len(chosen)} of {len(dataset)} pictures of {dataset.split} drawn into {out}")


def refuse_pictures_folder(dataset: Dataset | ClassSet, out: Path) -> None:
    """InputError where `out` holds pictures of the data set, one of which a drawing might replace."""
    folders = {os.path.dirname(dataset.path(index)) for index in range(len(dataset))}  # noqa: PTH120  (100,000s)
    if os.path.realpath(out) in map(os.path.realpath, folders):
        raise InputError(f"{out}: holds pictures of the data set; choose another folder for the drawings")
