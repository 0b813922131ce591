"""Options that several commands share."""

from collections.abc import Sequence
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
DataSets = Annotated[
    list[str],
    typer.Option(
        "--data", help="Folder of the data set, or a YAML file that describes it; repeatable for several sets."
    ),
]
Folder = Annotated[str, typer.Argument(metavar="DIR", help="Folder of the data set, or a YAML file that describes it.")]
RecipeOption = Annotated[
    str | None, typer.Option("--recipe", help="Recipe name or YAML file, for weights without an embedded recipe.")
]
Cfg = Annotated[str | None, typer.Option("--cfg", help="Darknet .cfg of a .weights file, instead of a recipe.")]
ClassNames = Annotated[str | None, typer.Option("--names", help="With --cfg: file with a class name a line.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one value of the recipe; repeatable.")
]
Device = Annotated[str, typer.Option("--device", help="Compute device: auto, cpu, cuda, cuda:1, ...")]
BFloat16 = Annotated[bool, typer.Option("--bfloat16", help="Compute in bfloat16 if the processor supports it.")]
Compile = Annotated[bool, typer.Option("--compile", help="Use torch.compile (weights only); takes a minute to start.")]
TrustFile = Annotated[
    bool, typer.Option("--trust-file", help="Allow .torchscript files, which can execute arbitrary code.")
]
Split = Annotated[str, typer.Option("--split", help="Split of the data set.")]
Splits = Annotated[list[str] | None, typer.Option("--split", help="Split; repeatable. [default: all]")]
Kind = Annotated[
    str, typer.Option("--kind", metavar="LAYOUT", help="Layout of the labels, such as voc; auto: detect it.")
]
SkipBad = Annotated[
    bool,
    typer.Option(
        "--skip-bad",
        help="Leave out faulty labels and images, and list them; an image is ignored where its label is left out.",
    ),
]
ClipBoxes = Annotated[
    bool, typer.Option("--clip-boxes", help="Clip boxes that are partly outside their image, and count them.")
]
NoInterval = Annotated[
    bool, typer.Option("--no-interval", help="Without the 95 % intervals, which are a bootstrap over the images.")
]
Overlap = Annotated[float | None, typer.Option("--overlap", help="Overlap as a fraction of the tile. [default: 0.2]")]
Name = Annotated[str, typer.Argument(metavar="RECIPE", help="Recipe name, or YAML or Darknet .cfg file.")]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Run on Ray: local starts it on this machine, auto is the cluster of this machine, or HOST:PORT.",
    ),
]
Transfer = Annotated[bool, typer.Option("--transfer", help="Load matching tensors only; the others stay random.")]


def check_name(param: typer.CallbackParam, value: str | None) -> str | None:
    """Callback of options that name an output. Raises InputError for an empty name."""
    if value == "":
        raise InputError(f"--{param.name}: found an empty name, needed that of a file or folder to write")
    return value


def class_list(value: str, names: Sequence[str]) -> list[str]:
    """The class names in `value` of --classes: one of `names`, a JSON list, or names separated by commas.

    Raises InputError for a JSON value that is no list of names.
    """
    if value in names:
        return [value]
    if not value.startswith("["):
        return [name.strip() for name in value.split(",")]
    from boxwright import json_text

    found = json_text.parse(value, "--classes")
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise InputError('--classes: needed a JSON list of names, such as ["big, red car"]')
    return found


def known_runtime(value: str) -> str:
    """`value` of --backend. Raises InputError for the name of no runtime."""
    from boxwright.runtimes.base.open import runtime_names

    if value != "auto" and value not in runtime_names():
        raise InputError(f"--backend: found '{value}', needed one of auto, {', '.join(runtime_names())}")
    return value


Backend = Annotated[
    str,
    typer.Option(
        "--backend", callback=known_runtime, help="Runtime for an exported file; auto: the fastest one installed."
    ),
]
