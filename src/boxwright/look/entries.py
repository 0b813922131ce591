"""Values of a request."""

import math

Box = tuple[float, float, float, float]  # xyxy px


def box_of(value: object) -> Box | None:
    """A box of JSON; None for anything else than four finite numbers."""
    if not isinstance(value, list) or len(value) != 4 or not all(type(number) in (int, float) for number in value):
        return None
    try:
        x1, y1, x2, y2 = map(float, value)
    except OverflowError:  # an integer of hundreds of digits
        return None
    return (x1, y1, x2, y2) if all(map(math.isfinite, (x1, y1, x2, y2))) else None
