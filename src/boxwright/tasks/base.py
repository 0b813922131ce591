"""The interface of a task."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar, Generic, NamedTuple, NoReturn, Protocol, SupportsFloat, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from boxwright.arrays import Array
from boxwright.batches.warp import to_device
from boxwright.data.class_map import no_such_class
from boxwright.data.sets import Root
from boxwright.datatools.report import CheckReport
from boxwright.errors import InputError
from boxwright.images.decode import read_image
from boxwright.json_text import JsonObject
from boxwright.metrics.resampling import Intervals, Resampled
from boxwright.metrics.sheet import Panel
from boxwright.recipe import DataConfig, NMSConfig, Recipe
from boxwright.types import Batch, ClassBatch, Frame

D = TypeVar("D", bound="ImageSet")  # data set
B = TypeVar("B")  # batch
W = TypeVar("W", Batch, ClassBatch)
R = TypeVar("R", bound="Result")  # result of one image
M = TypeVar("M", bound="Score")  # metrics of a data set

TOP_K = 5  # classes per image, as in Darknet's output and ImageNet's top-5


class ImageSet(Protocol):
    """The interface of all data sets."""

    @property
    def root(self) -> Path: ...

    @property
    def split(self) -> str: ...

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def path(self, index: int, /) -> str: ...

    def source(self, index: int, /) -> str | Array: ...

    def label_paths(self) -> Iterable[str]: ...

    def folders(self) -> set[str]: ...


class Result(Protocol):
    """The prediction for one image."""

    @property
    def path(self) -> str: ...

    @property
    def size(self) -> tuple[int, int]: ...

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def image(self) -> Array | None: ...

    def draw(self, image: Array | None = None) -> Array: ...


def with_image(result: R, image: Array | None) -> R:
    """A copy of the result with other pixels, uint8 (h, w, C), or without pixels."""
    return replace(result, image=image)  # type: ignore[type-var]


class Score(Protocol):
    """The metrics of a data set."""

    @property
    def summary(self) -> dict[str, float]: ...

    @property
    def quality(self) -> float: ...

    @property
    def headline(self) -> str: ...

    @property
    def intervals(self) -> Intervals | None: ...


@dataclass(frozen=True, slots=True)
class PostprocessArgs:
    """Arguments of postprocessing; a task ignores those of other tasks.

    Attributes:
        threshold: Minimum score, in [0, 1].
        before_calibration: Whether the threshold is for the network's scores before `predict.temperatures`; a complete
            file outputs only scores after them.
        nms: Non-maximum suppression.
        labels: Classes to keep; None for all.
        top_k: Classes per image.
    """

    threshold: float = 0.0
    nms: NMSConfig = field(default_factory=NMSConfig)
    labels: tuple[int, ...] | None = None
    top_k: int = TOP_K
    before_calibration: bool = False


class RawOutputs(NamedTuple):
    """The outputs of a network for a batch.

    Attributes:
        tensors: Raw outputs as in `Detector` or `Classifier`.
        canvas: (height, width) px of the canvases.
    """

    tensors: tuple[Tensor, ...]
    canvas: tuple[int, int]


class Examples(ABC):
    """Images for the sheets of an evaluation, collected while their pixels are in memory, and statistics of pixels.

    Attributes:
        limits: Maximum number of panels of each sheet.
        panels: Sheet -> image index -> rank and panel; the lowest ranks are kept.
        looks: Image index -> `slices.appearance`, if the task needs it.
    """

    limits: ClassVar[Mapping[str, int]]

    def __init__(self) -> None:
        self.panels: dict[str, dict[int, tuple[float, Panel]]] = {sheet: {} for sheet in self.limits}
        self.looks: dict[int, tuple[float, float]] = {}
        self._lock = Lock()

    @abstractmethod
    def wants(self, index: int) -> bool:
        """Whether the pixels of image `index` must be kept for `add`."""

    @abstractmethod
    def ranks(self, index: int, result: Any) -> Mapping[str, float]:
        """The rank of an image on each sheet that may show it; the lowest ranks are shown."""

    @abstractmethod
    def panel(self, sheet: str, index: int, result: Any) -> Panel:
        """The panel of an image on a sheet. `result.image` contains the pixels."""

    def add(self, index: int, result: Any) -> None:
        """Keep the image for each sheet on which it ranks among the first so far. Thread-safe."""
        for sheet, rank in self.ranks(index, result).items():
            with self._lock:
                shown = [(rank, index) for index, (rank, _) in self.panels[sheet].items()]
                wanted = len(shown) < self.limits[sheet] or (rank, index) < max(shown)
            if wanted:
                panel = self.panel(sheet, index, result)
                with self._lock:
                    self.merge({sheet: {index: (rank, panel)}}, {})

    def merge(
        self, panels: Mapping[str, Mapping[int, tuple[float, Panel]]], looks: Mapping[int, tuple[float, float]]
    ) -> None:
        """Add panels and looks, for example of another process, and keep the first panels of each sheet."""
        self.looks |= looks
        for sheet, others in panels.items():
            merged = {**self.panels[sheet], **others}
            first = sorted(merged, key=lambda index: (merged[index][0], index))[: self.limits[sheet]]
            self.panels[sheet] = {index: merged[index] for index in first}

    def of_sheet(self, sheet: str) -> list[Panel]:
        """The panels of a sheet in the order of their ranks."""
        return [panel for _, (_, panel) in sorted(self.panels[sheet].items(), key=lambda item: (item[1][0], item[0]))]


class Task(ABC, Generic[D, B, R, M]):
    """Everything that differs between detectors and classifiers: data set, batch, postprocessing, output, metrics,
    graph.

    Attributes:
        title: What the task's models are, with an article, for messages.
        measure: The metric that training maximizes.
        options: Arguments of a predictor's call and command-line options that only this task has.
        results_file: The JSON file of `predict`.
        results_key: The key of an image's results in that file.
        graph_outputs: Outputs of a complete graph.
        report_files: Files of an evaluation.
        dataset_type: The class of its data sets.
    """

    title: ClassVar[str]
    measure: ClassVar[str]
    options: ClassVar[frozenset[str]]
    results_file: ClassVar[str]
    results_key: ClassVar[str]
    graph_outputs: ClassVar[tuple[str, ...]]
    report_files: ClassVar[tuple[str, ...]]
    dataset_type: ClassVar[type]

    # Data

    @abstractmethod
    def open(self, root: Root, split: str, config: DataConfig) -> D:
        """Open a split with its labels; `data.val_fraction` may create it (`datatools/val_fraction.py`).

        Raises InputError if it cannot be read or has labels of another task.
        """

    @abstractmethod
    def open_images(self, root: Root, split: str, config: DataConfig) -> D:
        """Open a split without its labels, which may be missing if the layout allows it."""

    @abstractmethod
    def check(self, *datasets: D, rgb: bool = False) -> CheckReport:
        """Check splits for errors, and against each other. rgb: images are read as RGB, without chosen bands."""

    @abstractmethod
    def select(
        self, training: D, validation: D | None, report: CheckReport, recipe: Recipe
    ) -> tuple[D, D | None, list[str]]:
        """Both splits without the labels and images with errors in `report`, and a line for each one left out."""

    @abstractmethod
    def fingerprint(self, dataset: D, recipe: Recipe) -> str:
        """A hash of images and labels; `data.fingerprint` sets how images are hashed."""

    @abstractmethod
    def loader(self, dataset: D, recipe: Recipe, rank: int, world: int) -> Any:
        """Batches for training, an `EpochLoader[B]`. Raises InputError when the images do not fill one."""

    @abstractmethod
    def augment(self, batch: B, recipe: Recipe, epoch: int, number: int, rank: int) -> B:
        """Augment a batch on its device. number: index of the batch in this process; rank: index of the process."""

    @abstractmethod
    def draw_sample(self, dataset: D, index: int, image: Array | None = None) -> Array:
        """Draw an image with its labels, uint8 RGB (h, w, 3). image: its pixels, likewise; None to read them."""

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
        """The recipe's settings, replaced by arguments that are not None. Raises InputError for an invalid value."""

    @abstractmethod
    def postprocess(
        self, model: nn.Module, raw: RawOutputs, frames: Sequence[Frame], args: PostprocessArgs, recipe: Recipe
    ) -> list[R]:
        """Raw outputs -> the results of the images, on the CPU."""

    @abstractmethod
    def read_outputs(
        self, outputs: Sequence[Tensor], frames: Sequence[Frame], args: PostprocessArgs, recipe: Recipe
    ) -> list[R]:
        """`graph_outputs` of a complete file -> the results of the images, with the class names of the recipe."""

    @abstractmethod
    def check_inside(self, args: PostprocessArgs, inside: Recipe) -> None:
        """Raise InputError if `args` need what a complete file, exported with the recipe `inside`, cannot do."""

    @abstractmethod
    def settings(self, recipe: Recipe, args: PostprocessArgs) -> JsonObject:
        """The settings at the top of `results_file`."""

    @abstractmethod
    def rows(self, result: R) -> list[JsonObject]:
        """The result as rows of `results_file`."""

    @abstractmethod
    def class_names(self, result: R) -> list[str]:
        """The class names to count in a summary."""

    @abstractmethod
    def line(self, result: R) -> str | None:
        """The line to print for an image; None to print nothing."""

    # Evaluation

    @abstractmethod
    def to_score(self, dataset: D, recipe: Recipe) -> D:
        """The data set to score. Raises InputError for classes that the model does not have, and for invalid labels."""

    @abstractmethod
    def evaluation_args(self, dataset: D, recipe: Recipe, threshold: float | None = None) -> PostprocessArgs:
        """The arguments of an evaluation; threshold: None for the recipe's."""

    @abstractmethod
    def with_dataset_labels(self, result: R, dataset: D, recipe: Recipe) -> R:
        """The result with the data set's labels and names."""

    @abstractmethod
    def score(
        self,
        dataset: D,
        results: Sequence[R],
        info: JsonObject,
        recipe: Recipe,
        args: PostprocessArgs,
        groups: NDArray[np.int64] | None = None,
    ) -> M:
        """Compute the metrics. info: settings to store with them. groups: (N,) group of each image, for intervals;
        None for no intervals."""

    @abstractmethod
    def resample(self, dataset: D, results: Sequence[R], weights: NDArray[np.float32]) -> Resampled:
        """The metrics of resampled images; weights: as `metrics.resampling.draw_weights`."""

    @abstractmethod
    def examples(self, dataset: D, recipe: Recipe) -> Examples:
        """An empty collection of drawings for an evaluation."""

    @abstractmethod
    def write_report(
        self, folder: Path, metrics: M, dataset: D, results: Sequence[R], examples: Examples, recipe: Recipe
    ) -> None:
        """Write `report_files` into `folder`."""

    # Export

    @abstractmethod
    def graph(self, model: nn.Module, recipe: Recipe) -> nn.Module:
        """A module from images (B, h, w, 3) uint8 RGB of any size to `graph_outputs`."""

    def check_options(self, recipe: Recipe, given: Mapping[str, object]) -> None:
        """Raise InputError for an option, with or without its dashes, that is given but that this task lacks."""
        wrong = [name for name, value in given.items() if value is not None and name.lstrip("-") not in self.options]
        if wrong:
            raise InputError(f"{', '.join(wrong)}: recipe {recipe.name} is {self.title}, which has none; leave it out")


AnyTask = Task[Any, Any, Any, Any]


def pixels_of(result: Result, image: Array | None) -> Array:
    """The pixels to draw on: `image`, the result's own, or those of its file. Raises InputError if there are none."""
    if image is not None:
        return image
    if result.image is None and not result.path:
        raise InputError("draw: the result has neither pixels nor a file; give the image")
    return read_image(result.path) if result.image is None else result.image


def with_class_weights(batch: W, recipe: Recipe) -> W:
    """The batch with `train.class_weights`, if there are any, on the device of its images."""
    weights = class_weights(recipe)
    if weights is None:
        return batch
    (column,) = to_device([weights], batch.images.device)
    return replace(batch, class_weights=column)


def class_weights(recipe: Recipe) -> Array | None:
    """(C,) `train.class_weights` in the order of the labels; None if there are none.

    Raises InputError for a class that the data does not have.
    """
    weights, names = recipe.train.class_weights, recipe.data.names
    if unknown := [name for name in weights if name not in names]:
        raise InputError(f"train.class_weights: {no_such_class(unknown[0], names)}")
    return np.array([weights.get(name, 1.0) for name in names], np.float32) if weights else None


def fraction(name: str, value: float) -> float:
    """Return `value`. Raises InputError if it is not in [0, 1], or no number."""
    if not isinstance(value, SupportsFloat):
        raise InputError(f"{name}: found {type(value).__name__}, needed a number from 0 to 1")
    if not 0 <= value <= 1:
        raise InputError(f"{name}: found {value}, needed a number from 0 to 1")
    return value


def reject_inside(what: str) -> NoReturn:
    """Raise InputError for a setting that is fixed inside a complete file."""
    raise InputError(f"{what}; take a file exported with --raw, or export it again with other numbers")
