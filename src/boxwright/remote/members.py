"""Read the members of a mirror (`mirrors.py`) that represent remote objects.

Their content is fetched completely into the cache; of a large TIFF, only the ranges that are read.
"""

import errno
import io
import os
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from boxwright import mirrors
from boxwright.errors import InputError
from boxwright.mirrors import Member, Source
from boxwright.remote import cache
from boxwright.remote.objects import RemoteObject, fetch, local_object, open_object, read_range
from boxwright.remote.stores import is_usable

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

TIFF = (".tif", ".tiff")
RANGED = 8 << 20  # bytes; larger TIFFs are read in ranges
BLOCK = 1 << 17  # bytes per read at least
BLOCKS = 64  # kept per open file


def remote_object(source: Source, member: Member) -> RemoteObject:
    """The object that a member represents; its version may be followed by an address that differs from its path."""
    version, _, uri = member.version.partition("\n")
    return RemoteObject(uri or f"{source.address}/{member.name}", member.size, version)


def open_member(source: Source, member: Member) -> BinaryIO:
    """Open the content of a member. Raises OSError if it cannot be read."""
    wanted = remote_object(source, member)
    try:
        if _has_ranges(wanted) and is_usable() and not cache.has(wanted.file):
            return cast(BinaryIO, Ranges(wanted))
        return open_object(wanted)
    except InputError as error:
        raise _os_error(error) from error


def local_member(source: Source, member: Member) -> Path:
    """A file with the content of a member. Raises OSError if it cannot be read."""
    try:
        return local_object(remote_object(source, member))
    except InputError as error:
        raise _os_error(error) from error


def prefetch(paths: Iterable[str | Path], *, skip_ranged: bool = False) -> None:
    """Fetch the objects that paths represent, many in parallel, to hide latency.

    Args:
        paths: Paths; those that do not represent objects, or members that an archive lacks, are ignored.
        skip_ranged: Leave out objects that can be read in ranges.

    Raises:
        InputError: One cannot be read.
    """
    objects = []
    for path in paths:
        with suppress(OSError):
            if (place := mirrors.find(path)) is not None and place[0].kind == "remote":
                objects.append(remote_object(*place))
    fetch([each for each in objects if not (skip_ranged and _has_ranges(each))])


def is_ranged(path: str | Path) -> bool:
    """Whether a path is opened as ranges of an object; False for one that cannot be opened."""
    try:
        found = mirrors.find(path)
    except OSError:
        return False
    if found is None or found[0].kind != "remote":
        return False
    wanted = remote_object(*found)
    return _has_ranges(wanted) and is_usable() and not cache.has(wanted.file)


def _has_ranges(wanted: RemoteObject) -> bool:
    return wanted.size >= RANGED and wanted.uri.lower().endswith(TIFF)


def _os_error(error: InputError) -> OSError:
    """OSError with the reason only, since callers name the file."""
    return OSError(errno.EIO, str(error).partition(": ")[2])


class Ranges(io.RawIOBase):
    """Object that is read in ranges, with an LRU cache of blocks. Reading all of it fetches it into the cache.

    Reading raises OSError if a range cannot be read.
    """

    def __init__(self, wanted: RemoteObject) -> None:
        self._object, self._position = wanted, 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._object.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        content = self._content(min(len(view), self._object.size - self._position))
        view[: len(content)] = content
        self._position += len(content)
        return len(content)

    def readall(self) -> bytes:
        try:
            with open_object(self._object) as file:
                file.seek(self._position)
                content = file.read()
        except InputError as error:
            raise _os_error(error) from error
        self._position += len(content)
        return content

    def _content(self, count: int) -> bytes:
        """`count` bytes from the position on; missing blocks are fetched by one request."""
        if count <= 0:
            return b""
        first, last = self._position // BLOCK, (self._position + count - 1) // BLOCK
        if missing := [number for number in range(first, last + 1) if number not in self._blocks]:
            start = missing[0] * BLOCK
            try:
                content = read_range(self._object, start, min((missing[-1] + 1) * BLOCK, self._object.size) - start)
            except InputError as error:
                raise _os_error(error) from error
            for number in range(missing[0], missing[-1] + 1):
                self._blocks[number] = content[number * BLOCK - start : (number + 1) * BLOCK - start]
        parts = b"".join(self._blocks[number] for number in range(first, last + 1))
        for number in range(first, last + 1):
            self._blocks.move_to_end(number)
        while len(self._blocks) > BLOCKS:
            self._blocks.popitem(last=False)
        return parts[self._position - first * BLOCK :][:count]
