"""The command for files of tracks."""

import re
from typing import Annotated

import typer

from boxwright.cli.options import local_input, output
from boxwright.cli.output import echo

METRICS = re.compile(rb'\{\s*"summary": \{\s*"HOTA": ')  # first bytes of the JSON file


def evaluate_tracks(
    truth: Annotated[
        str,
        typer.Argument(
            metavar="TRUTH",
            callback=local_input,
            help="MOT text: a file, a folder of files, or a folder of folders with gt/gt.txt.",
        ),
    ],
    found: Annotated[
        str, typer.Argument(metavar="FOUND", callback=local_input, help="The tracks to evaluate, in the same form.")
    ],
    out: Annotated[
        str | None, typer.Option("-o", "--out", callback=output, help="JSON file for all metrics of each sequence.")
    ] = None,
) -> None:
    """Compare tracks with their ground truth: HOTA, MOTA, IDF1, id switches."""
    from boxwright import json_text
    from boxwright.evaluation.tracks import evaluate_tracks as run

    if out is not None:
        json_text.reject_other_files(out, METRICS, "an earlier comparison of tracks")
    report = run(truth, found)
    if out is not None:
        json_text.write(out, report.to_json(), indent=1)
    echo(report)
