"""timm's state dicts of `darknet53` and `cspdarknet53` under our names.

    C classes, c channels

Entries without a counterpart keep their names.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

BACKBONE = "backbone."
CONV, LEAF = r"(conv[12])", r"(conv|bn)\.(\w+)"
DARKNET53 = {rf"stem\.conv1\.{LEAF}": r"stem.\1.\2", rf"stages\.(\d)\.conv_down\.{LEAF}": r"stages.\1.0.\2.\3"}
CSPDARKNET53 = {
    rf"stem\.conv1\.{LEAF}": r"stem.\1.\2",
    rf"stages\.(\d)\.conv_down\.{LEAF}": r"stages.\1.down.\2.\3",
    rf"stages\.(\d)\.blocks\.(\d)\.{CONV}\.{LEAF}": r"stages.\1.blocks.\2.\3.\4.\5",
    rf"stages\.(\d)\.conv_transition_b\.{LEAF}": r"stages.\1.main_out.\2.\3",
    rf"stages\.(\d)\.conv_transition\.{LEAF}": r"stages.\1.join.\2.\3",
}
BLOCK = re.compile(rf"stages\.(\d)\.blocks\.(\d)\.{CONV}\.{LEAF}")  # in DARKNET53 their block k is our layer k + 1
EXPANSION = re.compile(rf"stages\.(\d)\.conv_exp\.{LEAF}")


def darknet53(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate timm's `darknet53`, for any of our networks with a DarkNet-53."""
    renamed = {}
    for name, tensor in tensors.items():
        if block := BLOCK.fullmatch(name):
            stage, number, *rest = block.groups()
            renamed[_ours(f"stages.{stage}.{int(number) + 1}.{'.'.join(rest)}")] = tensor
        else:
            renamed |= _renamed(name, tensor, DARKNET53)
    return renamed


def cspdarknet53(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate timm's `cspdarknet53`, for any of our networks with a CSPDarkNet-53.

    timm has one layer instead of the two 1x1 convolutions at the start of a stage: its first half is the shortcut, the
    second the main path. It also concatenates the two in the other order, shortcut first (timm/models/cspnet.py).
    """
    renamed = {}
    for name, tensor in tensors.items():
        if expansion := EXPANSION.fullmatch(name):
            stage, *leaf = expansion.groups()
            halves = tensor.tensor_split(2) if tensor.ndim else (tensor, tensor)
            for path, half in zip(("shortcut", "main_in"), halves, strict=True):
                renamed[_ours(f"stages.{stage}.{path}.{'.'.join(leaf)}")] = half
        else:
            renamed |= _renamed(name, tensor, CSPDARKNET53)
    for name, tensor in renamed.items():
        if name.startswith(BACKBONE) and name.endswith(".join.conv.weight") and tensor.ndim == 4:
            renamed[name] = torch.cat(tensor.tensor_split(2, 1)[::-1], 1)
    return renamed


def _renamed(name: str, tensor: Tensor, table: dict[str, str]) -> dict[str, Tensor]:
    """One tensor under its new name; the classifier's (C, c) becomes a 1x1 convolution (C, c, 1, 1)."""
    if name in {"head.fc.weight", "head.fc.bias"}:
        return {name.replace("head.fc", "classifier"): tensor[..., None, None] if tensor.ndim == 2 else tensor}
    for pattern, ours in table.items():
        if found := re.fullmatch(pattern, name):
            return {_ours(found.expand(ours)): tensor}
    return {name: tensor}


def _ours(name: str) -> str:
    return BACKBONE + name.replace(".bn.", ".norm.")
