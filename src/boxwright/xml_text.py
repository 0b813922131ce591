"""Strict reading of untrusted XML: no entities, bounded memory, and only encodings of a fixed list."""

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from xml.parsers import expat

from boxwright.files import length, open_regular

MAX_BYTES = 1 << 24  # bytes of a file that is read as a whole; an object takes about 300
MAX_STREAM = 1 << 28  # bytes of a file that is read piece by piece
MAX_ELEMENTS = 1 << 19  # at a time, 150 bytes of memory each; an object has about ten
MAX_DEPTH = 32  # of nested elements; label files have 5
CHUNK = 1 << 16  # characters
START = 256  # bytes, enough for `codec_of`
LINE = " line"  # attribute of an element of `children`: its line in the file; no attribute in XML has this name
INVALID = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")  # characters that XML cannot contain
DECLARED = re.compile(rb"""\s*<\?xml[^>]*?\sencoding\s*=\s*["']([\w.:-]{1,40})["']""", re.ASCII)
# Declared encoding -> codec. A declaration of UTF-16 that can be read byte by byte is wrong: such a file is UTF-8.
# GB 18030 contains the older Chinese encodings.
CODECS = (
    dict.fromkeys(("utf-8", "utf8", "utf-16", "unicode"), "utf-8-sig")
    | dict.fromkeys(("gb2312", "gbk", "gb18030", "cp936"), "gb18030")
    | {f"iso-8859-{part}": f"iso8859-{part}" for part in (*range(1, 12), *range(13, 17))}
    | {f"windows-{page}": f"cp{page}" for page in range(1250, 1259)}
    | {"us-ascii": "ascii", "ascii": "ascii", "latin1": "iso8859-1", "big5": "big5hkscs", "koi8-r": "koi8-r"}
    | {"shift_jis": "cp932", "shift-jis": "cp932", "euc-jp": "euc-jp", "euc-kr": "cp949", "windows-31j": "cp932"}
)
MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}  # byte order marks


class XmlError(ValueError):
    """A file cannot be read; the text is for a message, without the name of the file."""


def read(file: str | Path, root: str) -> ET.Element:
    """The outer element of a file, which must be called `root`. Raises XmlError."""
    builder = _Builder(root)
    for _ in _parse(file, builder, MAX_BYTES):
        pass
    return builder.close()


def children(file: str | Path, root: str) -> Iterator[ET.Element]:
    """The elements in the outer element `root`, one after another, with their LINE. Raises XmlError."""
    builder = _Builder(root, lines=True)
    for _ in _parse(file, builder, MAX_STREAM):
        yield from builder.take()


class _Builder(ET.TreeBuilder):
    """Builds elements, with limits on their number and nesting."""

    def __init__(self, root: str, *, lines: bool = False) -> None:
        super().__init__()
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler, self.parser.EndElementHandler = self.start_element, self.end_element
        self.parser.CharacterDataHandler = self.data
        self.parser.EntityDeclHandler = self.parser.SkippedEntityHandler = _reject_entity
        self._name, self._lines, self._depth, self._count = root, lines, 0, 0
        self._root = ET.Element(root)

    def start_element(self, tag: str, attributes: dict[str, str]) -> None:
        if not self._depth and tag != self._name:
            raise XmlError(f"the outer element is '{tag[:40]}', needed '{self._name}'")
        self._depth += 1
        self._count += 1
        if self._count > MAX_ELEMENTS:
            raise XmlError(f"more than {MAX_ELEMENTS:,} elements, needed labels")
        if self._depth > MAX_DEPTH:
            raise XmlError(f"elements nested {self._depth} deep, needed labels")
        if self._lines:
            attributes[LINE] = str(self.parser.CurrentLineNumber)
        element = self.start(tag, attributes)
        if self._depth == 1:
            self._root = element

    def end_element(self, tag: str) -> None:
        self._depth -= 1
        self.end(tag)

    def take(self) -> list[ET.Element]:
        """Remove the complete children of the outer element."""
        complete = len(self._root) - (self._depth > 1)
        taken = self._root[:complete]
        del self._root[:complete]
        if taken:
            self._count = sum(1 for _ in self._root.iter())
        return taken


def _parse(file: str | Path, builder: _Builder, max_bytes: int) -> Iterator[None]:
    """Parse a file, stopping after each chunk."""
    try:
        for chunk in _chunks(file, max_bytes):
            builder.parser.Parse(chunk)
            yield
        builder.parser.Parse("", True)
        yield
    except expat.ExpatError as error:
        raise XmlError(f"not well-formed XML in line {error.lineno}; truncated?") from error


def _reject_entity(name: str, *_: object) -> None:
    raise XmlError(f"it declares or uses the entity '{name[:40]}'; needed XML without entities")


def _chunks(file: str | Path, max_bytes: int) -> Iterator[str]:
    """The text of a file."""
    try:
        with open_regular(file) as opened:
            size = length(opened)
            if not size:
                raise XmlError("the file is empty, needed XML")
            if size > max_bytes:
                raise XmlError(f"more than {max_bytes:,} bytes, needed labels")
            codec = codec_of(opened.read(START))
            opened.seek(0)
            with io.TextIOWrapper(opened, encoding=codec) as decoded:
                yield from iter(lambda: decoded.read(CHUNK), "")
    except OSError as error:
        raise XmlError(f"cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise XmlError(f"not in the encoding {codec.removesuffix('-sig')}; save it as UTF-8") from error


def codec_of(start: bytes) -> str:
    """The codec of a file that begins with `start`. Raises XmlError for an unsupported encoding."""
    for mark, codec in MARKS.items():
        if start.startswith(mark):
            return codec
    declared = DECLARED.match(start)
    name = declared[1].decode().lower() if declared else "utf-8"
    if name not in CODECS:
        raise XmlError(f"encoding '{name}' is not supported; save it as UTF-8")
    return CODECS[name]
