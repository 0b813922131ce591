"""Names of the MindSpore zoo's YOLO detectors.

A table maps our layers to theirs: `backbone.stem` to `backbone.conv0`, both without the parameter's own name, theirs
also without `feature_map.`.
"""

from typing import ClassVar, TypeVar

from boxwright.config import Padding
from boxwright.nn import cspdarknet, darknet
from boxwright.nn.yolo import AnchorConfig
from boxwright.weights.names import MINDSPORE_NORM, ForeignNames

LEAVES = {"conv.weight": "0.weight", "out.weight": "weight", "out.bias": "bias"} | {
    f"norm.{ours}": f"1.{theirs}" for ours, theirs in MINDSPORE_NORM.items()
}


A = TypeVar("A", bound=AnchorConfig)


class ZooNames(ForeignNames[A]):
    """Names by a table of layers, ours -> theirs."""

    layers: ClassVar[dict[str, str]]

    @property
    def padding(self) -> Padding:
        return self.config.padding

    def mindspore(self, parameter: str) -> str | None:
        layer, *leaf = parameter.rsplit(".", 2)
        theirs, ending = self.layers.get(layer), LEAVES.get(".".join(leaf))
        return f"feature_map.{theirs}.{ending}" if theirs and ending else None

    def mindspore_backbone(self, entry: str) -> str | None:
        """Our name; in the zoo the backbone comes first, after any prefix and `network.` (src/util.py of both
        detectors)."""
        layer, *ending = entry.rpartition("network.")[2].rsplit(".", 2)
        module = next((ours for ours, theirs in self.layers.items() if theirs == layer), None)
        leaf = next((ours for ours, theirs in LEAVES.items() if theirs == ".".join(ending)), None)
        return f"{module}.{leaf}" if layer.startswith("backbone.") and module and leaf else None


def darknet53() -> dict[str, str]:
    """The layers of `nn.darknet.DarkNet53`."""
    layers = {"stem": "conv0"}
    for stage, (_, blocks) in enumerate(darknet.STAGES):
        layers[f"stages.{stage}.0"] = f"conv{stage + 1}"
        for k in range(blocks):
            layers |= {f"stages.{stage}.{k + 1}.{conv}": f"layer{stage + 1}.{k}.{conv}" for conv in ("conv1", "conv2")}
    return {f"backbone.{ours}": f"backbone.{theirs}" for ours, theirs in layers.items()}


def cspdarknet53() -> dict[str, str]:
    """The layers of `nn.cspdarknet.CSPDarkNet53`; the zoo numbers them."""
    numbered = ["stem"]
    layers: dict[str, str] = {}
    for stage, blocks in enumerate(cspdarknet.BLOCKS):
        ours = f"stages.{stage}"
        convs = {f"{ours}.blocks.{k}.{conv}": f"{k}.{conv}" for k in range(blocks) for conv in ("conv1", "conv2")}
        # The first stage's block is numbered with the other layers; blocks of later stages have separate names.
        block = convs if stage == 0 else ()
        numbered += [f"{ours}.down", f"{ours}.main_in", *block, f"{ours}.main_out", f"{ours}.shortcut", f"{ours}.join"]
        if stage > 0:
            layers |= {conv: f"layer{stage + 1}.{theirs}" for conv, theirs in convs.items()}
    layers |= {layer: f"conv{number}" for number, layer in enumerate(numbered)}
    return {f"backbone.{ours}": f"backbone.{theirs}" for ours, theirs in layers.items()}
