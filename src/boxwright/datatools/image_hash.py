"""Perceptual hashes of images, and the near-duplicates among them.

The hash is the difference hash (dHash) of N. Krawetz, "Kind of Like That", hackerfactor.com, 2013: whether a pixel of a
tiny gray version is brighter than its neighbor, here the right one and the lower one, 64 bits each. It changes little
when an image is resized, compressed again, or made brighter.

P images
"""

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from boxwright import files
from boxwright.arrays import Array
from boxwright.cache import cache_folder
from boxwright.errors import InputError
from boxwright.images.decode import read_image
from boxwright.progress import track

logger = logging.getLogger(__name__)

Hashes = NDArray[np.uint8]  # (P, 16)
Rows = NDArray[np.int64]

VERSION = 1  # of the hash, in the names of cache files
BYTES = 16
SIDE = 9  # px of the gray version
MIN_SIZE = (4 * SIDE, 4 * SIDE)  # px to which a JPEG may be reduced while it is decoded
FLAT = 8  # gray levels; an image with a smaller range has no gradients to compare
# Different bits of near-duplicates. In eight public sets, nine of ten copies that were resized, compressed or
# brightened had at most 6 (9 in low contrast); different images mostly had 12 or more, except frames of a video.
MAX_DISTANCE = 6
CHUNK = 256  # images read together
MIN_CACHED = 500  # images from which on hashes are cached; fewer take a second


def near_duplicates(sources: Sequence[str | Array], cache: str | Path | None = None) -> Rows:
    """Group near-duplicates, also those that are connected only through other images.

    Args:
        sources: Image files or (h, w, 3) uint8 RGB arrays.
        cache: Folder in which hashes of image files are cached; None or "" for the user's cache folder.

    Returns:
        (P,) the index of the first image of each image's group. An unreadable image is a separate group.
    """
    hashes, readable = hashes_of(sources, cache)
    labels, rows = np.arange(len(hashes)), np.flatnonzero(readable)
    unique, inverse = np.unique(hashes[rows], axis=0, return_inverse=True)
    labels[rows] = rows[_first_of_each(_connect(unique)[inverse.reshape(-1)])]
    return labels


def hashes_of(sources: Sequence[str | Array], cache: str | Path | None = None) -> tuple[Hashes, NDArray[np.bool_]]:
    """(P, 16) hashes, and (P,) whether the image could be read. Arguments as in `near_duplicates`."""
    file = _cache_file(sources, cache) if len(sources) >= MIN_CACHED else None
    if file is not None and (cached := _read_cached(file, len(sources))) is not None:
        return cached
    found = list(track(_each_hash(sources), len(sources), "comparing images"))
    readable = np.array([bits is not None for bits in found], dtype=bool)
    blank = bytes(BYTES)
    hashes = np.frombuffer(b"".join(bits or blank for bits in found), np.uint8).reshape(-1, BYTES)
    if file is not None:
        try:
            with files.atomic_write(files.make_folder(file.parent) / file.name) as tmp, tmp.open("wb") as stream:
                np.save(stream, np.column_stack([hashes, readable.astype(np.uint8)]), allow_pickle=False)
        except InputError as error:
            logger.warning("hashes of images cannot be cached, so they are computed every time: %s", error)
    return hashes, readable


def image_hash(image: Array) -> bytes:
    """The 16 bytes of an image, (h, w, 3) uint8 RGB."""
    small = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    if int(small.max()) - int(small.min()) < FLAT:  # equal only to an image with the same colors
        colors = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        return hashlib.blake2b(colors.tobytes(), digest_size=BYTES).digest()
    right, down = small[:-1, 1:] > small[:-1, :-1], small[1:, :-1] > small[:-1, :-1]
    return np.packbits([right, down]).tobytes()


def merge(labels: Rows, a: Rows, b: Rows) -> Rows:
    """Merge the groups of images `a` with those of images `b`.

    labels: (P,) the index of the first image of each image's group. Returns the new labels.
    """
    while True:
        pairs = np.stack([labels[a], labels[b]])
        differ = pairs[0] != pairs[1]
        if not differ.any():
            return labels
        a, b, pairs = a[differ], b[differ], pairs[:, differ]
        labels = labels.copy()
        np.minimum.at(labels, pairs.max(axis=0), pairs.min(axis=0))
        while (labels[labels] != labels).any():
            labels = labels[labels]


def _each_hash(sources: Sequence[str | Array]) -> Iterator[bytes | None]:
    with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as pool:
        for start in range(0, len(sources), CHUNK):
            yield from pool.map(_hash_of, sources[start : start + CHUNK])


def _hash_of(source: str | Array) -> bytes | None:
    """The hash of an image; None if it is unreadable, which checks of the data set report."""
    try:
        return image_hash(read_image(source, MIN_SIZE) if isinstance(source, str) else source)
    except InputError:
        return None


def _first_of_each(keys: Rows) -> Rows:
    """(P,) the index of the first row with the same key."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return first[inverse.reshape(-1)]


def _connect(hashes: Hashes) -> Rows:
    """Group distinct hashes that are connected by distances of at most MAX_DISTANCE bits.

    Of MAX_DISTANCE + 1 sections of two such hashes, at least one is equal (G. S. Manku, A. Jain, A. Das Sarma,
    "Detecting Near-Duplicates for Web Crawling", WWW 2007), so only hashes that share a section are compared: sorted by
    it, each with the next, then each with the one after the next, and so on.
    """
    labels = np.arange(len(hashes))
    words, bits = np.ascontiguousarray(hashes).view(np.uint64), np.unpackbits(hashes, axis=1)
    for columns in np.array_split(np.arange(8 * BYTES), MAX_DISTANCE + 1):
        keys = bits[:, columns] @ (1 << np.arange(len(columns)))
        order = np.argsort(keys, kind="stable")
        keys, at, step = keys[order], np.arange(len(order) - 1), 1
        while len(at := at[keys[at] == keys[at + step]]):
            a, b = order[at], order[at + step]
            apart = labels[a] != labels[b]
            a, b = a[apart], b[apart]
            near = np.bitwise_count(words[a] ^ words[b]).sum(axis=1) <= MAX_DISTANCE
            labels = merge(labels, a[near], b[near])
            step += 1
            at = at[at + step < len(order)]
    return labels


def _cache_file(sources: Sequence[str | Array], cache: str | Path | None) -> Path | None:
    """The file of the hashes of these image files as they are now; None if they are not all files."""
    digest = hashlib.sha256(str(VERSION).encode())
    try:
        folder = Path(cache) if cache else cache_folder()
        for source in sources:
            if not isinstance(source, str):
                return None
            stat = os.stat(source)  # noqa: PTH116  (100,000s of them)
            digest.update(os.fsencode(os.path.abspath(source)))  # noqa: PTH100
            digest.update(b"\0%d %d %d\0" % (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    except (OSError, RuntimeError, ValueError):  # a missing image, or a user without a home folder
        return None
    return folder / f"hashes-{digest.hexdigest()[:32]}.npy"


def _read_cached(file: Path, count: int) -> tuple[Hashes, NDArray[np.bool_]] | None:
    try:
        with files.open_regular(file) as stream:
            values = np.load(stream, allow_pickle=False)
    except Exception:  # not there, or damaged: NumPy raises many types of errors
        return None
    if values.shape != (count, BYTES + 1) or values.dtype != np.uint8:
        return None
    return values[:, :BYTES], values[:, BYTES] > 0
