"""Whether torchvision's compiled operators can be used here."""

import functools
import importlib
from types import ModuleType


@functools.cache
def torchvision_ops() -> ModuleType | None:
    """`torchvision.ops`, or None where torchvision is absent or was built for another PyTorch (which fails on import).

    Imported at the first call and not with this module, because it takes as long as PyTorch itself.
    """
    try:
        return importlib.import_module("torchvision.ops")
    except (ImportError, OSError, RuntimeError):
        return None
