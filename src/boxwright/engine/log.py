"""Training log: log.jsonl, trackers, the check for non-finite losses, and the profiler.

K named loss terms, S steps since the last check
"""

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from boxwright import interrupt
from boxwright.engine.trackers import Trackers
from boxwright.errors import InputError
from boxwright.files import write_bytes, write_errors
from boxwright.metrics import run_log
from boxwright.recipe import TrainConfig
from boxwright.types import AnyBatch

MAX_STEPS_BETWEEN_CHECKS = 10  # on a GPU; a check synchronizes, and notices signals


class TrainLogger:
    """Writes a line every `log_every` steps, at the end of each epoch and for each evaluation; main process only.

    Losses stay on the device for up to `MAX_STEPS_BETWEEN_CHECKS` steps, so that few steps synchronize; on a CPU each
    step is checked.
    """

    def __init__(
        self, run: Path, accelerator: Accelerator, config: TrainConfig, start: int, trackers: Trackers
    ) -> None:
        """Open the log of a run at step `start`; later lines, of an interrupted run, are dropped.

        trackers: receive the same numbers; `close` leaves them open.

        Raises InputError where the log cannot be written, or is not one.
        """
        self.accelerator, self.path = accelerator, run / run_log.FILE
        self.check_every = 1 if accelerator.device.type == "cpu" else min(config.log_every, MAX_STEPS_BETWEEN_CHECKS)
        self.stop = False  # whether a signal has asked any process to stop; the same in all
        self.names: list[str] = []
        self.pending: list[tuple[int, tuple[int | str, ...], Tensor]] = []  # (step, image ids, (K,) terms)
        self.sums: list[list[float]] = []
        self.images, self.data_time, self.since = 0, 0.0, time.perf_counter()
        self.last_loss = math.nan  # mean of the latest line
        self.file, self.profiler, self.trackers = None, None, trackers
        if accelerator.is_main_process:
            self.profiler = _profiler(run / "trace.json", config.profile)
            _truncate(self.path, start)
            with write_errors(self.path, self.path):
                self.file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 (`close` closes it)

    def timed(self, batches: Iterator[AnyBatch]) -> Iterator[AnyBatch]:
        """Yield the batches and measure the time spent waiting for them."""
        self._reset()
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.data_time += time.perf_counter() - start
            if batch is None:
                return
            self.images += len(batch.images)
            yield batch

    def step(self) -> None:
        """Advance the profiler after an optimizer step."""
        if self.profiler is not None:
            self.profiler.step()

    def record(self, step: int, batch: AnyBatch, terms: Mapping[str, Tensor]) -> None:
        """Record the loss of one batch, before its gradient is used. `step` counts from 1.

        Raises InputError in every process if a loss in any of them is not finite.
        """
        self.names = list(terms)
        ids = tuple(frame.image_id for frame in batch.frames)
        self.pending.append((step, ids, torch.stack([term.detach().float() for term in terms.values()])))
        if step % self.check_every == 0:
            self.check_finite()

    def check_finite(self) -> None:
        """Fetch the losses of the last S batches, averaged over the processes, and check them. The same reduction
        carries whether a process was asked to stop."""
        if not self.pending:
            return
        local = torch.stack([terms for _, _, terms in self.pending])  # (S, K)
        stop = local.new_tensor([float(interrupt.stop_requested())])
        *values, stops = self.accelerator.reduce(torch.cat([local.flatten(), stop]), reduction="mean").tolist()
        mean = [values[start : start + len(self.names)] for start in range(0, len(values), len(self.names))]
        self.stop = stops > 0
        for row, finite, (step, ids, _) in zip(mean, local.isfinite().all(1).tolist(), self.pending, strict=True):
            if not all(map(math.isfinite, row)):
                found = ", ".join(f"{name} {value:g}" for name, value in zip(self.names, row, strict=True))
                images = "the images of another process" if finite else f"images {', '.join(map(str, ids))}"
                raise InputError(
                    f"step {step}: the loss is not finite ({found}) on {images}; "
                    "nothing was saved since; lower train.schedule.lr or check these labels"
                )
        self.sums += mean
        self.pending.clear()

    def write(self, step: int, epoch: int, rate: float) -> None:
        """Write a line for the steps since the last line, if there are any."""
        self.check_finite()
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
            "data_wait": self.data_time / seconds,
        }
        if self.accelerator.device.type == "cuda":
            line["gpu_memory_gib"] = torch.cuda.max_memory_reserved(self.accelerator.device) / 2**30  # peak
        self._write(line)
        self.last_loss = sum(means)
        self._reset()

    def evaluated(self, step: int, epoch: int, summary: Mapping[str, float]) -> None:
        """Write the line of one evaluation."""
        self._write({"step": step, "epoch": epoch, **summary})

    def close(self) -> None:
        with suppress(OSError):  # each line was flushed, or raised this before
            if self.file is not None:
                self.file.close()
        if self.profiler is not None:
            self.profiler.stop()

    def _write(self, line: Mapping[str, Any]) -> None:
        if self.file is None:
            return
        values = {name: value for name, value in line.items() if name not in {"step", "epoch", "terms"}}
        with write_errors(self.path, self.path):
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()
            self.trackers.write(line["step"], values | line.get("terms", {}))

    def _reset(self) -> None:
        self.sums, self.images, self.data_time, self.since = [], 0, 0.0, time.perf_counter()


def _truncate(file: Path, step: int) -> None:
    """Drop the lines after `step`, and an incomplete last line."""
    if not file.exists():
        return
    kept = [line for line, values in run_log.read(file) if values["step"] <= step]
    write_bytes(file, b"".join(kept))


def _profiler(file: Path, steps: int) -> torch.profiler.profile | None:
    """A running profiler that writes steps 2 to `steps` + 1 to `file` (for chrome://tracing); None for no steps."""
    if not steps:
        return None
    profiler = torch.profiler.profile(
        schedule=torch.profiler.schedule(wait=0, warmup=1, active=steps, repeat=1),
        on_trace_ready=lambda trace: trace.export_chrome_trace(str(file)),
    )
    profiler.start()
    return profiler
