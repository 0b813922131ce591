"""Open exported files: choose the runtime of a file, and read its metadata."""

import importlib.util
from pathlib import Path

from boxwright import runtimes
from boxwright.errors import InputError
from boxwright.runtimes.base.checks import output_check
from boxwright.runtimes.base.metadata import KEY, Metadata
from boxwright.runtimes.base.runtime import Runtime, RuntimeOptions
from boxwright.runtimes.base.target import Target
from boxwright.weights.files import require


def is_exported(path: str | Path) -> bool:
    """Whether `path` has the suffix of a file that a runtime runs, rather than one of weights."""
    return Path(path).suffix in _by_suffix()


def runtimes_of(path: str | Path) -> tuple[str, ...]:
    """Names of the runtimes that may run the file, fastest first. Raises InputError for another suffix."""
    return tuple(_target_of(path).runtimes)


def runtime_names() -> list[str]:
    """Names of all runtimes, sorted."""
    named = (name for target in _by_suffix().values() for name in (*target.runtimes, *target.by_name))
    return sorted({"torch", *named})


def open_runtime(
    path: str | Path, name: str = "auto", options: RuntimeOptions | None = None
) -> tuple[Runtime, Metadata]:
    """Open an exported file.

    Args:
        path: The file.
        name: Name of the runtime; `auto` takes the fastest that is installed and supports all operators of the file.
        options: How to run it.

    Returns:
        The runtime, ready to run the file, and the file's metadata.

    Raises:
        InputError: The file is not a model, was not written by `boxwright export`, or cannot be run by the runtime, or
            the runtime is not installed.
    """
    file = require(Path(path))
    target = _target_of(file)
    if name not in ("auto", *target.runtimes, *target.by_name):
        needed = " or ".join((*target.runtimes, *target.by_name))
        raise InputError(f"{file}: backend {name} does not run {file.suffix} files; needed {needed}")
    runtime, text = _open(target, file, name, options or RuntimeOptions())
    metadata = _metadata(path, text)
    runtime.source, runtime.check = Path(path), output_check(path, metadata)
    return runtime, metadata


def read_metadata(path: str | Path) -> Metadata:
    """Metadata of an exported file, without preparing it to run. Raises InputError as `open_runtime` does."""
    read = _target_of(require(Path(path))).read_metadata
    assert read is not None  # set for all targets with runtimes
    return _metadata(path, read(Path(path)))


def _open(target: Target, file: Path, name: str, options: RuntimeOptions) -> tuple[Runtime, str | None]:
    if name != "auto":
        return {**target.runtimes, **target.by_name}[name](file, options)
    names = list(target.runtimes)
    refusals = []
    for candidate in [name for name in names if importlib.util.find_spec(name) is not None] or names[:1]:
        try:
            return target.runtimes[candidate](file, options)
        except InputError as error:  # an unsupported operator, for example
            refusals.append(error)
    raise refusals[0]


def _by_suffix() -> dict[str, Target]:
    """Targets whose files can be run here, by suffix."""
    return {target.suffix: target for target in runtimes.targets().values() if target.runtimes}


def _target_of(path: str | Path) -> Target:
    by_suffix = _by_suffix()
    if Path(path).suffix not in by_suffix:
        raise InputError(f"{path}: not an exported model; needed one of {', '.join(by_suffix)}")
    return by_suffix[Path(path).suffix]


def _metadata(path: str | Path, text: str | None) -> Metadata:
    if text is None:
        raise InputError(
            f"{path}: holds no '{KEY}' metadata, so neither class names nor canvas are known; "
            "needed a file written by `boxwright export`"
        )
    return Metadata.from_text(text, str(path))
