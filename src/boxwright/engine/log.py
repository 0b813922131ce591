"""What training writes while it runs: log.jsonl, TensorBoard events, and the watch for losses that are not numbers.

K named loss terms, S steps since the last look
"""

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor

from boxwright.errors import InputError
from boxwright.evaluation import run_log
from boxwright.files import atomic_write, write_errors
from boxwright.recipe import TrainConfig
from boxwright.types import Batch, ClassBatch

B = TypeVar("B", Batch, ClassBatch)


class Journal:
    """One line every `log_every` steps, one at the end of each epoch, one for each evaluation.

    Losses stay on the device until a line is due, so that no step waits for an accelerator; on a CPU, where looking
    is free, each step is looked at. Only the first process writes.
    """

    def __init__(self, run: Path, accelerator: Accelerator, config: TrainConfig, start: int) -> None:
        """`start`: steps done before. Lines and events after it belong to an interrupted run and are dropped.

        Raises InputError where the log cannot be written, or holds what is none.
        """
        self.accelerator, self.path = accelerator, run / run_log.FILE
        self.look_every = 1 if accelerator.device.type == "cpu" else config.log_every
        self.names: list[str] = []
        self.unseen: list[tuple[int, tuple[int | str, ...], Tensor]] = []  # (step, image ids, (K,) terms)
        self.sums: list[list[float]] = []
        self.images, self.waited, self.since = 0, 0.0, time.perf_counter()
        self.last = math.nan  # mean loss of the latest line
        self.file, self.events, self.profile = None, None, None
        if accelerator.is_main_process:
            from boxwright.engine.events import Events  # slow to import, and only needed here

            self.profile = _profile(run / "trace.json", config.profile)
            _keep_until(self.path, start)
            with write_errors(self.path, self.path):
                self.file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 (`close` closes it)
                self.events = Events(run, start + 1)

    def timed(self, batches: Iterator[B]) -> Iterator[B]:
        """The batches, with the time spent waiting for each noted."""
        self._start_window()
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - asked
            if batch is None:
                return
            self.images += len(batch.images)
            yield batch

    def stepped(self) -> None:
        """A step of the optimiser is done."""
        if self.profile is not None:
            self.profile.step()

    def record(self, step: int, batch: Batch | ClassBatch, terms: Mapping[str, Tensor]) -> None:
        """Note the loss of one batch, before its gradient is used. `step` counts from 1.

        Raises InputError in every process when a loss seen so far is not finite in any of them.
        """
        self.names = list(terms)
        ids = tuple(frame.image_id for frame in batch.frames)
        self.unseen.append((step, ids, torch.stack([term.detach().float() for term in terms.values()])))
        if step % self.look_every == 0:
            self.look()

    def look(self) -> None:
        """Fetch the losses of the last S batches, averaged over the processes, and check them."""
        if not self.unseen:
            return
        mine = torch.stack([terms for _, _, terms in self.unseen])  # (S, K)
        mean = self.accelerator.reduce(mine.clone(), reduction="mean").tolist()
        for row, own, (step, ids, _) in zip(mean, mine.isfinite().all(1).tolist(), self.unseen, strict=True):
            if not all(map(math.isfinite, row)):
                found = ", ".join(f"{name} {value:g}" for name, value in zip(self.names, row, strict=True))
                whose = f"images {', '.join(map(str, ids))}" if not own else "the images of another process"
                raise InputError(
                    f"step {step}: the loss is not finite ({found}) on {whose}; "
                    "nothing was saved since; lower train.schedule.lr or check these labels"
                )
        self.sums += mean
        self.unseen.clear()

    def write(self, step: int, epoch: int, rate: float) -> None:
        """The line of the steps since the last one, if there were any."""
        self.look()
        if not self.sums:
            return
        means = [sum(column) / len(column) for column in zip(*self.sums, strict=True)]
        seconds = max(time.perf_counter() - self.since, 1e-9)
        line = {
            "step": step,
            "epoch": epoch,
            "lr": float(rate),
            "total": sum(means),
            "terms": dict(zip(self.names, means, strict=True)),
            "images_per_second": self.images * self.accelerator.num_processes / seconds,
            "waiting": self.waited / seconds,
        }
        if self.accelerator.device.type == "cuda":
            line["gpu_memory_gib"] = torch.cuda.max_memory_reserved(self.accelerator.device) / 2**30  # most so far
        self._put(line)
        self.last = sum(means)
        self._start_window()

    def evaluated(self, step: int, epoch: int, summary: Mapping[str, float]) -> None:
        """The line of one evaluation."""
        self._put({"step": step, "epoch": epoch, **summary})

    def close(self) -> None:
        for each in (self.file, self.events):
            with suppress(OSError):  # each line has been written, or has raised this before
                if each is not None:
                    each.close()
        if self.profile is not None:
            self.profile.stop()

    def _put(self, line: Mapping[str, Any]) -> None:
        if self.file is None or self.events is None:
            return
        values = {name: value for name, value in line.items() if name not in {"step", "epoch", "terms"}}
        with write_errors(self.path, self.path):
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()
            self.events.write(line["step"], values | line.get("terms", {}))

    def _start_window(self) -> None:
        self.sums, self.images, self.waited, self.since = [], 0, 0.0, time.perf_counter()


def _keep_until(file: Path, step: int) -> None:
    """Drop the lines after `step`, and a last line that a kill cut short."""
    if not file.exists():
        return
    kept = [line for line, values in run_log.read(file) if values["step"] <= step]
    with atomic_write(file) as tmp:
        tmp.write_bytes(b"".join(kept))


def _profile(file: Path, steps: int) -> Any:
    """A running profiler that writes steps 2 to `steps` + 1 to `file` (for chrome://tracing); None for no steps."""
    if not steps:
        return None
    profile = torch.profiler.profile(
        schedule=torch.profiler.schedule(wait=0, warmup=1, active=steps, repeat=1),
        on_trace_ready=lambda made: made.export_chrome_trace(str(file)),
    )
    profile.start()
    return profile
