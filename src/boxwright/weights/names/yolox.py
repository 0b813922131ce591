"""Names of YOLOX with DarkNet-53, in its own project and in timm's classifier."""

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from boxwright.models import darknet_cls
from boxwright.models.yolox import Config
from boxwright.weights.names import ForeignNames, timm

MARK = "head.obj_preds.0.weight"  # a name that no other file has
STRIDES = (8, 16, 32)  # of their heads 0 to 2
HEAD = {
    "stems": "stem", "cls_convs": "class_branch", "reg_convs": "box_branch", "cls_preds": "classes",
    "reg_preds": "deltas", "obj_preds": "objectness",
}  # fmt: skip
LAYERS: dict[str, str | Callable[[re.Match[str]], str]] = {  # their layer -> ours, applied in order
    r"backbone\.backbone\.stem\.0\.": "backbone.stem.",
    r"backbone\.backbone\.stem\.1\.": "backbone.stages.0.0.",
    r"backbone\.backbone\.stem\.2\.": "backbone.stages.0.1.",
    r"backbone\.backbone\.dark5\.([56])\.": lambda found: f"pre_spp.{int(found[1]) - 5}.",
    r"backbone\.backbone\.dark5\.7\.conv1\.": "pre_spp.2.",
    r"backbone\.backbone\.dark5\.7\.conv2\.": "post_spp.0.",
    r"backbone\.backbone\.dark5\.([89])\.": lambda found: f"post_spp.{int(found[1]) - 7}.",
    r"backbone\.backbone\.dark([2-5])\.(\d)\.": lambda found: f"backbone.stages.{int(found[1]) - 1}.{found[2]}.",
    r"backbone\.out1_cbl\.": "reduce16.",
    r"backbone\.out1\.": "trunk16.",
    r"backbone\.out2_cbl\.": "reduce8.",
    r"backbone\.out2\.": "trunk8.",
    r"head\.(\w+)\.([0-2])\.": lambda found: f"head{STRIDES[int(found[2])]}.{HEAD[found[1]]}.",
}


class Names(ForeignNames[Config]):
    def is_foreign(self, tensors: Mapping[str, Tensor]) -> bool:
        """True for YOLOX's own files, whose backbone is also called `backbone`."""
        return MARK in tensors

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Translate from YOLOX since 0.1.1, or from timm's `darknet53`, a classifier."""
        return yolox(tensors) if MARK in tensors else timm.darknet53(tensors)

    def classifier(self) -> darknet_cls.Config:
        return darknet_cls.Config(network="darknet53", classes=self.config.classes)


def yolox(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate from YOLOX. Its first layer reads BGR from 0 to 255, and its pooled maps have the opposite order,
    smallest extent first."""
    renamed = {}
    for name, tensor in tensors.items():
        ours = _ours(name)
        if ours == "backbone.stem.conv.weight" and tensor.ndim == 4:
            tensor = tensor.flip(1) * 255
        elif ours == "post_spp.0.conv.weight" and tensor.ndim == 4:
            tensor = torch.cat(tensor.tensor_split(4, 1)[::-1], 1)
        renamed[ours] = tensor
    return renamed


def _ours(name: str) -> str:
    for pattern, layer in LAYERS.items():
        if found := re.match(pattern, name):
            rest = name[found.end() :].replace("layer1.", "conv1.").replace("layer2.", "conv2.").replace("bn.", "norm.")
            return (layer if isinstance(layer, str) else layer(found)) + rest
    return name
