"""Reading mirrors: cache folders that stand for an archive or for a folder of an object store.

A mirror is `<cache>/mirrors/<key>/`. Its `tree/` has an empty (sparse) file of the true size for each member, so that
code that lists folders works as on ordinary files. Its `index.sqlite` stores where the content of each member is;
`files.open_regular` reads it from there. `archives/mirror.py` creates mirrors; they never change afterwards.
The folder's modification time is the time of its last use; mirrors that were not used for long are removed.

Nothing here is shared between processes: each process opens the database and the archives itself.
"""

import errno
import importlib
import io
import os
import re
import sqlite3
import threading
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

from boxwright import errors
from boxwright.cache import VARIABLE, cache_folder
from boxwright.locks import lock

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

FOLDER = "mirrors"  # in the cache
TREE, INDEX = "tree", "index.sqlite"
FOREIGN = re.compile(rf"(.*/{FOLDER}/[0-9a-f]{{32}})/{TREE}/")
STORED, DEFLATED = 0, 8  # how the bytes of a member are stored, as ZIP numbers it
MAX_HANDLES = 64  # files that a process keeps open
SMALL = 1 << 16  # bytes; stored members up to this size are read at once, which is faster than in pieces
MAX_INFLATED = 1 << 28  # bytes; limit for a compressed member, which is kept in memory completely
# Kind of a source -> the module that opens its members, a `Reader`; `file` is in this module. Names, since the modules
# are in packages to the right, which a data loader worker has not imported.
READERS: Mapping[str, str] = {"parquet": "boxwright.archives.parquet", "remote": "boxwright.remote.members"}


@dataclass(frozen=True, slots=True)
class Source:
    """A source that members are read from.

    Attributes:
        kind: `file` (bytes of a local file), `parquet` (rows of one), or `remote` (objects below a URI).
        address: Absolute path, or URI without credentials.
        version: Identifies its content: `version_of` for a local file, otherwise defined by its reader.
    """

    kind: str
    address: str
    version: str = ""


@dataclass(frozen=True, slots=True)
class Member:
    """A file of a mirror, and where its content is.

    Attributes:
        name: Path below the tree, with `/`.
        size: Size of the content in bytes.
        source: Index of its source.
        start: First byte in a local file; row of a Parquet file.
        length: Number of bytes there, as stored.
        method: `STORED` or `DEFLATED`, for a local file.
        crc: CRC-32 of the content; None if it is not known.
        version: Version of a remote object (its etag).
    """

    name: str
    size: int
    source: int = 0
    start: int = 0
    length: int = 0
    method: int = STORED
    crc: int | None = None
    version: str = ""


class Reader(Protocol):
    """Interface of the modules in `READERS`."""

    def open_member(self, source: Source, member: Member) -> BinaryIO:
        """Open the content of a member; several threads may read and seek. Raises OSError."""

    def local_member(self, source: Source, member: Member) -> Path:
        """The path of a file with the content of a member; only `remote` has such files. Raises OSError."""


def version_of(path: str | Path) -> str:
    """A string that identifies the content of a local file, without reading it. Raises OSError."""
    return _version(os.stat(path))  # noqa: PTH116


def _version(found: os.stat_result) -> str:
    return f"{found.st_size} {found.st_mtime_ns}"


def root() -> str:
    """The folder of all mirrors, with links resolved, so that resolving the path of a member does not change it. Raises
    RuntimeError as `cache_folder` does."""
    return _root(*map(os.environ.get, (VARIABLE, "XDG_CACHE_HOME", "HOME")))


@lru_cache(maxsize=8)
def _root(*environment: str | None) -> str:
    """`root` for these values of the variables that `cache_folder` reads; cached, since it is called for every file."""
    return os.path.join(os.path.realpath(cache_folder()), FOLDER)  # noqa: PTH118


def split(path: str | Path) -> tuple[str, str] | None:
    """The mirror of a path, and the path below its tree, with `/`, "" for the tree itself; None for other paths.

    Fast, since it is called for every file.
    """
    text = os.fspath(path)
    if f"{os.sep}{FOLDER}{os.sep}" not in text:
        return None
    try:
        base = root()
    except RuntimeError:  # a user without a home has no mirror
        return None
    if not text.startswith(base + os.sep):
        return None
    key, _, rest = os.path.normpath(text[len(base) + 1 :]).replace(os.sep, "/").partition("/")
    tree, _, name = rest.partition("/")
    return (os.path.join(base, key), name) if tree == TREE else None  # noqa: PTH118


def is_foreign(path: str) -> bool:
    """Whether a file without content seems to be in a mirror of another cache; reading it would give zeros."""
    match = FOREIGN.match(path.replace(os.sep, "/"))
    return match is not None and os.path.isfile(os.path.join(match[1], INDEX))  # noqa: PTH113, PTH118


def find(path: str | Path) -> tuple[Source, Member] | None:
    """The member that a path stands for; None for a path outside of mirrors.

    Raises:
        OSError: The mirror has no such file, or it is damaged.
    """
    place = split(path)
    return None if place is None else mirror(place[0]).member(place[1], str(path))


def origin(path: str) -> str:
    """The local file or the URI that the member at a path is read from; other paths are returned unchanged."""
    try:
        found = find(path)
    except OSError:
        return path
    return path if found is None else found[0].address


def is_tree(path: str | Path) -> bool:
    """Whether a path is the whole tree of a mirror."""
    place = split(path)
    return place is not None and not place[1]


def open_member(source: Source, member: Member) -> BinaryIO:
    """Open the content of a member for reading; it can be sought.

    Raises:
        OSError: It cannot be read, or its source is not the one that the mirror was made from.
    """
    if source.kind != "file":
        reader = cast(Reader, importlib.import_module(READERS[source.kind]))
        return reader.open_member(source, member)
    try:
        handle = _handle(source.address)
    except FileNotFoundError as error:
        raise OSError(errno.ESTALE, f"{errors.printable(source.address)} was removed while it was in use") from error
    if _version(os.fstat(handle.number)) != source.version:
        _handle.cache_clear()
        raise OSError(errno.ESTALE, f"{errors.printable(source.address)} has changed since it was opened; start again")
    raw = _Window(handle, member)
    if member.method == DEFLATED:
        return cast(BinaryIO, io.BytesIO(_inflated(raw, member)))
    return cast(BinaryIO, io.BytesIO(raw.readall()) if member.length <= SMALL else io.BufferedReader(raw))


def local_member(source: Source, member: Member) -> Path | None:
    """A file with the content of a remote object, which is in the cache anyway; None for other members.

    Raises:
        OSError: It cannot be read.
    """
    if source.kind != "remote":
        return None
    return cast(Reader, importlib.import_module(READERS[source.kind])).local_member(source, member)


class Mirror:
    """An open mirror: the index of its members. It is not removed while it is open.

    Attributes:
        title: Name of its tree in messages.
        sources: The sources of its members.
    """

    def __init__(self, folder: str) -> None:
        path = os.path.join(folder, INDEX)  # noqa: PTH118
        if not os.path.isfile(path):  # noqa: PTH113  (sqlite's own message has no reason)
            raise OSError(errno.ENOENT, "the cache was removed while it was in use; start again", path)
        uri = f"{Path(path).as_uri()}?mode=ro&immutable=1"  # without locks, since mirrors never change
        self._lock = threading.Lock()
        self._kept = _Handle(path)
        lock(self._kept.number, shared=True)
        self._database = sqlite3.connect(uri, uri=True, check_same_thread=False)
        try:
            self.title = str(self._database.execute("SELECT title FROM mirror").fetchone()[0])
            rows = self._database.execute("SELECT kind, address, version FROM source ORDER BY number").fetchall()
        except (sqlite3.Error, TypeError) as error:
            self._database.close()
            raise OSError(errno.EIO, f"a damaged index ({error}); remove the folder {folder}", path) from error
        self.sources = tuple(Source(*row) for row in rows)
        self._tree = os.path.join(folder, TREE)  # noqa: PTH118
        self.retitle(self.title)

    def retitle(self, title: str) -> None:
        """Set the name of the tree in messages of this process."""
        self.title = title
        errors.set_title(self._tree, title)

    def member(self, name: str, path: str) -> tuple[Source, Member]:
        """A member by its name. path: named in the error. Raises OSError if there is none."""
        try:
            with self._lock:
                row = self._database.execute("SELECT * FROM member WHERE name = ?", (os.fsencode(name),)).fetchone()
        except sqlite3.Error as error:
            raise OSError(errno.EIO, f"a damaged index ({error})", path) from error
        if row is None:
            code = errno.EISDIR if os.path.isdir(path) else errno.ENOENT  # noqa: PTH112
            raise OSError(code, os.strerror(code), path)
        member = Member(os.fsdecode(row[0]), *row[1:])
        return self.sources[member.source], member


_opened: dict[str, Mirror] = {}
_inherited: list[Mirror] = []  # mirrors of the parent process after a fork: neither used nor closed
_opening = threading.Lock()


def mirror(folder: str) -> Mirror:
    """The mirror in a folder, opened once in this process. Messages then call its files by their names in the archive.

    Raises:
        OSError: It is missing or damaged.
    """
    found = _opened.get(folder)
    if found is None:
        with _opening:
            if (found := _opened.get(folder)) is None:
                found = Mirror(folder)
                _opened[folder] = found
    return found


def _after_fork() -> None:
    """SQLite's connections must not be used, or closed, in a forked process."""
    global _opening
    _opening = threading.Lock()
    _inherited.extend(_opened.values())
    _opened.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class _Handle:
    """An open file, closed when nobody reads from it any more."""

    def __init__(self, path: str) -> None:
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        self.number = os.open(path, flags)
        self.lock = threading.Lock()

    def read(self, count: int, start: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self.number, count, start)
        with self.lock:  # Windows
            os.lseek(self.number, start, os.SEEK_SET)
            return os.read(self.number, count)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


@lru_cache(maxsize=MAX_HANDLES)
def _handle(path: str) -> _Handle:
    return _Handle(path)


class _Window(io.RawIOBase):
    """A range of bytes of a file, as stored."""

    def __init__(self, handle: _Handle, member: Member) -> None:
        self._handle, self._start, self._length, self._position = handle, member.start, member.length, 0
        self._crc = member.crc if member.method == STORED else None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        content = self._read(len(view))
        view[: len(content)] = content
        return len(content)

    def readall(self) -> bytes:
        """The remaining bytes; from the start, all of them, so that the checksum is compared."""
        start, parts = self._position, []
        while part := self._read(1 << 30):
            parts.append(part)
        content = parts[0] if len(parts) == 1 else b"".join(parts)
        if start == 0:
            if len(content) != self._length:
                raise OSError(errno.EIO, f"cut off: {len(content)} of {self._length} bytes; get the archive again")
            check(content, self._crc)
        return content

    def _read(self, count: int) -> bytes:
        count = max(0, min(count, self._length - self._position))
        content = self._handle.read(count, self._start + self._position)
        self._position += len(content)
        return content


def check(content: bytes, crc: int | None) -> None:
    """Raise OSError if the CRC-32 of the content is not `crc`."""
    if crc is not None and zlib.crc32(content) != crc:
        raise OSError(errno.EIO, "damaged: its checksum is not the archive's; get the archive again")


def _inflated(raw: _Window, member: Member) -> bytes:
    """The content of a deflated member, never more than it declares."""
    if member.size > MAX_INFLATED:
        reason = f"compressed, with {member.size:,} bytes, more than the {MAX_INFLATED:,} that are read at once"
        raise OSError(errno.EFBIG, f"{reason}; store it without compression (zip -0)")
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = stream.decompress(raw.readall(), member.size + 1)
    except zlib.error as error:
        raise OSError(errno.EIO, f"damaged: cannot be decompressed ({error}); get the archive again") from error
    if len(content) != member.size:
        raise OSError(errno.EIO, f"damaged: its size is not the declared {member.size:,} bytes; get the archive again")
    check(content, member.crc)
    return content
