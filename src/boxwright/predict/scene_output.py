"""Writing the detections of large images: overviews with boxes, detections.json, and GeoJSON if georeferenced."""

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from pathlib import Path

from boxwright.errors import InputError, titled
from boxwright.images.bands import Bands
from boxwright.images.windows import Georeference, grid, open_scene
from boxwright.json_text import JsonObject
from boxwright.predict import output
from boxwright.predict.geojson import WGS84_TAG, is_georeferenced, write_geojson
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
    draw: bool = True,
) -> output.Summary:
    """Predict large images window by window; write overviews with boxes as JPEG, detections.json, and GeoJSON.

    Args:
        predictor: The detector.
        sources: Image files, folders and glob patterns.
        out: The output folder.
        tiling: The windows.
        threshold: As in `Predictor.__call__`.
        iou: As in `Predictor.__call__`.
        classes: As in `Predictor.__call__`.
        geojson: Require GeoJSON for all scenes; otherwise it is written for those with a georeference.
        draw: Write the overviews.

    Returns:
        The summary; scenes that cannot be read or drawn are in `Summary.failed`.

    Raises:
        InputError: A source does not exist, a setting is invalid, the folder is not writable, the GeoJSON files of two
            scenes would have the same name, or a scene has no georeference although GeoJSON is required. Raised before
            anything is predicted.
    """
    folder = Path(out)
    args = predictor.args(threshold, iou, classes)
    grid((1, 1), tiling.window, tiling.overlap)  # raises InputError for invalid values
    files = output.find_images(sources, folder)
    if geojson:
        _check_georeferences(files, predictor.bands)
    targets = output.drawing_paths(files, folder, ".jpg" if draw else ".geojson")
    _check_names(targets)
    output.make_writable(folder)
    rows: list[JsonObject] = []
    results: list[Prediction] = []
    failed: dict[str, str] = {}
    for path in files:
        try:
            with open_scene(path, predictor.bands) as scene:
                overview = Overview(scene.size) if draw else None
                prediction = predict_scene(predictor, scene, tiling, threshold, iou, classes, overview)
        except InputError as error:
            failed[titled(str(path))] = str(error)
            continue
        results.append(prediction)
        rows.append(output.image_row(predictor, prediction, None))
        try:
            rows[-1] |= _write(prediction, overview, scene.georeference, targets[path])
        except InputError as error:
            failed[titled(str(path))] = str(error)
    settings = {"tile": tiling.window, "overlap": tiling.overlap}
    return output.write_results(predictor, folder, args, rows, failed, results, settings, draw=draw)


def _write(
    prediction: Prediction, overview: Overview | None, georeference: Georeference | None, target: Path
) -> dict[str, str | list[str]]:
    """Write the files of one scene; returns their names, for its entry in detections.json."""
    if overview is not None:
        output.write_image(draw_overview(prediction, overview), target)
    names: list[str] = []
    if georeference is not None and is_georeferenced(georeference, prediction.size):
        names = write_geojson(prediction, georeference, target.parent, target.stem)
    return ({"drawn": target.name} if overview else {}) | ({"geojson": names} if names else {})


def _check_names(targets: Mapping[Path, Path]) -> None:
    """Raise InputError if the GeoJSON of `a.wgs84.tif` would have the same name as that of `a.tif`."""
    stems = {target.stem.lower(): path for path, target in targets.items()}
    for stem, path in stems.items():
        if (other := stems.get(stem + WGS84_TAG)) is not None:
            raise InputError(
                f"{other}: its GeoJSON and that of {path} would both be {stem}{WGS84_TAG}.geojson, needed "
                "different names; rename one, or predict it into another folder"
            )


def _check_georeferences(files: Sequence[Path], bands: Bands | None) -> None:
    for path in files:
        try:
            # Notes about bands and bit depth are printed when the scene is predicted.
            with redirect_stderr(io.StringIO()), open_scene(path, bands) as scene:
                georeferenced = is_georeferenced(scene.georeference, scene.size)
        except InputError:
            continue  # reported in Summary.failed
        if not georeferenced:
            raise InputError(
                f"{path}: no georeference that leads to a location on Earth, needed one for GeoJSON; "
                "leave --geojson out, or give the file one (gdal_translate -a_srs EPSG:... -a_ullr ...)"
            )
