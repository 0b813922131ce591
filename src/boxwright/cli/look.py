"""The command that shows a labeled set in the browser."""

from typing import Annotated

import typer

from boxwright.cli.options import Folder, Kind, local_input


def look(
    data: Folder,
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN", help="Run folders, folders of runs, or folders that evaluate has written."),
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="Split to show. [default: all]")] = None,
    audit: Annotated[
        str | None,
        typer.Option("--audit", callback=local_input, help="Findings to show, audit.json of `boxwright data audit`."),
    ] = None,
    kind: Kind = "auto",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any free port.")] = 0,
) -> None:
    """Show images, labels and predictions in the browser, on this machine only, and repair labels there.

    Nothing is written before a click.
    """
    from boxwright.extras import import_extra

    for module in ("fastapi", "uvicorn"):
        import_extra(module, "web")
    from boxwright.look.run import run
    from boxwright.remote.folders import local_path

    run(data, [str(local_path(path)) for path in runs or ()], split=split, audit=audit, kind=kind, port=port)
