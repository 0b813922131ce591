"""Files of PyTorch itself: TorchScript, and the archives of torch.export (.pt2). Neither needs boxwright to be run.

What reads them again: `predict/backend_programs.py`.
"""

import io
import json
import warnings
import zipfile
from pathlib import Path

import torch

from boxwright import files
from boxwright.export.graph import Graph, exported
from boxwright.predict.backend_programs import SHAPE
from boxwright.predict.card import KEY


def write_torchscript(graph: Graph, path: str | Path, card_text: str) -> None:
    """`graph` as TorchScript, with `card_text` as its extra file `boxwright`; whole or not at all.

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
        torch.jit.save(program, buffer, _extra_files={KEY: card_text, SHAPE: json.dumps(_shape(graph))})
    with files.atomic_write(path) as tmp, zipfile.ZipFile(buffer) as whole, zipfile.ZipFile(tmp, "w") as stripped:
        for entry in whole.infolist():
            if not entry.filename.endswith(".debug_pkl"):  # where its lines come from: the machine's paths
                stripped.writestr(entry, whole.read(entry))


def write_pt2(graph: Graph, path: str | Path, card_text: str) -> None:
    """`graph` as an exported program, with `card_text` as its extra file `boxwright`; whole or not at all.

    Raises InputError where the file cannot be written.
    """
    program = exported(graph)
    for module in program.graph_module.modules():  # the loops have graphs of their own
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # lines of Python that it came from: the machine's paths
    buffer = io.BytesIO()  # PyTorch ends the process where a file that it writes cannot grow
    torch.export.save(program, buffer, extra_files={KEY: card_text})
    with files.atomic_write(path) as tmp:
        tmp.write_bytes(buffer.getbuffer())


def _shape(graph: Graph) -> list[int | None]:
    """Of the first input, None for an axis that varies."""
    name, example = next(iter(graph.inputs.items()))
    return [None if axis in graph.varying.get(name, {}) else side for axis, side in enumerate(example.shape)]
