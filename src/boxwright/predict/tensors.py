"""What a network is given for the images of a data set, as plain files: for runtimes in other languages and on
other devices.

H x W canvas px
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from boxwright import json_text, tasks
from boxwright.data.dataset import evenly_spaced
from boxwright.errors import InputError, printable
from boxwright.files import new_folder
from boxwright.predict.inputs import Array, prepare
from boxwright.progress import track
from boxwright.recipe import Recipe
from boxwright.types import Frame

INDEX = "tensors.json"
Format = Literal["bin", "npy"]


def write(
    root: str | Path,
    out: str | Path,
    recipe: Recipe,
    split: str = "val",
    count: int | None = None,
    kind: Format = "bin",
) -> str:
    """Write each image of a split as the recipe's network is given it into the folder `out`; say what was done.

    A file holds (1, 3, H, W) float32, RGB in [0, 1], little-endian: `bin` the numbers only, `npy` as NumPy saves them.
    `tensors.json` says of each which image it is and how that lies on the canvas. root: the data set's folder, with
    boxes or with classes as the recipe's task needs. count: so many, spread evenly; None for all.

    The folder appears whole or not at all; one that holds the same already is left as it is.
    Raises InputError for a data set or image that cannot be read, and where `out` holds anything else.
    """
    target = Path(out)
    dataset = tasks.of(recipe).open_images(root, split, recipe.data)
    if not len(dataset):
        raise InputError(f"{root}: split {split} holds no image, needed one or more")
    chosen = evenly_spaced(len(dataset), len(dataset) if count is None else count)
    head = {
        "recipe": recipe.name, "canvas_rule": recipe.data.canvas.model_dump(mode="json"), "names": list(dataset.names),
        "format": kind, "dtype": "float32", "byte_order": "little", "layout": "NCHW",
        "shape": [1, 3, *recipe.data.canvas.size],
    }  # fmt: skip
    rows = [_row(dataset[index], index, kind) for index in chosen]
    size = recipe.data.canvas.size
    done = f"{len(rows)} of {len(dataset)} images of {split} as {kind}, 1 x 3 x {size[0]} x {size[1]}"
    if _is_there(target, head, rows):
        return f"{done}: there already\n{printable(str(target))}"
    with new_folder(target) as folder:
        for index, row in track(zip(chosen, rows, strict=True), len(rows), "writing tensors"):
            prepared = prepare(dataset.source(index), recipe.data.canvas)
            _save(prepared.pixels, folder / row["file"])
            row |= _lies(prepared.frame)
        json_text.write(folder / INDEX, {**head, "images": rows}, indent=1)
    return f"{done}: written\n{printable(str(target))}"


def _row(sample: Any, index: int, kind: Format) -> dict[str, Any]:
    """What is known of an image without looking at it. index: its place in the split."""
    name = f"{index:06d}_{Path(sample.path).stem}.{kind}"
    row = {"file": name, "image": sample.path, "image_id": sample.image_id}
    label = getattr(sample, "label", None)  # of a set with classes
    return row if label is None else row | {"label": label}


def _is_there(target: Path, head: dict[str, Any], rows: list[dict[str, Any]]) -> bool:
    """Whether an earlier run was asked for the same, with the same images, and what it wrote lies there."""
    try:
        tree = json_text.read(target / INDEX)
        same = tree | head == tree and len(tree["images"]) == len(rows)
        return same and all(
            row.items() <= found.items() and (target / row["file"]).is_file()
            for row, found in zip(rows, tree["images"], strict=True)
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # none, or not one of ours
        return False


def _save(pixels: Array, file: Path) -> None:
    """Write a canvas, (H, W, 3) in 0..255."""
    tensor = (np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], dtype=np.float32) / np.float32(255)).astype("<f4")
    if file.suffix == ".npy":
        np.save(file, tensor)
    else:
        tensor.tofile(file)


def _lies(frame: Frame) -> dict[str, Any]:
    """How the image lies on its canvas, always the vertical number first: original px = (canvas px - offset) / scale.

    extent: canvas px that it covers, what a network with a second input `extents` is given there.
    """
    left, top, right, bottom = frame.content
    return {
        "size": list(frame.size),
        "scale": list(frame.scale),
        "offset": list(frame.offset),
        "extent": [round(bottom - top), round(right - left)],
    }
