"""What a TorchScript file may hold: one traced network, whose code calls nothing but operators on tensors.

A file is code in a small language and pickles of tensors, both read by PyTorch's C++. So every word of the code and
every byte code of the pickles is compared with what our exports are made of, before PyTorch sees the file.
"""

import ast
import io
import pickle
import pickletools
import re
from collections.abc import Iterator
from typing import Any

from boxwright.errors import InputError
from boxwright.predict import operators
from boxwright.predict.archive import Archive, misfit

ENTRIES = re.compile(
    r"data\.pkl|constants\.pkl|(?:data|constants)/\d+|code/__torch__/(?:\w+/)*\w+\.py|extra/boxwright(?:\.shape)?"
    r"|version|byteorder|\.data/serialization_id",
    re.ASCII,
)
# Strings are words and there are no comments, so that Python's parser reads what PyTorch's reads.
TEXT = re.compile(r"""(?:[\w \n()\[\],.:=>-]|"\w+")*+""", re.ASCII)
SYNTAX = (
    ast.Module, ast.ClassDef, ast.FunctionDef, ast.arguments, ast.arg, ast.Assign, ast.AnnAssign, ast.Return, ast.While,
    ast.If, ast.Pass, ast.Call, ast.keyword, ast.Name, ast.Attribute, ast.Subscript, ast.List, ast.Tuple, ast.Constant,
    ast.UnaryOp, ast.USub, ast.Load, ast.Store,
)  # fmt: skip
CALLS = {f"torch.{name}" for name in operators.TENSORS} | {
    "annotate", "bool", "float", "int", "ops.prim.NumToTensor", "ops.prim.device", "torch.__not__", "torch.device",
}  # fmt: skip
CLASS = "__torch__."
OPCODES = frozenset({
    "PROTO", "GLOBAL", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "MARK", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
    "EMPTY_TUPLE", "EMPTY_DICT", "EMPTY_LIST", "APPENDS", "SETITEMS", "BINUNICODE", "BININT", "BININT1", "BININT2",
    "NEWTRUE", "NEWFALSE", "NONE", "BINPERSID", "REDUCE", "NEWOBJ", "BUILD", "STOP",
})  # fmt: skip
WIDTHS = {"FloatStorage": 4, "DoubleStorage": 8, "HalfStorage": 2, "LongStorage": 8, "IntStorage": 4, "ShortStorage": 2,
          "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1}  # fmt: skip


def check(archive: Archive) -> None:
    """Raises InputError where the archive holds anything else than a traced network and its tensors."""
    classes: set[str] = set()
    trees = {}
    for name in archive.entries:
        if name.startswith("code/"):
            trees[name] = _parsed(archive, name)
            module = name.removeprefix("code/").removesuffix(".py").replace("/", ".")
            classes |= {f"{module}.{one.name}" for one in trees[name].body if isinstance(one, ast.ClassDef)}
    for name, tree in trees.items():
        try:
            wrong = next(_wrong(tree, classes), "")
        except RecursionError:
            wrong = "code of too many levels"
        if wrong:
            raise archive.refuse(name, wrong)
    for name in ("data.pkl", "constants.pkl"):
        _check_pickle(archive, name, classes)


def _parsed(archive: Archive, name: str) -> ast.Module:
    code = archive.text(name)
    if not TEXT.fullmatch(code):
        raise archive.refuse(name, "letters that no traced network has")
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise archive.refuse(name, "code that cannot be read") from error


def _wrong(tree: ast.Module, classes: set[str]) -> Iterator[str]:
    """What is refused in the code of classes."""
    for node in tree.body:
        if not isinstance(node, ast.ClassDef) or [ast.unparse(one) for one in node.bases] != ["Module"]:
            yield "code outside of a module"
        elif node.keywords or node.decorator_list or any(not _plain(one) for one in node.body):
            yield f"class {node.name} with other things than attributes and forward"
    for one in ast.walk(tree):
        if not isinstance(one, SYNTAX):
            yield type(one).__name__
        elif isinstance(one, ast.Call) and ast.unparse(one.func) not in CALLS:
            yield f"a call of {ast.unparse(one.func)}"
        elif isinstance(one, ast.Attribute) and not _known(ast.unparse(one), classes):
            yield f"the class {ast.unparse(one)}"


def _known(name: str, classes: set[str]) -> bool:
    """Whether it is the name of one of the file's own classes, the beginning of one, or none of a class."""
    return not name.startswith(CLASS) or any(f"{one}.".startswith(f"{name}.") for one in classes)


def _plain(node: ast.stmt) -> bool:
    """Whether it is an attribute's type, a list of names, or `forward`."""
    if isinstance(node, ast.FunctionDef):
        return node.name == "forward" and not node.decorator_list
    if isinstance(node, ast.AnnAssign):
        return isinstance(node.target, ast.Name) and node.value is None
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("__parameters__", "__buffers__")


class _Inert(pickle.Unpickler):
    """Reads a pickle of tensors without making any: what it would call is one of the three stand-ins here."""

    def __init__(self, archive: Archive, name: str, classes: set[str]) -> None:
        super().__init__(io.BytesIO(archive.entries[name]))
        self.archive, self.name, self.classes = archive, name, classes

    def find_class(self, module: str, name: str) -> Any:
        """A stand-in for a class or function of a network's pickle."""
        if f"{module}.{name}" in self.classes:
            return _Attributes
        if module == "torch" and name in WIDTHS:
            return WIDTHS[name]
        known = {"torch._utils._rebuild_tensor_v2": self._tensor, "collections.OrderedDict": _no_hooks}
        if f"{module}.{name}" not in known:
            raise self.archive.refuse(self.name, f"{module}.{name}")
        return known[f"{module}.{name}"]

    def persistent_load(self, pid: Any) -> tuple[int, int]:
        """Length of the numbers stored beside the pickle, and bytes of each."""
        word, width, key, place, count = pid
        content = self.archive.entries.get(f"{self.name.removesuffix('.pkl')}/{key}", b"")
        if (word, place) != ("storage", "cpu") or type(width) is not int or type(count) is not int:
            raise self.archive.refuse(self.name, "numbers stored elsewhere")
        if count * width != len(content):
            raise self.archive.refuse(self.name, f"{len(content)} bytes for {count} numbers")
        return len(content), width

    def _tensor(self, stored: Any, offset: Any, sizes: Any, strides: Any, grad: Any, hooks: Any) -> str:
        length, width = stored
        if hooks != HOOKS or type(grad) is not bool or (fault := misfit(length, width, sizes, strides, offset)):
            raise self.archive.refuse(self.name, fault or "a tensor with hooks")
        return "tensor"


HOOKS = "no hooks"


def _no_hooks() -> str:
    return HOOKS


class _Attributes:
    """A module of the network."""

    def __setstate__(self, state: Any) -> None:
        """Nothing is kept."""


def _check_pickle(archive: Archive, name: str, classes: set[str]) -> None:
    """Raises InputError for a pickle of anything but modules and tensors that lie within their bytes."""
    if name not in archive.entries:
        raise archive.refuse("", f"no {name}")
    try:
        codes = {code.name for code, _, _ in pickletools.genops(archive.entries[name])}
        if others := codes - OPCODES:
            raise archive.refuse(name, f"the byte code {min(others)}")
        _Inert(archive, name, classes).load()
    except InputError:
        raise
    except Exception as error:  # whatever a pickle that is none makes of the stand-ins
        raise archive.refuse(name, f"no pickle of tensors ({error})") from error
