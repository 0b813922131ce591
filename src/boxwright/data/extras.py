"""What the files of a data set say beyond what detectors learn from: outlines, ground sample distances, licenses.

    P pictures, T boxes in all

Learning needs none of it, so the readers leave it in the files; a conversion fetches it from there once more.
"""

from dataclasses import dataclass, field
from typing import Any

Keys = dict[str, Any]  # key -> a JSON value


@dataclass(frozen=True, slots=True)
class Extras:
    """rows: T, images: P, classes: as many as there are, each the further keys of that one, in the data set's order.

    A row's `segmentation` is its outline as COCO writes it: a list of polygons [x1, y1, x2, y2, ...] px, or a mask.
    whole: further keys of the data set itself.
    """

    rows: list[Keys]
    images: list[Keys]
    classes: list[Keys] = field(default_factory=list)
    whole: Keys = field(default_factory=dict)
