"""Names of MindYOLO's YOLOv3."""

from collections.abc import Mapping

from torch import Tensor

from boxwright.config import numbers_of
from boxwright.models import darknet_cls
from boxwright.models.yolov3_640 import Config
from boxwright.weights.names import MINDSPORE_NORM, ForeignNames, timm

LAYERS = {
    "head32.body.0": "11", "head32.body.1": "12", "head32.body.2": "13", "head32.body.3": "14", "head32.last": "15",
    "reduce16": "16",
    "head16.body.0": "19", "head16.body.1": "20", "head16.body.2": "21", "head16.last": "22",
    "reduce8": "23",
    "head8.body.0": "26", "head8.body.1": "27.0", "head8.last": "27.1",
    "head8.output": "28.m.0", "head16.output": "28.m.1", "head32.output": "28.m.2",
}  # fmt: skip
LEAVES = {"conv.weight": "conv.weight"} | {f"norm.{ours}": f"bn.{theirs}" for ours, theirs in MINDSPORE_NORM.items()}


class Names(ForeignNames[Config]):
    @property
    def anchors(self) -> tuple[tuple[float, float], ...]:
        return numbers_of(self.config.anchors)

    def mindspore(self, parameter: str) -> str | None:
        """MindYOLO's name (`model.model.LAYER...`).

        Its `model.model.28.stride`, `.anchors` and `.anchor_grid` are constants that have no counterpart here.
        """
        module, _, leaf = parameter.rpartition(".")
        if module.endswith(".output"):
            return f"model.model.{LAYERS[module]}.{leaf}"
        module, _, kind = module.rpartition(".")
        if f"{kind}.{leaf}" not in LEAVES:
            return None
        return f"model.model.{_layer(module)}.{LEAVES[f'{kind}.{leaf}']}"

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Translate from timm's `darknet53`, a classifier."""
        return timm.darknet53(tensors)

    def classifier(self) -> darknet_cls.Config:
        return darknet_cls.Config(network="darknet53", classes=self.config.classes)


def _layer(module: str) -> str:
    """`backbone.stages.1.2.conv1` -> `4.1.conv1`: a stage is a stride-2 layer, then its residual blocks."""
    if module == "backbone.stem":
        return "0"
    module, conv = (module[:-6], module[-6:]) if module.endswith((".conv1", ".conv2")) else (module, "")
    if not module.startswith("backbone.stages."):
        return LAYERS[module] + conv
    stage, block = (int(number) for number in module.split(".")[2:])
    if block == 0:
        return str(2 * stage + 1)
    number = "" if stage == 0 else f".{block - 1}"  # a layer that is not repeated has no number
    return f"{2 * stage + 2}{number}{conv}"
