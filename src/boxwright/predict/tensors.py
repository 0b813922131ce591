"""Writing a network's inputs for the images of a data set, for runtimes in other languages and on other devices.

H x W canvas px
"""

import hashlib
from pathlib import Path
from typing import Literal

import numpy as np

from boxwright import json_text, tasks
from boxwright.arrays import Array
from boxwright.data.class_dataset import ClassSample
from boxwright.data.dataset import Sample, evenly_spaced
from boxwright.data.fingerprint import image_digest
from boxwright.errors import InputError, printable, titled
from boxwright.files import new_folder
from boxwright.images.bands import Bands
from boxwright.json_text import JsonObject
from boxwright.predict.inputs import prepare
from boxwright.progress import track
from boxwright.recipe import Recipe
from boxwright.types import Frame

INDEX = "tensors.json"
DIGITS = 16  # hex digits of digests
Format = Literal["bin", "npy"]


def write(
    root: str | Path,
    out: str | Path,
    recipe: Recipe,
    split: str = "val",
    count: int | None = None,
    kind: Format = "bin",
) -> str:
    """Write the preprocessed images of a split into the folder `out`, which is created completely or not at all.

    A file contains (1, C, H, W) float32, RGB or `data.bands` in [0, 1], little-endian. `tensors.json` lists the image
    of each file and its position on the canvas. A folder that already contains the same is not changed.

    Args:
        root: A data set of the recipe's task.
        out: The folder.
        recipe: Sets the preprocessing.
        split: Split of the data set.
        count: Number of images, evenly spaced; None for all.
        kind: `bin` for raw binary, `npy` for NumPy files.

    Returns:
        A summary for the user.

    Raises:
        InputError: The data set or an image cannot be read, or `out` contains anything else.
    """
    target = Path(out)
    dataset = tasks.of(recipe).open_images(root, split, recipe.data)
    if not len(dataset):
        raise InputError(f"{root}: split {split} holds no image, needed one or more")
    indices = evenly_spaced(len(dataset), len(dataset) if count is None else count)
    head: JsonObject = {
        "recipe": recipe.name, "canvas_rule": recipe.data.canvas.model_dump(mode="json"), "names": list(dataset.names),
        "format": kind, "dtype": "float32", "byte_order": "little", "layout": "NCHW",
        "shape": [1, recipe.model.input_channels, *recipe.data.canvas.size],
    }  # fmt: skip
    bands = Bands.of(recipe.data)
    if bands is not None:
        head |= {"bands": list(bands.numbers), "range": [list(pair) for pair in bands.ranges] or None}
    rows = [_row(dataset[index], index, kind) | {"digest": _digest(dataset.source(index))} for index in indices]
    shape = " x ".join(map(str, head["shape"]))
    summary = f"{len(rows)} of {len(dataset)} images of {split} as {kind}, {shape}"
    if _is_written(target, head, rows):
        return f"{summary}: there already\n{printable(str(target))}"
    with new_folder(target) as folder:
        for index, row in track(zip(indices, rows, strict=True), len(rows), "writing tensors"):
            prepared = prepare(dataset.source(index), recipe.data.canvas, bands=bands)
            _save(prepared.pixels, folder / row["file"])
            row |= _geometry(prepared.frame)
        json_text.write(folder / INDEX, {**head, "images": rows}, indent=1)
    return f"{summary}: written\n{printable(str(target))}"


def _row(sample: Sample | ClassSample, index: int, kind: Format) -> JsonObject:
    """The entry of an image before it is read. index: in the split."""
    name = f"{index:06d}_{Path(sample.path).stem}.{kind}"
    row = {"file": name, "image": titled(sample.path), "image_id": sample.image_id}
    label = getattr(sample, "label", None)  # of classification data
    return row if label is None else row | {"label": label}


def _digest(source: str | Array) -> str:
    """Digest of an image: of its file name, size, and both ends of its content, or of its pixels."""
    digest = image_digest(source, "sample") if isinstance(source, str) else hashlib.sha256(source.tobytes()).digest()
    return digest.hex()[:DIGITS]


def _is_written(target: Path, head: JsonObject, rows: list[JsonObject]) -> bool:
    """Whether the folder contains the files of an earlier run with the same settings and images."""
    try:
        tree = json_text.read(target / INDEX)
        same = head | {"images": tree["images"]} == tree and len(tree["images"]) == len(rows)
        return same and all(
            row.items() <= written.items() and (target / row["file"]).is_file()
            for row, written in zip(rows, tree["images"], strict=True)
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # no tensors.json, or one of another program
        return False


def _save(pixels: Array, file: Path) -> None:
    """Write a canvas, (H, W, C) in 0..255."""
    tensor = (np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], dtype=np.float32) / np.float32(255)).astype("<f4")
    if file.suffix == ".npy":
        np.save(file, tensor)
    else:
        tensor.tofile(file)


def _geometry(frame: Frame) -> dict[str, object]:
    """Position on the canvas, vertical first: original px = (canvas px - offset) / scale. extent: canvas px covered."""
    left, top, right, bottom = frame.content
    return {
        "size": list(frame.size),
        "scale": list(frame.scale),
        "offset": list(frame.offset),
        "extent": [round(bottom - top), round(right - left)],
    }
