"""What training does in its own way for detectors (`detection`) and for classifiers (`classification`)."""

from pathlib import Path
from typing import Any, Protocol

from torch import nn

from boxwright.engine import classification, detection
from boxwright.evaluation.coco import Metrics
from boxwright.evaluation.topk import TopK
from boxwright.recipe import Recipe


class Task(Protocol):
    """The functions of those two modules. Data sets and batches are the task's own; nobody else looks into them."""

    def open_checked(self, recipe: Recipe, skip: bool, accelerator: Any) -> tuple[Any, Any, list[str]]:
        """Training and validation pictures, and a line for each label and picture left out."""
        ...

    def fingerprint(self, dataset: Any, recipe: Recipe) -> str:
        """Changes when pictures or labels do; how closely pictures are looked at, the recipe says."""
        ...

    def loader(self, dataset: Any, recipe: Recipe, accelerator: Any) -> Any:
        """Batches for training, epoch by epoch, as `data.loader.Loader` gives them."""
        ...

    def prepare(self, batch: Any, recipe: Recipe, epoch: int, number: int, accelerator: Any) -> Any:
        """A loaded batch on the device and randomly changed. `number` counts the batches of this process from 0."""
        ...

    def score(
        self, network: nn.Module, recipe: Recipe, dataset: Any, accelerator: Any, out: Path | None
    ) -> Metrics | TopK:
        """What the network is worth on `dataset`; all processes call this, and the first writes to `out`."""
        ...


def of(recipe: Recipe) -> Task:
    return classification if recipe.model.task == "classify" else detection
