"""Images on the network, at addresses that the user gives."""

import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.error import HTTPError
from urllib.parse import SplitResult, quote, unquote, urlsplit

from boxwright.errors import InputError
from boxwright.images.header import SUFFIXES
from boxwright.remote.address import shown
from boxwright.version import __version__

PROTOCOLS = ("http", "https")
MAX_BYTES = 200_000_000  # of a file; its pixels are limited where it is decoded
TIMEOUT = 10.0  # s of connecting and of each read
DEADLINE = 120.0  # s of a file
CHUNK = 1 << 20  # bytes
ASCII = "".join(map(chr, range(0x21, 0x7F)))  # characters that stay in an address; others are escaped, as browsers do


def is_image_address(source: str) -> bool:
    """Whether `source` is the address of a single image, by the suffix of its path. Raises InputError for a faulty
    address."""
    try:
        return source.partition("://")[0].lower() in PROTOCOLS and urlsplit(source).path.lower().endswith(SUFFIXES)
    except ValueError as error:
        raise InputError(f"{shown(source)}: not a valid address ({error})") from error


@contextmanager
def fetched(sources: Iterable[str]) -> Iterator[dict[str, str]]:
    """Fetch the images among `sources`, which are removed after the block.

    Yields:
        The path of each source (the source itself unless it is an address) -> its name in results.

    Raises:
        InputError: An image cannot be fetched, or is larger than 200 MB.
    """
    with TemporaryDirectory(prefix="boxwright-") as folder:
        paths = {}
        for number, source in enumerate(dict.fromkeys(sources)):
            path = source
            if is_image_address(source):
                place = Path(folder, str(number))
                place.mkdir()
                file = place / _file_name(source)
                file.write_bytes(fetch(source))
                path = str(file)
            paths[path] = shown(source)
        yield paths


def _file_name(address: str) -> str:
    """The end of the path of an address, as the name of a file: printable, and at most 100 bytes."""
    name = "".join(char if char.isprintable() else "_" for char in unquote(urlsplit(address).path).rpartition("/")[2])
    return name.encode()[-100:].decode(errors="ignore")


def fetch(address: str) -> bytes:
    """The content at an address, which may have user and password. Raises InputError if it cannot be fetched, or is too
    large."""
    content, deadline = bytearray(), time.monotonic() + DEADLINE
    try:
        parts = urlsplit(address)
        host, path, query = parts.netloc.rpartition("@")[2], quote(parts.path, ASCII), quote(parts.query, ASCII)
        plain = parts._replace(netloc=host, path=path, query=query).geturl()
        request = urllib.request.Request(plain, headers={"User-Agent": f"boxwright/{__version__}"})
        with _opener(parts, plain).open(request, timeout=TIMEOUT) as response:
            while chunk := response.read(CHUNK):
                content += chunk
                if len(content) > MAX_BYTES:
                    raise InputError(f"{shown(address)}: larger than {MAX_BYTES:,} bytes")
                if time.monotonic() > deadline:
                    raise InputError(f"{shown(address)}: not complete after {DEADLINE:g} s")
    except InputError:
        raise
    except HTTPError as error:
        error.close()
        raise InputError(f"{shown(address)}: cannot be fetched ({error.code} {error.reason})") from error
    except (OSError, HTTPException, ValueError) as error:  # URLError is an OSError; ValueError: a faulty address
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise InputError(f"{shown(address)}: cannot be fetched ({reason})") from error
    return bytes(content)


def _opener(parts: SplitResult, address: str) -> urllib.request.OpenerDirector:
    """An opener for HTTP and HTTPS only, also after a redirect; urllib's default also opens files."""
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    if parts.username is not None:
        passwords.add_password(None, address, unquote(parts.username), unquote(parts.password or ""))
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPBasicAuthHandler(passwords),
        urllib.request.HTTPDigestAuthHandler(passwords),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener
