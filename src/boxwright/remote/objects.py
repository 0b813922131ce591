"""Objects: list them, fetch them into the cache, and write them."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from boxwright import progress
from boxwright.errors import InputError, set_title
from boxwright.remote import cache
from boxwright.remote.address import Address, parse
from boxwright.remote.stores import errors, is_usable, library, store_of

THREADS = 32  # parallel requests, since most of their time is latency
CHUNK = 4 << 20  # bytes received at a time
ATTEMPTS = 5  # to open a file that other processes evict from a cache that is too small


class RemoteObject(NamedTuple):
    """A listed object.

    Attributes:
        uri: Its address.
        size: Size in bytes.
        version: Its ETag, else the time of its last change; "" if the server sends neither.
    """

    uri: str
    size: int
    version: str

    @property
    def file(self) -> Path:
        """Its path in the cache, which may not exist."""
        return cache.place(f"{self.uri}\n{self.version}\n{self.size}", parse(self.uri).name)


def find(address: Address) -> RemoteObject | None:
    """The object at an address; None if there is none. Raises InputError if the store cannot be queried."""
    store, key = store_of(address)
    obstore = library()
    with errors(address):
        try:
            # a server may reject HEAD, for example for a signed address
            meta = obstore.get(store, key).meta if not key else obstore.head(store, key)
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise
            return None
    return _described(address.uri, meta)


def listing(folder: Address) -> list[RemoteObject]:
    """All objects below a folder, sorted by key, without the empty objects that consoles of stores create for folders.
    Raises InputError if it cannot be listed."""
    store, key = store_of(folder)
    obstore = library()
    found: list[RemoteObject] = []
    with errors(folder, "cannot be listed"):
        for page in progress.track(obstore.list(store, prefix=key or None), None, f"list {folder}", "requests"):
            for meta in page:
                found.append(_described(Address(folder.scheme, folder.bucket, meta["path"]).uri, meta))
    folders = {folder.uri, *(above for each in found for above in _folders_of(each.uri, len(folder.uri)))}
    return sorted(each for each in found if each.size or each.uri not in folders)


def _folders_of(uri: str, start: int) -> Iterator[str]:
    """The folders that an object lies in, below the one whose address has `start` characters."""
    while (end := uri.rfind("/", start + 1)) > 0:
        uri = uri[:end]
        yield uri


def check_bucket(address: Address) -> None:
    """Raise InputError if there is no such bucket, or access is denied. Uses a list request, since responses to HEAD do
    not distinguish a missing object from a missing bucket."""
    store, key = store_of(address)
    obstore = library()
    with errors(address, "cannot be listed"):
        next(iter(obstore.list(store, prefix=key or None, chunk_size=1)), None)


def _described(uri: str, meta: Any) -> RemoteObject:
    return RemoteObject(uri, meta["size"], meta["e_tag"] or str(meta["last_modified"] or ""))


def fetch(objects: Sequence[RemoteObject], title: str = "") -> None:
    """Fetch the objects that are not in the cache, many in parallel.

    Args:
        objects: Objects as listed.
        title: Title of a progress bar; "" for none.

    Raises:
        InputError: An object cannot be read, or has changed since it was listed.
    """
    missing = [each for each in dict.fromkeys(objects) if not cache.has(each.file)]
    if not missing:
        return
    if not is_usable():
        from boxwright.remote.helper import helper

        helper().fetch(missing)
    elif len(missing) == 1:
        _fetch(missing[0], title)
    else:
        with ThreadPoolExecutor(min(THREADS, len(missing))) as pool:
            done: Iterator[None] = pool.map(_fetch, missing)
            for _ in progress.track(done, len(missing), title, "objects") if title else done:
                pass


def _fetch(wanted: RemoteObject, title: str = "") -> None:
    address = parse(wanted.uri)
    store, key = store_of(address)
    obstore = library()
    with cache.added(wanted.file) as stream, errors(address):
        if stream is None:
            return
        received = 0
        chunks: Iterable[bytes] = obstore.get(store, key, options=_if_unchanged(wanted)).stream(CHUNK)
        for chunk in progress.track(chunks, -(-wanted.size // CHUNK), title, "x 4 MiB") if title else chunks:
            stream.write(chunk)
            received += len(chunk)
        if received != wanted.size:
            raise InputError(f"{address}: truncated, {received:,} of {wanted.size:,} bytes came; start again")


def _if_unchanged(wanted: RemoteObject) -> dict[str, Any]:
    """Options of a request that fails if the object has changed since it was listed, if its version is an ETag."""
    return {"if_match": wanted.version} if wanted.version.startswith('"') else {}


def open_object(wanted: RemoteObject) -> BinaryIO:
    """Open the content of an object. Raises InputError as `fetch`."""
    for _ in range(ATTEMPTS):
        fetch([wanted])
        try:
            return wanted.file.open("rb")
        except FileNotFoundError:  # evicted by another process meanwhile
            continue
    raise InputError(f"{parse(wanted.uri)}: removed from the cache again and again; raise {cache.SIZE}")


def local_object(wanted: RemoteObject, title: str = "") -> Path:
    """The object as a file that stays in the cache as long as this process runs. Raises InputError as `fetch`."""
    for _ in range(ATTEMPTS):
        fetch([wanted], title)
        if cache.keep(wanted.file):
            set_title(str(wanted.file), str(parse(wanted.uri)))
            return wanted.file
    raise InputError(f"{parse(wanted.uri)}: removed from the cache again and again; raise {cache.SIZE}")


def read_range(wanted: RemoteObject, start: int, length: int) -> bytes:
    """Read a range of an object. Raises InputError if it cannot be read, or has changed since it was listed."""
    address = parse(wanted.uri)
    store, key = store_of(address)
    obstore = library()
    with errors(address):
        options = _if_unchanged(wanted) | {"range": (start, start + length)}
        return bytes(obstore.get(store, key, options=options).bytes())


def put(file: Path, address: Address) -> None:
    """Write a file as an object, atomically. Raises InputError if it cannot be written."""
    store, key = store_of(address)
    obstore = library()
    with errors(address, "cannot be written"):
        obstore.put(store, key, file)


def put_bytes(content: bytes, address: Address) -> None:
    """Write an object. Raises InputError as `put`."""
    store, key = store_of(address)
    obstore = library()
    with errors(address, "cannot be written"):
        obstore.put(store, key, content)


def read_bytes(address: Address) -> bytes | None:
    """Content of a small object, not cached; None if there is none. Raises InputError if it cannot be read."""
    store, key = store_of(address)
    obstore = library()
    with errors(address):
        try:
            return bytes(obstore.get(store, key).bytes())
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise
            return None


def delete(addresses: Sequence[Address]) -> None:
    """Delete objects; missing ones are ignored. Raises InputError if one cannot be deleted."""
    for address in addresses:
        store, key = store_of(address)
        obstore = library()
        with errors(address, "cannot be deleted"):
            try:
                obstore.delete(store, key)
            except FileNotFoundError:
                continue
