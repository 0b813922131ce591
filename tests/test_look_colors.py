"""The colors of the page of `boxwright look` can be distinguished, as WCAG 2 requires."""

import re
from pathlib import Path

import pytest

STYLE = Path(__file__).parents[1] / "src" / "boxwright" / "look" / "page" / "style.css"


def luminance(color: str) -> float:
    """WCAG 2's relative luminance of #rrggbb."""
    values = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_contrast(theme: int) -> None:
    colors = {
        name: pair[theme]
        for name, *pair in re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", STYLE.read_text())
    }

    def ratio(one: str, other: str) -> float:
        low, high = sorted([luminance(colors[one]), luminance(colors[other])])
        return (high + 0.05) / (low + 0.05)

    text = [(one, other) for one in ("text", "muted", "accent", "bad", "warn") for other in ("page", "raised")]
    text += [("text", "soft"), ("accent", "soft"), ("on-accent", "accent"), ("bad", "bad-soft"), ("warn", "warn-soft")]
    text += [("muted", "stage"), ("bad", "stage"), ("good", "raised")]
    assert {pair: ratio(*pair) for pair in text if ratio(*pair) < 4.5} == {}
    assert ratio("control", "raised") >= 3
    assert ratio("accent", "stage") >= 3
