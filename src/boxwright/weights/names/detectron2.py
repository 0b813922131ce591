"""State dicts of Detectron2's Faster R-CNN with a ResNet and a feature pyramid under our names.

Entries without a counterpart keep their names.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from boxwright.models.faster_rcnn import Config
from boxwright.weights.names import mmdetection, replaced

_NAMES = {
    r"^backbone\.bottom_up\.stem\.conv1\.norm\.": "backbone.bn1.",
    r"^backbone\.bottom_up\.stem\.conv1\.": "backbone.conv1.",
    r"^proposal_generator\.rpn_head\.conv\.": "rpn.conv.",
    r"^proposal_generator\.rpn_head\.objectness_logits\.": "rpn.objectness.",
    r"^proposal_generator\.rpn_head\.anchor_deltas\.": "rpn.deltas.",
    r"^roi_heads\.box_head\.fc(\d)\.": r"head.fc\1.",
    r"^roi_heads\.box_predictor\.cls_score\.": "head.classes.",
    r"^roi_heads\.box_predictor\.bbox_pred\.": "head.deltas.",
}
_STAGE = re.compile(r"backbone\.bottom_up\.res(\d)\.(\d+)\.(?:(conv|shortcut)(\d?))(_offset)?(\.norm)?\.(\w+)")
_PYRAMID = re.compile(r"backbone\.fpn_(lateral|output)(\d)\.(\w+)")
# derived from the configuration; in files up to 2021
_UNUSED = re.compile(r"pixel_(?:mean|std)|proposal_generator\.anchor_generator\.cell_anchors\.\d")


def is_faster_rcnn(tensors: Mapping[str, Tensor]) -> bool:
    return "backbone.bottom_up.stem.conv1.weight" in tensors


def faster_rcnn(tensors: Mapping[str, Tensor], config: Config) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not _UNUSED.fullmatch(name):
            renamed |= mmdetection.offsets_and_masks(_ours(name), tensor, config.deform_masks)
    return mmdetection.in_our_order(renamed, config)


def _ours(name: str) -> str:
    if found := _STAGE.fullmatch(name):
        stage, block, kind, number, offset, norm, leaf = found.groups()
        layer = f"conv{number}{offset or ''}" if not norm else f"bn{number}"
        if kind == "shortcut":
            layer = "downsample.1" if norm else "downsample.0"
        return f"backbone.layer{int(stage) - 1}.{block}.{layer}.{leaf}"
    if found := _PYRAMID.fullmatch(name):
        kind, level, leaf = found.groups()
        return f"neck.{'inner' if kind == 'lateral' else 'outer'}.{int(level) - 2}.{leaf}"
    return replaced(_NAMES, name)
