"""One complete model a file: its `Config`, network, loss and decoding; `build(config)` makes the network.

The name in a recipe is the name of a file here, or the dotted path of a module of the user's; there is no registry.
"""

import difflib
import importlib
import pkgutil
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, cast

from boxwright.config import AUTO, ModelConfig
from boxwright.errors import InputError

if TYPE_CHECKING:  # the command line lists names without importing torch
    from boxwright.nn.network import Network


_own: "dict[str, Model]" = {}  # modules of the user's that a recipe of the user's named


class Model(Protocol):
    """What the module of a model holds."""

    Config: type[ModelConfig]
    build: "Callable[[object], Network]"


def names() -> list[str]:
    """The models in this folder. Imports none of them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def module(name: str, *, allow_import: bool = False) -> Model:
    """The module of the model called `name`.

    Args:
        name: A file in this folder, or a dotted path as `mypackage.mymodel`.
        allow_import: Whether a dotted path may be imported, which runs the code there: only where the user names the
            recipe. What was imported so is found again without.

    Raises:
        InputError: For a name that does not exist or may not be imported, and for a module that holds no model.
    """
    if name in names():
        return cast(Model, importlib.import_module(f"{__name__}.{name}"))
    if "." not in name:
        near = ", ".join(difflib.get_close_matches(name[:100], names(), cutoff=0) or names())
        raise InputError(
            f"model.name: there is no model '{name}'; the nearest are {near}; a module of your own is named by its "
            "dotted path, as mypackage.mymodel"
        )
    if name in _own:
        return _own[name]
    if not allow_import:
        raise InputError(
            f"model.name: found {name!r}, which is no model of boxwright; what a file names is never imported: name "
            "your own recipe by --recipe"
        )
    return _imported(name)


def build(config: ModelConfig) -> "Network":
    """The network of `config`, with random weights, in training mode, on the CPU.

    Raises:
        InputError: Where the `build` of a user's module returns something else, or a network that cannot have the
            channels of `config`; or where anchors are still auto.
    """
    from boxwright.nn.channels import set_channels
    from boxwright.nn.network import Network

    if getattr(config, "anchors", None) == AUTO:
        raise InputError(
            "model.anchors: found auto, which only a training replaces; needed numbers, as those of a run's recipe.yaml"
            " or of `boxwright data anchors`"
        )
    # a config of the user's can only have come from a module that was imported
    network = module(config.name, allow_import=True).build(config)
    if not isinstance(network, Network):
        raise InputError(
            f"model.name: {config.name}.build() returns {type(network).__name__}, needed a boxwright.nn.network.Network"
        )
    set_channels(network, config.input_channels)
    return network


def _imported(name: str) -> Model:
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", name):
        raise InputError(f"model.name: found {name[:100]!r}, needed a name such as yolov3, or mypackage.mymodel")
    try:
        found: object = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # it exists, and imports something that does not
        raise InputError(
            f"model.name: there is no module '{error.name}' for '{name}'; install it, or name its folder in PYTHONPATH"
        ) from error
    kind = getattr(found, "Config", None)
    if not (isinstance(kind, type) and issubclass(kind, ModelConfig) and callable(getattr(found, "build", None))):
        raise InputError(f"model.name: {name} needs `Config`, a subclass of boxwright.config.ModelConfig, and `build`")
    _own[name] = cast(Model, found)
    return _own[name]
