"""Fingerprints of data sets, so that a run is not resumed with different images or labels.

Folders are not part of it, so a data set may be moved.
"""

import hashlib
import os
from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np

from boxwright import files
from boxwright.arrays import Array
from boxwright.data.mirror_cache import MirrorCache

Kind = Literal["sample", "content"]
END_BYTES = 4096  # at both ends of a file, for `sample`
BLOCK = 1 << 20
THREADS = 16


def fingerprint(columns: Sequence[Array], names: Sequence[str], paths: Sequence[str], kind: Kind) -> str:
    """Hash labels, class names and image files.

    Args:
        columns: Label arrays, in the order of the images.
        names: Class names.
        paths: Image files.
        kind: What is hashed besides the name of a file. sample: its size and 4 KiB at both ends, which practically
            identifies an image; in archives these are read only once. content: the whole file, which takes as long as
            reading the data set.
    """
    digest = hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape"))
    for column in columns:
        digest.update(str(column.shape).encode())
        digest.update(column.tobytes())
    for image in _digests(paths, kind):
        digest.update(image)
    return f"{kind} {digest.hexdigest()}"


def image_digest(path: str, kind: Kind) -> bytes:
    """SHA-256 of an image's file name, size and content, as in `fingerprint`; of "unreadable" for missing content."""
    return _digest(path, kind)[0]


def _digests(paths: Sequence[str], kind: Kind) -> list[bytes]:
    """`image_digest` of each image."""
    if kind == "content":
        return list(files.read_in_threads(partial(image_digest, kind=kind), paths, THREADS))
    cache = MirrorCache("digests", paths, hashlib.sha256().digest_size, np.uint8)
    digests, missing = [row.tobytes() for row in cache.rows], cache.missing()
    read = files.read_in_threads(partial(_digest, kind=kind), [paths[index] for index in missing], THREADS)
    for index, (digest, is_complete) in zip(missing, read, strict=True):
        digests[index] = digest
        if is_complete:
            cache.add(index, np.frombuffer(digest, np.uint8))
    cache.save()
    return digests


def _digest(path: str, kind: Kind) -> tuple[bytes, bool]:
    """`image_digest`, and whether the content could be read."""
    digest = hashlib.sha256(os.fsencode(os.path.basename(path)))  # noqa: PTH119
    try:
        with files.open_regular(path) as file:
            size = files.length(file)
            digest.update(b"\0%d\0" % size)
            if kind == "content":
                while block := file.read(BLOCK):
                    digest.update(block)
            else:
                digest.update(file.read(END_BYTES))
                file.seek(max(size - END_BYTES, 0))
                digest.update(file.read(END_BYTES))
    except OSError:  # training reports it when it reads the image
        digest.update(b"unreadable")
        return digest.digest(), False
    return digest.digest(), True
