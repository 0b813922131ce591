"""Parse the file in a multipart body."""

import logging

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from boxwright.serve.request_error import RequestError

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it logs each malformed form; the response says it

MAX_PARTS, MAX_HEADERS, MAX_HEADER_BYTES = 16, 16, 8192  # parts per body; headers and header bytes per part


def file_of_multipart(body: bytes | bytearray, content_type: str) -> bytes:
    """The only file in a multipart/form-data body. Raises RequestError (400) if there are others or it is malformed."""
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise RequestError(400, "multipart: found no boundary in the content type, needed one")
    form = _Form()
    try:
        parser = MultipartParser(boundary, form.callbacks())  # type: ignore[arg-type]
        parser.write(bytes(body))
        parser.finalize()
    except FormParserError as error:
        raise RequestError(400, "multipart: malformed, needed a file as browsers and curl -F send it") from error
    if not form.complete or len(form.files) != 1:
        what = f"{len(form.files)} files" if form.complete else "no end of it"
        raise RequestError(400, f"multipart: found {what}, needed one file, as curl -F file=@photo.jpg sends it")
    return bytes(form.files[0])


class _Form:
    """The files of a multipart body; fields without a file name are ignored."""

    def __init__(self) -> None:
        self.files: list[bytearray] = []
        self.complete = False
        self._parts = self._headers = self._header_bytes = 0
        self._field, self._value = b"", b""
        self._in_file = False

    def callbacks(self) -> dict[str, object]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_part_data": self._data,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._parts += 1
        self._headers = self._header_bytes = 0
        self._in_file = False
        if self._parts > MAX_PARTS:
            raise RequestError(400, f"multipart: found more than {MAX_PARTS} parts, needed one file")

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers += 1
        self._count(0)
        if self._field.lower() == b"content-disposition" and b"filename" in parse_options_header(self._value)[1]:
            self._in_file = True
            self.files.append(bytearray())
        self._field, self._value = b"", b""

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self.files[-1] += memoryview(data)[start:end]

    def _end(self) -> None:
        self.complete = True

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._headers > MAX_HEADERS or self._header_bytes > MAX_HEADER_BYTES:
            raise RequestError(400, "multipart: found a part with too many headers, needed a file as curl -F sends it")
