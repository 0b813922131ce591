"""The command that serves models over HTTP."""

import os
from typing import Annotated

import typer

from boxwright.cli.options import Backend, Cfg, ClassNames, Device, Overrides, RecipeOption
from boxwright.errors import InputError

TOKEN = "BOXWRIGHT_TOKEN"  # environment variable, since all users of a machine can see arguments


def serve(
    weights: Annotated[
        list[str],
        typer.Argument(metavar="[NAME=]WEIGHTS...", help="Run folders, weights or exported files, optionally named."),
    ],
    host: Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any free port.")] = 8080,
    max_batch: Annotated[
        int, typer.Option("--max-batch", min=1, max=1024, help="Maximum batch size; 1: lowest latency.")
    ] = 8,
    max_wait_ms: Annotated[
        float, typer.Option("--max-wait-ms", min=0, max=10_000, help="Maximum wait for a fuller batch in ms.")
    ] = 5,
    queue: Annotated[
        int,
        typer.Option("--queue", min=1, max=100_000, help="Maximum queue length; further requests get status 503."),
    ] = 64,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, max=3600, help="Request timeout in s.")] = 30,
    max_mb: Annotated[float, typer.Option("--max-mb", min=0.001, max=1024, help="Maximum request size in MB.")] = 32,
    max_megapixels: Annotated[
        float, typer.Option("--max-megapixels", min=0.01, max=200, help="Maximum image size in megapixels.")
    ] = 50,
    recipe: RecipeOption = None,
    cfg: Cfg = None,
    names: ClassNames = None,
    set_: Overrides = None,
    device: Device = "auto",
    backend: Backend = "auto",
) -> None:
    """Serve models over HTTP: images in, JSON out, with dynamic batching. Also speaks the Open Inference Protocol.

    If the environment has BOXWRIGHT_TOKEN, requests need it as a bearer token.
    """
    from boxwright.extras import import_extra

    for module in ("fastapi", "uvicorn", "python_multipart"):
        import_extra(module, "serve")
    from boxwright.predict.loading import given_recipe
    from boxwright.remote.folders import local_path
    from boxwright.serve.batcher import Limits
    from boxwright.serve.models import load_for_serving, named_paths
    from boxwright.serve.run import Settings
    from boxwright.serve.run import serve as run

    token = os.environ.get(TOKEN)
    if token is not None and (not token.strip() or not token.isascii() or not token.isprintable()):
        raise InputError(f"{TOKEN}: found an empty or unprintable token, needed ASCII characters; set another, or none")
    given = given_recipe(recipe, cfg, names)
    predictors = {
        name: load_for_serving(str(local_path(path)), given, device, set_ or (), backend, max_batch)
        for name, path in named_paths(weights).items()
    }
    limits = Limits(max_batch, max_wait_ms / 1000, queue, round(max_megapixels * 1e6))
    run(predictors, Settings(host, port, limits, timeout, round(max_mb * 1e6), token and token.strip()))
