"""Lines and zones to count at, from a YAML file or from the command line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field, model_validator

from boxwright.config import ClassName, Config, Fraction, read_yaml, validate
from boxwright.errors import InputError

MAX_ENTRIES = 100  # maximum number of lines, of zones, and of corners of a zone
Corners = tuple[float, float, float, float]


def _line(value: Corners) -> Corners:
    if value[:2] == value[2:]:
        raise ValueError("needed x1, y1, x2, y2 of two points that differ")
    return value


def _polygon(values: tuple[float, ...]) -> tuple[float, ...]:
    if len(values) % 2 or not 6 <= len(values) <= 2 * MAX_ENTRIES:
        raise ValueError(f"found {len(values)} numbers, needed x1, y1, x2, y2, ... of 3 to {MAX_ENTRIES} corners")
    points = np.array(values).reshape(-1, 2)
    if np.linalg.matrix_rank(points - points[0]) < 2:
        raise ValueError("all corners are on one line, needed an area")
    return values


Line = Annotated[Corners, AfterValidator(_line)]
Polygon = Annotated[tuple[float, ...], AfterValidator(_polygon)]


class CountingConfig(Config):
    """Lines and zones to count at; all coordinates are px of the video as displayed.

    Attributes:
        lines: Name -> x1, y1, x2, y2. Looking from the first point to the second, a crossing from left to right is
            `in`, from right to left `out`.
        zones: Name -> x1, y1, x2, y2, ... of the corners of a polygon.
        anchor: The point of a box that counts: its `center`, or the `bottom` center, where an object stands.
        band: Hysteresis: an object is on a side of a line or border when its anchor is farther from it than this
            fraction of its size, the geometric mean of the sides of its box.
    """

    lines: dict[ClassName, Line] = Field(default={}, max_length=MAX_ENTRIES)
    zones: dict[ClassName, Polygon] = Field(default={}, max_length=MAX_ENTRIES)
    anchor: Literal["center", "bottom"] = "center"
    band: Fraction = 0.1

    @model_validator(mode="after")
    def _names_differ(self) -> "CountingConfig":
        if both := sorted(self.lines.keys() & self.zones.keys()):
            raise ValueError(f"lines and zones: found '{both[0][:40]}' in both, needed different names")
        return self


def load(file: str | Path | None = None, lines: Sequence[str] = (), zones: Sequence[str] = ()) -> CountingConfig:
    """The lines and zones of a YAML file and of the command line.

    Args:
        file: Has the fields of `CountingConfig` as keys.
        lines: Each x1,y1,x2,y2; they are named `line 1`, `line 2`, ...
        zones: Each x1,y1,x2,y2,x3,y3,...; they are named `zone 1`, ...

    Raises:
        InputError: The file or a value is faulty, or there is neither a line nor a zone.
    """
    config = CountingConfig() if file is None else validate(CountingConfig, read_yaml(Path(file)), str(file))
    values = {
        "lines": {f"line {number}": _numbers(text, "--line") for number, text in enumerate(lines, 1)},
        "zones": {f"zone {number}": _numbers(text, "--zone") for number, text in enumerate(zones, 1)},
    }
    added = validate(CountingConfig, values, "--line, --zone")
    if repeated := sorted(added.lines.keys() & config.lines.keys() | added.zones.keys() & config.zones.keys()):
        raise InputError(f"{file}: found '{repeated[0]}', the name of a --line or --zone; needed another name")
    if not (added.lines or added.zones or config.lines or config.zones):
        raise InputError(f"{file}: found neither lines nor zones, needed one: lines: {{gate: [0, 200, 640, 200]}}")
    return config.model_copy(update={"lines": config.lines | added.lines, "zones": config.zones | added.zones})


def check_size(config: CountingConfig, height: int, width: int) -> None:
    """Raise InputError if a line or zone is outside of frames of (height, width) px, or within one pixel, as fractions
    of the size would be: nothing would ever be counted there."""
    for place, corners in (config.lines | config.zones).items():
        x, y = corners[::2], corners[1::2]
        outside = max(x) < 0 or max(y) < 0 or min(x) > width or min(y) > height
        if outside or max(max(x) - min(x), max(y) - min(y)) <= 1:
            where = "outside of the video" if outside else "within one pixel"
            raise InputError(f"{place}: lies {where}, needed px of its {width} x {height}, no fractions")


def _numbers(text: str, option: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise InputError(f"{option} {text[:60]}: needed numbers of px with commas between, x1,y1,x2,y2") from None
