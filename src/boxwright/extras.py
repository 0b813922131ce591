"""Optional libraries: imported when first needed, without telemetry; their error messages shortened to one line."""

import importlib
import os
import sys
from types import ModuleType

from boxwright.errors import InputError, printable


def silence_telemetry() -> None:
    """Disable the telemetry of OpenVINO, NNCF, ONNX Runtime, Ray, MLflow and wandb, if imported after this.

    By default OpenVINO and NNCF report each import and each call, ONNX Runtime each process that runs for more than a
    few seconds, and Ray each cluster; the first three write a user id into the home folder. MLflow reports calls, and
    wandb its own errors. OpenVINO and NNCF work without their telemetry module.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # importing it now raises ImportError
    os.environ.setdefault("NNCF_CI", "1")  # if that module has been imported already
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def import_extra(module: str, extra: str) -> ModuleType:
    """Import a module with its telemetry disabled.

    Raises:
        InputError: It is not installed; the message names the extra of this package to install.
    """
    silence_telemetry()
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"{module} is not installed (or not for this machine: {str(error).partition(chr(10))[0]}); "
            f"pip install 'boxwright[{extra}]'"
        ) from error


def first_line(error: BaseException) -> str:
    """The message of a library's error in one line, without the source locations at its start."""
    if isinstance(error, UnicodeDecodeError):  # OpenVINO quotes a damaged file's bytes
        return "its message is not text; the file is damaged"
    lines = [line.strip() for line in str(error).splitlines()]
    messages = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return printable((messages or lines or [""])[0][:160]) or type(error).__name__
