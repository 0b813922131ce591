"""Processes below another one, on Linux."""

from pathlib import Path


def descendants(process: int) -> dict[int, str]:
    """Process id -> command line."""
    parents, commands = {}, {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            commands[int(place.name)] = (place / "cmdline").read_text().replace("\0", " ")
        except OSError:  # it has ended
            continue
    found = {process}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return {child: commands[child] for child in found - {process} if child in commands}
