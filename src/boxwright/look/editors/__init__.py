"""Editors of layouts, one module each, found by the name of the layout."""

import importlib
import pkgutil

from boxwright.look.editing import Editor


def names() -> list[str]:
    """Names of the layouts that have an editor."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def editor(layout: str) -> Editor | None:
    """The editor of a layout; None if there is none."""
    if layout not in names():
        return None
    found: Editor = importlib.import_module(f"{__name__}.{layout}").EDITOR
    return found
