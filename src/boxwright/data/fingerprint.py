"""What a data set holds, as one word that changes when a picture or a label does.

So that a run is not resumed on other data. Where the pictures lie does not count: a data set may be moved.
"""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from boxwright import files
from boxwright.data.dataset import Array

Kind = Literal["sample", "content"]
END = 4096  # bytes at both ends of a file that a sample looks at
BLOCK = 1 << 20


def fingerprint(columns: Sequence[Array], names: Sequence[str], paths: Sequence[str], kind: Kind) -> str:
    """Of label `columns` in the pictures' order, class `names`, and the files of the pictures at `paths`.

    kind: what of a file counts beside its name. sample: its size and 4 KiB at both ends, which another picture will
    hardly share; content: all of it, which takes as long as reading the data set.
    """
    digest = hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape"))
    for column in columns:
        digest.update(str(column.shape).encode())
        digest.update(column.tobytes())
    with ThreadPoolExecutor(16) as pool:  # a file server answers many as fast as one
        for one in pool.map(lambda path: _picture(path, kind), paths):
            digest.update(one)
    return f"{kind} {digest.hexdigest()}"


def _picture(path: str, kind: Kind) -> bytes:
    digest = hashlib.sha256(os.fsencode(os.path.basename(path)))  # noqa: PTH119
    try:
        with files.open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            digest.update(b"\0%d\0" % size)
            if kind == "content":
                while block := file.read(BLOCK):
                    digest.update(block)
            else:
                digest.update(file.read(END))
                file.seek(max(size - END, 0))
                digest.update(file.read(END))
    except OSError:  # read by the training, too, which then says more
        digest.update(b"unreadable")
    return digest.digest()
