"""Images of any size to a folder: overviews with boxes, one detections.json, GeoJSON where the Earth is known."""

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from boxwright.errors import InputError
from boxwright.images.windows import Georeference, grid, open_scene
from boxwright.predict import output
from boxwright.predict.geojson import WGS84_TAG, can_be_placed, write_geojson
from boxwright.predict.predictor import Predictor
from boxwright.predict.tiled import Overview, Tiling, draw_overview, predict_scene
from boxwright.tasks.detect import Prediction


def predict_scenes_to_folder(
    predictor: Predictor[Prediction],
    sources: Sequence[str | Path],
    out: str | Path,
    tiling: Tiling,
    threshold: float | None = None,
    iou: float | None = None,
    classes: Sequence[str | int] | None = None,
    *,
    geojson: bool = False,
) -> output.Summary:
    """Like `output.predict_to_folder`, window by window. Drawn are overviews, as JPEG.

    geojson: it must be possible; without it georeferenced scenes get it and others do not. A scene that cannot be read
    or drawn is named in `Summary.failed`, and the others go on. Raises InputError before any work for a source that is
    not there, a wrong setting, an unwritable folder, two scenes whose GeoJSON would have one name, or a scene of no
    known place where GeoJSON must be.
    """
    folder = Path(out)
    args = predictor.args(threshold, iou, classes)
    grid((1, 1), tiling.window, tiling.overlap)  # says what is wrong with these numbers
    files = output.find_images(sources, folder)
    if geojson:
        _need_places(files)
    targets = output.targets_of(files, folder, ".jpg")
    _need_own_names(targets)
    output.make_writable(folder)
    rows: list[dict[str, Any]] = []
    results: list[Prediction] = []
    failed: dict[str, str] = {}
    for path in files:
        try:
            with open_scene(path) as scene:
                overview = Overview(scene.size)
                found = predict_scene(predictor, scene, tiling, threshold, iou, classes, overview)
        except InputError as error:
            failed[str(path)] = str(error)
            continue
        results.append(found)
        rows.append(output.row_of(predictor, found, None))
        try:
            rows[-1] |= _write(found, overview, scene.georeference, targets[path])
        except InputError as error:
            failed[str(path)] = str(error)
    settings = {"tile": tiling.window, "overlap": tiling.overlap}
    return output.write_results(predictor, folder, args, rows, failed, results, settings)


def _write(
    found: Prediction, overview: Overview, georeference: Georeference | None, target: Path
) -> dict[str, str | list[str]]:
    """Write the files of one scene; what they are, for its row of detections.json."""
    output.write_image(draw_overview(found, overview), target)
    names: list[str] = []
    if georeference is not None and can_be_placed(georeference, found.size):
        names = write_geojson(found, georeference, target.parent, target.stem)
    return {"drawn": target.name} | ({"geojson": names} if names else {})


def _need_own_names(targets: Mapping[Path, Path]) -> None:
    """InputError where the GeoJSON of `a.wgs84.tif` would have the name of one of `a.tif`."""
    stems = {target.stem.lower(): path for path, target in targets.items()}
    for stem, path in stems.items():
        if (other := stems.get(stem + WGS84_TAG)) is not None:
            raise InputError(
                f"{other}: its GeoJSON and that of {path} would both be {stem}{WGS84_TAG}.geojson, needed names of "
                "their own; rename one, or predict it into another folder"
            )


def _need_places(files: Sequence[Path]) -> None:
    for path in files:
        try:
            # What opening says about bands and bits is said when the scene's turn comes.
            with redirect_stderr(io.StringIO()), open_scene(path) as scene:
                placed = can_be_placed(scene.georeference, scene.size)
        except InputError:
            continue  # said in Summary.failed, when its turn comes
        if not placed:
            raise InputError(
                f"{path}: no georeference that leads to a place on the Earth, needed one for GeoJSON; "
                "leave --geojson out, or give the file one (gdal_translate -a_srs EPSG:... -a_ullr ...)"
            )
