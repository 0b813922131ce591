"""The command line: each verb reads its words, calls one function of the package, and prints what came back.

Nothing here imports torch before a verb needs it, so `--help` and `list` answer at once.
"""

import os
import sys
from typing import NoReturn

import typer

from boxwright.cli import data, deploy, networks
from boxwright.errors import InputError
from boxwright.memory import keep_freed

INTERRUPTED = 130  # what typer makes of Ctrl-C, and what shells expect

app = typer.Typer(
    add_completion=False,
    rich_markup_mode="rich",
    help="Train, evaluate, port and use convolutional object detectors and classifiers.",
)
app.command("list")(networks.list_)
app.command("show")(networks.show)
app.command("train")(networks.train)
app.command("evaluate")(networks.evaluate)
app.command("predict")(networks.predict)
app.command("import")(networks.import_)
app.command("export")(deploy.export)
app.command("quantize")(deploy.quantize)
app.command("bench")(deploy.bench)
app.command("demo")(networks.demo)

data_app = typer.Typer(help="Look at labelled pictures before they are learned from.")
data_app.command("check")(data.check)
data_app.command("show")(data.show)
data_app.command("tile")(data.tile)
data_app.command("convert")(data.convert)
data_app.command("tensors")(data.tensors)
app.add_typer(data_app, name="data")


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and leave the process.

    Status 0: done. 1: done, and something was found wrong. 2: the input cannot be used, said in one line on stderr.
    130: interrupted.
    """
    keep_freed()
    words = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        status = app(words, prog_name="boxwright", standalone_mode=False)
    except (InputError, typer.TyperException) as error:
        message = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        _stop(message, 2)
    except BrokenPipeError:  # the reader of our output went away, as `| head` does; Python must not complain at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _stop(": ".join(str(part) for part in (error.filename, error.strerror or error) if part), 2)
    if status == INTERRUPTED:
        _stop("interrupted", status)
    sys.exit(status or 0)


def _stop(message: str, status: int) -> NoReturn:
    print("boxwright: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(status)
