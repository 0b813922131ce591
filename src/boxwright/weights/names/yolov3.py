"""Names of YOLOv3."""

from collections.abc import Mapping

from torch import Tensor

from boxwright.models import darknet_cls
from boxwright.models.yolov3 import Config
from boxwright.weights.names import mmdetection, timm
from boxwright.weights.names.mindspore_yolo import ZooNames, darknet53


def _layers() -> dict[str, str]:
    """Our layer -> the zoo's."""
    layers = {"reduce16": "conv1", "reduce8": "conv2"}
    for number, head in enumerate(("head32", "head16", "head8")):
        layers |= {f"{head}.trunk.{k}": f"backblock{number}.conv{k}" for k in range(5)}
        layers |= {f"{head}.last": f"backblock{number}.conv5", head: f"backblock{number}.conv6"}
    return darknet53() | layers


class Names(ZooNames[Config]):
    layers = _layers()

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Translate from mmdetection's YOLOv3, or timm's `darknet53`, a classifier."""
        return mmdetection.yolov3(tensors) if mmdetection.is_yolov3(tensors) else timm.darknet53(tensors)

    def classifier(self) -> darknet_cls.Config | None:
        if self.config.network != "darknet53":
            return None
        return darknet_cls.Config(network="darknet53", classes=self.config.classes)
