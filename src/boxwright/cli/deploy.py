"""The commands for other runtimes."""

from typing import Annotated

import typer

from boxwright import runtimes
from boxwright.cli.options import (
    Cfg,
    ClassNames,
    Compile,
    Data,
    Overrides,
    RecipeOption,
    TrustFile,
    Weights,
    output,
)
from boxwright.cli.output import echo, hint


def export(
    weights: Weights,
    to: Annotated[str, typer.Option("--to", metavar="FORMAT", help=f"{', '.join(runtimes.names())}, triton.")],
    out: Annotated[
        str | None, typer.Option("-o", "--out", callback=output, help="Output file. [default: the name of WEIGHTS]")
    ] = None,
    recipe: RecipeOption = None,
    cfg: Cfg = None,
    names: ClassNames = None,
    size: Annotated[tuple[int, int] | None, typer.Option("--size", metavar="H W", help="Canvas size in px.")] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            "--batch", min=1, max=4096, help="Batch size, 1 by default; triton: largest batch size, 8 by default."
        ),
    ] = None,
    dynamic_batch: Annotated[bool, typer.Option("--dynamic-batch", help="Variable batch size.")] = False,
    half: Annotated[bool, typer.Option("--half", help="16-bit weights (onnx, openvino).")] = False,
    complete: Annotated[
        bool, typer.Option("--with-nms/--raw", help="Include preprocessing, decoding and NMS; or only the network.")
    ] = False,
    data: Annotated[
        str | None, typer.Option("--data", help="Data set for the parity check. [default: rendered scenes]")
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="Split of --data. [default: val]")] = None,
    chip: Annotated[str | None, typer.Option("--chip", help="Ascend device of an om file.")] = None,
    set_: Overrides = None,
) -> None:
    """Export to another runtime's format; the file is kept only if its outputs match PyTorch's."""
    from boxwright.export.run import export_model
    from boxwright.predict.loading import given_recipe

    report = export_model(
        weights,
        to,
        out,
        recipe=given_recipe(recipe, cfg, names),
        overrides=set_ or (),
        size=size,
        batch=batch,
        dynamic_batch=dynamic_batch,
        half=half,
        complete=complete,
        data=data,
        split=split,
        chip=chip,
        inputs=[path for path in (cfg, names) if path],
    )
    echo(report)
    if to in ("onnx", "openvino", "pt2"):  # other formats need more options, or the vendor's program
        hint("predict", str(report.file), "IMAGES")


def quantize(
    weights: Weights,
    data: Data,
    out: Annotated[
        str | None, typer.Option("-o", "--out", callback=output, help="Output file. [default: the name of WEIGHTS]")
    ] = None,
    backend: Annotated[
        str, typer.Option("--backend", help="Runtime of the file: openvino or onnxruntime.")
    ] = "openvino",
    images: Annotated[int, typer.Option("--images", min=1, help="Number of calibration images, from train.")] = 64,
    max_drop: Annotated[
        float, typer.Option("--max-drop", min=0, max=1, help="Largest drop of AP or top-1 on val.")
    ] = 0.005,
    recipe: RecipeOption = None,
    cfg: Cfg = None,
    names: ClassNames = None,
    set_: Overrides = None,
) -> None:
    """Quantize to 8-bit integers, and report accuracy and speed."""
    from boxwright.export import int8
    from boxwright.predict.loading import given_recipe

    given = given_recipe(recipe, cfg, names)
    report = int8.quantize(
        weights, data, out, backend=backend, images=images, max_drop=max_drop, recipe=given, overrides=set_ or ()
    )
    echo(report)
    hint("predict", str(report.file), "IMAGES")


def bench(
    weights: Weights,
    recipe: RecipeOption = None,
    cfg: Cfg = None,
    names: ClassNames = None,
    out: Annotated[
        str, typer.Option("-o", "--out", callback=output, help="Folder for bench.png and bench.json.")
    ] = "bench",
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Timings per runtime; the median is reported.")] = 10,
    compile_: Compile = False,
    trust_file: TrustFile = False,
    set_: Overrides = None,
) -> None:
    """Time the network in every installed runtime."""
    from boxwright.export import bench as timing
    from boxwright.predict.loading import given_recipe

    given = given_recipe(recipe, cfg, names)
    echo(
        timing.bench(
            weights, out, recipe=given, overrides=set_ or (), rounds=rounds, compile_=compile_, trust=trust_file
        )
    )
