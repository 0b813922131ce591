"""The protocol of a task.

B images of a batch, H x W canvas px
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar, Generic, NamedTuple, NoReturn, Protocol, TypeVar

import numpy as np
from torch import Tensor, nn

from boxwright.datatools.report import Report
from boxwright.errors import InputError
from boxwright.recipe import DataConfig, NMSConfig, Recipe
from boxwright.types import Frame

Array = np.ndarray[Any, np.dtype[Any]]
D = TypeVar("D", bound="ImageSet")  # data set
B = TypeVar("B")  # batch
R = TypeVar("R", bound="Result")  # of one image
M = TypeVar("M", bound="Score")  # of a data set

TOP_K = 5  # classes of an image, as in Darknet's output and ImageNet's second score


class ImageSet(Protocol):
    """What is asked of every data set."""

    @property
    def root(self) -> Path: ...

    @property
    def split(self) -> str: ...

    @property
    def names(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def path(self, index: int, /) -> str: ...

    def source(self, index: int, /) -> str | Array: ...

    def label_paths(self) -> Iterable[str]: ...


class Result(Protocol):
    """What a task answers for one image."""

    @property
    def path(self) -> str: ...

    @property
    def size(self) -> tuple[int, int]: ...

    @property
    def image(self) -> Array | None: ...

    def draw(self, image: Array | None = None) -> Array: ...


class Score(Protocol):
    """The metrics of a data set."""

    @property
    def summary(self) -> dict[str, float]: ...

    @property
    def quality(self) -> float: ...

    @property
    def headline(self) -> str: ...


@dataclass(frozen=True, slots=True)
class PostprocessArgs:
    """Which of a network's answers to keep; each task uses its own.

    Attributes:
        threshold: Lowest score, in [0, 1].
        nms: Non-maximum suppression.
        labels: Classes to keep; None for all.
        top_k: Classes of an image.
    """

    threshold: float = 0.0
    nms: NMSConfig = field(default_factory=NMSConfig)
    labels: tuple[int, ...] | None = None
    top_k: int = TOP_K


class RawOutputs(NamedTuple):
    """What the network returns for a batch: `tensors` as in `Detector` or `Classifier`, from canvases of `canvas`
    (height, width) px."""

    tensors: tuple[Tensor, ...]
    canvas: tuple[int, int]


class Examples(ABC):
    """Small panels of some images of an evaluation, made while their pixels are in memory."""

    limit: int  # panels

    def __init__(self) -> None:
        self.panels: dict[int, tuple[float, Array]] = {}  # index of an image -> its rank, lower first, and its panel
        self._lock = Lock()

    @abstractmethod
    def wants(self, index: int) -> bool:
        """Whether the pixels of image `index` may be needed."""

    @abstractmethod
    def rank(self, index: int, result: Any) -> float | None:
        """Which images come first, the lowest; None for those that are not shown."""

    @abstractmethod
    def draw(self, index: int, result: Any) -> Array:
        """The panel, uint8 RGB. `result.image` holds the pixels."""

    def add(self, index: int, result: Any) -> None:
        """Draw the image where it is among the first so far. Threads may call this at the same time."""
        rank = self.rank(index, result)
        if rank is None:
            return
        with self._lock:
            last = max((rank, index) for index, (rank, _) in self.panels.items()) if self.panels else (0.0, 0)
            if len(self.panels) < self.limit or (rank, index) < last:
                self.merge({index: (rank, self.draw(index, result))})

    def merge(self, panels: Mapping[int, tuple[float, Array]]) -> None:
        """Take the panels of another process, and keep the first `limit`."""
        found = {**self.panels, **panels}
        first = sorted(found, key=lambda index: (found[index][0], index))[: self.limit]
        self.panels = {index: found[index] for index in first}


class Task(ABC, Generic[D, B, R, M]):
    """What differs between detectors and classifiers: data set, batch, postprocessing, output, metrics, graph."""

    title: ClassVar[str]  # with its article, for messages
    measure: ClassVar[str]  # the metric that training maximizes
    options: ClassVar[frozenset[str]]  # of the call of a predictor and of the command line, that have a meaning here
    results_file: ClassVar[str]  # JSON of `predict`
    results_key: ClassVar[str]  # in a row of it
    graph_outputs: ClassVar[tuple[str, ...]]  # of a complete graph
    report_files: ClassVar[tuple[str, ...]]  # of an evaluation
    dataset_type: ClassVar[type]

    # Data

    @abstractmethod
    def open(self, root: str | Path, split: str, config: DataConfig) -> D:
        """A split with its labels. Raises InputError where it cannot be read, or has labels of another task."""

    @abstractmethod
    def open_images(self, root: str | Path, split: str, config: DataConfig) -> D:
        """A split whose labels are not used, and need not be there where the layout allows it."""

    @abstractmethod
    def check(self, training: D, validation: D) -> Report:
        """Faults of both and between them."""

    @abstractmethod
    def select(self, training: D, validation: D, report: Report, recipe: Recipe) -> tuple[D, D, list[str]]:
        """What is trained and validated on, without the faulty rows of `report`, and a line for each row left out."""

    @abstractmethod
    def fingerprint(self, dataset: D, recipe: Recipe) -> str:
        """Changes when images or labels do; how closely images are looked at, `data.fingerprint` says."""

    @abstractmethod
    def loader(self, dataset: D, recipe: Recipe, rank: int, world: int) -> Any:
        """Batches for training, an `EpochLoader[B]`. Raises InputError when the images do not fill one."""

    @abstractmethod
    def augment(self, batch: B, recipe: Recipe, epoch: int, number: int, rank: int) -> B:
        """A loaded batch, on its device, randomly changed. number: of this process's batches, from 0."""

    @abstractmethod
    def draw_sample(self, dataset: D, index: int) -> Array:
        """The image with its labels, uint8 RGB (h, w, 3)."""

    # Prediction

    @abstractmethod
    def args(
        self,
        recipe: Recipe,
        threshold: float | None = None,
        iou: float | None = None,
        classes: Sequence[str | int] | None = None,
        top_k: int | None = None,
    ) -> PostprocessArgs:
        """The recipe's settings with the given ones in their place. Raises InputError for a wrong one."""

    @abstractmethod
    def postprocess(
        self, model: nn.Module, raw: RawOutputs, frames: Sequence[Frame], args: PostprocessArgs, recipe: Recipe
    ) -> list[R]:
        """Raw outputs -> the result of each image, on the CPU."""

    @abstractmethod
    def read_outputs(
        self, outputs: Sequence[Tensor], frames: Sequence[Frame], args: PostprocessArgs, inside: Recipe
    ) -> list[R]:
        """`graph_outputs` of a complete file, made with the recipe `inside` -> the result of each image."""

    @abstractmethod
    def check_inside(self, args: PostprocessArgs, inside: Recipe) -> None:
        """InputError where `args` ask for what a complete file, made with the recipe `inside`, has left out."""

    @abstractmethod
    def settings(self, recipe: Recipe, args: PostprocessArgs) -> dict[str, Any]:
        """What the head of `results_file` says."""

    @abstractmethod
    def rows(self, result: R) -> list[dict[str, Any]]:
        """The result in `results_file`."""

    @abstractmethod
    def counted(self, result: R) -> list[str]:
        """The class names that a summary counts."""

    @abstractmethod
    def line(self, result: R) -> str | None:
        """What is printed of each image; None for nothing."""

    # Evaluation

    @abstractmethod
    def scored(self, dataset: D, recipe: Recipe) -> D:
        """The data set as it is scored. Raises InputError for classes the model does not know, and faulty labels."""

    @abstractmethod
    def evaluation_args(self, dataset: D, recipe: Recipe, threshold: float | None = None) -> PostprocessArgs:
        """The settings of an evaluation; threshold: None for the recipe's."""

    @abstractmethod
    def aligned(self, result: R, dataset: D, recipe: Recipe) -> R:
        """The result with labels that count as the data set's."""

    @abstractmethod
    def score(self, dataset: D, results: Sequence[R], info: dict[str, Any], recipe: Recipe, args: PostprocessArgs) -> M:
        """The metrics; info: how they were measured."""

    @abstractmethod
    def examples(self, dataset: D, recipe: Recipe) -> Examples:
        """What is drawn of an evaluation."""

    @abstractmethod
    def write_report(
        self, folder: Path, metrics: M, dataset: D, results: Sequence[R], examples: Examples, recipe: Recipe
    ) -> None:
        """`report_files` into `folder`."""

    # Export

    @abstractmethod
    def graph(self, model: nn.Module, recipe: Recipe) -> nn.Module:
        """images (B, h, w, 3) uint8 RGB of any size -> `graph_outputs`."""

    def check_options(self, recipe: Recipe, given: Mapping[str, object]) -> None:
        """InputError for an option, with or without its dashes, that is given and has no meaning here."""
        wrong = [name for name, value in given.items() if value is not None and name.lstrip("-") not in self.options]
        if wrong:
            raise InputError(f"{', '.join(wrong)}: recipe {recipe.name} is {self.title}, which has none; leave it out")


def fraction(name: str, value: float) -> float:
    """`value` when it lies in [0, 1]; else InputError."""
    if not 0 <= value <= 1:
        raise InputError(f"{name}: found {value}, needed a number from 0 to 1")
    return value


def refuse_inside(what: str) -> NoReturn:
    """InputError for what a complete file has decided."""
    raise InputError(f"{what}; take a file exported with --raw, or export it again with other numbers")
