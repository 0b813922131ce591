"""OM files for Ascend devices, which CANN's compiler `atc` makes from ONNX files.

Such a file only runs on a device, so the ONNX file is compared with PyTorch instead. Neither CANN nor a device was
available for tests: the command follows CANN's documentation.
"""

import shutil
import subprocess
from functools import partial
from pathlib import Path

from boxwright.errors import InputError
from boxwright.extras import first_line
from boxwright.runtimes.base.target import Compiler, Target
from boxwright.runtimes.serialization import onnx_file

# --framework=5 means ONNX (CANN's ATC documentation)
COMMAND = "atc --framework=5 --model={model} --output={output} --soc_version={chip}"


def check_chip(chip: str | None) -> None:
    """Raise InputError if the name of the chip is missing, or atc is not installed."""
    if chip is None:
        raise InputError("--to om: needs --chip, for example Ascend310P3; `npu-smi info` on the device names it")
    if shutil.which("atc") is None:
        line = COMMAND.format(model="FILE.onnx", output="FILE", chip=chip)
        raise InputError(f"--to om: CANN's atc is not on PATH; use --to onnx here and then, where CANN is: {line}")


def run_atc(onnx: Path, path: Path, chip: str) -> None:
    """Compile the file `onnx` into `path`, which ends in .om. Raises InputError if atc rejects it."""
    places = {"model": onnx, "output": path.with_suffix(""), "chip": chip}  # atc adds the suffix
    command = [word.format(**places) for word in COMMAND.split()]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode or not path.is_file():
        message = RuntimeError(done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}")
        raise InputError(f"{path.name}: atc --soc_version={chip} rejects the network ({first_line(message)})")


TARGET = Target(
    suffix=".om",
    checked_by="onnxruntime",
    write={"float32": partial(onnx_file.write, deform="plain")},
    extra="onnx",
    fixed_shapes=True,
    compiler=Compiler(".onnx", check_chip, run_atc),
)
