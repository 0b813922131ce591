"""Images -> rows of a table: the one function that a plain run, Ray and Spark call.

An image with N > 0 detections has N rows, best score first; an image without detections, or that cannot be read, has
one row without a box, so each image that was predicted is in the table.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from boxwright.data.fingerprint import image_digest
from boxwright.errors import InputError
from boxwright.extras import import_extra
from boxwright.images.windows import Georeference, open_scene
from boxwright.predict.predictor import AnyPredictor
from boxwright.predict.stream import batch_size, predict_each
from boxwright.predict.tiled import Tiling, predict_scene
from boxwright.tables import geometry
from boxwright.tasks import PostprocessArgs
from boxwright.tasks.detect import Prediction

if TYPE_CHECKING:
    import pyarrow as pa
else:
    pa = import_extra("pyarrow", "parquet")

DIGITS = 16  # hex digits of digests: 64 bits


class Source(NamedTuple):
    """An image to predict.

    Attributes:
        path: The file.
        name: Its name in the table.
        digest: 16 hex digits of its file name, size and first and last 4 KiB.
    """

    path: str
    name: str
    digest: str

    @classmethod
    def of(cls, path: str, name: str | None = None) -> Self:
        """Source of an image. name: None for the path."""
        # invalid UTF-8 becomes an escape, as in JSON
        text = (path if name is None else name).encode("utf-8", "backslashreplace").decode()
        return cls(path, text, image_digest(path, "sample").hex()[:DIGITS])


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings that, with the weights, determine the rows of images.

    Attributes:
        run: Fingerprint of weights and settings, 16 hex digits (`tables.run.fingerprint`).
        args: From the predictor's `args`.
        tiling: The windows of scenes; None for whole images.
        crs: Coordinate reference system of the geometries, as in `Georeference`; None for a table without them.
    """

    run: str
    args: PostprocessArgs
    tiling: Tiling | None = None
    crs: str | None = None


def schema(crs: str | None = None) -> "pa.Schema":
    """Columns of a table. crs: as in `Settings`."""
    columns: list[tuple[str, Any]] = [
        ("image", pa.string()),
        *((edge, pa.float32()) for edge in ("x1", "y1", "x2", "y2")),  # px
        ("score", pa.float32()),
        ("label", pa.int32()),
        ("class", pa.string()),
        ("error", pa.string()),  # why the image cannot be read
        ("digest", pa.string()),
        ("run", pa.string()),
        ("time", pa.timestamp("us", tz="UTC")),
    ]
    return pa.schema(columns + (geometry.columns() if crs is not None else []))


def predict_rows(predictor: AnyPredictor, sources: Sequence[Source], settings: Settings) -> Iterator["pa.RecordBatch"]:
    """Predict images, and yield the rows of each.

    On a CPU each image runs alone, so its rows do not depend on other images, bit by bit, as long as the number of
    threads per image is the same.

    Args:
        predictor: A detector.
        sources: The images, in any number.
        settings: Settings of the run.

    Yields:
        One batch of rows per image, in the order of the images, with the columns of `schema`.

    Raises:
        InputError: pyarrow is not installed, or the network cannot be run. Images that cannot be read become rows.
    """
    if settings.tiling is None:
        alone = 1 if predictor.device.type == "cpu" else predictor.recipe.predict.batch
        streams = 1 if predictor.runtime is None else predictor.runtime.streams
        batch = batch_size(predictor, alone) * streams
        results = predict_each(predictor, [source.path for source in sources], settings.args, batch=batch)
        for source, result in zip(sources, results, strict=True):
            yield _rows(source, result, None, settings)
    else:
        for source in sources:
            yield _rows(source, *_scene(predictor, source, settings, settings.tiling), settings)


def _scene(
    predictor: AnyPredictor, source: Source, settings: Settings, tiling: Tiling
) -> tuple[Prediction | InputError, Georeference | None]:
    """Detections of a scene, or why it cannot be read, and its georeference if it is usable."""
    args = settings.args
    iou = None if args.nms == predictor.recipe.predict.nms else args.nms.iou
    try:
        with open_scene(source.path, predictor.bands) as scene:
            found = predict_scene(predictor, scene, tiling, args.threshold, iou, args.labels)
            return found, geometry.usable(scene.georeference, scene.size)
    except InputError as error:
        return error, None


def _rows(
    source: Source, result: Prediction | InputError, georeference: Georeference | None, settings: Settings
) -> "pa.RecordBatch":
    prediction = None if isinstance(result, InputError) or not len(result) else result
    count = 1 if prediction is None else len(prediction)
    nothing = [None] * count
    edges = [nothing] * 4 if prediction is None else prediction.boxes.numpy().T
    error = str(result).replace(source.path, source.name) if isinstance(result, InputError) else None
    values = [
        [source.name] * count,
        *edges,
        nothing if prediction is None else prediction.scores.numpy(),
        nothing if prediction is None else prediction.labels.numpy().astype("int32"),
        nothing if prediction is None else prediction.class_names,
        [error] * count,
        [source.digest] * count,
        [settings.run] * count,
        [datetime.now(UTC)] * count,
    ]
    columns = schema(settings.crs)
    if settings.crs is not None:
        boxes = None if prediction is None else prediction.boxes.double().numpy()
        values += geometry.values(boxes, georeference, count)
    arrays = [pa.array(value, column.type) for value, column in zip(values, columns, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=columns)


def to_block(sources: Sequence[Source]) -> "pa.Table":
    """Images as a table, to send them to another process, which may have another working directory."""
    paths = [os.fsencode(os.path.abspath(source.path)) for source in sources]  # noqa: PTH100
    names, digests = [source.name for source in sources], [source.digest for source in sources]
    return pa.table({"path": pa.array(paths, pa.binary()), "name": names, "digest": digests})


def of_block(block: "pa.Table") -> list[Source]:
    """The inverse of `to_block`, with absolute paths."""
    columns = (block[name].to_pylist() for name in ("path", "name", "digest"))
    return [Source(os.fsdecode(path), name, digest) for path, name, digest in zip(*columns, strict=True)]
