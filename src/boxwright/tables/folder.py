"""Files of a table while it is written: parts in a folder beside it, and in the end one file.

    detections-00003-of-00016.parquet    a finished shard; `detections.parquet` where the images are not divided
    detections-00003-of-00016.parts/     its parts until it is finished, each written atomically
    .detections-00003-of-00016.lock      locked while a process works on it

A process that is killed loses the images since its last part. The next one reads which images are in the finished file
and in the parts, and predicts the others. Images that could not be read are tried again; their old rows are left out.
"""

import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from boxwright import json_text
from boxwright.errors import InputError
from boxwright.extras import first_line, import_extra
from boxwright.files import atomic_write, make_folder, open_regular
from boxwright.json_text import JsonObject
from boxwright.locks import lock
from boxwright.tables import geometry
from boxwright.tables.rows import Settings, Source, schema
from boxwright.version import __version__

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
else:
    pa = import_extra("pyarrow", "parquet")
    pc = import_extra("pyarrow.compute", "parquet")
    pq = import_extra("pyarrow.parquet", "parquet")

SUFFIX = ".parquet"
PART_IMAGES, PART_SECONDS = 256, 30.0  # a part is written as soon as it has that many images or is that old
GROUP_ROWS = 1 << 17  # rows of a row group, which is held in memory
KEY = b"boxwright"  # key of our metadata in a file


@dataclass(frozen=True, slots=True)
class Shard:
    """A share of the images: number `index` of `count`, from 1."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """`3/16`. Raises InputError for anything else."""
        index, _, count = text.partition("/")
        if not all(word.isascii() and word.isdecimal() and len(word) <= 5 for word in (index, count)):
            raise InputError(f"--shard: found '{text[:20]}', needed a number and their count, such as 3/16")
        if not 1 <= int(index) <= int(count):
            raise InputError(f"--shard: found {text[:20]}, needed a number from 1 to {int(count)}")
        return cls(int(index), int(count))

    def holds(self, source: Source) -> bool:
        """Whether an image belongs to this shard: by its digest, whatever the other images are."""
        return int(source.digest, 16) % self.count == self.index - 1


def path_of(folder: Path, shard: Shard | None) -> Path:
    """Path of the finished file of a shard. shard: None for all images."""
    name = "detections" if shard is None else f"detections-{shard.index:05d}-of-{shard.count:05d}"
    return folder / f"{name}{SUFFIX}"


def parts_of(folder: Path, shard: Shard | None) -> Path:
    """Path of the folder of the parts of a shard."""
    return path_of(folder, shard).with_suffix(".parts")


@dataclass
class Table:
    """The table of a shard in a folder.

    Attributes:
        folder: The folder, which exists.
        shard: The shard; None if the images are not divided.
        settings: Settings of the run.
        done: Name -> digest of the images in the table, without those that could not be read.
        errors: Names of the images that could not be read.
    """

    folder: Path
    shard: Shard | None
    settings: Settings
    done: dict[str, str] = field(default_factory=dict)
    errors: set[str] = field(default_factory=set)

    @property
    def file(self) -> Path:
        return path_of(self.folder, self.shard)

    @property
    def head(self) -> JsonObject:
        """Head of the files, as in `head_of`."""
        head: JsonObject = {"run": self.settings.run, "crs": self.settings.crs}
        return head if self.shard is None else head | {"shard": self.shard.index, "shards": self.shard.count}

    @property
    def parts(self) -> Path:
        return parts_of(self.folder, self.shard)

    def files(self) -> list[Path]:
        """The finished file, if there is one, and the parts."""
        return [*filter(Path.exists, [self.file]), *sorted(self.parts.glob(f"*{SUFFIX}"))]

    def read_done(self) -> None:
        """Set `done` and `errors`. Raises InputError for a file that cannot be read, or of another run."""
        for path in self.files():
            if (run := head_of(path)["run"]) != self.settings.run:
                raise InputError(f"{path}: of run {run}, needed {self.settings.run}; name another folder by --out")
            for batch in read(path, ["image", "digest", "error"]):
                failed = pc.is_valid(batch["error"])
                self.errors |= set(batch.filter(failed)["image"].to_pylist())
                images, digests, _ = (column.to_pylist() for column in batch.filter(pc.invert(failed)).columns)
                self.done |= dict(zip(images, digests, strict=True))
        self.errors -= self.done.keys()

    def write_parts(self, batches: Iterable["pa.RecordBatch"]) -> Iterator["pa.RecordBatch"]:
        """Write parts, and yield each batch, which holds the rows of one image. Raises InputError as `atomic_write`."""
        make_folder(self.parts)
        number = 1 + max((int(path.stem) for path in self.parts.glob(f"*{SUFFIX}") if path.stem.isdecimal()), default=0)
        rows: list[pa.RecordBatch] = []
        start = time.monotonic()
        for batch in batches:
            rows.append(batch)
            if len(rows) >= PART_IMAGES or time.monotonic() - start > PART_SECONDS:
                write(self.parts / f"{number:06d}{SUFFIX}", rows, self.head)
                rows, number, start = [], number + 1, time.monotonic()
            yield batch
        if rows:
            write(self.parts / f"{number:06d}{SUFFIX}", rows, self.head)

    def finish(self, moved: Iterable[str] = ()) -> None:
        """Merge all parts into the finished file. moved: images to leave out, which belong to other shards now."""
        files, moved = self.files(), set(moved)
        if files != [self.file] or moved:
            write(self.file, _latest(files, moved), self.head, bounds_of(files, self.settings.crs))
        shutil.rmtree(self.parts, ignore_errors=True)


def _latest(files: list[Path], moved: set[str]) -> Iterator["pa.RecordBatch"]:
    """Rows of all files without `moved`; for each image, those of the last file that has it."""
    last: dict[str, int] = {}
    stale = [set(moved) for _ in files]
    for number, path in enumerate(files):
        for batch in read(path, ["image"]):
            for image in pc.unique(batch["image"]).to_pylist():
                if last.get(image, number) != number:
                    stale[last[image]].add(image)
                last[image] = number
    for path, images in zip(files, stale, strict=True):
        old = pa.array(sorted(images), pa.string())
        for batch in read(path):
            yield batch.filter(pc.invert(pc.is_in(batch["image"], old))) if images else batch


@contextmanager
def locked(folder: Path, shard: Shard | None) -> Iterator[None]:
    """Lock a shard for this process. Raises InputError if another process works on it."""
    path = folder / f".{path_of(folder, shard).stem}.lock"
    try:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        handle = os.open(path, flags, 0o666)
    except OSError as error:
        raise InputError(f"{path}: cannot be locked ({error.strerror}); name another folder by --out") from error
    try:
        if lock(handle) is False:
            title = "this table" if shard is None else f"shard {shard.index}/{shard.count}"
            raise InputError(f"{folder}: another process writes {title} there; wait until it ends")
        yield
    finally:
        os.close(handle)


def read(path: Path, columns: list[str] | None = None) -> Iterator["pa.RecordBatch"]:
    """Rows of a file that we have written, in bounded memory. Raises InputError if it cannot be read."""
    try:
        with open_regular(path) as stream, pq.ParquetFile(stream) as file:
            yield from file.iter_batches(columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read ({first_line(error)}); remove it, and run again") from error


def head_of(path: Path) -> JsonObject:
    """Head of a file that we have written: `run`, `crs`, and for a shard `shard` and `shards`.

    Raises InputError for any other file.
    """
    try:
        with open_regular(path) as stream, pq.ParquetFile(stream) as file:
            text = (file.schema_arrow.metadata or {}).get(KEY)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read ({first_line(error)}), needed a table of predictions") from error
    head = None if text is None else json_text.parse(text, str(path))
    if not isinstance(head, dict) or not isinstance(head.get("run"), str):
        raise InputError(f"{path}: not a table of predictions; move it away")
    return head


def write(
    path: Path, batches: Iterable["pa.RecordBatch"], head: JsonObject, bounds: Sequence[float] | None = None
) -> None:
    """Write a file atomically; memory holds one row group.

    Args:
        path: The file.
        batches: Its rows.
        head: As in `head_of`.
        bounds: Bounds of all geometries, from `bounds_of`; None if there are none, or for a part.

    Raises:
        InputError: It cannot be written.
    """
    crs: str | None = head.get("crs")
    metadata = {KEY: json_text.dumps({"boxwright": __version__, **head}).encode()}
    if crs is not None:
        metadata[b"geo"] = geometry.metadata(crs, bounds).encode()
    columns = schema(crs).with_metadata(metadata)
    with atomic_write(path) as tmp, pq.ParquetWriter(tmp, columns, compression="zstd") as file:
        for table in _groups(batches):
            file.write_table(table, row_group_size=GROUP_ROWS)


def _groups(batches: Iterable["pa.RecordBatch"]) -> Iterator["pa.Table"]:
    """Tables of at least `GROUP_ROWS` rows, except the last."""
    rows: list[Any] = []
    count = 0
    for batch in batches:
        rows.append(batch)
        count += len(batch)
        if count >= GROUP_ROWS:
            yield pa.Table.from_batches(rows)
            rows, count = [], 0
    if rows:
        yield pa.Table.from_batches(rows)


def bounds_of(files: Iterable[Path], crs: str | None) -> list[float] | None:
    """xmin, ymin, xmax, ymax of all geometries in files of a coordinate reference system; None if there are none."""
    found = []
    for path in files if crs is not None else ():
        for batch in read(path, ["bbox"]):
            boxes = batch["bbox"].drop_null()
            if len(boxes):
                corners = np.array([boxes.field(edge).to_numpy() for edge in geometry.EDGES])
                found.append([*corners[:2].min(1), *corners[2:].max(1)])
    if not found:
        return None
    low, high = np.min(found, 0)[:2], np.max(found, 0)[2:]
    return [*low.tolist(), *high.tolist()]
