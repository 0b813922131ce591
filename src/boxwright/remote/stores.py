"""Open stores by obstore, and convert its errors to one line."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import ModuleType
from typing import TYPE_CHECKING, Any

from boxwright.errors import InputError
from boxwright.extras import import_extra
from boxwright.remote import credentials
from boxwright.remote.address import WEB, Address
from boxwright.version import __version__

if TYPE_CHECKING:
    from obstore.store import ObjectStore

# obstore retries server errors (5xx), resets and timeouts, with exponential backoff, and continues interrupted bodies.
# Times are in s.
RETRIES: dict[str, Any] = {
    "max_retries": 8,
    "retry_timeout": timedelta(seconds=60),
    "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=4), "base": 2},
}
CLIENT: dict[str, Any] = {
    "connect_timeout": timedelta(seconds=5),
    "read_timeout": timedelta(seconds=30),  # s without data
    "timeout": timedelta(days=1),  # for a whole request, with objects of any size
    "allow_http": True,  # for endpoints that start with http://
    "user_agent": f"boxwright/{__version__}",
}
DENIED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken",
          "AuthenticationFailed", "AuthorizationFailure", "Forbidden"}  # fmt: skip
NO_BUCKET = {"NoSuchBucket", "ContainerNotFound"}
CODE = re.compile(r"<Code>([A-Za-z0-9]{1,64})</Code>")
STATUS = re.compile(r"status code: ([0-9]{3})")
METADATA_SERVICE = ("169.254.169.254", "metadata.google.internal")  # queried for credentials if none are configured
NO_KEYS = ("Generic S3 error: Missing", "Generic GCS error: Missing", "Generic MicrosoftAzure error: Missing",
           "Generic MicrosoftAzure error: Account must be specified")  # fmt: skip

_stores: dict[tuple[str, str], "ObjectStore"] = {}
_used = False  # obstore was used in this process or, before a fork, in its parent; forks do not copy its threads
_forked = False


def _after_fork() -> None:
    global _forked
    _forked = _used
    _stores.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def is_usable() -> bool:
    """Whether obstore works in this process; in a fork of a process that has used it, it would wait forever."""
    return not _forked


def library() -> ModuleType:
    """Import obstore. Raises InputError if the extra `cloud` is not installed."""
    return import_extra("obstore", "cloud")


def store_of(address: Address) -> tuple["ObjectStore", str]:
    """The store of an address, and the key in it. Each store is opened once per process.

    Raises:
        InputError: obstore (the extra `cloud`) is not installed, or the configuration is incomplete.
    """
    global _used
    place, key = (address.uri, "") if address.scheme in WEB else (address.bucket, address.key)
    if (address.scheme, place) not in _stores:
        library()
        _used = True
        with errors(address):
            _stores[address.scheme, place] = _opened(address)
    return _stores[address.scheme, place], key


def _opened(address: Address) -> "ObjectStore":
    from obstore import store

    options: Any = {"client_options": CLIENT, "retry_config": RETRIES}
    if address.scheme == "s3":
        options["config"] = credentials.s3(address.bucket)
        return store.S3Store(address.bucket, **options)
    if address.scheme == "obs":
        options["config"], keys = credentials.obs(address.bucket)
        return store.S3Store(address.bucket, credential_provider=lambda: keys, **options)
    if address.scheme == "gs":
        return store.GCSStore(address.bucket, **options)
    if address.scheme == "az":
        options["config"] = credentials.az()
        return store.AzureStore(address.bucket, **options)
    return store.HTTPStore(address.uri, **options)


@contextmanager
def errors(address: Address, doing: str = "cannot be read") -> Iterator[None]:
    """Convert obstore's errors to InputErrors of one line, which contain nothing from the server except codes."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(_missing(address, str(error))) from error
    except Exception as error:
        if not type(error).__module__.startswith("obstore") and not isinstance(error, ValueError | OSError):
            raise
        if isinstance(error, OSError) and error.errno is not None:  # from the cache's disk
            raise
        raise InputError(f"{address}: {doing} ({_reason(address, error)})") from error


def _missing(address: Address, text: str) -> str:
    if (code := CODE.search(text)) and code[1] in NO_BUCKET:
        return f"{address.scheme}://{address.bucket}: there is no such bucket; create it, or correct its name"
    return f"{address}: there is no such object"


def _reason(address: Address, error: Exception) -> str:
    """Why a request failed."""
    text = str(error)
    code, status = CODE.search(text), STATUS.search(text)
    name = code[1] if code else status[1] if status else ""
    variables = credentials.VARIABLES.get(address.scheme, "user and password")
    if any(host in text for host in METADATA_SERVICE) or text.startswith(NO_KEYS):
        return f"no credentials found; set {variables}"
    if name in NO_BUCKET:
        return "there is no such bucket; create it, or correct its name"
    if name in DENIED or name in ("401", "403") or type(error).__name__ in ("PermissionDeniedError",
                                                                           "UnauthenticatedError"):  # fmt: skip
        return f"access denied: {name or 'unauthorized'}; check {variables}"
    if name in ("301", "307", "PermanentRedirect", "AuthorizationHeaderMalformed"):
        return f"{name}: the bucket is in another region; set AWS_REGION"
    if type(error).__name__ == "InvalidPathError":
        return "a key with '//', '.' or '..' in it, which is not a path; rename that object"
    if type(error).__name__ == "PreconditionError" or name == "412":
        return "it has changed since it was listed; start again"
    if "error sending request" in text or "timed out" in text.lower():
        return "its endpoint cannot be reached; check the network and the endpoint"
    if "Content-Length Header missing" in text:
        return "the server does not send its size (Content-Length); download it, and name the file"
    if "end of file before message length" in text or "error decoding response body" in text:
        return "truncated, it ends before its length"
    return f"the server answers {name}" if name else f"{type(error).__name__}; check {variables}"
