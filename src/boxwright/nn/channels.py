"""Adapt networks and weights for RGB to other numbers of channels.

    n channels, O outputs of the first convolution, k x k its kernel

Channel i takes the weights, mean and std of red, green or blue in turn (i mod 3), and all weights are scaled by 3 / n,
so that the sums keep their scale; a single channel takes the sum of the weights and the average of mean and std.
Three channels are left as they are. The weights are those of `adapt_input_conv` of timm (timm/models/_manipulate.py).

An image whose bands are all equal has the same outputs as that gray image in RGB, if n is a multiple of 3, or if n is
1, the mean 0 and the std 1.
"""

import torch
from torch import Tensor, nn

from boxwright.config import RGB, Triple
from boxwright.errors import InputError


def spread(values: Triple, channels: int) -> Tensor:
    """Mean or std of RGB -> (n, 1, 1)."""
    rgb = torch.tensor(values)
    of_channels = rgb.mean(0, keepdim=True) if channels == 1 else rgb[torch.arange(channels) % RGB]
    return of_channels.view(channels, 1, 1)


def widen(weight: Tensor, channels: int) -> Tensor:
    """Weights of a first convolution (O, 3, k, k) -> (O, n, k, k)."""
    if channels == RGB:
        return weight
    weight = weight.float()
    if channels == 1:
        return weight.sum(1, keepdim=True)
    return weight[:, torch.arange(channels) % RGB] * (RGB / channels)


def widen_tensors(tensors: dict[str, Tensor], own: dict[str, Tensor], channels: int) -> dict[str, Tensor]:
    """Tensors of a file of RGB weights, by name, adapted to a network of n channels with the tensors `own`.

    The first convolution, mean and std are changed; tensors of a file that is not for RGB are returned unchanged.
    """
    if channels == RGB:
        return tensors
    result = dict(tensors)
    for name, tensor in tensors.items():
        shape = own[name].shape if name in own else ()
        if name in ("mean", "std") and tensor.shape == (RGB, 1, 1):
            red, green, blue = tensor.flatten().tolist()
            result[name] = spread((red, green, blue), channels)
        elif len(shape) == 4 and shape[1] == channels and tensor.shape == (*tensor.shape[:1], RGB, *shape[2:]):
            result[name] = widen(tensor, channels)
    return result


def set_channels(network: nn.Module, channels: int) -> None:
    """Give the first convolution of an RGB network another number of channels, with random weights.

    Raises InputError if it takes neither 3 nor `channels` channels.
    """
    if channels == RGB:
        return
    name, first = next((pair for pair in network.named_modules() if isinstance(pair[1], nn.Conv2d)), ("", None))
    if first is None or first.in_channels not in (RGB, channels):
        raise InputError(f"data.bands: found {channels}, the model's first convolution cannot take them; leave it out")
    if first.in_channels != channels:
        parent, _, leaf = name.rpartition(".")
        new = nn.Conv2d(
            channels, first.out_channels, first.kernel_size, first.stride, first.padding, first.dilation,
            bias=first.bias is not None, padding_mode=first.padding_mode,
        )  # fmt: skip
        setattr(network.get_submodule(parent), leaf, new)
