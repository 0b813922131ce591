"""File formats of other runtimes, one module each, found by module name; `boxwright export --to NAME` writes it.

Each module defines `TARGET`, a `base.target.Target`: the suffix, functions that write a file, and its runtimes. Shared
code is in `base`, readers and writers of file contents in `serialization`.
"""

import importlib
import pkgutil
from typing import TYPE_CHECKING, cast

from boxwright.errors import InputError

if TYPE_CHECKING:
    from boxwright.runtimes.base.target import Target


def names() -> list[str]:
    """Names of the export targets, sorted. Imports none of them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg)


def target(name: str) -> "Target":
    """The target called `name`. Raises InputError for an unknown one."""
    if name not in names():
        raise InputError(f"--to: found '{name}', needed one of {', '.join(names())}, triton")
    return cast("Target", importlib.import_module(f"{__name__}.{name}").TARGET)


def targets() -> "dict[str, Target]":
    """All targets by name."""
    return {name: target(name) for name in names()}
