"""Handcrafted files of weights: each is read, or rejected in one line, with little time and memory."""

import hashlib
import json
import pickle
import subprocess
import sys
import threading
import time
import tracemalloc
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from boxwright import recipe, weights
from boxwright.errors import InputError
from boxwright.models import tiny_darknet
from boxwright.weights import checkpoint, files, mindspore, torch_files

CIFAR = recipe.load("tiny_darknet_cifar10")
NAME = "last.weight"  # (10, 128, 1, 1), or with a block last.conv.weight


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return tiny_darknet.build(CIFAR.model)  # type: ignore[arg-type]


def rejection(file: Path, network: nn.Module) -> str:
    with pytest.raises(InputError) as caught:
        weights.load(network, file, CIFAR)
    assert str(file) in str(caught.value)
    assert len(str(caught.value)) < 600
    return str(caught.value)


def last_convolution(network: nn.Module) -> str:
    return next(name for name in reversed(network.state_dict()) if network.state_dict()[name].ndim == 4)


# --- types of numbers

SAFE = {
    "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1, "U16": 2, "U32": 4, "U64": 8,
    "C64": 8, "F4": 0.5, "F6_E2M3": 0.75, "I32": 4, "BOOL": 1, "X99": 1,
}  # fmt: skip


@pytest.mark.parametrize(("kind", "width"), SAFE.items(), ids=SAFE)
def test_unsupported_safetensors_dtypes_are_rejected(
    kind: str, width: float, network: nn.Module, tmp_path: Path
) -> None:
    state, file = network.state_dict(), tmp_path / "m.safetensors"
    name = last_convolution(network)
    checkpoint.save(file, network, CIFAR)
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header, numbers = json.loads(content[8:start]), content[start:]
    size = int(state[name].numel() * width)
    header[name] |= {"dtype": kind, "data_offsets": [len(numbers), len(numbers) + size]}
    gap = header.pop(name)  # its old place would be a gap, which safetensors rejects
    header = {"__metadata__": header["__metadata__"], name: gap | {"data_offsets": [0, size]}}
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(size))
    message = rejection(file, network)
    assert name in message or "cannot be read as safetensors" in message
    if kind.startswith("F8"):
        assert f"{name} holds numbers of type float8" in message


def quantized(tensor: Tensor) -> Tensor:
    return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


ODD: dict[str, Callable[[Tensor], Any]] = {
    "qint8": quantized,
    "sparse": lambda tensor: tensor.to_sparse(),
    "csr": lambda tensor: tensor.flatten(1).to_sparse_csr(),
    "meta": lambda tensor: tensor.to("meta"),
    "float8": lambda tensor: tensor.to(torch.float8_e4m3fn),
    "uint16": lambda tensor: torch.zeros(tensor.shape, dtype=torch.uint16),
    "complex64": lambda tensor: tensor.to(torch.complex64),
    "complex32": lambda tensor: torch.zeros(tensor.shape, dtype=torch.complex32),
    "bool": lambda tensor: tensor > 0,
    "int64": lambda tensor: tensor.long(),
    "repeated": lambda tensor: torch.zeros(1).expand(tensor.shape),
    "number": lambda tensor: 3.0,
    "nested": lambda tensor: torch.nested.nested_tensor([torch.zeros(2)]),
    "beyond float32": lambda tensor: torch.full(tensor.shape, 1e300, dtype=torch.float64),
}


@pytest.mark.filterwarnings("ignore:.*(TypedStorage|nested tensors|CSR|quantized|ComplexHalf|quantize_per_tensor)")
@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_unsupported_torch_tensors_are_rejected(kind: str, legacy: bool, network: nn.Module, tmp_path: Path) -> None:
    name, file = last_convolution(network), tmp_path / "m.pth"
    state = network.state_dict()
    torch.save(state | {name: ODD[kind](state[name])}, file, _use_new_zipfile_serialization=not legacy)
    before = state[name].clone()
    message = rejection(file, network)
    assert name in message or "needed tensors only" in message or "needed a flat state dict" in message
    assert torch.equal(network.state_dict()[name], before)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_float16_bfloat16_and_float64_are_converted(kind: torch.dtype, network: nn.Module, tmp_path: Path) -> None:
    state = {key: value.to(kind) if value.is_floating_point() else value for key, value in network.state_dict().items()}
    state |= {key: network.state_dict()[key] for key in ("mean", "std")}
    other = tiny_darknet.build(CIFAR.model)  # type: ignore[arg-type]
    torch.save(state, tmp_path / "m.pth")
    weights.load(other, tmp_path / "m.pth", CIFAR)
    assert torch.equal(other.state_dict()[last_convolution(network)], state[last_convolution(network)].float())


# --- pickles


class Call:
    """What the unpickler shall call."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.function, self.arguments


def archive(file: Path, content: object) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("m/data.pkl", pickle.dumps(content, 2))
        archive.writestr("m/version", "3\n")


def legacy(file: Path, content: object) -> None:
    numbers = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, content, [])
    file.write_bytes(b"".join(pickle.dumps(one, 2) for one in numbers))


CALLS = {
    "bytearray": Call(bytearray, 2 * 10**9),
    "qtensor": Call(
        torch._utils._rebuild_qtensor, None, 0, (10**9,), (1,), (torch.per_tensor_affine, 1.0, 0), False, {}
    ),
    "complex": Call(complex, 1, 2),
    "print": Call(print, "CALLED"),
}


@pytest.mark.parametrize("write", [archive, legacy])
@pytest.mark.parametrize("kind", CALLS)
def test_pickles_with_calls_are_rejected_without_using_memory(
    kind: str, write: Callable[[Path, object], None], network: nn.Module, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """PyTorch's reader with weights_only makes a bytearray of any length."""
    file = tmp_path / "m.pth"
    write(file, {"a": CALLS[kind]})
    tracemalloc.start()
    message = rejection(file, network)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "needed tensors only" in message
    assert peak < 10**8
    assert capsys.readouterr().out == ""


def test_training_state_beside_a_state_dict_is_read(network: nn.Module, tmp_path: Path) -> None:
    """What torch.save writes beside a state dict: counters of schedules, sets, types, devices, parameters."""
    kept = {
        "state_dict": OrderedDict(network.named_parameters()) | dict(network.named_buffers()),
        "epoch": 3, "lr": [0.1], "milestones": Counter({30: 1}), "frozen": {"a"}, "type": torch.float16,
        "device": torch.device("cpu"), "size": torch.Size([1, 2]), "note": None,
    }  # fmt: skip
    for legacy in (False, True):
        torch.save(kept, tmp_path / "m.pth", _use_new_zipfile_serialization=not legacy)
        other = tiny_darknet.build(CIFAR.model)  # type: ignore[arg-type]
        weights.load(other, tmp_path / "m.pth", CIFAR)
        assert torch.equal(
            other.state_dict()[last_convolution(network)], network.state_dict()[last_convolution(network)]
        )


def test_oversized_pickle_is_rejected(network: nn.Module, tmp_path: Path) -> None:
    archive(tmp_path / "m.pth", "x" * 9_000_000)
    assert "at most 8,388,608 are read" in rejection(tmp_path / "m.pth", network)
    legacy(tmp_path / "m.pth", "x" * 9_000_000)
    assert "cannot be read as a torch state dict" in rejection(tmp_path / "m.pth", network)


# --- many small entries


def test_oversized_safetensors_header_is_rejected(network: nn.Module, tmp_path: Path) -> None:
    header = b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'.ljust(17 << 20)
    (tmp_path / "m.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert "at most 16,777,216 are read" in rejection(tmp_path / "m.safetensors", network)
    with pytest.raises(InputError, match="at most"):
        weights.stored_recipe(tmp_path / "m.safetensors")


def entry(body: bytes, tag: bytes = b"a") -> bytes:
    """A Value of a .ckpt with that TensorProto."""
    number = mindspore._number
    value = b"\x0a" + number(len(tag)) + tag + b"\x12" + number(len(body)) + body
    return b"\x0a" + number(len(value)) + value


LONG = mindspore._number(2**63 - 1) * 400_000
CKPT = {
    "dims": (
        entry(b"\x0a" + mindspore._number(len(LONG)) + LONG + b"\x12\x07Float32\x1a\x00"),
        "more than 8 dimensions",
    ),
    "unpacked dims": (entry(b"\x08\x01" * 400_000), "more than 8 dimensions"),
    "9 dims": (entry(b"\x08\x01" * 9 + b"\x12\x07Float32\x1a\x04\0\0\0\0"), "more than 8 dimensions"),
    "entries": (entry(b"\x12\x07Float32\x1a\x00") * 400_000, "more than 50,000 fields"),
    "types": (entry(b"\x12\x07Float32" * 400_000), "more than 16 fields"),
    "unknown": (b"\x38\x01" * 2_000_000, "more than 50,000 fields"),
    "product": (
        entry((b"\x08" + mindspore._number(2**63 - 1)) * 8 + b"\x12\x07Float32\x1a\x04\0\0\0\0"),
        "holds 4 bytes",
    ),
    "negative": (
        entry((b"\x08" + mindspore._number(2**64 - 1)) * 2 + b"\x12\x07Float32\x1a\x04\0\0\0\0"),
        "holds 4 bytes",
    ),
    "nested": (b"\x0a\x82\x80\x80\x01" * 500_000, "an entry declares|not text|no tensor|fields"),
}


@pytest.mark.parametrize(("content", "words"), CKPT.values(), ids=CKPT)
def test_ckpt_of_many_small_fields_is_rejected_quickly(content: bytes, words: str, tmp_path: Path) -> None:
    file = tmp_path / "m.ckpt"
    file.write_bytes(content)
    started = time.process_time()
    with pytest.raises(InputError, match=words):
        list(mindspore.entries(file))
    assert time.process_time() - started < 2  # half a second here


# --- our own files


@pytest.mark.slow
def test_equal_networks_give_equal_bytes(network: nn.Module, tmp_path: Path) -> None:
    """Also from another process: safetensors' own writer orders the metadata by chance."""
    program = (
        "import sys, torch; from boxwright import models, recipe; from boxwright.weights import checkpoint\n"
        "r = recipe.load('tiny_darknet_cifar10'); n = models.build(r.model)\n"
        "n.load_state_dict(torch.load(sys.argv[1])); checkpoint.save(sys.argv[2], n, r)"
    )
    torch.save(network.state_dict(), tmp_path / "state.pth")
    words = [str(tmp_path / "state.pth"), str(tmp_path / "other.safetensors")]
    subprocess.run([sys.executable, "-c", program, *words], check=True)
    digests = {hashlib.sha256((tmp_path / "other.safetensors").read_bytes()).hexdigest()}
    for _ in range(6):
        checkpoint.save(tmp_path / "m.safetensors", network, CIFAR)
        digests.add(hashlib.sha256((tmp_path / "m.safetensors").read_bytes()).hexdigest())
    assert len(digests) == 1


def test_saved_files_are_readable_by_safetensors(tmp_path: Path) -> None:
    """All types and shapes, a network on another memory layout, and names of any script."""
    parts = {
        "a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3), "c": torch.zeros(0, 4), "é": torch.ones(1),
        "e": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last), "f": torch.tensor([True]),
        "g": torch.rand(5).half(), "h": torch.rand(3).double(), "i": torch.arange(3, dtype=torch.uint8),
        "d": torch.rand(3).bfloat16(),
    }  # fmt: skip
    holder = nn.Module()
    for name, tensor in parts.items():
        holder.register_buffer(name, tensor)
    checkpoint.save(tmp_path / "m.safetensors", holder, CIFAR)
    found = safetensors.torch.load_file(tmp_path / "m.safetensors")
    assert found.keys() == parts.keys()
    for name, tensor in parts.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    with safetensors.safe_open(tmp_path / "m.safetensors", "pt") as stream:
        assert stream.metadata() == {"format": "pt", "recipe": json.dumps(CIFAR.tree())}


@pytest.mark.slow
@pytest.mark.parametrize("part", ["last", "best"])
def test_reading_while_a_checkpoint_is_replaced(part: str, network: nn.Module, tmp_path: Path) -> None:
    """The old folder has stepped aside, the new one comes a moment later."""
    folder = tmp_path / "run" / part
    folder.mkdir(parents=True)
    checkpoint.save(folder / "model.safetensors", network, CIFAR)
    if part == "best":
        (tmp_path / "run/last").mkdir()
        checkpoint.save(tmp_path / "run/last/model.safetensors", network, CIFAR)
    for path in (folder, folder.parent, folder / "model.safetensors"):
        folder.rename(tmp_path / "run" / f"{part}.boxwright-old")
        back = threading.Timer(0.05, (tmp_path / "run" / f"{part}.boxwright-old").rename, [folder])
        back.start()
        found = files.require(files.locate(path))
        back.join()
        assert found == folder / "model.safetensors"


def test_unreadable_paths_are_reported(tmp_path: Path) -> None:
    folder, empty = tmp_path / "folder", tmp_path / "empty"
    folder.mkdir()
    empty.touch()
    for path, words in (
        (tmp_path / "absent", "there is no such file"), (empty, "the file is empty"), (folder, "Is a directory"),
        (Path("/dev/zero"), "not a regular file"), (tmp_path / ("x" * 300), "cannot be read"),
        (tmp_path / "a\0b", "no file can have this name"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            files.require(path)


@pytest.mark.parametrize("names", [("m/data.pkl", "z/data.pkl"), ("m/DATA.PKL", "m/data.pkl"), ("m/data.pkl",) * 2])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_checked_pickle_is_the_one_that_torch_loads(
    names: tuple[str, str], network: nn.Module, tmp_path: Path
) -> None:  # fmt: skip
    """Of two entries PyTorch may take another one than Python's zipfile."""
    torch.save(network.state_dict(), tmp_path / "good.pth")
    with zipfile.ZipFile(tmp_path / "good.pth") as good:
        parts = {name.partition("/")[2]: good.read(name) for name in good.namelist()}
    harmful = pickle.dumps({"a": Call(bytearray, 2 * 10**9)}, 2)
    for order in ((harmful, parts["data.pkl"]), (parts["data.pkl"], harmful)):
        with zipfile.ZipFile(tmp_path / "m.pth", "w") as archive:
            for name, content in zip(names, order, strict=True):
                archive.writestr(name, content)
            for name, content in parts.items():
                if name != "data.pkl":
                    archive.writestr(f"m/{name}", content)
        tracemalloc.start()
        with suppress(InputError):
            weights.load(network, tmp_path / "m.pth", CIFAR)
        assert tracemalloc.get_traced_memory()[1] < 10**8
        tracemalloc.stop()


class WithCall:
    """What makes a file one for the restricted reader."""

    def __reduce__(self) -> Any:
        return getattr, (1, "real")


def test_tensors_of_one_storage_share_memory(tmp_path: Path) -> None:
    whole = torch.arange(250_000.0)
    state = {f"a{i}": whole[i : i + 10] for i in range(100)}
    torch.save({"state_dict": state, "other": WithCall()}, tmp_path / "x.pth")
    found = torch_files.contents(tmp_path / "x.pth").tensors
    assert len({tensor.untyped_storage().data_ptr() for tensor in found.values()}) == 1
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_expanded_tensor_in_a_file_with_calls_is_rejected(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(1).expand(1 << 33)}, "other": WithCall()}, tmp_path / "x.pth")
    with pytest.raises(InputError, match=r"x\.pth: a is not a plain tensor"):
        torch_files.contents(tmp_path / "x.pth")
