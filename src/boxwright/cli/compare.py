"""The commands that compare models and runs."""

import re
from typing import Annotated

import typer

from boxwright.cli.options import ClipBoxes, DataSets, Device, SkipBad, Split, TrustFile, check_name
from boxwright.cli.output import echo

COMPARISON = re.compile(rb'\{\s*"a": "')  # first bytes of the JSON files
TABLE = re.compile(rb'\[\s*\{\s*"name": "(?:[^"\\]|\\.)*",\s*"recipe": ')
MODEL = "A run folder, weights, an exported file, or COCO results (detections.json of evaluate)."


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help=MODEL)],
    b: Annotated[str, typer.Argument(metavar="B", help="The other model, in one of these forms.")],
    data: DataSets,
    split: Split = "val",
    fail_if_worse: Annotated[
        bool,
        typer.Option(
            "--fail-if-worse",
            help="Exit with status 1 if B is significantly worse: the 95 % interval of its AP or top-1 less that of A "
            "is below 0.",
        ),
    ] = False,
    equivalent: Annotated[
        float | None,
        typer.Option(
            "--equivalent",
            metavar="MARGIN",
            min=0,
            max=1,
            help="Exit with status 1 unless AP or top-1 is shown to differ by less than this, e.g. 0.005: two "
            "one-sided tests at 5 %, i.e. the 90 % interval of the difference is within the margin; on at least 50 "
            "images.",
        ),
    ] = None,
    out: Annotated[
        str | None, typer.Option("-o", "--out", callback=check_name, help="JSON file for all numbers.")
    ] = None,
    skip_bad: SkipBad = False,
    clip_boxes: ClipBoxes = False,
    device: Device = "auto",
    trust_file: TrustFile = False,
) -> None:
    """Compare two models on the same images: differences of AP or top-1 with 95 % intervals, also by class and size."""
    from boxwright import json_text
    from boxwright.evaluation.compare import compare as run

    if out is not None:
        json_text.reject_other_files(out, COMPARISON, "an earlier comparison")
    found = run(a, b, data, split, skip_bad=skip_bad, clip_boxes=clip_boxes, device=device, trust=trust_file)
    if out is not None:
        json_text.write(out, found.to_json(), indent=1)
    echo(found)
    failed = False
    if fail_if_worse:
        failed = found.main.is_worse
        echo(f"B is {'' if failed else 'not '}significantly worse in {found.main.metric}")
    if equivalent is not None:
        shown = found.is_equivalent(equivalent)
        echo(f"a difference of less than {equivalent:g} in {found.main.metric} is {'' if shown else 'not '}shown")
        failed = failed or not shown
    raise typer.Exit(int(failed))


def runs(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A folder with runs, at any depth.")],
    out: Annotated[
        str | None, typer.Option("-o", "--out", callback=check_name, help="JSON file for the table.")
    ] = None,
) -> None:
    """List runs: recipe, data, AP or top-1 with its interval, minutes, epochs, and settings that most runs lack."""
    from boxwright import json_text
    from boxwright.evaluation.runs import list_runs

    if out is not None:
        json_text.reject_other_files(out, TABLE, "an earlier table of runs")
    found = list_runs(folder)
    if out is not None:
        json_text.write(out, found.to_json(), indent=1)
    echo(found)
