"""Archives of PyTorch (.pt2, .torchscript), read without trusting their names, sizes and tensors."""

import re
import sys
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from boxwright import files
from boxwright.errors import InputError
from boxwright.extras import first_line
from boxwright.runtimes.base.metadata import KEY

AXES = 16  # of a tensor at most
ROOT = "archive/"  # prefix of all entries of our exports
# By torch.export's numbers (`ScalarType` of torch._export.serde.schema)
TYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16, 7: torch.float32,
    8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip

# Exceptions of Python's zipfile: RuntimeError for encrypted entries and unknown compression, ValueError for names that
# are not text.
UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError)


@dataclass(frozen=True, slots=True)
class Archive:
    """Entries of a file.

    Attributes:
        source: Name of the file, for messages.
        entries: Name below the root -> content.
    """

    source: str
    entries: dict[str, bytes]

    @property
    def metadata(self) -> str | None:
        """Text of the metadata; None without any. Raises InputError if it is not UTF-8."""
        return self.text(f"extra/{KEY}") if f"extra/{KEY}" in self.entries else None

    def text(self, name: str) -> str:
        """An entry as text. Raises InputError if it is missing or not UTF-8."""
        try:
            return self.entries[name].decode()
        except KeyError as error:
            raise self.error("", f"no {name}") from error
        except UnicodeDecodeError as error:
            raise self.error(name, "bytes that are not UTF-8") from error

    def error(self, name: str, found: str) -> InputError:
        """Error for `found` in the entry `name`."""
        return InputError(f"{self.source}: {f'{name}: ' if name else ''}found {found:.120}, needed what exports hold")

    def tensor(
        self, name: str, dtype: torch.dtype, sizes: Sequence[int], strides: Sequence[int], offset: int
    ) -> Tensor:
        """Data of an entry as a tensor; sizes and strides in elements, as in PyTorch.

        Raises InputError if they exceed the entry.
        """
        content = self.entries.get(name)
        if content is None:
            raise self.error("", f"no {name}")
        if fault := misfit(len(content), dtype.itemsize, sizes, strides, offset):
            raise self.error(name, fault)
        if 0 in sizes:
            return torch.empty(tuple(sizes), dtype=dtype)
        return torch.frombuffer(bytearray(content), dtype=dtype).as_strided(tuple(sizes), tuple(strides), offset)


def misfit(length: int, width: int, sizes: Sequence[int], strides: Sequence[int], offset: int) -> str:
    """Why a tensor with elements of `width` bytes does not fit in `length` bytes; "" if it does."""
    values = [*sizes, *strides, offset]
    if not len(sizes) == len(strides) <= AXES or any(
        type(value) is not int or not 0 <= value <= 1 << 40 for value in values
    ):
        return "a tensor of an invalid shape"
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    if length % width or (0 not in sizes and max(last + 1, prod(sizes)) * width > length):
        return f"{length} bytes for a tensor of {list(sizes)[:8]}, which reaches beyond them"
    return ""


def read(file: Path, allowed: re.Pattern[str], growth: int) -> Archive:
    """Read an archive with all of its entries. allowed: pattern of their names below the root. growth: limit of their
    unpacked size, as a multiple of the file's size.

    Raises InputError for a file that is not an archive, has an entry of another name or one name twice, or was written
    on a machine of another byte order.
    """
    try:
        with files.open_regular(file) as stream, zipfile.ZipFile(stream) as archive:
            size = stream.seek(0, 2)
            _check_index(file, archive, size, allowed, growth)
            entries = {entry.filename.removeprefix(ROOT): archive.read(entry) for entry in archive.infolist()}
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(f"{file}: not a program of PyTorch ({first_line(error)})") from error
    if entries.get("byteorder", b"") != sys.byteorder.encode():
        raise InputError(f"{file}: byteorder: found none or that of another machine, needed {sys.byteorder}")
    return Archive(str(file), entries)


def _check_index(file: Path, archive: zipfile.ZipFile, size: int, allowed: re.Pattern[str], growth: int) -> None:
    unpacked, seen = sum(entry.file_size for entry in archive.infolist()), set()
    if unpacked > growth * size:
        raise InputError(f"{file}: {size} bytes that unpack to {unpacked}, needed what PyTorch writes")
    for name in archive.namelist():
        if not (name.startswith(ROOT) and allowed.fullmatch(name.removeprefix(ROOT))):
            raise InputError(f"{file}: holds {name[:80]}, which no export does; it is not loaded")
        if name.casefold() in seen:
            raise InputError(f"{file}: holds {name[:80]} twice; it is not loaded")
        seen.add(name.casefold())
