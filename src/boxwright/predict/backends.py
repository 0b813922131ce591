"""Which runtime runs an exported file, and the file's card."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from boxwright.errors import InputError
from boxwright.predict import backend_mindspore, backend_onnxruntime, backend_openvino, backend_programs, outputs
from boxwright.predict.backend import Backend, Running
from boxwright.predict.card import KEY, Card
from boxwright.weights.files import require

__all__ = ["Backend", "Running", "is_exported", "open_backend", "read_card", "runtimes_of"]

T = TypeVar("T")

MODULES = {
    "openvino": backend_openvino, "onnxruntime": backend_onnxruntime, "mindspore": backend_mindspore,
    "torch": backend_programs,
}  # fmt: skip
# Who can run a file, the faster first
SUFFIXES = {
    ".onnx": ("openvino", "onnxruntime"), ".xml": ("openvino",), ".mindir": ("mindspore",),
    ".torchscript": ("torch",), ".pt2": ("torch",),
}  # fmt: skip


def is_exported(path: str | Path) -> bool:
    """Whether `path` is named like a file that a backend runs, and not like weights."""
    return Path(path).suffix in SUFFIXES


def runtimes_of(path: str | Path) -> tuple[str, ...]:
    """The names of those that may run the file, the faster first. Raises InputError for what is not an exported one."""
    suffix = Path(path).suffix
    if suffix not in SUFFIXES:
        raise InputError(f"{path}: not an exported model; needed one of {', '.join(SUFFIXES)}")
    return SUFFIXES[suffix]


def open_backend(path: str | Path, backend: str = "auto", running: Running | None = None) -> tuple[Backend, Card]:
    """What runs the exported file at `path`, ready to be asked, and the file's card.

    backend: auto takes the fastest that is installed and knows all operators of the file. Raises InputError for a file
    that is no model, that was not written by `boxwright export`, or that the backend cannot run, and where the backend
    is not installed.
    """

    def opened(name: str) -> tuple[Backend, str | None]:
        runner: tuple[Backend, str | None] = MODULES[name].open_file(Path(path), running or Running())
        return runner

    runner, text = _first_that_can(path, backend, opened)
    card = _card(path, text)
    runner.source, runner.check = Path(path), outputs.counter(path, card)
    return runner, card


def read_card(path: str | Path) -> Card:
    """The card of an exported file, without making it ready to run. Raises InputError as `open_backend` does."""
    return _card(path, _first_that_can(path, "auto", lambda name: MODULES[name].read_text(Path(path))))


def _first_that_can(path: str | Path, backend: str, use: Callable[[str], T]) -> T:
    """What `use` makes of the name of a runtime: of `backend`, or with auto of the first that does not refuse."""
    file = require(Path(path))
    able = runtimes_of(file)
    if backend != "auto":
        if backend not in able:
            raise InputError(f"{file}: backend {backend} does not run {file.suffix} files; needed {' or '.join(able)}")
        return use(backend)
    refusals = []
    for name in [name for name in able if importlib.util.find_spec(name) is not None] or able[:1]:
        try:
            return use(name)
        except InputError as error:  # an operator that it does not know, for example
            refusals.append(error)
    raise refusals[0]


def _card(path: str | Path, text: str | None) -> Card:
    if text is None:
        raise InputError(
            f"{path}: holds no '{KEY}' metadata, so neither class names nor canvas are known; "
            "needed a file written by `boxwright export`"
        )
    return Card.from_text(text, str(path))
