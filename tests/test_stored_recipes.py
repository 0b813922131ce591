"""What files of strangers say about themselves is data of strangers: names, sizes, settings."""

import pytest

from boxwright import config, recipe
from boxwright.errors import InputError

NAMES = {
    "a\nb": "a control character",
    "a\rb": "a control character",
    "\x1b[31mred": "a control character",
    "a\0b": "a control character",
    "a\u2028b": "a line break",
    "\ud800": "a lone surrogate",
    "x" * 201: "201 letters",
}


@pytest.mark.parametrize(("name", "words"), NAMES.items(), ids=range(len(NAMES)))
def test_class_names_that_no_file_can_hold(name: str, words: str) -> None:
    assert words in config.class_name_fault(name)
    with pytest.raises(InputError, match=words) as caught:
        recipe.load("demo", {"data.names": [name, "b", "c", "d", "e"], "model.classes": 5})
    assert "data.names" in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("name", ["car", "x" * 200, "Größe", "自動車", "a\u00a0b", "👩\u200d🚀", "US$", "../a", ""])
def test_class_names_of_all_scripts(name: str) -> None:
    assert config.class_name_fault(name) == ""
    assert recipe.load("demo", {"data.names": [name], "model.classes": 1}).data.names == (name,)
