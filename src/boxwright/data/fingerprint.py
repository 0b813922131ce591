"""Fingerprints of data sets, so that a run is not resumed with different images or labels.

Folders are not part of it, so a data set may be moved.
"""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from boxwright import files
from boxwright.arrays import Array

Kind = Literal["sample", "content"]
END_BYTES = 4096  # at both ends of a file, for `sample`
BLOCK = 1 << 20


def fingerprint(columns: Sequence[Array], names: Sequence[str], paths: Sequence[str], kind: Kind) -> str:
    """Hash labels, class names and image files.

    Args:
        columns: Label arrays, in the order of the images.
        names: Class names.
        paths: Image files.
        kind: What is hashed besides the name of a file. sample: its size and 4 KiB at both ends, which practically
            identifies an image. content: all of it, which takes as long as reading the data set.
    """
    digest = hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape"))
    for column in columns:
        digest.update(str(column.shape).encode())
        digest.update(column.tobytes())
    with ThreadPoolExecutor(16) as pool:  # hides the latency of network file systems
        for image in pool.map(lambda path: image_digest(path, kind), paths):
            digest.update(image)
    return f"{kind} {digest.hexdigest()}"


def image_digest(path: str, kind: Kind) -> bytes:
    """SHA-256 of an image's file name, size and content, as `fingerprint` has it; of "unreadable" for its content."""
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
    return digest.digest()
