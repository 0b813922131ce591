"""Rows that a command measures one by one: it can be stopped, and continues where it stopped when repeated."""

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from boxwright.files import make_folder
from boxwright.json_text import JsonObject, write


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that all such commands have."""
    parser.add_argument("--out", type=Path, required=True, help="a folder, new or of an earlier run of this command")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precision", default="no", choices=["no", "bf16"], help="bf16 is faster on some CPUs")


def measure(folder: Path, work: Callable[[], JsonObject]) -> JsonObject:
    """The row in `folder`; where it has none, what a killed run left there is deleted and `work` makes the row."""
    file = folder / "row.json"
    if not file.exists():
        shutil.rmtree(folder, ignore_errors=True)
        make_folder(folder)
        write(file, work())
    row: JsonObject = json.loads(file.read_text())
    return row
