"""One module per model: its `Config`, network, loss and decoding; `build(config)` makes the network.

The name in a recipe is the name of a file here, or the dotted path of a user's module; there is no registry.
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


_own: "dict[str, Model]" = {}  # users' modules, imported because a trusted recipe names them


class Model(Protocol):
    """Interface of a model's module."""

    Config: type[ModelConfig]
    build: "Callable[[object], Network]"


def names() -> list[str]:
    """Names of the models in this folder. Imports none of them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def module(name: str, *, allow_import: bool = False) -> Model:
    """The module of the model called `name`.

    Args:
        name: A file in this folder, or a dotted path such as `mypackage.mymodel`.
        allow_import: Whether a dotted path may be imported, which runs the code there: only where the user names the
            recipe. Modules imported earlier are returned without it.

    Raises:
        InputError: The name does not exist or may not be imported, or the module holds no model.
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
            f"model.name: found {name!r}, which is not a model of boxwright; what a file names is never imported: name "
            "your own recipe by --recipe"
        )
    return _imported(name)


def build(config: ModelConfig) -> "Network":
    """Build the network of `config`, with random weights, in training mode, on the CPU.

    Raises:
        InputError: The `build` of a user's module does not return a `Network`, or returns one that cannot have the
            input channels of `config`; or anchors are still auto.
    """
    from boxwright.nn.channels import set_channels
    from boxwright.nn.network import Network

    if getattr(config, "anchors", None) == AUTO:
        raise InputError(
            "model.anchors: found auto, which only training replaces; needed numbers, such as those of a run's "
            "recipe.yaml or of `boxwright data anchors`"
        )
    # a user's config can only come from a module that is already imported
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
            raise  # it exists, but something that it imports does not
        raise InputError(
            f"model.name: there is no module '{error.name}' for '{name}'; install it, or name its folder in PYTHONPATH"
        ) from error
    kind = getattr(found, "Config", None)
    if not (isinstance(kind, type) and issubclass(kind, ModelConfig) and callable(getattr(found, "build", None))):
        raise InputError(f"model.name: {name} needs `Config`, a subclass of boxwright.config.ModelConfig, and `build`")
    _own[name] = cast(Model, found)
    return _own[name]
