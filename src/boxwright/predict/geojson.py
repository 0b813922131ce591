"""Detections of a georeferenced scene as GeoJSON, for QGIS and other map software.

    N detections, 5 corners of a closed ring

`NAME.geojson` uses the scene's coordinate reference system and names it in the `crs` member of GeoJSON 2008, which QGIS
reads; it is not written if the system has no authority code. `NAME.wgs84.geojson` follows RFC 7946: longitude,
latitude, no `crs`; it is not written if a box cannot be transformed. Both store easting before northing, whatever the
axis order of the system. A box on the antimeridian becomes two polygons there, as RFC 7946 recommends (section 3.1.9).
"""

import math
from itertools import pairwise
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
MAX_COORDINATE = 1e11  # twice the Earth's circumference in mm
MAX_DEGREES = (720, 91)  # of longitude, which may count from 0 to 360; of latitude, as pixels are centered on the poles


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
        written.append(_write(folder / f"{stem}.geojson", detections, _geometries(polygons, digits), member))
    polygons = _to_wgs84(polygons, georeference.crs)
    if np.isfinite(polygons).all():
        polygons = _continuous(polygons)
        geometries = _geometries(polygons, DEGREE_DIGITS)
        for index in np.flatnonzero(polygons[..., 0].max(axis=1) > 180).tolist():
            geometries[index] = _cut(polygons[index])
        written.append(_write(folder / f"{stem}{WGS84_TAG}.geojson", detections, geometries, {}))
    return written


def rings(boxes: Points, georeference: Georeference) -> Points:
    """(N, 4) xyxy px -> (N, 5, 2) in the scene's coordinate system, counterclockwise."""
    a, b, c, d, e, f = georeference.transform
    x, y = boxes[:, np.array(RING)].transpose(2, 0, 1)
    corners = np.stack((a * x + b * y + c, d * x + e * y + f), axis=-1)
    return corners if a * e - b * d < 0 else corners[:, ::-1]  # negative on north-up maps, as image rows go down


def _to_wgs84(rings: Points, crs: str) -> Points:
    """(N, 5, 2) in the system `crs` -> (N, 5, 2) longitude, latitude; not finite where there is no such place."""
    from rasterio import warp

    east, north = rings.reshape(-1, 2).T.tolist() if rings.size else ([], [])
    try:
        degrees = np.array(warp.transform(crs, WGS84, east, north)[:2]).T.reshape(rings.shape)
    except Exception:  # for a point outside the projection rasterio raises a GDAL error without a public type
        return np.full_like(rings, np.nan)
    on_earth = (np.abs(rings) <= MAX_COORDINATE) & (np.abs(degrees) <= MAX_DEGREES)
    return np.where(on_earth.all(-1, keepdims=True), degrees.clip((-math.inf, -90), (math.inf, 90)), np.nan)


def _continuous(rings: Points) -> Points:
    """(N, 5, 2) longitude, latitude -> the same without jumps of 360 degrees within a ring.

    Rings are less than 180 degrees wide. The western end of each is in [-180, 180).
    """
    east, north = rings[..., 0], rings[..., 1]
    east = east - 360 * np.round((east - east[:, :1]) / 360)
    east = east - 360 * np.floor((east.min(1, keepdims=True) + 180) / 360)
    return np.stack((east, north), axis=-1)


def _geometries(rings: Points, digits: int) -> list[JsonObject]:
    """(N, 5, 2) -> N polygons, with coordinates of that many decimals."""
    return [{"type": "Polygon", "coordinates": [ring]} for ring in rings.round(digits).tolist()]


def _cut(ring: Points) -> JsonObject:
    """A convex ring from `_continuous`, (5, 2), which crosses the antimeridian -> its parts on both sides."""
    parts = (_clip(ring, 1), _clip(ring, -1) - [360, 0])
    return {"type": "MultiPolygon", "coordinates": [[part.round(DEGREE_DIGITS).tolist()] for part in parts]}


def _clip(ring: Points, sign: int) -> Points:
    """The part of a convex ring (5, 2) west (1) or east (-1) of 180 degrees, which the ring crosses: (n, 2), closed."""
    points = []
    for start, end in pairwise(ring):
        before, after = sign * (180 - start[0]), sign * (180 - end[0])
        if before >= 0:
            points.append(start)
        if before * after < 0:
            points.append(start + (end - start) * before / (before - after))
    return np.array([*points, points[0]])


def _write(path: Path, detections: Detections, geometries: list[JsonObject], members: JsonObject) -> str:
    columns = zip(geometries, detections.labels.tolist(), detections.scores.tolist(), strict=True)
    features = [
        {
            "type": "Feature",
            "properties": {
                "name": detections.names[label] if detections.names else str(label),
                "label": label,
                "score": score,
            },
            "geometry": geometry,
        }
        for geometry, label, score in columns
    ]
    json_text.write(path, {"type": "FeatureCollection", **members, "features": features})
    return path.name
