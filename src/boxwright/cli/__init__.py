"""The command line: each command parses its arguments, calls one function of the package, and prints the result.

Commands import torch when they need it, so that `--help` and `list` are fast; the handler of Ctrl-C is installed before
anything slow is imported.
"""

import contextlib
import io
import os
import sys
from typing import NoReturn

from boxwright import interrupt
from boxwright.cache import cache_folder
from boxwright.errors import InputError, one_line
from boxwright.memory import tune_malloc

OUT_OF_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "out of memory")  # in RuntimeErrors of PyTorch


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 success, 1 problems found, 2 invalid input (one line on stderr), 130 Ctrl-C,
    143 SIGTERM, or SIGUSR1 in a training.

    Args:
        arguments: None for `sys.argv[1:]`.
    """
    if arguments is None:  # otherwise called by another program, which handles Ctrl-C itself
        interrupt.install()
    try:
        status, line = _run((sys.argv[1:] if arguments is None else arguments) or ["--help"])
    except BaseException:
        if not interrupt.requested():
            raise
        status, line = interrupt.STATUS, interrupt.MESSAGE  # or those of SIGTERM, which `finish` knows
    sys.exit(interrupt.finish(status, line))


def _run(arguments: list[str]) -> tuple[int, str]:
    """Run a command; returns exit status and last line for stderr. Other exceptions are bugs, and are raised."""
    import typer

    from boxwright.cli.commands import app
    from boxwright.cli.output import log_to_stderr

    tune_malloc()
    _set_up_process()
    log_to_stderr()
    try:
        status = app(arguments, prog_name="boxwright", standalone_mode=False)
    except (InputError, typer.TyperException) as error:
        message = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        return 2, _error_line(message)
    except interrupt.Stopped as stopped:
        return interrupt.STATUS_STOPPED, _error_line(stopped.line) if stopped.line else ""
    except BrokenPipeError:  # the reader of stdout is gone (`| head`); keep Python from reporting it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1, ""
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(word in str(error) for word in OUT_OF_MEMORY):
            raise
        return 2, _error_line("not enough memory for this; lower the batch (--batch, train.batch) or data.canvas.size")
    except OSError as error:
        return 2, _error_line(": ".join(str(part) for part in (error.filename, error.strerror or error) if part))
    return (status, interrupt.MESSAGE) if status == interrupt.STATUS else (status or 0, "")


def _error_line(message: str) -> str:
    return one_line("boxwright: " + " ".join(message.split()))


def _set_up_process() -> None:
    """Process-wide settings that a library must not make: caches and logs of libraries, output encoding."""
    with contextlib.suppress(RuntimeError):  # a user without a home; matplotlib then uses a temporary folder
        os.environ.setdefault("MPLCONFIGDIR", str(cache_folder() / "matplotlib"))
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # our own errors report broken files
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
