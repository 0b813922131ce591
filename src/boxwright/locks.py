"""Locks on open files, between processes."""

import errno
import sys
from typing import BinaryIO, TextIO

if sys.platform != "win32":
    import fcntl


def lock(
    file: int | BinaryIO | TextIO, *, shared: bool = False, wait: bool = False, inherited: bool = True
) -> bool | None:
    """Lock an open file until it is closed.

    Args:
        file: The file, or its descriptor.
        shared: Allow other shared locks at the same time.
        wait: Wait until conflicting locks are released.
        inherited: Forked processes inherit the lock; the last one to close the file releases it (`flock`). Otherwise
            the lock belongs to this process only, ends when any descriptor of the file is closed in it, and excludes
            only locks of the same kind (`lockf`).

    Returns:
        Whether it is locked; None on Windows and on file systems without locks.
    """
    if sys.platform == "win32":
        return None
    how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    try:
        (fcntl.flock if inherited else fcntl.lockf)(file, how)
    except OSError as error:
        return False if error.errno in (errno.EACCES, errno.EAGAIN) else None
    return True
