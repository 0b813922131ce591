"""Sections of a recipe: augmentation, schedule, optimizer and the training loop."""

from typing import Annotated, Literal, Self

import pydantic
from pydantic import Field

from boxwright.config import BatchSize, ClassName, Config, Fraction, NotNegative, Positive
from boxwright.errors import InputError
from boxwright.recipe.data import Size


def _rising(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError("the lower end comes first")
    return ends


Range = Annotated[tuple[Positive, Positive], pydantic.AfterValidator(_rising)]  # of a factor: lower end, upper end


class AugmentConfig(Config):
    """Augmentation for detectors, drawn on the device for a whole batch; off by default."""

    flip: Fraction = 0.0  # probability of mirroring left and right
    scale: Range = (1.0, 1.0)  # size factor, uniform between the two
    jitter: Annotated[float, Field(ge=0, lt=1)] = 0.0  # change of the aspect ratio: (1 +- jitter) / (1 +- jitter)
    expand: Fraction = 0.0  # probability that an image shrinks by a factor from 1 to 4, within its former extent
    # fraction of the canvas by which the center moves; null: anywhere that the image fits into or covers the canvas
    translate: NotNegative | None = 0.0
    degrees: NotNegative = 0.0  # rotation in degrees, +-
    shear: NotNegative = 0.0  # shear in degrees, +-
    perspective: NotNegative = 0.0  # perspective per px, +-
    hue: Fraction = 0.0  # shift of the hue, +-, as a fraction of the color circle
    saturation: Range = (1.0, 1.0)  # factor: above or below 1 with equal probability, then uniform to that end
    value: Range = (1.0, 1.0)  # factor of the value (HSV), drawn like `saturation`
    mosaic: Fraction = 0.0  # probability that an image is composed of four
    mixup: Fraction = 0.0  # probability that an image is blended with another, weight from Beta(8, 8)
    copy_paste: Fraction = 0.0  # probability that boxed objects of another image are pasted into an image
    close_mosaic: Annotated[int, Field(ge=0)] = 0  # number of last epochs without mosaic, mixup and copy-paste
    sizes: tuple[Size, ...] = ()  # multi-scale: (height, width) px to draw from; none: the canvas size
    resize_every: Annotated[int, Field(ge=1)] = 1  # steps between two draws of a size
    min_side: NotNegative = 1.0  # px; boxes clipped to at most this are not targets in that step (crowd regions stay)
    min_visible: Fraction = 0.0  # boxes that keep less than this fraction of their area are not targets in that step


Color = Annotated[float, Field(ge=0, le=255)]


class ClassAugmentConfig(Config):
    """Augmentation for classifiers, drawn on the device for a whole batch (the window of `area` when an image is
    loaded); off by default.

    Without `area` and `pad` an image is preprocessed by `data.canvas`, as in evaluation.
    """

    # (height, width) px that whole images are stretched to when they are loaded; null: 5/4 of the input
    canvas: Size | None = None
    area: Range | None = None  # a random window with this fraction of the image, resized to the input when loaded
    aspect: Range = (3 / 4, 4 / 3)  # width / height of the window, on a logarithmic scale (torchvision's)
    # px by which the image is padded on all sides with `data.canvas.fill`, before a window of its size is cropped
    pad: Annotated[int, Field(ge=0)] = 0
    flip: Fraction = 0.0  # probability of mirroring left and right
    # the policy of this name in torchvision.transforms.v2, one or several operations per image, on the window
    policy: Literal["no", "rand_augment", "trivial_augment", "auto_augment", "augmix"] = "no"
    # brightness, contrast and saturation change by a factor of 1 +- this, hue by +- this fraction of the color circle;
    # the four in random order (torchvision's ColorJitter, MindSpore's RandomColorAdjust)
    brightness: Fraction = 0.0
    contrast: Fraction = 0.0  # like `brightness`
    saturation: Fraction = 0.0  # like `brightness`
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0  # shift of the hue, +-, as a fraction of the color circle
    erase: Fraction = 0.0  # probability that a rectangle is painted over (random erasing)
    erase_area: Range = (0.02, 0.33)  # fraction of the image that the rectangle covers (torchvision's RandomErasing)
    erase_aspect: Range = (0.3, 3.3)  # height / width of the rectangle, on a logarithmic scale (torchvision's)
    cutout: Annotated[int, Field(ge=0)] = 0  # px, side of a square painted over, which may extend beyond the image
    erase_color: tuple[Color, Color, Color] = (124.0, 116.0, 104.0)  # RGB for erase and cutout; ImageNet's mean
    mixup: Fraction = 0.0  # probability that an image is blended with another, weight from Beta(alpha, alpha)
    mixup_alpha: Positive = 0.2  # of the Beta distribution; larger: more even weights (ImageNet in arXiv:1710.09412)
    cutmix: Fraction = 0.0  # probability that a rectangle shows another image, area from Beta(alpha, alpha)
    cutmix_alpha: Positive = 1.0  # of the Beta distribution; larger: more even areas (ImageNet in arXiv:1905.04899)

    @pydantic.model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.area and self.area[1] > 1:
            raise ValueError(f"area holds {list(self.area)}; a window is a share of the image, at most 1")
        if self.area and self.pad:
            raise ValueError("area and pad both choose a window; set one of them to null or 0")
        if self.area and self.canvas:
            raise ValueError("canvas is for whole images, and area loads only a window of each; set one to null")
        if self.mixup + self.cutmix > 1:
            raise ValueError(f"mixup and cutmix are {self.mixup} and {self.cutmix}; together at most 1")
        return self


class ScheduleConfig(Config):
    """Learning rate by step; `engine/schedule.py` computes the curve. lr is for all processes together: it is not
    scaled by their number.

    Without `warmup_bias_lr` the warm-up is the MindSpore zoo's: from lr / steps up to lr. With it, MindYOLO's: the
    learning rate of weights rises from 0, that of biases and batch norm's betas falls from `warmup_bias_lr`, both to
    the curve's value.
    """

    # exponential: lr * lr_gamma^step. sigmoid: lr / (1 + exp(lr_gamma * (step - lr_steps))). Both change in every step
    kind: Literal["constant", "step", "multistep", "cosine", "linear", "exponential", "sigmoid"] = "cosine"
    lr: Annotated[float, Field(gt=0, le=1000)] = 0.001  # learning rate after the warm-up
    lr_epochs: tuple[
        Annotated[int, Field(ge=1)], ...
    ] = ()  # multistep: where lr falls; step: (every,); sigmoid: (half,), where lr is half
    lr_steps: tuple[Annotated[int, Field(ge=1)], ...] = ()  # like `lr_epochs`, in steps, instead of it
    lr_gamma: Positive | tuple[Positive, ...] = 0.1  # factor at each fall; multistep: also a list, one per fall
    eta_min: NotNegative = 0.0  # lowest lr of cosine and linear
    linear_power: Positive = 1.0  # linear: eta_min + (lr - eta_min) * (1 - progress) to this power
    T_max: Annotated[int, Field(ge=1)] | None = None  # epochs until cosine and linear reach eta_min; null: all
    # cosine: steps at which eta_min is reached, in place of T_max; after each but the last it restarts from lr (SGDR)
    cycle_steps: tuple[Annotated[int, Field(ge=1)], ...] = ()
    T_beyond: Annotated[int, Field(ge=0)] = 0  # epochs from the last one until eta_min, where T_max is null
    by_step: bool = False  # cosine and linear change with every step after the warm-up, not once per epoch
    warmup_epochs: NotNegative = 0  # epochs over which lr rises; fractions are allowed
    warmup_min_steps: Annotated[int, Field(ge=0)] = 0  # minimum length of the warm-up in steps
    warmup_from: Fraction | None = None  # fraction of lr that the zoo's warm-up starts from; null: lr / steps
    warmup_power: Positive = 1.0  # the warm-up rises with this power of its progress; Darknet's is 4
    # lr of biases at the start of MindYOLO's warm-up; null: the zoo's warm-up
    warmup_bias_lr: Annotated[float, Field(ge=0, le=1000)] | None = None
    warmup_momentum: Fraction | None = None  # momentum rises from here over the warm-up; null: constant

    @pydantic.model_validator(mode="after")
    def _falls_fit_the_kind(self) -> Self:
        if self.lr_epochs and self.lr_steps:
            raise ValueError("lr_epochs and lr_steps are both set; leave one of them out")
        key, falls = ("lr_steps", self.lr_steps) if self.lr_steps else ("lr_epochs", self.lr_epochs)
        if self.kind in {"step", "sigmoid"} and len(falls) != 1:
            need = f"the {key[3:]} between two falls" if self.kind == "step" else "where lr is half"
            raise ValueError(f"{key} holds {list(falls)}; kind {self.kind} needs one number, {need}")
        if self.kind == "multistep" and (not falls or list(falls) != sorted(set(falls))):
            raise ValueError(f"{key} holds {list(falls)}; kind multistep needs rising {key[3:]}, e.g. [160, 180]")
        if list(self.cycle_steps) != sorted(set(self.cycle_steps)):
            raise ValueError(f"cycle_steps holds {list(self.cycle_steps)[:5]}; needed rising steps, e.g. [1000, 3000]")
        if isinstance(self.lr_gamma, tuple) and (self.kind != "multistep" or len(self.lr_gamma) != len(falls)):
            raise ValueError(
                f"lr_gamma holds {len(self.lr_gamma)} factors; kind {self.kind} needs one number"
                + (f", or {len(falls)}, one per fall" if self.kind == "multistep" else "")
            )
        if self.eta_min > self.lr:
            raise ValueError(f"eta_min {self.eta_min} is above lr {self.lr}; it is the lowest learning rate")
        if self.warmup_from is not None and self.warmup_bias_lr is not None:
            raise ValueError("warmup_from and warmup_bias_lr belong to different warm-ups; set one of them to null")
        return self


Beta = Annotated[float, Field(ge=0, lt=1)]
KEYS_OF_OPTIMIZER = {"sgd": ("momentum", "nesterov"), "adamw": ("betas", "eps")}  # keys that no other kind uses


class OptimizerConfig(Config):
    """SGD with momentum, or AdamW (arXiv 1711.05101); `engine/optim.py` has the formulas."""

    kind: Literal["sgd", "adamw"] = "sgd"  # the optimizer
    momentum: Fraction = 0.9  # momentum of sgd
    nesterov: bool = False  # Nesterov momentum, for sgd
    betas: tuple[Beta, Beta] = (0.9, 0.999)  # adamw: decay of the averages of gradients and squares (PyTorch's)
    eps: Positive = 1e-8  # adamw: added to the root of the average of squares (PyTorch's)
    weight_decay: NotNegative = 0.0005  # decoupled for adamw: weights shrink by lr * weight_decay per step
    backbone_lr: Positive = 1.0  # factor on the learning rate of parameters under `backbone.`
    decay_all: bool = False  # also decay biases and batch norm, not only the weights of layers
    clip: NotNegative = 0.0  # maximum norm of all gradients together; 0: no clipping
    loss_scale: Positive = 1.0  # multiplies the loss before backward, divided out before the step
    gradient_scale: Positive = 1.0  # multiplies the gradients before the step, but not the decay (zoo's YOLOv4: 1 / 64)

    @pydantic.model_validator(mode="after")
    def _keys_fit_the_kind(self) -> Self:
        fields = type(self).model_fields
        keys = [key for kind, unused in KEYS_OF_OPTIMIZER.items() if kind != self.kind for key in unused]
        if changed := [key for key in keys if getattr(self, key) != fields[key].default]:
            raise ValueError(
                f"{', '.join(changed)} set; kind {self.kind} does not use this, leave it out or replace the section: "
                f"--set 'train.optimizer={{kind: {self.kind}}}'"
            )
        return self


class EmaConfig(Config):
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.0  # decay per step; 0: no EMA
    ramp: NotNegative = 0.0  # steps over which the decay rises: decay * (1 - exp(-step / ramp)); 0: constant


def _whole_or_auto(largest: int) -> pydantic.PlainValidator:
    def check(value: object) -> object:
        if value != "auto" and not (type(value) is int and 1 <= value <= largest):
            raise ValueError(f"needed a whole number from 1 to {largest}, or auto")
        return value

    return pydantic.PlainValidator(check)


MAX_EPOCHS = 1_000_000
MAX_BATCH = 65_536
EpochsOrAuto = Annotated[int | Literal["auto"], _whole_or_auto(MAX_EPOCHS)]
BatchOrAuto = Annotated[int | Literal["auto"], _whole_or_auto(MAX_BATCH)]


class TrainConfig(Config):
    epochs: EpochsOrAuto = 100  # auto: min_epochs, or as many as min_steps steps need
    min_epochs: Annotated[int, Field(ge=1, le=MAX_EPOCHS)] = 1  # least epochs of epochs: auto
    min_steps: Annotated[int, Field(ge=0)] = 0  # least optimizer steps of epochs: auto
    minutes: Positive | None = None  # `epochs` becomes the number that fits into this time, measured before step 1
    batch: BatchOrAuto = 8  # images per process and batch; auto: as many as fit into memory
    accumulate: BatchSize = 1  # batches averaged into one step of the optimizer
    # number of processes for a step of batch x processes x accumulate images; auto: that at the start of the run. If
    # resumed with another number, a step keeps its number of images
    processes: BatchOrAuto = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0  # random seed of initial weights, image order, augmentation
    schedule: ScheduleConfig = ScheduleConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    ema: EmaConfig = EmaConfig()
    augment: AugmentConfig = AugmentConfig()  # augmentation for detectors
    class_augment: ClassAugmentConfig = ClassAugmentConfig()  # augmentation for classifiers
    # images with a class that occurs in less than this fraction of the images are repeated within an epoch (LVIS's
    # repeat factor sampling, there 0.001); 0: none
    repeat_threshold: Fraction = 0.0
    # class -> factor of its objects (for a classifier: images) in the class loss; other classes: 1
    class_weights: dict[ClassName, NotNegative] = Field(default_factory=dict)
    precision: Literal["auto", "no", "fp16", "bf16"] = "auto"  # auto: bf16 on a GPU that has it, else no (float32)
    channels_last: bool = False  # PyTorch's channels_last memory format for images and weights
    compile: bool = False  # torch.compile for the loss: takes minutes at the start, for each input size
    freeze: tuple[str, ...] = ()  # prefixes of parameters that are not trained, such as backbone
    freeze_norm: bool = False  # batch norm keeps its statistics and is not trained
    freeze_statistics: bool = False  # batch norm keeps its statistics; its scale and shift are trained
    log_every: Annotated[int, Field(ge=1)] = 20  # steps between two lines of the log
    save_every: Annotated[int, Field(ge=0)] = 0  # steps between checkpoints within an epoch; 0: at its end only
    keep_checkpoints: Annotated[int, Field(ge=0)] = 0  # numbered checkpoints kept beside last and best
    # epochs between two evaluations; 0: only after the last epoch, and never without a split `val`
    evaluate_every: Annotated[int, Field(ge=0)] = 1
    evaluate_min_steps: Annotated[int, Field(ge=0)] = 0  # least steps between two evaluations
    evaluate_from: Annotated[int, Field(ge=0)] = 0  # first epoch (from 0) that is evaluated
    patience: Annotated[int, Field(ge=0)] = 0  # evaluations without improvement after which the run stops; 0: never
    # what gets losses, metrics and final images beside log.jsonl; mlflow and wandb need the extras of the same name
    track: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ("tensorboard",)
    profile: Annotated[int, Field(ge=0)] = 0  # steps to profile at the start; 0: none

    @pydantic.model_validator(mode="after")
    def _sections_agree(self) -> Self:
        if self.schedule.warmup_momentum is not None and self.optimizer.kind != "sgd":
            raise ValueError(
                f"schedule.warmup_momentum set; optimizer.kind {self.optimizer.kind} has no momentum, set it to null"
            )
        schedule = self.schedule
        if self.minutes and (
            schedule.kind not in {"cosine", "linear", "constant"} or schedule.T_max or schedule.cycle_steps
        ):
            raise ValueError(
                "minutes chooses the epochs, and the schedule has fixed ones; set schedule.kind to cosine, linear or "
                "constant, schedule.T_max to null and schedule.cycle_steps to []"
            )
        if self.patience and not self.evaluate_every:
            raise ValueError(
                "patience counts evaluations, and evaluate_every is 0; set evaluate_every, or patience to 0"
            )
        return self

    def evaluation_due(self, epoch: int) -> bool:
        """Whether the network is evaluated after this epoch (from 0) even if it is not the last one."""
        every = self.evaluate_every
        return every > 0 and epoch >= self.evaluate_from and (epoch + 1) % every == 0

    @property
    def batch_size(self) -> int:
        """`batch` as a number, after `engine/auto_batch.py` has replaced auto."""
        assert self.batch != "auto"
        return self.batch

    @property
    def process_count(self) -> int:
        """`processes` as a number; 1 for auto."""
        return 1 if self.processes == "auto" else self.processes

    @property
    def step_images(self) -> int:
        """Images of all processes in one step of the optimizer."""
        return self.batch_size * self.process_count * self.accumulate

    def divided(self, processes: int) -> Self:
        """This section for another number of processes: `batch` does not grow, `accumulate` is as small as possible.

        Raises:
            InputError: The processes cannot have equal shares of a step.
        """
        if self.processes in ("auto", processes):
            return self.model_copy(update={"processes": processes})
        each, rest = divmod(self.step_images, processes)
        if rest:
            raise InputError(
                f"train.processes: a step takes {self.step_images} images (batch {self.batch} x {self.process_count} "
                f"processes x accumulate {self.accumulate}), and {processes} processes cannot take equal shares; start "
                f"a number that divides {self.step_images}, or a new run"
            )
        accumulate = next(n for n in range(1, each + 1) if each % n == 0 and each // n <= self.batch_size)
        return self.model_copy(update={"batch": each // accumulate, "accumulate": accumulate, "processes": processes})

    def place(self, number: int, rank: int) -> tuple[int, int]:
        """The step of the `number`-th batch of a process, and the batch's index in it among those of all processes.

        They do not depend on how processes and `accumulate` divide the batches of a step.
        """
        step, turn = divmod(number, self.accumulate)
        return step, turn * self.process_count + rank

    @property
    def epoch_count(self) -> int:
        """`epochs` as a number, after `in_epochs` has replaced auto."""
        assert self.epochs != "auto"
        return self.epochs

    def in_epochs(self, steps_per_epoch: int) -> Self:
        """This section with `epochs` and `evaluate_every` as `min_steps` and `evaluate_min_steps` require."""
        enough = max(self.min_epochs, -(-self.min_steps // steps_per_epoch))
        epochs = enough if self.epochs == "auto" else self.epochs
        every = max(self.evaluate_every, -(-self.evaluate_min_steps // steps_per_epoch)) if self.evaluate_every else 0
        return self.model_copy(update={"epochs": epochs, "evaluate_every": every})
