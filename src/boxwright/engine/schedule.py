"""Learning rate and momentum of every step, computed before training starts.

The base curves change once per epoch, or with every step with `by_step`. There are two kinds of warm-up: the
MindSpore zoo's (src/lr_scheduler.py of official/cv/YOLOv3; with `warmup_from` src/lr_schedule.py of
research/cv/faster_rcnn_dcn) and MindYOLO's (mindyolo/utils/trainer_factory.py); `warmup_bias_lr` selects the second.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from boxwright.recipe import ScheduleConfig

Steps = NDArray[np.float64]  # one value per optimizer step
MAX_EXPONENT = 700.0  # of e, in float64


@dataclass(frozen=True)
class Schedule:
    """Learning rates and momentum by step, each of length epochs * steps_per_epoch."""

    weight_lr: Steps  # all parameters but biases
    bias_lr: Steps  # biases and batch norm's betas
    momentum: Steps


def learning_rates(config: ScheduleConfig, steps_per_epoch: int, epochs: int, momentum: float) -> Schedule:
    """The schedule of a run.

    Args:
        config: The recipe's `train.schedule`.
        steps_per_epoch: Optimizer steps, after accumulation.
        epochs: Epochs of the run.
        momentum: The optimizer's momentum, reached at the end of the warm-up.
    """
    step = np.arange(epochs * steps_per_epoch)
    warmup = warmup_steps(config, steps_per_epoch)
    weight = bias = _curve(config, step, warmup, steps_per_epoch, epochs)
    if config.warmup_bias_lr is not None:
        bias = _ramp(step, warmup, config.warmup_bias_lr, weight, config.warmup_power)
        weight = _ramp(step, warmup, 0.0, weight, config.warmup_power)
    elif warmup:
        ramp = config.lr * ((step + 1) / warmup) ** config.warmup_power
        if config.warmup_from is not None:
            goal = np.full(len(step), config.lr)
            ramp = _ramp(step, warmup, config.lr * config.warmup_from, goal, config.warmup_power)
        weight = bias = np.where(step < warmup, ramp, weight)
    momenta = np.full(len(step), momentum)
    if config.warmup_momentum is not None:
        momenta = _ramp(step, warmup, config.warmup_momentum, momenta)
    return Schedule(weight, bias, momenta)


def warmup_steps(config: ScheduleConfig, steps_per_epoch: int) -> int:
    """Length of the warm-up in optimizer steps."""
    return max(round(config.warmup_epochs * steps_per_epoch), config.warmup_min_steps)


def _curve(config: ScheduleConfig, step: NDArray[np.int64], warmup: int, steps_per_epoch: int, epochs: int) -> Steps:
    """Learning rate of every step without warm-up; after T_max epochs cosine rises again, as in the zoo."""
    epoch = (step // steps_per_epoch).astype(np.float64)
    moved = np.maximum(step - warmup, 0) / steps_per_epoch if config.by_step else epoch
    share = moved / (config.T_max or epochs + config.T_beyond)
    span = config.lr - config.eta_min
    falls = config.lr_steps or tuple(epochs * steps_per_epoch for epochs in config.lr_epochs)
    factors: tuple[float, ...] = (
        config.lr_gamma if isinstance(config.lr_gamma, tuple) else (config.lr_gamma,) * max(len(falls), 1)
    )
    if config.cycle_steps and config.kind == "cosine":
        share = _share_of_cycle(step, config.cycle_steps)
    match config.kind:
        case "constant":
            return np.full(len(step), config.lr)
        case "step":
            return np.asarray(config.lr * factors[0] ** (step // falls[0]))
        case "multistep":
            reached = np.searchsorted(falls, step, side="right")
            return np.asarray(config.lr * np.cumprod([1.0, *factors])[reached])
        case "cosine":
            return config.eta_min + span * (1 + np.cos(np.pi * share)) / 2
        case "linear":
            return config.eta_min + span * (1 - np.minimum(share, 1)) ** config.linear_power
        case "exponential":
            return np.asarray(config.lr * factors[0] ** step.astype(np.float64))
        case "sigmoid":
            return np.asarray(config.lr / (1 + np.exp(np.minimum(factors[0] * (step - falls[0]), MAX_EXPONENT))))


def _share_of_cycle(step: NDArray[np.int64], ends: tuple[int, ...]) -> Steps:
    """Progress of each step between two ends, in (0, 1]; 0 for the first step of all, 1 after the last end."""
    number = np.minimum(np.searchsorted(ends, step), len(ends) - 1)
    edges = np.array([0, *ends])
    share: Steps = np.minimum((step - edges[number]) / (edges[number + 1] - edges[number]), 1.0)
    return share


def _ramp(step: NDArray[np.int64], warmup: int, start: float, goal: Steps, power: float = 1.0) -> Steps:
    """Values from `start` to `goal`, the values without warm-up, by a power of the progress of the warm-up."""
    fraction = np.minimum(step / max(warmup, 1), 1) ** power if warmup else np.ones(len(step))
    return start + fraction * (goal - start)
