"""YAML files and overrides: what is read, and one line for what is not."""

import time
from pathlib import Path
from typing import Literal

import pytest
import yaml

from boxwright.config import Config, override, read_yaml, validate
from boxwright.errors import InputError


class Inner(Config):
    depth: int = 1
    pair: tuple[float, float] = (0.0, 1.0)


class Outer(Config):
    word: Literal["no", "yes"] = "no"
    inner: Inner = Inner()


def rejection(call, *arguments):
    """The text of the InputError that `call` raises: always one line."""
    with pytest.raises(InputError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "r.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "r.yaml: holds NoneType, needed a mapping"),
        ("[1, 2]", "r.yaml: holds list, needed a mapping"),
        ("a: 1\nb: [1\nc: 2", "r.yaml line 3: not valid YAML"),
        ("a: 1\n\tb: 2", "r.yaml line 2: not valid YAML"),
        ("a: 1\nb: 2\na: 3", "r.yaml line 3: not valid YAML ('a' is given twice)"),
        ("a: {b: 1, b: 2}", "'b' is given twice"),
        ("a: &x 1\nb: *x", "r.yaml line 2: not valid YAML (aliases are not read)"),
        ("a: &x {b: *x}", "aliases are not read"),
        ("a: !!python/object/apply:os.getcwd []", "r.yaml line 1: not valid YAML"),
        ("a: 1\nb: !!int x", "r.yaml line 2: not valid YAML ('x' is not a valid int)"),
        ("a: !!int ''", "r.yaml line 1: not valid YAML ('' is not a valid int"),
        ("a: !!int 1:1:1", "'1:1:1' is not a valid int"),
        ("a: !!int {b: c}", "not valid YAML (expected a scalar node"),
        ("a: !!float ''", "r.yaml line 1: not valid YAML ('' is not a valid float"),
        ("a: !!bool x", "r.yaml line 1: not valid YAML ('x' is not a valid bool"),
        ("a: !!null x", "r.yaml line 1: not valid YAML ('x' is not a valid null"),
        ("a: !!timestamp x", "r.yaml line 1: not valid YAML (could not determine a constructor for the tag"),
        ("a: !!timestamp 2024-01-01", "could not determine a constructor"),
        ("a: !!binary aGFsbG8=", "could not determine a constructor"),
        ("a: !!set {b, c}", "could not determine a constructor"),
        ("a: !!omap [b: 1]", "could not determine a constructor"),
        ("a: !!pairs [b: 1]", "could not determine a constructor"),
        ("!!merge a: {b: 1}", "could not determine a constructor"),
        ("a: !own 1", "could not determine a constructor"),
        ('a: "\\UFFFFFFFF"', "not valid YAML"),
        ("%YAML " + "9" * 5000 + ".1\n---\na: 1", "not valid YAML"),
        ("a: [" + "x, " * 70_000 + "]", "r.yaml line 1: not valid YAML (more than 70,000 values)"),
        ("#" * (1 << 20) + "\na: 1", "r.yaml: larger than 1,048,576 bytes"),
        ("a: 1\n---\nb: 2", "r.yaml line 2: not valid YAML"),
        ("? [1, 2]\n: 3", "r.yaml line 1: not valid YAML"),
        ("a: " + "[" * 5000, "not valid YAML"),
        ("a: \0", "not valid YAML (special characters are not allowed)"),
        (b"a: \xff", "r.yaml: byte 3 is not UTF-8; save the file as UTF-8"),
    ],
)
def test_invalid_yaml_is_rejected(write, content, words):
    assert words in rejection(read_yaml, write(content))


def test_unreadable_files_are_rejected(tmp_path):
    assert "absent.yaml: cannot be read (No such file" in rejection(read_yaml, tmp_path / "absent.yaml")
    assert "cannot be read (Is a directory)" in rejection(read_yaml, tmp_path)


def test_yes_no_and_dates_stay_strings(write):
    tree = read_yaml(write("names: [no, on, y, 2024-01-01, 'true']\nflag: true\nrate: 1.0e-3\nnone:"))
    assert tree == {"names": ["no", "on", "y", "2024-01-01", "true"], "flag": True, "rate": 0.001, "none": None}


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("1:01:01", "1:01:01"), ("1:30.5", "1:30.5"), ("-1_000", -1000), ("+7", 7), ("007", "007"), ("0x1F", "0x1F"),
        ("1.5e-3", 0.0015), ("-.5", -0.5), ("1.", 1.0), ("0.00012345678901234567", 0.00012345678901234567),
        (".inf", float("inf")), ("-.inf", -float("inf")), ("<<", "<<"),
        ("=", "="), ("", None), ("~", None), ("null", None), ("9" * 20, int("9" * 20)), ("9" * 21, "9" * 21),
    ],
)  # fmt: skip
def test_scalars_follow_json(write, word, value):
    """JSON's values and nothing else: no numbers to base 60 or 8, no merging."""
    found = read_yaml(write(f"a: {word}"))["a"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("unit", [":01", "1", "_", "1_", "9:59"])
def test_long_numbers_are_read_in_linear_time(write, unit):
    file, start = write("a: 1" + unit * (900_000 // len(unit)) + "\nb: -1." + unit * 9000), time.process_time()
    assert isinstance(read_yaml(file)["a"], str)
    assert time.process_time() - start < 2  # a second here; a quadratic reader takes a minute


def test_endless_files_are_rejected():
    assert "not a regular file" in rejection(read_yaml, Path("/dev/zero"))


def test_many_errors_are_summarized():
    message = rejection(validate, Outer, {f"{k}" + "x" * 999: 1 for k in range(20_000)}, "here")
    assert len(message) < 1000
    assert message.endswith("...")


def test_yaml_dump_round_trip(write):
    tree = {"names": ["no", "on", "2024-01-01", "1e3", "010", "~", "é", "a: b", "", "0x1F"], "x": [1, 0.1, None, False]}
    assert read_yaml(write(yaml.safe_dump(tree, allow_unicode=True))) == tree


def test_a_single_word_is_an_override() -> None:
    """A str is also a sequence of its characters."""
    assert override({"a": {"b": 1}}, "a.b=23") == {"a": {"b": 23}}


def test_override_does_not_change_its_input():
    tree = {"a": {"b": 1, "c": 2}}
    assert override(tree, ["a.b=[3, x]", "a.d.e=no", "f=1e-3", "g=", "h=k=v"]) == {
        "a": {"b": [3, "x"], "c": 2, "d": {"e": "no"}}, "f": "1e-3", "g": None, "h": "k=v",
    }  # fmt: skip
    assert override(tree, {"a.b": 9}) == {"a": {"b": 9, "c": 2}}
    assert tree == {"a": {"b": 1, "c": 2}}


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("a.b", "--set a.b: needed key=value"),
        ("=3", "--set =3: needed key=value"),
        ("a.b=[", "--set a.b=[: '[' is not a YAML value"),
        ("a=!!timestamp x", "--set a=!!timestamp x: '!!timestamp x' is not a YAML value"),
        ("a=!!int ''", "is not a YAML value"),
        ("a.b.c=3", "a.b.c: 'b' holds 1, which has no keys below it"),
    ],
)
def test_invalid_overrides_are_rejected(word, words):
    assert words in rejection(override, {"a": {"b": 1}}, [word])


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ({"wrod": "no"}, "here: wrod: unknown key (did you mean 'word'?)"),
        ({"inner": {"dpeth": 2}}, "here: inner.dpeth: unknown key (did you mean 'depth'?)"),
        ({"inner": {"qqqq": 2}}, "here: inner.qqqq: unknown key"),
        ({"inner": 3}, "here: inner: needed a mapping of keys to values (found 3)"),
        ({"inner": {"pair": [1]}}, "here: inner.pair: too few values, found [1]"),
        ({"inner": {"pair": [1, 2, 3]}}, "here: inner.pair: needed at most 2 values, found 3"),
        ({"inner": {"pair": 1}}, "here: inner.pair: needed a list of values (found 1)"),
        ({"inner": {"pair": [0, float("nan")]}}, "here: inner.pair.1: input should be a finite number (found nan)"),
        ({"word": "maybe"}, "here: word: input should be 'no' or 'yes' (found 'maybe')"),
        ({"word": "x", "y": 1}, "here: word: input should be 'no' or 'yes' (found 'x'); y: unknown key"),
        ([1], "here: needed a mapping of keys to values (found [1])"),
        ({"inner": {"depth": True}}, "here: inner.depth: needed a number (found True)"),
        ({"inner": {"pair": [0, False]}}, "here: inner.pair.1: needed a number (found False)"),
    ],
)
def test_validation_errors_name_the_key(tree, expected):
    assert rejection(validate, Outer, tree, "here") == expected


def test_validation_errors_below_a_prefix():
    assert (
        rejection(validate, Inner, {"dept": 1}, "here", "a.b") == "here: a.b.dept: unknown key (did you mean 'depth'?)"
    )


def test_sections_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Outer().word = "yes"
