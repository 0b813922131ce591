"""Merge the files of all shards into one."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from boxwright.datatools.report import pluralize
from boxwright.errors import InputError
from boxwright.extras import import_extra
from boxwright.files import check_outputs
from boxwright.json_text import JsonObject
from boxwright.progress import track
from boxwright.tables.folder import SUFFIX, Shard, bounds_of, head_of, parts_of, path_of, read, write

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc
else:
    pa = import_extra("pyarrow", "parquet")
    pc = import_extra("pyarrow.compute", "parquet")

FILE = re.compile(r"detections-(\d{5})-of-(\d{5})\.parquet")
LISTED = 8  # maximum number of missing shards in a message


def merge_shards(folder: str | Path, out: str | Path) -> str:
    """Write the rows of all shards in a folder into one Parquet file, in the order of the shards.

    Args:
        folder: The `--out` of all shards.
        out: The merged file.

    Returns:
        A summary for the user.

    Raises:
        InputError: A shard is missing or not finished, shards are of different runs or coordinate reference systems, an
            image is in several of them, or a file cannot be read or written.
    """
    folder, out = Path(folder), Path(out)
    if out.suffix != SUFFIX:
        raise InputError(f"{out}: found the suffix '{out.suffix}', needed {SUFFIX}, the only format of a merged table")
    shards = _all_shards(folder)
    paths = [path_of(folder, shard) for shard in shards]
    check_outputs(out.parent, [out.name], paths)
    head = _common_head(paths, shards)
    images, detections = _count_disjoint(paths)

    def batches() -> Iterator["pa.RecordBatch"]:
        for path in track(paths, len(paths), "merge", "shards"):
            yield from read(path)

    write(out, batches(), {key: head.get(key) for key in ("run", "crs")}, bounds_of(paths, head.get("crs")))
    found = [pluralize(len(shards), "shard[s]"), pluralize(images, "image[s]"), pluralize(detections, "detection[s]")]
    return f"{', '.join(found)}: {out}"


def _all_shards(folder: Path) -> list[Shard]:
    """The shards of a folder. Raises InputError if one is missing or not finished, or there is none."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    found = sorted((int(match[2]), int(match[1])) for name in names if (match := FILE.fullmatch(name)))
    if not found:
        raise InputError(f"{folder}: holds no shard, needed the folder of `boxwright predict --shard 1/N --out`")
    counts = sorted({count for count, _ in found})
    if len(counts) > 1:
        raise InputError(f"{folder}: holds shards of {counts[0]} and of {counts[1]}, needed shards of one run")
    shards = [Shard(index, counts[0]) for index in range(1, counts[0] + 1)]
    present = {index for _, index in found}
    if missing := [str(shard.index) for shard in shards if shard.index not in present]:
        listed = ", ".join(missing[:LISTED]) + (", ..." if len(missing) > LISTED else "")
        raise InputError(
            f"{folder}: {len(missing)} of {counts[0]} shards missing: {listed}; run --shard {missing[0]}/{counts[0]}"
        )
    for shard in shards:
        if parts_of(folder, shard).exists():
            text = f"{shard.index}/{shard.count}"
            raise InputError(f"{folder}: shard {text} is not finished; run --shard {text} again")
    return shards


def _common_head(paths: Sequence[Path], shards: Sequence[Shard]) -> JsonObject:
    """Head that all files share. Raises InputError if heads differ, or a file is not the shard that its name says."""
    heads = [head_of(path) for path in paths]
    for path, head, shard in zip(paths, heads, shards, strict=True):
        if (head.get("shard"), head.get("shards")) != (shard.index, shard.count):
            raise InputError(f"{path}: is another shard than its name says; run --shard {shard.index}/{shard.count}")
        for key in ("run", "crs"):
            if head.get(key) != heads[0].get(key):
                raise InputError(
                    f"{path}: {key} {head.get(key)}, in {paths[0].name} {heads[0].get(key)}; needed shards of one run"
                )
    return heads[0]


def _count_disjoint(paths: Sequence[Path]) -> tuple[int, int]:
    """The number of images and of detections. Raises InputError for an image that is in two shards."""
    places: dict[str, int] = {}
    detections = 0
    for number, path in enumerate(paths):
        for batch in read(path, ["image", "score"]):
            detections += len(batch) - batch["score"].null_count
            for image in pc.unique(batch["image"]).to_pylist():
                if places.setdefault(image, number) != number:
                    other = paths[places[image]].name
                    raise InputError(
                        f"{image}: is in {other} and in {path.name}; it was changed in between, run into a new folder"
                    )
    return len(places), detections
