"""Names of YOLOv4."""

from collections.abc import Mapping

from torch import Tensor

from boxwright.models import darknet_cls
from boxwright.models.yolov4 import Config
from boxwright.weights.names import timm
from boxwright.weights.names.mindspore_yolo import ZooNames, cspdarknet53


def _layers() -> dict[str, str]:
    """Our layer -> the zoo's, which numbers the layers of the neck separately."""
    neck = [f"{side}_spp.{k}" for side in ("pre", "post") for k in range(3)]
    neck += ["reduce16", "lateral16", "reduce8", "lateral8", "down16", "down32"]
    layers = {layer: f"conv{number}" for number, layer in enumerate(neck, 1)}
    for number, trunk in enumerate(("trunk16", "head8.trunk", "head16.trunk", "head32.trunk")):
        layers |= {f"{trunk}.{k}": f"backblock{number}.conv{k}" for k in range(5)}
    for number, head in enumerate(("head8", "head16", "head32"), 1):
        layers |= {f"{head}.last": f"backblock{number}.conv5", head: f"backblock{number}.conv6"}
    return cspdarknet53() | layers


class Names(ZooNames[Config]):
    layers = _layers()

    def mindspore_unused(self, entry: str) -> bool:
        """True for two layers that the zoo's network never uses: the head of its first trunk at stride 16."""
        return ".backblock0.conv5." in entry or ".backblock0.conv6." in entry

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Translate from timm's `cspdarknet53`, a classifier."""
        return timm.cspdarknet53(tensors)

    def classifier(self) -> darknet_cls.Config | None:
        if self.config.network != "cspdarknet53" or self.config.width != 1:
            return None
        return darknet_cls.Config(network="cspdarknet53", classes=self.config.classes)
