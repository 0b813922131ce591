"""Commands for recipes and networks."""

from pathlib import Path
from typing import Annotated, Any

import typer

from boxwright import interrupt, json_text
from boxwright.cli.options import (
    Backend,
    BFloat16,
    Cfg,
    ClassNames,
    ClipBoxes,
    Compile,
    DataSets,
    Device,
    Json,
    Name,
    NoInterval,
    Overrides,
    Ray,
    RecipeOption,
    SkipBad,
    Split,
    Transfer,
    TrustFile,
    Weights,
    check_name,
    local_input,
    output,
    source_words,
)
from boxwright.cli.output import echo, hint, print_result
from boxwright.errors import InputError


def list_(json: Json = False) -> None:
    """List the shipped recipes."""
    from boxwright import recipe

    summaries = recipe.summaries()
    width = max(map(len, summaries))
    text = "\n".join(f"{name:{width}}  {summary}" for name, summary in summaries.items())
    print_result(text, [{"name": name, "summary": summary} for name, summary in summaries.items()], as_json=json)
    if not json:
        hint("train", "RECIPE", "--data", "DIR")


def show(name: Name, set_: Overrides = None) -> None:
    """Print a recipe with all its values, as YAML."""
    from boxwright import recipe

    print(recipe.load(name, set_ or ()).to_yaml(), end="")
    hint("train", name, "--data", "DIR")


def train(
    name: Name,
    data: DataSets,
    out: Annotated[
        str | None, typer.Option("-o", "--out", callback=check_name, help="Run folder. [default: runs/RECIPE]")
    ] = None,
    set_: Overrides = None,
    weights: Annotated[str | None, typer.Option("--weights", callback=local_input, help="Initial weights.")] = None,
    transfer: Transfer = False,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in --out.")] = False,
    auto_resume: Annotated[
        bool, typer.Option("--auto-resume", help="Resume the run in --out if there is one, else start it.")
    ] = False,
    skip_bad: SkipBad = False,
    clip_boxes: ClipBoxes = False,
    val_fraction: Annotated[
        float | None,
        typer.Option("--val-fraction", help="Hold out this share for validation, if there is no split val."),
    ] = None,
    background: Annotated[
        list[str] | None,
        typer.Option("--background", help="Folder of images without objects to train on as well; repeatable."),
    ] = None,
    compile_: Annotated[
        bool, typer.Option("--compile", help="Compile the loss (train.compile): takes minutes, then steps are faster.")
    ] = False,
    ray: Ray = None,
    ray_workers: Annotated[
        int | None,
        typer.Option("--ray-workers", min=1, help="With --ray: number of workers [default: one per GPU, else 1]"),
    ] = None,
) -> None:
    """Train the recipe's network on a data set. Also runs under torchrun or accelerate launch."""
    if ray_workers is not None and ray is None:
        raise InputError("--ray-workers: found without --ray; add --ray, or use torchrun")
    overrides = [*(set_ or ())]
    if val_fraction is not None:
        overrides.append(f"data.val_fraction={val_fraction}")
    if background:
        overrides.append(f"data.background={json_text.dumps(background)}")
    if compile_:
        overrides.append("train.compile=true")
    out = out or f"runs/{Path(name).stem}"
    arguments: dict[str, Any] = {
        "recipe": name,
        "data": data,
        "out": out,
        "weights": weights,
        "transfer": transfer,
        "resume": "auto" if auto_resume else resume,
        "skip_bad": skip_bad,
        "clip_boxes": clip_boxes,
        "overrides": overrides,
    }
    if ray is not None:
        from boxwright.engine.ray_train import train_on_ray

        train_on_ray(ray, ray_workers, **arguments)
    else:
        interrupt.install_stop()
        from boxwright.engine.train import train as run

        run(**arguments)
    echo(out)
    if val_fraction is None:
        hint("evaluate", out, *(word for each in data for word in ("--data", each)))
    else:  # the data set has no split to evaluate on
        hint("predict", out, "IMAGES")


def evaluate(
    weights: Weights,
    data: DataSets,
    recipe: RecipeOption = None,
    cfg: Cfg = None,
    names: ClassNames = None,
    split: Split = "val",
    scenes: Annotated[
        str | None, typer.Option("--scenes", help="Data set that the tiles were cut from: evaluate its scenes, too.")
    ] = None,
    no_truth: Annotated[
        bool, typer.Option("--no-truth", help="Only write the results file, for an evaluation server.")
    ] = False,
    top_k: Annotated[
        int | None, typer.Option("--top-k", min=1, help="With --no-truth: detections per image. [default: 100]")
    ] = None,
    out: Annotated[
        str, typer.Option("-o", "--out", callback=output, help="Folder for metrics.json, results and plots.")
    ] = "evaluation",
    no_interval: NoInterval = False,
    skip_bad: SkipBad = False,
    clip_boxes: ClipBoxes = False,
    set_: Overrides = None,
    device: Device = "auto",
    backend: Backend = "auto",
    bfloat16: BFloat16 = False,
    compile_: Compile = False,
    trust_file: TrustFile = False,
    json: Json = False,
) -> None:
    """Evaluate weights on labeled images: COCO's twelve metrics, or top-1 and top-5; also per class."""
    from boxwright import tasks
    from boxwright.datatools.clean import Cleaning
    from boxwright.datatools.val_fraction import divided_split
    from boxwright.evaluation import evaluate as evaluation
    from boxwright.evaluation import results
    from boxwright.evaluation import scenes as scene_evaluation
    from boxwright.predict.loading import given_recipe, recipe_of
    from boxwright.predict.predictor import load
    from boxwright.runtimes.base.runtime import RuntimeOptions

    if no_truth and scenes is not None:
        raise InputError("--no-truth and --scenes: found both, needed one; evaluating scenes needs their labels")
    if top_k is not None and not no_truth:
        raise InputError("--top-k: found without --no-truth, where all detections are evaluated; leave it out")
    resolved = recipe_of(weights, given_recipe(recipe, cfg, names))
    task = tasks.of(resolved)
    task.check_options(resolved, {"--no-truth": no_truth or None, "--scenes": scenes})
    batch = resolved.with_overrides(set_ or ()).evaluate.batch
    runtime_options = RuntimeOptions(batch, fuse=True, bfloat16=bfloat16, compile=compile_, trust=trust_file)
    predictor = load(weights, resolved, device, overrides=set_ or (), backend=backend, runtime_options=runtime_options)
    config = predictor.recipe.data
    if no_truth:
        images = task.open_images(data, split, config)
        written = results.write(predictor, images, out, top_k=top_k or results.MAX_DETECTIONS)
        print_result(written, {"results": str(written)}, as_json=json)
        return
    if scenes is not None:
        cleaning = Cleaning(skip_bad, clip_boxes)
        tile_set = evaluation.cleaned(task, task.open(data, split, config), cleaning, rgb=config.bands is None)
        part = None if divided_split(data, split, config) is None else tile_set
        scene_set = evaluation.cleaned(task, scene_evaluation.open_scenes(scenes, split, part), cleaning)
        of_scenes = scene_evaluation.evaluate(predictor, tile_set, scene_set, out, intervals=not no_interval)
        print_result(of_scenes, of_scenes.to_json(), as_json=json)
    else:
        metrics = evaluation.evaluate(
            predictor, data, split, out, skip_bad=skip_bad, clip_boxes=clip_boxes, intervals=not no_interval
        )
        published = resolved.expect.beside(metrics.summary)
        expected = {"published": resolved.expect.model_dump()} if published else {}
        text = "\n".join(filter(None, [str(metrics), published]))
        print_result(text, {**metrics.to_json(), **expected}, as_json=json)
    if not json:
        hint("predict", weights, "IMAGES", *source_words(recipe, cfg, names))


def calibrate(
    weights: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or a .safetensors file with a recipe.")],
    data: DataSets,
    split: Split = "val",
    skip_bad: SkipBad = False,
    clip_boxes: ClipBoxes = False,
    device: Device = "auto",
) -> None:
    """Find temperatures that calibrate the scores (how often they are right), and store them in the checkpoint."""
    from boxwright.evaluation.calibrate import calibrate as run

    echo(run(weights, data, split, device=device, skip_bad=skip_bad, clip_boxes=clip_boxes))
    hint("predict", weights, "IMAGES")


def import_(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", callback=local_input, help="A .weights, .ckpt, .pth, .pt, .pkl or .safetensors file."
        ),
    ],
    out: Annotated[str, typer.Option("-o", "--out", callback=output, help="Output .safetensors file.")],
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe", callback=local_input, help="Recipe of the network. [default: the only one that fits the file]"
        ),
    ] = None,
    cfg: Cfg = None,
    names: ClassNames = None,
    transfer: Transfer = False,
    set_: Overrides = None,
) -> None:
    """Convert published weights to a .safetensors file with an embedded recipe."""
    from boxwright import recipe as recipes
    from boxwright import weights
    from boxwright.predict.loading import given_recipe
    from boxwright.recipe import Recipe
    from boxwright.weights import cfg_report, checkpoint, files
    from boxwright.weights.identify import the_recipe_of, with_own_classes

    if Path(out).suffix != ".safetensors":
        raise InputError(f"{out}: found the suffix '{Path(out).suffix}', needed .safetensors")
    files.check_not_overwritten([Path(out)], [files.locate(Path(file)), *(Path(path) for path in (cfg, names) if path)])
    given = given_recipe(recipe, cfg, names)
    if given is None:
        given, what = the_recipe_of(file)
        echo(f"{Path(file).name}: {what}; recipe {given.name}")
    resolved = given.with_overrides(set_ or ()) if isinstance(given, Recipe) else recipes.load(given, set_ or ())
    if recipe is not None:
        own_classes = any(change.startswith("model.classes") for change in set_ or ())
        if recipe in recipes.names() and not transfer and not own_classes:
            resolved = with_own_classes(file, resolved)
        resolved = weights.with_names_of(file, resolved)
    model, report = weights.load_new(file, resolved, transfer=transfer)
    echo("\n".join(cfg_report.lines(file, model, resolved, report)) if cfg else report)
    checkpoint.save(out, model, resolved)
    echo(out)
    hint("predict", out, "IMAGES")


def demo(
    out: Annotated[str, typer.Option("-o", "--out", callback=output, help="Folder for data and runs.")] = "demo",
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer scenes and epochs, in less than a minute; a test of an installation.")
    ] = False,
    set_: Overrides = None,
) -> None:
    """Render scenes, train a small detector on them, evaluate it, draw predictions: offline, minutes on two cores."""
    from boxwright.engine.demo import run

    echo(run(Path(out), tuple(set_ or ()), quick=quick))
