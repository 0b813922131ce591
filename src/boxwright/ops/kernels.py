"""Which compiled operators can be used here, and which is used."""

import functools
import importlib
import logging
from types import ModuleType
from typing import Literal

import torch

logger = logging.getLogger(__name__)

DeformKernel = Literal["torchvision", "triton"]
_preferred: DeformKernel = "torchvision"


def prefer_deform_kernel(name: DeformKernel) -> None:
    """Choose the kernel of deformable convolutions on CUDA, before anything is compiled.

    `triton` is ours (`ops/deform_triton.py`), also for bfloat16; it was checked in Triton's interpreter, and is the
    default once it is measured on a GPU. Both give the same within rounding.
    """
    global _preferred
    _preferred = name


def deform_kernel(device_type: str) -> DeformKernel | None:
    """The kernel of deformable convolutions on this type of device; None: plain PyTorch."""
    if device_type != "cuda":
        return None  # there are no such kernels, or as on a CPU, where torchvision's takes some 10 times as long
    if torch.compiler.is_exporting():
        return None  # a program for any device, which runs where neither library is
    if _preferred == "triton" and triton_module() is not None:
        return "triton"
    return None if torchvision_ops() is None else "torchvision"


# torch.compile cannot trace imports. What torch.compiler.assume_constant_result does, which imports the compiler first;
# that takes as long as PyTorch itself.
deform_kernel._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def torchvision_ops() -> ModuleType | None:
    """`torchvision.ops`, or None where torchvision is absent or was built for another PyTorch (which fails on import).

    Imported at the first call and not with this module, because it takes as long as PyTorch itself.
    """
    try:
        return importlib.import_module("torchvision.ops")
    except (ImportError, OSError, RuntimeError):
        logger.warning("torchvision cannot be imported; GPUs are slower without (pip install 'boxwright[train]')")
        return None


@functools.cache
def triton_module() -> ModuleType | None:
    """`triton`, which comes with PyTorch's CUDA builds on Linux, or None where it cannot be imported."""
    try:
        return importlib.import_module("triton")
    except (ImportError, OSError, RuntimeError):
        logger.warning("triton cannot be imported; deformable layers use torchvision's kernel")
        return None
