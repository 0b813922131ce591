"""The parity check: an exported file runs beside PyTorch on the same images, and is kept only where both agree."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from boxwright import tasks
from boxwright.data.dataset import evenly_spaced
from boxwright.datatools import scenes
from boxwright.errors import InputError
from boxwright.evaluation.evaluate import evaluate_dataset
from boxwright.export import inside
from boxwright.export.parity_answers import compare_answers
from boxwright.export.parity_limits import LIMITS, Limits
from boxwright.export.parity_raw import compare_raw
from boxwright.files import atomic_write
from boxwright.predict.inputs import Image
from boxwright.predict.pipeline import CanvasPipeline
from boxwright.predict.predictor import AnyPredictor, Predictor, load
from boxwright.recipe import Recipe
from boxwright.runtimes.base.metadata import Metadata
from boxwright.version import versions

RENDERED, FROM_DATA = 4, 8  # images; AP, where labels are at hand, is taken over all of the split


@dataclass(frozen=True, slots=True)
class Report:
    """file: what was written. reason: why it is refused, "" where it passed. content: what the JSON beside it says."""

    file: Path
    reason: str
    content: dict[str, Any] = field(repr=False)

    def save(self) -> Path:
        """Write FILE.parity.json."""
        path = Path(f"{self.file}.parity.json")
        with atomic_write(path) as tmp:
            content = json.dumps({"passed": not self.reason, "reason": self.reason} | self.content)
            # JSON has no infinite numbers: they become words
            tmp.write_text(json.dumps(json.loads(content, parse_constant=str), indent=1))
        return path

    @property
    def found_nothing(self) -> bool:
        """Nothing differs, but neither was anything found on any image."""
        return not self.reason and not self.content["answers"]["compared"]

    def __str__(self) -> str:
        """`model.onnx: as PyTorch on 4 rendered images: raw tensors within 1.2e-06, 31 of 31 answers`"""
        said = [f"{self.content['answers']['matched']} of {self.content['answers']['compared']} answers"]
        if rows := self.content["raw"]:
            said.insert(0, f"raw tensors within {max(row['worst'] for row in rows):.1e}")
        if quality := self.content.get("quality"):
            said.append("{measure} {pytorch:.4f} in PyTorch, {file:.4f} in the file".format(**quality))
        return f"{self.file}: as PyTorch on {self.content['images']}: {', '.join(said)}"


def check(
    part: Path, target: Path, model: nn.Module, card: Metadata, runtime: str, data: str | None, split: str
) -> Report:
    """Compare the file `part`, which is to become `target`, with `model`, on rendered scenes or images of `data`.

    Raises InputError where the file cannot be run, or `data` not be read.
    """
    recipe, limits = card.recipe, LIMITS[card.precision]
    if getattr(model, "two_stage", False):
        limits = replace(limits, matched=limits.proposals)  # a detection needs the proposal that it is made of
    images, description = _images(data, split, recipe)
    ours: AnyPredictor = Predictor(model, recipe)
    theirs = load(part, device="cpu", backend=runtime, trust=True)  # we have written it
    content: dict[str, Any] = {
        "file": target.name,
        "kind": card.kind,
        "precision": card.precision,
        "fingerprint": card.fingerprint,
        "backend": runtime,
        "images": description,
        "limits": {name: getattr(limits, name) for name in Limits.__slots__},
        "versions": versions("torch"),
    }
    content["raw"] = compare_raw(ours, theirs, images, limits) if card.kind == "raw" else []
    content["first_difference"] = next((row for row in content["raw"] if not row["worst"] <= limits.raw), None)
    if content["first_difference"] is not None and theirs.runtime is not None and part.suffix == ".onnx":
        image = images[content["first_difference"]["image"]]
        content["first_inside"] = _first_inside(part, ours, card, image, theirs.runtime.shape[0] or 1)
    if content["first_difference"] is None:
        content["answers"] = compare_answers(ours, theirs, images, card, limits)
        if data is not None and _enough(content["answers"], limits):
            content["quality"] = _quality(ours, theirs, card, data, split)
    return Report(target, _reason(content, limits), content)


def _reason(content: dict[str, Any], limits: Limits) -> str:
    """Why the file is refused; "" where it is not."""
    if (row := content["first_difference"]) is not None:
        return (
            f"output {row['name']} differs from PyTorch's by {row['worst']:.2g} of its largest number (allowed "
            f"{limits.raw:g}) on image {row['image']}"
        )
    if not _enough(answers := content["answers"], limits):
        first = answers["unmatched"][0]
        return (
            f"{answers['matched']} of {answers['compared']} answers have a partner among PyTorch's (needed "
            f"{limits.matched:.0%}); the first without is on image {first['image']}"
        )
    quality = content.get("quality")
    if quality and abs(quality["pytorch"] - quality["file"]) > limits.quality:
        return (
            f"{quality['measure']} is {quality['file']:.4f}, in PyTorch {quality['pytorch']:.4f} (allowed "
            f"{limits.quality:g} of difference)"
        )
    return ""


def _enough(answers: dict[str, Any], limits: Limits) -> bool:
    return bool(answers["matched"] >= limits.matched * answers["compared"])


def _images(data: str | None, split: str, recipe: Recipe) -> tuple[Sequence[Image], str]:
    """Images to compare on, and what they are."""
    if data is None:
        return [scenes.scene(0, index).image for index in range(RENDERED)], f"{RENDERED} rendered images"
    dataset = tasks.of(recipe).open(data, split, recipe.data)
    if not len(dataset):
        raise InputError(f"{data}: split {split} holds no image, needed at least one")
    chosen = evenly_spaced(len(dataset), FROM_DATA)
    return [dataset.source(index) for index in chosen], f"{len(chosen)} of {len(dataset)} images of {split}"


def _first_inside(part: Path, ours: AnyPredictor, card: Metadata, image: Image, batch: int) -> dict[str, Any] | None:
    """The first tensor inside the file that differs."""
    assert isinstance(ours.pipeline, CanvasPipeline)
    inputs = ours.pipeline.inputs([ours.preprocess(image)] * batch)
    return inside.first_difference(ours.model, part, inputs, LIMITS[card.precision].raw)


def _quality(ours: AnyPredictor, theirs: AnyPredictor, card: Metadata, data: str, split: str) -> dict[str, Any]:
    """AP, or top-1, of both on all images of the split."""
    task, config, args = ours.task, card.recipe.predict, None
    dataset = task.open(data, split, card.recipe.data)
    if card.kind == "complete":  # thresholds and NMS of prediction are inside
        default = task.evaluation_args(dataset, card.recipe)
        args = replace(default, threshold=config.threshold, nms=config.nms)
    quality = [evaluate_dataset(predictor, dataset, args=args).quality for predictor in (ours, theirs)]
    return {"measure": task.measure, "pytorch": quality[0], "file": quality[1]}
