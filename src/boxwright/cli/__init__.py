"""The command line: each verb reads its words, calls one function of the package, and prints what came back.

Nothing here imports torch before a verb needs it, so `--help` and `list` answer at once; and nothing at all is imported
before Ctrl-C is taken care of.
"""

import contextlib
import io
import os
import sys
from typing import NoReturn

from boxwright import interrupt
from boxwright.errors import InputError, printable
from boxwright.files import cache_folder
from boxwright.memory import keep_freed

OUT_OF_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "out of memory")  # of PyTorch's own RuntimeErrors


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and leave the process. arguments: None for those of the process.

    Status 0: done. 1: done, and something was found wrong. 2: the input cannot be used, said in one line on stderr.
    130: interrupted.
    """
    if arguments is None:  # else it is part of another program, which decides about Ctrl-C
        interrupt.listen()
    try:
        status, line = _run((sys.argv[1:] if arguments is None else arguments) or ["--help"])
    except BaseException:
        if not interrupt.asked():
            raise
        status, line = interrupt.STATUS, interrupt.LINE
    sys.exit(interrupt.leave(status, line))


def _run(words: list[str]) -> tuple[int, str]:
    """Status and last line on stderr. Other errors are faults of ours, and are raised."""
    import typer

    from boxwright.cli.output import log_to_stderr
    from boxwright.cli.verbs import app

    keep_freed()
    _settle_in()
    log_to_stderr()
    try:
        status = app(words, prog_name="boxwright", standalone_mode=False)
    except (InputError, typer.TyperException) as error:
        message = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        return 2, _line(message)
    except BrokenPipeError:  # the reader of our output went away, as `| head` does; Python must not complain at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1, ""
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(word in str(error) for word in OUT_OF_MEMORY):
            raise
        return 2, _line("not enough memory for this; lower the batch (--batch, train.batch) or data.canvas.size")
    except OSError as error:
        return 2, _line(": ".join(str(part) for part in (error.filename, error.strerror or error) if part))
    return (status, interrupt.LINE) if status == interrupt.STATUS else (status or 0, "")


def _line(message: str) -> str:
    return "boxwright: " + printable(" ".join(message.split()))


def _settle_in() -> None:
    """What only a process of our own may do: have libraries keep their files in our cache and say nothing, and print
    any text.

    A name that the terminal's encoding lacks is shown with escapes. Where stderr is closed, what is said there is lost.
    """
    with contextlib.suppress(RuntimeError):  # a user without a home; matplotlib takes a temporary folder then
        os.environ.setdefault("MPLCONFIGDIR", str(cache_folder() / "matplotlib"))
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # what it would print of a broken file is said by our own error
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
