"""Changing labels in the files of the set: a backup, a journal, and only the entries that were changed."""

from dataclasses import dataclass

from boxwright.data.dataset import Boxes
from boxwright.json_text import JsonObject
from boxwright.look.catalog import Catalog
from boxwright.serve.refusal import Refusal


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of an image as their file has them now.

    Attributes:
        rows: The objects.
        revision: Of the label file; other when it has changed.
        messages: Entries that cannot be read, and the like.
        reason: Why they cannot be changed; "" if they can.
    """

    rows: Boxes
    revision: str
    messages: tuple[str, ...] = ()
    reason: str = ""


class Repair:
    """Reads and changes the labels of images."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog

    def reason(self) -> str:
        """Why the set cannot be changed; "" if it can."""
        return "not written yet"

    def read(self, image: int) -> Labels:
        return Labels(self.catalog.rows(image), "0", (), self.reason())

    def change(self, image: int, values: JsonObject) -> None:
        raise Refusal(409, self.reason())
