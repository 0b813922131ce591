"""Target: description of a file format, defined by a module in `runtimes/`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from boxwright.recipe import Recipe
from boxwright.runtimes.base.graph import Graph
from boxwright.runtimes.base.metadata import Precision
from boxwright.runtimes.base.runtime import Runtime, RuntimeOptions

WriteGraph = Callable[[Graph, Path, str], None]
WriteWeights = Callable[[Path, nn.Module, Recipe], None]
Open = Callable[[Path, RuntimeOptions], tuple[Runtime, str | None]]


@dataclass(frozen=True, slots=True)
class Compiler:
    """Compiler that makes the file from another one, which is compared with PyTorch.

    Attributes:
        source: Suffix of the other file.
        check: Function that raises InputError if the chip is not named or the compiler not installed.
        run: Compiles (source file, file, chip). Raises InputError if the compiler rejects the network.
    """

    source: str
    check: Callable[[str | None], None]
    run: Callable[[Path, Path, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An export target: a file format, functions that write it, and its runtimes.

    Attributes:
        suffix: Suffix of its files.
        checked_by: Runtime for the parity check.
        write: By precision, a writer of (graph, path, metadata as text); empty for a file of weights.
        write_weights: A writer of (path, network, recipe), for a file of weights without a graph.
        runtimes: Name of the library -> function that opens (path, options) and returns the runtime and the text of the
            metadata, None without any; fastest first. Empty if the file cannot be run here.
        by_name: Additional runtimes that are only used by name: neither `auto` nor `bench` takes them.
        read_metadata: Reads the text of the metadata without preparing the file to run; set if `runtimes` has entries.
        extra: The extra of this package to install; "" for none.
        fixed_shapes: Whether no axis may vary and NMS cannot be included.
        companion: Suffix of a second file beside it; "" for none.
        compiler: Compiler of the file, if `write` does not write it.
    """

    suffix: str
    checked_by: str
    write: Mapping[Precision, WriteGraph] = field(default_factory=dict)
    write_weights: WriteWeights | None = None
    runtimes: Mapping[str, Open] = field(default_factory=dict)
    by_name: Mapping[str, Open] = field(default_factory=dict)
    read_metadata: Callable[[Path], str | None] | None = None
    extra: str = ""
    fixed_shapes: bool = False
    companion: str = ""
    compiler: Compiler | None = None

    @property
    def metadata_beside(self) -> bool:
        """Whether the metadata is in FILE.json, because the format cannot store it."""
        return self.write_weights is not None or self.compiler is not None
