"""The command that audits a data set."""

from typing import Annotated

import typer

from boxwright.cli.options import Device, Folder, Kind, Overrides, SkipBad, Splits, local_input, output
from boxwright.cli.output import echo

Network = Annotated[
    str | None,
    typer.Option(
        "--weights",
        callback=local_input,
        help="Compare the labels with this network, or with detections.json of evaluate, instead of --folds.",
    ),
]
Folds = Annotated[
    int | None,
    typer.Option(
        "--folds",
        min=2,
        max=100,
        help="Number of networks to train, each without the images that it predicts. [default: 3]",
    ),
]
Minutes = Annotated[
    float | None,
    typer.Option("--minutes", min=0, help="Time of all trainings together; 0: the epochs of the recipe. [default: 15]"),
]
RecipeOfFolds = Annotated[
    str | None, typer.Option("--recipe", callback=local_input, help="Recipe of the folds: a name, YAML or .cfg file.")
]
Start = Annotated[
    str | None,
    typer.Option("--start", callback=local_input, help="Initial weights of the folds, where they fit."),
]
Against = Annotated[
    str | None, typer.Option("--against", metavar="DIR", help="Compare with this data set instead of the splits.")
]
Group = Annotated[
    str, typer.Option("--group", help="Images that stay in one fold: image, folder, video, scene, or a REGEX.")
]


def audit(
    folder: Folder,
    out: Annotated[str, typer.Option("-o", "--out", callback=output, help="Folder for the findings.")] = "audit",
    weights: Network = None,
    folds: Folds = None,
    minutes: Minutes = None,
    recipe: RecipeOfFolds = None,
    start: Start = None,
    set_: Overrides = None,
    split: Splits = None,
    against: Against = None,
    group: Group = "image",
    count: Annotated[int, typer.Option("--count", min=0, max=500, help="Number of findings to draw.")] = 24,
    skip_bad: SkipBad = False,
    kind: Kind = "auto",
    device: Device = "auto",
) -> None:
    """Rank labels by how likely they are wrong, and find near-duplicates across splits and differences between them."""
    from boxwright.audit.folds import Training
    from boxwright.audit.run import audit as run
    from boxwright.errors import InputError

    training = {"--folds": folds, "--minutes": minutes, "--recipe": recipe, "--start": start, "--set": set_}
    options = [name for name, value in training.items() if value is not None]
    if weights is not None and options:
        raise InputError(f"--weights and {options[0]}: found both, a trained network and how to train; leave one out")
    report = run(
        folder,
        out,
        weights=weights,
        training=Training(
            folds=folds or 3,
            minutes=15 if minutes is None else minutes,
            recipe=recipe,
            start=start,
            overrides=set_ or (),
        ),
        splits=split or (),
        against=against,
        group_by=group,
        kind=kind,
        count=count,
        skip_bad=skip_bad,
        device=device,
    )
    echo(report)
