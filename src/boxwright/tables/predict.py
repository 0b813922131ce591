"""Predictions of many images as a Parquet table in a folder: all of them, or one shard."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from boxwright.datatools.report import pluralize
from boxwright.errors import InputError, titled
from boxwright.images.windows import georeference_of
from boxwright.predict.output import Summary, counted_names, find_images, make_writable
from boxwright.predict.predictor import AnyPredictor
from boxwright.predict.prefetch import prefetch_map
from boxwright.predict.tiled import Tiling
from boxwright.progress import track
from boxwright.tables import geometry, run
from boxwright.tables.folder import Shard, Table, locked
from boxwright.tables.rows import Settings, Source, predict_rows
from boxwright.tasks import PostprocessArgs

if TYPE_CHECKING:
    import pyarrow as pa

READERS = 16  # threads that read both ends of files, to hide the latency of network file systems

Rows = Callable[[AnyPredictor, Sequence[Source], Settings], Iterator["pa.RecordBatch"]]


def predict_table(
    predictor: AnyPredictor,
    sources: Sequence[str | Path],
    out: str | Path,
    args: PostprocessArgs | None = None,
    *,
    shard: Shard | None = None,
    tiling: Tiling | None = None,
    titles: Mapping[str, str] | None = None,
    rows: Rows = predict_rows,
) -> Summary:
    """Predict many images, and write `detections.parquet`, or the file of a shard.

    Images that an earlier call, even if killed, has predicted are skipped; images that could not be read are tried
    again.

    Args:
        predictor: A detector.
        sources: Image files, folders and glob patterns.
        out: The folder, which may hold other shards of the same run.
        args: From the predictor's task; None for the recipe's.
        shard: The share of the images to predict; None for all.
        tiling: Predict scenes, window by window; None for whole images.
        titles: Path -> its name in the table; None: the paths.
        rows: Function that computes the rows: `predict_rows`, or an equivalent on other machines.

    Returns:
        Summary of the images that were predicted by this call; images that cannot be read are in `Summary.failed`.

    Raises:
        InputError: A source does not exist, an image has changed since it was predicted, the folder holds a run of
            other weights or settings or is written by another process, or scenes have several coordinate reference
            systems. Raised before anything is predicted.
    """
    folder, args = Path(out), predictor.args() if args is None else args
    files = find_images(sources, folder)
    crs = None if tiling is None else _crs(files)
    make_writable(folder)
    found = _sources(files, titles or {})
    own = [source for source in found if shard is None or shard.holds(source)]
    settings = run.describe(predictor, args, tiling, crs)
    table = Table(folder, shard, Settings(run.fingerprint(settings), args, tiling, crs))
    with locked(folder, shard):
        shards = None if shard is None else shard.count
        run.check(folder, settings, shards)
        table.read_done()
        _check_unchanged(found, table)
        pending = [source for source in own if source.name not in table.done]
        if crs is not None:
            _check_crs(pending, crs)
        run.enter(folder, settings, shards)  # only after the checks, so that a rejected run leaves no `table.json`
        batches = table.write_parts(rows(predictor, pending, table.settings)) if pending else iter(())
        first = list(islice(batches, 1))  # exclude start-up from the throughput
        done = len(own) - len(pending)
        batches = track(chain(first, batches), len(own), "predict", start=done)
        counts, failed = _counted(batches, predictor.recipe.data.names)
        table.finish(table.errors & {source.name for source in found} - {source.name for source in own})
    notes = _notes(
        len(own) - len(pending), len(own), (table.done.keys() | table.errors) - {source.name for source in found}
    )
    return Summary(folder, len(pending) - len(failed), counts, failed, table.file.name, "", notes)


def _notes(done: int, count: int, others: Set[str]) -> tuple[str, ...]:
    """Notes of the summary about earlier calls. others: images in the table that are not among the sources."""
    notes = [f"{done} of {count} images were in the table already"] if done else []
    if others:
        found = pluralize(len(others), "image[s] of the table")
        notes.append(f"{found} not among these sources, such as {min(others)}: rows of earlier calls are kept")
    return tuple(notes)


def _sources(files: Sequence[Path], titles: Mapping[str, str]) -> list[Source]:
    """Images with their digests, sorted by name, without duplicates.

    Raises InputError for different images of the same name, such as web addresses that differ in their query.
    """
    paths = [str(file) for file in files]
    found: dict[str, Source] = {}
    with ThreadPoolExecutor(READERS) as pool:
        read = prefetch_map(pool, paths, lambda path: Source.of(path, titles.get(path, titled(path))), 4 * READERS)
        for source in track(read, len(paths), "reading both ends of files"):
            if found.setdefault(source.name, source).digest != source.digest:
                raise InputError(
                    f"{source.name}: the name of two different images, needed different names; predict one of them "
                    "into another folder"
                )
    return [found[name] for name in sorted(found)]


def _check_unchanged(sources: Sequence[Source], table: Table) -> None:
    """Raise InputError for an image in the table whose file has changed."""
    for source in sources:
        if table.done.get(source.name, source.digest) != source.digest:
            raise InputError(
                f"{source.name}: has changed since it was predicted into {table.file}; name another folder by --out"
            )


def _counted(batches: Iterable["pa.RecordBatch"], names: Sequence[str]) -> tuple[dict[str, int], dict[str, str]]:
    """Number of detections by class, and why images cannot be read. batches: one per image; names: of the classes."""
    counts: Counter[str] = Counter()
    failed: dict[str, str] = {}
    for batch in batches:
        counts.update(counted_names(batch["class"].drop_null().to_pylist(), names))
        if (error := batch["error"][0].as_py()) is not None:
            failed[batch["image"][0].as_py()] = error
    return dict(counts), failed


def _crs(files: Sequence[Path]) -> str | None:
    """Coordinate reference system of the first scene, by name, that has a usable one.

    It is the same in all shards, which have the same sources.
    """
    for path in sorted(files, key=os.fspath):
        if (system := _system(path)) is not None:
            return system
    return None


def _check_crs(sources: Sequence[Source], crs: str) -> None:
    for source in sources:
        if (system := _system(source.path)) not in (None, crs):
            raise InputError(
                f"{source.name}: its coordinate reference system is {system}, that of the table {crs}; predict scenes "
                "of each system into a separate folder"
            )


def _system(path: str | Path) -> str | None:
    """Coordinate reference system of a scene; None if it has none or cannot be read."""
    try:
        georeference, size = georeference_of(path)
    except InputError:  # reported as a row
        return None
    usable = geometry.usable(georeference, size)
    return None if usable is None else usable.crs
