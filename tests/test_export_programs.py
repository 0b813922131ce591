"""TorchScript and .pt2: files run without boxwright's code, and untrusted content is not loaded."""

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from boxwright.errors import InputError
from boxwright.recipe import Recipe
from boxwright.runtimes import pt2, torchscript
from boxwright.runtimes.base.graph import Graph, raw_graph
from boxwright.runtimes.base.metadata import Metadata
from boxwright.runtimes.base.open import open_runtime, read_metadata
from boxwright.runtimes.base.runtime import RuntimeOptions
from mmdet_oracle import ADAPTIVE
from test_export_onnx import SIZE, assert_equal, examples, made

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("short_networks")]
WRITERS = {"pt2": pt2.write, "torchscript": torchscript.write}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("dynamic", [False, True])
@torch.no_grad()
def test_program_round_trip(dynamic: bool, kind: str, tmp_path: Path) -> None:
    model, recipe = made("tiny_darknet", {"last": "block"})
    check_read_back(model, recipe, raw_graph(model, recipe, 1, dynamic), tmp_path / f"a.{kind}", dynamic)


def check_read_back(model: nn.Module, recipe: Recipe, graph: Graph, file: Path, dynamic: bool = False) -> None:
    metadata = Metadata(recipe, "raw", "float32", graph.outputs, "", "1")
    WRITERS[file.suffix[1:]](graph, file, metadata.to_text())
    backend, found = open_runtime(file, options=RuntimeOptions(trust=True))
    assert found == metadata == read_metadata(file)
    assert backend.shape == (None if dynamic else len(graph.inputs["images"]), 3, *SIZE)
    inputs = examples(graph, 3)
    assert_equal(list(backend.forward(*inputs)), model(*inputs))
    assert str(Path(pt2.__file__).parents[2]).encode() not in file.read_bytes()


FOREIGN = """
import pathlib, sys, numpy, torch
torch.set_grad_enabled(False)
names = sys.argv[1:]
inputs = [torch.from_numpy(numpy.load(name)) for name in sorted(pathlib.Path().glob("*.npy"))]
for name in names:
    run = torch.export.load(name).module() if name.endswith("pt2") else torch.jit.load(name)
    numpy.save(name + ".npy", run(*inputs)[0].numpy())
assert not any("boxwright" in name for name in sys.modules)
"""


@torch.no_grad()
def test_programs_run_without_boxwright(tmp_path: Path) -> None:
    model, recipe = made("faster_rcnn", ADAPTIVE)
    graph = raw_graph(model, recipe, 3)
    for kind in WRITERS:
        check_read_back(model, recipe, graph, tmp_path / f"a.{kind}")
    inputs = examples(graph, 3)
    for number, values in enumerate(inputs):
        np.save(tmp_path / f"{number}.npy", values)
    there = os.environ | {"PYTHONPATH": ""}
    subprocess.run(
        [sys.executable, "-c", FOREIGN, *(f"a.{kind}" for kind in WRITERS)], cwd=tmp_path, env=there, check=True
    )
    for kind in WRITERS:
        assert_equal([np.load(tmp_path / f"a.{kind}.npy")], model(*inputs)[:1])


class Sum(nn.Module):
    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (images + 1,)


def small(folder: Path, kind: str) -> Path:
    graph = Graph(Sum().eval(), {"images": torch.rand(2, 3)}, ("sum",), {"images": {0: "batch"}})
    WRITERS[kind](graph, folder / f"a.{kind}", "metadata")
    return folder / f"a.{kind}"


def changed(file: Path, part: str, change: Any) -> Path:
    """`file` with another content of the entry whose name ends in `part`.

    Nothing is compressed: what compresses to one length with one counter in its class names does not with another.
    """
    with zipfile.ZipFile(io.BytesIO(file.read_bytes())) as old, zipfile.ZipFile(file, "w") as new:
        names = [name for name in old.namelist() if name.endswith(part)]
        assert len(names) == 1
        for entry in old.infolist():
            content = old.read(entry)
            new.writestr(entry, change(content) if entry.filename in names else content, zipfile.ZIP_STORED)
    return file


def edited(old: str, new: str) -> Any:
    def change(content: bytes) -> bytes:
        assert old.encode() in content
        return content.replace(old.encode(), new.encode())

    return change


@pytest.mark.parametrize("kind", WRITERS)
def test_files_that_are_not_programs_are_rejected(kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"a.{kind}"
    file.write_bytes(b"no archive")
    with pytest.raises(InputError, match="not a program of PyTorch"):
        open_runtime(file, options=RuntimeOptions(trust=True))
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/models/model.json", b" " * 10_000_000)
    with pytest.raises(InputError, match="bytes that unpack to 10000000"):
        open_runtime(file, options=RuntimeOptions(trust=True))
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/version", "3")
        archive.writestr("archive/byteorder", sys.byteorder)
    with pytest.raises(InputError, match=r"found no |not a program that PyTorch"):
        open_runtime(file, options=RuntimeOptions(trust=True))


def marked(content: bytes, offset: int, byte: int) -> bytes:
    """An archive whose index has `byte` there in every entry."""
    parts = content.split(b"PK\x01\x02")
    at = offset - 4
    return b"PK\x01\x02".join([parts[0], *(part[:at] + bytes([byte]) + part[at + 1 :] for part in parts[1:])])


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(("offset", "byte"), [(8, 1), (10, 99)], ids=["encrypted", "unknown compression"])
def test_archives_that_cannot_be_unpacked_are_rejected(offset: int, byte: int, kind: str, tmp_path: Path) -> None:
    file = small(tmp_path, kind)
    file.write_bytes(marked(file.read_bytes(), offset, byte))
    with pytest.raises(InputError, match="not a program of PyTorch"):
        open_runtime(file, options=RuntimeOptions(trust=True))


def test_unreadable_archive_entries_are_rejected(tmp_path: Path) -> None:
    file = small(tmp_path, "torchscript")
    with zipfile.ZipFile(io.BytesIO(file.read_bytes())) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for name in ("archive/code/__torch__/a.py", *old.namelist()):
            new.writestr(name, old.read(name) if name in old.namelist() else "a = 1\n" * 50)
    content, start = file.read_bytes(), 30 + len("archive/code/__torch__/a.py")
    file.write_bytes(content[:start] + b"\xff" * 6 + content[start + 6 :])
    with pytest.raises(InputError, match="not a program of PyTorch"):
        open_runtime(file, options=RuntimeOptions(trust=True))


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated")
def test_checked_archive_is_the_loaded_archive(tmp_path: Path) -> None:
    """Two archives of one length after each other: Python's reader finds the second, PyTorch's the first, for it takes
    the place of the index as it is written down."""
    file = small(tmp_path, "torchscript")
    shown, hidden = (
        changed(file, ".py", edited("torch.add", name)).read_bytes() for name in ("torch.add", "torch.sub")
    )
    file.write_bytes(hidden + shown)
    assert torch.equal(torch.jit.load(file)(torch.ones(2, 3))[0], torch.zeros(2, 3))  # type: ignore[no-untyped-call]
    program, _ = torchscript.open_file(file, RuntimeOptions(trust=True))
    assert torch.equal(program.forward(torch.ones(2, 3))[0], torch.full((2, 3), 2.0))


@pytest.mark.parametrize("kind", WRITERS)
def test_missing_metadata_is_an_error(kind: str, tmp_path: Path) -> None:
    file = small(tmp_path, kind)
    with pytest.raises(InputError, match="'boxwright' metadata: not JSON"):
        open_runtime(file, options=RuntimeOptions(trust=True))
