"""Findings of an audit of labels, and their states (accepted or dismissed) in a file beside the audit's."""

import json
import math
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boxwright import json_text, mirrors
from boxwright.data.split_names import canonical_name
from boxwright.errors import InputError
from boxwright.json_text import JsonObject
from boxwright.look.catalog import Catalog
from boxwright.look.editing import box_of

FORMAT, STATES_FORMAT = "boxwright audit 1", "boxwright audit states 2"
KINDS = ("missing", "spurious", "class", "location")
STATES = ("open", "accepted", "dismissed")
IDENTITY = ("split", "image", "kind", "box", "class", "suggested_class", "suggested_box")  # of a finding in any audit
KEYS = ("id", "kind", "box", "class", "suggested_class", "suggested_box", "score")
SAME_BOX = 0.02  # px; an audit and a table of predictions have two decimals


@dataclass(slots=True)
class Finding:
    """A label that may be wrong: its entry of the audit, and the id of its image in the catalog."""

    values: JsonObject
    image: int


class Audit:
    """Findings of an audit file.

    Args:
        file: audit.json of `data audit`.
        catalog: The set.

    Raises:
        InputError: `file` is not an audit, or its states cannot be read.
    """

    def __init__(self, file: str | Path, catalog: Catalog) -> None:
        self.file = Path(file)
        self.states_file = self.file.with_name(f"{self.file.stem}.states.json")
        tree = json_text.read(self.file)
        if not isinstance(tree, dict) or tree.get("format") != FORMAT or not isinstance(tree.get("findings"), list):
            raise InputError(f"{self.file}: not an audit, needed audit.json of `boxwright data audit`; write it again")
        self._lock = threading.Lock()
        image_ids = catalog.by_split_and_name()
        self.findings: dict[int, Finding] = {}
        for number, values in enumerate(tree["findings"]):
            if not _is_valid(values) or values["id"] in self.findings:
                raise InputError(f"{self.file}: findings[{number}]: invalid; write the audit again")
            self.findings[values["id"]] = Finding(values, image_ids.get(_key(values), -1))
        missing = sum(finding.image < 0 for finding in self.findings.values())
        self.message = ""
        if missing:
            self.message = f"{self.file}: {missing} of {len(self.findings)} findings are of images not in this set"
        self.states = self._read_states()
        self._of_image: dict[int, list[int]] = {}
        for number, finding in self.findings.items():
            self._of_image.setdefault(finding.image, []).append(number)

    def describe(self) -> JsonObject:
        """The file, and the number of findings of each kind."""
        counts = Counter(finding.values["kind"] for finding in self.findings.values())
        return {"file": str(self.file), "findings": len(self.findings), "kinds": dict(counts)}

    def order(self, kind: str) -> NDArray[np.int64]:
        """Images with an open finding of a kind (`any`: of all kinds), highest score first.

        Raises InputError for an unknown kind.
        """
        if kind not in (*KINDS, "any"):
            raise InputError(f"finding: found '{kind[:20]}', needed any, {', '.join(KINDS)}")
        found: dict[int, float] = {}
        for number, finding in self.findings.items():
            if finding.image >= 0 and kind in ("any", finding.values["kind"]) and self.state(number) == "open":
                found[finding.image] = max(found.get(finding.image, 0.0), float(finding.values["score"]))
        return np.array(sorted(found, key=lambda image: -found[image]), dtype=np.int64)

    def of_image(self, image: int, objects: Sequence[JsonObject]) -> list[JsonObject]:
        """Findings of an image. objects: its current objects; a finding's `object` is the id of its object."""
        found, index = [], ObjectIndex(objects)
        for number in self._of_image.get(image, []):
            finding = self._shown(number)
            same = None if finding["box"] is None else index.find(finding["box"], finding["class"])
            found.append(finding | {"object": None if same is None else same["id"]})
        return found

    def state(self, number: int) -> str:
        return self.states.get(_identity(self.findings[number].values), "open")

    def _shown(self, number: int) -> JsonObject:
        """A finding for the page."""
        values = self.findings[number].values
        return {name: values.get(name) for name in KEYS} | {"state": self.state(number)}

    def set_state(self, number: int, state: object) -> JsonObject:
        """Set and write a state. Returns the finding. Raises InputError if there is no such finding or state."""
        if number not in self.findings:
            raise InputError(f"finding {number}: there is none in {self.file.name}")
        if state not in STATES:
            raise InputError(f"state: found '{str(state)[:20]}', needed {', '.join(STATES)}")
        if mirrors.split(self.states_file) is not None:
            raise InputError(f"{self.file}: is in an object store, where states are not written; copy it to a folder")
        with self._lock:
            states = self.states | {_identity(self.findings[number].values): str(state)}
            kept = [json.loads(key) | {"state": value} for key, value in states.items() if value != "open"]
            json_text.write(self.states_file, {"format": STATES_FORMAT, "states": kept}, indent=1)
            self.states = states
        return self._shown(number)

    def _read_states(self) -> dict[str, str]:
        """Identity -> state. The numbers of findings are others in each audit, whose states may be in the same file."""
        if not self.states_file.exists():
            return {}
        tree = json_text.read(self.states_file)
        states = tree.get("states") if isinstance(tree, dict) and tree.get("format") == STATES_FORMAT else None
        if not isinstance(states, list) or not all(
            isinstance(row, dict) and row.get("state") in STATES for row in states
        ):
            raise InputError(f"{self.states_file}: not the states of an audit; move it away")
        return {_identity(row): row["state"] for row in states}


class ObjectIndex:
    """Index of an image's objects by class and box, hashed by the first corner's pixel."""

    def __init__(self, objects: Sequence[JsonObject]) -> None:
        self._objects: dict[tuple[str | None, int, int], list[JsonObject]] = {}
        for each in objects:
            x, y = map(math.floor, each["box"][:2])
            self._objects.setdefault((each["class"], x, y), []).append(each)

    def find(self, box: Sequence[float], name: str | None) -> JsonObject | None:
        """The object with that box and class; None if there is none (any more)."""
        if not all(map(math.isfinite, box)):
            return None
        columns, rows = ({math.floor(side - SAME_BOX), math.floor(side + SAME_BOX)} for side in box[:2])
        for key in product((name,), columns, rows):
            for each in self._objects.get(key, ()):
                if all(abs(a - b) <= SAME_BOX for a, b in zip(each["box"], box, strict=True)):
                    return each
        return None


def _key(values: JsonObject) -> tuple[str, str]:
    return canonical_name(str(values.get("split"))), values["image"]


def _identity(values: JsonObject) -> str:
    """What a finding is about, as JSON."""
    return json.dumps({name: values.get(name) for name in IDENTITY})


def _is_valid(values: object) -> bool:
    if not isinstance(values, dict) or type(values.get("id")) is not int or values.get("kind") not in KINDS:
        return False
    texts = (values.get("class"), values.get("suggested_class"))
    boxes = (values.get("box"), values.get("suggested_box"))
    return (
        isinstance(values.get("image"), str)
        and json_text.is_number(values.get("score"))
        and all(text is None or isinstance(text, str) for text in texts)
        and all(box is None or box_of(box) is not None for box in boxes)
    )
