"""Detections of georeferenced scenes in a table: GeoParquet 1.1 with polygons as WKB.

    N detections, 5 corners of a closed ring

All geometries of a table have one coordinate reference system. As GeoParquet demands, x is easting or longitude, and y
northing or latitude, whatever the axis order of the system.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright.arrays import Array
from boxwright.errors import InputError
from boxwright.extras import first_line, import_extra
from boxwright.images.windows import Georeference
from boxwright.json_text import JsonObject, dumps
from boxwright.predict.geojson import is_georeferenced, rings

if TYPE_CHECKING:
    import pyarrow as pa
else:
    pa = import_extra("pyarrow", "parquet")

EDGES = ("xmin", "ymin", "xmax", "ymax")
POLYGON = 3  # the code of WKB
# Byte order (1: little-endian), type, number of rings, number of points, points
WKB = np.dtype([("order", "u1"), ("type", "<u4"), ("rings", "<u4"), ("points", "<u4"), ("xy", "<f8", (5, 2))])


def columns() -> list[tuple[str, Any]]:
    """Additional columns: the polygon, and its bounding box, by which readers skip parts of a file."""
    return [("geometry", pa.binary()), ("bbox", pa.struct([(edge, pa.float64()) for edge in EDGES]))]


def usable(georeference: Georeference | None, size: tuple[int, int]) -> Georeference | None:
    """The georeference of a scene of `size` (height, width) px; None if its coordinates are not on the Earth."""
    return georeference if is_georeferenced(georeference, size) else None


def values(boxes: Array | None, georeference: Georeference | None, count: int) -> list[list[Any]]:
    """Values of `columns`. boxes: (N, 4) xyxy px of the scene, float64; count: number of rows, N if there are boxes."""
    if boxes is None or georeference is None:
        return [[None] * count, [None] * count]
    polygons = rings(boxes, georeference)
    low, high = polygons.min(1), polygons.max(1)
    corners = np.concatenate((low, high), 1).tolist()
    return [to_wkb(polygons), [dict(zip(EDGES, corner, strict=True)) for corner in corners]]


def to_wkb(polygons: Array) -> list[bytes]:
    """(N, 5, 2) x, y -> N polygons as well-known binary."""
    records = np.zeros(len(polygons), WKB)
    records["order"], records["type"], records["rings"], records["points"] = 1, POLYGON, 1, 5
    records["xy"] = polygons
    return [record.tobytes() for record in records]


def metadata(crs: str, bounds: Sequence[float] | None) -> str:
    """Value of the key `geo` of a file.

    Args:
        crs: As in `Georeference`.
        bounds: Bounds of all geometries, as `EDGES`; None if there are none.

    Raises:
        InputError: There is no such system.
    """
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    try:
        system = CRS.from_string(crs).to_dict(projjson=True)
    except CRSError as error:
        raise InputError(f"coordinate reference system '{crs[:80]}': not known ({first_line(error)})") from error
    column: JsonObject = {
        "encoding": "WKB",
        "geometry_types": ["Polygon"],
        "crs": system,
        "orientation": "counterclockwise",
        "covering": {"bbox": {edge: ["bbox", edge] for edge in EDGES}},
    }
    if bounds is not None:
        column["bbox"] = list(bounds)
    return dumps({"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}})
