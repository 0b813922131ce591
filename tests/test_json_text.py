"""Untrusted JSON."""

from pathlib import Path

import pytest

from boxwright import json_text
from boxwright.errors import InputError, printable


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "key 'c' is repeated"),
        ("[" * 100_000, "nested too deeply"),
        ("1" * 5000, "not JSON"),
        ("{'a': 1}", "not JSON"),
        (b"\xff\xff\xff", "not JSON"),
        ("", "not JSON"),
        ('{"\\u001b[31m": 1, "\\u001b[31m": 1}', "\\x1b[31m"),
    ],
)
def test_parse_errors_are_one_line(content: str | bytes, named: str) -> None:
    with pytest.raises(InputError) as caught:
        json_text.parse(content, "labels.json")
    assert str(caught.value).startswith("labels.json: ")
    assert named in str(caught.value)
    assert str(caught.value).isprintable()


def test_excessive_number_of_lists_is_rejected_before_parsing() -> None:
    with pytest.raises(InputError, match=r"600,001 lists and objects in 1,800,001 bytes"):
        json_text.parse("[" + "[]," * 599_999 + "[]]", "labels.json")


@pytest.mark.slow
def test_dense_labels_are_read() -> None:
    row = '{"id":1,"image_id":1,"category_id":1,"bbox":[1,1,9,9],"segmentation":[[1,1,9,1,9,9]]}'
    content = "[" + ",".join([row] * 20_000) + "]"
    assert len(json_text.parse(content, "labels.json")) == 20_000


def test_values_and_object_hook() -> None:
    assert json_text.parse('{"a": [1, 2.5, null, "\\u00e9"]}', "x") == {"a": [1, 2.5, None, "é"]}
    assert json_text.parse('[{"a": {}}]', "x", lambda found: {**found, "n": len(found)}) == [{"a": {"n": 0}, "n": 1}]


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        json_text.read(tmp_path / "absent.json")
    with pytest.raises(InputError, match="not a regular file"):
        json_text.read("/dev/zero")
    with pytest.raises(InputError, match="no file can have this name"):
        json_text.read("a\0b")


def test_terminal_text_is_one_printable_line() -> None:
    assert printable("x\x1b[31mred\nboxwright: forged \udce9\u202e") == "x\\x1b[31mred\\nboxwright: forged \\xe9\\u202e"
    assert printable("naïve 日本") == "naïve 日本"
