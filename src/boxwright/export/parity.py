"""The parity check: an exported file is compared with PyTorch on the same images, and kept only if both agree."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import nn

from boxwright import tasks
from boxwright.data.dataset import evenly_spaced
from boxwright.datatools import scenes
from boxwright.errors import InputError
from boxwright.evaluation.compare import compare_predicted, predicted
from boxwright.export import inside
from boxwright.export.parity_limits import LIMITS, Limits
from boxwright.export.parity_predictions import compare_predictions
from boxwright.export.parity_raw import compare_raw
from boxwright.files import atomic_write
from boxwright.json_text import JsonObject
from boxwright.nn.network import is_two_stage
from boxwright.predict.inputs import Image
from boxwright.predict.pipeline import CanvasPipeline
from boxwright.predict.predictor import AnyPredictor, load
from boxwright.recipe import Recipe
from boxwright.runtimes.base.metadata import Metadata
from boxwright.version import versions

RENDERED_IMAGES, DATA_IMAGES = 4, 8  # images to compare; AP is measured on the whole split, if there is a data set


@dataclass(frozen=True, slots=True)
class ParityReport:
    """The result of a parity check.

    Attributes:
        file: The exported file.
        reason: Why it failed; "" if it passed.
        content: Content of FILE.parity.json.
    """

    file: Path
    reason: str
    content: JsonObject = field(repr=False)

    def save(self) -> Path:
        """Write FILE.parity.json."""
        path = Path(f"{self.file}.parity.json")
        with atomic_write(path) as tmp:
            content = json.dumps({"passed": not self.reason, "reason": self.reason} | self.content)
            # JSON has no infinite numbers: they become strings
            tmp.write_text(json.dumps(json.loads(content, parse_constant=str), indent=1))
        return path

    @property
    def has_no_predictions(self) -> bool:
        """Whether the check passed without any detection to compare."""
        return not self.reason and not self.content["predictions"]["compared"]

    def __str__(self) -> str:
        """`model.onnx: as PyTorch on 4 rendered images: raw tensors within 1.2e-06, 31 of 31 predictions`"""
        results = [f"{self.content['predictions']['matched']} of {self.content['predictions']['compared']} predictions"]
        if rows := self.content["raw"]:
            results.insert(0, f"raw tensors within {max(row['worst'] for row in rows):.1e}")
        if quality := self.content.get("quality"):
            results.append("{measure} {pytorch:.4f} in PyTorch, {file:.4f} in the file".format(**quality))
            if quality.get("interval"):
                results[-1] += " (95 % interval of the difference [{:+.4f}, {:+.4f}])".format(*quality["interval"])
        return f"{self.file}: as PyTorch on {self.content['images']}: {', '.join(results)}"


def check(
    tmp: Path, target: Path, model: nn.Module, metadata: Metadata, runtime: str, data: str | Path | None, split: str
) -> ParityReport:
    """Compare an exported file with PyTorch.

    Args:
        tmp: The file.
        target: Its final path, for the report.
        model: The exported network.
        metadata: Metadata of the file.
        runtime: The name of the runtime that runs it.
        data: A data set to compare on; None for rendered scenes.
        split: Split of `data`.

    Raises:
        InputError: The file cannot be run, or `data` cannot be read.
    """
    recipe, limits = metadata.recipe, LIMITS[metadata.precision]
    if is_two_stage(model):
        limits = replace(limits, matched=limits.proposals)  # a detection matches only if its proposal does
    images, description = _images(data, split, recipe)
    ours = AnyPredictor(model, recipe)
    theirs = load(tmp, device="cpu", backend=runtime, trust=True)  # written by this process
    content: JsonObject = {
        "file": target.name,
        "kind": metadata.kind,
        "precision": metadata.precision,
        "fingerprint": metadata.fingerprint,
        "backend": runtime,
        "images": description,
        "limits": {name: getattr(limits, name) for name in Limits.__slots__},
        "versions": versions("torch"),
    }
    content["raw"] = compare_raw(ours, theirs, images, limits) if metadata.kind == "raw" else []
    content["first_difference"] = next((row for row in content["raw"] if not row["worst"] <= limits.raw), None)
    if content["first_difference"] is not None and theirs.runtime is not None and tmp.suffix == ".onnx":
        image = images[content["first_difference"]["image"]]
        content["first_inside"] = _first_inside(tmp, ours, metadata, image, theirs.runtime.shape[0] or 1)
    if content["first_difference"] is None:
        content["predictions"] = compare_predictions(ours, theirs, images, metadata, limits)
        if data is not None and _matches(content["predictions"], limits):
            content["quality"] = _quality(ours, theirs, metadata, data, split)
    return ParityReport(target, _reason(content, limits), content)


def _reason(content: JsonObject, limits: Limits) -> str:
    """Why the check failed; "" if it passed."""
    if (row := content["first_difference"]) is not None:
        return (
            f"output {row['name']} differs from PyTorch's by {row['worst']:.2g} of its largest number (allowed "
            f"{limits.raw:g}) on image {row['image']}"
        )
    if not _matches(predictions := content["predictions"], limits):
        first = predictions["unmatched"][0]
        return (
            f"{predictions['matched']} of {predictions['compared']} predictions have a partner among PyTorch's (needed "
            f"{limits.matched:.0%}); the first without is on image {first['image']}"
        )
    quality = content.get("quality")
    if quality and abs(quality["pytorch"] - quality["file"]) > limits.quality:
        return (
            f"{quality['measure']} is {quality['file']:.4f}, in PyTorch {quality['pytorch']:.4f} (allowed "
            f"{limits.quality:g} of difference)"
        )
    return ""


def _matches(predictions: JsonObject, limits: Limits) -> bool:
    return bool(predictions["matched"] >= limits.matched * predictions["compared"])


def _images(data: str | Path | None, split: str, recipe: Recipe) -> tuple[Sequence[Image], str]:
    """The images to compare on, and their description."""
    if data is None:
        images = scenes.rendered_images(RENDERED_IMAGES, recipe.model.input_channels)
        return images, f"{RENDERED_IMAGES} rendered images"
    dataset = tasks.of(recipe).open(data, split, recipe.data)
    if not len(dataset):
        raise InputError(f"{data}: split {split} holds no image, needed at least one")
    indices = evenly_spaced(len(dataset), DATA_IMAGES)
    return [dataset.source(index) for index in indices], f"{len(indices)} of {len(dataset)} images of {split}"


def _first_inside(
    tmp: Path, ours: AnyPredictor, metadata: Metadata, image: Image, batch: int
) -> dict[str, object] | None:
    """The first tensor inside the ONNX file that differs."""
    assert isinstance(ours.pipeline, CanvasPipeline)
    inputs = ours.pipeline.inputs([ours.preprocess(image)] * batch)
    return inside.first_difference(ours.model, tmp, inputs, LIMITS[metadata.precision].raw)


def _quality(ours: AnyPredictor, theirs: AnyPredictor, metadata: Metadata, data: str | Path, split: str) -> JsonObject:
    """AP, or top-1, of both on the whole split, with the interval of their difference."""
    task, config, args = ours.task, metadata.recipe.predict, None
    dataset = task.open(data, split, metadata.recipe.data)
    if metadata.kind == "complete":  # with the threshold and NMS of prediction inside
        default = task.evaluation_args(dataset, metadata.recipe)
        args = replace(default, threshold=config.threshold, nms=config.nms, before_calibration=False)
    found = [
        predicted(predictor, dataset, args, title=title) for predictor, title in ((ours, "PyTorch"), (theirs, "file"))
    ]
    difference = compare_predicted(*found).main
    return {
        "measure": task.measure,
        "pytorch": difference.a,
        "file": difference.b,
        "interval": difference.to_json()["interval"],
    }
