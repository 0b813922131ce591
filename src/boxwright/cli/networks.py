"""The verbs around a network: look at recipes, train, evaluate, predict, import, demonstrate."""

from pathlib import Path
from typing import Annotated

import typer

from boxwright.cli.options import (
    Backend,
    BFloat16,
    Changes,
    Compile,
    Data,
    Device,
    RecipeOption,
    Transfer,
    TrustFile,
    Weights,
    named,
)
from boxwright.cli.output import say
from boxwright.errors import InputError


def list_() -> None:
    """The shipped recipes, one line each."""
    from boxwright import recipe

    summaries = recipe.summaries()
    width = max(map(len, summaries))
    for name, summary in summaries.items():
        say(f"{name:{width}}  {summary}")


def show(
    name: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's name or YAML file.")], set_: Changes = None
) -> None:
    """One recipe with every value written out, ready to be saved and changed."""
    from boxwright import recipe

    print(recipe.load(name, set_ or ()).to_yaml(), end="")


def train(
    name: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's name or YAML file.")],
    data: Data,
    out: Annotated[
        str | None, typer.Option("--out", callback=named, help="The run folder. [default: runs/RECIPE]")
    ] = None,
    set_: Changes = None,
    weights: Annotated[str | None, typer.Option("--weights", help="Start from these weights.")] = None,
    transfer: Transfer = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run in --out stopped.")] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave wrong labels out, and say which.")] = False,
) -> None:
    """Train the recipe's network on labelled pictures. Starts the same under torchrun or accelerate launch."""
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
    say(folder)


def evaluate(
    weights: Weights,
    data: Data,
    recipe: RecipeOption = None,
    split: Annotated[str, typer.Option("--split", help="Which part of the data set.")] = "val",
    scenes: Annotated[
        str | None, typer.Option("--scenes", help="The set that the tiles were cut from: score whole scenes, too.")
    ] = None,
    no_truth: Annotated[
        bool, typer.Option("--no-truth", help="Pictures without labels: only write the results, for a server to score.")
    ] = False,
    most: Annotated[int, typer.Option("--most", min=1, help="With --no-truth: best results a picture.")] = 100,
    out: Annotated[
        str, typer.Option("--out", callback=named, help="Folder for metrics.json, results and pictures.")
    ] = "evaluation",
    set_: Changes = None,
    device: Device = "auto",
    backend: Backend = "auto",
    bfloat16: BFloat16 = False,
    compile_: Compile = False,
    trust_file: TrustFile = False,
) -> None:
    """Score weights on labelled pictures: COCO's twelve numbers, of a classifier top-1 and top-5; by class as well."""
    from boxwright import tasks
    from boxwright.evaluation import evaluate as scoring
    from boxwright.evaluation import results
    from boxwright.evaluation import scenes as whole_scenes
    from boxwright.predict.backends import Running
    from boxwright.predict.loading import recipe_of
    from boxwright.predict.predictor import load
    from boxwright.recipe import DataConfig

    if no_truth and scenes is not None:
        raise InputError("--no-truth and --scenes: found both, needed one; whole scenes are scored by their labels")
    chosen = recipe_of(weights, recipe)
    task = tasks.of(chosen)
    task.check_options(chosen, {"--no-truth": no_truth or None, "--scenes": scenes})
    batch = chosen.with_overrides(set_ or ()).evaluate.batch
    running = Running(batch, fuse=True, bfloat16=bfloat16, compile=compile_, trust=trust_file)
    predictor = load(weights, chosen, device, set_ or (), backend, running)
    config = predictor.recipe.data
    if no_truth:
        say(results.write(predictor, task.open_images(data, split, config), out, top_k=most))
    elif scenes is not None:
        tiles, whole = task.open(data, split, config), task.open(scenes, split, DataConfig())
        say(whole_scenes.evaluate(predictor, tiles, whole, out))
    else:
        metrics = scoring.evaluate(predictor, data, split, out)
        say(metrics)
        if published := chosen.expect.beside(metrics.summary):
            say(published)


def predict(
    weights: Weights,
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="Pictures, folders, or quoted globs.")],
    recipe: RecipeOption = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            callback=named,
            help="Folder for the drawn pictures and what was found. [default: detections; classes of a classifier]",
        ),
    ] = None,
    top: Annotated[int | None, typer.Option("--top", min=1, help="Classifier: classes a picture. [default: 5]")] = None,
    threshold: Annotated[float | None, typer.Option("--threshold", min=0, max=1, help="Lowest score.")] = None,
    nms: Annotated[float | None, typer.Option("--nms", min=0, max=1, help="Overlap that counts as the same.")] = None,
    classes: Annotated[str | None, typer.Option("--classes", help="Only these, for example car,truck.")] = None,
    tile: Annotated[
        int | None, typer.Option("--tile", min=1, help="Look through windows of so many px, for pictures of any size.")
    ] = None,
    overlap: Annotated[
        float | None, typer.Option("--overlap", help="Share of a window that the next one repeats. [default: 0.2]")
    ] = None,
    geojson: Annotated[
        bool, typer.Option("--geojson", help="Need GeoJSON, which georeferenced pictures get with --tile.")
    ] = False,
    draw: Annotated[bool, typer.Option("--draw/--no-draw", help="Also write the pictures with what was found.")] = True,
    set_: Changes = None,
    device: Device = "auto",
    backend: Backend = "auto",
    bfloat16: BFloat16 = False,
    compile_: Compile = False,
    trust_file: TrustFile = False,
) -> None:
    """Find objects in pictures and draw them; with a classifier, say what the pictures show."""
    if tile is None and (overlap is not None or geojson):
        raise InputError("--overlap and --geojson go with --tile; add for example --tile 600")
    from boxwright import tasks
    from boxwright.predict import loading, output, scene_output
    from boxwright.predict.backends import Running
    from boxwright.predict.predictor import load
    from boxwright.predict.tiled import Tiling

    chosen = loading.recipe_of(weights, recipe)
    task = tasks.of(chosen)
    given = {"--threshold": threshold, "--nms": nms, "--classes": classes, "--tile": tile, "--top": top}
    task.check_options(chosen, given)
    out = out or task.results_key
    batch = chosen.with_overrides(set_ or ()).predict.batch
    at_once = batch if tile else min(batch, len(output.find_pictures(sources, Path(out))))
    running = Running(at_once, fuse=True, bfloat16=bfloat16, compile=compile_, trust=trust_file)
    predictor = load(weights, chosen, device, set_ or (), backend, running)
    names = classes.split(",") if classes else None
    if tile is None:
        args = task.args(predictor.recipe, threshold, nms, names, top)
        summary = output.predict_to_folder(predictor, sources, out, args, draw=draw)
    else:
        tiling = Tiling(tile, 0.2 if overlap is None else overlap)
        summary = scene_output.predict_scenes_to_folder(
            predictor, sources, out, tiling, threshold, nms, names, geojson=geojson
        )
    say("\n".join(summary.lines()))
    raise typer.Exit(1 if summary.failed else 0)


def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A .weights, .ckpt or .safetensors file.")],
    recipe: Annotated[str, typer.Option("--recipe", help="The recipe whose network takes the weights.")],
    out: Annotated[str, typer.Option("-o", "--out", callback=named, help="The .safetensors file to write.")],
    transfer: Transfer = False,
    set_: Changes = None,
) -> None:
    """Turn published weights into a .safetensors file that carries its recipe."""
    from boxwright import models, weights
    from boxwright import recipe as recipes
    from boxwright.weights import checkpoint, files

    if Path(out).suffix != ".safetensors":
        raise InputError(f"{out}: found the suffix '{Path(out).suffix}', needed .safetensors")
    files.keep_apart([Path(out)], [files.locate(Path(file))])
    resolved = recipes.load(recipe, set_ or ())
    model = models.module(resolved.model.name).build(resolved.model)  # type: ignore[attr-defined]
    say(weights.load(model, file, resolved, transfer=transfer))
    checkpoint.save(out, model, resolved)
    say(out)


def demo(
    out: Annotated[str, typer.Option("--out", callback=named, help="Folder for the data and the runs.")] = "demo",
    set_: Changes = None,
) -> None:
    """Render scenes with known boxes, train on them, evaluate, draw. Minutes on two cores; no network."""
    from boxwright.engine import demo as whole

    say(whole.run(Path(out), tuple(set_ or ())))
