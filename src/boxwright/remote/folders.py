"""Conversion of users' paths into local ones: functions that all commands call for their inputs."""

import hashlib
import os
import re
import time
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from boxwright.archives.folder import RANGE, SUFFIXES, as_folder
from boxwright.archives.mirror import make_mirror
from boxwright.cache import NOT_WRITTEN, cache_folder
from boxwright.errors import InputError, set_title
from boxwright.files import link_or_copy, make_folder
from boxwright.mirrors import Member, Source
from boxwright.remote import overlap, runs
from boxwright.remote.address import WEB, Address, is_remote, local_name, parse
from boxwright.remote.objects import RemoteObject, fetch, find, listing, local_object

LABELS = (".txt", ".json", ".jsonl", ".xml", ".csv", ".yaml", ".yml", ".data", ".names")
LARGE = 16 << 20  # bytes; larger label files are fetched only when they are read
INSIDE = re.compile(r"(.*?\.(?:zip|tar))/(.+)", re.IGNORECASE)  # an archive, and a path in it
WILDCARD = re.compile(r"[*?[{]")
RECENT = 60  # s after its last use, a data set is listed again

_recent: dict[str, tuple[Path, float]] = {}  # data sets of this process: URI -> (path, time of last use)


def local_path(path: str | Path) -> Path:
    """Local path for reading `path`: `path` itself, or, for an address, a path in the cache.

    An object becomes a file in a mirror (`mirrors.py`), a folder a mirror of its listing, and a run folder a mirror of
    its complete checkpoints. Content is fetched when `files.open_regular` or `files.local_file` reads it; a file on the
    web is fetched here. The wildcard part of a pattern such as `s3://bucket/folder/*.jpg` is kept. Messages show the
    address.

    Raises:
        InputError: It does not exist, access is denied, the server cannot be reached, or the extra `cloud` is missing.
    """
    if not is_remote(path):
        return local_name(path)
    address = parse(path)
    if (found := _object(address)) is not None:
        return _file(found, address)
    if (pattern := _pattern(address)) is not None:
        folder, end = pattern
        return _folder(folder, listing(folder)) / end
    if (run := runs.find_run(address)) is not None:
        return _mirror(run.address, run.members()) / address.key[len(run.address.key) :].strip("/")
    return _folder(address, listing(address))


def local_data(path: str | Path, title: str | None = None) -> Path:
    """Local path of a data set or of images to predict; an archive or shards become a folder.

    For an address, small label files are fetched together, to save latency, and archives are fetched completely. The
    mirror of a label file includes the objects beside it. Listings are reused as long as they are in use.

    Args:
        path: A local path, which may start with `~`, or an address.
        title: Name of an archive in messages; None for `path`.

    Raises:
        InputError: As `local_path`, or an archive is missing, damaged, or not safe.
    """
    if not is_remote(path):
        return as_folder(local_name(path).expanduser(), title)
    address = parse(path)
    found, used = _recent.get(address.uri, (None, 0.0))
    if found is None or not found.exists() or time.monotonic() - used > RECENT:
        found = _data(address)
    _recent[address.uri] = found, time.monotonic()
    return found


def forget() -> None:
    """Forget listings, so that data sets are listed again when they are opened next."""
    _recent.clear()


def _data(address: Address) -> Path:
    is_file = address.key.lower().endswith(LABELS) and address.scheme not in WEB
    if not is_file and (found := _object(address)) is not None:
        file = _file(found, address)
        return as_folder(file, str(address)) if file.name.lower().endswith(SUFFIXES) else file
    if (inside := INSIDE.match(address.key)) is not None and address.scheme not in WEB:
        archive = Address(address.scheme, address.bucket, inside[1])
        if (found := _object(archive)) is not None:
            return as_folder(local_object(found, f"fetch {archive}"), str(archive)) / inside[2]
    if (pattern := _pattern(address)) is not None:
        return _matching(address, *pattern)
    folder = address.parent if is_file else address
    objects = listing(folder)
    if objects:
        overlap.note_read(folder)
    names = [_name_in(folder, each) for each in objects]
    if names and all("/" not in name and name.lower().endswith(SUFFIXES) for name in names):
        return _archives(folder, objects, str(folder))
    tree = _folder(folder, objects)
    if is_file and not (tree / address.name).is_file():
        raise InputError(f"{address}: there is no such object")
    labels = [each for each in objects if each.size <= LARGE and each.uri.lower().endswith(LABELS)]
    fetch(labels, f"fetch labels of {folder}")
    return tree / address.name if is_file else tree


def _object(address: Address) -> RemoteObject | None:
    """The object at an address; None for a folder, which may be represented by an empty object. Raises InputError if
    there is no such file on the web."""
    found = find(address) if address.key or address.scheme in WEB else None
    if address.scheme in WEB:
        if found is None:
            raise InputError(f"{address}: there is no such file")
    elif found is not None and not found.size and listing(address):
        return None
    return found


def _pattern(address: Address) -> tuple[Address, str] | None:
    """Split a pattern into its folder and the part with wildcards; None for an address without wildcards."""
    wildcard = WILDCARD.search(address.key)
    if wildcard is None or address.scheme in WEB:
        return None
    start = address.key[: wildcard.start()].rpartition("/")[0]
    return Address(address.scheme, address.bucket, start), address.key[len(start) :].strip("/")


def _matching(address: Address, folder: Address, end: str) -> Path:
    """Mirror of the files that match a pattern; for shards, one folder."""
    objects = listing(folder)
    if not end.lower().endswith(SUFFIXES):
        return _folder(folder, objects) / end
    parts = RANGE.sub("*", end).split("/")  # `as_folder` checks which are missing

    def is_shard(name: str) -> bool:
        return name.count("/") == len(parts) - 1 and all(map(fnmatchcase, name.split("/"), parts))

    shards = [each for each in objects if is_shard(_name_in(folder, each))]
    if not shards:
        raise InputError(f"{address}: there is no such archive")
    return _archives(folder, shards, str(address), end)


def _archives(folder: Address, objects: Sequence[RemoteObject], title: str, pattern: str = "") -> Path:
    """Fetch archives below a folder, and open them as a folder. pattern: of their names, if it may match more than
    exist."""
    files = {_name_in(folder, each): local_object(each, f"fetch {parse(each.uri)}") for each in objects}
    key = hashlib.sha256(repr(files).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    links = make_folder(cache_folder() / "shards" / key, NOT_WRITTEN)
    set_title(str(links), str(folder))
    for name, file in files.items():
        link = links / name
        if not link.exists():
            make_folder(link.parent, NOT_WRITTEN)
            link.unlink(missing_ok=True)
            try:
                os.symlink(file.absolute(), link)  # noqa: PTH211
            except OSError:  # needs a privilege on Windows
                link_or_copy(file, link)
    return as_folder(links / pattern if pattern else links, title)


def _name_in(folder: Address, found: RemoteObject) -> str:
    """Name of an object below a folder."""
    return found.uri[len(folder.uri) + 1 :]


def _file(found: RemoteObject, address: Address) -> Path:
    """Local path of one object, together with the other files of an exported model beside it."""
    overlap.note_read(address)
    if address.scheme in WEB or address.name.lower().endswith(SUFFIXES):
        return local_object(found, f"fetch {address}")
    members = {address.name: found}
    for name in (f"{address.name}.json", re.sub(r"\.xml$", ".bin", address.name)):
        if name not in members and (other := find(address.parent / name)) is not None:
            members[name] = other
    return _mirror(address.parent, members) / address.name


def _folder(folder: Address, objects: list[RemoteObject]) -> Path:
    if not objects:
        raise InputError(f"{folder}: there is no such object or folder; correct its name")
    return _mirror(folder, {_name_in(folder, each): each for each in objects})


def _mirror(folder: Address, members: Mapping[str, RemoteObject]) -> Path:
    """Mirror with these files, by their names below the folder."""
    version = hashlib.sha256(repr(sorted(members.items())).encode("utf-8", "surrogateescape")).hexdigest()

    def described(name: str, found: RemoteObject) -> Member:
        moved = "" if found.uri == f"{folder.uri}/{name}" else f"\n{found.uri}"  # a checkpoint's file
        return Member(name, found.size, version=found.version + moved)

    source = Source("remote", folder.uri, version)
    return make_mirror(str(folder), [source], lambda: (described(*item) for item in sorted(members.items())))
