"""Metadata of an exported file, which make it sufficient for prediction."""

import hashlib
import json
from dataclasses import dataclass
from typing import Literal, Self, get_args

from torch import nn

from boxwright import json_text
from boxwright.errors import InputError
from boxwright.recipe import Recipe
from boxwright.weights.stored import untrusted

KEY = "boxwright"  # key in the metadata of a file; its value is `Metadata` as JSON
Kind = Literal["raw", "complete"]
Precision = Literal["float32", "float16", "int8"]


@dataclass(frozen=True, slots=True)
class Metadata:
    """Metadata of an exported file.

    Attributes:
        recipe: Resolved recipe, with class names, canvas and thresholds.
        kind: raw takes canvases as floats in [0, 1] and gives the raw tensors of the model; complete takes images as
            bytes and gives detections or classes.
        precision: Precision of the weights.
        outputs: Names of the outputs in order.
        fingerprint: `fingerprint` of the weights.
        version: Version of boxwright that wrote the file.
    """

    recipe: Recipe
    kind: Kind
    precision: Precision
    outputs: tuple[str, ...]
    fingerprint: str
    version: str

    def to_text(self) -> str:
        """JSON."""
        return json.dumps({name: getattr(self, name) for name in _PLAIN} | {"recipe": self.recipe.tree()})

    @classmethod
    def from_text(cls, text: str, source: str) -> Self:
        """Parse metadata. source: the file, for messages. Raises InputError if the text is not such metadata."""
        tree = json_text.parse(text, f"{source}: its '{KEY}' metadata")
        fits = isinstance(tree, dict) and all(isinstance(tree.get(name), str) for name in _TEXTS)
        outputs = tree.get("outputs") if fits else None
        if not (isinstance(outputs, list) and all(isinstance(name, str) for name in outputs)):
            raise InputError(f"{source}: its '{KEY}' metadata is not that of an exported model; export it again")
        for name, allowed in (("kind", get_args(Kind)), ("precision", get_args(Precision))):
            if tree[name] not in allowed:
                raise InputError(f"{source}: {name} '{tree[name]}' in its metadata, needed one of {', '.join(allowed)}")
        recipe = untrusted(tree.get("recipe"), f"{source}: stored recipe")
        return cls(recipe, outputs=tuple(outputs), **{name: tree[name] for name in _TEXTS})


_TEXTS = ("kind", "precision", "fingerprint", "version")
_PLAIN = (*_TEXTS, "outputs")


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of names, types, shapes and values of the model's state."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
