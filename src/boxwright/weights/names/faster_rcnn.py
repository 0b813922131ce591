"""Names of Faster R-CNN: MindSpore's zoo, torchvision, timm; mmdetection and Detectron2 have separate modules."""

import re
from collections.abc import Mapping

from torch import Tensor

from boxwright.config import Padding
from boxwright.models.faster_rcnn import Config
from boxwright.weights.names import MINDSPORE_NORM, ForeignNames, detectron2, mmdetection, replaced

# Unused ids of COCO's 91 categories; torchvision's published files have a row for each id, 0 first.
COCO_UNUSED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
COCO_IDS = range(91)
COCO_ROWS = [row for row in COCO_IDS if row not in COCO_UNUSED]  # the background and the 80 classes

_ZOO = {  # our module -> theirs (the spelling `ncek` is theirs)
    r"^neck\.inner": "fpn_ncek.lateral_convs_list",
    r"^neck\.outer": "fpn_ncek.fpn_convs_list",
    r"^rpn\.conv": "rpn_with_loss.rpn_convs_list.0.rpn_conv",
    r"^rpn\.objectness": "rpn_with_loss.rpn_convs_list.0.rpn_cls",
    r"^rpn\.deltas": "rpn_with_loss.rpn_convs_list.0.rpn_reg",
    r"^head\.fc1": "rcnn.shared_fc_0",
    r"^head\.fc2": "rcnn.shared_fc_1",
    r"^head\.classes": "rcnn.cls_scores",
    r"^head\.deltas": "rcnn.reg_scores",
    r"(layer[2-4]\.\d+)\.conv2$": r"\1.defconv.conv",
    r"conv2\.offset$": "defconv.p_conv",
    r"conv2\.mask$": "defconv.m_conv",
    r"downsample\.0$": "conv_down_sample",
    r"downsample\.1$": "bn_down_sample",
}
_ZOO_CLASSIFIER = {  # name in the zoo's ResNet classifier -> in torchvision's
    r"^backbone\.": "",
    r"down_sample_layer": "downsample",
    **{rf"\.{theirs}$": f".{ours}" for ours, theirs in MINDSPORE_NORM.items()},
}
_TORCHVISION = {  # name in torchvision's Faster R-CNN (before and since 0.13), or in a ResNet of its or timm's -> ours
    r"^backbone\.body\.": "backbone.",
    r"^backbone\.fpn\.inner_blocks\.(\d)(?:\.0)?\.(weight|bias)$": r"neck.inner.\1.\2",
    r"^backbone\.fpn\.layer_blocks\.(\d)(?:\.0)?\.(weight|bias)$": r"neck.outer.\1.\2",
    r"^rpn\.head\.conv(?:\.0\.0)?\.(weight|bias)$": r"rpn.conv.\1",
    r"^rpn\.head\.cls_logits\.": "rpn.objectness.",
    r"^rpn\.head\.bbox_pred\.": "rpn.deltas.",
    r"^roi_heads\.box_head\.fc6\.": "head.fc1.",
    r"^roi_heads\.box_head\.fc7\.": "head.fc2.",
    r"^roi_heads\.box_predictor\.cls_score\.": "head.classes.",
    r"^roi_heads\.box_predictor\.bbox_pred\.": "head.deltas.",
    r"^(?=(?:conv1|bn1|layer[1-4])\.)": "backbone.",
}
_TORCHVISION_V2 = {  # fasterrcnn_resnet50_fpn_v2, where it differs
    r"^backbone\.fpn\.inner_blocks\.(\d)\.": r"neck.inner.\1.",
    r"^backbone\.fpn\.layer_blocks\.(\d)\.": r"neck.outer.\1.",
    r"^rpn\.head\.conv\.(\d)\.0\.": r"rpn.conv.\1.0.",
    r"^roi_heads\.box_head\.([0-3])\.": r"head.convs.\1.",
    r"^roi_heads\.box_head\.5\.": "head.fc1.",
}
_DEFORMABLE = re.compile(r"^backbone\.layer[2-4]\.\d+\.conv2\.weight$")


class Names(ForeignNames[Config]):
    @property
    def padding(self) -> Padding:
        return self.config.padding

    def mindspore(self, parameter: str) -> str | None:
        """Name in the zoo's `faster_rcnn_dcn`."""
        module, _, leaf = parameter.rpartition(".")
        if not module or leaf == "num_batches_tracked":
            return None
        module = replaced(_ZOO, module)
        if module.rpartition(".")[2].startswith("bn"):
            leaf = MINDSPORE_NORM[leaf]
        return f"{module}.{leaf}"

    def mindspore_transposed(self, parameter: str) -> bool:
        """True for the weights of the dense layers."""
        return re.fullmatch(r"head\.\w+\.weight", parameter) is not None

    def mindspore_backbone(self, entry: str) -> str | None:
        """Our name for an entry of the zoo's ResNet classifier (`layer1.0.down_sample_layer.0.weight`), with or without
        the prefix `backbone.` of the zoo's own conversion. For conv2 see `translate`."""
        ours = "backbone." + replaced(_ZOO_CLASSIFIER, entry)
        return ours if self._fills(ours) else None

    def is_foreign(self, tensors: Mapping[str, Tensor]) -> bool:
        """True for mmdetection's files, whose backbone has the same names as ours."""
        return mmdetection.is_faster_rcnn(tensors)

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Translate from mmdetection, Detectron2, torchvision's Faster R-CNN, or a ResNet of torchvision or timm.

        conv2 of the last three stages keeps its name if the network's layer is deformable, unless `conv2_fills_deform`.
        A network with 80 classes takes the used ones of 91 classes by COCO's ids.
        """
        if mmdetection.is_faster_rcnn(tensors):
            return mmdetection.faster_rcnn(tensors, self.config)
        if detectron2.is_faster_rcnn(tensors):
            return detectron2.faster_rcnn(tensors, self.config)
        table = _TORCHVISION_V2 | _TORCHVISION if self.config.neck_norm else _TORCHVISION
        renamed = {}
        for name, tensor in tensors.items():
            ours = replaced(table, name)
            renamed[ours if self._fills(ours) else name] = tensor
        if self.config.classes == len(COCO_ROWS) - 1:
            for layer, numbers in (("classes", 1), ("deltas", 4)):
                chosen = [row * numbers + number for row in COCO_ROWS for number in range(numbers)]
                for name in (f"head.{layer}.weight", f"head.{layer}.bias"):
                    if name in renamed and renamed[name].shape[:1] == (91 * numbers,):
                        renamed[name] = renamed[name][chosen]
        return renamed

    def adapt(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Double the weights of ordinary convolutions that are loaded into deformable layers, since masks start at 0.5
        and the following batch norm keeps its statistics."""

        def ordinary(name: str) -> bool:
            return _DEFORMABLE.match(name) is not None and name.replace(".weight", ".offset.weight") not in tensors

        if self.config.deform == "none" or not self.config.deform_masks:
            return dict(tensors)
        return {name: 2 * tensor if ordinary(name) else tensor for name, tensor in tensors.items()}

    def _fills(self, ours: str) -> bool:
        return self.config.deform == "none" or self.config.conv2_fills_deform or not _DEFORMABLE.match(ours)
