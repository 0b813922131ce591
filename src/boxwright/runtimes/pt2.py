"""Archives of torch.export (.pt2), which run elsewhere without boxwright.

Such a file contains a list of operators, which `exported_program` runs without PyTorch's own reader.
"""

import io
from pathlib import Path

import torch

from boxwright import files
from boxwright.runtimes.base.checks import check_input
from boxwright.runtimes.base.graph import Graph, exported
from boxwright.runtimes.base.metadata import KEY
from boxwright.runtimes.base.runtime import RuntimeOptions
from boxwright.runtimes.base.target import Target
from boxwright.runtimes.base.torch_runtime import ProgramRuntime
from boxwright.runtimes.serialization import archive, exported_program
from boxwright.runtimes.serialization.archive import Archive


def write(graph: Graph, path: Path, metadata: str) -> None:
    """Write `graph` as an exported program, with `metadata` as its extra file `boxwright`, atomically.

    Raises InputError if the file cannot be written.
    """
    program = exported(graph)
    for module in program.graph_module.modules():  # loops have separate graphs
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # contains paths of this machine
    buffer = io.BytesIO()  # in memory, since PyTorch aborts the process if the disk is full
    torch.export.save(program, buffer, extra_files={KEY: metadata})
    files.write_bytes(path, buffer.getbuffer())


def open_file(file: Path, options: RuntimeOptions) -> tuple[ProgramRuntime, str | None]:
    """Open a file. Returns the program, and the text of its metadata if it has any.

    Raises InputError for a file that is not such a program, or has content that no export has.
    """
    options.reject_unsupported("torch for programs", "bfloat16", "compile")
    content = _read(file)
    program = exported_program.read(content)
    check_input(file, program.shape)
    return ProgramRuntime(program, program.shape), content.metadata


def _read(file: Path) -> Archive:
    return archive.read(file, exported_program.ENTRIES, 1)  # PyTorch does not compress these files


TARGET = Target(
    suffix=".pt2",
    checked_by="torch",
    write={"float32": write},
    runtimes={"torch": open_file},
    read_metadata=lambda file: _read(file).metadata,
)
