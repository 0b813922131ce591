"""Folders listed once while the layout of a data set is detected, since all layouts check the same files."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class Listing:
    """The entries of a folder.

    Attributes:
        names: The names of all entries.
        folders: The names of folders and of links to folders.
    """

    names: list[str]
    folders: list[str]
    _by_suffix: dict[str, list[str]] | None = field(default=None, repr=False)

    def by_suffix(self) -> Mapping[str, list[str]]:
        """Suffix in lower case -> the names with that suffix."""
        if self._by_suffix is None:
            found: dict[str, list[str]] = {}
            for name in self.names:
                found.setdefault(name[name.rfind(".") :].lower(), []).append(name)
            self._by_suffix = found
        return self._by_suffix


_known: ContextVar[dict[str, Listing] | None] = ContextVar("_known", default=None)


@contextmanager
def listed_once() -> Iterator[None]:
    """Within the block, `listing` lists each folder only once."""
    token = _known.set({})
    try:
        yield
    finally:
        _known.reset(token)


def listing(folder: str | Path) -> Listing:
    """The entries of a folder, in no order. Raises OSError if it cannot be listed."""
    listings = _known.get()
    if listings is not None and str(folder) in listings:
        return listings[str(folder)]
    with os.scandir(folder) as entries:  # which returns the types of entries without a call for each
        names, folders = [], []
        for entry in entries:
            names.append(entry.name)
            if entry.is_dir():
                folders.append(entry.name)
    found = Listing(names, folders)
    if listings is not None:
        listings[str(folder)] = found
    return found
