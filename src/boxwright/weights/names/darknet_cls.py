"""Names of DarkNet-53 and CSPDarkNet-53 as classifiers."""

from collections.abc import Mapping

from torch import Tensor

from boxwright.config import Padding
from boxwright.models.darknet_cls import Config
from boxwright.weights.names import ForeignNames, timm


class Names(ForeignNames[Config]):
    @property
    def padding(self) -> Padding:
        return self.config.padding

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Translate from timm's classifier of the same name."""
        return timm.darknet53(tensors) if self.config.network == "darknet53" else timm.cspdarknet53(tensors)
