"""SGD as in the published systems: weight decay on convolution weights (or on all), a separate rate for biases."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from boxwright.engine.schedule import Schedule
from boxwright.errors import InputError
from boxwright.recipe import OptimizerConfig, TrainConfig

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def build(network: nn.Module, config: TrainConfig) -> torch.optim.SGD:
    """The optimizer, with three parameter groups as in MindYOLO's group_params.py: weight (decayed), bias (with batch
    norm's beta), scale (gamma). With `decay_all` all three are decayed.

    torch's SGD without dampening is MindSpore's Momentum, and its SGD: v = m v + g, w -= lr v; with nesterov
    w -= lr (g + m v).
    """
    freeze(network, config)
    groups: dict[str, list[Tensor]] = {"weight": [], "bias": [], "scale": []}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            kind = "weight" if parameter.ndim > 1 else "bias" if name.endswith("bias") else "scale"
            groups[kind].append(parameter)
    if not any(groups.values()):
        raise InputError(f"train.freeze: {', '.join(config.freeze)} freezes every parameter; leave some to train")
    settings = config.optimizer
    decayed = groups if settings.decay_all else ("weight",)
    rows = [
        {"name": kind, "params": params, "weight_decay": settings.weight_decay if kind in decayed else 0.0}
        for kind, params in groups.items()
    ]
    # The learning rate is set before every step, from the schedule.
    return torch.optim.SGD(rows, lr=0.0, momentum=settings.momentum, nesterov=settings.nesterov)


def set_rates(optimizer: torch.optim.Optimizer, schedule: Schedule, step: int) -> None:
    """Set learning rates and momentum for step `step` (from 0)."""
    for group in optimizer.param_groups:
        group["lr"] = float((schedule.bias_lr if group["name"] == "bias" else schedule.weight_lr)[step])
        group["momentum"] = float(schedule.momentum[step])


def unscale(parameters: Iterable[Tensor], config: OptimizerConfig) -> None:
    """Divide the gradients by the static loss scale, and multiply them by `gradient_scale`."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    factor = config.gradient_scale / config.loss_scale
    if factor != 1 and gradients:
        torch._foreach_mul_(gradients, factor)


def freeze(network: nn.Module, config: TrainConfig) -> None:
    """Freeze the parameters under `train.freeze`, and batch norm's with `freeze_norm`.

    Raises InputError for a prefix that matches no parameter.
    """
    names = [name for name, _ in network.named_parameters()]
    for prefix in config.freeze:
        if not any(has_prefix(name, prefix) for name in names):
            modules = sorted({name.split(".")[0] for name in names})
            raise InputError(f"train.freeze: there is no module '{prefix}'; modules are {', '.join(modules)}")
    for name, parameter in network.named_parameters():
        if has_prefix(name, *config.freeze):
            parameter.requires_grad_(False)
    for module in network.modules():
        if isinstance(module, NORMS) and config.freeze_norm:
            module.requires_grad_(False)


def has_prefix(name: str, *prefixes: str) -> bool:
    """Whether a parameter or module is, or lies in, one of the modules `prefixes`."""
    return any(f"{name}.".startswith(f"{prefix.rstrip('.')}.") for prefix in prefixes)


def training_mode(network: nn.Module, config: TrainConfig) -> None:
    """Like `network.train()`, but batch norm keeps its statistics in frozen layers, or everywhere if configured."""
    network.train()
    freeze_all = config.freeze_norm or config.freeze_statistics
    for name, module in network.named_modules():
        if isinstance(module, NORMS) and (freeze_all or has_prefix(name, *config.freeze)):
            module.eval()
