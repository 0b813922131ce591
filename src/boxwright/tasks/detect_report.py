"""The files of a detector's evaluation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from boxwright import json_text
from boxwright.data.dataset import Dataset, Sample, evenly_spaced
from boxwright.errors import titled
from boxwright.files import atomic_write
from boxwright.metrics import error_report, plots, sheet, slices
from boxwright.metrics.coco import Metrics
from boxwright.metrics.matching import Kind, Matches, match
from boxwright.metrics.sheet import Panel
from boxwright.tasks.base import Examples
from boxwright.types import Detections

if TYPE_CHECKING:
    from boxwright.tasks.detect import Prediction

EXAMPLES, WORST = "sheet.jpg", "error_images.jpg"
FILES = (
    "metrics.json", "detections.json", "precision_recall.png", "confusion.png", EXAMPLES, *error_report.FILES, WORST,
    "curves.png",
)  # fmt: skip


class DetectionExamples(Examples):
    """Images evenly spaced over the data set with ground truth and prediction, and those with the most errors."""

    limits: ClassVar[Mapping[str, int]] = {EXAMPLES: 8, WORST: 12}

    def __init__(self, dataset: Dataset, threshold: float) -> None:
        super().__init__()
        self.dataset, self.threshold = dataset, threshold
        self.indices = frozenset(evenly_spaced(len(dataset), self.limits[EXAMPLES]))

    def wants(self, index: int) -> bool:
        return True

    def add(self, index: int, result: "Prediction") -> None:
        assert result.image is not None
        self.looks[index] = slices.appearance(result.image)
        super().add(index, result[result.scores >= self.threshold])

    def ranks(self, index: int, result: "Prediction") -> Mapping[str, float]:
        matches = self._matches(index, result)
        errors = sum(kind not in sheet.NO_ERRORS for kind in matches.found.kinds.tolist())
        errors += int((matches.objects.kinds == Kind.MISSED).sum())
        ranks = {EXAMPLES: float(index)} if index in self.indices else {}
        return ranks | ({WORST: -float(errors)} if errors else {})

    def panel(self, sheet_name: str, index: int, result: "Prediction") -> Panel:
        assert result.image is not None
        if sheet_name == EXAMPLES:
            return sheet.truth_and_prediction(result.image, self.dataset[index], result)
        return sheet.errors(result.image, self.dataset[index], self._matches(index, result), self.dataset.names)

    def _matches(self, index: int, result: "Prediction") -> Matches:
        return match([self.dataset[index]], [result])


def write_detections(
    file: Path, samples: Sequence[Sample], results: Sequence[Detections], category_ids: Sequence[int], *, files: bool
) -> None:
    """Write the rows of `interop.to_coco` as JSON without creating them, which takes twice as long as all metrics.

    files: Add the path of each image, for several sets, whose image ids are new.
    """
    with atomic_write(file) as tmp, tmp.open("w", encoding="utf-8") as stream:
        separator = "["
        for sample, result in zip(samples, results, strict=True):
            image = json_text.dumps(sample.image_id)
            path = f', "file": {json_text.dumps(titled(sample.path))}' if files else ""
            boxes = result.boxes.double().cpu()
            boxes[:, 2:] -= boxes[:, :2]
            columns = (result.labels.tolist(), boxes.tolist(), result.scores.tolist())
            for label, (x, y, width, height), score in zip(*columns, strict=True):
                stream.write(
                    f'{separator}{{"image_id": {image}, "category_id": {category_ids[label]}, '
                    f'"bbox": [{x}, {y}, {width}, {height}], "score": {score}{path}}}'
                )
                separator = ",\n"
        stream.write("[]" if separator == "[" else "]")


def write_report(
    folder: Path,
    metrics: Metrics,
    dataset: Dataset,
    results: Sequence["Prediction"],
    examples: Examples,
    threshold: float,
) -> None:
    """Write `FILES`. Drawings and the confusion matrix use the detections with a score of `threshold` or more."""
    samples = [dataset[index] for index in range(len(dataset))]
    json_text.write(folder / "metrics.json", metrics.to_json(), indent=1)
    write_detections(folder / "detections.json", samples, results, dataset.category_ids, files=bool(dataset.members))
    plots.precision_recall(metrics, folder / "precision_recall.png")
    shown = plots.shown_classes(metrics)
    counts = plots.confusion(samples, results, len(dataset.names), threshold, shown)
    others = ["other classes"] * (len(shown) < len(dataset.names))
    ticks = [*(dataset.names[label] for label in shown), *others, "background"]
    title = f"boxes at IoU 0.50, scores from {threshold:g}"
    plots.confusion_matrix(counts, ticks, ticks, title, folder / "confusion.png")
    error_report.write(folder, samples, match(samples, results), dataset.names, threshold, examples.looks)
    sheet.write(examples.of_sheet(EXAMPLES), folder / EXAMPLES)
    sheet.write(examples.of_sheet(WORST), folder / WORST, sheet.kind_legend())
    title = "average precision on the validation images"
    plots.curves(folder / "log.jsonl", folder / "curves.png", ("AP50", "AP"), title)
