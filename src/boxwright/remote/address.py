"""Addresses of objects and folders: `s3://`, `gs://`, `az://`, `obs://`, and `http(s)://` for single files."""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from boxwright.errors import InputError

BUCKETS = ("s3", "gs", "az", "obs")  # stores with buckets and keys; az calls a bucket a container
WEB = ("http", "https")
SCHEME = re.compile(rf"({'|'.join((*BUCKETS, *WEB))}):/(?!/?$)/?", re.IGNORECASE)  # `Path` merges two slashes
BACKSLASHES = re.compile(rf"({'|'.join((*BUCKETS, *WEB))}):\\", re.IGNORECASE)
OTHER = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
BUCKET_NAME = re.compile(r"[A-Za-z0-9$][A-Za-z0-9._-]{0,254}")  # no characters that change the host of an endpoint


_secret: dict[str, str] = {}  # address without secrets -> full address, for this process


@dataclass(frozen=True, slots=True)
class Address:
    """Address of an object, or of a folder, which is all objects below `key`.

    Attributes:
        scheme: Scheme in lower case.
        bucket: Name of the bucket; for http(s) the host, which may have user, password and port.
        key: Name of the object without a leading slash; for http(s) path and query.
    """

    scheme: str
    bucket: str
    key: str

    def __str__(self) -> str:
        """The address without user, password and query, which may be secret."""
        return shown(self.uri)

    @property
    def uri(self) -> str:
        """The full address, including secrets."""
        return f"{self.scheme}://{self.bucket}/{self.key}".rstrip("/")

    @property
    def name(self) -> str:
        """The last part of the key; the bucket's name for the bucket itself."""
        path = unquote(urlsplit(self.uri).path) if self.scheme in WEB else self.key
        return path.rstrip("/").rpartition("/")[2] or self.bucket.rpartition("@")[2]

    @property
    def parent(self) -> "Address":
        """The folder that contains it."""
        return Address(self.scheme, self.bucket, self.key.rstrip("/").rpartition("/")[0])

    def __truediv__(self, name: str) -> "Address":
        return Address(self.scheme, self.bucket, "/".join(part for part in (self.key.rstrip("/"), name) if part))


def is_remote(path: str | Path) -> bool:
    """Whether `path` is an address, also if `Path` has merged its slashes."""
    return SCHEME.match(_text(path)) is not None


def _text(path: str | Path) -> str:
    """`path`, with slashes if it is an address, since `Path` uses backslashes on Windows."""
    text = str(path)
    return text.replace("\\", "/") if BACKSLASHES.match(text) else text


def local_name(path: str | Path) -> Path:
    """A local path. Raises InputError for an address with an unknown scheme, such as `gcs://`, which would otherwise be
    the name of a local folder."""
    if match := OTHER.match(str(path)):
        raise InputError(
            f"{shown(str(path))}: {match[0]} is not known, needed {'://, '.join((*BUCKETS, *WEB))}:// or a local path"
        )
    return Path(path)


def parse(path: str | Path) -> Address:
    """Parse an address, for which `is_remote` is true. Raises InputError if its bucket or host is not valid."""
    text = _secret.get(_text(path), _text(path))
    match = SCHEME.match(text)
    assert match is not None
    scheme = match[1].lower()
    bucket, _, key = text[match.end() :].partition("/")
    if scheme in WEB:
        try:
            valid = bool(urlsplit(f"{scheme}://{bucket}").hostname)
        except ValueError:
            valid = False
    else:
        valid = BUCKET_NAME.fullmatch(bucket) is not None
        key = key.strip("/")
    if not valid:
        raise InputError(
            f"{shown(text)}: not a valid address, needed {scheme}://BUCKET/NAME of letters, digits, . and -"
        )
    return Address(scheme, bucket, key)


def shown(text: str) -> str:
    """`text` for messages and results: an address without user, password and query, which may be secret. In an object
    store `?` belongs to the key, or is a wildcard."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        return text
    host, slash, path = (rest if scheme.lower() in BUCKETS else rest.partition("?")[0]).partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def public(text: str) -> str:
    """`text` for storing, without user, password and query of an address; this process can still open the result."""
    if (bare := shown(text)) != text and is_remote(text):
        _secret[bare] = text
    return bare if is_remote(text) else text
