"""Whether torchvision's compiled operators can be used here."""

import functools
import importlib
import logging
from types import ModuleType

logger = logging.getLogger(__name__)


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
