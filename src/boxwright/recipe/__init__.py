"""Recipes: a complete experiment as checked, frozen values.

A comment on each field gives its unit. A recipe is read from `recipes/NAME.yaml` or a user's file, changed by
overrides, and written into every run folder and every checkpoint.
"""

import difflib
from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Literal, Self

import pydantic
import yaml
from pydantic import Field

from boxwright import config, models
from boxwright.config import RGB, BatchSize, Config, FileName, Fraction, ModelConfig, Overrides, Positive, Tree
from boxwright.errors import InputError
from boxwright.recipe.data import CanvasConfig, DataConfig
from boxwright.recipe.of_cfg import read_names, recipe_of_cfg, with_training
from boxwright.recipe.training import (
    MAX_EPOCHS,
    AugmentConfig,
    ClassAugmentConfig,
    EmaConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)

__all__ = [
    "MAX_EPOCHS", "AugmentConfig", "CanvasConfig", "ClassAugmentConfig", "DataConfig", "EmaConfig", "EvaluateConfig",
    "Expect", "NMSConfig", "OptimizerConfig", "PredictConfig", "Recipe", "ScheduleConfig", "TrainConfig", "class_names",
    "from_tree", "load", "names", "of_cfg", "summaries",
]  # fmt: skip


class NMSConfig(Config):
    """Non-maximum suppression: by score, within each class of an image."""

    # A box that overlaps a better one by more than `iou` is dropped. standard: overlap is IoU. diou: IoU minus the
    # squared distance of the centers over the squared diagonal of the enclosing box. greedy: the same with that ratio
    # to the power of 0.6 (Darknet's greedynms). The soft kinds multiply its score instead. soft: by
    # exp(-IoU^2 / sigma). soft_linear: by 1 - IoU.
    kind: Literal["standard", "diou", "greedy", "soft", "soft_linear"] = "standard"
    iou: Fraction = 0.5  # boxes overlapping a better one by more than this are dropped
    sigma: Positive = 0.5  # for kind soft, which ignores `iou`; larger lowers less (Soft-NMS, arXiv:1704.04503)
    plus_one: bool = False  # count pixels inclusively, width = x2 - x1 + 1 (MindSpore zoo)
    # what boxes are clipped to before they are compared: the canvas with its padding (MindSpore zoo's Faster R-CNN), or
    # the image on it (torchvision's)
    clip: Literal["none", "canvas", "image"] = "none"
    pre_nms_top_k: Annotated[int, Field(ge=1, le=100_000)] = (
        30000  # boxes per image that enter NMS, over all classes (YOLOv5's)
    )
    max_detections: Annotated[int, Field(ge=1, le=100_000)] = 300  # boxes per image after NMS (YOLOv5's)

    @pydantic.model_validator(mode="after")
    def _pixels_are_counted_in_pixels(self) -> Self:
        if self.kind == "greedy" and self.plus_one:
            raise ValueError("plus_one counts pixels, kind greedy fractions of the image; set plus_one to false")
        return self


class EvaluateConfig(Config):
    threshold: Fraction = 0.001  # lowest score that counts, before `predict.temperatures`: they do not change AP
    plus_one: bool = False  # boxes are one px wider and higher, x2 - x1 + 1 (MindSpore zoo's Faster R-CNN)
    nms: NMSConfig = NMSConfig()
    batch: BatchSize = 8  # images per forward pass


class PredictConfig(Config):
    threshold: Fraction = 0.25  # lowest score that is reported (Darknet's)
    nms: NMSConfig = NMSConfig()
    batch: BatchSize = 8  # images per forward pass
    # what the logits of the scores are divided by: one number per class, a single one for a classifier; (): 1. They
    # belong to the weights: `boxwright calibrate` finds them
    temperatures: tuple[Annotated[float, Field(ge=0.125, le=8)], ...] = ()


class Expect(Config):
    """A published claim; nothing here was measured by this project."""

    metric: str = ""  # name of the metric, such as AP50 or top1
    value: float | None = None  # 0 to 1; null: nothing is published
    source: str = ""  # who published it, and where
    hardware: str = ""  # what it was trained on

    def beside(self, measured: Mapping[str, float]) -> str:
        """A line `AP50 0.442 here, published 0.331 (source)`; "" if nothing is published or the metric not measured."""
        if self.value is None or self.metric not in measured:
            return ""
        origin = ", ".join(word for word in (self.source, self.hardware) if word)
        return f"{self.metric} {measured[self.metric]:.3f} here, published {self.value:g} ({origin})"


class _Dumper(yaml.SafeDumper):
    """A YAML dumper that writes multi-line strings, such as a .cfg, as blocks."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


class Recipe(Config):
    """A complete experiment: network, data, training, evaluation and prediction, as checked, frozen values."""

    name: FileName  # shipped name, or name of the file without its suffix; names the run
    summary: str = ""  # one line, shown by `boxwright list`
    model: pydantic.SerializeAsAny[ModelConfig]
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    predict: PredictConfig = PredictConfig()
    expect: Expect = Expect()

    @pydantic.model_validator(mode="after")
    def _sections_agree(self) -> Self:
        model, data, train = self.model, self.data, self.train
        if data.names and model.classes != len(data.names):
            raise ValueError(f"model.classes is {model.classes}, data.names holds {len(data.names)} names")
        if len(set(data.names)) < len(data.names):
            raise ValueError("data.names holds a name more than once, needed different ones")
        found, needed = len(self.predict.temperatures), model.classes if model.task == "detect" else 1
        if found not in (0, needed):
            raise ValueError(f"predict.temperatures: found {found}, needed {needed} or none")
        sizes = [
            ("data.canvas.size", data.canvas.size),
            *(("train.augment.sizes", size) for size in train.augment.sizes),
        ]
        for key, size in sizes:
            if any(side % model.size_step for side in size):
                raise ValueError(f"{key}: found {list(size)} px, the model needs multiples of {model.size_step}")
        if data.bands is not None and model.task != "detect":
            raise ValueError(f"data.bands: found {data.bands}, {model.name} reads RGB; leave it out for classifiers")
        if data.background and model.task != "detect":
            raise ValueError(f"data.background: {model.name} is a classifier; leave it out")
        if model.input_channels != (channels := len(data.bands) if isinstance(data.bands, tuple) else RGB):
            raise ValueError(
                f"model.input_channels: found {model.input_channels}, needed {channels}; it follows data.bands"
            )
        extents = "extents" in model.inputs
        if data.canvas.fit in {"letterbox", "crop"} and (data.canvas.trim or extents):
            needs = "model.clip_proposals_to: image, or another model with extents," if extents else "data.canvas.trim"
            raise ValueError(
                f"data.canvas.fit: found {data.canvas.fit}, {needs} needs an image at the top left, such as corner"
            )
        sections = {"augment": train.augment, "class_augment": train.class_augment}
        used = model.augment
        del sections[used]
        for unused, section in sections.items():
            if changed := sorted(section.model_dump(exclude_defaults=True)):
                raise ValueError(f"train.{unused}: {', '.join(changed)} set; {model.task} models use train.{used}")
        return self

    @staticmethod
    def load(name_or_path: str | Path, overrides: Overrides = ()) -> "Recipe":
        """Load a recipe by its name, or from a file.

        Args:
            name_or_path: A shipped name (see `boxwright.list_recipes`), or the path of a YAML or a Darknet .cfg file.
            overrides: Changes by dotted key, e.g. `{"train.epochs": 3}` or `["train.epochs=3"]`.

        Raises:
            InputError: For an unknown name, with the nearest one, an unknown key, or a value that does not fit.

        Example:
            >>> Recipe.load("yolov3_coco_416", {"train.epochs": 3})
        """
        return load(name_or_path, overrides)

    def with_names(self, names: Sequence[str]) -> "Recipe":
        """A copy of this recipe for other classes, `names` in label order."""
        tree = self.tree()
        tree["model"]["classes"], tree["data"]["names"] = len(names), list(names)
        tree["predict"]["temperatures"] = []
        return from_tree(tree, self.name, allow_import=True)

    def with_overrides(self, changes: Overrides) -> "Recipe":
        """A copy of this recipe with `changes` by dotted key, as in `load`."""
        return from_tree(config.override(self.tree(), changes), self.name, allow_import=True)

    def tree(self) -> Tree:
        """The recipe as plain values, as in YAML and in a checkpoint's metadata."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """The text of a recipe file, with every key."""
        return yaml.dump(self.tree(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def names() -> list[str]:
    """The names of the shipped recipes."""
    return sorted(file.name.removesuffix(".yaml") for file in _folder().iterdir() if file.name.endswith(".yaml"))


def summaries() -> dict[str, str]:
    """Name of each shipped recipe -> its one-line summary. Does not import torch."""
    return {name: str(_read(name)[0].get("summary", "")) for name in names()}


def of_cfg(path: str | Path, class_names: str | Path | Sequence[str] | None = None) -> Recipe:
    """The recipe of a Darknet .cfg file.

    Args:
        path: Path of the .cfg file.
        class_names: A .names file, or the names; None for classes without names.

    Raises:
        InputError: For a file that cannot be read, with line and section, and for fewer names than classes.
    """
    tree = recipe_of_cfg(path)
    if class_names is not None:
        classes = tree["model"]["classes"]
        names = read_names(class_names, classes) if isinstance(class_names, str | Path) else list(class_names)
        tree = config.override(tree, {"data.names": names})
    return from_tree(tree, str(path))


def load(name_or_path: str | Path, overrides: Overrides = ()) -> Recipe:
    """Load the shipped recipe `name_or_path`, or the YAML or .cfg file at this path, and apply the overrides.
    Raises InputError for an unknown name (with the nearest one), an unknown key, or a value that does not fit.
    """
    tree, source = _read(name_or_path)
    if Path(source).suffix == ".cfg":
        tree = with_training(tree, source, config.override(tree, overrides)["data"])
    return from_tree(config.override(tree, overrides), source, allow_import=True)


def from_tree(tree: Mapping[str, object], source: str, *, allow_import: bool = False) -> Recipe:
    """A recipe from plain values.

    Args:
        tree: The values.
        source: Origin of the values, named in errors.
        allow_import: Whether a dotted `model.name` may be imported; see `models.module`.

    Raises:
        InputError: For an unknown key or a value that does not fit.
    """
    if not isinstance(tree, Mapping):
        raise InputError(f"{source}: holds {type(tree).__name__}, needed a mapping of keys to values")
    tree = dict(tree)
    model = tree.get("model")
    if not isinstance(model, Mapping) or "name" not in model:
        raise InputError(f"{source}: model.name: missing, needed one of {', '.join(models.names())}")
    try:
        kind = models.module(str(model["name"]), allow_import=allow_import).Config
        tree["data"] = _expand_names(tree.get("data"))
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    model = dict(model)
    if model.get("anchors") == config.AUTO and "anchors" not in kind.model_fields:
        raise InputError(f"{source}: model.anchors: {model['name']} has no list of anchors; leave it out")
    if isinstance(tree["data"], Mapping) and "bands" in tree["data"]:  # they set the number of channels
        bands = tree["data"]["bands"]
        model["input_channels"] = (len(bands) if isinstance(bands, list | tuple) else 0) or RGB
    tree["model"] = config.validate(kind, model, source, "model")
    return config.validate(Recipe, tree, source)


def flatten(tree: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """The values of nested mappings by dotted key."""
    flat: dict[str, object] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def class_names(name: str) -> tuple[str, ...]:
    """The shipped list of class names called `name`, for example coco."""
    lists = {file.name.removesuffix(".txt"): file for file in (_folder() / "names").iterdir()}
    if name not in lists:
        raise InputError(
            f"data.names: there is no list '{name}'; give a list of names, or one of {', '.join(sorted(lists))}"
        )
    return tuple(lists[name].read_text(encoding="utf-8").split("\n")[:-1])


def _expand_names(data: object) -> object:
    if isinstance(data, Mapping) and isinstance(data.get("names"), str):
        return {**data, "names": class_names(data["names"])}
    return {} if data is None else data


def _folder() -> Traversable:
    return resources.files("boxwright") / "recipes"


def _read(name_or_path: str | Path) -> tuple[Tree, str]:
    text = str(name_or_path)
    if text in names():
        with resources.as_file(_folder() / f"{text}.yaml") as file:
            return config.read_yaml(file), f"recipe {text}"
    if Path(text).suffix in {".yaml", ".yml"}:
        return config.read_yaml(Path(text)), text
    if Path(text).suffix == ".cfg":
        return recipe_of_cfg(text), text
    near = difflib.get_close_matches(text, names(), n=1)
    hint = f"did you mean '{near[0]}'?" if near else "`boxwright list` shows them."
    raise InputError(f"there is no recipe '{text}'; {hint} A file of your own ends in .yaml, or .cfg")
