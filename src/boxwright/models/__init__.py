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
    """The system called `name`: a module with `Config` and `build(config)`, and for files of other origin, each only
    where there is something to say:

    `mindspore_name(parameter)`: its name in MindSpore's zoo, None for what is not in its files.
    `mindspore_transposed(parameter)`: whether it is stored (in, out) there.
    `mindspore_backbone(entry, config)`: our name for an entry of the zoo's ImageNet classifier, None for no place.
    `mindspore_unused(entry)`: whether an entry of a file belongs to layers that the zoo's network never uses.
    `classifier(config)`: the Config of the classifier that a detector's backbone comes from, None where there is none.
    `foreign_names(tensors, config)`: another project's torch state dict under our names.
    `adapted(tensors, config)`: tensors under our names, changed where another kind of layer fills ours.
    """
    if name not in names():
        raise InputError(f"model.name: there is no model '{name}'; there are {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}")
