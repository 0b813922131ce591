"""Pascal VOC: texts of an object are replaced, objects are removed or appended."""

import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat
from xml.sax.saxutils import escape

from boxwright import xml_text
from boxwright.data.builder import Builder
from boxwright.data.dataset import Boxes
from boxwright.formats.voc import SIDES, add_object
from boxwright.look.editing import Box, Change, Edited, EditError, Editor, Span, Target, number, spliced

WHOLE = re.compile(rb"\s*-?\d+\s*")
TAG = re.compile(rb"""<(?:[^>"']|"[^"]*"|'[^']*')*>""")


@dataclass(slots=True)
class _Element:
    """An element in the file. start, end: byte offsets. inner: those of its content; None if it has none (`<a/>`)."""

    tag: str
    start: int
    end: int = 0
    inner: tuple[int, int] | None = None
    children: "list[_Element]" = field(default_factory=list)

    def child(self, tag: str) -> "_Element | None":
        return next((child for child in self.children if child.tag == tag), None)


def read(target: Target, file: Path) -> tuple[Boxes, list[str]]:
    """Objects of a file, and messages about objects that cannot be read."""
    dataset, origin = target.dataset, target.dataset.origin
    assert origin is not None
    builder = Builder(origin, None, "object[{}]")
    image = builder.add_image(dataset.path(target.index), str(file))
    try:
        tree = xml_text.read(file, "annotation")
    except xml_text.XmlError as error:
        raise EditError(str(error)) from error
    for entry, element in enumerate(tree.findall("object"), 1):
        add_object(builder, image, element, (str(file), entry), False)
    found = builder.dataset(dataset.names)
    return found.rows, [f"{fault.file}: {fault.text}" for fault in found.findings if fault.level == "error"]


def edit(target: Target, content: bytes, changes: Sequence[Change]) -> Edited:
    """Apply changes. Returns the changed file. If the file's coordinates are integers, new ones are, too."""
    codec = xml_text.codec_of(content[: xml_text.START])
    if codec == "utf-8-sig" and not content.startswith(codecs.BOM_UTF8):
        codec = "utf-8"  # writes no byte order mark
    try:
        plain = content.decode(codec).encode()
        if plain.decode().encode(codec) != content:
            raise EditError(f"in the encoding {codec}, and not changed here; save it as UTF-8")
    except UnicodeError as error:
        raise EditError(f"not in the encoding {codec}; save it as UTF-8") from error
    root = _parse(plain)
    objects = [child for child in root.children if child.tag == "object"]
    integer = all(map(WHOLE.fullmatch, (word for each in objects for word in _words(plain, each))))
    spans = []
    for change in changes:
        if change.entry is not None:
            element = objects[change.entry - 1]
            if change.deletes:
                spans.append(Span(_space_before(plain, element.start), element.end, b""))
            else:
                spans += _changed(plain, element, change, target)
    added = [
        _object(plain, root, objects, change, target, integer=integer) for change in changes if change.entry is None
    ]
    place = objects[-1].end if objects else _end_of_content(plain, root)
    spans += [Span(place, place, text) for text in added]
    return Edited(spliced(plain, spans).decode().encode(codec))


def _parse(content: bytes) -> _Element:
    """Elements of a file in UTF-8, which was parsed successfully before."""
    parser, stack, outer = expat.ParserCreate("utf-8"), list[_Element](), list[_Element]()

    def start(tag: str, attributes: dict[str, str]) -> None:
        element = _Element(tag, parser.CurrentByteIndex)
        (stack[-1].children if stack else outer).append(element)
        stack.append(element)

    def end(tag: str) -> None:
        element, place = stack.pop(), parser.CurrentByteIndex
        element.end = opened = _end_of_tag(content, element.start)
        if not content.endswith(b"/>", element.start, opened):  # not `<a/>`
            element.inner, element.end = (opened, place), content.index(b">", place) + 1

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.Parse(content, True)
    return outer[0]


def _end_of_tag(content: bytes, start: int) -> int:
    """End of a start tag, whose attributes may contain `>`."""
    match = TAG.match(content, start)
    assert match is not None
    return match.end()


def _space_before(content: bytes, place: int) -> int:
    """Start of the white space before `place`."""
    start = place
    while start > 0 and content[start - 1 : start].isspace():
        start -= 1
    return start


def _end_of_content(content: bytes, root: _Element) -> int:
    """End of the last child of the root element."""
    if root.inner is None:
        raise EditError("an empty element 'annotation', needed one with the size of the image; write it again")
    return _space_before(content, root.inner[1])


def _words(content: bytes, element: _Element) -> list[bytes]:
    """Corners of an object as written in the file."""
    box = element.child("bndbox")
    found = [box.child(side) for side in SIDES] if box else []
    return [content[slice(*each.inner)] for each in found if each is not None and each.inner is not None]


def _changed(content: bytes, element: _Element, change: Change, target: Target) -> list[Span]:
    spans = []
    if change.label is not None:
        name = element.child("name")
        assert name is not None
        spans.append(_text(name, target.dataset.names[change.label]))
    if change.box is not None:
        box = element.child("bndbox")
        if box is None or element.child("robndbox") is not None:
            raise EditError("a rotated box, which cannot take an upright one; delete it, and add a box")
        words = _words(content, element)
        sides = [box.child(side) for side in SIDES]
        for side, word in zip(
            sides, _corners(change.box, target, integer=all(map(WHOLE.fullmatch, words))), strict=True
        ):
            assert side is not None
            spans.append(_text(side, word))
    return spans


def _text(element: _Element, text: str) -> Span:
    """Span that replaces the text of an element."""
    written = escape(text).encode()
    if element.inner is None:
        return Span(element.start, element.end, f"<{element.tag}>".encode() + written + f"</{element.tag}>".encode())
    return Span(*element.inner, written)


def _corners(box: Box, target: Target, *, integer: bool) -> list[str]:
    """xmin, ymin, xmax, ymax, counted from 1 and inclusive. integer: rounded to whole pixels, at least one."""
    x1, y1, x2, y2 = box
    if integer:
        height, width = target.size
        x1, y1 = min(round(x1), width - 1), min(round(y1), height - 1)
        x2, y2 = max(round(x2), x1 + 1), max(round(y2), y1 + 1)
    return [number(x1 + 1), number(y1 + 1), number(x2), number(y2)]


def _object(
    content: bytes, root: _Element, objects: Sequence[_Element], change: Change, target: Target, *, integer: bool
) -> bytes:
    """A new object with the white space before it, indented as the other objects."""
    assert change.box is not None
    assert change.label is not None
    model = (objects or root.children or [root])[-1]
    outer = content[_space_before(content, model.start) : model.start]
    child = next((each for element in objects for each in element.children), None)
    unit = b"\t" if b"\t" in outer else b" " * max(1, len(outer.strip(b"\r\n")))
    inner = content[_space_before(content, child.start) : child.start] if child else outer + unit * bool(outer)
    deep = inner + inner[len(outer) :] if len(inner) > len(outer) else inner
    corners = zip(SIDES, _corners(change.box, target, integer=integer), strict=True)
    parts = [outer, b"<object>", inner, b"<name>", escape(target.dataset.names[change.label]).encode(), b"</name>"]
    for tag, value in (("pose", "Unspecified"), ("truncated", "0"), ("difficult", "0")):
        parts += [inner, f"<{tag}>{value}</{tag}>".encode()]
    parts += [inner, b"<bndbox>"]
    for side, word in corners:
        parts += [deep, f"<{side}>{word}</{side}>".encode()]
    return b"".join([*parts, inner, b"</bndbox>", outer, b"</object>"])


EDITOR = Editor(edit=edit, read=read)
