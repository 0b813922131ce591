"""TorchScript files, which run elsewhere without boxwright.

TorchScript is a programming language with classes, also native ones, and calls that write files, which PyTorch's
interpreter executes. Such a file is therefore only opened if the user trusts it.
"""

import io
import json
import re
import warnings
import zipfile
from pathlib import Path

import torch

from boxwright import files, json_text
from boxwright.errors import InputError
from boxwright.extras import first_line
from boxwright.runtimes.base.checks import check_input
from boxwright.runtimes.base.graph import Graph
from boxwright.runtimes.base.metadata import KEY
from boxwright.runtimes.base.runtime import RuntimeOptions
from boxwright.runtimes.base.target import Target
from boxwright.runtimes.base.torch_runtime import ProgramRuntime
from boxwright.runtimes.serialization import archive
from boxwright.runtimes.serialization.archive import Archive

SHAPE = f"{KEY}.shape"  # extra file with the shape of the input as JSON, which a trace does not store
TRUST = (
    "TorchScript runs whatever program is in the file; add --trust-file (Python: trust=True) if you know who made it, "
    "or export the network to pt2 or onnx"
)
ENTRIES = re.compile(r"[\w./-]+")
GROWTH = 10  # PyTorch compresses only source lines


def write(graph: Graph, path: Path, metadata: str) -> None:
    """Write `graph` as TorchScript, with `metadata` as its extra file `boxwright`, atomically.

    It is a trace: sizes of axes that do not vary are fixed. Raises InputError if the file cannot be written.
    """
    with warnings.catch_warnings(), torch.no_grad():
        # warnings about deprecation, and about shapes that a trace fixes, which is intended
        warnings.filterwarnings("ignore", "`torch.jit.*` is deprecated", DeprecationWarning)
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        example = tuple(graph.inputs.values())
        traced = torch.jit.trace(graph.module, example, check_trace=False)  # type: ignore[no-untyped-call]
        program = torch.jit.freeze(traced)
        buffer = io.BytesIO()
        torch.jit.save(program, buffer, _extra_files={KEY: metadata, SHAPE: json.dumps(_shape(graph))})
    with files.atomic_write(path) as tmp, zipfile.ZipFile(buffer) as written, zipfile.ZipFile(tmp, "w") as stripped:
        for entry in written.infolist():
            if not entry.filename.endswith(".debug_pkl"):  # contains paths of this machine
                stripped.writestr(entry, written.read(entry))


def open_file(file: Path, options: RuntimeOptions) -> tuple[ProgramRuntime, str | None]:
    """Open a file. Returns the program, and the text of its metadata if it has any.

    Raises InputError for a file that is not such a program, or is not trusted.
    """
    options.reject_unsupported("torch for programs", "bfloat16", "compile")
    content = _read(file)
    if not options.trust:
        raise InputError(f"{file}: {TRUST}")
    try:
        return _load(content), content.metadata
    except InputError:
        raise
    except Exception as error:  # any exception of PyTorch's reader
        raise InputError(
            f"{file}: not a program that PyTorch {torch.__version__} can run ({first_line(error)})"
        ) from error


def _read(file: Path) -> Archive:
    return archive.read(file, ENTRIES, GROWTH)


def _load(content: Archive) -> ProgramRuntime:
    """Load a program. PyTorch gets a new archive of the entries that Python's reader found, so that both agree on
    metadata and shape."""
    copy = io.BytesIO()
    with zipfile.ZipFile(copy, "w") as checked:
        for name, entry in content.entries.items():
            checked.writestr(archive.ROOT + name, entry)
    copy.seek(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.load` is deprecated", DeprecationWarning)
        program = torch.jit.load(copy, map_location="cpu")  # type: ignore[no-untyped-call]
    name = f"extra/{SHAPE}"
    in_file = name in content.entries
    shape = json_text.parse(content.text(name), f"{content.source}: {name}") if in_file else [None] * 4
    if not isinstance(shape, list) or any(side is not None and type(side) is not int for side in shape):
        raise content.error(name, "another shape than of an input")
    check_input(Path(content.source), shape)
    return ProgramRuntime(program, tuple(shape))


def _shape(graph: Graph) -> list[int | None]:
    """Shape of the first input; None for an axis that varies."""
    name, example = next(iter(graph.inputs.items()))
    return [None if axis in graph.varying.get(name, {}) else side for axis, side in enumerate(example.shape)]


TARGET = Target(
    suffix=".torchscript",
    checked_by="torch",
    write={"float32": write},
    runtimes={"torch": open_file},
    read_metadata=lambda file: _read(file).metadata,
)
