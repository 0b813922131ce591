"""Detect objects in a georeferenced scene of any size, window by window, and write them as GeoJSON for QGIS.

    python examples/scene_to_map.py runs/aerial scene.tif found

Needs the extra geo. The window is that of the tiles of the training (docs/large_images.md).
"""

import sys
from pathlib import Path

import boxwright as bw
from boxwright.predict.geojson import is_georeferenced, write_geojson


def scene_to_map(predictor, scene: str, out: str, window: int = 600, threshold: float = 0.3) -> list[Path]:
    """Returns the files: one in the scene's coordinate system, one in longitude and latitude."""
    with bw.open_scene(scene, predictor.bands) as opened:
        if not is_georeferenced(opened.georeference, opened.size):
            sys.exit(f"{scene}: has no place on the Earth; boxwright predict --tile writes its boxes in px")
        found = bw.predict_scene(predictor, opened, bw.Tiling(window, overlap=0.2), threshold)
    Path(out).mkdir(parents=True, exist_ok=True)
    files = [Path(out) / name for name in write_geojson(found, opened.georeference, Path(out), Path(scene).stem)]
    print(f"{scene}: {len(found)} objects in {', '.join(map(str, files))}")
    return files


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    scene_to_map(bw.load(sys.argv[1]), *sys.argv[2:])
