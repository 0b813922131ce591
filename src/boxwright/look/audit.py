"""Findings of an audit of labels, and which of them were accepted or dismissed, in a file beside the audit's."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boxwright import json_text
from boxwright.errors import InputError
from boxwright.json_text import JsonObject
from boxwright.look.catalog import Catalog
from boxwright.look.entries import box_of

FORMAT, STATES_FORMAT = "boxwright audit 1", "boxwright audit states 1"
KINDS = ("missing", "spurious", "class", "location")
STATES = ("open", "accepted", "dismissed")
SHOWN = ("id", "kind", "box", "class", "suggested_class", "suggested_box", "score", "object")


@dataclass(slots=True)
class Finding:
    """A label that may be wrong: its entry of the audit, and the id of its image in the catalog."""

    values: JsonObject
    image: int


class Audit:
    """The findings of a file.

    Args:
        file: audit.json of `data audit`.
        catalog: The set.

    Raises:
        InputError: It is no such file, or its states cannot be read.
    """

    def __init__(self, file: str | Path, catalog: Catalog) -> None:
        self.file = Path(file)
        self.states_file = self.file.with_name(f"{self.file.stem}.states.json")
        tree = json_text.read(self.file)
        if not isinstance(tree, dict) or tree.get("format") != FORMAT or not isinstance(tree.get("findings"), list):
            raise InputError(f"{self.file}: no audit, needed audit.json of `boxwright data audit`; write it again")
        self._lock = threading.Lock()
        known = catalog.by_name()
        self.findings: dict[int, Finding] = {}
        for number, values in enumerate(tree["findings"]):
            if not _is_valid(values):
                raise InputError(f"{self.file}: findings[{number}]: not as an audit writes it; write it again")
            self.findings[values["id"]] = Finding(values, _image(values["image"], known))
        self.missing = sum(finding.image < 0 for finding in self.findings.values())
        self.states = self._read_states()
        self.of_image: dict[int, list[int]] = {}
        for number, finding in self.findings.items():
            self.of_image.setdefault(finding.image, []).append(number)

    def select(self, kind: str, count: int) -> NDArray[np.bool_]:
        """(count,) the images with an open finding of a kind; `any` for all kinds. Raises InputError for others."""
        if kind not in (*KINDS, "any"):
            raise InputError(f"finding: found '{kind[:20]}', needed any, {', '.join(KINDS)}")
        mask = np.zeros(count, dtype=bool)
        for number, finding in self.findings.items():
            if finding.image >= 0 and kind in ("any", finding.values["kind"]) and self.state(number) == "open":
                mask[finding.image] = True
        return mask

    def state(self, number: int) -> str:
        return self.states.get(number, "open")

    def describe(self, number: int) -> JsonObject:
        """A finding for the page."""
        values = self.findings[number].values
        return {name: values.get(name) for name in SHOWN} | {"state": self.state(number)}

    def set_state(self, number: int, state: object) -> JsonObject:
        """Set and write a state. Returns the finding. Raises InputError for one that there is not."""
        if number not in self.findings:
            raise InputError(f"finding {number}: there is none in {self.file.name}")
        if state not in STATES:
            raise InputError(f"state: found '{str(state)[:20]}', needed {', '.join(STATES)}")
        with self._lock:
            states = self.states | {number: str(state)}
            kept = {str(key): value for key, value in sorted(states.items()) if value != "open"}
            json_text.write(self.states_file, {"format": STATES_FORMAT, "states": kept}, indent=1)
            self.states = states
        return self.describe(number)

    def _read_states(self) -> dict[int, str]:
        if not self.states_file.exists():
            return {}
        tree = json_text.read(self.states_file)
        states = tree.get("states") if isinstance(tree, dict) and tree.get("format") == STATES_FORMAT else None
        if not isinstance(states, dict) or not all(
            key.isdecimal() and len(key) < 19 and state in STATES for key, state in states.items()
        ):
            raise InputError(f"{self.states_file}: not the states of an audit; move it away")
        return {int(key): state for key, state in states.items()}


def _image(name: str, known: Mapping[str, int]) -> int:
    return known.get(name, -1)


def _is_valid(values: object) -> bool:
    if not isinstance(values, dict) or type(values.get("id")) is not int or values.get("kind") not in KINDS:
        return False
    texts = (values.get("class"), values.get("suggested_class"))
    boxes = (values.get("box"), values.get("suggested_box"))
    return (
        isinstance(values.get("image"), str)
        and all(text is None or isinstance(text, str) for text in texts)
        and all(box is None or box_of(box) is not None for box in boxes)
    )
