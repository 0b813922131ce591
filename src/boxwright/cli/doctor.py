"""The command `doctor`."""

from typing import Annotated

import typer

from boxwright.cli.options import Json
from boxwright.cli.output import print_result


def doctor(
    extra: Annotated[
        list[str] | None, typer.Option("--extra", help="Extra that has to work, such as video; repeatable.")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="Device that has to work, such as cuda.")] = None,
    json: Json = False,
) -> None:
    """Show versions, devices, extras, memory, disk and cache. Exits with status 1 if something needed does not work."""
    from boxwright.doctor import examine

    found = examine(extra or (), device)
    print_result(found, found.to_json(), as_json=json)
    raise typer.Exit(1 if found.problems else 0)
