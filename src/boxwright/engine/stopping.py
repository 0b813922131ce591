"""Stopping a training in all its processes, after SIGTERM or SIGUSR1 to any of them.

In training steps the flag is reduced together with the losses (`TrainLogger.check_finite`), so that all processes stop
after the same step. In an evaluation there is no such reduction: each process checks a key in the store of the process
group once per second.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from accelerate import Accelerator
from torch.distributed.distributed_c10d import Store, _get_default_store

from boxwright import interrupt
from boxwright.engine.checkpointing import Checkpointer, TrainState

KEY = "boxwright/stop"  # in the store, once a process was asked to stop
POLL_INTERVAL = 1.0  # between two checks of the store


@dataclass
class StopCheck:
    """Raises `interrupt.Stopped` in an evaluation once any process was asked to stop; called for each image."""

    accelerator: Accelerator
    due: float = 0.0

    def __call__(self) -> None:
        if interrupt.stop_requested():
            if self.accelerator.num_processes > 1:
                _store().set(KEY, "1")
            raise interrupt.Stopped
        if self.accelerator.num_processes > 1 and time.monotonic() >= self.due:
            self.due = time.monotonic() + POLL_INTERVAL
            if _store().check([KEY]):
                raise interrupt.Stopped


@contextmanager
def stoppable(checkpointer: Checkpointer, state: TrainState, *, save: bool = True) -> Iterator[None]:
    """A block in which SIGTERM and SIGUSR1 stop the training in all processes, after the same step.

    save: whether to save `last` then; False if it is saved already and the network has other weights.

    Raises:
        interrupt.Stopped: It was stopped; in the main process with a message.
    """
    accelerator = checkpointer.accelerator
    with interrupt.stop_deferred():
        try:
            yield
        except interrupt.Stopped:
            if save:
                checkpointer.save("last", state)
            accelerator.wait_for_everyone()  # a launcher that sees one process end may kill the others
            line = f"{checkpointer.run}: stopped by a signal and saved after step {state.step}; continue with --resume"
            raise interrupt.Stopped(line if accelerator.is_main_process else "") from None


def _store() -> Store:
    return _get_default_store()
