"""The commands by name."""

import typer

from boxwright.cli import compare, data, deploy, networks, predict, serve, tables, tracks

app = typer.Typer(
    add_completion=False,
    rich_markup_mode="rich",
    help="Train, evaluate, export and run convolutional object detectors and image classifiers.",
)
app.command("list")(networks.list_)
app.command("show")(networks.show)
app.command("train")(networks.train)
app.command("evaluate")(networks.evaluate)
app.command("compare")(compare.compare)
app.command("runs")(compare.runs)
app.command("evaluate-tracks")(tracks.evaluate_tracks)
app.command("predict")(predict.predict)
app.command("merge-shards")(tables.merge_shards)
app.command("import")(networks.import_)
app.command("export")(deploy.export)
app.command("quantize")(deploy.quantize)
app.command("bench")(deploy.bench)
app.command("serve")(serve.serve)
app.command("demo")(networks.demo)

data_app = typer.Typer(help="Check, view, convert and split data sets; choose anchors.")
data_app.command("check")(data.check)
data_app.command("show")(data.show)
data_app.command("tile")(data.tile)
data_app.command("convert")(data.convert)
data_app.command("split")(data.split)
data_app.command("merge")(data.merge)
data_app.command("anchors")(data.anchors)
data_app.command("tensors")(data.tensors)
app.add_typer(data_app, name="data")
