"""PyTorch as a runtime: networks with weights, and programs from files."""

import copy
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from boxwright.errors import InputError
from boxwright.runtimes.base.runtime import Inputs, Runtime, RuntimeOptions


class TorchRuntime(Runtime):
    """Network on the device of its weights; inputs and outputs are on that device."""

    name = "torch"
    channels_last = True

    def __init__(self, model: nn.Module, options: RuntimeOptions) -> None:
        """model: in evaluation mode. It runs itself, or with `options.fuse` as a fused copy that shares its other
        weights."""
        device = next(model.parameters()).device
        if options.bfloat16 and not has_bfloat16(device):
            raise InputError("bfloat16: this processor has no instructions for it and would be slower; leave it out")
        self.network: nn.Module = model
        if options.fuse:
            self.network = fused(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.bfloat16 = options.bfloat16
        if options.compile:
            self.network = torch.compile(self.network)  # type: ignore[assignment]
        # The number of threads is fixed in compiled code.
        single = device.type != "cpu" or options.compile
        super().__init__((None, None, None, None), 1 if single else options.streams())

    def run(self, inputs: Inputs) -> tuple[Tensor, ...]:
        with torch.inference_mode(), torch.autocast(inputs[0].device.type, torch.bfloat16, enabled=self.bfloat16):
            outputs: tuple[Tensor, ...] = self.network(*inputs)
        return outputs


class ProgramRuntime(Runtime):
    """Program from a file, on the CPU."""

    name = "torch"
    channels_last = True

    def __init__(self, program: Callable[..., tuple[Tensor, ...]], shape: tuple[int | None, ...]) -> None:
        self.program = program
        super().__init__(shape)

    def run(self, inputs: Inputs) -> tuple[Tensor, ...]:
        with torch.inference_mode():
            return self.program(*inputs)


def fused(model: nn.Module) -> nn.Module:
    """Copy for prediction, with every batch norm fused into the convolution before it; other weights are shared.

    A batch norm is taken to follow a convolution if it is declared right after it, which holds for all networks here:
    Darknet's files rely on the same order.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    result = copy.deepcopy(model, shared)
    for parent in list(result.modules()):
        children = list(parent.named_children())
        for (conv_name, conv), (norm_name, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(parent, norm_name, nn.Identity())
    return result


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 natively."""
    if device.type != "cpu":
        return True
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
