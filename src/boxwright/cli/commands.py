"""The commands by name."""

from typing import Annotated

import typer

from boxwright.cli import audit, compare, data, deploy, doctor, look, networks, predict, serve, tables, tracks
from boxwright.cli.options import with_cache
from boxwright.cli.output import echo
from boxwright.version import __version__

EXIT_STATUS = (
    "Exit status: 0 success; 1 problems were found; 2 invalid input, with one line on stderr; "
    "130 Ctrl-C; 143 a training or video was stopped by a signal, with complete files."
)
app = typer.Typer(
    rich_markup_mode="rich",
    epilog=EXIT_STATUS,
    help="Convolutional object detectors and image classifiers in PyTorch: training, evaluation, prediction, import of "
    "published weights, and export to other runtimes with verified outputs.",
)


def print_version(asked: bool) -> None:
    if asked:
        echo(f"boxwright {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of the program."""


app.command("list")(networks.list_)
app.command("show")(networks.show)
app.command("train")(with_cache(networks.train))
app.command("evaluate")(with_cache(networks.evaluate))
app.command("calibrate")(with_cache(networks.calibrate))
app.command("compare")(with_cache(compare.compare))
app.command("runs")(compare.runs)
app.command("evaluate-tracks")(with_cache(tracks.evaluate_tracks))
app.command("predict")(with_cache(predict.predict))
app.command("merge-shards")(with_cache(tables.merge_shards))
app.command("import")(with_cache(networks.import_))
app.command("export")(with_cache(deploy.export))
app.command("quantize")(with_cache(deploy.quantize))
app.command("bench")(with_cache(deploy.bench))
app.command("serve")(with_cache(serve.serve))
app.command("look")(with_cache(look.look))
app.command("demo")(with_cache(networks.demo))
app.command("doctor")(with_cache(doctor.doctor))

data_app = typer.Typer(help="Check, audit, view, convert and split data sets; choose anchors.")
data_app.command("check")(with_cache(data.check))
data_app.command("show")(with_cache(data.show))
data_app.command("tile")(with_cache(data.tile))
data_app.command("convert")(with_cache(data.convert))
data_app.command("split")(with_cache(data.split))
data_app.command("merge")(with_cache(data.merge))
data_app.command("anchors")(with_cache(data.anchors))
data_app.command("audit")(with_cache(audit.audit))
data_app.command("tensors")(with_cache(data.tensors))
app.add_typer(data_app, name="data")
