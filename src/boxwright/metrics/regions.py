"""Where detections are ignored beyond the crowd regions of their class.

N boxes, R regions, K classes
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from boxwright.arrays import Array
from boxwright.data.dataset import ANY_CLASS, Sample

if TYPE_CHECKING:
    from boxwright.types import Detections


def class_regions(sample: Sample, detections: "Detections") -> tuple[Array, NDArray[np.int64]]:
    """Crowd regions of single classes that ignore what the sample says of several: boxes (R, 4) and labels (R,).

    They are the ignore regions, and for each class that was not looked for a region around all detections: then only
    those on an object of the class count, as with LVIS's `not_exhaustive_category_ids`; without such an object none
    does, as for LVIS's unknown classes. Only classes with detections have regions, since others need none.
    """
    regions = sample.boxes[sample.crowd & (sample.labels == ANY_CLASS)]
    detected = np.unique(detections.labels.numpy(force=True)).astype(np.int64)
    boxes, labels = np.repeat(regions, len(detected), axis=0), np.tile(detected, len(regions))
    if sample.labeled is not None and len(detected):
        unknown, found = detected[~sample.labeled[detected]], detections.boxes.numpy(force=True)
        extent = np.concatenate([found[:, :2].min(axis=0), found[:, 2:].max(axis=0)])[None]
        boxes, labels = np.concatenate([boxes, extent.repeat(len(unknown), axis=0)]), np.append(labels, unknown)
    return boxes, labels
