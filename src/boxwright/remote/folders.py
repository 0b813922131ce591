"""A user's path as a local one: the functions that all commands call for what they read."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from boxwright.archives.mirror import make_mirror
from boxwright.errors import InputError
from boxwright.mirrors import Member, Source
from boxwright.remote import apart, runs
from boxwright.remote.address import WEB, Address, is_remote, parse
from boxwright.remote.objects import RemoteObject, fetch, find, listing, local_object

LABELS = (".txt", ".json", ".jsonl", ".xml", ".csv", ".yaml", ".yml", ".data", ".names")
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".parquet")
LARGE = 16 << 20  # bytes of a file of labels that is fetched only when it is read
WILDCARD = re.compile(r"[*?[]")


def local_path(path: str | Path) -> Path:
    """A path for reading what the user named: `path` itself, or if it is an address, a path in the cache.

    An object is a file in a mirror (`mirrors.py`), a folder the mirror of its listing, and a run folder that of its
    complete checkpoints. Content is fetched when `files.open_regular` or `files.local_file` reads it; an archive is
    fetched here. The end of a pattern such as `s3://bucket/folder/*.jpg` is kept. Messages show the address.

    Raises:
        InputError: There is nothing, access is denied, the server cannot be reached, or the extra `cloud` is missing.
    """
    if not is_remote(path):
        return Path(path)
    address = parse(path)
    if (found := _object(address)) is not None:
        return _file(found, address)
    if (wildcard := WILDCARD.search(address.key)) is not None:
        start = address.key[: wildcard.start()].rpartition("/")[0]
        folder = Address(address.scheme, address.bucket, start)
        return _folder(folder, listing(folder)) / address.key[len(start) :].strip("/")
    if (run := runs.find_run(address)) is not None:
        return _mirror(run.address, run.members()) / address.key[len(run.address.key) :].strip("/")
    return _folder(address, listing(address))


def local_data(path: str | Path) -> Path:
    """As `local_path`, for a data set.

    A file of labels has with it what lies beside it, a folder that holds nothing but an archive is that archive, and
    small files of labels are fetched at once, since each alone would take the latency of the network.
    """
    if not is_remote(path) or parse(path).scheme in WEB:
        return local_path(path)
    address = parse(path)
    is_file = address.key.lower().endswith(LABELS)
    if not is_file and (found := _object(address)) is not None:
        return _file(found, address)
    folder = address.parent if is_file else address
    objects = listing(folder)
    if len(objects) == 1 and objects[0].uri.lower().endswith(ARCHIVES):
        return _file(objects[0], parse(objects[0].uri))
    tree = _folder(folder, objects)
    if is_file and not (tree / address.name).is_file():
        raise InputError(f"{address}: there is no such object")
    labels = [each for each in objects if each.size <= LARGE and each.uri.lower().endswith(LABELS)]
    fetch(labels, f"fetch labels of {folder}")
    return tree / address.name if is_file else tree


def _object(address: Address) -> RemoteObject | None:
    """The object at an address; None for a folder. Raises InputError where there is no file on the web."""
    found = find(address) if address.key or address.scheme in WEB else None
    if found is None and address.scheme in WEB:
        raise InputError(f"{address}: there is no such file")
    return found


def _file(found: RemoteObject, address: Address) -> Path:
    """One object. Those beside it that exported models consist of belong to it."""
    apart.note_read(address)
    if address.scheme in WEB or address.name.lower().endswith(ARCHIVES):
        return local_object(found, f"fetch {address}")
    members = {address.name: found}
    for name in (f"{address.name}.json", re.sub(r"\.xml$", ".bin", address.name)):
        if name not in members and (other := find(address.parent / name)) is not None:
            members[name] = other
    return _mirror(address.parent, members) / address.name


def _folder(folder: Address, objects: list[RemoteObject]) -> Path:
    if not objects:
        raise InputError(f"{folder}: there is no such object or folder; correct its name")
    apart.note_read(folder)
    start = len(folder.uri) + 1
    return _mirror(folder, {each.uri[start:]: each for each in objects})


def _mirror(folder: Address, members: Mapping[str, RemoteObject]) -> Path:
    """The tree of a mirror with these files, by their names below the folder."""
    version = hashlib.sha256(repr(sorted(members.items())).encode("utf-8", "surrogateescape")).hexdigest()

    def described(name: str, found: RemoteObject) -> Member:
        moved = "" if found.uri == f"{folder.uri}/{name}" else f"\n{found.uri}"  # a file of a checkpoint
        return Member(name, found.size, version=found.version + moved)

    source = Source("remote", folder.uri, version)
    return make_mirror(str(folder), [source], lambda: (described(*item) for item in sorted(members.items())))
