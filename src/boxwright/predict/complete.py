"""Predictors on files that hold everything: canvas, network and suppression (`boxwright export --with-nms`).

h x w px of a picture, K rows that such a file answers

What is decided inside the file cannot be asked for otherwise: another canvas, lower scores, another suppression, more
classes.
"""

import math
from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import Tensor

from boxwright.data.budget import within_budget
from boxwright.data.canvas import read_image
from boxwright.errors import InputError
from boxwright.predict.class_predictor import MOST, ClassPredictor
from boxwright.predict.inputs import Picture, Placed, path_of, pixels_of
from boxwright.predict.loading import Loaded
from boxwright.predict.predictor import Looked, Predictor, Wanted
from boxwright.predict.processes import refuse_fork
from boxwright.recipe import Recipe, SuppressionConfig
from boxwright.runtimes.base.runtime import Runtime, chunks, joined
from boxwright.types import Classes, Detections, Frame


class CompletePredictor(Predictor):
    """The file's threshold and suppression, `recipe.predict`, hold for evaluation as well."""

    backend: Runtime
    keeps_pictures = True

    def __init__(self, loaded: Loaded) -> None:
        self.inside = _inside(loaded).predict
        config = loaded.recipe.predict
        self._refuse_others(config.threshold, config.suppression)
        same = {"evaluate.threshold": config.threshold, "evaluate.suppression": config.suppression.model_dump()}
        super().__init__(loaded.model, loaded.recipe.with_overrides(same), loaded.device, loaded.backend)

    def place(self, picture: Picture, number: int = 0) -> Placed:
        """The picture as it is; the file places it."""
        return _placed(picture, number)

    def look(self, pictures: Sequence[Placed]) -> Looked:
        """boxes, scores and labels, each with the rows of all pictures."""
        refuse_fork(self.process)
        return Looked(_look(self.backend, pictures), (0, 0))

    def detect(
        self,
        images: Tensor,
        frames: Sequence[Frame],
        threshold: float,
        suppression: SuppressionConfig,
        labels: Sequence[int] | None = None,
    ) -> list[Detections]:
        """As in `Predictor`, but of the files that the frames name: canvases are of no use here."""
        wanted = Wanted(threshold, suppression, None if labels is None else list(labels))
        found: list[Detections] = []
        for part, _ in within_budget(frames, _pixels):
            found += self._found(self.look(_from_files(part)), part, wanted)
        return found

    def _found(self, looked: Looked, frames: Sequence[Frame], wanted: Wanted) -> list[Detections]:
        self._refuse_others(wanted.threshold, wanted.suppression)
        found = []
        for boxes, scores, labels in zip(*looked.raw, strict=True):
            kept = (labels >= 0) & (scores >= wanted.threshold)
            if wanted.labels is not None:
                kept &= torch.isin(labels, labels.new_tensor(wanted.labels))
            found.append(Detections(boxes[kept], scores[kept], labels[kept], self.names))
        return found

    def _refuse_others(self, threshold: float, suppression: SuppressionConfig) -> None:
        if threshold < self.inside.threshold:
            _refuse(f"threshold: found {threshold}, the file has {self.inside.threshold} inside")
        if suppression != self.inside.suppression:
            _refuse(f"suppression: found {suppression.kind} at {suppression.iou}, it is inside the file")


class CompleteClassPredictor(ClassPredictor):
    """At most as many classes as the file answers."""

    backend: Runtime
    keeps_pictures = True

    def __init__(self, loaded: Loaded) -> None:
        _inside(loaded)
        super().__init__(loaded.model, loaded.recipe, loaded.device, loaded.backend)

    def place(self, picture: Picture, number: int = 0) -> Placed:
        """The picture as it is; the file places it."""
        return _placed(picture, number)

    def look(self, pictures: Sequence[Placed]) -> tuple[Tensor, ...]:
        """scores and labels, each with the rows of all pictures."""
        refuse_fork(self.process)
        return _look(self.backend, pictures)

    def classify(self, images: Tensor, frames: Sequence[Frame], most: int = MOST) -> list[Classes]:
        """As in `ClassPredictor`, but of the files that the frames name: canvases are of no use here."""
        found: list[Classes] = []
        for part, _ in within_budget(frames, _pixels):
            found += self._best(self.look(_from_files(part)), most)
        return found

    def _best(self, raw: tuple[Tensor, ...], most: int) -> list[Classes]:
        scores, labels = raw
        if most > scores.shape[1] == MOST:
            _refuse(f"classes a picture: found {most}, the file answers {MOST}")
        return [Classes(*one, self.names) for one in zip(scores[:, :most], labels[:, :most], strict=True)]


def _inside(loaded: Loaded) -> Recipe:
    """The recipe that the file was made with. Raises InputError where another canvas is asked for."""
    assert loaded.card is not None
    if loaded.recipe.data.canvas != loaded.card.recipe.data.canvas:
        _refuse("data.canvas: found other numbers than the file has inside")
    return loaded.card.recipe


def _placed(picture: Picture, number: int) -> Placed:
    image = pixels_of(picture)
    height, width = image.shape[:2]
    frame = Frame(number, path_of(picture), (height, width), (height, width), (1.0, 1.0))
    return Placed(image, frame, None if frame.path else image)


def _pixels(frame: Frame) -> int:
    return math.prod(frame.size)


def _from_files(frames: Sequence[Frame]) -> list[Placed]:
    """Raises InputError for a picture that is not in a file of its own, such as CIFAR's."""
    return [Placed(read_image(frame.path), frame, None) for frame in frames]


def _look(backend: Runtime, pictures: Sequence[Placed]) -> tuple[Tensor, ...]:
    """One picture at a time, for they differ in size."""
    parts = [chunks((torch.from_numpy(picture.pixels)[None],), backend.shape[0])[0] for picture in pictures]
    return joined([[one[:1] for one in answer] for answer in backend.each(parts)], len(pictures))


def _refuse(what: str) -> NoReturn:
    raise InputError(f"{what}; take a file exported with --raw, or export it again with other numbers")
