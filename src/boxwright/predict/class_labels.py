"""Pictures of a classification set with their class under them, to look at before learning from them."""

from pathlib import Path

import cv2
import numpy as np

from boxwright.data.class_dataset import ClassSet
from boxwright.errors import printable
from boxwright.files import atomic_write, make_folder
from boxwright.predict.draw import captioned
from boxwright.predict.labels import refuse_pictures_folder
from boxwright.progress import track

SIDE = (320, 320)  # px: (longest width, height) of a picture that is shown


def draw_labels(dataset: ClassSet, out: Path, count: int) -> str:
    """Write `count` pictures, spread evenly over the data set, into the folder `out`; say what was done.

    Raises InputError when a picture cannot be read, and for a folder that cannot be written or holds the pictures.
    """
    refuse_pictures_folder(dataset, out)
    make_folder(out)
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int))
    for index in track(chosen.tolist(), len(chosen), "drawing labels"):
        sample = dataset[index]
        drawn = captioned(sample.picture(), SIDE, [dataset.names[sample.label], Path(sample.path).name])
        _, encoded = cv2.imencode(".png", drawn[..., ::-1])
        with atomic_write(out / f"{index:06d}_{Path(sample.path).stem[:60]}.png") as tmp:
            tmp.write_bytes(encoded.tobytes())
    return printable(f"{len(chosen)} of {len(dataset)} pictures of {dataset.split} drawn into {out}")
