"""Target: what a module in `runtimes/` says of its file format."""

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
    """Makes the file of another one, which is what is compared with PyTorch.

    Attributes:
        source: Suffix of that other file.
        check: Raises InputError where the chip is not named or the compiler not installed.
        run: Compiles (source file, file, chip). Raises InputError where it rejects the network.
    """

    source: str
    check: Callable[[str | None], None]
    run: Callable[[Path, Path, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An export target: a file format, how it is written, and what runs it.

    Attributes:
        suffix: Of its files.
        checked_by: The runtime that runs the file beside PyTorch before it is kept.
        write: By precision, a writer of (graph, path, metadata as text); empty for a file of weights.
        write_weights: A writer of (path, network, recipe), for a file of weights without a graph.
        runtimes: By the name of the library, the fastest first, what opens (path, options) and gives the runtime and
            the text of the metadata, None without any. Empty where the file does not run here.
        by_name: Further ones, which run only where they are named: neither `auto` nor `bench` takes them.
        read_metadata: The text of the metadata, without making the file ready to run; where `runtimes` has entries.
        extra: The extra of this package to install, "" for none.
        fixed_shapes: No axis may vary, and NMS cannot be inside.
        companion: Suffix of a second file beside it, "" for none.
        compiler: What makes the file, where that is not `write`.
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
        """Whether the metadata lies in FILE.json, for want of a place in the file."""
        return self.write_weights is not None or self.compiler is not None
