"""Names of a model's tensors in other projects' files: one module per model.

A model without a module here, such as a user's own, has the defaults of `ForeignNames`: no other project has it.
"""

import importlib
import pkgutil
import re
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
        """Padding of the network's stride-2 layers, if it distinguishes files of Darknet and MindSpore."""
        return None

    @property
    def anchors(self) -> tuple[tuple[float, float], ...]:
        """Anchors, (width, height) px, if MindSpore's files store them."""
        return ()

    def mindspore(self, parameter: str) -> str | None:
        """Name of a parameter in MindSpore's zoo; None if its files do not hold it."""
        return None

    def mindspore_transposed(self, parameter: str) -> bool:
        """Whether the zoo stores the parameter as (in, out)."""
        return False

    def mindspore_backbone(self, entry: str) -> str | None:
        """Our name for an entry of the zoo's ImageNet classifier; None if the backbone does not have it."""
        return None

    def mindspore_unused(self, entry: str) -> bool:
        """Whether an entry of a file belongs to layers that the zoo's network never uses."""
        return False

    def is_foreign(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether a torch state dict is another project's, although some of its names may be ours."""
        return False

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Another project's torch state dict under our names; entries without a counterpart keep theirs."""
        return dict(tensors)

    def adapt(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors under our names, changed if they belong to another kind of layer than ours."""
        return dict(tensors)

    def classifier(self) -> ModelConfig | None:
        """Config of the classifier that a detector's backbone comes from; None if there is none."""
        return None


def of(config: ModelConfig) -> ForeignNames[ModelConfig]:
    """Names for the network of `config`."""
    if config.name not in {module.name for module in pkgutil.iter_modules(__path__)}:
        return ForeignNames(config)
    kind: type[ForeignNames[ModelConfig]] = importlib.import_module(f"{__name__}.{config.name}").Names
    return kind(config)


def replaced(table: Mapping[str, str], name: str) -> str:
    """`name` with each pattern of `table` replaced in turn."""
    for pattern, replacement in table.items():
        name = re.sub(pattern, replacement, name)
    return name
