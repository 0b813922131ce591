"""Regions where detections are ignored, in addition to the crowd regions of their class.

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
    """Ignore regions, and classes that were not looked for, as crowd regions of single classes: boxes (R, 4) and
    labels (R,).

    A class that was not looked for has a region around all detections: then only detections on an object of the class
    count, as with LVIS's `not_exhaustive_category_ids`; without such an object none counts, as for LVIS's unknown
    classes. Only classes with detections need regions.
    """
    regions = sample.boxes[sample.crowd & (sample.labels == ANY_CLASS)]
    detected = np.unique(detections.labels.numpy(force=True)).astype(np.int64)
    boxes, labels = np.repeat(regions, len(detected), axis=0), np.tile(detected, len(regions))
    if sample.labeled is not None and len(detected):
        unknown, xyxy = detected[~sample.labeled[detected]], detections.boxes.numpy(force=True)
        extent = np.concatenate([xyxy[:, :2].min(axis=0), xyxy[:, 2:].max(axis=0)])[None]
        boxes, labels = np.concatenate([boxes, extent.repeat(len(unknown), axis=0)]), np.append(labels, unknown)
    return boxes, labels
