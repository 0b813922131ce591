"""The optimizers: SGD as in the published systems, and AdamW.

Weight decay applies to the weights of layers (or to all parameters), and biases have their own learning rate.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from boxwright.engine.schedule import Schedule
from boxwright.errors import InputError
from boxwright.recipe import OptimizerConfig, TrainConfig

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
BACKBONE = "backbone"  # the module whose parameters have the factor `backbone_lr`
FUSED = ("cpu", "cuda")  # devices with PyTorch's fused AdamW, which takes a quarter of the time on a CPU


def build(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer of a network that is on its device, with the groups of `parameter_groups`.

    PyTorch's SGD without dampening equals MindSpore's Momentum and SGD: v = m v + g, w -= lr v; with nesterov
    w -= lr (g + m v). In both cases weight decay is part of g. In AdamW (arXiv 1711.05101, algorithm 2) it is not:
    w -= lr decay w, then w -= lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps).
    """
    freeze(network, config)
    groups = parameter_groups(network, config)
    settings = config.optimizer
    # The learning rate is set before every step, from the schedule.
    if settings.kind == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=settings.momentum, nesterov=settings.nesterov)
    fused = next(network.parameters()).device.type in FUSED
    return torch.optim.AdamW(groups, lr=0.0, betas=settings.betas, eps=settings.eps, fused=fused or None)


def parameter_groups(network: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Three groups as in MindYOLO's group_params.py: weight (decayed), bias (with batch norm's beta), scale (gamma).

    With `decay_all` all three are decayed. With a `backbone_lr` other than 1 the parameters under `backbone.` are in
    three more groups. `lr_factor` of a group multiplies the learning rate of the schedule.

    Raises:
        InputError: No parameter is to be trained, or none that `backbone_lr` is for.
    """
    settings = config.optimizer
    factors = {"": 1.0} if settings.backbone_lr == 1 else {"": 1.0, f"{BACKBONE}.": settings.backbone_lr}
    groups: dict[str, dict[str, Any]] = {
        prefix + kind: {
            "name": prefix + kind,
            "params": [],
            "weight_decay": settings.weight_decay if settings.decay_all or kind == "weight" else 0.0,
            "lr_factor": factor,
        }
        for prefix, factor in factors.items()
        for kind in ("weight", "bias", "scale")
    }
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            kind = "weight" if parameter.ndim > 1 else "bias" if name.endswith("bias") else "scale"
            prefix = next(prefix for prefix in reversed(factors) if name.startswith(prefix))
            groups[prefix + kind]["params"].append(parameter)
    for prefix in factors:
        if not any(group["params"] for name, group in groups.items() if name.startswith(prefix)):
            if not prefix:
                raise InputError(
                    f"train.freeze: {', '.join(config.freeze)} freezes every parameter; leave some to train"
                )
            raise InputError(
                f"train.optimizer.backbone_lr: no parameter under '{BACKBONE}' is trained; leave backbone_lr out"
            )
    return list(groups.values())


def set_rates(optimizer: torch.optim.Optimizer, schedule: Schedule, step: int) -> None:
    """Set learning rates, and the momentum of SGD, for step `step` (from 0)."""
    for group in optimizer.param_groups:
        rates = schedule.bias_lr if group["name"].endswith("bias") else schedule.weight_lr
        group["lr"] = group["lr_factor"] * float(rates[step])
        if "momentum" in group:
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
