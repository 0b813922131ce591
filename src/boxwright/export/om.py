"""OM files for Ascend devices, which CANN's compiler `atc` makes of ONNX files.

Neither CANN nor a device was at hand when this was written: the command is the one of CANN's documentation.
"""

import shutil
import subprocess
from pathlib import Path

from boxwright.errors import InputError
from boxwright.predict.backend import first_line

# --framework=5 says that the file is ONNX (CANN's ATC instructions)
COMMAND = "atc --framework=5 --model={model} --output={output} --soc_version={chip}"


def need_atc(chip: str | None) -> None:
    """Raises InputError where the name of the chip is not given, or atc is not installed."""
    if chip is None:
        raise InputError("--to om: needs --chip, for example Ascend310P3; `npu-smi info` on the device names it")
    if shutil.which("atc") is None:
        line = COMMAND.format(model="FILE.onnx", output="FILE", chip=chip)
        raise InputError(f"--to om: CANN's atc is not on PATH; use --to onnx here and then, where CANN is: {line}")


def write(onnx: Path, path: Path, chip: str) -> None:
    """Compile the file `onnx` into `path`, which ends in .om. Raises InputError where atc refuses it."""
    places = {"model": onnx, "output": path.with_suffix(""), "chip": chip}  # atc adds the suffix
    words = [word.format(**places) for word in COMMAND.split()]
    done = subprocess.run(words, capture_output=True, text=True, errors="replace")
    if done.returncode or not path.is_file():
        said = RuntimeError(done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}")
        raise InputError(f"{path.name}: atc --soc_version={chip} refuses the network ({first_line(said)})")
