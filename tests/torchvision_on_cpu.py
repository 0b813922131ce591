"""Lets torchvision be imported beside a PyTorch built without CUDA, for tests and benchmarks that compare with it.

The torchvision wheel of the default package index is linked against CUDA libraries that such a PyTorch does not bring.
On a CPU nothing in them is called but the registration of kernels, at import, whose results are unused. So empty
libraries of these names, loaded first, are enough. Call `load()` before the first `import torchvision`.
"""

import ctypes
import importlib.util
import subprocess
import tempfile
from pathlib import Path

import torch

# The last one holds the functions. They may not stand in the first: theirs is a versioned name, which ours has not.
LIBRARIES = ("libcudart.so.13", "libc10_cuda.so", "libtorch_cuda.so")


def load() -> None:
    """Does nothing where nothing is missing, or where the C compiler `cc` or `nm` (binutils) is."""
    spec = importlib.util.find_spec("torchvision")
    if torch.version.cuda is not None or spec is None or spec.origin is None:
        return
    for kernels in Path(spec.origin).parent.glob("_C*.so"):
        if LIBRARIES[-1].encode() in kernels.read_bytes():
            try:
                _load_empty(kernels)
            except (OSError, subprocess.CalledProcessError):
                return


def _load_empty(kernels: Path) -> None:
    listing = subprocess.run(["nm", "-D", "--undefined-only", kernels], capture_output=True, text=True, check=True)
    names = sorted({line.split()[-1].partition("@")[0] for line in listing.stdout.splitlines()})
    source = "\n".join(f"long {name}(void) {{ return 0; }}" for name in names if "cuda" in name)
    with tempfile.TemporaryDirectory() as folder:  # a loaded library no longer needs its file
        for library in LIBRARIES:
            code = source if library == LIBRARIES[-1] else ""
            command = ["cc", "-shared", "-x", "c", "-", "-o", f"{folder}/{library}", f"-Wl,-soname,{library}"]
            subprocess.run([*command, "-fPIC"], input=code, text=True, capture_output=True, check=True)
            ctypes.CDLL(f"{folder}/{library}", mode=ctypes.RTLD_GLOBAL)
