"""A cache of values read from each image of an archive, so that 100,000s of images are not read at every start.

    P images

The files of a mirror (`mirrors.py`) never change, so values that depend only on their content stay valid. They are kept
in the folder of the mirror for each list of images, in the format of `data/index.py`. Labels, class names and settings
may change, so values that depend on them are not cached but computed at every start.
"""

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from boxwright import mirrors
from boxwright.arrays import Array
from boxwright.data import index
from boxwright.errors import InputError
from boxwright.json_text import JsonObject

logger = logging.getLogger(__name__)

MIN_IMAGES = 2000  # fewer are read in less than half a second


class MirrorCache:
    """A row of numbers for each of P images, cached if all images are in mirrors.

    Attributes:
        rows: (P, N); zeros for an image that is still to be read.
    """

    def __init__(self, kind: str, paths: Sequence[str], width: int, dtype: DTypeLike) -> None:
        """Load the cached rows.

        Args:
            kind: What was read; the first word of the file name.
            paths: The P images.
            width: Length N of a row.
            dtype: Type of the rows.
        """
        self.rows: Array = np.zeros((len(paths), width), dtype)
        self._place: Path | None = None
        self._has_new = False
        folder = _mirror(paths) if len(paths) >= MIN_IMAGES else None
        if folder is None:
            return
        files = hashlib.sha256("\0".join(paths).encode("utf-8", "surrogateescape")).hexdigest()
        try:
            self._stamp = {"kind": kind, "files": files, **index.versions()}
        except OSError:  # code that cannot be read
            return
        self._place = index.place(kind, files, folder)
        stored = index.load(self._place, self._stamp, self._checked)
        self.rows = self.rows if stored is None else stored

    def _checked(self, columns: Mapping[str, Array], _: JsonObject) -> Array:
        rows = columns["rows"]
        index.check_fits(rows, self.rows.dtype.str, *self.rows.shape)
        return rows

    def missing(self) -> list[int]:
        """The indices of the images that must still be read."""
        return np.flatnonzero(~self.rows.any(axis=1)).tolist()

    def add(self, number: int, row: Sequence[int] | Array) -> None:
        """Set the row of an image that was read. Not for an unreadable image, since it may be readable later."""
        self.rows[number] = row
        self._has_new = True

    def save(self) -> None:
        """Write the rows, if there are new ones. Logs a warning if they cannot be written."""
        if self._place is not None and self._has_new:
            try:
                index.save(self._place, self._stamp, {"rows": self.rows}, {})
            except InputError as error:
                logger.warning("images of archives are read again at the next start: %s", error)


def _mirror(paths: Sequence[str]) -> str | None:
    """The folder of a mirror of the images; None if an image is not in a mirror, so that its content may change."""
    folders = {os.path.dirname(path) for path in paths}  # noqa: PTH120  (100,000s)
    found = [mirrors.split(folder) for folder in folders]
    return None if None in found else min(place[0] for place in found if place is not None)
