"""Selection of compiled operators."""

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

    `triton` is our own (`ops/deform_triton.py`) and supports bfloat16; it was checked in Triton's interpreter, and
    becomes the default once it is measured on a GPU. Both give the same results within rounding.
    """
    global _preferred
    _preferred = name


def deform_kernel(device_type: str) -> DeformKernel | None:
    """The kernel of deformable convolutions on this type of device; None: plain PyTorch."""
    if device_type != "cuda":
        return None  # no such kernels, or (on a CPU) torchvision's takes about 10 times as long
    if torch.compiler.is_exporting():
        return None  # an exported program also runs on devices without either library
    if _preferred == "triton" and triton_module() is not None:
        return "triton"
    return None if torchvision_ops() is None else "torchvision"


# torch.compile cannot trace imports. Same effect as torch.compiler.assume_constant_result, which imports the compiler;
# that takes as long as importing PyTorch.
deform_kernel._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def torchvision_ops() -> ModuleType | None:
    """`torchvision.ops`; None if torchvision is absent or was built for another PyTorch (the import fails then).

    Imported at the first call, because that takes as long as importing PyTorch.
    """
    try:
        return importlib.import_module("torchvision.ops")
    except (ImportError, OSError, RuntimeError):
        logger.warning("torchvision cannot be imported; GPUs are slower without (pip install 'boxwright[train]')")
        return None


@functools.cache
def triton_module() -> ModuleType | None:
    """`triton`, which comes with PyTorch's CUDA builds on Linux; None if it cannot be imported."""
    try:
        return importlib.import_module("triton")
    except (ImportError, OSError, RuntimeError):
        logger.warning("triton cannot be imported; deformable layers use torchvision's kernel")
        return None
