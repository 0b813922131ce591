"""Networks in PyTorch, made ready to predict: batch norm inside the convolutions, the layout that they like best."""

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from boxwright.errors import InputError
from boxwright.predict.backend import Backend, Inputs, Running


class Torch(Backend):
    """A network on the device of its weights, where its inputs and outputs lie as well."""

    name = "torch"
    channels_last = True

    def __init__(self, model: nn.Module, running: Running) -> None:
        """`model` is in evaluation mode. It is what runs, unless a fused copy is asked for, which shares its other
        weights."""
        device = next(model.parameters()).device
        if running.bfloat16 and not has_bfloat16(device):
            raise InputError("bfloat16: this processor has no instructions for it and would be slower; leave it out")
        self.network: nn.Module = model
        if running.fuse:
            self.network = fused(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.bfloat16 = running.bfloat16
        if running.compile:
            self.network = torch.compile(self.network)  # type: ignore[assignment]
        # What is compiled has the number of threads inside.
        alone = device.type != "cpu" or running.compile
        super().__init__((None, 3, None, None), 1 if alone else running.lanes())

    def run(self, inputs: Inputs) -> tuple[Tensor, ...]:
        with torch.inference_mode(), torch.autocast(inputs[0].device.type, torch.bfloat16, enabled=self.bfloat16):
            outputs: tuple[Tensor, ...] = self.network(*inputs)
        return outputs


def fused(model: nn.Module) -> nn.Module:
    """A copy for predicting, with every batch norm inside the convolution before it; other weights are shared.

    A batch norm follows a convolution when it is declared right after it, which holds for all networks here: Darknet's
    files rely on the same order.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    result = copy.deepcopy(model, shared)
    for parent in list(result.modules()):
        children = list(parent.named_children())
        for (place, conv), (norm_place, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, place, fuse_conv_bn_eval(conv, norm))
                setattr(parent, norm_place, nn.Identity())
    return result


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 by itself."""
    if device.type != "cpu":
        return True
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16") or able.get("bf16"))
