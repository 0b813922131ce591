"""Image classification.

C classes of the model, K of them after top-k
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, SupportsIndex, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from boxwright import json_text
from boxwright.arrays import Array
from boxwright.batches.class_loader import ClassLoader
from boxwright.batches.class_transforms import augment
from boxwright.batches.repeat_factors import visit_weights
from boxwright.data import fingerprint as fingerprints
from boxwright.data.class_dataset import ClassSet
from boxwright.data.sets import Root
from boxwright.datatools.check import skip_bad
from boxwright.datatools.class_check import check, check_splits
from boxwright.datatools.report import CheckReport, check_all
from boxwright.datatools.val_fraction import open_split
from boxwright.errors import InputError, titled
from boxwright.formats import open_classes
from boxwright.images.draw import add_caption, draw_classes, encode_image, name_of
from boxwright.metrics import class_plots, error_report, plots, topk
from boxwright.metrics import sheet as sheet_of
from boxwright.metrics.resampling import Resampled
from boxwright.metrics.sheet import Panel, View
from boxwright.metrics.topk import TopK
from boxwright.recipe import CanvasConfig, DataConfig, Recipe
from boxwright.tasks.base import (
    TOP_K,
    Examples,
    PostprocessArgs,
    RawOutputs,
    Task,
    pixels_of,
    reject_inside,
    with_class_weights,
)
from boxwright.tasks.graph_canvas import on_canvas
from boxwright.types import ClassBatch, Classes, Classifier, Frame

MAX_MISTAKES = 24  # images
DRAWN_SIZE = (320, 320)  # px: maximum width, height of an image drawn with its label


@dataclass(frozen=True, slots=True, eq=False)
class ClassPrediction(Classes):
    """The top-k classes of one image. Notebooks display the image with them.

    Attributes:
        path: The image file; "" for other images.
        size: (height, width) px of the image.
        image: The pixels, uint8 RGB (h, w, 3); None for a file, which is read again for drawing.
    """

    path: str = ""
    size: tuple[int, int] = (0, 0)
    image: Array | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        """Names and scores: `malamute 0.35, husky 0.21, ...`"""
        return ", ".join(f"{name} {score:.2f}" for name, score in zip(self.class_names, self.scores, strict=True))

    def draw(self, image: Array | None = None) -> Array:
        """Draw the classes on the image, or on `image`, uint8 RGB (h, w, 3)."""
        return draw_classes(pixels_of(self, image), self)

    def _repr_png_(self) -> bytes:
        """The drawn image as PNG, for notebooks."""
        return encode_image(self.draw(), ".png")


class Classify(Task[ClassSet, ClassBatch, ClassPrediction, TopK]):
    """The task of classifiers; see `Task`."""

    title = "a classifier"
    measure = "top-1"
    options = frozenset({"top_k", "top-k"})
    results_file = "classes.json"
    results_key = "classes"
    graph_outputs = ("scores", "labels")
    report_files = (
        "metrics.json", "predictions.json", "confusion.png", "errors.json", "errors.png", "mistakes.jpg", "curves.png",
    )  # fmt: skip
    dataset_type: ClassVar[type] = ClassSet

    def open(self, root: Root, split: str, config: DataConfig) -> ClassSet:
        return open_split(lambda name: open_classes(root, name, config.kind), root, split, config)

    def open_images(self, root: Root, split: str, config: DataConfig) -> ClassSet:
        return open_classes(root, split, config.kind)  # where folders are classes, images have labels

    def check(self, *datasets: ClassSet, rgb: bool = True) -> CheckReport:
        return check_all(CheckReport(unit="classes"), datasets, check, check_splits)

    def select(
        self, training: ClassSet, validation: ClassSet | None, report: CheckReport, recipe: Recipe
    ) -> tuple[ClassSet, ClassSet | None, list[str]]:
        """Labels follow the recipe's order if it has the same classes, so initial weights keep their labels.

        Raises InputError if a class has no image left.
        """
        train, val = skip_bad(training, report), None if validation is None else skip_bad(validation, report)
        empty = np.flatnonzero((training.counts() > 0) & (train.counts() == 0)).tolist()
        if empty:
            raise InputError(
                f"{training.root}: class {training.names[empty[0]]} has no image left in {training.split} when the "
                f"faulty ones are skipped ({len(empty)} such classes), needed some to train on; repair its images, or "
                "remove the class from all splits"
            )
        names = recipe.data.names if set(recipe.data.names) == set(train.names) else train.names
        return train.ordered(names), None if val is None else val.ordered(names), report.left_out()

    def fingerprint(self, dataset: ClassSet, recipe: Recipe) -> str:
        columns = [dataset.labels, *([] if dataset.members is None else [dataset.members.weights()])]
        if dataset.pixels is not None:  # all images are in memory
            return fingerprints.fingerprint([*columns, dataset.pixels], dataset.names, [], recipe.data.fingerprint)
        paths = [dataset.path(index) for index in range(len(dataset))]
        return fingerprints.fingerprint(columns, dataset.names, paths, recipe.data.fingerprint)

    def loader(self, dataset: ClassSet, recipe: Recipe, rank: int, world: int) -> ClassLoader:
        config, images = recipe.train, np.arange(len(dataset))
        return ClassLoader(
            dataset,
            training_canvas(recipe),
            config.batch_size,
            augment=config.class_augment,
            seed=config.seed,
            rank=rank,
            world=world,
            workers=recipe.data.workers,
            accumulate=config.accumulate,
            weights=visit_weights(images, dataset.labels, len(dataset), config.repeat_threshold, dataset.members),
        )

    def augment(self, batch: ClassBatch, recipe: Recipe, epoch: int, number: int, rank: int) -> ClassBatch:
        config = recipe.train
        step, index = config.place(number, rank)
        augmented = augment(
            batch, config.class_augment, canvas=recipe.data.canvas, seed=config.seed, step=step, rank=index
        )
        return with_class_weights(augmented, recipe)

    def draw_sample(self, dataset: ClassSet, index: int, image: Array | None = None) -> Array:
        sample = dataset[index]
        pixels = sample.image() if image is None else image
        return add_caption(pixels, DRAWN_SIZE, [dataset.names[sample.label], Path(sample.path).name])

    def args(
        self,
        recipe: Recipe,
        threshold: float | None = None,
        iou: float | None = None,
        classes: Sequence[str | int] | None = None,
        top_k: int | None = None,
    ) -> PostprocessArgs:
        self.check_options(recipe, {"threshold": threshold, "iou": iou, "classes": classes})
        if top_k is not None and not (isinstance(top_k, SupportsIndex) and top_k >= 1):
            raise InputError(f"top_k: found {top_k!r}, needed an integer of at least 1")
        return PostprocessArgs(top_k=TOP_K if top_k is None else top_k)

    def postprocess(
        self, model: nn.Module, raw: RawOutputs, frames: Sequence[Frame], args: PostprocessArgs, recipe: Recipe
    ) -> list[ClassPrediction]:
        with torch.inference_mode():
            decoded = cast(Classifier, model).decode(divided(raw.tensors, recipe), args.top_k)
        return [_prediction(classes.to("cpu"), frame, recipe) for classes, frame in zip(decoded, frames, strict=True)]

    def read_outputs(
        self, outputs: Sequence[Tensor], frames: Sequence[Frame], args: PostprocessArgs, recipe: Recipe
    ) -> list[ClassPrediction]:
        scores, labels = outputs
        decoded = map(Classes, scores[:, : args.top_k], labels[:, : args.top_k])
        return [_prediction(classes, frame, recipe) for classes, frame in zip(decoded, frames, strict=True)]

    def check_inside(self, args: PostprocessArgs, inside: Recipe) -> None:
        classes = inside.model.classes
        if args.top_k > TOP_K < classes:
            reject_inside(f"top_k: found {args.top_k}, the file has {TOP_K} inside")

    def settings(self, recipe: Recipe, args: PostprocessArgs) -> dict[str, object]:
        return {"recipe": recipe.name, "names": list(recipe.data.names)}

    def rows(self, result: ClassPrediction) -> list[dict[str, object]]:
        columns = zip(result.labels.tolist(), result.class_names, result.scores.tolist(), strict=True)
        return [{"label": label, "name": name, "score": score} for label, name, score in columns]

    def class_names(self, result: ClassPrediction) -> list[str]:
        return result.class_names[:1]

    def line(self, result: ClassPrediction) -> str:
        return f"{result.path}: {result}"

    def to_score(self, dataset: ClassSet, recipe: Recipe) -> ClassSet:
        """The data set with the model's classes. If the recipe has no class names, the first classes take the data
        set's names, and the remaining ones are numbered."""
        if recipe.data.names:
            return dataset.ordered(recipe.data.names)
        classes, names = recipe.model.classes, dataset.names
        if len(names) > classes:
            raise InputError(
                f"{dataset.root}: holds {len(names)} classes, the model has {classes}; take another recipe"
            )
        return dataset.ordered((*names, *map(str, range(len(names), classes))))

    def evaluation_args(self, dataset: ClassSet, recipe: Recipe, threshold: float | None = None) -> PostprocessArgs:
        return self.args(recipe, threshold, top_k=topk.MAX_K)

    def with_dataset_labels(self, result: ClassPrediction, dataset: ClassSet, recipe: Recipe) -> ClassPrediction:
        return replace(result, names=dataset.names)

    def score(
        self,
        dataset: ClassSet,
        results: Sequence[ClassPrediction],
        info: dict[str, object],
        recipe: Recipe,
        args: PostprocessArgs,
        groups: NDArray[np.int64] | None = None,
    ) -> TopK:
        return topk.score(dataset.labels, results, dataset.names, info, groups)

    def resample(
        self, dataset: ClassSet, results: Sequence[ClassPrediction], weights: NDArray[np.float32]
    ) -> Resampled:
        return topk.resample(dataset.labels, results, dataset.names, weights)

    def examples(self, dataset: ClassSet, recipe: Recipe) -> Examples:
        return _Mistakes(dataset)

    def write_report(
        self,
        folder: Path,
        metrics: TopK,
        dataset: ClassSet,
        results: Sequence[ClassPrediction],
        examples: Examples,
        recipe: Recipe,
    ) -> None:
        json_text.write(folder / "metrics.json", metrics.to_json(), indent=1)
        rows = [
            {
                "file": titled(dataset.path(i)),
                "label": label,
                "best": result.labels.tolist(),
                "scores": result.scores.tolist(),
            }
            for i, (label, result) in enumerate(zip(dataset.labels.tolist(), results, strict=True))
        ]
        json_text.write(folder / "predictions.json", {"names": list(dataset.names), "images": rows})
        class_plots.confusion(metrics, dataset.names, folder / "confusion.png")
        best = torch.stack([result.labels[0] for result in results]).numpy()
        scores = torch.stack([result.scores[0] for result in results]).double().numpy()
        error_report.write_calibration(folder, scores, best == dataset.labels)
        sheet_of.write(examples.of_sheet("mistakes.jpg"), folder / "mistakes.jpg")
        title = "right on the validation images"
        plots.curves(folder / "log.jsonl", folder / "curves.png", ("top1", "top5"), title)

    def graph(self, model: nn.Module, recipe: Recipe) -> nn.Module:
        return ClassifyGraph(model, recipe)


class ClassifyGraph(nn.Module):
    """A classifier's complete graph.

    images (B, h, w, 3) uint8 -> scores (B, K) float32 in [0, 1], labels (B, K), best first; K = min(TOP_K, C).
    """

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        super().__init__()
        self.model = model
        self.canvas = recipe.data.canvas
        self.recipe = recipe

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        canvases, _ = on_canvas(images, self.canvas)
        return cast(Classifier, self.model).topk(divided(self.model(canvases / 255), self.recipe), TOP_K)


class _Mistakes(Examples):
    """Misclassified images, the highest score first."""

    limits: ClassVar[Mapping[str, int]] = {"mistakes.jpg": MAX_MISTAKES}

    def __init__(self, dataset: ClassSet) -> None:
        super().__init__()
        self.dataset = dataset

    def wants(self, index: int) -> bool:
        return True

    def ranks(self, index: int, result: ClassPrediction) -> Mapping[str, float]:
        is_right = int(result.labels[0]) == self.dataset.labels[index]
        return {} if is_right else {"mistakes.jpg": -float(result.scores[0])}

    def panel(self, sheet: str, index: int, result: ClassPrediction) -> Panel:
        assert result.image is not None
        names, label = self.dataset.names, int(self.dataset.labels[index])
        text = f"{float(result.scores[0]):.2f} taken for {name_of(names, int(result.labels[0]))}"
        image, _ = sheet_of.fitted(result.image)
        return Panel(image, (View("", np.zeros((0, 4))),), (name_of(names, label), text))


def divided(raw: tuple[Tensor, ...], recipe: Recipe) -> tuple[Tensor, ...]:
    """The logits divided by the temperature."""
    temperatures = recipe.predict.temperatures
    return (raw[0] / temperatures[0],) if temperatures else raw


def training_canvas(recipe: Recipe) -> CanvasConfig:
    """The canvas of the loader. Images are stretched, since augmentation crops the network's input from the canvas and
    takes the aspect ratio into account. With `area`, the loader itself takes a random crop that fills the canvas."""
    canvas, config = recipe.data.canvas, recipe.train.class_augment
    height, width = canvas.size
    size = canvas.size if config.area else config.canvas or (height * 5 // 4, width * 5 // 4)
    return canvas.model_copy(update={"size": size, "fit": "stretch", "resize": "linear"})


def _prediction(classes: Classes, frame: Frame, recipe: Recipe) -> ClassPrediction:
    return ClassPrediction(classes.scores, classes.labels, recipe.data.names, frame.path, frame.size)


TASK = Classify()
