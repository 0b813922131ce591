"""Words that several verbs take."""

from typing import Annotated

import typer

from boxwright.errors import InputError

Weights = Annotated[
    str,
    typer.Argument(
        metavar="WEIGHTS", help="A run folder, a .safetensors, .pth, .weights or .ckpt, or an exported file."
    ),
]
Data = Annotated[str, typer.Option("--data", help="Folder of the data set, or a YAML that describes it.")]
Folder = Annotated[str, typer.Argument(metavar="DIR", help="Folder of the data set, or a YAML that describes it.")]
RecipeOption = Annotated[
    str | None, typer.Option("--recipe", help="A recipe's name or YAML file, for weights that do not carry their own.")
]
Changes = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the recipe; repeatable.")
]
Device = Annotated[str, typer.Option("--device", help="Where to compute: auto, cpu, cuda, cuda:1, ...")]
BFloat16 = Annotated[bool, typer.Option("--bfloat16", help="Compute in 16 bits, where the processor can.")]
Compile = Annotated[bool, typer.Option("--compile", help="Weights: torch.compile, which takes a minute to begin.")]
TrustFile = Annotated[
    bool, typer.Option("--trust-file", help="Also run a .torchscript file: it is a program, which may do anything.")
]
Transfer = Annotated[bool, typer.Option("--transfer", help="Load all that fits and start the rest afresh.")]


def named(param: typer.CallbackParam, value: str | None) -> str | None:
    """`value` of an option that names what is written. Raises InputError where it is empty."""
    if value == "":
        raise InputError(f"--{param.name}: found an empty name, needed that of a file or folder to write")
    return value


def known_runtime(value: str) -> str:
    """`value` of --backend. Raises InputError for the name of no runtime."""
    from boxwright.runtimes.base.open import runtime_names

    if value != "auto" and value not in runtime_names():
        raise InputError(f"--backend: found '{value}', needed one of auto, {', '.join(runtime_names())}")
    return value


Backend = Annotated[
    str,
    typer.Option("--backend", callback=known_runtime, help="What runs an exported file; auto: the fastest that can."),
]
