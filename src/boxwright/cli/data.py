"""The verbs around labelled pictures."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from boxwright.cli.options import Changes, Folder, named
from boxwright.cli.output import say
from boxwright.errors import InputError
from boxwright.files import check_outside


def check(
    folder: Folder,
    split: Annotated[list[str] | None, typer.Option("--split", help="Which parts; repeatable. [default: all]")] = None,
    report: Annotated[
        str,
        typer.Option("--report", callback=named, help="Where the findings go as JSON, in place of an earlier report."),
    ] = "data_check.json",
    decode: Annotated[bool, typer.Option("--decode", help="Decode every picture, not only its header.")] = False,
) -> None:
    """List every doubtful label and picture. Ends with status 1 when something is wrong."""
    from boxwright.datatools.check import check_folder

    found = check_folder(folder, tuple(split or ()), Path(report), decode=decode)
    say(found)
    raise typer.Exit(1 if found.errors else 0)


def show(
    folder: Folder,
    split: Annotated[str, typer.Option("--split", help="Which part of the data set.")] = "train",
    out: Annotated[str, typer.Option("--out", callback=named, help="Folder for the drawn pictures.")] = "labels",
    count: Annotated[int, typer.Option("--count", min=1, help="How many pictures.")] = 16,
) -> None:
    """Draw the labels of some pictures, spread evenly over the data set."""
    from boxwright.data.dataset import Dataset
    from boxwright.formats import open_dataset
    from boxwright.predict import class_labels, labels

    shown = open_dataset(folder, split)
    check_outside(out, shown.folders())
    if isinstance(shown, Dataset):
        say(labels.draw_labels(shown, Path(out), count))
    else:
        say(class_labels.draw_labels(shown, Path(out), count))


def tile(
    folder: Folder,
    out: Annotated[str, typer.Option("-o", "--out", callback=named, help="Folder for the tiles and their COCO JSON.")],
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
    from boxwright.datatools import tile

    if gap is None:
        share = 0.2 if overlap is None else overlap
    elif overlap is not None:
        raise InputError("--gap and --overlap both say what a tile repeats, in px and as a share; leave one out")
    elif 0 <= gap < window:
        share = gap / window
    else:
        raise InputError(f"gap: found {gap}, needed 0 to {window - 1} px, less than the tile's side")
    cutting = tile.Cutting(window, share, tuple(scale or (1.0,)), min_visible, cut, empty, format_)
    say(tile.tile(folder, out, cutting, tuple(split or ()), workers=workers, skip_faulty=skip_bad))


def convert(
    folder: Folder,
    to: Annotated[str, typer.Option("--to", metavar="LAYOUT", help="A layout, as coco; folder for a classifier.")],
    out: Annotated[str, typer.Option("-o", "--out", callback=named, help="The new folder.")],
    outside: Annotated[bool, typer.Option("--outside", help="Also take pictures that lie outside DIR.")] = False,
) -> None:
    """Write labels in another layout, beside links to the pictures, and say what it cannot hold.

    To `folder`: cut the boxes out into one folder a class, for a classifier.
    """
    from boxwright.datatools import class_crops, convert

    if to == "folder":
        say(class_crops.crop(folder, out, outside=outside))
    else:
        say(convert.convert(folder, to, out, outside=outside))


def tensors(
    folder: Folder,
    out: Annotated[str, typer.Option("-o", "--out", callback=named, help="The new folder.")],
    recipe: Annotated[str | None, typer.Option("--recipe", help="A recipe's name or YAML file.")] = None,
    weights: Annotated[
        str | None, typer.Option("--weights", help="In its place: weights or an exported file that carry theirs.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Which part of the data set.")] = "val",
    count: Annotated[
        int | None, typer.Option("--count", min=1, help="How many pictures, spread evenly. [default: all]")
    ] = None,
    format_: Annotated[Literal["bin", "npy"], typer.Option("--format", help="Bare numbers, or NumPy's files.")] = "bin",
    set_: Changes = None,
) -> None:
    """Write what a network is given for each picture, for runtimes elsewhere, and one tensors.json."""
    from boxwright.datatools import tensors
    from boxwright.predict import loading

    if (recipe is None) == (weights is None):
        raise InputError("--recipe and --weights: needed one of the two, which says how a picture is prepared")
    meant = loading.recipe_of(weights or "", recipe)
    if set_:
        meant = meant.with_overrides(set_)
    say(tensors.write(folder, out, meant, split, count, format_))
