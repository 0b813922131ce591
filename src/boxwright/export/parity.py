"""The gate: an exported file runs beside PyTorch on the same pictures, and is kept only where the answers agree.

B pictures, P proposals of two-stage detectors, N and M detections of one picture
"""

import json
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from boxwright import __version__
from boxwright.data import scenes
from boxwright.data.open import open_labelled
from boxwright.errors import InputError
from boxwright.evaluation.evaluate import evaluate
from boxwright.export import inside
from boxwright.files import atomic_write
from boxwright.predict.class_predictor import ClassPredictor
from boxwright.predict.inputs import Picture, arguments, on_canvases
from boxwright.predict.load import load
from boxwright.predict.loading import evaluating
from boxwright.predict.predictor import Predictor
from boxwright.recipe import Recipe
from boxwright.runtimes.base.metadata import Metadata
from boxwright.types import Classes, Detections

RENDERED, FROM_DATA = 4, 8  # pictures; AP, where labels are at hand, is taken over all of the split
LOWEST = 0.01  # score of detections that are compared, where the file leaves the threshold to the caller
TOLD = 5  # unmatched detections that the report shows of a picture


@dataclass(frozen=True, slots=True)
class Limits:
    """raw: difference of a raw tensor as a share of its largest number. score: difference of scores. edge: of a box's
    edges, as a share of the picture's longer side. matched: share of detections that have a partner. proposals: the
    same, of a two-stage detector's; so near-equal are many of them that more of their fate is rounding. quality: drop
    of AP, of classifiers top-1.
    """

    raw: float
    score: float
    edge: float
    matched: float
    proposals: float
    quality: float


# float32: a hundred times what float32 loses; the one in a hundred boxes left over is for pairs whose overlap lies
# within rounding of the threshold of suppression. float16: its numbers have 11 bits, an error of 2^-11 a layer.
LIMITS = {"float32": Limits(1e-3, 1e-3, 1e-3, 0.99, 0.95, 1e-3), "float16": Limits(3e-2, 3e-2, 1e-2, 0.95, 0.8, 5e-3)}


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
        """Nothing differs, but neither was anything found on any picture."""
        return not self.reason and not self.content["answers"]["compared"]

    def __str__(self) -> str:
        """`model.onnx: as PyTorch on 4 rendered pictures: raw tensors within 1.2e-06, 31 of 31 answers`"""
        said = [f"{self.content['answers']['matched']} of {self.content['answers']['compared']} answers"]
        if rows := self.content["raw"]:
            said.insert(0, f"raw tensors within {max(row['worst'] for row in rows):.1e}")
        if quality := self.content.get("quality"):
            said.append("{measure} {pytorch:.4f} in PyTorch, {file:.4f} in the file".format(**quality))
        return f"{self.file}: as PyTorch on {self.content['pictures']}: {', '.join(said)}"


def check(
    part: Path, target: Path, model: nn.Module, card: Metadata, runtime: str, data: str | None, split: str
) -> Report:
    """Compare the file `part`, which is to become `target`, with `model`, on rendered scenes or pictures of `data`.

    Raises InputError where the file cannot be run, or `data` not be read.
    """
    recipe, limits = card.recipe, LIMITS[card.precision]
    if getattr(model, "two_stage", False):
        limits = replace(limits, matched=limits.proposals)  # a detection needs the proposal that it is made of
    classify = recipe.model.task == "classify"
    pictures, told = _pictures(data, split, recipe)
    ours = (ClassPredictor if classify else Predictor)(model, recipe)
    theirs: Any = load(part, device="cpu", backend=runtime, trust=True)  # we have written it
    content: dict[str, Any] = {
        "file": target.name,
        "kind": card.kind,
        "precision": card.precision,
        "fingerprint": card.fingerprint,
        "backend": runtime,
        "pictures": told,
        "limits": {name: getattr(limits, name) for name in Limits.__slots__},
        "versions": {"boxwright": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    backend = theirs.backend
    network = theirs.model if backend is None else backend.forward  # the former of files of weights
    content["raw"] = compare_raw(model, network, recipe, pictures, limits) if card.kind == "raw" else []
    content["first_difference"] = next((row for row in content["raw"] if not row["worst"] <= limits.raw), None)
    if content["first_difference"] is not None and backend is not None and part.suffix == ".onnx":
        picture = pictures[content["first_difference"]["picture"]]
        content["first_inside"] = _first_inside(part, model, card, picture, backend.shape[0] or 1)
    if content["first_difference"] is None:
        content["answers"] = compare_answers(ours, theirs, pictures, card, limits)
        if data is not None and _enough(content["answers"], limits):
            content["quality"] = _quality(ours, theirs, card, data, split)
    return Report(target, _reason(content, limits), content)


def _reason(content: dict[str, Any], limits: Limits) -> str:
    """Why the file is refused; "" where it is not."""
    if (row := content["first_difference"]) is not None:
        return (
            f"output {row['name']} differs from PyTorch's by {row['worst']:.2g} of its largest number (allowed "
            f"{limits.raw:g}) on picture {row['picture']}"
        )
    if not _enough(answers := content["answers"], limits):
        first = answers["unmatched"][0]
        return (
            f"{answers['matched']} of {answers['compared']} answers have a partner among PyTorch's (needed "
            f"{limits.matched:.0%}); the first without is on picture {first['picture']}"
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


def _pictures(data: str | None, split: str, recipe: Recipe) -> tuple[list[Picture], str]:
    """Pictures to look at, and what they are."""
    if data is None:
        return [scenes.scene(0, index).image for index in range(RENDERED)], f"{RENDERED} rendered pictures"
    labelled: Any = open_labelled(data, split, recipe)
    if not len(labelled):
        raise InputError(f"{data}: split {split} holds no picture, needed at least one")
    chosen = np.unique(np.linspace(0, len(labelled) - 1, min(FROM_DATA, len(labelled))).round().astype(int))
    return [labelled.path(index) for index in chosen.tolist()], f"{len(chosen)} of {len(labelled)} pictures of {split}"


# Raw tensors


def compare_raw(
    model: nn.Module,
    network: Callable[..., tuple[Tensor, ...]],
    recipe: Recipe,
    pictures: Sequence[Picture],
    limits: Limits,
) -> list[dict[str, Any]]:
    """For each output in order: name, worst difference as a share of PyTorch's largest number, on which picture.

    Two pictures are shown at a time, so that a file for any number of them has to take more than one.
    """
    rows: dict[str, dict[str, Any]] = {}
    for start in range(0, len(pictures), 2):
        canvases, frames = on_canvases(pictures[start : start + 2], recipe.data.canvas)
        inputs = arguments(model.inputs, canvases.float() / 255, frames)  # type: ignore[arg-type]
        with evaluating(model):
            ours, theirs = model(*inputs), network(*inputs)
        for i in range(len(frames)):
            one, other = ([output[i : i + 1] for output in outputs] for outputs in (ours, theirs))
            for name, worst, shape in differences(model.raw_names, one, other, limits):  # type: ignore[arg-type]
                if name not in rows or not worst <= rows[name]["worst"]:
                    rows[name] = {"name": name, "worst": worst, "picture": start + i, "shape": shape}
    return list(rows.values())


def differences(
    names: Sequence[str], ours: Sequence[Tensor], theirs: Sequence[Tensor], limits: Limits
) -> Iterator[tuple[str, float, list[int]]]:
    """(name, largest difference as a share of the largest number of ours, shape) of each output; infinite where the
    shapes differ or something is no number."""
    if "proposals" in names and ours[0].shape == theirs[0].shape:
        ours, theirs = paired(ours, theirs, limits)
    for name, one, other in zip(names, ours, theirs, strict=True):
        shape = list(other.shape)
        if one.shape != other.shape:
            yield name, float("inf"), shape
            continue
        if not one.numel():  # neither has a proposal
            yield name, 0.0, shape
            continue
        gap = (one.double() - other.double()).abs().max()
        largest = one.double().abs().max().clamp(min=1e-12)
        yield name, float((gap / largest).nan_to_num(nan=float("inf"))), shape


def paired(
    ours: Sequence[Tensor], theirs: Sequence[Tensor], limits: Limits = LIMITS["float32"]
) -> tuple[list[Tensor], list[Tensor]]:
    """Rows of the outputs of a two-stage detector (B, P, ...), put into one order.

    Proposals stand by objectness, where two may swap that differ by less than rounding, and a pair may do so at the
    threshold of suppression. Those without a partner are left out, unless they are too many: then all stay as they are.
    """
    boxes, others = ours[0][0], theirs[0][0]
    rows = torch.cdist(boxes, others, p=torch.inf, compute_mode="donot_use_mm_for_euclid_dist")
    rows = rows + (~(ours[-1][0][:, None] & theirs[-1][0][None])) * 1e9  # the last output says which rows are valid
    here, there = _mutual(rows)
    near = rows[here, there] <= limits.raw * boxes.abs().max()
    if near.sum() < limits.proposals * max(int(ours[-1].sum()), int(theirs[-1].sum())):
        return list(ours), list(theirs)
    here, there = here[near], there[near]
    return [one[:, here] for one in ours], [one[:, there] for one in theirs]


def _mutual(cost: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs (row, column) of a cost (N, M) that are each other's cheapest."""
    if not cost.numel():
        nobody = torch.zeros(0, dtype=torch.int64)
        return nobody, nobody
    column = cost.argmin(dim=1)
    row = torch.arange(len(cost))
    mutual = cost.argmin(dim=0)[column] == row
    return row[mutual], column[mutual]


def _first_inside(part: Path, model: nn.Module, card: Metadata, picture: Picture, batch: int) -> dict[str, Any] | None:
    canvases, frames = on_canvases([picture] * batch, card.recipe.data.canvas)
    inputs = arguments(model.inputs, canvases.float() / 255, frames)  # type: ignore[arg-type]
    return inside.first_difference(model, part, inputs, LIMITS[card.precision].raw)


# Answers


def compare_answers(
    ours: Any, theirs: Any, pictures: Sequence[Picture], card: Metadata, limits: Limits
) -> dict[str, Any]:
    """Detections, or the best classes, of both on each picture: how many there are, how many have a partner, and some
    of those that have none. A score so near the lowest that is told that rounding decides is not counted."""
    total: dict[str, Any] = {"compared": 0, "matched": 0, "unmatched": []}
    for index, picture in enumerate(pictures):
        if card.recipe.model.task == "classify":
            one, other = ours(picture), theirs(picture)
            floor, side = float(one.scores.min()), 1
        else:
            lowest = card.recipe.predict.threshold if card.kind == "complete" else LOWEST
            one, other = ours(picture, threshold=lowest), theirs(picture, threshold=lowest)
            full = len(one) >= card.recipe.predict.suppression.keep
            floor, side = float(one.scores.min()) if full else lowest, max(one.size)
        compared, matched, alone = match(one, other, floor, side, limits)
        total["compared"] += compared
        total["matched"] += matched
        total["unmatched"] += [{"picture": index} | row for row in alone[:TOLD]]
    return total


def match(one: Any, other: Any, floor: float, side: int, limits: Limits) -> tuple[int, int, list[dict[str, Any]]]:
    """(how many count, how many of them have a partner, those without) of two `Detections` or `Classes`.

    floor: the lowest score that is told. side: px, what `limits.edge` is a share of.
    """
    cost = (one.scores[:, None] - other.scores[None]).abs() / limits.score
    if isinstance(one, Detections):
        edges = (one.boxes[:, None] - other.boxes[None]).abs().amax(dim=2) / (limits.edge * side)
        cost = torch.maximum(cost, edges)
    cost = cost + (one.labels[:, None] != other.labels[None]) * 1e9
    here, there = _mutual(cost)
    near = cost[here, there] <= 1
    here, there = here[near], there[near]
    alone: list[dict[str, Any]] = []
    for where, found, partners in (("PyTorch", one, here), ("the file", other, there)):
        lonely = found.scores >= floor + limits.score
        lonely[partners] = False
        alone += _rows(where, found, lonely)
    return len(here) + len(alone), len(here), alone


def _rows(where: str, found: Detections | Classes, chosen: Tensor) -> list[dict[str, Any]]:
    columns = {"score": found.scores[chosen].tolist(), "label": found.labels[chosen].tolist()}
    if isinstance(found, Detections):
        columns["box"] = found.boxes[chosen].tolist()
    rows = zip(*columns.values(), strict=True)
    return [{"only_in": where} | dict(zip(columns, row, strict=True)) for row in rows]


# Quality


def _quality(ours: Any, theirs: Any, card: Metadata, data: str, split: str) -> dict[str, Any]:
    """AP, or top-1, of both on all pictures of the split."""
    labelled, threshold = open_labelled(data, split, card.recipe), None
    if card.kind == "complete" and card.recipe.model.task == "detect":  # suppressed inside, as for predicting
        threshold = card.recipe.predict.threshold
        ours.recipe = ours.recipe.with_overrides({"evaluate.suppression": ours.recipe.tree()["predict"]["suppression"]})
    found = [evaluate(one, labelled, threshold=threshold).quality for one in (ours, theirs)]
    measure = "top-1" if card.recipe.model.task == "classify" else "AP"
    return {"measure": measure, "pytorch": found[0], "file": found[1]}
