"""Names of Tiny-DarkNet."""

from boxwright.models.tiny_darknet import STAGES, Config
from boxwright.weights.names import MINDSPORE_NORM, ForeignNames

LAYERS = [f"backbone.{s}.{k}" for s, stage in enumerate(STAGES) for k in range(len(stage))] + ["last"]
LEAVES = {"conv.weight": "conv.weight"} | {f"norm.{ours}": f"bn.{theirs}" for ours, theirs in MINDSPORE_NORM.items()}


class Names(ForeignNames[Config]):
    def mindspore(self, parameter: str) -> str | None:
        """Name in the zoo, which numbers the blocks from 1."""
        layer, *leaf = parameter.rsplit(".", 2)
        ending = LEAVES.get(".".join(leaf))
        return f"conv{LAYERS.index(layer) + 1}.{ending}" if layer in LAYERS and ending else None
