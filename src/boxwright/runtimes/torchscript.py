"""TorchScript files, which need no boxwright to be run elsewhere.

TorchScript is a language of its own, with classes, native ones among them, and with calls that write files, which
PyTorch's interpreter runs without asking: such a file is only opened for whoever trusts it.
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

SHAPE = f"{KEY}.shape"  # a trace does not know the shape of its input; this extra file does, as JSON
TRUST = (
    "TorchScript runs whatever program is in the file; add --trust-file (Python: trust=True) if you know who made it, "
    "or export the network to pt2 or onnx"
)
ENTRIES = re.compile(r"[\w./-]+")
GROWTH = 10  # PyTorch compresses nothing but lines of code


def write(graph: Graph, path: Path, metadata: str) -> None:
    """Write `graph` as TorchScript, with `metadata` as its extra file `boxwright`, atomically.

    A trace: sizes of axes that do not vary are fixed in it. Raises InputError where the file cannot be written.
    """
    with warnings.catch_warnings(), torch.no_grad():
        # of PyTorch about its own deprecated part, and about shapes that a trace fixes, which is what is wanted
        warnings.filterwarnings("ignore", "`torch.jit.*` is deprecated", DeprecationWarning)
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        example = tuple(graph.inputs.values())
        traced = torch.jit.trace(graph.module, example, check_trace=False)  # type: ignore[no-untyped-call]
        program = torch.jit.freeze(traced)
        buffer = io.BytesIO()
        torch.jit.save(program, buffer, _extra_files={KEY: metadata, SHAPE: json.dumps(_shape(graph))})
    with files.atomic_write(path) as tmp, zipfile.ZipFile(buffer) as written, zipfile.ZipFile(tmp, "w") as stripped:
        for entry in written.infolist():
            if not entry.filename.endswith(".debug_pkl"):  # where its lines come from: the machine's paths
                stripped.writestr(entry, written.read(entry))


def open_file(file: Path, options: RuntimeOptions) -> tuple[ProgramRuntime, str | None]:
    """The program, and the metadata's text where the file has any.

    Raises InputError for a file that is no such program, and one that is not trusted.
    """
    options.reject_unsupported("torch for programs", "bfloat16", "compile")
    content = _read(file)
    if not options.trust:
        raise InputError(f"{file}: {TRUST}")
    try:
        return _load(content), content.metadata
    except InputError:
        raise
    except Exception as error:  # whatever its parts raise for what they do not understand
        raise InputError(
            f"{file}: not a program that PyTorch {torch.__version__} can run ({first_line(error)})"
        ) from error


def _read(file: Path) -> Archive:
    return archive.read(file, ENTRIES, GROWTH)


def _load(content: Archive) -> ProgramRuntime:
    """PyTorch is given a new archive of what Python's reader finds, so that both see the same metadata and shape."""
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
    """Of the first input, None for an axis that varies."""
    name, example = next(iter(graph.inputs.items()))
    return [None if axis in graph.varying.get(name, {}) else side for axis, side in enumerate(example.shape)]


TARGET = Target(
    suffix=".torchscript",
    checked_by="torch",
    write={"float32": write},
    runtimes={"torch": open_file},
    read_metadata=lambda file: _read(file).metadata,
)
