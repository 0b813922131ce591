"""SGD as the published systems use it: decay on convolution weights (or on everything), biases with their own rate."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from boxwright.engine.schedule import Plan
from boxwright.errors import InputError
from boxwright.recipe import OptimizerConfig, TrainConfig

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def build(network: nn.Module, config: TrainConfig) -> torch.optim.SGD:
    """Three groups, as in MindYOLO's group_params.py: weight (decayed), bias (with batch norm's beta), scale (gamma).
    With `decay_all` all three are decayed.

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
    # The rate is set before every step, from the plan.
    return torch.optim.SGD(rows, lr=0.0, momentum=settings.momentum, nesterov=settings.nesterov)


def set_rates(optimizer: torch.optim.Optimizer, plan: Plan, step: int) -> None:
    """Learning rates and momentum of step `step` (from 0)."""
    for group in optimizer.param_groups:
        group["lr"] = float((plan.bias_lr if group["name"] == "bias" else plan.weight_lr)[step])
        group["momentum"] = float(plan.momentum[step])


def unscale(parameters: Iterable[Tensor], config: OptimizerConfig) -> None:
    """Divide the static loss scale out of the gradients, and multiply `gradient_scale` in."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    factor = config.gradient_scale / config.loss_scale
    if factor != 1 and gradients:
        torch._foreach_mul_(gradients, factor)


def freeze(network: nn.Module, config: TrainConfig) -> None:
    """Take the parameters under `train.freeze` (and batch norm's, with `freeze_norm`) out of training."""
    names = [name for name, _ in network.named_parameters()]
    for prefix in config.freeze:
        if not any(is_under(name, prefix) for name in names):
            parts = sorted({name.split(".")[0] for name in names})
            raise InputError(f"train.freeze: there is no part '{prefix}'; parts are {', '.join(parts)}")
    for name, parameter in network.named_parameters():
        if is_under(name, *config.freeze):
            parameter.requires_grad_(False)
    for module in network.modules():
        if isinstance(module, NORMS) and config.freeze_norm:
            module.requires_grad_(False)


def is_under(name: str, *parts: str) -> bool:
    """Whether a parameter or module is one of these parts of the network, or belongs to one."""
    return any(f"{name}.".startswith(f"{part.rstrip('.')}.") for part in parts)


def training_mode(network: nn.Module, config: TrainConfig) -> None:
    """`network.train()`, but batch norm keeps its statistics in a frozen layer, or all of it where config says so."""
    network.train()
    every = config.freeze_norm or config.freeze_statistics
    for name, module in network.named_modules():
        if isinstance(module, NORMS) and (every or is_under(name, *config.freeze)):
            module.eval()
