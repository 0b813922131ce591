"""The processes of a training run: one, or one for each device under torchrun."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list

from boxwright.errors import InputError
from boxwright.recipe import TrainConfig

T = TypeVar("T")
# The main process may check a large data set on a slow disk while the others wait; NCCL's default is 10 min.
TIMEOUT = timedelta(hours=2)


@contextmanager
def accelerator_session(config: TrainConfig) -> Iterator[Accelerator]:
    """The accelerator of one training run. Raises InputError for a precision that the device does not support."""
    on_cpu = not torch.accelerator.is_available()
    if on_cpu and config.precision == "fp16":
        raise InputError("train.precision: fp16 needs a GPU and there is none here; use bf16 or no")
    host = [(kind, dict(kind._shared_state)) for kind in (PartialState, AcceleratorState)]  # the host program's state
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision=config.precision,
        gradient_accumulation_steps=config.accumulate,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=TIMEOUT)],
    )
    try:
        yield accelerator
    finally:
        accelerator.end_training()
        # accelerate's state is global, but the next run may use another precision or device.
        AcceleratorState._reset_state(reset_partial_state=True)
        for kind, state in host:
            kind._shared_state.update(state)


def on_main(work: Callable[[], T], accelerator: Accelerator) -> T:
    """Run `work` in the main process; its result is returned, or its InputError raised, in every process."""
    outcome: list[object] = [None, None]  # result, text of the error
    if accelerator.is_main_process:
        try:
            outcome[0] = work()
        except InputError as error:
            outcome[1] = str(error)
    result, error_text = broadcast_object_list(outcome)
    if error_text is not None:
        raise InputError(error_text)
    return result  # type: ignore[no-any-return]
