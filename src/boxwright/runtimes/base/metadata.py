"""What an exported file says about itself, so that it alone is enough to predict."""

import hashlib
import json
from dataclasses import dataclass
from typing import Literal, Self, get_args

from torch import nn

from boxwright import json_text
from boxwright.errors import InputError
from boxwright.recipe import Recipe
from boxwright.weights.stored import untrusted

KEY = "boxwright"  # the one entry in a file's own metadata; its value is `Metadata` as JSON
Kind = Literal["raw", "complete"]
Precision = Literal["float32", "float16", "int8"]


@dataclass(frozen=True, slots=True)
class Metadata:
    """What an exported file says of itself.

    Attributes:
        recipe: Resolved, with class names, canvas and thresholds.
        kind: raw takes canvases as floats in [0, 1] and gives the raw tensors of the model; complete takes images as
            bytes and gives detections or classes.
        precision: Of the weights.
        outputs: Names in order.
        fingerprint: `fingerprint` of the weights.
        version: Of boxwright.
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
        """`source` names the file in an error. Raises InputError for text that is no such metadata."""
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
    """SHA-256 over names, types, shapes and numbers of the model's state."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
