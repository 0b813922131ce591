"""Names of YOLOX."""

from collections.abc import Mapping

from torch import Tensor

from boxwright.models import darknet_cls
from boxwright.models.yolox import Config
from boxwright.weights.names import ForeignNames, timm


class Names(ForeignNames[Config]):
    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """From timm's `darknet53`, a classifier."""
        return timm.darknet53(tensors)

    def classifier(self) -> darknet_cls.Config:
        return darknet_cls.Config(network="darknet53", classes=self.config.classes)
