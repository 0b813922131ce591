"""Rows of Parquet files as members of a mirror: each image is read from its row group.

pyarrow comes with the extra `parquet`. A process keeps the images of the row groups that it read last.
"""

import bisect
import errno
import io
import itertools
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

from boxwright import mirrors
from boxwright.archives.mirror import make_mirror
from boxwright.errors import InputError
from boxwright.extras import first_line, import_extra
from boxwright.files import local_file, open_regular
from boxwright.mirrors import Member, Source
from boxwright.progress import track

logger = logging.getLogger(__name__)

MAX_GROUP = 1 << 27  # bytes of images per row group, which is read as a whole and then takes four times as much
SLOW_GROUP = 1 << 25  # bytes above which training is slow, as it visits images in random order
CACHE_BYTES = 1 << 27  # of row groups that a process keeps
MAX_FILES = 64  # files that a process keeps open
MAGIC = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"RI": ".webp", b"BM": ".bmp", b"II": ".tif", b"MM": ".tif",
         b"GI": ".gif"}  # fmt: skip


class ParquetFile:
    """An open Parquet file with a column of images.

    Attributes:
        address: Its path.
        version: The version of its source.
        column: The path of the column with the bytes of the images, such as `image.bytes`.
        starts: The first row of each row group.
    """

    def __init__(self, address: str, version: str) -> None:
        self.address, self.version = address, version
        self._file = open_parquet(address, address)
        self._lock = threading.Lock()
        self.column = image_column(self._file.schema_arrow, address)
        counts = [self._file.metadata.row_group(number).num_rows for number in range(self._file.num_row_groups)]
        self.starts = [0, *itertools.accumulate(counts)]

    def group(self, number: int) -> Any:
        """The images of a row group, a chunked array of bytes. Raises InputError if it is damaged or too large."""
        size = self.size(number)
        if size > MAX_GROUP:
            raise InputError(
                f"{self.address}: row group {number} has {size:,} bytes of images, more than the {MAX_GROUP:,} that "
                "are read at once; rewrite it with fewer rows per group"
            )
        compute = import_extra("pyarrow.compute", "parquet")
        arrow = import_extra("pyarrow", "parquet")
        try:
            with self._lock:
                table = self._file.read_row_group(number, columns=[self.column], use_threads=False)
            values = table.column(0)
            for name in self.column.split(".")[1:]:
                values = compute.struct_field(values, name)
            return values
        except (arrow.ArrowException, OSError, ValueError) as error:
            raise InputError(f"{self.address}: row group {number} is damaged ({first_line(error)})") from error

    def size(self, number: int) -> int:
        """Bytes of the column in a row group, uncompressed."""
        group = self._file.metadata.row_group(number)
        columns = (group.column(index) for index in range(group.num_columns))
        return sum(column.total_uncompressed_size for column in columns if column.path_in_schema == self.column)


def open_parquet(path: str | Path, title: str) -> Any:
    """A `pyarrow.parquet.ParquetFile`. Raises InputError if the file is damaged, or pyarrow is not installed."""
    arrow, parquet = import_extra("pyarrow", "parquet"), import_extra("pyarrow.parquet", "parquet")
    try:
        open_regular(path).close()
        return parquet.ParquetFile(local_file(path), memory_map=False)
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{title}: not a complete Parquet file ({first_line(error)}); get it again") from error


def image_column(schema: Any, title: str) -> str:
    """The path of the column with the bytes of images: `image` itself, or its `bytes`. Raises InputError if missing."""
    types = import_extra("pyarrow.types", "parquet")
    for name in ("image", "img"):
        if (index := schema.get_field_index(name)) < 0:
            continue
        kind = schema.field(index).type
        if types.is_struct(kind) and (inner := kind.get_field_index("bytes")) >= 0:
            name, kind = f"{name}.bytes", kind.field(inner).type
        if types.is_binary(kind) or types.is_large_binary(kind):
            return name
    raise InputError(
        f"{title}: found the columns {', '.join(schema.names)[:80]}, needed a column image with the bytes of images"
    )


def make_parquet_mirror(title: str, files: Sequence[Path]) -> list[list[str]]:
    """The images of each file as paths in a mirror, `<file without suffix>/<row>.jpg`; "" where a row has none.

    Args:
        title: Name of the folder of the files in messages.
        files: Parquet files with different names.

    Raises:
        InputError: A file cannot be read, or has a row group that is too large.

    Logs a warning for row groups that are large.
    """
    places = [str(local_file(file).absolute()) for file in files]  # not a link's target, which has another name
    sources = [Source("parquet", place, mirrors.version_of(place)) for place in places]
    tree = make_mirror(title, sources, lambda: track(_members(files, sources), None, f"index of {title}", "images"))
    paths = []
    opened = [_file(source.address, source.version) for source in sources]
    largest = max((file.size(number) for file in opened for number in range(len(file.starts) - 1)), default=0)
    if largest > SLOW_GROUP:
        logger.warning(
            "%s: row groups of up to %d MiB of images, each read as a whole for one image; before training, convert "
            "it or rewrite it with fewer rows per group", title, largest >> 20,
        )  # fmt: skip
    for file, table in zip(files, opened, strict=True):
        folder = tree / file.stem
        names = {path.stem: path for path in folder.iterdir()} if folder.is_dir() else {}
        paths.append([str(names.get(_stem(row), "")) for row in range(table.starts[-1])])
    return paths


def _stem(row: int) -> str:
    return f"{row:07d}"


def _members(files: Sequence[Path], sources: Sequence[Source]) -> Iterator[Member]:
    for number, (file, source) in enumerate(zip(files, sources, strict=True)):
        opened = _file(source.address, source.version)
        for group, start in enumerate(opened.starts[:-1]):
            for offset, value in enumerate(opened.group(group)):
                content = value.as_buffer() if value.is_valid else None
                if content is not None:
                    suffix = MAGIC.get(bytes(content[:2]), ".jpg")  # other content is reported when it is read
                    yield Member(f"{file.stem}/{_stem(start + offset)}{suffix}", content.size, number, start + offset)


def open_member(source: Source, member: Member) -> BinaryIO:
    """The image of a row, as `mirrors.Reader`. Raises OSError."""
    if mirrors.version_of(source.address) != source.version:
        raise OSError(errno.ESTALE, f"{source.address} has changed since it was opened; start again")
    try:
        file = _file(source.address, source.version)
        group = bisect.bisect_right(file.starts, member.start) - 1
        content = _groups.get(file, group)[member.start - file.starts[group]].as_py()
    except (InputError, IndexError) as error:
        raise OSError(errno.EIO, str(error), source.address) from error
    if content is None or len(content) != member.size:
        raise OSError(errno.EIO, f"row {member.start} does not have {member.size:,} bytes; get the file again")
    return cast(BinaryIO, io.BytesIO(content))


class _Groups:
    """The row groups that were read last, up to `CACHE_BYTES`, or a single larger one."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str, int], Any] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, file: ParquetFile, number: int) -> Any:
        key = (file.address, file.version, number)
        with self._lock:  # also while it is read: threads that read images in turn want the same one
            if key in self._kept:
                self._kept.move_to_end(key)
            else:
                while self._kept and self._bytes() + file.size(number) > CACHE_BYTES:
                    self._kept.popitem(last=False)
                self._kept[key] = file.group(number)
            return self._kept[key]

    def _bytes(self) -> int:
        return sum(int(images.nbytes) for images in self._kept.values())


_groups = _Groups()


def _after_fork() -> None:
    """Drop open files and locks of the parent process."""
    global _groups
    _groups = _Groups()
    _file.cache_clear()


@lru_cache(maxsize=MAX_FILES)
def _file(address: str, version: str) -> ParquetFile:
    return ParquetFile(address, version)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
