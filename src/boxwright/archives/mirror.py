"""Creating mirrors (`mirrors.py`): cache folders that stand for archives or for folders of an object store."""

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path

from boxwright import mirrors
from boxwright.cache import NOT_WRITTEN
from boxwright.errors import InputError, printable
from boxwright.files import make_folder, new_folder, remove_folder, sync
from boxwright.locks import lock
from boxwright.mirrors import INDEX, TREE, Member, Source

FORMAT = 1  # of mirrors; part of their keys
UNUSED = 30 * 24 * 3600  # s; a mirror that was not used for that long is removed
MODE = 0o666 if os.name == "nt" else 0o444  # of a file without content; Windows does not remove read-only files
MAX_MEMBERS = 20_000_000
MAX_NAME, MAX_PART = 2048, 255  # bytes of a name and of one part of it: Linux's limits less the path of the cache
SCHEMA = """
CREATE TABLE mirror (title TEXT);
CREATE TABLE source (number INTEGER PRIMARY KEY, kind TEXT, address TEXT, version TEXT);
CREATE TABLE member (name BLOB PRIMARY KEY, size INTEGER, source INTEGER, start INTEGER, length INTEGER,
    method INTEGER, crc INTEGER, version TEXT) WITHOUT ROWID;
"""


def make_mirror(title: str, sources: Sequence[Source], members: Callable[[], Iterable[Member]]) -> Path:
    """The tree of the mirror of `sources`, created if there is none for their versions.

    Args:
        title: Name of the tree in messages: the archive as the user named it, or a URI without credentials.
        sources: The sources of the members.
        members: Lists the members; called only if the mirror is created. It may raise InputError.

    Raises:
        InputError: A name is not safe or not unique, or the cache cannot be written. No files remain then.
    """
    try:
        folder = Path(mirrors.root(), _key(sources))
    except RuntimeError as error:
        raise InputError(f"{title}: no folder for the cache; set the variable BOXWRIGHT_CACHE to one") from error
    if not folder.exists():
        try:
            make_folder(folder.parent, NOT_WRITTEN)
            with new_folder(folder) as tmp:
                _write(tmp, title, sources, members())
            _remove_unused(folder.parent)
        except InputError:
            if not (folder / INDEX).exists():  # else another process was faster
                raise
    with suppress(OSError):  # a cache of another user
        os.utime(folder)
    try:
        mirrors.mirror(str(folder)).retitle(printable(title))
    except OSError as error:
        raise InputError(f"{title}: {error.strerror}") from error
    return folder / TREE


def _remove_unused(root: Path) -> None:
    """Remove the mirrors that no process has open and that were not used for `UNUSED` seconds."""
    for folder in root.iterdir():
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime < UNUSED:
                continue
            with (folder / INDEX).open("rb") as index:
                if lock(index) and time.time() - folder.stat().st_mtime > UNUSED:
                    remove_folder(folder)


def _key(sources: Sequence[Source]) -> str:
    content = json.dumps([FORMAT, *map(astuple, sources)])
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _write(folder: Path, title: str, sources: Sequence[Source], members: Iterable[Member]) -> None:
    """Write tree and index of a mirror into an empty folder."""
    tree = folder / TREE
    tree.mkdir()
    database = sqlite3.connect(folder / INDEX, isolation_level=None)
    try:
        database.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + SCHEMA)
        database.execute("BEGIN")
        database.execute("INSERT INTO mirror VALUES (?)", (printable(title),))
        numbered = ((number, *astuple(source)) for number, source in enumerate(sources))
        database.executemany("INSERT INTO source VALUES (?, ?, ?, ?)", numbered)
        database.executemany("INSERT INTO member VALUES (?, ?, ?, ?, ?, ?, ?, ?)", _created(tree, title, members))
        database.execute("COMMIT")
    finally:
        database.close()
    sync(folder / INDEX)


def _created(tree: Path, title: str, members: Iterable[Member]) -> Iterator[tuple[object, ...]]:
    """Rows of the index; the file of each is created in the tree. A name that ends with `/` is a folder."""
    base, made = os.path.join(tree, ""), {""}  # noqa: PTH118
    for count, member in enumerate(members, 1):
        if count > MAX_MEMBERS:
            raise InputError(f"{title}: more than {MAX_MEMBERS:,} files; divide it")
        if fault := name_fault(member.name.removesuffix("/")):
            raise InputError(f"{title}: a file called '{member.name[-80:]}', {fault}; repack it")
        folder, _, last = member.name.rpartition("/")
        try:
            if folder not in made:
                os.makedirs(base + folder, exist_ok=True)  # noqa: PTH103
                made.add(folder)
            if not last:
                continue
            handle = os.open(base + member.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE)
        except (FileExistsError, NotADirectoryError) as error:
            other = "twice (or as a file and a folder, or in different case)"
            raise InputError(f"{title}: holds '{member.name[-80:]}' {other}; repack it") from error
        try:
            os.truncate(handle, member.size)
        finally:
            os.close(handle)
        yield os.fsencode(member.name), *astuple(member)[1:]


def name_fault(name: str) -> str:
    """The reason why a member's name is not safe; empty if it is. Separators are `/`."""
    parts = name.split("/")
    if not name or name.startswith("/") or (os.sep != "/" and (":" in name or os.sep in name)):
        return "an absolute name" if name else "an empty name"
    if any(part in ("", ".", "..") for part in parts):
        return "with a part '..', '.' or without characters"
    if any(ord(char) < 32 or ord(char) == 127 or 128 <= ord(char) < 160 for char in name):
        return "with control characters"
    try:
        encoded = [len(os.fsencode(part)) for part in parts]
    except UnicodeEncodeError:
        return "which is not text"
    if max(encoded) > MAX_PART or sum(encoded) + len(parts) > MAX_NAME:
        return f"with more than {MAX_PART} bytes in a part, or {MAX_NAME} in all"
    return ""
