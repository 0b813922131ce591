"""Recipes: one whole experiment as checked, frozen values.

Every field says its unit. A recipe is read from `recipes/NAME.yaml` or a file of the user's, changed by overrides,
and written into every run folder and every checkpoint.
"""

import difflib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic
import yaml
from pydantic import Field

from boxwright import config, models
from boxwright.config import BatchSize, ClassName, Config, FileName, Fraction, ModelConfig, NotNegative, Positive
from boxwright.errors import InputError

Side = Annotated[int, Field(ge=1, le=16_384)]  # px; a slip of the hand is refused before memory is asked for
Size = tuple[Side, Side]  # (height, width)


def _rising(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError("the lower end comes first")
    return ends


Range = Annotated[tuple[Positive, Positive], pydantic.AfterValidator(_rising)]  # of a factor, lower end first


class CanvasConfig(Config):
    """How a picture is put on the network's input."""

    size: Size = (416, 416)  # (height, width) px
    # letterbox keeps the aspect and centres. corner keeps it too, but starts at the top left. zoo_corner is that of the
    # MindSpore zoo's Faster R-CNN: a picture first fitted by its short side may be too high and is then resized again.
    # torchvision_corner: corner, but the sides become at most `short_side` and `long_side`, and are cut to whole px.
    # crop, for classifiers: the shorter side becomes `short_side`, then the middle of `size` is cut out.
    fit: Literal["stretch", "letterbox", "corner", "zoo_corner", "torchvision_corner", "crop"] = "stretch"
    short_side: Annotated[int, Field(ge=0, le=16_384)] = 0  # px, of the last two; 0: the shorter side of `size`
    long_side: Annotated[int, Field(ge=0, le=16_384)] = 0  # px, of fit torchvision_corner; 0: the longer side of `size`
    # grey of what the picture does not cover; Darknet's is 127.5, which a canvas of whole numbers rounds to 128
    fill: Annotated[float, Field(ge=0, le=255)] = 114
    # cut the canvases of a batch to the smallest size that holds its pictures and suits the model, as torchvision pads;
    # of detectors, when they look: training keeps whole canvases
    trim: bool = False
    # linear: OpenCV bilinear. area: OpenCV area average when shrinking, bilinear when enlarging (MindYOLO).
    # zoo: Pillow bicubic when both sides grow, nearest when both shrink, else bilinear (MindSpore zoo).
    # darknet: bilinear on aligned corners, not rounded to whole grey values (Darknet).
    # float: linear, not rounded to whole grey values (torchvision).
    resize: Literal["linear", "area", "zoo", "darknet", "float"] = "linear"


class SuppressionConfig(Config):
    """Non-maximum suppression: by score, within each class of a picture."""

    # A box that overlaps a better one by more than `iou` is dropped. plain: overlap is IoU. diou: IoU less the squared
    # distance of the centres over the squared diagonal of the hull. greedy: that share to the power of 0.6 (Darknet's
    # greedynms). The soft kinds lower its score instead. soft: by exp(-IoU^2 / sigma). soft_linear: by 1 - IoU.
    kind: Literal["plain", "diou", "greedy", "soft", "soft_linear"] = "plain"
    iou: Fraction = 0.5  # boxes overlapping a better one by more than this are dropped
    sigma: Positive = 0.5  # of kind soft, which has no `iou`; larger lowers less
    plus_one: bool = False  # count pixels inclusively, width = x2 - x1 + 1 (MindSpore zoo)
    # to what boxes are cut before they are compared: the canvas with its padding (MindSpore zoo's Faster R-CNN), or the
    # picture on it (torchvision's)
    cut: Literal["no", "canvas", "picture"] = "no"
    candidates: Annotated[int, Field(ge=1, le=100_000)] = 30000  # best boxes an image that enter, over all classes
    keep: Annotated[int, Field(ge=1, le=100_000)] = 300  # best boxes an image that leave

    @pydantic.model_validator(mode="after")
    def _pixels_are_counted_in_pixels(self) -> Self:
        if self.kind == "greedy" and self.plus_one:
            raise ValueError("plus_one counts pixels, kind greedy shares of the picture; set plus_one to false")
        return self


class DataConfig(Config):
    root: str = ""  # folder or YAML of the data set; `--data` fills it
    kind: str = "auto"  # a layout: the name of a module in `formats`; auto finds it out
    names: tuple[ClassName, ...] = ()  # class names in label order; `coco` in a recipe file means COCO's 80
    canvas: CanvasConfig = CanvasConfig()
    cache: str = ""  # folder for the index of a COCO JSON; empty: the user's cache folder
    # what of each picture must be the same when a run is resumed: name, size and 4 KiB at both ends, or all of it
    fingerprint: Literal["sample", "content"] = "sample"
    max_boxes: Annotated[int, Field(ge=1)] | None = None  # a picture's further boxes are left out, and reported
    workers: Annotated[int, Field(ge=0, le=256)] = 2  # loader processes for each training process


class AugmentConfig(Config):
    """Random changes, drawn on the device for a whole batch; the defaults change nothing."""

    flip: Fraction = 0.0  # probability of mirroring left and right
    scale: Range = (1.0, 1.0)  # size factor, uniform between the two
    jitter: Annotated[float, Field(ge=0, lt=1)] = 0.0  # aspect: (1 +- jitter) / (1 +- jitter)
    expand: Fraction = 0.0  # probability that a picture shrinks by a factor from 1 to 4, anywhere on its own extent
    # fraction of the canvas by which the centre moves; null: anywhere the picture still fits or covers
    translate: NotNegative | None = 0.0
    degrees: NotNegative = 0.0  # rotation, +-
    shear: NotNegative = 0.0  # degrees, +-
    perspective: NotNegative = 0.0  # per px, +-
    hue: Fraction = 0.0  # +-, as a share of the colour circle
    saturation: Range = (1.0, 1.0)  # factor: up or down with equal chance, then uniform to the end
    value: Range = (1.0, 1.0)  # likewise
    mosaic: Fraction = 0.0  # probability that an image is made of four
    mixup: Fraction = 0.0  # probability that an image is blended with another, share from Beta(8, 8)
    close_mosaic: Annotated[int, Field(ge=0)] = 0  # last epochs without mosaic and mixup
    sizes: tuple[Size, ...] = ()  # multi-scale: (height, width) px to draw from; none: the canvas size
    resize_every: Annotated[int, Field(ge=1)] = 1  # steps between two draws of a size
    min_side: NotNegative = 1.0  # px; boxes cut to this side or less are no targets in that step (crowd regions stay)
    min_visible: Fraction = 0.0  # boxes of which less than this area stays are no targets in that step


Colour = Annotated[float, Field(ge=0, le=255)]


class ClassAugmentConfig(Config):
    """Random changes for classifiers, drawn on the device for a whole batch, or with `area` partly when a picture is
    loaded; the defaults change nothing.

    Without `area` and `pad` a picture is seen as `data.canvas` says, as in evaluation.
    """

    # (height, width) px that whole pictures are stretched to when they are loaded; null: 5/4 of the input
    canvas: Size | None = None
    area: Range | None = None  # a random window of so large a share of the picture, resized to the input when loaded
    aspect: Range = (3 / 4, 4 / 3)  # width to height of that window, drawn on a logarithmic scale
    # px of the picture by which it is padded on all sides with `data.canvas.fill`, to cut out a window of its own size
    pad: Annotated[int, Field(ge=0)] = 0
    flip: Fraction = 0.0  # probability of mirroring left and right
    # what torchvision.transforms.v2 calls so, one operation a picture or several, on the window
    policy: Literal["no", "rand_augment", "trivial_augment", "auto_augment", "augmix"] = "no"
    # brightness, contrast and saturation change by a factor of 1 +- this, hue by +- this share of the colour circle;
    # the four in random order (torchvision's ColorJitter, MindSpore's RandomColorAdjust)
    brightness: Fraction = 0.0
    contrast: Fraction = 0.0
    saturation: Fraction = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    erase: Fraction = 0.0  # probability that a rectangle is painted over (random erasing)
    erase_area: Range = (0.02, 0.33)  # its share of the picture
    erase_aspect: Range = (0.3, 3.3)  # its height to width, drawn on a logarithmic scale
    cutout: Annotated[int, Field(ge=0)] = 0  # px, side of a square painted over, which may reach out of the picture
    erase_colour: tuple[Colour, Colour, Colour] = (124.0, 116.0, 104.0)  # of both; ImageNet's mean
    mixup: Fraction = 0.0  # probability that a picture is blended with another, share from Beta(alpha, alpha)
    mixup_alpha: Positive = 0.2
    cutmix: Fraction = 0.0  # probability that a rectangle shows another picture, share of the area likewise
    cutmix_alpha: Positive = 1.0

    @pydantic.model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.area and self.area[1] > 1:
            raise ValueError(f"area holds {list(self.area)}; a window is a share of the picture, at most 1")
        if self.area and self.pad:
            raise ValueError("area and pad both choose a window; set one of them to null or 0")
        if self.area and self.canvas:
            raise ValueError("canvas is for whole pictures, and area loads only a window of each; set one to null")
        if self.mixup + self.cutmix > 1:
            raise ValueError(f"mixup and cutmix are {self.mixup} and {self.cutmix}; together at most 1")
        return self


class ScheduleConfig(Config):
    """Learning rate by step; `engine/schedule.py` draws the curve. lr is for the whole group of processes and is not
    scaled by their number.

    Without `warmup_bias_lr` the warm-up is the MindSpore zoo's: from lr / steps up to lr. With it, MindYOLO's: weights
    rise from 0, biases and betas fall from `warmup_bias_lr`, both to the curve's value.
    """

    kind: Literal["constant", "step", "multistep", "cosine", "linear"] = "cosine"
    lr: Annotated[float, Field(gt=0, le=1000)] = 0.001
    lr_epochs: tuple[Annotated[int, Field(ge=1)], ...] = ()  # multistep: where it falls; step: (every,)
    lr_gamma: Positive = 0.1  # factor at each fall
    eta_min: NotNegative = 0.0  # lowest lr of cosine and linear
    T_max: Annotated[int, Field(ge=1)] | None = None  # epochs until cosine and linear reach eta_min; null: all
    T_beyond: Annotated[int, Field(ge=0)] = 0  # so many epochs after the last, where T_max is null
    by_step: bool = False  # cosine and linear move with every step from the end of the warm-up on, not once an epoch
    warmup_epochs: NotNegative = 0
    warmup_min_steps: Annotated[int, Field(ge=0)] = 0  # a warm-up has at least so many steps
    warmup_from: Fraction | None = None  # share of lr that the zoo's warm-up starts from; null: lr / steps
    warmup_bias_lr: Annotated[float, Field(ge=0, le=1000)] | None = None
    warmup_momentum: Fraction | None = None  # momentum rises from here over the warm-up; null: constant

    @pydantic.model_validator(mode="after")
    def _falls_fit_the_kind(self) -> Self:
        if self.kind == "step" and len(self.lr_epochs) != 1:
            raise ValueError(
                f"lr_epochs holds {list(self.lr_epochs)}; kind step needs one number, the epochs of a step"
            )
        if self.kind == "multistep" and (not self.lr_epochs or list(self.lr_epochs) != sorted(set(self.lr_epochs))):
            raise ValueError(
                f"lr_epochs holds {list(self.lr_epochs)}; kind multistep needs rising epochs, as [160, 180]"
            )
        if self.eta_min > self.lr:
            raise ValueError(f"eta_min {self.eta_min} is above lr {self.lr}; it is the lowest rate")
        if self.warmup_from is not None and self.warmup_bias_lr is not None:
            raise ValueError("warmup_from and warmup_bias_lr belong to different warm-ups; set one of them to null")
        return self


class OptimizerConfig(Config):
    """SGD with momentum."""

    momentum: Fraction = 0.9
    nesterov: bool = False
    weight_decay: NotNegative = 0.0005
    decay_all: bool = False  # also decay biases and batch norm, not only the weights of layers
    clip: NotNegative = 0.0  # largest norm of all gradients together; 0: no clipping
    loss_scale: Positive = 1.0  # multiplies the loss before backward, divided out before the step
    gradient_scale: Positive = 1.0  # multiplies the gradients before the step, but not the decay (zoo's YOLOv4: 1 / 64)


class EmaConfig(Config):
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.0  # 0: no average is kept
    ramp: NotNegative = 0.0  # decay * (1 - exp(-step / ramp)); 0: constant


class TrainConfig(Config):
    epochs: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    batch: BatchSize = 8  # images a process and step
    accumulate: BatchSize = 1  # batches averaged into one step of the optimiser
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    schedule: ScheduleConfig = ScheduleConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    ema: EmaConfig = EmaConfig()
    augment: AugmentConfig = AugmentConfig()  # of detectors
    class_augment: ClassAugmentConfig = ClassAugmentConfig()  # of classifiers
    precision: Literal["no", "fp16", "bf16"] = "no"
    channels_last: bool = False
    freeze: tuple[str, ...] = ()  # parameters whose names start so are not trained
    freeze_norm: bool = False  # batch norm keeps its statistics and is not trained
    freeze_statistics: bool = False  # batch norm keeps its statistics; its scale and shift are trained
    log_every: Annotated[int, Field(ge=1)] = 20  # steps
    save_every: Annotated[int, Field(ge=0)] = 0  # steps between checkpoints inside an epoch; 0: at its end only
    keep: Annotated[int, Field(ge=0)] = 0  # numbered checkpoints kept beside last and best
    evaluate_every: Annotated[int, Field(ge=0)] = 1  # epochs; 0: only after the last
    evaluate_from: Annotated[int, Field(ge=0)] = 0  # first epoch (from 0) that is evaluated
    profile: Annotated[int, Field(ge=0)] = 0  # steps to profile at the start; 0: none


class EvaluateConfig(Config):
    threshold: Fraction = 0.001  # lowest score that counts
    plus_one: bool = False  # boxes count one px wider and higher, x2 - x1 + 1 (MindSpore zoo's Faster R-CNN)
    suppression: SuppressionConfig = SuppressionConfig()
    batch: BatchSize = 8


class PredictConfig(Config):
    threshold: Fraction = 0.25
    suppression: SuppressionConfig = SuppressionConfig()
    batch: BatchSize = 8


class Expect(Config):
    """A published claim; nothing here was measured by this project."""

    metric: str = ""
    value: float | None = None
    source: str = ""
    hardware: str = ""

    def beside(self, measured: Mapping[str, float]) -> str:
        """`AP50 0.442 here, published 0.331 (source)`; "" where nothing is claimed, or the metric was not measured."""
        if self.value is None or self.metric not in measured:
            return ""
        origin = ", ".join(part for part in (self.source, self.hardware) if part)
        return f"{self.metric} {measured[self.metric]:.3f} here, published {self.value:g} ({origin})"


class Recipe(Config):
    name: FileName
    summary: str = ""  # one line, shown by `boxwright list`
    model: pydantic.SerializeAsAny[ModelConfig]
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    predict: PredictConfig = PredictConfig()
    expect: Expect = Expect()

    @pydantic.model_validator(mode="after")
    def _one_name_a_class(self) -> Self:
        classes = getattr(self.model, "classes", None)
        if self.data.names and classes != len(self.data.names):
            raise ValueError(f"model.classes is {classes}, data.names holds {len(self.data.names)} names")
        if len(set(self.data.names)) < len(self.data.names):
            raise ValueError("data.names holds a name more than once, needed different ones")
        return self

    @pydantic.model_validator(mode="after")
    def _sizes_fit_the_network(self) -> Self:
        step = getattr(self.model, "size_step", 1)
        sizes = [("data.canvas.size", self.data.canvas.size)]
        sizes += [("train.augment.sizes", size) for size in self.train.augment.sizes]
        for place, size in sizes:
            if any(side % step for side in size):
                raise ValueError(f"{place}: found {list(size)} px, the model needs multiples of {step}")
        return self

    @pydantic.model_validator(mode="after")
    def _pictures_lie_at_the_corner(self) -> Self:
        fit, trim, within = self.data.canvas.fit, self.data.canvas.trim, getattr(self.model, "within", "canvas")
        if fit in {"letterbox", "crop"} and (trim or within == "picture"):
            asking = "model.within: picture" if within == "picture" else "data.canvas.trim"
            raise ValueError(f"data.canvas.fit: found {fit}, {asking} needs a picture at the top left, such as corner")
        return self

    @pydantic.model_validator(mode="after")
    def _one_kind_of_augment(self) -> Self:
        unused = {"detect": "class_augment", "classify": "augment"}[self.model.task]
        if changed := sorted(getattr(self.train, unused).model_dump(exclude_defaults=True)):
            other = {"class_augment": "augment", "augment": "class_augment"}[unused]
            raise ValueError(f"train.{unused}: {', '.join(changed)} set; {self.model.task} models use train.{other}")
        return self

    @classmethod
    def load(cls, name_or_path: str | Path, overrides: Mapping[str, Any] | Sequence[str] = ()) -> "Recipe":
        """The recipe of a name or a file.

        Args:
            name_or_path: A shipped name (see `boxwright.list_recipes`), or the path of a YAML file.
            overrides: Changes by dotted key, as `{"train.epochs": 3}` or `["train.epochs=3"]`.

        Raises:
            InputError: For an unknown name, with the nearest one, an unknown key, or a value that does not fit.

        Example:
            >>> Recipe.load("yolov3_coco_416", {"train.epochs": 3})
        """
        return load(name_or_path, overrides)

    def with_names(self, names: Sequence[str]) -> Self:
        """This recipe for other classes."""
        tree = self.tree()
        tree["model"]["classes"], tree["data"]["names"] = len(names), list(names)
        return from_tree(tree, self.name)  # type: ignore[return-value]

    def with_overrides(self, changes: Mapping[str, Any] | Sequence[str]) -> Self:
        return from_tree(config.override(self.tree(), changes), self.name)  # type: ignore[return-value]

    def tree(self) -> dict[str, Any]:
        """Plain values, as YAML and a checkpoint's metadata hold them."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.tree(), sort_keys=False, allow_unicode=True, width=110)


def names() -> list[str]:
    """The shipped recipes."""
    return sorted(file.name.removesuffix(".yaml") for file in _folder().iterdir() if file.name.endswith(".yaml"))


def summaries() -> dict[str, str]:
    """Shipped recipe -> its one line. Builds nothing and does not import torch."""
    return {name: str(_read(name)[0].get("summary", "")) for name in names()}


def load(name_or_path: str | Path, overrides: Mapping[str, Any] | Sequence[str] = ()) -> Recipe:
    """The shipped recipe of that name, or the YAML file at that path, with overrides applied.

    Raises InputError for an unknown name (with the nearest one), an unknown key, or a value that does not fit.
    """
    tree, source = _read(name_or_path)
    return from_tree(config.override(tree, overrides), source)


def from_tree(tree: Mapping[str, Any], source: str) -> Recipe:
    """A recipe from plain values; `source` names where they came from in an error."""
    if not isinstance(tree, Mapping):
        raise InputError(f"{source}: holds {type(tree).__name__}, needed a mapping of keys to values")
    tree = dict(tree)
    model = tree.get("model")
    if not isinstance(model, Mapping) or "name" not in model:
        raise InputError(f"{source}: model.name: missing, needed one of {', '.join(models.names())}")
    try:
        kind = models.module(str(model["name"])).Config
        tree["data"] = _expand_names(tree.get("data"))
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    tree["model"] = config.validate(kind, dict(model), source, "model")
    return config.validate(Recipe, tree, source)


def class_names(name: str) -> tuple[str, ...]:
    """The shipped list of class names called `name`, for example coco."""
    lists = {file.name.removesuffix(".txt"): file for file in (_folder() / "names").iterdir()}
    if name not in lists:
        raise InputError(
            f"data.names: there is no list '{name}'; give a list of names, or one of {', '.join(sorted(lists))}"
        )
    return tuple(lists[name].read_text(encoding="utf-8").split("\n")[:-1])


def _expand_names(data: Any) -> Any:
    if isinstance(data, Mapping) and isinstance(data.get("names"), str):
        return {**data, "names": class_names(data["names"])}
    return {} if data is None else data


def _folder() -> Any:
    return resources.files("boxwright") / "recipes"


def _read(name_or_path: str | Path) -> tuple[config.Tree, str]:
    text = str(name_or_path)
    if text in names():
        with resources.as_file(_folder() / f"{text}.yaml") as file:
            return config.read_yaml(file), f"recipe {text}"
    if Path(text).suffix in {".yaml", ".yml"}:
        return config.read_yaml(Path(text)), text
    near = difflib.get_close_matches(text, names(), n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(names())}."
    raise InputError(f"there is no recipe '{text}'; {hint} A file of your own ends in .yaml")
