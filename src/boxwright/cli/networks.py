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
    from boxwright.data import open_dataset, open_pictures
    from boxwright.evaluation import evaluate as scoring
    from boxwright.evaluation import results
    from boxwright.evaluation import scenes as whole
    from boxwright.predict.class_predictor import ClassPredictor
    from boxwright.predict.load import load
    from boxwright.predict.loading import recipe_of
    from boxwright.runtimes.base.runtime import RuntimeOptions

    if no_truth and scenes is not None:
        raise InputError("--no-truth and --scenes: found both, needed one; whole scenes are scored by their labels")
    meant = recipe_of(weights, recipe)
    if meant.model.task == "classify":
        _refuse_boxes({"--no-truth": no_truth, "--scenes": scenes is not None})
    batch = meant.with_overrides(set_ or ()).evaluate.batch
    running = RuntimeOptions(batch, fuse=True, bfloat16=bfloat16, compile=compile_, trust=trust_file)
    loaded = load(weights, meant, device, set_ or (), backend, running)
    if no_truth and not isinstance(loaded, ClassPredictor):
        say(results.write(loaded, open_pictures(data, split), out, most=most))
        return
    if scenes is not None and not isinstance(loaded, ClassPredictor):
        settings = loaded.recipe.data
        tiles = open_dataset(data, split, settings.kind, settings.cache)
        say(whole.evaluate(loaded, tiles, open_dataset(scenes, split), out))
        return
    metrics = scoring.evaluate(loaded, data, split, out)
    say(metrics)
    if published := meant.expect.beside(metrics.summary):
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
    from boxwright.predict import class_predictor, class_sinks, loading, predictor, scene_sinks, sinks
    from boxwright.predict.tiled import Tiling
    from boxwright.runtimes.base.runtime import RuntimeOptions

    meant = loading.recipe_of(weights, recipe)
    classifies = meant.model.task == "classify"
    if classifies:
        boxes = {"--threshold": threshold, "--nms": nms, "--classes": classes, "--tile": tile}
        _refuse_boxes({option: value is not None for option, value in boxes.items()})
    elif top is not None:
        raise InputError(f"--top: recipe {meant.name} is a detector; give --threshold instead")
    out = out or ("classes" if classifies else "detections")
    batch = meant.with_overrides(set_ or ()).predict.batch
    at_once = batch if tile else min(batch, len(sinks.find_pictures(sources, Path(out))))
    running = RuntimeOptions(at_once, fuse=True, bfloat16=bfloat16, compile=compile_, trust=trust_file)
    chosen = weights, meant, device, set_ or (), backend, running
    lines: list[str] = []
    if classifies:
        classifier = class_predictor.load_classifier(*chosen)
        most = top or class_predictor.MOST
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
    say("\n".join([*lines, *summary.lines()]))
    raise typer.Exit(1 if summary.failed else 0)


def _refuse_boxes(given: dict[str, bool]) -> None:
    """InputError for options that only make sense with boxes."""
    if wrong := [option for option, is_given in given.items() if is_given]:
        raise InputError(f"{', '.join(wrong)}: the recipe is a classifier, which finds no boxes; leave it out")


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
