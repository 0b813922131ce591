"""Rows of a table by Ray: actors on this machine or on a cluster load the network, and call `predict_rows`.

Ray Data sends blocks of images to actors, with back-pressure, restarts actors that died, and sends their blocks to
other actors. The process that writes the table receives the rows of each block once, so there are no duplicates.
"""

import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

import cv2
import torch

from boxwright.errors import InputError
from boxwright.extras import first_line, import_extra
from boxwright.memory import tune_malloc
from boxwright.predict.predictor import AnyPredictor, load
from boxwright.ray_cluster import session
from boxwright.runtimes.base.open import is_exported
from boxwright.tables.rows import Settings, Source, of_block, predict_rows, schema, to_block

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc
else:
    pa = import_extra("pyarrow", "parquet")
    pc = import_extra("pyarrow.compute", "parquet")

ADDRESS = re.compile(r"local|auto|[\w.-]+:\d+|\[[0-9a-fA-F:]+\]:\d+")
BLOCK = 64  # images that an actor processes at a time, and that are repeated if it dies
BLOCKS_EACH = 4  # at least this many blocks per actor, so that actors end at about the same time
ATTEMPTS = 4  # per block: an image that crashes actors must not occupy them forever
OBJECT_STORE = 128 << 20  # bytes of shared memory; rows are small


def check_address(address: str) -> str:
    """Return `address`. Raises InputError if it is not valid."""
    if ADDRESS.fullmatch(address):
        return address
    raise InputError(f"--ray: found '{address[:60]}', needed local, auto, or HOST:PORT of a head node")


def predict_on_ray(
    predictor: AnyPredictor, sources: Sequence[Source], settings: Settings, *, address: str, device: str = "auto"
) -> Iterator["pa.RecordBatch"]:
    """`predict_rows` on Ray, with the images in any order.

    Args:
        predictor: From `load`; each actor loads the same file, so all machines need it, and the images, under the same
            paths.
        sources: As in `predict_rows`.
        settings: As in `predict_rows`.
        address: `local` starts Ray on this machine, with as many CPUs as PyTorch has threads; `auto` or an address
            connects to a cluster.
        device: Device of the actors: `cpu`; `cuda`, one GPU each; `auto`: cuda if the cluster has GPUs.

    Raises:
        InputError: Ray is not installed or cannot be reached, the network cannot be loaded there, or the same images
            repeatedly crash actors.
    """
    assert predictor.origin is not None
    with _connected(address) as ray:
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0)) if device != "cpu" and not is_exported(predictor.origin.path) else 0
        if device.startswith("cuda") and not gpus:
            raise InputError(f"--device {device}: the Ray cluster has no GPU; use cpu or auto")
        workers = max(1, gpus or int(resources.get("CPU", 1)))
        largest = BLOCK if settings.tiling is None else 1  # a scene takes as long as a block of images
        size = max(1, min(largest, -(-len(sources) // (BLOCKS_EACH * workers))))
        blocks = [to_block(sources[start : start + size]) for start in range(0, len(sources), size)]
        attempts = ray.remote(num_cpus=0)(_Attempts).remote()
        arguments = predictor.origin.arguments(predictor.recipe, torch.device("cuda" if gpus else "cpu"))
        dataset = ray.data.from_arrow(blocks).map_batches(
            _Actor,
            fn_constructor_args=(arguments, settings, attempts),
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(blocks))),
            num_cpus=1,
            num_gpus=1 if gpus else 0,
        )
        missing = {source.name for source in sources}
        try:
            for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
                for batch in _each_image(table):
                    missing.remove(batch["image"][0].as_py())  # KeyError for a duplicate image
                    yield batch
        except ray.exceptions.RayError as error:
            raise _as_input_error(error) from error
        if missing:
            raise RuntimeError(f"Ray ended without the rows of {len(missing)} images")


class _Attempts:
    """Ray actor that counts how often each block was started: Ray retries a block when its actor dies."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def begin(self, block: str) -> int:
        self.counts[block] += 1
        return self.counts[block]


class _Actor:
    """A network in a separate process."""

    def __init__(self, arguments: dict[str, Any], settings: Settings, attempts: Any) -> None:
        """arguments: arguments of `load`. attempts: a handle of `_Attempts`."""
        tune_malloc()
        cv2.setNumThreads(torch.get_num_threads())  # Ray gives PyTorch as many as the actor has CPUs
        self.predictor, self.settings, self.attempts = load(**arguments), settings, attempts

    def __call__(self, block: "pa.Table") -> "pa.Table":
        """Rows of a block. Raises InputError if too many actors have died while processing it."""
        import ray

        sources = of_block(block)
        if ray.get(self.attempts.begin.remote(sources[0].name)) > ATTEMPTS:
            raise InputError(
                f"{sources[0].name}: {ATTEMPTS} processes died on it or on the {len(sources) - 1} images after it "
                "(killed, out of memory, or by a damaged file); leave the image out"
            )
        rows = predict_rows(self.predictor, sources, self.settings)
        return pa.Table.from_batches(rows, schema(self.settings.crs))


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Ray as in `ray_cluster.session`, without log lines. Its messages, such as that a worker died, go to stderr."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(sys.stderr))
        with _without_stderr():
            ray: Any = stack.enter_context(session(address, torch.get_num_threads(), OBJECT_STORE, worker_logs=False))
        import_extra("ray.data", "ray")
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        yield ray


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Suppress what Ray's native code prints; failures are raised as exceptions."""
    sys.stderr.flush()
    saved, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nothing)


def _each_image(table: "pa.Table") -> Iterator["pa.RecordBatch"]:
    """Rows of each image, which are consecutive."""
    (batch,) = table.combine_chunks().to_batches() or [None]
    if batch is None:
        return
    lengths = pc.run_end_encode(batch["image"]).run_ends.to_pylist()
    start = 0
    for end in lengths:
        yield batch.slice(start, end - start)
        start = end


def _as_input_error(error: Exception) -> InputError:
    """InputError with the message of one that an actor raised, or with Ray's message."""
    found = re.search(r"boxwright\.errors\.InputError: (.*)", str(error))
    if found:
        return InputError(found[1])
    advice = "what was written is kept, run the same command again"
    return InputError(f"Ray gave up ({type(error).__name__}: {first_line(error)}); {advice}")
