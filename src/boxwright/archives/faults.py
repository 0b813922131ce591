"""Checks for all kinds of archives: names of members, and sizes as in a ZIP bomb."""

from pathlib import PurePosixPath

from boxwright.errors import InputError

MAX_RATIO = 100  # of the size of all contents to that of the archive, which no data set reaches
MIN_BOMB = 1 << 30  # bytes below which the ratio does not matter


def clean_name(name: str) -> str:
    """The name without the `./` that `tar -c .` puts before all names; "" for the folder itself."""
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return "" if name == "." else name


def is_of_macos(name: str) -> bool:
    """Whether a member contains attributes that macOS adds to archives, under the name of an image."""
    return name.startswith("__MACOSX/") or PurePosixPath(name).name.startswith("._")


def check_total(title: str, size: int, stored: int, declared: int) -> None:
    """Raise InputError for a ZIP bomb.

    Args:
        title: Name of the archive in messages.
        size: Size of the archive in bytes.
        stored: Sum of the members' sizes as stored, in bytes.
        declared: Sum of their unpacked sizes as declared, in bytes.
    """
    if stored > size:
        raise InputError(f"{title}: its files overlap ({stored:,} bytes in {size:,}), as in a ZIP bomb; repack it")
    if declared > MIN_BOMB and declared > MAX_RATIO * size:
        raise InputError(
            f"{title}: {declared:,} bytes in an archive of {size:,}, as in a ZIP bomb; unpack it if you trust it"
        )
