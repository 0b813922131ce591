"""The position of each tile in its scene, as `boxwright data tile` writes it to the COCO JSON.

N boxes
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pydantic
from pydantic import Field
from torch import Tensor

from boxwright.config import Positive
from boxwright.data.coco_entries import id_text
from boxwright.data.dataset import Dataset
from boxwright.errors import InputError
from boxwright.formats import coco
from boxwright.images.windows import Window

Side = Annotated[int, Field(gt=0)]
Edge = Annotated[int, Field(ge=0)]
NEEDED = {
    "scene": "a name", "scene_size": "[height, width]", "offset": "[x, y]", "scale": "a number above 0",
    "height": "px", "width": "px",
}  # fmt: skip


class _Entry(pydantic.BaseModel):
    """The entry of a tile; other keys are ignored."""

    model_config = pydantic.ConfigDict(allow_inf_nan=False)

    scene: Annotated[str, Field(min_length=1)]
    scene_size: tuple[Side, Side]  # (height, width) px
    offset: tuple[Edge, Edge]  # the tile's left and top edge, px of the scene
    scale: Positive  # px of the tile for one px of the scene
    height: Side  # px of the tile
    width: Side

    @pydantic.model_validator(mode="after")
    def _inside(self) -> "_Entry":
        if self.offset[0] >= self.scene_size[1] or self.offset[1] >= self.scene_size[0]:
            raise ValueError(f"offset {list(self.offset)} is outside scene_size {list(self.scene_size)}")
        return self


@dataclass(frozen=True, slots=True)
class Placement:
    """The position of a tile.

    Attributes:
        scene: Name of the scene.
        scene_size: (height, width) px of the scene.
        window: The region of the scene that the tile shows.
        scale: px of the tile per px of the scene.
    """

    scene: str
    scene_size: tuple[int, int]
    window: Window
    scale: float

    def to_scene(self, boxes: Tensor) -> Tensor:
        """(N, 4) px of the tile -> (N, 4) px of the scene."""
        return boxes / self.scale + boxes.new_tensor([self.window.x, self.window.y] * 2)


def placements(tiles: Dataset) -> list[Placement]:
    """The position of each tile. Raises InputError if an entry of the JSON is missing or invalid."""
    if tiles.members is not None:
        raise InputError(f"{tiles.root}: found several sets of tiles, needed one; name a single --data")
    if tiles.kind != "coco":
        raise InputError(f"{tiles.root}: labels are {tiles.kind}, needed the COCO JSON of `boxwright data tile`")
    file = Path(tiles.label_file(0))
    entries = {entry["id"]: (index, entry) for index, entry in enumerate(coco.image_entries(file))}
    results = []
    for image_id in tiles.images.ids.tolist():
        index, entry = entries[image_id]
        try:
            results.append(_placement(_Entry.model_validate(entry)))
        except pydantic.ValidationError as error:
            keys = error.errors(include_url=False)[0]["loc"]
            key = str(keys[0]) if keys else "offset"  # which must be inside scene_size
            needed = NEEDED[key] if keys else "one inside scene_size"
            found = repr(entry[key])[:40] if key in entry else "none"
            raise InputError(
                f"{file} images[{index}].{key}: found {found}, needed {needed}; cut the scenes with `boxwright data "
                "tile`"
            ) from error
    return results


def scene_names(dataset: Dataset) -> list[str]:
    """The scene of each image of a complete split; "" for an image that is not a tile."""
    return [scene if isinstance(scene, str) else "" for scene in entry_values(dataset, "scene")]


def entry_values(dataset: Dataset, key: str) -> list[object]:
    """The value of a key in the COCO JSON entry of each image; None without the key or the entry."""
    if dataset.members is not None:
        result: list[object] = [None] * len(dataset)
        for member, indices, own in dataset.members.each():
            found = entry_values(member.dataset, key)
            for index, place in zip(indices.tolist(), own.tolist(), strict=True):
                result[index] = found[place]
        return result
    if dataset.kind != "coco" or not len(dataset):
        return [None] * len(dataset)
    entries = [entry for entry in coco.image_entries(Path(dataset.label_file(0))) if isinstance(entry, dict)]
    values = {id_text(entry.get("id")): entry.get(key) for entry in entries}
    return [values.get(str(image_id)) for image_id in dataset.images.ids.tolist()]


def _placement(entry: _Entry) -> Placement:
    """The placement of an entry. Sides are rounded, so a tile that ends within a px of the scene's edge ends at it."""

    def extent(start: int, pixels: int, side: int) -> int:
        end = start + pixels / entry.scale
        return (side if end > side - 1 / entry.scale else round(end)) - start

    (x, y), (height, width) = entry.offset, entry.scene_size
    window = Window(x, y, max(1, extent(x, entry.width, width)), max(1, extent(y, entry.height, height)))
    return Placement(entry.scene, entry.scene_size, window, entry.scale)
