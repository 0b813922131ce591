"""Pictures in, named boxes out.

B images, H x W canvas px, N detections of one picture
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast, overload

import numpy as np
import torch
from torch import Tensor, nn

from boxwright.data.canvas import read_image
from boxwright.errors import InputError
from boxwright.ops.boxes import clip
from boxwright.ops.nms import suppress
from boxwright.predict.draw import draw
from boxwright.predict.inputs import Array, Picture, on_canvases
from boxwright.predict.loading import evaluating, load_network
from boxwright.recipe import Recipe, SuppressionConfig
from boxwright.types import Detections, Detector, Frame


@dataclass(frozen=True, slots=True)
class Prediction(Detections):
    """The detections of one picture: boxes in its own px, inside it, best score first.

    path: its file, "" for an array. size: (height, width) px. image: the array it was made from, None for a file.
    """

    path: str = ""
    size: tuple[int, int] = (0, 0)
    image: Array | None = field(default=None, repr=False, compare=False)

    def draw(self, image: Array | None = None) -> Array:
        """The picture with boxes and names, uint8 RGB (h, w, 3); on `image` where one is given."""
        if image is None:
            image = read_image(self.path) if self.image is None else self.image
        return draw(image, self)


class Predictor:
    """A model with its recipe: canvas, network, decoding, suppression.

    Building one leaves the model as it is. While it detects, the model is in evaluation mode; afterwards every module
    is in the mode it was in before, so the engine can evaluate the network it is training.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, device: str | torch.device = "cpu") -> None:
        """`model` follows the Detector protocol and already lies on `device`."""
        self.model = model
        self.recipe = recipe
        self.names = recipe.data.names
        self.device = torch.device(device)

    @overload  # a str is a sequence of str as well; the first overload has it
    def __call__(  # type: ignore[overload-overlap]
        self, source: Picture, threshold: float | None = ..., iou: float | None = ..., classes: Any = ...
    ) -> Prediction: ...

    @overload
    def __call__(
        self, source: Sequence[Picture], threshold: float | None = ..., iou: float | None = ..., classes: Any = ...
    ) -> list[Prediction]: ...

    def __call__(
        self,
        source: Picture | Sequence[Picture],
        threshold: float | None = None,
        iou: float | None = None,
        classes: Sequence[str | int] | None = None,
    ) -> Prediction | list[Prediction]:
        """The detections of one picture, or of each picture of a list.

        threshold: lowest score; iou: a box that overlaps a better one of its class by more is dropped; both in [0, 1],
        None for the recipe's. classes: names or labels to keep, None for all.
        Raises InputError for a file that is no picture, an array of another kind, or an unknown class.
        """
        if isinstance(source, str | Path | np.ndarray):
            return self([source], threshold, iou, classes)[0]
        config = self.recipe.predict
        threshold = config.threshold if threshold is None else check_fraction("threshold", threshold)
        suppression = config.suppression
        if iou is not None:
            if suppression.kind == "soft":
                raise InputError("iou: suppression of kind soft has none; set its sigma in the recipe")
            suppression = suppression.model_copy(update={"iou": check_fraction("iou", iou)})
        labels = self.labels_of(classes)
        predictions: list[Prediction] = []
        for start in range(0, len(source), config.batch):
            pictures = source[start : start + config.batch]
            canvases, frames = on_canvases(pictures, self.recipe.data.canvas, start)
            found = self.detect(canvases, frames, threshold, suppression, labels)
            for detections, frame, picture in zip(found, frames, pictures, strict=True):
                fields = detections.boxes, detections.scores, detections.labels, self.names
                kept = picture if isinstance(picture, np.ndarray) else None
                predictions.append(Prediction(*fields, frame.path, frame.size, kept))
        return predictions

    def detect(
        self,
        images: Tensor,
        frames: Sequence[Frame],
        threshold: float,
        suppression: SuppressionConfig,
        labels: Sequence[int] | None = None,
    ) -> list[Detections]:
        """Canvases (B, 3, H, W), uint8 or float in 0..255, to the detections of each picture, on the CPU.

        Boxes are in the original picture's px. Suppression sees whole boxes, but for `suppression.cut`; then they are
        cut to the picture, and those with nothing inside it go. labels: the classes to keep, None for all.
        """
        model = cast(Detector, self.model)
        with evaluating(self.model):
            raw = model.forward(images.to(self.device, non_blocking=True).float() / 255)
            decoded = model.decode(raw, threshold)
        if suppression.cut == "canvas":
            decoded = [replace(one, boxes=clip(one.boxes, (images.shape[-2], images.shape[-1]))) for one in decoded]
        found = [
            replace(one, boxes=frame.to_original(one.boxes), names=self.names)
            for one, frame in zip(decoded, frames, strict=True)
        ]
        if suppression.cut == "picture":
            found = [_inside(one, frame.size) for one, frame in zip(found, frames, strict=True)]
        if labels is not None:
            found = [one[torch.isin(one.labels, one.labels.new_tensor(labels))] for one in found]
        kept = suppress(found, suppression, [frame.size for frame in frames], threshold)
        return [_inside(one, frame.size) for one, frame in zip(kept, frames, strict=True)]

    def labels_of(self, classes: Sequence[str | int] | None) -> list[int] | None:
        """Labels of classes given by name or label. Raises InputError for one that the model does not know."""
        if classes is None:
            return None
        count = len(self.names) or int(getattr(self.recipe.model, "classes", 0))
        labels = []
        for word in classes:
            if isinstance(word, str) and word in self.names:
                labels.append(self.names.index(word))
            elif str(word).isdecimal() and int(word) < count:
                labels.append(int(word))
            else:
                known = ", ".join(self.names[:20]) + (", ..." if len(self.names) > 20 else "")
                raise InputError(f"class '{word}': not one of the model's {count}; there are {known or 'only numbers'}")
        return labels

    def name_of(self, label: int) -> str:
        """The class's name, or its number where the recipe names none."""
        return self.names[label] if self.names else str(label)


def load(
    path: str | Path,
    recipe: str | Path | Recipe | None = None,
    device: str = "cpu",
    overrides: Mapping[str, Any] | Sequence[str] = (),
) -> Predictor:
    """A predictor from a run folder, its best/ or last/, or a file of weights.

    recipe: a shipped name, a YAML file or a Recipe; None for the one stored beside our own weights (`.weights` and
    `.ckpt` store none). device: cpu, cuda, or auto for the accelerator where there is one. overrides: changes to the
    recipe. Raises InputError when the weights cannot be read or do not fit, a recipe is needed or is a classifier's.
    """
    return Predictor(*load_network(path, recipe, device, overrides, "detect"))


def check_fraction(name: str, value: float) -> float:
    """`value` when it lies in [0, 1]; else InputError."""
    if not 0 <= value <= 1:
        raise InputError(f"{name}: found {value}, needed a number from 0 to 1")
    return value


def _inside(found: Detections, size: tuple[int, int]) -> Detections:
    """Boxes cut to the picture of `size` (height, width) px, without those that lie wholly beside it, on the CPU."""
    cut = replace(found, boxes=clip(found.boxes, size))
    return cut[(cut.boxes[:, 2:] > cut.boxes[:, :2]).all(dim=1)].to("cpu")
