"""Flat state dicts in files of torch (.pt, .pth) and in Detectron2's pickles (.pkl). Nothing in them is executed, and
reading takes no more memory than the file's size."""

import io
import itertools
import pickletools
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from boxwright.config import MAX_NAME, class_name_fault
from boxwright.errors import InputError, shortened
from boxwright.files import open_regular
from boxwright.weights import restricted

# Names in state dicts. PyTorch's reader with weights_only allows about thirty more, which are harmless except for the
# memory that they may take: a bytearray of a given length, a quantized tensor of a given shape.
NAMED = re.compile(
    r"collections (?:OrderedDict|Counter)|(?:builtins|__builtin__) set"
    r"|torch (?:\w+Storage|Size|device|(?:b?float|u?int|q?u?int|complex)\d+\w*|bool)|torch\.storage \w+Storage"
    r"|torch\._utils _rebuild_(?:tensor|tensor_v2|parameter)|torch\.nn\.parameter Parameter"
)
MAX_PICKLE = 8 << 20  # bytes; a thousand tensors take about 100 kB
MAX_HISTORY = 128 << 20  # bytes of a pickle of mmengine, which holds each loss of up to a million steps
MAX_OPERATIONS = 4_000_000  # of a pickle; each takes about 200 bytes while it is checked
MAX_EXPANDED = 10 * MAX_OPERATIONS  # objects, where one that is mentioned repeatedly counts each time
MAX_NESTED = 16  # levels of nested tuples; a tensor has 2, and each container around it adds one or two
GROWING = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS"}  # operations on a container made before
LEGACY = 5  # pickles at the start of a file from before PyTorch 1.6: magic number, version, system, content, keys


SUFFIXES = {".pt", ".pth", ".pkl"}
Operation = tuple[pickletools.OpcodeInfo, Any, int | None]  # of a pickle, as pickletools.genops yields them
# Of wrappers: torch.compile, DistributedDataParallel, Lightning modules with an attribute `model`, mmdetection's
PREFIXES = ("_orig_mod.", "module.", "model.", "d2_model.", "teacher.")


class Contents(NamedTuple):
    """Content of a file of torch.

    Attributes:
        tensors: Tensors on the CPU by name.
        classes: Class names, as mmdetection stores them; () if there are none, or invalid ones.
        names_fault: The reason why stored class names are invalid; "" if they are valid, or there are none.
        config: The configuration as text, as mmdetection stores it; it is only searched.
        version: Version of mmdetection, if it is stored.
        skipped: Names of objects beside the tensors that were not built.
    """

    tensors: dict[str, Tensor]
    classes: tuple[str, ...] = ()
    names_fault: str = ""
    config: str = ""
    version: str = ""
    skipped: tuple[str, ...] = ()


def is_torch(file: Path) -> bool:
    return file.suffix in SUFFIXES or zipfile.is_zipfile(file)


def read(file: Path) -> dict[str, Tensor]:
    """Tensors on the CPU by name. Raises InputError if the file is not a flat state dict."""
    return contents(file).tensors


def contents(file: Path) -> Contents:
    """Read a file. Raises InputError if it is not a flat state dict."""
    try:
        state, skipped = _unpickled(file)
        meta = state.get("meta") if isinstance(state, dict) else None
        state = _weights_in(state)
        if isinstance(state, dict):
            state = {name: restricted.tensor_of(entry) for name, entry in state.items()}
    except InputError:
        raise
    except Exception as error:  # torch and zipfile raise many kinds of exceptions for damaged files
        reason = "truncated" if "central directory" in str(error) else str(error).partition("\n")[0][:60]
        raise InputError(
            f"{file}: cannot be read as a torch state dict ({reason}); is damaged, or of another kind; copy it again"
        ) from error
    if not (isinstance(state, dict) and all(isinstance(key, str) and isinstance(state[key], Tensor) for key in state)):
        raise InputError(f"{file}: holds {type(state).__name__}, needed a flat state dict of names to tensors")
    for name, tensor in state.items():
        if not _is_plain(tensor):
            raise InputError(f"{file}: {name[:100]} is not a plain tensor ({tensor.layout}, {tensor.dtype})")
    config, version = "", ""
    if isinstance(meta, dict):
        config = next((meta[key] for key in ("cfg", "config") if isinstance(meta.get(key), str)), "")
        version = meta["mmdet_version"] if isinstance(meta.get("mmdet_version"), str) else ""
    if version.startswith(("0.", "1.")):
        raise InputError(
            f"{file}: of mmdetection {version[:10]!r}, whose boxes count both end pixels and whose background is "
            "first; needed one of 2.0 or newer, retrained or fine-tuned there"
        )
    return Contents(_unwrapped(state), *_class_names(meta), config, version, skipped)


def _weights_in(state: object) -> object:
    """The state dict, if it is stored beside an epoch and an optimizer; `model` is the key of Detectron2 and of
    torchvision's scripts, `model_state_dict` that of PyTorch's tutorial."""
    if not isinstance(state, dict):
        return state
    for key in ("state_dict", "model_state_dict", "model"):
        inner = state.get(key)
        if isinstance(inner, dict) and (key != "model" or any(isinstance(name, str) and "." in name for name in inner)):
            return inner
    return state


def _unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes of wrappers. Of a teacher and a student, the teacher is taken. Copies in mmcv's EMA buffers
    (`ema_` and the name with underscores) are dropped, since mmcv predicts with the tensors under the plain names."""
    if any(name.startswith("teacher.") for name in state):
        state = {name: tensor for name, tensor in state.items() if not name.startswith("student.")}
    averages = {"ema_" + name.replace(".", "_") for name in state}
    state = {name: tensor for name, tensor in state.items() if name not in averages}
    while prefix := next((each for each in PREFIXES if state and all(name.startswith(each) for name in state)), ""):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _class_names(meta: object) -> tuple[tuple[str, ...], str]:
    """Class names in mmdetection's `meta`, CLASSES of 2.x, dataset_meta of 3.x, and their fault as in `Contents`."""
    if not isinstance(meta, Mapping):
        return (), ""
    inner = meta.get("dataset_meta")
    found = inner.get("classes", inner.get("CLASSES")) if isinstance(inner, Mapping) else meta.get("CLASSES")
    found = (found,) if isinstance(found, str) else found
    if not isinstance(found, tuple | list) or not all(isinstance(name, str) for name in found):
        return (), ""
    twice = [f"{shortened(repr(name), MAX_NAME)} twice" for name, times in Counter(found).items() if times > 1]
    faults = [*filter(None, map(class_name_fault, found)), *twice]
    return ((), faults[0]) if faults else (tuple(found), "")


def unpickled(file: Path) -> object:
    """Tensors on the CPU and plain containers of them. Raises InputError for pickles of anything else, and any
    exception of torch and zipfile for damaged files."""
    return _unpickled(file)[0]


def _unpickled(file: Path) -> tuple[object, tuple[str, ...]]:
    """As `unpickled`, and the names of skipped objects; tensors may be entries (`restricted.tensor_of`)."""
    _check_declared(file)
    if not _names_tensors_only(file):
        return restricted.read(file)
    # weights_only: the unpickler builds tensors and plain containers and calls nothing else
    return torch.load(file, map_location="cpu", weights_only=True), ()


def _check_declared(file: Path) -> None:
    """Raise InputError for a file that unpacks to more than its own size, since torch does not compress."""
    if not zipfile.is_zipfile(file):
        return
    with zipfile.ZipFile(file) as archive:
        declared = sum(entry.file_size for entry in archive.infolist())
    if declared > file.stat().st_size:
        raise InputError(f"{file}: declares {declared:,} bytes in {file.stat().st_size:,} bytes of file")


def _names_tensors_only(file: Path) -> bool:
    """Whether a pickle has no names except `NAMED`; otherwise the restricted reader is used.

    Raises InputError for names that the restricted reader does not support either, ValueError for damaged pickles.
    """
    with open_regular(file) as stream:
        if stream.read(4) == b"PK\x03\x04":  # as PyTorch distinguishes the two layouts
            # by PyTorch's own reader, since two readers may disagree about an archive
            pickles, count = torch._C.PyTorchFileReader(str(file)).get_record("data.pkl"), 1
            limit = MAX_HISTORY if b"mmengine" in pickles else MAX_PICKLE
            if len(pickles) > limit:
                raise InputError(f"{file}: names its tensors in {len(pickles):,} bytes, at most {limit:,} are read")
            only = True
        else:
            stream.seek(0)
            count = LEGACY if _is_legacy(stream.read(32)) else 1  # else one with its arrays inside (Detectron2)
            stream.seek(0)
            pickles = stream.read(MAX_PICKLE + 1 if count == LEGACY else -1)
            only = False
    content = io.BytesIO(pickles)
    for _ in range(count):
        operations = list(itertools.islice(pickletools.genops(content), MAX_OPERATIONS + 1))
        if len(operations) > MAX_OPERATIONS:
            raise InputError(f"{file}: a pickle of more than {MAX_OPERATIONS:,} operations, needed a state dict")
        for operation, argument, _ in operations:
            if operation.name != "GLOBAL" or NAMED.fullmatch(str(argument)):
                continue
            only = False
            if not (restricted.BUILT.fullmatch(str(argument)) or restricted.SKIPPED.fullmatch(str(argument))):
                raise InputError(
                    f"{file}: cannot be read as a torch state dict (pickles {str(argument).replace(' ', '.')[:60]}, "
                    "needed tensors only), like files of YOLOv5 and YOLOv8; save its state_dict() with torch.save"
                )
        if _expands(operations):
            raise InputError(
                f"{file}: cannot be read as a torch state dict (objects in objects, which expand to too many "
                "or are too deep); save its state_dict() with torch.save"
            )
    return only


def _is_legacy(start: bytes) -> bool:
    """Whether a file has torch's format before 1.6, in which the first pickle is a number."""
    return any(
        name == "LONG1" and number == restricted.MAGIC
        for name, number in ((op.name, argument) for op, argument, _ in itertools.islice(_operations(start), 2))
    )


def _operations(content: bytes) -> Iterator[Operation]:
    """As pickletools.genops, but stops at invalid data."""
    try:
        yield from pickletools.genops(content)
    except ValueError:
        return


@dataclass(slots=True, eq=False)
class _Object:
    """An object of a pickle.

    Attributes:
        size: Objects in its tree, where one that is mentioned repeatedly counts each time.
        depth: Levels of nested tuples.
        inside: Whether another object contains it.
    """

    size: int = 1
    depth: int = 0
    inside: bool = False


def _expands(operations: Sequence[Operation]) -> bool:
    """Whether hashing or printing the objects of a pickle could take exponential time or exhaust the stack: deeply
    nested or repeated containers, or one that grows inside another. ValueError for a bad pickle."""
    stack: list[_Object | None] = []  # None: a mark
    memo: dict[int, _Object | None] = {}
    total = 0
    for operation, argument, _ in operations:
        name = operation.name
        if name == "MARK":
            stack.append(None)
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else argument] = stack[-1]
        else:
            taken: list[_Object | None] = []
            if pickletools.markobject in operation.stack_before:
                while (top := stack.pop()) is not None:
                    taken.append(top)
            markers = (pickletools.markobject, pickletools.stackslice)
            taken += [stack.pop() for item in operation.stack_before if item not in markers]
            made = (taken.pop() if name in GROWING or name == "BUILD" else None) or _Object()
            members = [each for each in taken if each is not None]
            added = sum(each.size for each in members)
            total += added
            made.size += added
            made.depth = max([made.depth, *(each.depth for each in members)]) + name.startswith("TUPLE")
            grows = made.inside and members and name in GROWING
            if total > MAX_EXPANDED or made.depth > MAX_NESTED or grows:
                return True
            for each in members:
                each.inside = True
            stack += [made] * len(operation.stack_after)
    return False


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is strided, on the CPU, and not larger than its storage (which a stride of 0 allows)."""
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    return plain and tensor.numel() * tensor.itemsize <= tensor.untyped_storage().nbytes()
