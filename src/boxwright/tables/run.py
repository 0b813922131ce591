"""Identity of runs: weights and settings, their fingerprint, and the file `table.json` of a folder."""

import hashlib
from pathlib import Path
from typing import Any

from boxwright import files, json_text
from boxwright.errors import InputError, shortened
from boxwright.json_text import JsonObject
from boxwright.predict.predictor import AnyPredictor
from boxwright.predict.tiled import Tiling
from boxwright.runtimes.base.metadata import fingerprint as fingerprint_of_weights
from boxwright.tables.rows import DIGITS, Settings
from boxwright.tasks import PostprocessArgs
from boxwright.version import __version__

FILE = "table.json"
LIMIT = 1 << 22  # bytes of that file
MAX_SHOWN = 30  # characters of a value in a message


def settings_of(
    predictor: AnyPredictor, args: PostprocessArgs | None = None, tiling: Tiling | None = None, crs: str | None = None
) -> Settings:
    """Settings with their fingerprint. args: None for the recipe's; other arguments as in `Settings`."""
    args = predictor.args() if args is None else args
    run = fingerprint(describe(predictor, args, tiling, crs))
    return Settings(run, args, tiling, crs)


def describe(predictor: AnyPredictor, args: PostprocessArgs, tiling: Tiling | None, crs: str | None) -> JsonObject:
    """Everything that determines the rows of an image, except the last bits, as JSON values."""
    recipe, options = predictor.recipe, predictor.origin.runtime_options if predictor.origin else None
    data = recipe.data.model_dump(mode="json", include={"names", "canvas", "bands", "range", "percentiles"})
    names = recipe.data.names
    return {
        "weights": weights_digest(predictor),
        "threshold": args.threshold,
        "nms": args.nms.model_dump(mode="json"),
        "temperatures": list(recipe.predict.temperatures),
        "classes": None if args.labels is None else [names[label] if names else label for label in sorted(args.labels)],
        "tile": None if tiling is None else tiling.window,
        "overlap": None if tiling is None else tiling.overlap,
        "crs": crs,
        "bfloat16": options is not None and options.bfloat16,
        **data,
        "model": recipe.model.model_dump(mode="json"),
    }


def weights_digest(predictor: AnyPredictor) -> str:
    """SHA-256 of the weights of a network, or of an exported file."""
    source = None if predictor.runtime is None else predictor.runtime.source
    if source is None:
        return fingerprint_of_weights(predictor.model)
    digest = hashlib.sha256()
    for path in (source, source.with_suffix(".bin")) if source.suffix == ".xml" else (source,):
        try:
            with files.open_regular(path) as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())  # type: ignore[arg-type]
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()


def fingerprint(settings: JsonObject) -> str:
    """Fingerprint of `settings` from `describe`, 16 hex digits."""
    return hashlib.sha256(json_text.dumps(settings).encode()).hexdigest()[:DIGITS]


def enter(folder: Path, settings: JsonObject, shards: int | None) -> None:
    """Write `table.json` into a folder for tables, or compare it with the existing one.

    Args:
        folder: The folder, which exists.
        settings: From `describe`.
        shards: Number of shards; None for a table that is not divided.

    Raises:
        InputError: The folder holds a run with other weights, settings or shards.
    """
    if not check(folder, settings, shards):
        tree = {"run": fingerprint(settings), "shards": shards, "boxwright": __version__, "settings": settings}
        json_text.write(folder / FILE, tree, indent=1)


def check(folder: Path, settings: JsonObject, shards: int | None) -> bool:
    """Whether the folder has a `table.json`. Arguments and errors as those of `enter`."""
    path = folder / FILE
    if not path.exists():
        return False
    there = json_text.parse(files.read_input(path, limit=LIMIT), str(path))
    if not isinstance(there, dict) or not {"run", "shards", "settings"} <= there.keys():
        raise InputError(f"{path}: not of a table of predictions; name another folder for the results")
    advice = "run with the same, or name another folder by --out"
    if there["run"] != fingerprint(settings):
        differing = _difference(settings, there["settings"])
        raise InputError(f"{folder}: holds a run with {differing}; {advice}")
    if there["shards"] != shards:
        found, needed = ("no shards" if count is None else f"{count} shards" for count in (shards, there["shards"]))
        raise InputError(f"{folder}: holds a run with {needed}, found {found}; {advice}")
    return True


def _difference(now: JsonObject, there: Any) -> str:
    """First difference between two settings."""
    there = there if isinstance(there, dict) else {}
    for key, value in now.items():
        if there.get(key) != value:
            if key == "weights":
                return "other weights"
            shown = [shortened(json_text.dumps(setting), MAX_SHOWN) for setting in (there.get(key), value)]
            return f"{key} {shown[0]}, found {shown[1]}"
    return "other settings"
