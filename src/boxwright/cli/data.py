"""The commands for data sets."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from boxwright.cli.options import Folder, Overrides, check_name
from boxwright.cli.output import echo
from boxwright.errors import InputError
from boxwright.files import check_outside


def check(
    folder: Folder,
    split: Annotated[list[str] | None, typer.Option("--split", help="Split; repeatable. [default: all]")] = None,
    report: Annotated[
        str,
        typer.Option(
            "--report", callback=check_name, help="JSON file for the findings; an earlier report is replaced."
        ),
    ] = "data_check.json",
    decode: Annotated[bool, typer.Option("--decode", help="Decode every image, not only its header.")] = False,
) -> None:
    """Report faulty or suspicious labels and images. Exits with status 1 if there are errors."""
    from boxwright.data import check, class_check, classes

    run = class_check.check_folder if classes.holds_classes(folder) else check.check_folder
    findings = run(folder, tuple(split or ()), Path(report), decode=decode)
    echo(findings)
    raise typer.Exit(1 if findings.errors else 0)


def show(
    folder: Folder,
    split: Annotated[str, typer.Option("--split", help="Split of the data set.")] = "train",
    out: Annotated[str, typer.Option("--out", callback=check_name, help="Folder for the drawn images.")] = "labels",
    count: Annotated[int, typer.Option("--count", min=1, help="Number of images.")] = 16,
) -> None:
    """Draw the labels of images sampled evenly from the data set."""
    from boxwright.data import classes, open_dataset
    from boxwright.predict import class_labels, labels

    if classes.holds_classes(folder):
        shown = classes.open_classes(folder, split)
        check_outside(out, shown.folders())
        echo(class_labels.draw_labels(shown, Path(out), count))
    else:
        labelled = open_dataset(folder, split)
        check_outside(out, labelled.folders())
        echo(labels.draw_labels(labelled, Path(out), count))


def tile(
    folder: Folder,
    out: Annotated[
        str, typer.Option("-o", "--out", callback=check_name, help="Folder for the tiles and their COCO JSON.")
    ],
    window: Annotated[int, typer.Option("--window", min=1, help="Tile side in px.")] = 600,
    overlap: Annotated[
        float | None,
        typer.Option("--overlap", help="Overlap of neighboring tiles as a fraction of the tile. [default: 0.2]"),
    ] = None,
    gap: Annotated[int | None, typer.Option("--gap", help="Overlap in px, instead of --overlap.")] = None,
    scale: Annotated[
        list[float] | None, typer.Option("--scale", help="Scale factor for the scenes; repeatable. [default: 1]")
    ] = None,
    min_visible: Annotated[
        float,
        typer.Option("--min-visible", help="Visible fraction from which a cut object counts as an object of the tile."),
    ] = 0.7,
    cut: Annotated[
        Literal["ignore", "drop"], typer.Option("--cut", help="What to do with objects below --min-visible.")
    ] = "ignore",
    empty: Annotated[bool, typer.Option("--empty/--no-empty", help="Write tiles without objects, too.")] = True,
    format_: Annotated[Literal["png", "jpg"], typer.Option("--format", help="Image format of the tiles.")] = "png",
    split: Annotated[list[str] | None, typer.Option("--split", help="Split; repeatable. [default: all]")] = None,
    workers: Annotated[
        int, typer.Option("--workers", min=0, help="Scenes to cut in parallel; 0: number of cores.")
    ] = 0,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Skip faulty labels and images, and list them.")] = False,
) -> None:
    """Cut large images into overlapping tiles that record their scene and position."""
    from boxwright.data import tile

    if gap is None:
        share = 0.2 if overlap is None else overlap
    elif overlap is not None:
        raise InputError("--gap and --overlap: found both, the overlap in px and as a fraction; leave one out")
    elif 0 <= gap < window:
        share = gap / window
    else:
        raise InputError(f"gap: found {gap}, needed 0 to {window - 1} px, less than the tile's side")
    cutting = tile.Cutting(window, share, tuple(scale or (1.0,)), min_visible, cut, empty, format_)
    echo(tile.tile(folder, out, cutting, tuple(split or ()), workers=workers, skip_faulty=skip_bad))


def convert(
    folder: Folder,
    to: Annotated[str, typer.Option("--to", metavar="LAYOUT", help="coco, yolo_txt, line_txt, voc, dota or folder.")],
    out: Annotated[str, typer.Option("-o", "--out", callback=check_name, help="The new folder.")],
    outside: Annotated[bool, typer.Option("--outside", help="Include images outside DIR.")] = False,
) -> None:
    """Convert labels to another layout, with links to the images, and report what the layout cannot hold.

    To `folder`: crop the boxes into one folder per class, for a classifier.
    """
    from boxwright.data import class_crops, convert

    if to == "folder":
        echo(class_crops.crop(folder, out, outside=outside))
    else:
        echo(convert.convert(folder, to, out, outside=outside))


def tensors(
    folder: Folder,
    out: Annotated[str, typer.Option("-o", "--out", callback=check_name, help="The new folder.")],
    recipe: Annotated[str | None, typer.Option("--recipe", help="Recipe name or YAML file.")] = None,
    weights: Annotated[
        str | None,
        typer.Option("--weights", help="Instead of --recipe: weights or an exported file with an embedded recipe."),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Split of the data set.")] = "val",
    count: Annotated[
        int | None, typer.Option("--count", min=1, help="Number of images, sampled evenly. [default: all]")
    ] = None,
    format_: Annotated[Literal["bin", "npy"], typer.Option("--format", help="Raw binary, or NumPy files.")] = "bin",
    set_: Overrides = None,
) -> None:
    """Write the preprocessed input tensor of each image, for other runtimes, and one tensors.json."""
    from boxwright.data import tensors
    from boxwright.predict import loading

    if (recipe is None) == (weights is None):
        raise InputError("--recipe and --weights: needed exactly one, for the preprocessing")
    resolved = loading.recipe_of(weights or "", recipe)
    if set_:
        resolved = resolved.with_overrides(set_)
    echo(tensors.write(folder, out, resolved, split, count, format_))
