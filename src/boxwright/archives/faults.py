"""What all kinds of archives have in common: names, and sizes that are too large to be true."""

from pathlib import PurePosixPath

from boxwright.errors import InputError

MAX_RATIO = 100  # of all contents to the archive, which no data set reaches
MIN_BOMB = 1 << 30  # bytes below which the ratio does not matter


def clean_name(name: str) -> str:
    """The name without the `./` that `tar -c .` puts before all names; "" for the folder itself."""
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return "" if name == "." else name


def is_of_macos(name: str) -> bool:
    """Whether a member holds attributes that macOS adds to archives, under the name of an image."""
    return name.startswith("__MACOSX/") or PurePosixPath(name).name.startswith("._")


def check_total(title: str, size: int, stored: int, declared: int) -> None:
    """Raise InputError for a ZIP bomb.

    Args:
        title: Of the archive.
        size: Of the archive, bytes.
        stored: Sum of the members' sizes in it.
        declared: Sum of their sizes unpacked.
    """
    if stored > size:
        raise InputError(f"{title}: its files overlap ({stored:,} bytes in {size:,}), as in a ZIP bomb; pack it anew")
    if declared > MIN_BOMB and declared > MAX_RATIO * size:
        raise InputError(
            f"{title}: {declared:,} bytes in an archive of {size:,}, as in a ZIP bomb; unpack it if you trust it"
        )
