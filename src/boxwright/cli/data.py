"""Commands for data sets."""

import logging
from pathlib import Path
from typing import Annotated, Literal

import typer

from boxwright.cli.options import (
    ClipBoxes,
    Folder,
    Json,
    Kind,
    Overlap,
    Overrides,
    SkipBad,
    Split,
    Splits,
    local_input,
    new_output,
    output,
)
from boxwright.cli.output import echo, hint, print_result
from boxwright.errors import InputError
from boxwright.files import check_outside

logger = logging.getLogger(__name__)


def check(
    folder: Folder,
    split: Splits = None,
    report: Annotated[
        str | None,
        typer.Option("--report", callback=output, help="JSON file for the findings. [default: data_check.json]"),
    ] = None,
    decode: Annotated[bool, typer.Option("--decode", help="Decode every image, not only its header.")] = False,
    fast: Annotated[
        bool, typer.Option("--fast", help="Only read headers; do not decode images that look truncated.")
    ] = False,
    kind: Kind = "auto",
    json: Json = False,
) -> None:
    """Report faulty or suspicious labels and images. Exits with status 1 if there are errors."""
    from boxwright.datatools.check import check_folder
    from boxwright.datatools.report import reject_other_files

    if fast and decode:
        raise InputError("--fast and --decode: found both, needed at most one")
    file = Path(report or "data_check.json")
    reject_other_files(file)
    findings = check_folder(folder, tuple(split or ()), decode=None if fast else decode, kind=kind)
    print_result(findings, findings.to_json(), as_json=json)
    try:
        findings.write(file)
    except InputError as error:
        if report is not None:
            raise
        logger.warning("no report: %s", error)  # not writable, but the user did not ask for a file
    if not json:
        hint(*(["data", "show", folder] if findings.errors else ["train", "RECIPE", "--data", folder]))
    raise typer.Exit(1 if findings.errors else 0)


def show(
    folder: Folder,
    split: Annotated[
        str | None, typer.Option("--split", help="Split of the data set. [default: train, or the only one]")
    ] = None,
    out: Annotated[str, typer.Option("-o", "--out", callback=output, help="Folder for the drawn images.")] = "labels",
    count: Annotated[int, typer.Option("--count", min=1, help="Number of images.")] = 16,
    kind: Kind = "auto",
    bands: Annotated[
        str | None, typer.Option("--bands", help="Show these bands as red, green, blue, e.g. 4,3,2, each stretched.")
    ] = None,
) -> None:
    """Draw the labels of images that are evenly spaced over the data set."""
    from boxwright.datatools.val_fraction import name_to_train_on
    from boxwright.formats import open_dataset, splits
    from boxwright.images.bands import parse_numbers
    from boxwright.predict.labels import draw_labels

    dataset = open_dataset(folder, split or name_to_train_on(splits(folder, kind)), kind)
    echo(draw_labels(dataset, Path(out), count, parse_numbers(bands)))


def tile(
    folder: Folder,
    out: Annotated[str, typer.Option("-o", "--out", callback=new_output, help="Folder for the tiles.")],
    window: Annotated[int, typer.Option("--window", min=1, help="Tile side in px.")] = 600,
    overlap: Overlap = None,
    gap: Annotated[int | None, typer.Option("--gap", help="Overlap in px, instead of --overlap.")] = None,
    scale: Annotated[
        list[float] | None, typer.Option("--scale", help="Scale factor for the scenes; repeatable. [default: 1]")
    ] = None,
    min_visible: Annotated[float, typer.Option("--min-visible", help="Minimum visible fraction of an object.")] = 0.7,
    cut: Annotated[
        Literal["ignore", "drop"], typer.Option("--cut", help="What to do with objects below --min-visible.")
    ] = "ignore",
    empty: Annotated[bool, typer.Option("--empty/--no-empty", help="Write tiles without objects, too.")] = True,
    format_: Annotated[Literal["png", "jpg"], typer.Option("--format", help="Image format of the tiles.")] = "png",
    bands: Annotated[
        str | None,
        typer.Option("--bands", help="Write TIFF tiles of these bands, e.g. 4,3,2 or all, at full bit depth."),
    ] = None,
    split: Splits = None,
    workers: Annotated[int, typer.Option("--workers", min=0, help="Scenes in parallel; 0: all cores.")] = 0,
    skip_bad: SkipBad = False,
    kind: Kind = "auto",
) -> None:
    """Cut large images into overlapping tiles that record their scene and position."""
    from boxwright.datatools import tile
    from boxwright.images.bands import parse_numbers

    if gap is None:
        share = 0.2 if overlap is None else overlap
    elif overlap is not None:
        raise InputError("--gap and --overlap: found both, the overlap in px and as a fraction; leave one out")
    elif 0 <= gap < window:
        share = gap / window
    else:
        raise InputError(f"gap: found {gap}, needed 0 to {window - 1} px, less than the tile's side")
    cutting = tile.Cutting(
        window, share, tuple(scale or (1.0,)), min_visible, cut, empty, format_, parse_numbers(bands)
    )
    echo(tile.tile(folder, out, cutting, tuple(split or ()), workers=workers, skip_faulty=skip_bad, kind=kind))
    hint("train", "RECIPE", "--data", out)


def convert(
    folder: Folder,
    to: Annotated[
        str, typer.Option("--to", metavar="LAYOUT", help="Layout to write, e.g. coco; folder for a classifier.")
    ],
    out: Annotated[str, typer.Option("-o", "--out", callback=new_output, help="The new folder.")],
    outside: Annotated[bool, typer.Option("--outside", help="Include images outside DIR.")] = False,
    skip_bad: SkipBad = False,
    clip_boxes: ClipBoxes = False,
    kind: Kind = "auto",
) -> None:
    """Convert labels to another layout, with links to the images, and report what the layout cannot hold.

    To `folder`: crop the boxes into one folder per class, for a classifier.
    """
    from boxwright.datatools import class_crops, convert
    from boxwright.datatools.clean import Cleaning

    cleaning = Cleaning(skip_bad, clip_boxes)
    if to == "folder":
        echo(class_crops.crop(folder, out, outside=outside, kind=kind, cleaning=cleaning))
    else:
        echo(convert.convert(folder, to, out, outside=outside, kind=kind, cleaning=cleaning))
    hint("data", "check", out)


def split(
    folder: Folder,
    out: Annotated[str, typer.Option("-o", "--out", callback=new_output, help="The new folder.")],
    parts: Annotated[
        str,
        typer.Option(
            "--parts", metavar="NAME=FRACTION,...", help="Fractions of the splits, e.g. train=0.8,val=0.1,test=0.1."
        ),
    ],
    split: Annotated[
        list[str] | None, typer.Option("--split", help="Split to divide; repeatable. [default: the only one]")
    ] = None,
    group: Annotated[
        str,
        typer.Option(
            "--group", help="Images that stay together: image, folder, video, scene, or a REGEX with a group."
        ),
    ] = "image",
    near: Annotated[
        bool, typer.Option("--near-duplicates/--no-near-duplicates", help="Keep near-duplicates together.")
    ] = True,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Random seed.")] = 0,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="LAYOUT", help="Layout to write. [default: that of DIR, or coco]"),
    ] = None,
    lists: Annotated[
        bool, typer.Option("--lists", help="Write only lists of the images in DIR (YOLO labels).")
    ] = False,
    outside: Annotated[bool, typer.Option("--outside", help="Include images outside DIR.")] = False,
    skip_bad: SkipBad = False,
    clip_boxes: ClipBoxes = False,
) -> None:
    """Divide a data set into splits, stratified by class, with links to the images."""
    from boxwright.datatools import split as division
    from boxwright.datatools.clean import Cleaning

    parsed = division.parse_parts(parts)
    how = division.Division(parts=parsed, splits=tuple(split or ()), by=group, near=near, seed=seed)
    cleaning = Cleaning(skip_bad, clip_boxes)
    echo(division.split(folder, out, how, to=to, lists=lists, outside=outside, cleaning=cleaning))
    hint("train", "RECIPE", "--data", out)


def merge(
    folders: Annotated[
        list[str], typer.Argument(metavar="DIR DIR...", help="Folders of data sets, or YAML files that describe them.")
    ],
    out: Annotated[str, typer.Option("-o", "--out", callback=new_output, help="The new folder.")],
    to: Annotated[str, typer.Option("--to", metavar="LAYOUT", help="Layout of the new folder.")] = "coco",
    class_map: Annotated[
        list[str] | None,
        typer.Option("--class-map", metavar="OLD=NEW", help="Rename a class, or drop or ignore it; repeatable."),
    ] = None,
    outside: Annotated[bool, typer.Option("--outside", help="Include images outside the folders.")] = False,
    skip_bad: SkipBad = False,
    clip_boxes: ClipBoxes = False,
) -> None:
    """Write several data sets as one, with classes matched by name and links to the images."""
    from boxwright.data.sets import read_class_map, several
    from boxwright.datatools import convert
    from boxwright.datatools.clean import Cleaning

    sets, cleaning = several(folders, read_class_map(class_map or ())), Cleaning(skip_bad, clip_boxes)
    echo(convert.convert(sets, to, out, outside=outside, cleaning=cleaning))
    hint("data", "check", out)


def anchors(
    folder: Folder,
    count: Annotated[int, typer.Option("--count", min=1, max=1000, help="Number of anchors.")] = 9,
    size: Annotated[
        tuple[int, int], typer.Option("--size", metavar="HEIGHT WIDTH", help="Input size of the network in px.")
    ] = (416, 416),
    fit: Annotated[
        Literal["stretch", "letterbox"], typer.Option("--fit", help="How images are resized to it (data.canvas.fit).")
    ] = "stretch",
    out: Annotated[
        str | None, typer.Option("-o", "--out", callback=output, help="Folder for a plot of boxes and anchors.")
    ] = None,
    split: Split = "train",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Random seed of k-means.")] = 0,
    kind: Kind = "auto",
) -> None:
    """Choose anchors by k-means on the IoU of box sizes, like Darknet's calc_anchors, for a cfg or a recipe."""
    from boxwright.datatools.anchors import choose
    from boxwright.files import make_folder
    from boxwright.formats import open_boxes
    from boxwright.recipe import CanvasConfig

    if not all(1 <= side <= 16_384 for side in size):
        raise InputError(f"--size: found {size[0]} {size[1]}, needed a height and a width from 1 to 16384 px")
    dataset = open_boxes(folder, split, kind)
    if out is not None:
        check_outside(out, dataset.folders())
    found = choose(dataset, CanvasConfig(size=size, fit=fit), count, seed)
    if out is not None:
        from boxwright.metrics.anchor_plot import plot

        make_folder(out)
        plot(found, Path(out) / "anchors.png")
    echo(found)


def tensors(
    folder: Folder,
    out: Annotated[str, typer.Option("-o", "--out", callback=new_output, help="The new folder.")],
    recipe: Annotated[
        str | None, typer.Option("--recipe", callback=local_input, help="Recipe name or YAML file.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option("--weights", callback=local_input, help="Take the recipe from weights or an exported file."),
    ] = None,
    split: Split = "val",
    count: Annotated[
        int | None, typer.Option("--count", min=1, help="Number of images, evenly spaced. [default: all]")
    ] = None,
    format_: Annotated[Literal["bin", "npy"], typer.Option("--format", help="Raw binary, or NumPy files.")] = "bin",
    set_: Overrides = None,
) -> None:
    """Write the network's input for each image, for other runtimes, and one tensors.json."""
    from boxwright.predict import loading, tensors

    if (recipe is None) == (weights is None):
        raise InputError("--recipe and --weights: needed exactly one, for the preprocessing")
    resolved = loading.recipe_of(weights or "", recipe)
    if set_:
        resolved = resolved.with_overrides(set_)
    echo(tensors.write(folder, out, resolved, split, count, format_))
