"""Object detection.

K classes of the model
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from boxwright.arrays import Array
from boxwright.batches.loader import Loader
from boxwright.batches.repeat_factors import visit_weights
from boxwright.batches.transforms import augment, step_size
from boxwright.data import fingerprint as fingerprints
from boxwright.data.dataset import ANY_CLASS, Dataset
from boxwright.data.sets import Root
from boxwright.datatools.check import check, check_splits, skip_bad
from boxwright.datatools.report import CheckReport, check_all
from boxwright.datatools.val_fraction import open_split
from boxwright.errors import InputError
from boxwright.formats import open_boxes, open_images
from boxwright.images.bands import Bands
from boxwright.images.decode import read_image
from boxwright.images.draw import color, draw, draw_boxes, encode_image
from boxwright.interop import to_dict
from boxwright.json_text import JsonObject
from boxwright.metrics import coco
from boxwright.metrics.coco import Metrics
from boxwright.metrics.resampling import Resampled
from boxwright.ops.boxes import clip
from boxwright.ops.nms import suppress
from boxwright.ops.temperature import lowest_before, scale
from boxwright.recipe import CanvasConfig, DataConfig, Recipe
from boxwright.tasks.base import (
    Examples,
    PostprocessArgs,
    RawOutputs,
    Task,
    fraction,
    pixels_of,
    reject_inside,
    with_class_weights,
)
from boxwright.tasks.detect_graph import DetectGraph
from boxwright.tasks.detect_report import FILES as REPORT_FILES
from boxwright.tasks.detect_report import DetectionExamples, write_report
from boxwright.types import Batch, Detections, Detector, Frame


@dataclass(frozen=True, slots=True, eq=False)
class Prediction(Detections):
    """The detections of one image: boxes in px of the image, clipped to it, best first. Notebooks display the image.

    Attributes:
        path: The image file; "" for other images.
        size: (height, width) px of the image.
        image: The pixels, uint8 RGB (h, w, 3); None for a file, which is read again for drawing.
    """

    path: str = ""
    size: tuple[int, int] = (0, 0)
    image: Array | None = field(default=None, repr=False, compare=False)

    def draw(self, image: Array | None = None) -> Array:
        """Draw boxes and class names on the image, or on `image`, uint8 RGB (h, w, 3).

        Raises InputError without pixels to draw on.
        """
        return draw(pixels_of(self, image), self)

    def _repr_png_(self) -> bytes:
        """The drawn image as PNG, for notebooks."""
        return encode_image(self.draw(), ".png")


class Detect(Task[Dataset, Batch, Prediction, Metrics]):
    """The task of detectors; see `Task`."""

    title = "a detector"
    measure = "AP"
    options = frozenset(
        {"threshold", "iou", "nms", "classes", "tile", "scenes", "no-truth", "as", "shard", "ray", "track"}
    )
    results_file = "detections.json"
    results_key = "detections"
    graph_outputs = ("boxes", "scores", "labels")
    report_files = REPORT_FILES
    dataset_type: ClassVar[type] = Dataset

    def open(self, root: Root, split: str, config: DataConfig) -> Dataset:
        def opened(name: str) -> Dataset:
            return open_boxes(root, name, config.kind, config.cache).without_group()

        return open_split(opened, root, split, config)

    def open_images(self, root: Root, split: str, config: DataConfig) -> Dataset:
        return open_images(root, split, config.kind)

    def check(self, *datasets: Dataset, rgb: bool = False) -> CheckReport:
        return check_all(CheckReport(), datasets, partial(check, rgb=rgb), check_splits)

    def select(
        self, training: Dataset, validation: Dataset | None, report: CheckReport, recipe: Recipe
    ) -> tuple[Dataset, Dataset | None, list[str]]:
        train, lines = cap_boxes(skip_bad(training, report), recipe.data.max_boxes)
        return train, None if validation is None else skip_bad(validation, report), report.left_out() + lines

    def fingerprint(self, dataset: Dataset, recipe: Recipe) -> str:
        rows = dataset.rows
        columns = [dataset.images.ids, dataset.starts, rows.xyxy, rows.labels, rows.crowd, rows.areas]
        columns += [] if dataset.images.labeled is None else [dataset.images.labeled]
        columns += [] if dataset.members is None else [dataset.members.weights()]
        return fingerprints.fingerprint(columns, dataset.names, dataset.paths(), recipe.data.fingerprint)

    def loader(self, dataset: Dataset, recipe: Recipe, rank: int, world: int) -> Loader:
        config, rows = recipe.train, dataset.rows
        objects = (rows.labels >= 0) & ~rows.crowd
        images, labels = dataset.image_indices()[objects], rows.labels[objects]
        return Loader(
            dataset,
            training_canvas(recipe),
            config.batch_size,
            seed=config.seed,
            rank=rank,
            world=world,
            workers=recipe.data.workers,
            bands=Bands.of(recipe.data),
            accumulate=config.accumulate,
            weights=visit_weights(images, labels, len(dataset), config.repeat_threshold, dataset.members),
        )

    def augment(self, batch: Batch, recipe: Recipe, epoch: int, number: int, rank: int) -> Batch:
        config = recipe.train
        step, index = config.place(number, rank)
        augmented = augment(
            batch,
            config.augment,
            size=step_size(config.augment, recipe.data.canvas.size, config.seed, step),
            seed=config.seed,
            step=step,
            rank=index,
            seen=(number + 1) * config.process_count * len(batch.images),
            mosaic=epoch < config.epoch_count - config.augment.close_mosaic,
            fill=recipe.data.canvas.fill,
        )
        return with_class_weights(augmented, recipe)

    def draw_sample(self, dataset: Dataset, index: int, image: Array | None = None) -> Array:
        sample = dataset[index]
        flags = zip(sample.labels.tolist(), sample.crowd.tolist(), sample.difficult.tolist(), strict=True)
        names = {-1: "unknown category", ANY_CLASS: "ignore region"} | dict(enumerate(dataset.names))
        texts = [
            names[label] + (" (crowd)" if crowd and label != ANY_CLASS else "") + (" (difficult)" if difficult else "")
            for label, crowd, difficult in flags
        ]
        pixels = read_image(sample.path) if image is None else image
        return draw_boxes(pixels, sample.boxes, list(map(color, sample.labels.tolist())), texts)

    def args(
        self,
        recipe: Recipe,
        threshold: float | None = None,
        iou: float | None = None,
        classes: Sequence[str | int] | None = None,
        top_k: int | None = None,
    ) -> PostprocessArgs:
        self.check_options(recipe, {"top_k": top_k})
        config = recipe.predict
        threshold = config.threshold if threshold is None else fraction("threshold", threshold)
        nms = config.nms
        if iou is not None:
            if nms.kind == "soft":
                raise InputError("iou: NMS of kind soft has none; set its sigma in the recipe")
            nms = nms.model_copy(update={"iou": fraction("iou", iou)})
        return PostprocessArgs(threshold, nms, None if classes is None else labels_of(classes, recipe))

    def postprocess(
        self, model: nn.Module, raw: RawOutputs, frames: Sequence[Frame], args: PostprocessArgs, recipe: Recipe
    ) -> list[Prediction]:
        """Boxes are clipped by `nms.clip` before NMS, and to the image after it; empty boxes are dropped.

        Temperatures are applied last: they keep the order within a class, so NMS has the same result.
        """
        temperatures = recipe.predict.temperatures
        lowest = args.threshold if args.before_calibration else lowest_before(args.threshold, temperatures)
        with torch.inference_mode():
            decoded = cast(Detector, model).decode(raw.tensors, lowest)
        if args.nms.clip == "canvas":
            decoded = [replace(result, boxes=clip(result.boxes, raw.canvas)) for result in decoded]
        decoded = [
            replace(result, boxes=frame.to_original(result.boxes))
            for result, frame in zip(decoded, frames, strict=True)
        ]
        if args.nms.clip == "image":
            decoded = [clipped(result, frame.size) for result, frame in zip(decoded, frames, strict=True)]
        if args.labels is not None:
            decoded = [result[torch.isin(result.labels, result.labels.new_tensor(args.labels))] for result in decoded]
        kept = suppress(decoded, args.nms, [frame.size for frame in frames], lowest)
        if temperatures:
            least = 0.0 if args.before_calibration else args.threshold
            kept = [calibrated(result, temperatures, least) for result in kept]
        return [
            _prediction(clipped(result, frame.size).to("cpu"), frame, recipe)
            for result, frame in zip(kept, frames, strict=True)
        ]

    def read_outputs(
        self, outputs: Sequence[Tensor], frames: Sequence[Frame], args: PostprocessArgs, recipe: Recipe
    ) -> list[Prediction]:
        results = []
        for boxes, scores, labels, frame in zip(*outputs, frames, strict=True):
            kept = (labels >= 0) & (scores >= args.threshold)
            if args.labels is not None:
                kept &= torch.isin(labels, labels.new_tensor(args.labels))
            results.append(_prediction(Detections(boxes[kept], scores[kept], labels[kept]), frame, recipe))
        return results

    def check_inside(self, args: PostprocessArgs, inside: Recipe) -> None:
        config = inside.predict
        if args.threshold < config.threshold:
            reject_inside(f"threshold: found {args.threshold}, the file has {config.threshold} inside")
        if args.nms != config.nms:
            reject_inside(f"nms: found {args.nms.kind} at {args.nms.iou}, it is inside the file")

    def settings(self, recipe: Recipe, args: PostprocessArgs) -> JsonObject:
        names = recipe.data.names
        labels = None if args.labels is None else [names[label] if names else str(label) for label in args.labels]
        return {
            "recipe": recipe.name,
            "threshold": args.threshold,
            "iou": args.nms.iou,
            "classes": labels,
            "names": list(names),
        }

    def rows(self, result: Prediction) -> list[JsonObject]:
        return to_dict(result)

    def class_names(self, result: Prediction) -> list[str]:
        return result.class_names

    def line(self, result: Prediction) -> None:
        return None

    def to_score(self, dataset: Dataset, recipe: Recipe) -> Dataset:
        rows = dataset.rows
        faulty = np.flatnonzero(((rows.labels < 0) & ~rows.ignored) | ~np.isfinite(rows.xyxy).all(1))
        if faulty.size:
            path = dataset.path(int(dataset.image_indices()[faulty[0]]))
            raise InputError(
                f"{path}: a label of unknown category or a box that is not finite; "
                f"see `boxwright data check {dataset.root}`"
            )
        if unread := [each for each in dataset.findings if each.index is not None and each.level == "error"]:
            raise InputError(f"{dataset.root}: {unread[0].brief(dataset.root)}; list all with `boxwright data check`")
        dataset_labels(dataset, recipe)
        return dataset.without_group()

    def evaluation_args(self, dataset: Dataset, recipe: Recipe, threshold: float | None = None) -> PostprocessArgs:
        config, labels = recipe.evaluate, dataset_labels(dataset, recipe)
        threshold = config.threshold if threshold is None else fraction("threshold", threshold)
        used = tuple((labels >= 0).nonzero().flatten().tolist())
        return PostprocessArgs(
            threshold, config.nms, None if len(used) == len(labels) else used, before_calibration=True
        )

    def with_dataset_labels(self, result: Prediction, dataset: Dataset, recipe: Recipe) -> Prediction:
        last = recipe.evaluate.plus_one
        boxes = result.boxes + result.boxes.new_tensor([0, 0, last, last])
        labels = dataset_labels(dataset, recipe)[result.labels]
        return replace(result, boxes=boxes, labels=labels, names=dataset.names)

    def score(
        self,
        dataset: Dataset,
        results: Sequence[Prediction],
        info: JsonObject,
        recipe: Recipe,
        args: PostprocessArgs,
        groups: NDArray[np.int64] | None = None,
    ) -> Metrics:
        info = info | {"threshold": args.threshold, "plus_one": recipe.evaluate.plus_one, "nms": args.nms.model_dump()}
        return coco.score([dataset[index] for index in range(len(dataset))], results, dataset.names, info, groups)

    def resample(self, dataset: Dataset, results: Sequence[Prediction], weights: NDArray[np.float32]) -> Resampled:
        return coco.resample([dataset[index] for index in range(len(dataset))], results, dataset.names, weights)

    def examples(self, dataset: Dataset, recipe: Recipe) -> Examples:
        return DetectionExamples(dataset, recipe.predict.threshold)

    def write_report(
        self,
        folder: Path,
        metrics: Metrics,
        dataset: Dataset,
        results: Sequence[Prediction],
        examples: Examples,
        recipe: Recipe,
    ) -> None:
        write_report(folder, metrics, dataset, results, examples, recipe.predict.threshold)

    def graph(self, model: nn.Module, recipe: Recipe) -> nn.Module:
        return DetectGraph(model, recipe)


def training_canvas(recipe: Recipe) -> CanvasConfig:
    """The canvas of the loader, as large as the largest training size, so that no step upsamples."""
    sizes = recipe.train.augment.sizes or (recipe.data.canvas.size,)
    largest = max(height for height, _ in sizes), max(width for _, width in sizes)
    return recipe.data.canvas.model_copy(update={"size": largest})


def cap_boxes(dataset: Dataset, limit: int | None) -> tuple[Dataset, list[str]]:
    """Keep the first `limit` labels of each image in the file's order (None: all).

    Returns:
        The data set, and a line for each image that has more.
    """
    if limit is None:
        return dataset, []
    counts = np.diff(dataset.starts)
    order = np.arange(len(dataset.rows)) - dataset.starts[dataset.image_indices()]  # from 0 in each image
    lines = [
        f"{dataset.label_file(index)}: image {dataset.path(index)} has {counts[index]} boxes, "
        f"data.max_boxes is {limit}: {counts[index] - limit} left out"
        for index in np.flatnonzero(counts > limit).tolist()
    ]
    return dataset.without_rows(order >= limit), lines


def labels_of(classes: Sequence[str | int], recipe: Recipe) -> tuple[int, ...]:
    """Labels of classes given by name or label, or of a single name. Raises InputError for a class that the model does
    not have."""
    classes = [classes] if isinstance(classes, str) else classes
    names = recipe.data.names
    count = len(names) or recipe.model.classes
    labels = []
    for name in classes:
        if isinstance(name, str) and name in names:
            labels.append(names.index(name))
        elif str(name).isdecimal() and len(str(name)) < 10 and int(name) < count:
            labels.append(int(name))
        else:
            listed = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
            raise InputError(f"class '{name}': not one of the model's {count}; there are {listed or 'only numbers'}")
    return tuple(labels)


def dataset_labels(dataset: Dataset, recipe: Recipe) -> Tensor:
    """(K,) int64: the data set's label for each class of the model, by name; -1 if it does not have the class.

    Raises InputError for a class of the data set that the model does not have.
    """
    names = recipe.data.names
    if not names:
        raise InputError(
            f"{dataset.root}: its classes are compared by name, recipe {recipe.name} has none; give them by --names "
            "with --cfg, or --set data.names=[...]"
        )
    unknown = [name for label, name in enumerate(dataset.names) if name not in names and label != dataset.group]
    if unknown:
        sets = dataset.members.sets if dataset.members else ()
        title = next((member.title for member in sets if unknown[0] in member.dataset.names), dataset.root)
        raise InputError(
            f"{title}: the model lacks {len(unknown)} of the data set's {len(dataset.names)} classes "
            f"({', '.join(unknown[:3])}), needed some of {', '.join(names[:3])} ... ({len(names)}); for other "
            "spellings set data.names"
        )
    labels = {name: label for label, name in enumerate(dataset.names)}
    return torch.tensor([labels.get(name, -1) for name in names])


def calibrated(result: Detections, temperatures: Sequence[float], least: float) -> Detections:
    """Scale scores by the temperature of their class, drop scores below `least`, and sort: best first."""
    scores = scale(result.scores, result.scores.new_tensor(temperatures)[result.labels])
    scaled = replace(result, scores=scores)[scores.argsort(descending=True, stable=True)]
    return scaled[scaled.scores >= least]


def clipped(result: Detections, size: tuple[int, int]) -> Detections:
    """Clip boxes to the image of `size` (height, width) px, and drop those outside it."""
    inside = replace(result, boxes=clip(result.boxes, size))
    return inside[(inside.boxes[:, 2:] > inside.boxes[:, :2]).all(dim=1)]


def _prediction(result: Detections, frame: Frame, recipe: Recipe) -> Prediction:
    return Prediction(result.boxes, result.scores, result.labels, recipe.data.names, frame.path, frame.size)


TASK = Detect()
