"""The names that the MindSpore zoo's YOLO detectors give to the parameters of ours.

A table of places says which of our modules is which of theirs: `backbone.stem` is `backbone.conv0`, both
without the parameter's own name, theirs also without `feature_map.`.
"""

from boxwright.nn import cspdarknet, darknet

LEAVES = {
    "conv.weight": "0.weight",
    "norm.weight": "1.gamma",
    "norm.bias": "1.beta",
    "norm.running_mean": "1.moving_mean",
    "norm.running_var": "1.moving_variance",
    "out.weight": "weight",
    "out.bias": "bias",
}


def mindspore_name(parameter: str, places: dict[str, str]) -> str | None:
    """The zoo's name of a parameter; None where it has none."""
    place, *leaf = parameter.rsplit(".", 2)
    theirs, ending = places.get(place), LEAVES.get(".".join(leaf))
    return f"feature_map.{theirs}.{ending}" if theirs and ending else None


def mindspore_backbone(entry: str, places: dict[str, str]) -> str | None:
    """Our name for an entry of the zoo's classifier: there the backbone stands first, after any prefix and `network.`
    (src/util.py of both detectors)."""
    place, *ending = entry.rpartition("network.")[2].rsplit(".", 2)
    module = next((ours for ours, theirs in places.items() if theirs == place), None)
    leaf = next((ours for ours, theirs in LEAVES.items() if theirs == ".".join(ending)), None)
    return f"{module}.{leaf}" if place.startswith("backbone.") and module and leaf else None


def darknet53_places() -> dict[str, str]:
    """Of `nn.darknet.DarkNet53`."""
    places = {"stem": "conv0"}
    for stage, (_, blocks) in enumerate(darknet.STAGES):
        places[f"stages.{stage}.0"] = f"conv{stage + 1}"
        for k in range(blocks):
            places |= {f"stages.{stage}.{k + 1}.{conv}": f"layer{stage + 1}.{k}.{conv}" for conv in ("conv1", "conv2")}
    return {f"backbone.{ours}": f"backbone.{theirs}" for ours, theirs in places.items()}


def cspdarknet53_places() -> dict[str, str]:
    """Of `nn.cspdarknet.CSPDarkNet53`; the zoo numbers its layers."""
    parts = ["stem"]
    places: dict[str, str] = {}
    for stage, blocks in enumerate(cspdarknet.BLOCKS):
        ours = f"stages.{stage}"
        layers = {f"{ours}.blocks.{k}.{conv}": f"{k}.{conv}" for k in range(blocks) for conv in ("conv1", "conv2")}
        # The first stage's block is numbered with the rest, the others have names of their own.
        block = layers if stage == 0 else ()
        parts += [f"{ours}.down", f"{ours}.enter", *block, f"{ours}.leave", f"{ours}.past", f"{ours}.join"]
        if stage > 0:
            places |= {layer: f"layer{stage + 1}.{place}" for layer, place in layers.items()}
    places |= {part: f"conv{number}" for number, part in enumerate(parts)}
    return {f"backbone.{ours}": f"backbone.{theirs}" for ours, theirs in places.items()}
