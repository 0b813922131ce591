"""The version of this package, and of those that its numbers depend on."""

import importlib
import platform

__version__ = "0.1.0"


def versions(*packages: str) -> dict[str, str]:
    """Of this package, Python and `packages`, which are imported: for reports that lie beside measured numbers."""
    others = {name: str(importlib.import_module(name).__version__) for name in packages}
    return {"boxwright": __version__, **others, "python": platform.python_version()}
