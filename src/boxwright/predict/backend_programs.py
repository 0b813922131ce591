"""Files of PyTorch itself, TorchScript and the archives of torch.export (.pt2), on the CPU.

Both hold programs. A .pt2 is a list of operators, which `exported_program` runs. TorchScript is a language of its own,
with classes, native ones among them, and with calls that write files, which PyTorch's interpreter runs without asking:
such a file is only opened for whoever trusts it.
"""

import io
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from boxwright import json_text
from boxwright.errors import InputError
from boxwright.predict import archive, exported_program
from boxwright.predict.archive import Archive
from boxwright.predict.backend import Backend, Inputs, Running, check_input, first_line
from boxwright.predict.card import KEY

SHAPE = f"{KEY}.shape"  # a trace does not know the shape of its input; this extra file does, as JSON
TRUST = (
    "TorchScript runs whatever program is in the file; add --trust-file (Python: trust=True) if you know who made it, "
    "or export the network to pt2 or onnx"
)
READERS = {".pt2": exported_program.ENTRIES, ".torchscript": re.compile(r"[\w./-]+")}
GROWTH = {".pt2": 1, ".torchscript": 10}  # PyTorch compresses nothing but lines of code


class Program(Backend):
    """A program, and how many pictures it takes."""

    name = "torch"
    channels_last = True

    def __init__(self, program: Callable[..., tuple[Tensor, ...]], shape: tuple[int | None, ...]) -> None:
        self.program = program
        super().__init__(shape)

    def run(self, inputs: Inputs) -> tuple[Tensor, ...]:
        with torch.inference_mode():
            return self.program(*inputs)


def open_file(file: Path, running: Running) -> tuple[Program, str | None]:
    """The program, and the card's text where the file has one.

    Raises InputError for a file that is no such program, a .pt2 that holds what no export does, and TorchScript that is
    not trusted.
    """
    running.refuse("torch for programs", "bfloat16", "compile")
    found = _read(file)
    if file.suffix == ".pt2":
        program = exported_program.read(found)
        check_input(file, program.shape)
        return Program(program, program.shape), _text(found)
    if not running.trust:
        raise InputError(f"{file}: {TRUST}")
    try:
        return _open_torchscript(found), _text(found)
    except InputError:
        raise
    except Exception as error:  # whatever its parts raise for what they do not understand
        raise InputError(
            f"{file}: not a program that PyTorch {torch.__version__} can run ({first_line(error)})"
        ) from error


def read_text(file: Path) -> str | None:
    """The card's text where the file has one. Raises InputError for what is no archive of an export."""
    return _text(_read(file))


def _read(file: Path) -> Archive:
    return archive.read(file, READERS[file.suffix], GROWTH[file.suffix])


def _text(found: Archive) -> str | None:
    return found.text(f"extra/{KEY}") if f"extra/{KEY}" in found.entries else None


def _open_torchscript(found: Archive) -> Program:
    """PyTorch is given a new archive of what Python's reader finds, so that both see the same card and shape."""
    copy = io.BytesIO()
    with zipfile.ZipFile(copy, "w") as checked:
        for name, content in found.entries.items():
            checked.writestr(archive.ROOT + name, content)
    copy.seek(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.load` is deprecated", DeprecationWarning)
        program = torch.jit.load(copy, map_location="cpu")  # type: ignore[no-untyped-call]
    name = f"extra/{SHAPE}"
    shape = json_text.parse(found.text(name), f"{found.source}: {name}") if name in found.entries else [None] * 4
    if not isinstance(shape, list) or any(side is not None and type(side) is not int for side in shape):
        raise found.refuse(name, "another shape than of an input")
    check_input(Path(found.source), shape)
    return Program(program, tuple(shape))
