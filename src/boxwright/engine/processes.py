"""The processes of a training run: one, or one for each device under torchrun."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env

from boxwright.errors import InputError
from boxwright.recipe import Recipe, TrainConfig

T = TypeVar("T")
# The main process may check a large data set on a slow disk while the others wait; NCCL's default is 10 min.
TIMEOUT = timedelta(hours=2)


@contextmanager
def accelerator_session(config: TrainConfig) -> Iterator[Accelerator]:
    """The accelerator of one training run, with `train.precision: auto` resolved in its `mixed_precision`.

    The host program's state of accelerate, and of PyTorch's random numbers, which a training seeds, is restored. Raises
    InputError for a precision that the device does not support.
    """
    on_cpu = not torch.accelerator.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU")
    if on_cpu and config.precision == "fp16":
        raise InputError("train.precision: fp16 needs a GPU and there is none here; use bf16 or no")
    host = [(kind, dict(kind._shared_state)) for kind in (PartialState, AcceleratorState)]  # the host program's state
    AcceleratorState._reset_state()
    device = PartialState(on_cpu, timeout=TIMEOUT).device
    precision = best_precision(device) if config.precision == "auto" else config.precision
    accelerator = Accelerator(cpu=on_cpu, mixed_precision=precision)
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield accelerator
    finally:
        accelerator.end_training()
        # accelerate's state is global, but the next run may use another precision or device.
        AcceleratorState._reset_state(reset_partial_state=True)
        for kind, state in host:
            kind._shared_state.update(state)


def best_precision(device: torch.device) -> str:
    """The precision for auto: bf16 on a GPU that supports it natively, else no (float32). A CPU emulates bf16, or gains
    little; in a training, numbers can leave the range of fp16."""
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "no"


def resolve(recipe: Recipe, stored: Recipe | None, accelerator: Accelerator) -> Recipe:
    """The recipe with a number for `train.processes`: that of the run to resume, or else the current number."""
    if recipe.train.processes != "auto":
        return recipe
    count = "auto" if stored is None else stored.train.processes
    return recipe.with_overrides({"train.processes": accelerator.num_processes if count == "auto" else count})


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
