"""The commands for recipes and networks."""

from pathlib import Path
from typing import Annotated

import typer

from boxwright.cli.options import (
    Backend,
    BFloat16,
    Compile,
    Data,
    Device,
    Overrides,
    RecipeOption,
    Transfer,
    TrustFile,
    Weights,
    check_name,
)
from boxwright.cli.output import echo
from boxwright.errors import InputError


def list_() -> None:
    """List the shipped recipes."""
    from boxwright import recipe

    summaries = recipe.summaries()
    width = max(map(len, summaries))
    for name, summary in summaries.items():
        echo(f"{name:{width}}  {summary}")


def show(
    name: Annotated[str, typer.Argument(metavar="RECIPE", help="Recipe name or YAML file.")], set_: Overrides = None
) -> None:
    """Print a recipe with all its values, as YAML."""
    from boxwright import recipe

    print(recipe.load(name, set_ or ()).to_yaml(), end="")


def train(
    name: Annotated[str, typer.Argument(metavar="RECIPE", help="Recipe name or YAML file.")],
    data: Data,
    out: Annotated[
        str | None, typer.Option("--out", callback=check_name, help="Run folder. [default: runs/RECIPE]")
    ] = None,
    set_: Overrides = None,
    weights: Annotated[str | None, typer.Option("--weights", help="Initial weights.")] = None,
    transfer: Transfer = False,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in --out.")] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Skip faulty labels and images, and list them.")] = False,
) -> None:
    """Train the recipe's network on a data set. Also runs under torchrun or accelerate launch."""
    from boxwright.engine.train import train as run

    folder = run(
        name,
        data,
        out or f"runs/{Path(name).stem}",
        weights=weights,
        transfer=transfer,
        resume=resume,
        skip_bad=skip_bad,
        overrides=tuple(set_ or ()),
    )
    echo(folder)


def evaluate(
    weights: Weights,
    data: Data,
    recipe: RecipeOption = None,
    split: Annotated[str, typer.Option("--split", help="Split of the data set.")] = "val",
    scenes: Annotated[
        str | None,
        typer.Option("--scenes", help="Data set the tiles were cut from: evaluate the merged scenes as well."),
    ] = None,
    no_truth: Annotated[
        bool,
        typer.Option(
            "--no-truth", help="Images without labels: only write the results file, for an evaluation server."
        ),
    ] = False,
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="With --no-truth: detections per image.")] = 100,
    out: Annotated[
        str, typer.Option("--out", callback=check_name, help="Folder for metrics.json, results and plots.")
    ] = "evaluation",
    set_: Overrides = None,
    device: Device = "auto",
    backend: Backend = "auto",
    bfloat16: BFloat16 = False,
    compile_: Compile = False,
    trust_file: TrustFile = False,
) -> None:
    """Evaluate weights on a data set: COCO's twelve metrics, or top-1 and top-5 of a classifier; also per class."""
    from boxwright.data import open_dataset, open_pictures
    from boxwright.evaluation import evaluate as scoring
    from boxwright.evaluation import results
    from boxwright.evaluation import scenes as whole
    from boxwright.predict.class_predictor import ClassPredictor
    from boxwright.predict.load import load
    from boxwright.predict.loading import recipe_of
    from boxwright.runtimes.base.runtime import RuntimeOptions

    if no_truth and scenes is not None:
        raise InputError("--no-truth and --scenes: found both, needed one; scenes are evaluated against labels")
    meant = recipe_of(weights, recipe)
    if meant.model.task == "classify":
        _refuse_boxes({"--no-truth": no_truth, "--scenes": scenes is not None})
    batch = meant.with_overrides(set_ or ()).evaluate.batch
    running = RuntimeOptions(batch, fuse=True, bfloat16=bfloat16, compile=compile_, trust=trust_file)
    loaded = load(weights, meant, device, set_ or (), backend, running)
    if no_truth and not isinstance(loaded, ClassPredictor):
        echo(results.write(loaded, open_pictures(data, split), out, most=top_k))
        return
    if scenes is not None and not isinstance(loaded, ClassPredictor):
        settings = loaded.recipe.data
        tiles = open_dataset(data, split, settings.kind, settings.cache)
        echo(whole.evaluate(loaded, tiles, open_dataset(scenes, split), out))
        return
    metrics = scoring.evaluate(loaded, data, split, out)
    echo(metrics)
    if published := meant.expect.beside(metrics.summary):
        echo(published)


def predict(
    weights: Weights,
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="Images, folders, or quoted globs.")],
    recipe: RecipeOption = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            callback=check_name,
            help="Folder for the drawn images and the predictions. [default: detections; classes for a classifier]",
        ),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", min=1, help="Classifier: classes per image. [default: 5]")
    ] = None,
    threshold: Annotated[float | None, typer.Option("--threshold", min=0, max=1, help="Minimum score.")] = None,
    nms: Annotated[float | None, typer.Option("--nms", min=0, max=1, help="IoU threshold of NMS.")] = None,
    classes: Annotated[str | None, typer.Option("--classes", help="Only these classes, e.g. car,truck.")] = None,
    tile: Annotated[
        int | None, typer.Option("--tile", min=1, help="Predict on tiles of this many px, for images of any size.")
    ] = None,
    overlap: Annotated[
        float | None,
        typer.Option("--overlap", help="Overlap of neighboring tiles as a fraction of the tile. [default: 0.2]"),
    ] = None,
    geojson: Annotated[
        bool, typer.Option("--geojson", help="Require GeoJSON output, which georeferenced images get with --tile.")
    ] = False,
    draw: Annotated[bool, typer.Option("--draw/--no-draw", help="Write images with the predictions drawn.")] = True,
    set_: Overrides = None,
    device: Device = "auto",
    backend: Backend = "auto",
    bfloat16: BFloat16 = False,
    compile_: Compile = False,
    trust_file: TrustFile = False,
) -> None:
    """Detect objects in images and draw them; with a classifier, predict the classes of images."""
    if tile is None and (overlap is not None or geojson):
        raise InputError("--overlap and --geojson go with --tile; add for example --tile 600")
    from boxwright.predict import class_predictor, class_sinks, loading, predictor, scene_sinks, sinks
    from boxwright.predict.tiled import Tiling
    from boxwright.runtimes.base.runtime import RuntimeOptions

    meant = loading.recipe_of(weights, recipe)
    classifies = meant.model.task == "classify"
    if classifies:
        boxes = {"--threshold": threshold, "--nms": nms, "--classes": classes, "--tile": tile}
        _refuse_boxes({option: value is not None for option, value in boxes.items()})
    elif top_k is not None:
        raise InputError(f"--top-k: recipe {meant.name} is a detector; give --threshold instead")
    out = out or ("classes" if classifies else "detections")
    batch = meant.with_overrides(set_ or ()).predict.batch
    at_once = batch if tile else min(batch, len(sinks.find_pictures(sources, Path(out))))
    running = RuntimeOptions(at_once, fuse=True, bfloat16=bfloat16, compile=compile_, trust=trust_file)
    chosen = weights, meant, device, set_ or (), backend, running
    lines: list[str] = []
    if classifies:
        classifier = class_predictor.load_classifier(*chosen)
        most = top_k or class_predictor.MOST
        summary, lines = class_sinks.predict_to_folder(classifier, sources, out, most, draw=draw)
    else:
        detector, wanted = predictor.load(*chosen), classes.split(",") if classes else None
        if tile is None:
            summary = sinks.predict_to_folder(detector, sources, out, threshold, nms, wanted, draw=draw)
        else:
            tiling = Tiling(tile, 0.2 if overlap is None else overlap)
            summary = scene_sinks.predict_scenes_to_folder(
                detector, sources, out, tiling, threshold, nms, wanted, geojson=geojson
            )
    echo("\n".join([*lines, *summary.lines()]))
    raise typer.Exit(1 if summary.failed else 0)


def _refuse_boxes(given: dict[str, bool]) -> None:
    """Raise InputError for options that need boxes."""
    if wrong := [option for option, is_given in given.items() if is_given]:
        raise InputError(f"{', '.join(wrong)}: the recipe is a classifier, which finds no boxes; leave it out")


def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A .weights, .ckpt or .safetensors file.")],
    recipe: Annotated[str, typer.Option("--recipe", help="Recipe of the network.")],
    out: Annotated[str, typer.Option("-o", "--out", callback=check_name, help="Output .safetensors file.")],
    transfer: Transfer = False,
    set_: Overrides = None,
) -> None:
    """Convert published weights to a .safetensors file with an embedded recipe."""
    from boxwright import models, weights
    from boxwright import recipe as recipes
    from boxwright.weights import checkpoint, files

    if Path(out).suffix != ".safetensors":
        raise InputError(f"{out}: found the suffix '{Path(out).suffix}', needed .safetensors")
    files.keep_apart([Path(out)], [files.locate(Path(file))])
    resolved = recipes.load(recipe, set_ or ())
    model = models.module(resolved.model.name).build(resolved.model)  # type: ignore[attr-defined]
    echo(weights.load(model, file, resolved, transfer=transfer))
    checkpoint.save(out, model, resolved)
    echo(out)


def demo(
    out: Annotated[str, typer.Option("--out", callback=check_name, help="Folder for data and runs.")] = "demo",
    set_: Overrides = None,
) -> None:
    """Render scenes, train a small detector on them, evaluate it, draw predictions. Minutes on two cores; offline."""
    from boxwright.engine.demo import run

    echo(run(Path(out), tuple(set_ or ())))
