"""Addresses that this process reads and writes in object stores, so that no output replaces an input."""

from boxwright.errors import InputError
from boxwright.remote.address import Address

_read: set[str] = set()  # folders and objects
_written: set[str] = set()  # outputs


def note_read(address: Address) -> None:
    """Register a folder or an object that is read. Raises InputError if an output is it, or lies in it."""
    _read.add(address.uri)
    _check()


def note_written(address: Address) -> None:
    """Register the address of an output. Raises InputError if it is an input, or lies in one."""
    _written.add(address.uri)
    try:
        _check()
    except InputError:
        _written.discard(address.uri)
        raise


def forget_written(address: Address) -> None:
    """Unregister an output that is complete."""
    _written.discard(address.uri)


def check_object(address: Address) -> None:
    """Raise InputError if an object to be written has been read."""
    if address.uri in _read:
        raise InputError(f"{address}: is read, and would be replaced; choose another place for the results")


def _check() -> None:
    for output in _written:
        for read in _read:
            if f"{output}/".startswith(f"{read}/"):
                raise InputError(f"{output}: lies in {read}, which is read; choose another place for the results")
