"""The commands that carry a network to other runtimes."""

from typing import Annotated

import typer

from boxwright import runtimes
from boxwright.cli.options import Changes, Compile, Data, RecipeOption, TrustFile, Weights, named
from boxwright.cli.output import say


def export(
    weights: Weights,
    to: Annotated[str, typer.Option("--to", metavar="FORMAT", help=f"{', '.join(runtimes.names())}.")],
    out: Annotated[
        str | None, typer.Option("-o", "--out", callback=named, help="The file. [default: named as WEIGHTS]")
    ] = None,
    recipe: RecipeOption = None,
    size: Annotated[tuple[int, int] | None, typer.Option("--size", metavar="H W", help="Canvas in px.")] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images that the file takes at a time.")] = 1,
    dynamic_batch: Annotated[bool, typer.Option("--dynamic-batch", help="Any number of them.")] = False,
    half: Annotated[bool, typer.Option("--half", help="Numbers of 16 bits (onnx, openvino).")] = False,
    complete: Annotated[
        bool,
        typer.Option("--with-nms/--raw", help="From an image to boxes, all inside; or only the network."),
    ] = False,
    data: Annotated[
        str | None, typer.Option("--data", help="Compare the answers on this data set. [default: rendered scenes]")
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="Which part of it. [default: val]")] = None,
    chip: Annotated[str | None, typer.Option("--chip", help="The Ascend device that an om is for.")] = None,
    set_: Changes = None,
) -> None:
    """Write a file for another runtime, and keep it only where it gives the same answers."""
    from boxwright.export.run import export_model

    report = export_model(
        weights,
        to,
        out,
        recipe=recipe,
        overrides=set_ or (),
        size=size,
        batch=batch,
        dynamic_batch=dynamic_batch,
        half=half,
        complete=complete,
        data=data,
        split=split,
        chip=chip,
    )
    say(report)


def quantize(
    weights: Weights,
    data: Data,
    out: Annotated[
        str | None, typer.Option("-o", "--out", callback=named, help="The file. [default: named as WEIGHTS]")
    ] = None,
    backend: Annotated[
        str, typer.Option("--backend", help="Which runtime the file is for: openvino, onnxruntime.")
    ] = "openvino",
    pictures: Annotated[int, typer.Option("--pictures", min=1, help="Of train, to calibrate on.")] = 64,
    max_drop: Annotated[
        float,
        typer.Option("--max-drop", min=0, max=1, help="Of AP, or top-1, on val; else layers stay float."),
    ] = 0.005,
    recipe: RecipeOption = None,
    set_: Changes = None,
) -> None:
    """Write a file that computes in 8 bits, and say what that costs and gains."""
    from boxwright.export import int8

    say(
        int8.quantize(
            weights,
            data,
            out,
            backend=backend,
            pictures=pictures,
            max_drop=max_drop,
            recipe=recipe,
            overrides=set_ or (),
        )
    )


def bench(
    weights: Weights,
    recipe: RecipeOption = None,
    out: Annotated[str, typer.Option("--out", callback=named, help="Folder for bench.png and bench.json.")] = "bench",
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="How often each is timed; medians count.")] = 10,
    compile_: Compile = False,
    trust_file: TrustFile = False,
    set_: Changes = None,
) -> None:
    """Time the network in every runtime that is installed, side by side."""
    from boxwright.export import bench as timing

    say(
        timing.bench(
            weights, out, recipe=recipe, overrides=set_ or (), rounds=rounds, compile_=compile_, trust=trust_file
        )
    )
