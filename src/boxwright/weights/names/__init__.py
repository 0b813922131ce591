"""What the tensors of a model are called in other projects' files: one file a model.

A model without a file here, such as a user's own, has the defaults of `ForeignNames`: no other project has it.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Generic, TypeVar

from torch import Tensor

from boxwright.config import ModelConfig, Padding

C = TypeVar("C", bound=ModelConfig)
# of batch norm: torch's leaf -> MindSpore's
MINDSPORE_NORM = {
    "weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance",
}  # fmt: skip


class ForeignNames(Generic[C]):
    """Other projects' names for the tensors of the network of `config`."""

    def __init__(self, config: C) -> None:
        self.config = config

    @property
    def padding(self) -> Padding | None:
        """Of the network's stride-2 layers, where it tells the files of Darknet and MindSpore apart."""
        return None

    @property
    def anchors(self) -> tuple[tuple[float, float], ...]:
        """Width and height px, where MindSpore's files store them too."""
        return ()

    def mindspore(self, parameter: str) -> str | None:
        """The name of a parameter in MindSpore's zoo; None for what its files do not hold."""
        return None

    def mindspore_transposed(self, parameter: str) -> bool:
        """Whether the zoo stores it (in, out)."""
        return False

    def mindspore_backbone(self, entry: str) -> str | None:
        """Our name for an entry of the zoo's ImageNet classifier; None for an entry that the backbone does not have."""
        return None

    def mindspore_unused(self, entry: str) -> bool:
        """Whether an entry of a file belongs to layers that the zoo's network never uses."""
        return False

    def is_foreign(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether a torch state dict is another project's, although it may have names of ours."""
        return False

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Another project's torch state dict under our names; what has no counterpart keeps its name."""
        return dict(tensors)

    def adapt(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors under our names, changed where they are of another kind of layer than ours."""
        return dict(tensors)

    def classifier(self) -> ModelConfig | None:
        """The classifier that a detector's backbone comes from."""
        return None


def of(config: ModelConfig) -> ForeignNames[ModelConfig]:
    """Those of the network of `config`."""
    if config.name not in {module.name for module in pkgutil.iter_modules(__path__)}:
        return ForeignNames(config)
    kind: type[ForeignNames[ModelConfig]] = importlib.import_module(f"{__name__}.{config.name}").Names
    return kind(config)
