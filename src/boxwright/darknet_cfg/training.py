"""Training settings of a .cfg as keys of a recipe (AlexeyAB's Darknet: parser.c, network.c, data.c).

An iteration of Darknet is an optimizer step here, of `batch` images in `subdivisions` parts.
"""

import math

from boxwright.config import Tree
from boxwright.darknet_cfg import losses
from boxwright.darknet_cfg.layers import Connected, Convolution, Norm, Shortcut
from boxwright.darknet_cfg.plan import USED_KEYS, Plan
from boxwright.darknet_cfg.text import Section

# Keys that `training` reads, or may ignore since they draw, save memory, or have no effect on a detector or any network
DRAWING = {"use_cuda_graph", "optimized_memory", "workspace_size_limit_MB", "max_chart_loss", "show_receptive_field"}
RATES = {
    "batch", "subdivisions", "learning_rate", "burn_in", "power", "max_batches", "policy", "steps", "scales", "step",
    "scale", "gamma", "sgdr_cycle", "sgdr_mult", "learning_rate_min", "momentum", "decay", "loss_scale", "ema_alpha",
}  # fmt: skip
COLORS = {"flip", "hue", "saturation", "exposure"}
NET = RATES | COLORS | DRAWING | {"mixup"}
HEAD = {"jitter", "resize", "random", "max"}
DETECTOR = {
    "net": NET | {"mosaic", "angle", "aspect", "resize_step"}, "yolo": HEAD | losses.YOLO,
    "Gaussian_yolo": HEAD | losses.GAUSSIAN, "region": HEAD | losses.REGION, "dropout": {"probability"},
}  # fmt: skip
CLASSIFIER = {
    "net": NET | {"label_smooth_eps", "min_crop", "max_crop", "aspect", "cutmix"}, "dropout": {"probability"},
    "cost": {"type"},
}  # fmt: skip

WITHOUT_EFFECT_AT_1 = {"delta_normalizer", "time_steps", "learning_rate"}
# Keys that affect the output and also, unsupported here, training
ALSO_TRAINING = {"cbn"}
MAX_CYCLES = 1000  # of sgdr
EVERY_STEPS = 100  # steps between evaluations: an epoch of a small data set is only a few of Darknet's large batches
EMA_RAMP = 2000.0  # steps, as in MindYOLO: otherwise the EMA of the first steps is dominated by the initial weights


def training(plan: Plan) -> tuple[Tree, Tree, Tree]:
    """Keys of the sections `train`, `data` and `model` of a recipe that the file sets."""
    net = plan.net
    train: Tree = {
        "batch": max(1, net.integer("batch", 1) // max(1, net.integer("subdivisions", 1))),
        "accumulate": max(1, net.integer("subdivisions", 1)),
        "schedule": _schedule(net),
        "optimizer": {"momentum": net.number("momentum", 0.9), "weight_decay": net.number("decay", 0.0001)},
        "evaluate_min_steps": EVERY_STEPS,
    }
    if net.number("loss_scale", 1.0) != 1:
        train["optimizer"]["loss_scale"] = net.number("loss_scale")
    if limit := net.integer("max_batches"):
        train |= {"epochs": "auto", "min_steps": limit}
    if alpha := net.number("ema_alpha"):
        train["ema"] = {"decay": alpha, "ramp": EMA_RAMP}
    if frozen := _frozen(plan):
        train["freeze"] = frozen
    if not plan.heads:
        return {**train, "class_augment": _class_augment(plan)}, {}, {"label_smoothing": net.number("label_smooth_eps")}
    train["augment"] = _augment(plan)
    max_boxes = plan.heads[-1].section.integer("max")
    return train, {"max_boxes": max_boxes} if max_boxes else {}, losses.loss(plan.heads)


def not_taken_over(plan: Plan) -> list[str]:
    """Training keys of the file without a counterpart in recipes, sorted."""
    taken = DETECTOR if plan.heads else CLASSIFIER
    found = set()
    for section in plan.sections:
        used = USED_KEYS.get(section.kind, set()) - ALSO_TRAINING
        for key in section.options.keys() - used - taken.get(section.kind, set()):
            frozen = key == "stopbackward" and section.integer(key) == 1
            if section.has(key) and section.word(key) != "0" and not frozen:
                try:
                    neutral = float(section.word(key)) == (1 if key in WITHOUT_EFFECT_AT_1 else 0)
                except ValueError:
                    neutral = False
                found |= set() if neutral else {key}
    return sorted(found)


def _schedule(net: Section) -> Tree:
    rate, limit = net.number("learning_rate", 0.001), net.integer("max_batches")
    schedule: Tree = {"lr": rate, "kind": "constant", "by_step": True}
    match net.word("policy", "constant"):
        case "step":
            schedule |= {"kind": "step", "lr_steps": [net.integer("step", 1)], "lr_gamma": net.number("scale", 1.0)}
        case "steps":
            schedule |= _falls(net)
        case "poly":
            schedule |= {"kind": "linear", "linear_power": net.number("power", 4.0)}
        case "sgdr":
            schedule |= {"kind": "cosine", "eta_min": net.number("learning_rate_min", 0.00001)}
            if net.integer("sgdr_cycle", limit) < limit:
                schedule["cycle_steps"] = _cycles(net, limit)
        case "exp":
            schedule |= {"kind": "exponential", "lr_gamma": net.number("gamma", 1.0)}
        case "sigmoid":
            step = net.integer("step", 1)
            schedule |= {"kind": "sigmoid", "lr_gamma": net.number("gamma", 1.0), "lr_steps": [step]}
        case "random":
            raise net.error(
                "not supported in training; needed constant, step, steps, exp, poly, sigmoid or sgdr", "policy"
            )
    if burn_in := net.integer("burn_in"):
        power = net.number("power", 4.0)
        schedule |= {"warmup_min_steps": burn_in, "warmup_from": 0.0, "warmup_power": power}
    return schedule


def _cycles(net: Section, limit: int) -> list[int]:
    """Step at which each cosine cycle ends, up to the one that reaches `limit` steps."""
    cycle, factor = net.integer("sgdr_cycle"), net.integer("sgdr_mult", 2)
    if min(cycle, factor) < 1:
        raise net.error("needed sgdr_cycle and sgdr_mult of 1 or more", "sgdr_cycle")
    ends = [cycle]
    while ends[-1] < limit:
        if len(ends) == MAX_CYCLES:
            raise net.error(f"more than {MAX_CYCLES:,} cycles in max_batches={limit}; needed longer ones", "sgdr_cycle")
        cycle *= factor
        ends.append(ends[-1] + cycle)
    return ends


def _falls(net: Section) -> Tree:
    """Multistep schedule. Darknet processes the list in order, so a step waits for those before it."""
    steps, scales = net.integers("steps"), net.numbers("scales")
    if len(scales) < len(steps):
        raise net.error(f"{len(scales)} scales for {len(steps)} steps; needed one per step", "scales")
    falls: dict[int, float] = {}
    for number, scale in enumerate(scales[: len(steps)]):
        step = max(1, *steps[: number + 1])
        falls[step] = falls.get(step, 1.0) * scale
    if not falls:
        return {}
    same = len(set(falls.values())) == 1
    return {"kind": "multistep", "lr_steps": [*falls], "lr_gamma": scales[0] if same else [*falls.values()]}


def _augment(plan: Plan) -> Tree:
    """Augmentation settings. Darknet moves each side of the visible region by up to `jitter` of the image, then two
    opposite sides together by up to `resize`. Here the region is scaled by one factor for both axes and one for the
    aspect ratio, uniform with the same standard deviations: the mean of both axes' +-2 j (triangular) corresponds to
    +-j, their difference to +-sqrt(2) j each.
    """
    net, last = plan.net, plan.heads[-1].section
    jitter = min(abs(last.number("jitter", 0.2)), 0.6)  # from 0.5 on, opposite sides may meet
    resize = _up(last.number("resize", 1.0))
    found = {
        **_flip(net),
        "hue": min(abs(net.number("hue")), 1.0),
        "saturation": _range(net.number("saturation", 1.0)),
        "value": _range(net.number("exposure", 1.0)),
        "scale": [round(1 / ((1 + jitter) * resize), 4), round(resize / (1 - jitter), 4)],
        "jitter": round(math.sqrt(2) * jitter, 4),
        "translate": None,
        "mosaic": 0.5 if net.integer("mosaic") else 0.0,
        "mixup": 0.5 if net.integer("mixup") else 0.0,
    }
    if jitter == 0 and resize == 1:
        found |= {"translate": 0.0}
    if (factor := last.number("random")) > 0:
        found |= {"sizes": _sizes(plan, 1.4 if factor == 1 else _up(factor)), "resize_every": 10}
    return found


def _sizes(plan: Plan, factor: float) -> list[list[int]]:
    """Canvas sizes of `random`: round(side * f / 32 + 1) * 32 for f from 1 / factor to factor."""
    wanted = plan.net.integer("resize_step", 32)
    largest = max(side for pair in plan.strides for side in pair)
    step = wanted if wanted > 0 and wanted % largest == 0 else math.ceil(largest)
    _, height, width = plan.image
    factors = [factor ** (number / 500 - 1) for number in range(1001)]
    found = {tuple(int(side * each / step + 1.5) * step for side in (height, width)) for each in factors}
    return [list(size) for size in sorted(found)]


def _class_augment(plan: Plan) -> Tree:
    net, (_, height, width) = plan.net, plan.image
    aspect = _up(net.number("aspect", 1.0))
    smallest, largest = net.integer("min_crop", width), net.integer("max_crop", 2 * width)
    side = math.sqrt(height * width)
    area = [min(1.0, (side / max(1, crop)) ** 2) for crop in (largest, smallest)]
    return {
        **_flip(net),
        "area": [round(min(area), 6), round(max(area), 6)],
        "aspect": [round(1 / aspect, 4), round(aspect, 4)],
        "hue": min(abs(net.number("hue")), 0.5),
        "saturation": min(round(_up(net.number("saturation", 1.0)) - 1, 4), 1.0),
        "brightness": min(round(_up(net.number("exposure", 1.0)) - 1, 4), 1.0),
        "mixup": 0.5 if net.integer("mixup") else 0.0,
        "cutmix": 0.5 if net.integer("cutmix") else 0.0,
    }


def _flip(net: Section) -> Tree:
    return {"flip": 0.5 if net.integer("flip", 1) else 0.0}


def _up(factor: float) -> float:
    """A factor or its inverse, whichever is above 1; Darknet draws one of both."""
    return max(factor, 1 / factor) if factor > 0 else 1.0


def _range(factor: float) -> list[float]:
    up = _up(factor)
    return [round(1 / up, 4), round(up, 4)]


def _frozen(plan: Plan) -> list[str]:
    """Names of the layers with weights up to the last `stopbackward=1`."""
    last = max((layer.section.index for layer in plan.layers if layer.section.integer("stopbackward") == 1), default=-1)
    own = (
        layer.section.index
        for layer in plan.layers[: last + 1]
        if (isinstance(layer, Convolution) and layer.share is None)
        or isinstance(layer, Connected | Norm)
        or (isinstance(layer, Shortcut) and layer.weights != (0, 0))
    )
    return [f"layers.{index}" for index in own]
