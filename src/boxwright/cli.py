"""The command line: each verb reads its words, calls one function of the package, and prints what came back.

Nothing here imports torch before a verb needs it, so `--help` and `list` answer at once.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from boxwright.errors import InputError

if TYPE_CHECKING:
    from boxwright.evaluation.topk import TopK
    from boxwright.recipe import Recipe

app = typer.Typer(
    add_completion=False,
    rich_markup_mode="rich",
    help="Train, evaluate, port and use convolutional object detectors and classifiers.",
)
data_app = typer.Typer(help="Look at labelled pictures before they are learned from.")
app.add_typer(data_app, name="data")

INTERRUPTED = 130  # what typer makes of Ctrl-C, and what shells expect

Weights = Annotated[
    str, typer.Argument(metavar="WEIGHTS", help="A run folder, or a .safetensors, .pth, .weights or .ckpt file.")
]
Data = Annotated[str, typer.Option("--data", help="Folder of the data set, or a YAML that describes it.")]
Folder = Annotated[str, typer.Argument(metavar="DIR", help="Folder of the data set, or a YAML that describes it.")]
RecipeOption = Annotated[
    str | None, typer.Option("--recipe", help="A recipe's name or YAML file, for weights that do not carry their own.")
]
Changes = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the recipe; repeatable.")
]
Device = Annotated[str, typer.Option("--device", help="Where to compute: auto, cpu, cuda, cuda:1, ...")]
Transfer = Annotated[bool, typer.Option("--transfer", help="Load all that fits and start the rest afresh.")]


@app.command("list")
def list_() -> None:
    """The shipped recipes, one line each."""
    from boxwright import recipe

    summaries = recipe.summaries()
    width = max(map(len, summaries))
    for name, summary in summaries.items():
        print(f"{name:{width}}  {summary}")


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's name or YAML file.")], set_: Changes = None
) -> None:
    """One recipe with every value written out, ready to be saved and changed."""
    from boxwright import recipe

    print(recipe.load(name, set_ or ()).to_yaml(), end="")


@app.command()
def train(
    name: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's name or YAML file.")],
    data: Data,
    out: Annotated[str | None, typer.Option("--out", help="The run folder. [default: runs/RECIPE]")] = None,
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
    print(folder)


@app.command()
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
    out: Annotated[str, typer.Option("--out", help="Folder for metrics.json, results and pictures.")] = "evaluation",
    set_: Changes = None,
    device: Device = "auto",
) -> None:
    """Score weights on labelled pictures: COCO's twelve numbers, of a classifier top-1 and top-5; by class as well."""
    from boxwright.data import open_dataset, open_pictures
    from boxwright.evaluation import results, run
    from boxwright.evaluation import scenes as whole
    from boxwright.predict import loading, predictor

    if no_truth and scenes is not None:
        raise InputError("--no-truth and --scenes: found both, needed one; whole scenes are scored by their labels")
    meant = loading.recipe_of(weights, recipe)
    if meant.model.task == "classify":
        _refuse_boxes({"--no-truth": no_truth, "--scenes": scenes is not None})
        print(_evaluate_classes(weights, meant, data, split, out, set_, device))
        return
    loaded = predictor.load(weights, meant, device, set_ or ())
    if no_truth:
        print(results.write(loaded, open_pictures(data, split), out, most=most))
        return
    chosen = loaded.recipe.data
    labelled = open_dataset(data, split, chosen.kind, chosen.cache)
    if scenes is None:
        print(run.evaluate(loaded, labelled, out))
    else:
        print(whole.evaluate(loaded, labelled, open_dataset(scenes, split), out))


def _evaluate_classes(
    weights: str, meant: "Recipe", data: str, split: str, out: str, set_: list[str] | None, device: str
) -> "TopK":
    from boxwright.data.classes import open_classes
    from boxwright.evaluation import class_run
    from boxwright.predict import class_predictor

    loaded = class_predictor.load_classifier(weights, meant, device, set_ or ())
    return class_run.evaluate_classifier(loaded, open_classes(data, split, loaded.recipe.data.kind), out)


@app.command()
def predict(
    weights: Weights,
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="Pictures, folders, or quoted globs.")],
    recipe: RecipeOption = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
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
    set_: Changes = None,
    device: Device = "auto",
) -> None:
    """Find objects in pictures and draw them; with a classifier, say what the pictures show."""
    if tile is None and (overlap is not None or geojson):
        raise InputError("--overlap and --geojson go with --tile; add for example --tile 600")
    from boxwright.predict import loading, predictor, scene_sinks, sinks
    from boxwright.predict.tiled import Tiling

    meant = loading.recipe_of(weights, recipe)
    if meant.model.task == "classify":
        boxes = {"--threshold": threshold, "--nms": nms, "--classes": classes, "--tile": tile}
        _refuse_boxes({option: value is not None for option, value in boxes.items()})
        raise typer.Exit(_predict_classes(weights, meant, sources, out or "classes", top, set_, device))
    if top is not None:
        raise InputError(f"--top: recipe {meant.name} is a detector; give --threshold instead")
    loaded, out = predictor.load(weights, meant, device, set_ or ()), out or "detections"
    wanted = classes.split(",") if classes else None
    if tile is None:
        summary = sinks.predict_to_folder(loaded, sources, out, threshold, nms, wanted)
    else:
        tiling = Tiling(tile, 0.2 if overlap is None else overlap)
        summary = scene_sinks.predict_scenes_to_folder(
            loaded, sources, out, tiling, threshold, nms, wanted, geojson=geojson
        )
    print("\n".join(summary.lines()))
    raise typer.Exit(1 if summary.failed else 0)


def _predict_classes(
    weights: str, meant: "Recipe", sources: list[str], out: str, top: int | None, set_: list[str] | None, device: str
) -> int:
    """The exit status."""
    from boxwright.predict import class_predictor, class_sinks

    loaded = class_predictor.load_classifier(weights, meant, device, set_ or ())
    summary, lines = class_sinks.predict_to_folder(loaded, sources, out, top or class_predictor.MOST)
    print("\n".join([*lines, *summary.lines()]))
    return 1 if summary.failed else 0


def _refuse_boxes(given: dict[str, bool]) -> None:
    """InputError for options that only make sense with boxes."""
    if wrong := [option for option, is_given in given.items() if is_given]:
        raise InputError(f"{', '.join(wrong)}: the recipe is a classifier, which finds no boxes; leave it out")


@app.command("import")
def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A .weights, .ckpt or .safetensors file.")],
    recipe: Annotated[str, typer.Option("--recipe", help="The recipe whose network takes the weights.")],
    out: Annotated[str, typer.Option("-o", "--out", help="The .safetensors file to write.")],
    transfer: Transfer = False,
    set_: Changes = None,
) -> None:
    """Turn published weights into a .safetensors file that carries its recipe."""
    from boxwright import models, weights
    from boxwright import recipe as recipes
    from boxwright.weights import checkpoint

    resolved = recipes.load(recipe, set_ or ())
    model = models.module(resolved.model.name).build(resolved.model)  # type: ignore[attr-defined]
    print(weights.load(model, file, resolved, transfer=transfer))
    checkpoint.save(out, model, resolved)
    print(out)


@data_app.command("check")
def data_check(
    folder: Folder,
    split: Annotated[list[str] | None, typer.Option("--split", help="Which parts; repeatable. [default: all]")] = None,
    report: Annotated[str, typer.Option("--report", help="Where the findings go as JSON.")] = "data_check.json",
    decode: Annotated[bool, typer.Option("--decode", help="Decode every picture, not only its header.")] = False,
) -> None:
    """List every doubtful label and picture. Ends with status 1 when something is wrong."""
    from boxwright.data import check, class_check, classes

    look = class_check.check_folder if classes.holds_classes(folder) else check.check_folder
    found = look(folder, tuple(split or ()), Path(report), decode=decode)
    print(found)
    raise typer.Exit(1 if found.errors else 0)


@data_app.command("show")
def data_show(
    folder: Folder,
    split: Annotated[str, typer.Option("--split", help="Which part of the data set.")] = "train",
    out: Annotated[str, typer.Option("--out", help="Folder for the drawn pictures.")] = "labels",
    count: Annotated[int, typer.Option("--count", min=1, help="How many pictures.")] = 16,
) -> None:
    """Draw the labels of some pictures, spread evenly over the data set."""
    from boxwright.data import classes, open_dataset
    from boxwright.predict import class_labels, labels

    if classes.holds_classes(folder):
        print(class_labels.draw_labels(classes.open_classes(folder, split), Path(out), count))
    else:
        print(labels.draw_labels(open_dataset(folder, split), Path(out), count))


@data_app.command("tile")
def data_tile(
    folder: Folder,
    out: Annotated[str, typer.Option("-o", "--out", help="Folder for the tiles and their COCO JSON.")],
    window: Annotated[int, typer.Option("--window", min=1, help="Side of a tile in px.")] = 600,
    overlap: Annotated[
        float | None, typer.Option("--overlap", help="Share of a tile that the next one repeats. [default: 0.2]")
    ] = None,
    gap: Annotated[int | None, typer.Option("--gap", help="The same in px, in place of --overlap.")] = None,
    scale: Annotated[
        list[float] | None, typer.Option("--scale", help="Size the scenes by this; repeatable. [default: 1]")
    ] = None,
    min_visible: Annotated[
        float, typer.Option("--min-visible", help="Share of its area that makes a cut object an object of the tile.")
    ] = 0.7,
    cut: Annotated[
        Literal["ignore", "drop"], typer.Option("--cut", help="What to do with those of which less is seen.")
    ] = "ignore",
    empty: Annotated[bool, typer.Option("--empty/--no-empty", help="Also write tiles without an object.")] = True,
    format_: Annotated[Literal["png", "jpg"], typer.Option("--format", help="Of the tiles' pictures.")] = "png",
    split: Annotated[list[str] | None, typer.Option("--split", help="Which parts; repeatable. [default: all]")] = None,
    workers: Annotated[int, typer.Option("--workers", min=0, help="Scenes cut at a time; 0: by the cores.")] = 0,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave wrong labels out, and say which.")] = False,
) -> None:
    """Cut large pictures into overlapping tiles, each knowing its scene and where it lies in it."""
    from boxwright.data import tile

    if gap is None:
        share = 0.2 if overlap is None else overlap
    elif overlap is not None:
        raise InputError("--gap and --overlap both say what a tile repeats, in px and as a share; leave one out")
    elif 0 <= gap < window:
        share = gap / window
    else:
        raise InputError(f"gap: found {gap}, needed 0 to {window - 1} px, less than the tile's side")
    cutting = tile.Cutting(window, share, tuple(scale or (1.0,)), min_visible, cut, empty, format_)
    print(tile.tile(folder, out, cutting, tuple(split or ()), workers=workers, skip_faulty=skip_bad))


@data_app.command("convert")
def data_convert(
    folder: Folder,
    to: Annotated[str, typer.Option("--to", metavar="LAYOUT", help="coco, yolo_txt, line_txt, voc, dota or folder.")],
    out: Annotated[str, typer.Option("-o", "--out", help="The new folder.")],
) -> None:
    """Write labels in another layout, beside links to the pictures, and say what it cannot hold.

    To `folder`: cut the boxes out into one folder a class, for a classifier.
    """
    from boxwright.data import class_crops, convert

    print(class_crops.crop(folder, out) if to == "folder" else convert.convert(folder, to, out))


@app.command()
def demo(
    out: Annotated[str, typer.Option("--out", help="Folder for the data and the runs.")] = "demo",
    set_: Changes = None,
) -> None:
    """Render scenes with known boxes, train on them, evaluate, draw. Minutes on two cores; no network."""
    from boxwright.engine import demo as whole

    print(whole.run(Path(out), tuple(set_ or ())))


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and leave the process.

    Status 0: done. 1: done, and something was found wrong. 2: the input cannot be used, said in one line on stderr.
    130: interrupted.
    """
    words = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        status = app(words, prog_name="boxwright", standalone_mode=False)
    except (InputError, typer.TyperException) as error:
        message = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        _stop(message, 2)
    except BrokenPipeError:  # the reader of our output went away, as `| head` does; Python must not complain at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _stop(": ".join(str(part) for part in (error.filename, error.strerror or error) if part), 2)
    if status == INTERRUPTED:
        _stop("interrupted", status)
    sys.exit(status or 0)


def _stop(message: str, status: int) -> NoReturn:
    print("boxwright: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(status)
