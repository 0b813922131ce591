"""Learning rate and momentum of every step, worked out before training starts.

The base curves change once an epoch, or with every step where `by_step` says so. Two warm-ups lie over their first
steps: the MindSpore zoo's (src/lr_scheduler.py of official/cv/YOLOv3; with `warmup_from` src/lr_schedule.py of
research/cv/faster_rcnn_dcn) and MindYOLO's (mindyolo/utils/trainer_factory.py); `warmup_bias_lr` chooses the second.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from boxwright.recipe import ScheduleConfig

Steps = NDArray[np.float64]  # one value a step of the optimiser


@dataclass(frozen=True)
class Plan:
    """Values by step, each of length epochs * steps_per_epoch."""

    weight_lr: Steps  # everything but biases
    bias_lr: Steps  # biases and batch norm's betas
    momentum: Steps


def learning_rates(schedule: ScheduleConfig, steps_per_epoch: int, epochs: int, momentum: float) -> Plan:
    """The plan of a whole training. `momentum` is the optimiser's, reached at the end of the warm-up.

    `steps_per_epoch` counts steps of the optimiser, after accumulation.
    """
    step = np.arange(epochs * steps_per_epoch)
    warmup = max(round(schedule.warmup_epochs * steps_per_epoch), schedule.warmup_min_steps)
    weight = bias = _curve(schedule, step, warmup, steps_per_epoch, epochs)
    if schedule.warmup_bias_lr is not None:
        bias = _rise(step, warmup, schedule.warmup_bias_lr, weight)
        weight = _rise(step, warmup, 0.0, weight)
    elif warmup:
        rising = schedule.lr * (step + 1) / warmup
        if schedule.warmup_from is not None:
            rising = _rise(step, warmup, schedule.lr * schedule.warmup_from, np.full(len(step), schedule.lr))
        weight = bias = np.where(step < warmup, rising, weight)
    momenta = np.full(len(step), momentum)
    if schedule.warmup_momentum is not None:
        momenta = _rise(step, warmup, schedule.warmup_momentum, momenta)
    return Plan(weight, bias, momenta)


def _curve(schedule: ScheduleConfig, step: NDArray[np.int64], warmup: int, steps_per_epoch: int, epochs: int) -> Steps:
    """Rate of every step without warm-up. The cosine rises again after T_max epochs, as the zoo's does; the line stays.

    With `by_step`, cosine and line count fractions of an epoch from the end of the warm-up.
    """
    epoch = (step // steps_per_epoch).astype(np.float64)
    moved = np.maximum(step - warmup, 0) / steps_per_epoch if schedule.by_step else epoch
    length = schedule.T_max or epochs + schedule.T_beyond
    span = schedule.lr - schedule.eta_min
    match schedule.kind:
        case "constant":
            return np.full(len(step), schedule.lr)
        case "step":
            return schedule.lr * schedule.lr_gamma ** (epoch // schedule.lr_epochs[0])
        case "multistep":
            falls = np.searchsorted(schedule.lr_epochs, epoch, side="right").astype(np.float64)
            return schedule.lr * schedule.lr_gamma**falls
        case "cosine":
            return schedule.eta_min + span * (1 + np.cos(np.pi * moved / length)) / 2
        case "linear":
            return schedule.lr - span * np.minimum(moved / length, 1)


def _rise(step: NDArray[np.int64], warmup: int, start: float, goal: Steps) -> Steps:
    """From `start` on a straight line to the value that each step would have without warm-up."""
    share = np.minimum(step / max(warmup, 1), 1) if warmup else np.ones(len(step))
    return start + share * (goal - start)
