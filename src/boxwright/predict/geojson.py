"""Detections of a georeferenced scene as GeoJSON, for QGIS and other map software.

    N detections, 5 corners of a closed ring

`NAME.geojson` uses the scene's coordinate reference system and names it in the `crs` member of GeoJSON 2008, which QGIS
reads; it is not written if the system has no authority code. `NAME.wgs84.geojson` follows RFC 7946: longitude,
latitude, no `crs`; it is not written if a box cannot be transformed. Both store easting before northing, whatever the
axis order of the system.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boxwright import json_text
from boxwright.images.windows import Georeference
from boxwright.json_text import JsonObject
from boxwright.types import Detections

Points = NDArray[np.float64]

WGS84 = "EPSG:4326"
WGS84_TAG = ".wgs84"  # appended to the scene's name
CRS84 = "urn:ogc:def:crs:OGC:1.3:CRS84"  # WGS84 with longitude first; GeoJSON 2008 names systems by URN
# Indices of x, y in xyxy, downward first: counterclockwise on a north-up map, as RFC 7946 requires.
RING = ((0, 1), (0, 3), (2, 3), (2, 1), (0, 1))
DEGREE_DIGITS, METER_DIGITS = 8, 3  # about 1 mm


def is_georeferenced(georeference: Georeference | None, size: tuple[int, int]) -> bool:
    """Whether a scene of `size` (height, width) px has a position on the Earth, unlike in a local system."""
    if georeference is None:
        return False
    from rasterio.crs import CRS

    system = CRS.from_string(georeference.crs)
    if not (system.is_geographic or system.is_projected):
        return False
    height, width = size
    corners = np.array([[0.0, 0.0, width, height]])
    return bool(np.isfinite(_to_wgs84(rings(corners, georeference), georeference.crs)).all())


def write_geojson(detections: Detections, georeference: Georeference, folder: Path, stem: str) -> list[str]:
    """Write the boxes (px of the scene) of a georeferenced scene; returns the names of the files."""
    from rasterio.crs import CRS

    polygons = rings(detections.boxes.double().numpy(force=True), georeference)
    system = CRS.from_string(georeference.crs)
    code = system.to_authority()
    written = []
    if code is not None:
        urn = CRS84 if code == ("EPSG", "4326") else f"urn:ogc:def:crs:{code[0]}::{code[1]}"
        digits = DEGREE_DIGITS if system.is_geographic else METER_DIGITS
        member = {"crs": {"type": "name", "properties": {"name": urn}}}
        written.append(_write(folder / f"{stem}.geojson", detections, polygons.round(digits), member))
    polygons = _to_wgs84(polygons, georeference.crs).round(DEGREE_DIGITS)
    if np.isfinite(polygons).all():
        written.append(_write(folder / f"{stem}{WGS84_TAG}.geojson", detections, polygons, {}))
    return written


def rings(boxes: Points, georeference: Georeference) -> Points:
    """(N, 4) xyxy px -> (N, 5, 2) in the scene's coordinate system, counterclockwise."""
    a, b, c, d, e, f = georeference.transform
    x, y = boxes[:, np.array(RING)].transpose(2, 0, 1)
    corners = np.stack((a * x + b * y + c, d * x + e * y + f), axis=-1)
    return corners if a * e - b * d < 0 else corners[:, ::-1]  # negative on north-up maps, as image rows go down


def _to_wgs84(rings: Points, crs: str) -> Points:
    """(N, 5, 2) in the system `crs` -> (N, 5, 2) longitude, latitude; not finite where undefined."""
    from rasterio import warp

    east, north = rings.reshape(-1, 2).T.tolist() if rings.size else ([], [])
    try:
        return np.array(warp.transform(crs, WGS84, east, north)[:2]).T.reshape(rings.shape)
    except Exception:  # for a point outside the projection rasterio raises a GDAL error without a public type
        return np.full_like(rings, np.nan)


def _write(path: Path, detections: Detections, rings: Points, members: JsonObject) -> str:
    columns = zip(rings.tolist(), detections.labels.tolist(), detections.scores.tolist(), strict=True)
    features = [
        {
            "type": "Feature",
            "properties": {
                "name": detections.names[label] if detections.names else str(label),
                "label": label,
                "score": score,
            },
            "geometry": {"type": "Polygon", "coordinates": [ring]},
        }
        for ring, label, score in columns
    ]
    json_text.write(path, {"type": "FeatureCollection", **members, "features": features})
    return path.name
