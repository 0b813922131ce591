"""Pickles that somebody made by hand to take time or memory without end."""

import io
import zipfile
from pathlib import Path

import pytest
import torch

from boxwright.errors import InputError
from boxwright.weights import restricted, torch_files


def tuples(levels: int, width: int) -> bytes:
    """A tuple of the one before, `width` times, on so many levels, as the key of a dict."""
    nested = b"".join(b"(" + (b"h" + bytes([i])) * width + b"tq" + bytes([i + 1]) for i in range(levels))
    return b")q\0" + nested + b"}h" + bytes([levels]) + b"Ns."


def lists(first: int, last: int, step: int) -> bytes:
    """Empty lists, each of which then gets another one ten times; the biggest is called as a function."""
    empty = b"".join(b"]q" + bytes([i]) for i in range(41))
    filled = b"".join(b"h" + bytes([i]) + b"(" + (b"h" + bytes([i - 1])) * 10 + b"e0" for i in range(first, last, step))
    return empty + filled + b"}h\x28)Rs."


def many_keys() -> bytes:
    """One tuple of 60,000 numbers is the key of 3,000 entries."""
    return b"(" + b"K\1" * 60_000 + b"tq\0}(" + b"h\0N" * 3_000 + b"u."


BOMBS = {
    "narrow": tuples(60, 2), "wide": tuples(8, 100), "lists": lists(1, 41, 1), "lists from the top": lists(40, 0, -1),
    "deep": b")" + b"\x85" * 8_000 + b"q\0}h\0Ns.", "many keys": many_keys(),
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_exponentially_nested_objects_are_rejected(bomb: bytes, tmp_path: Path) -> None:
    """The expanded size of each is an exponential of the file's, or its square; "deep" overflows a small stack."""
    file, good = tmp_path / "a.pth", tmp_path / "good.pth"
    torch.save({"a": torch.zeros(2)}, good)
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            new.writestr(name, b"\x80\x02" + bomb if name.endswith("data.pkl") else old.read(name))
    with pytest.raises(InputError, match=r"a\.pth: cannot be read .* \(objects in objects"):
        torch_files.contents(file)


LIST_AS = {
    "text": b"c_codecs\nencode\n](]]e\x85R",
    "name of a storage": b"(X\7\0\0\0storagectorch\nFloatStorage\n](]]eX\3\0\0\0cpuK\1tQ",
}


@pytest.mark.parametrize("content", LIST_AS.values(), ids=LIST_AS)
def test_lists_are_not_converted_to_text(content: bytes) -> None:
    """The text of lists in lists takes memory without end."""
    with pytest.raises((TypeError, ValueError), match=r"doesn't apply to a 'list'|a storage without name"):
        restricted.Reader(io.BytesIO(b"\x80\2" + content + b".")).load()


def test_list_as_dtype_is_rejected() -> None:
    class Unprintable(list[object]):
        def __str__(self) -> str:
            raise AssertionError("its text was made")

    for kind in (restricted.ArrayType(Unprintable()), restricted.ArrayType("f4", Unprintable())):
        with pytest.raises(ValueError, match="plain numbers"):
            restricted.tensor_of(restricted.ArrayEntry((1, (1,), kind, False, bytes(4))))
