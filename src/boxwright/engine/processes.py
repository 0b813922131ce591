"""The processes that train together: one without torchrun, else one for each device."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list

from boxwright.errors import InputError
from boxwright.recipe import TrainConfig

T = TypeVar("T")
# How long a process waits for the first, which may check a large data set on a slow disk; NCCL gives up after 10 min.
PATIENCE = timedelta(hours=2)


@contextmanager
def together(config: TrainConfig) -> Iterator[Any]:
    """The accelerator of one training. Raises InputError for a precision that this machine does not offer."""
    on_cpu = not torch.accelerator.is_available()
    if on_cpu and config.precision == "fp16":
        raise InputError("train.precision: fp16 needs a GPU and there is none here; use bf16 or no")
    kept = [(kind, dict(kind._shared_state)) for kind in (PartialState, AcceleratorState)]  # of the host program
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision=config.precision,
        gradient_accumulation_steps=config.accumulate,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )
    try:
        yield accelerator
    finally:
        accelerator.end_training()
        # accelerate keeps precision and device for the life of the process; the next run may want others.
        AcceleratorState._reset_state(reset_partial_state=True)
        for kind, state in kept:
            kind._shared_state.update(state)


def on_main(work: Callable[[], T], accelerator: Any) -> T:
    """What `work` returns, in every process, though only the first does it. Its InputError stops all of them."""
    outcome: list[Any] = [None, None]  # result, text of the error
    if accelerator.is_main_process:
        try:
            outcome[0] = work()
        except InputError as error:
            outcome[1] = str(error)
    result, error_text = broadcast_object_list(outcome)
    if error_text is not None:
        raise InputError(error_text)
    return result  # type: ignore[no-any-return]
