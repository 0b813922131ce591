"""Options that several commands share."""

import functools
import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from boxwright.errors import InputError


def local_input(value: str | None) -> str | None:
    """Callback of options and arguments that name a file or a folder to read: an address becomes a path in the cache.
    Not for data sets, since recipes store their addresses."""
    from boxwright.remote.address import is_remote, local_name
    from boxwright.remote.folders import local_path

    if value is not None and is_remote(value):
        return str(local_path(value))
    local_name(value or "")
    return value


def local_sources(values: list[str]) -> list[str]:
    """`local_input` of each image, folder, archive or video to predict. Images and videos on web servers stay, since
    they are streamed."""
    from boxwright.archives.folder import is_archive
    from boxwright.remote.address import WEB, is_remote, parse
    from boxwright.remote.folders import local_data

    def is_read(value: str) -> bool:
        return is_remote(value) and (parse(value).scheme not in WEB or is_archive(parse(value).name))

    return [str(local_data(each)) if is_read(each) else each for each in values]


def recipe_names(incomplete: str) -> list[str]:
    """Shell completion of a recipe: the shipped names that start with `incomplete`."""
    from boxwright import recipe

    return [name for name in recipe.names() if name.startswith(incomplete)]


def source_words(recipe: str | None, cfg: str | None, names: str | None) -> list[str]:
    """The options that describe weights without a recipe, for the hint of a command that needs them as well."""
    options = (("--recipe", recipe), ("--cfg", cfg), ("--names", names))
    return [word for option, value in options if value is not None for word in (option, value)]


Weights = Annotated[
    str,
    typer.Argument(
        metavar="WEIGHTS",
        callback=local_input,
        help="A run folder, a .safetensors, .pth, .weights or .ckpt file, or an exported file.",
    ),
]
Data = Annotated[
    str, typer.Option("--data", help="Folder or archive of the data set, or a YAML file that describes it.")
]
DataSets = Annotated[
    list[str],
    typer.Option(
        "--data",
        help="Folder or archive of the data set, or a YAML file that describes it; repeatable for several sets.",
    ),
]
Folder = Annotated[
    str, typer.Argument(metavar="DIR", help="Folder or archive of the data set, or a YAML file that describes it.")
]
RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe", callback=local_input, help="Recipe name or YAML file, for weights without an embedded recipe."
    ),
]
Cfg = Annotated[
    str | None,
    typer.Option("--cfg", callback=local_input, help="Darknet .cfg of a .weights file, instead of a recipe."),
]
ClassNames = Annotated[
    str | None, typer.Option("--names", callback=local_input, help="With --cfg: file with one class name per line.")
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one value of the recipe; repeatable.")
]
Device = Annotated[str, typer.Option("--device", help="Compute device: auto, cpu, cuda, cuda:1, ...")]
BFloat16 = Annotated[bool, typer.Option("--bfloat16", help="Compute in bfloat16 if the processor supports it.")]
Compile = Annotated[bool, typer.Option("--compile", help="Use torch.compile (weights only); takes a minute to start.")]
TrustFile = Annotated[
    bool, typer.Option("--trust-file", help="Allow .torchscript files, which can execute arbitrary code.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON; messages go to stderr.")]
Split = Annotated[str, typer.Option("--split", help="Split of the data set.")]
Splits = Annotated[list[str] | None, typer.Option("--split", help="Split; repeatable. [default: all]")]
Kind = Annotated[
    str, typer.Option("--kind", metavar="LAYOUT", help="Layout of the labels, such as voc; auto: detect it.")
]
SkipBad = Annotated[
    bool,
    typer.Option(
        "--skip-bad",
        help="Drop faulty labels and images, and list them; the area of a dropped label is ignored in the loss and in "
        "metrics.",
    ),
]
ClipBoxes = Annotated[
    bool, typer.Option("--clip-boxes", help="Clip boxes that are partly outside their image, and count them.")
]
NoInterval = Annotated[bool, typer.Option("--no-interval", help="Skip the 95 % intervals (bootstrap over images).")]
Overlap = Annotated[float | None, typer.Option("--overlap", help="Overlap as a fraction of the tile. [default: 0.2]")]
Name = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        callback=local_input,
        autocompletion=recipe_names,
        help="Recipe name, or YAML or Darknet .cfg file.",
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Run on Ray: local starts it on this machine, auto uses this machine's cluster, or HOST:PORT.",
    ),
]
Transfer = Annotated[bool, typer.Option("--transfer", help="Load matching tensors only; the rest stays random.")]


def check_name(param: typer.CallbackParam, value: str | None) -> str | None:
    """Callback of options that name an output. Raises InputError for an empty name."""
    if value == "":
        raise InputError(f"--{param.name}: found an empty name, needed the name of a file or folder to write")
    return value


def output(context: typer.Context, param: typer.CallbackParam, value: str | None) -> str | None:
    """Callback of options that name an output: an address becomes a path in the cache, which is uploaded when the
    command succeeds. Raises InputError for an empty name, or an address that cannot be written to."""
    return _output(context, check_name(param, value), new=False)


def new_output(context: typer.Context, param: typer.CallbackParam, value: str | None) -> str | None:
    """`output` for a folder that must be new."""
    return _output(context, check_name(param, value), new=True)


def _output(context: typer.Context, value: str | None, *, new: bool) -> str | None:
    from boxwright.remote.address import is_remote, local_name

    if value is not None and is_remote(value):
        return str(context.with_resource(_sent(value, new)))
    local_name(value or "")
    return value


@contextmanager
def _sent(value: str, new: bool) -> Iterator[Path]:
    """`local_output` that also uploads the results of a command that found problems and exits with status 1."""
    from boxwright.remote.outputs import local_output

    leaving: typer.Exit | None = None
    with local_output(value, new=new) as path:
        try:
            yield path
        except typer.Exit as exit_:
            leaving = exit_
    if leaving is not None:
        raise leaving


def class_list(value: str, names: Sequence[str]) -> list[str]:
    """The class names in `value` of --classes: one of `names`, a JSON list, or names separated by commas.

    Raises InputError for a JSON value that is not a list of names.
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
    """`value` of --backend. Raises InputError for an unknown name."""
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


def with_cache(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the cache options, which all its processes get from the environment."""

    @functools.wraps(command)
    def run(*args: Any, cache: str | None, cache_size: str | None, **kwargs: Any) -> None:
        command(*args, **kwargs)

    signature = inspect.signature(command)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
        for name, option in (("cache", CacheFolder), ("cache_size", CacheSize))
    ]
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *added])  # type: ignore[attr-defined]
    run.__annotations__ = {**command.__annotations__, "cache": CacheFolder, "cache_size": CacheSize}
    return run


def _set_cache(value: str | None) -> str | None:
    from boxwright.cache import VARIABLE

    if value is not None:
        os.environ[VARIABLE] = os.path.abspath(value)  # noqa: PTH100  (the shell expands ~)
    return value


def _set_cache_size(value: str | None) -> str | None:
    from boxwright.remote.cache import SIZE, parse_size

    if value is not None:
        parse_size(value, "--cache-size")
        os.environ[SIZE] = value
    return value


CacheFolder = Annotated[
    str | None,
    typer.Option(
        "--cache", metavar="DIR", callback=_set_cache, is_eager=True, help="Cache of remote files and archives."
    ),
]
CacheSize = Annotated[
    str | None,
    typer.Option(
        "--cache-size",
        callback=_set_cache_size,
        is_eager=True,
        help="Limit of remote files in the cache. [default: 50GB]",
    ),
]
