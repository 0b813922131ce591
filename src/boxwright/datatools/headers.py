"""Headers of the images of a data set that is checked."""

from collections.abc import Sequence

import numpy as np

from boxwright.data.mirror_cache import MirrorCache
from boxwright.images.header import Header, read_headers
from boxwright.progress import track


def checked_headers(paths: Sequence[str], split: str, decode: bool | None) -> list[Header]:
    """`read_headers` with a progress bar. Images of archives are read only once unless they have a fault or `decode` is
    not False.

    Raises InputError as `read_headers`.
    """
    title = f"checking {split}"
    if decode is not False:
        return list(track(read_headers(paths, decode), len(paths), title))
    cache = MirrorCache("headers", paths, 3, np.int64)
    headers = [Header((height, width), orientation) for height, width, orientation in cache.rows.tolist()]
    missing = cache.missing()
    read = read_headers([paths[index] for index in missing])
    for index, header in zip(missing, track(read, len(missing), title), strict=True):
        headers[index] = header
        if not header.fault and not header.not_rgb:
            cache.add(index, [*header.size, header.orientation])
    cache.save()
    return headers
