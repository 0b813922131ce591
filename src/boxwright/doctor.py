"""Diagnosis of an installation: versions, devices, extras, memory, disk and cache, and what does not work."""

import contextlib
import importlib
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata

from packaging.requirements import Requirement

from boxwright.cache import VARIABLE, cache_folder
from boxwright.errors import InputError
from boxwright.extras import first_line, silence_telemetry
from boxwright.json_text import JsonObject
from boxwright.memory import available_memory
from boxwright.remote.cache import size_limit
from boxwright.version import __version__

# Extra -> the commands and inputs that need it.
NEEDED_FOR = {
    "train": "train, demo",
    "mlflow": "train --set train.track=[mlflow]",
    "wandb": "train --set train.track=[wandb]",
    "geo": "TIFFs of any size read by windows (predict --tile, data tile)",
    "onnx": "export --to onnx, .onnx files",
    "openvino": "export --to openvino, quantize, .xml files",
    "mindspore": "running .mindir files",
    "video": "predict of videos, streams and cameras, predict --track",
    "web": "look",
    "serve": "serve",
    "cloud": "s3://, gs://, az://, obs:// and http:// in place of paths",
    "parquet": "predict --as parquet, merge-shards, data sets in Parquet",
    "ray": "train --ray, predict --ray",
}
MODULES = {
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "pyyaml": "yaml",
}  # other modules have their package's name
UNKNOWN = "unknown to the installed boxwright, which is another version; install it again"
COMPILERS = ("c++", "g++", "clang++", "cl")


@dataclass(frozen=True, slots=True)
class Package:
    """A library that boxwright needs. version: "" if it is not installed. fault: why it does not work, or ""."""

    name: str
    needed: str
    version: str
    fault: str


@dataclass(frozen=True, slots=True)
class Health:
    """The result of `examine`.

    Attributes:
        versions: Versions of boxwright, Python and the operating system.
        packages: The packages that every command needs.
        extras: The packages of each extra.
        devices: Name as for --device -> description.
        cores: CPU cores that this process may use.
        threads: Threads that PyTorch computes with; 0 without PyTorch.
        compiler: Path of the C++ compiler for --compile on a CPU, or "".
        memory: Available memory in bytes.
        disk: Free disk space in the current folder in bytes.
        cache: `folder`, `bytes` in it, `limit` of remote files in bytes, and `free` bytes there; None
            without a home folder.
        problems: One line for each required or requested item that does not work.
    """

    versions: dict[str, str]
    packages: tuple[Package, ...]
    extras: dict[str, tuple[Package, ...]]
    devices: dict[str, str]
    cores: int
    threads: int
    compiler: str
    memory: int
    disk: int
    cache: JsonObject | None
    problems: tuple[str, ...]

    def to_json(self) -> JsonObject:
        """The result as plain values."""
        extras = {
            name: {"works": bool(packages) and not any(each.fault for each in packages), "needed_for": NEEDED_FOR[name]}
            | {"packages": list(map(asdict, packages))}
            for name, packages in self.extras.items()
        }
        return asdict(self) | {"extras": extras}

    def __str__(self) -> str:
        cache = self.cache
        lines = [
            ", ".join(f"{name} {version}" for name, version in self.versions.items()),
            "needed by every command: " + ", ".join(f"{each.name} {each.version or '-'}" for each in self.packages),
            *(f"device {name}: {what}" for name, what in self.devices.items()),
            f"processor: {self.cores} cores to use, {self.threads} threads of PyTorch",
            f"C++ compiler: {self.compiler or 'none; --compile on a CPU needs one'}",
            f"memory: {_size(self.memory)} available",
            f"disk: {_size(self.disk)} free in this folder",
            "cache: none"
            if cache is None
            else f"cache: {cache['folder']} takes {_size(cache['bytes'])}, {_size(cache['free'])} are free there; "
            f"at most {_size(cache['limit'])} of remote files",
            "extras:",
        ]
        width = max(map(len, NEEDED_FOR))
        for name, packages in self.extras.items():
            faults = "; ".join(each.fault for each in packages if each.fault)
            found = ", ".join(f"{each.name} {each.version}" for each in packages)
            install = f"; pip install 'boxwright[{name}]' for: {NEEDED_FOR[name]}"
            lines.append(f"  {name:<{width}}  {faults + install if faults else found or UNKNOWN}")
        lines += [f"does not work: {problem}" for problem in self.problems] or ["no problems found"]
        return "\n".join(lines)


def examine(extras: Sequence[str] = (), device: str | None = None) -> Health:
    """Examine this installation.

    Args:
        extras: Extras that have to work: their packages are imported. Of the other packages only the version is read.
        device: Device that has to work, a name as for `--device`.

    Raises:
        InputError: For an extra that does not exist.
    """
    for name in extras:
        if name not in NEEDED_FOR:
            raise InputError(f"--extra: found '{name}', needed one of {', '.join(NEEDED_FOR)}")
    silence_telemetry()
    problems = []
    packages = tuple(_packages("", imported=True))
    of_extras = {name: tuple(_packages(name, imported=name in extras)) for name in NEEDED_FOR}
    problems += [each.fault for each in packages if each.fault]
    problems += [f"extra {name}: {each.fault}" for name in extras for each in of_extras[name] if each.fault]
    problems += [f"extra {name}: {UNKNOWN}" for name in extras if packages and not of_extras[name]]
    if not packages:
        problems.append("boxwright is not installed by pip, so what it needs is unknown; pip install it")
    devices, threads = _devices()
    if device is not None and (fault := _device_fault(device)):
        problems.append(fault)
    system = {"boxwright": __version__, "Python": platform.python_version(), "on": platform.platform()}
    compiler = next(filter(None, map(shutil.which, COMPILERS)), "")
    memory, disk = available_memory(), shutil.disk_usage(".").free
    cache: JsonObject | None = None
    try:
        cache = _cache()
    except RuntimeError:
        problems.append(f"the user has no home folder for the cache; set {VARIABLE} to a folder")
    return Health(
        system, packages, of_extras, devices, _cores(), threads, compiler, memory, disk, cache, tuple(problems)
    )


def _packages(extra: str, *, imported: bool) -> Iterator[Package]:
    """The packages that an extra adds, or those of the core for "", by the metadata of the installed boxwright."""
    try:
        lines = metadata.requires("boxwright") or []
    except metadata.PackageNotFoundError:
        return
    for need in map(Requirement, lines):
        if need.marker is None:
            wanted = not extra
        else:
            wanted = bool(extra) and need.marker.evaluate({"extra": extra}) and not need.marker.evaluate({"extra": ""})
        if wanted:
            yield _package(need, imported)


def _package(need: Requirement, imported: bool) -> Package:
    try:
        version = metadata.version(need.name)
    except metadata.PackageNotFoundError:
        return Package(need.name, str(need.specifier), "", f"{need.name} is not installed")
    fault = ""
    if not need.specifier.contains(version, prereleases=True):
        fault = f"{need.name} {version} is installed, needed {need.specifier}"
    elif imported:
        try:
            importlib.import_module(MODULES.get(need.name.lower(), need.name.replace("-", "_")))
        except Exception as error:  # a library that does not fit the machine may raise anything
            fault = f"{need.name} {version} cannot be imported ({first_line(error)})"
    return Package(need.name, str(need.specifier), version, fault)


def _devices() -> tuple[dict[str, str], int]:
    """The devices of PyTorch and its number of threads; none without PyTorch."""
    try:
        import torch
    except Exception:  # already among the problems
        return {}, 0
    found = {"cpu": platform.processor() or platform.machine()}
    for index in range(torch.cuda.device_count()):
        name, memory = torch.cuda.get_device_name(index), torch.cuda.get_device_properties(index).total_memory
        found[f"cuda:{index}"] = f"{name}, {_size(memory)}"
    if torch.backends.mps.is_available():
        found["mps"] = "Apple's GPU"
    return found, torch.get_num_threads()


def _device_fault(name: str) -> str:
    try:
        from boxwright.predict.loading import open_device

        open_device(name)
    except (InputError, ImportError, OSError) as error:
        return first_line(error)
    return ""


def _cores() -> int:
    """Cores that this process may use: in a container or a job fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cache() -> JsonObject:
    folder = cache_folder()
    used = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # removed in the meantime
                used += os.lstat(os.path.join(parent, name)).st_size  # noqa: PTH118 (there may be very many)
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    return {"folder": str(folder), "bytes": used, "limit": size_limit(), "free": free}


def _size(count: int) -> str:
    """A number of bytes in decimal units, like --cache-size."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count / 1000:.3g} kB"
