"""One whole system a file: its `Config`, its network, its loss, its decoding; `build(config)` makes it.

The name in a recipe is the name of a file here; there is no registry.
"""

import importlib
import pkgutil
from types import ModuleType

from boxwright.errors import InputError


def names() -> list[str]:
    """The systems in this folder. Imports none of them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def module(name: str) -> ModuleType:
    """The system called `name`: a module with `Config` and `build(config)`, and where MindSpore's zoo has the network
    too, `mindspore_name(parameter)`, the name of a parameter there."""
    if name not in names():
        raise InputError(f"model.name: there is no model '{name}'; there are {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}")
