"""Tables of predictions: options of `predict`, and the command that merges shards."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from boxwright.cli.options import local_input, output
from boxwright.cli.output import echo
from boxwright.errors import InputError

if TYPE_CHECKING:
    from boxwright.predict.output import Summary
    from boxwright.predict.predictor import AnyPredictor
    from boxwright.predict.tiled import Tiling
    from boxwright.tasks import PostprocessArgs

TABLE = "parquet"  # the value of --as

ShardOption = Annotated[
    str | None,
    typer.Option("--shard", metavar="I/N", help="Predict one of N shares of the images, such as 3/16, as a table."),
]


def table_form(as_: str | None, shard: str | None, ray: str | None) -> str | None:
    """The value of --as: `parquet` with --shard or --ray. Raises InputError for another value with one of these."""
    option = "--shard" if shard is not None else "--ray" if ray is not None else None
    if option is None:
        return as_
    if as_ not in (None, TABLE):
        raise InputError(f"--as {as_} and {option}: found both, needed one; {option} writes a table (--as {TABLE})")
    from boxwright.tables.folder import Shard

    if shard is not None:
        Shard.parse(shard)
    if ray is not None:
        from boxwright.tables.on_ray import check_address

        check_address(ray)
    return TABLE


def write_table(
    predictor: "AnyPredictor",
    titles: Mapping[str, str],
    out: str,
    args: "PostprocessArgs",
    tiling: "Tiling | None",
    shard: str | None,
    ray: str | None,
    device: str,
) -> "Summary":
    """Predict images or scenes as a table. titles: path of each source -> its name in the results."""
    from boxwright.remote.outputs import fetch_earlier
    from boxwright.tables import run
    from boxwright.tables.folder import Shard, path_of
    from boxwright.tables.predict import predict_table
    from boxwright.tables.rows import predict_rows

    rows = predict_rows
    if ray is not None:
        from boxwright.tables.on_ray import predict_on_ray

        rows = partial(predict_on_ray, address=ray, device=device)
    number, folder = None if shard is None else Shard.parse(shard), Path(out)
    fetch_earlier(folder, [run.FILE, path_of(folder, number).name])
    return predict_table(predictor, list(titles), out, args, shard=number, tiling=tiling, titles=titles, rows=rows)


def merge_shards(
    folder: Annotated[str, typer.Argument(metavar="DIR", callback=local_input, help="The --out of `predict --shard`.")],
    out: Annotated[str, typer.Option("-o", "--out", callback=output, help="The Parquet file to write.")],
) -> None:
    """Merge the tables of all shards of a run into one; missing shards are an error."""
    from boxwright.tables.merge import merge_shards as run

    echo(run(folder, out))
