"""State dicts of mmdetection 2.x and 3.x under our names.

G deformable groups, C classes

Entries without a counterpart keep their names.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from boxwright.errors import InputError
from boxwright.models.faster_rcnn import Config
from boxwright.weights.names import replaced

BACKGROUND = 1  # row of the class layer
_FASTER_RCNN = {
    r"^neck\.lateral_convs\.(\d)\.conv\.": r"neck.inner.\1.",
    r"^neck\.fpn_convs\.(\d)\.conv\.": r"neck.outer.\1.",
    r"^rpn_head\.rpn_conv\.": "rpn.conv.",
    r"^rpn_head\.rpn_cls\.": "rpn.objectness.",
    r"^rpn_head\.rpn_reg\.": "rpn.deltas.",
    r"^roi_head\.bbox_head\.shared_fcs\.0\.": "head.fc1.",
    r"^roi_head\.bbox_head\.shared_fcs\.1\.": "head.fc2.",
    r"^roi_head\.bbox_head\.fc_cls\.": "head.classes.",
    r"^roi_head\.bbox_head\.fc_reg\.": "head.deltas.",
}
_YOLOV3 = {
    r"^backbone\.conv1\.": "backbone.stem.",
    r"^neck\.conv1\.": "reduce16.",
    r"^neck\.conv2\.": "reduce8.",
}
_HEADS = ("head32", "head16", "head8")
_YOLOV3_HEADS = {  # our layers in each of `_HEADS`
    r"^neck\.detect(\d)\.conv(\d)\.": lambda m: f"{_HEADS[int(m[1]) - 1]}.trunk.{int(m[2]) - 1}.",
    r"^bbox_head\.convs_bridge\.(\d)\.": lambda m: f"{_HEADS[int(m[1])]}.last.",
    r"^bbox_head\.convs_pred\.(\d)\.": lambda m: f"{_HEADS[int(m[1])]}.out.",
    r"^backbone\.conv_res_block(\d)\.conv\.": lambda m: f"backbone.stages.{int(m[1]) - 1}.0.",
    r"^backbone\.conv_res_block(\d)\.res(\d)\.conv(\d)\.": (
        lambda m: f"backbone.stages.{int(m[1]) - 1}.{int(m[2]) + 1}.conv{m[3]}."
    ),
}
OFFSETS = re.compile(r"(.*\.conv2)(?:\.conv_offset|_offset)\.(weight|bias)")


def is_faster_rcnn(tensors: Mapping[str, Tensor]) -> bool:
    return "rpn_head.rpn_cls.weight" in tensors


def is_yolov3(tensors: Mapping[str, Tensor]) -> bool:
    return "bbox_head.convs_pred.0.weight" in tensors


def faster_rcnn(tensors: Mapping[str, Tensor], config: Config) -> dict[str, Tensor]:
    """Translate a Faster R-CNN with a ResNet and a feature pyramid.

    Raises InputError for a file of mmdetection 1.x, whose names are nearly the same.
    """
    if "bbox_head.fc_cls.weight" in tensors:
        raise InputError(
            "a file of mmdetection 1.x, whose boxes count both end pixels and whose background is first; "
            "needed one of 2.0 or newer, retrained or fine-tuned there"
        )
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        renamed |= offsets_and_masks(name, tensor, config.deform_masks)
    renamed = {replaced(_FASTER_RCNN, name): tensor for name, tensor in renamed.items()}
    return in_our_order(renamed, config)


def offsets_and_masks(name: str, tensor: Tensor, masks: bool) -> dict[str, Tensor]:
    """Translate one entry. The layer of all offsets, as (row, column) pairs, followed by all masks, becomes two layers;
    per group, offsets are nine rows, then nine columns."""
    found = OFFSETS.fullmatch(name)
    if not found or not tensor.ndim or tensor.shape[0] % (27 if masks else 18):
        return {name: tensor}
    layer, leaf = found.groups()
    count = tensor.shape[0] // 3 * 2 if masks else tensor.shape[0]
    pairs = torch.unflatten(tensor[:count], 0, (-1, 9, 2)).transpose(1, 2).flatten(0, 2)
    result = {f"{layer}.offset.{leaf}": pairs}
    return result | {f"{layer}.mask.{leaf}": tensor[count:]} if masks else result


def in_our_order(tensors: dict[str, Tensor], config: Config) -> dict[str, Tensor]:
    """Move the class layer's last row to the front, and add rows of zeros for the background to the box layer. Networks
    in Caffe's style, identified by the layer with the stride, read BGR: their first convolution is changed to RGB."""
    first = tensors.get("backbone.conv1.weight")
    if config.stride_in == "conv1" and first is not None and first.ndim == 4:
        tensors["backbone.conv1.weight"] = first.flip(1)
    for leaf in ("weight", "bias"):
        classes, deltas = f"head.classes.{leaf}", f"head.deltas.{leaf}"
        if classes in tensors and tensors[classes].ndim:
            tensors[classes] = tensors[classes].roll(BACKGROUND, 0)
        if deltas in tensors and tensors[deltas].ndim:
            rows = tensors[deltas]
            tensors[deltas] = torch.cat((rows.new_zeros(4 * BACKGROUND, *rows.shape[1:]), rows))
    return tensors


def yolov3(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate a YOLOv3 with DarkNet-53."""
    renamed = {}
    for name, tensor in tensors.items():
        for pattern, ours in (_YOLOV3 | _YOLOV3_HEADS).items():
            if re.match(pattern, name):
                name = re.sub(pattern, ours, name).replace(".bn.", ".norm.")
                break
        renamed[name] = tensor
    return renamed
