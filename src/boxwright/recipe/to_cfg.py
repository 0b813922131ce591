"""The keys of a .cfg for a recipe: the inverse of `recipe/of_cfg.py` and `darknet_cfg/training.py`.

Settings without a counterpart are left out: schedules that count epochs, whose length in steps depends on the data, and
augmentation that Darknet draws from other distributions.
"""

import math

from boxwright.models import yolov3, yolov3_640, yolov4
from boxwright.recipe import Recipe, ScheduleConfig

Keys = dict[str, object]

NMS_KINDS: dict[str, Keys] = {
    "greedy": {"nms_kind": "greedynms", "beta_nms": 0.6},
    "diou": {"nms_kind": "diounms", "beta_nms": 1},
}
LOSS = {  # key of `model.loss` -> key of [yolo]
    "ignore_iou": "ignore_thresh", "assign_iou": "iou_thresh", "label_smoothing": "label_smooth_eps",
    "box": "iou_normalizer", "objectness": "obj_normalizer", "classes": "cls_normalizer",
}  # fmt: skip
BOX_LOSSES = {"zoo_giou": "giou"}  # the other losses have Darknet's names
SCALED = ("box", "objectness", "classes")  # multiplied by the weight of the scale


def net_keys(recipe: Recipe) -> Keys:
    """The keys of [net]."""
    train, optimizer = recipe.train, recipe.train.optimizer
    height, width = recipe.data.canvas.size
    keys: Keys = {
        **({} if train.batch == "auto" else {"batch": train.batch * train.accumulate}),
        "subdivisions": train.accumulate,
        "width": width,
        "height": height,
        "channels": recipe.model.input_channels,
        **({"momentum": optimizer.momentum} if optimizer.kind == "sgd" else {}),
        "decay": optimizer.weight_decay,
        **_schedule(train.schedule),
    }
    if train.epochs == "auto" and train.min_steps:
        keys["max_batches"] = train.min_steps
    if train.ema.decay:
        keys["ema_alpha"] = train.ema.decay
    if recipe.model.task == "classify":
        return keys | _class_augment(recipe)
    augment = train.augment
    keys |= {"angle": 0, "hue": augment.hue, "saturation": augment.saturation[1], "exposure": augment.value[1]}
    keys |= {"flip": int(augment.flip > 0), "mosaic": int(augment.mosaic > 0), "mixup": int(augment.mixup > 0)}
    return keys | ({"letter_box": 1} if recipe.data.canvas.fit == "letterbox" else {})


def head_keys(recipe: Recipe, scale: int) -> Keys:
    """The keys of a [yolo] that do not define the network. scale: index of the head, coarse to fine."""
    keys: Keys = {"truth_thresh": 1}
    match recipe.model:
        case yolov3.Config(loss=loss) | yolov4.Config(loss=loss):
            weights: tuple[float, ...] = getattr(loss, "scales", ())
            weight = weights[::-1][scale] if weights else 1.0
            for own, key in LOSS.items():
                if hasattr(loss, own):
                    keys[key] = getattr(loss, own) * (weight if own in SCALED else 1)
            box_loss = getattr(loss, "box_loss", "mse")
            keys["iou_loss"] = BOX_LOSSES.get(box_loss, box_loss)
        case yolov3_640.Config():
            keys["iou_loss"] = "ciou"
    if recipe.data.max_boxes is not None:
        keys["max"] = recipe.data.max_boxes
    return keys | NMS_KINDS.get(recipe.predict.nms.kind, {})


def _schedule(schedule: ScheduleConfig) -> Keys:
    keys: Keys = {"learning_rate": schedule.lr}
    warm_up = schedule.warmup_min_steps if not schedule.warmup_epochs else 0
    if warm_up:
        keys |= {"burn_in": warm_up, "power": schedule.warmup_power}
    falls, gamma = schedule.lr_steps, schedule.lr_gamma
    scales = gamma if isinstance(gamma, tuple) else (gamma,) * len(falls)
    match schedule.kind:
        case "constant":
            keys["policy"] = "constant"
        case "step" if falls:
            keys |= {"policy": "step", "step": falls[0], "scale": scales[0]}
        case "multistep" if falls:
            keys |= {"policy": "steps", "steps": falls, "scales": scales}
        case "cosine" if schedule.T_max is None:
            keys |= {"policy": "sgdr", "learning_rate_min": schedule.eta_min}
        case "linear" if schedule.T_max is None and not schedule.eta_min:
            if keys.setdefault("power", schedule.linear_power) == schedule.linear_power:
                keys["policy"] = "poly"
    return keys


def _class_augment(recipe: Recipe) -> Keys:
    augment, (height, width) = recipe.train.class_augment, recipe.data.canvas.size
    keys: Keys = {"angle": 0, "hue": augment.hue}
    keys |= {"saturation": 1 + augment.saturation, "exposure": 1 + augment.brightness}
    if augment.area is not None:  # of a square crop of the size in [net], from an image resized to these sides
        side = math.sqrt(height * width)
        largest, smallest = (round(side / math.sqrt(share)) for share in augment.area)
        keys |= {"min_crop": smallest, "max_crop": largest, "aspect": round(augment.aspect[1], 4)}
    keys |= {"flip": int(augment.flip > 0), "mixup": int(augment.mixup > 0), "cutmix": int(augment.cutmix > 0)}
    return keys | {"label_smooth_eps": getattr(recipe.model, "label_smoothing", 0.0)}
