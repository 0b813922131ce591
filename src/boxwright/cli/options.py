"""Options that several commands share."""

from typing import Annotated

import typer

from boxwright.errors import InputError

Weights = Annotated[
    str,
    typer.Argument(
        metavar="WEIGHTS", help="A run folder, a .safetensors, .pth, .weights or .ckpt file, or an exported file."
    ),
]
Data = Annotated[str, typer.Option("--data", help="Folder of the data set, or a YAML file that describes it.")]
Folder = Annotated[str, typer.Argument(metavar="DIR", help="Folder of the data set, or a YAML file that describes it.")]
RecipeOption = Annotated[
    str | None, typer.Option("--recipe", help="Recipe name or YAML file, for weights without an embedded recipe.")
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one value of the recipe; repeatable.")
]
Device = Annotated[str, typer.Option("--device", help="Compute device: auto, cpu, cuda, cuda:1, ...")]
BFloat16 = Annotated[bool, typer.Option("--bfloat16", help="Compute in bfloat16 if the processor supports it.")]
Compile = Annotated[
    bool, typer.Option("--compile", help="Use torch.compile (weights only); compiling takes about a minute.")
]
TrustFile = Annotated[
    bool, typer.Option("--trust-file", help="Allow .torchscript files, which can execute arbitrary code.")
]
Transfer = Annotated[
    bool, typer.Option("--transfer", help="Load the tensors whose shapes match; initialize the others randomly.")
]


def check_name(param: typer.CallbackParam, value: str | None) -> str | None:
    """Callback of options that name an output. Raises InputError for an empty name."""
    if value == "":
        raise InputError(f"--{param.name}: found an empty name, needed that of a file or folder to write")
    return value


def check_runtime(value: str) -> str:
    """Callback of --backend. Raises InputError for the name of no runtime."""
    from boxwright.runtimes.base.open import runtime_names

    if value != "auto" and value not in runtime_names():
        raise InputError(f"--backend: found '{value}', needed one of auto, {', '.join(runtime_names())}")
    return value


Backend = Annotated[
    str,
    typer.Option(
        "--backend", callback=check_runtime, help="Runtime for an exported file; auto: the fastest one installed."
    ),
]
