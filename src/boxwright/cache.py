"""The cache folder: files that can be created again, and may be deleted at any time."""

import os
from pathlib import Path

VARIABLE = "BOXWRIGHT_CACHE"
NOT_WRITTEN = f"the cache cannot be written; set {VARIABLE} to another folder"


def cache_folder() -> Path:
    """The cache: $BOXWRIGHT_CACHE, else $XDG_CACHE_HOME/boxwright, or ~/.cache/boxwright.

    Processes that are started later find it in the same way, so it is chosen by the environment only.

    Raises:
        RuntimeError: The user has no home folder.
    """
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "boxwright"
