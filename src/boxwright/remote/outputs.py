"""Outputs in an object store: the context manager that all commands use for their outputs."""

import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from boxwright import progress
from boxwright.cache import NOT_WRITTEN, cache_folder
from boxwright.errors import InputError, set_title
from boxwright.files import local_file, make_folder, temporary_folder
from boxwright.remote import overlap
from boxwright.remote.address import WEB, Address, is_remote, local_name, parse
from boxwright.remote.objects import THREADS, check_bucket, find, listing, local_object, put

FOLDER = "outputs"  # in the cache

_places: dict[Path, Address] = {}  # path that a `local_output` block writes to -> address that it is uploaded to


@contextmanager
def local_output(path: str | Path, *, new: bool = False) -> Iterator[Path]:
    """Local path for writing `path`: `path` itself, or, for an address, a path in the cache. A folder is not created.

    The results of the block (a folder, or a file and files of the same name with other suffixes) are uploaded when the
    block ends without an error. Existing objects of the same names are replaced.

    Args:
        path: A file or a folder.
        new: Whether `path` must be a new folder.

    Raises:
        InputError: `path` is on the web or not new, cannot be reached, or was not uploaded completely; the results then
            stay in the cache, in the folder named in the message.
    """
    if not is_remote(path):
        yield local_name(path)
        return
    address = parse(path)
    if address.scheme in WEB or not address.key:
        raise InputError(f"{address}: results cannot be written there, needed s3://, gs://, az:// or obs:// and a name")
    if new and (listing(address) or ((found := find(address)) is not None and found.size)):
        raise InputError(f"{address}: is there already, needed a new or empty folder; remove it or name another")
    if not new:
        check_bucket(address)  # fails before the work
    overlap.note_written(address)
    with temporary_folder(cache_folder() / FOLDER, NOT_WRITTEN) as folder:
        local = folder / address.name
        set_title(str(local), str(address))
        _places[local] = address
        try:
            yield local
            try:
                upload(folder, address.parent, last=local)
            except InputError as error:
                kept = folder.rename(folder.with_name(secrets.token_hex(8)))
                raise InputError(f"{error}; the results are in {kept}") from error
        finally:
            del _places[local]
            overlap.forget_written(address)


def fetch_earlier(folder: Path, names: Iterable[str]) -> None:
    """Fetch the results of an earlier run into a folder from `local_output`, for a command that continues them.

    Args:
        folder: The folder; nothing is fetched if it does not represent an address.
        names: Names of the files; missing ones are ignored.

    Raises:
        InputError: One cannot be read.
    """
    if (address := _places.get(folder)) is not None:
        for name in names:
            if (found := find(address / name)) is not None:
                shutil.copyfile(local_object(found), make_folder(folder) / name)


def upload(folder: Path, address: Address, last: Path | None = None) -> None:
    """Upload the files of a folder except locks, with their names below it. last: a file that is uploaded last.

    Raises:
        InputError: A file cannot be uploaded.
    """
    names = ((base, name) for base, _, names in os.walk(folder, followlinks=True) for name in names)
    files = [Path(base, name) for base, name in names if not (name.startswith(".") and name.endswith(".lock"))]
    first = sorted(file for file in files if file != last)
    targets = {file: address / file.relative_to(folder).as_posix() for file in files}
    for target in targets.values():
        overlap.check_object(target)

    def send(file: Path) -> None:
        put(local_file(file.resolve()), targets[file])  # a link may lead to a member of an archive

    with ThreadPoolExecutor(THREADS) as pool:
        for _ in progress.track(pool.map(send, first), len(first), f"send {address}", "files"):
            pass
    if last in files:
        send(last)
