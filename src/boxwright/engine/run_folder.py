"""The folder of a run: free for a new one, or left by the same training that now goes on."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from boxwright import recipe as recipes
from boxwright.engine.checkpointing import recover
from boxwright.engine.processes import on_main
from boxwright.errors import InputError
from boxwright.files import whole
from boxwright.recipe import Recipe

# What may differ when a run goes on: where things lie, how fast they are read, what is told.
FREE = ("summary", "data.root", "data.cache", "data.workers", "train.log_every", "train.save_every", "train.keep",
        "train.evaluate_every", "train.evaluate_from", "train.profile", "evaluate", "predict", "expect")  # fmt: skip


def refuse(run: Path, resume: bool) -> None:
    """InputError when the folder does not suit: a run is there, or none is."""
    begun = (run / "last").exists() or (run / "last.old").exists()
    if resume and not begun:
        raise InputError(f"{run}: there is no run to resume (no checkpoint `last`); train without --resume first")
    if begun and not resume:
        raise InputError(f"{run}: holds a run already; go on with it by --resume, or choose another --out")


def enter(run: Path, recipe: Recipe, resume: bool, left_out: Sequence[str], accelerator: Any) -> None:
    """Make the run folder, or make ready the one that is there, and say what is left out of the data.

    Raises InputError, the same in every process, for a folder that cannot be made or was begun with another recipe.
    """
    accelerator.wait_for_everyone()  # nobody looks whether the folder is free any more
    on_main(lambda: _make_ready(run, recipe, left_out) if resume else _make(run, recipe, left_out), accelerator)


def _make(run: Path, recipe: Recipe, left_out: Sequence[str]) -> None:
    _tell(left_out)
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{run}: the run folder cannot be made ({error.strerror})") from error
    if left_out:
        with whole(run / "left_out.txt") as file:
            file.write_text("\n".join(left_out) + "\n", encoding="utf-8")
    with whole(run / "recipe.yaml") as file:
        file.write_text(recipe.to_yaml(), encoding="utf-8")


def _make_ready(run: Path, recipe: Recipe, left_out: Sequence[str]) -> None:
    _tell(left_out)
    _compare(run / "recipe.yaml", recipe)
    recover(run)


def _tell(left_out: Sequence[str]) -> None:
    for line in left_out:
        print(line, file=sys.stderr)


def _compare(file: Path, recipe: Recipe) -> None:
    """InputError when the run was begun with another recipe."""
    then, now = _flat(recipes.load(file).tree()), _flat(recipe.tree())
    for key in sorted(then.keys() | now.keys()):
        if then.get(key) != now.get(key) and not f"{key}.".startswith(tuple(f"{free}." for free in FREE)):
            raise InputError(
                f"{file}: {key} is {then.get(key)!r} there and {now.get(key)!r} now; "
                "resume with the run's own settings, or train into another folder"
            )


def _flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return flat
