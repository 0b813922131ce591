"""An untrusted .pt2 is rejected in one line before anything in it runs; TorchScript runs with `--trust-file`."""

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import boxwright as bw
from boxwright import cli
from boxwright.errors import InputError
from boxwright.runtimes import pt2, torchscript
from boxwright.runtimes.base.graph import raw_graph
from boxwright.runtimes.base.metadata import Metadata
from boxwright.runtimes.base.open import open_runtime
from boxwright.runtimes.serialization import operators
from test_export_onnx import made

CASES = Path(__file__).parents[2] / "shared" / "cases" / "R-pt2-runs-code"
RAN = "CODE_RAN"
Entries = dict[str, bytes]
Change = Callable[[Entries], None]


class Trap:
    """Makes the folder CODE_RAN when it is unpickled."""

    def __reduce__(self) -> Any:
        return (os.mkdir, (RAN,))


def malicious_pickle() -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": Trap()}, buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A classifier in both formats."""
    folder = tmp_path_factory.mktemp("good")
    model, recipe = made("tiny_darknet", {"last": "plain"})
    graph = raw_graph(model, recipe)
    text = Metadata(recipe, "raw", "float32", graph.outputs, "", "1").to_text()
    pt2.write(graph, folder / "a.pt2", text)
    torchscript.write(graph, folder / "a.torchscript", text)
    return {"pt2": folder / "a.pt2", "torchscript": folder / "a.torchscript"}


@pytest.fixture
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with an image."""
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("a.jpg", np.zeros((64, 96, 3), np.uint8))
    return tmp_path


def rebuilt(source: Path, target: Path, change: Change) -> Path:
    """A copy of an archive with changed entries, which are not compressed."""
    with zipfile.ZipFile(source) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return target


def names() -> set[str]:
    """What lies in the working folder."""
    return {path.name for path in Path.cwd().iterdir()}


def rejection(file: Path, capfd: pytest.CaptureFixture[str], command: str = "predict") -> str:
    """The error line of `boxwright predict FILE a.jpg`; nothing has run, nothing is written."""
    before = names()
    with pytest.raises(SystemExit) as leaving:
        cli.main([command, str(file), "a.jpg"])
    output = capfd.readouterr()
    assert leaving.value.code == 2
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert names() == before
    return output.err


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("formula_in_JSON", "models/model.JSON"),
        ("old_constants", "data/constants/model.pt"),
        ("old_layout", "holds version"),
        ("old_weights", "data/weights/model.pt"),
        ("opaque_object", "data/constants/opaque_obj_0"),
    ],
)
def test_known_malicious_files_are_rejected(
    name: str, found: str, working_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if not CASES.is_dir():
        pytest.skip("no folder `shared` with the crafted files beside the checkout")
    assert found in rejection(CASES / f"{name}.pt2", capfd)


def entry(name: str, content: bytes = b"") -> Change:
    """An additional entry, by default a pickle."""
    return lambda entries: entries.update({f"archive/{name}": content or malicious_pickle()})


def model(old: str, new: str, name: str = "models/model.json") -> Change:
    """Another text in the JSON of the program."""

    def change(entries: Entries) -> None:
        text = entries[f"archive/{name}"].decode()
        assert old in text
        entries[f"archive/{name}"] = text.replace(old, new, 1).encode()

    return change


def config(part: str, **new: Any) -> Change:
    """Another entry of the first weight's description."""

    def change(entries: Entries) -> None:
        name = f"archive/data/{part}/model_{part}_config.json"
        tree = json.loads(entries[name])
        first = next(iter(tree["config"].values()))
        for key, value in new.items():
            (first if key in first else first["tensor_meta"])[key] = value
        entries[name] = json.dumps(tree).encode()
        if "use_pickle" in new:
            entries[f"archive/data/{part}/{first['path_name']}"] = malicious_pickle()

    return change


PT2: dict[str, tuple[Change, str]] = {
    "weights of older files": (entry("data/weights/model.pt"), "holds archive/data/weights/model.pt"),
    "constants of older files": (entry("data/constants/model.pt"), "holds archive/data/constants/model.pt"),
    "an older layout": (lambda entries: entries.update(version=b"8.20"), "holds version"),
    "a pickle": (entry("data/constants/opaque_obj_0"), "opaque_obj_0"),
    "an object": (entry("data/constants/custom_obj_0"), "custom_obj_0"),
    "a library": (entry("data/aotinductor/model/x.wrapper.so", b"\x7fELF"), "x.wrapper.so"),
    "a second program": (entry("models/other.json"), "models/other.json"),
    "a program in another letter case": (entry("models/model.JSON"), "models/model.JSON"),
    "an entry in another letter case": (entry("DATA/weights/weight_0"), "DATA/weights/weight_0"),
    "another root": (lambda entries: entries.update({"Archive/models/model.json": b"{}"}), "Archive/models"),
    "a path outside": (entry("data/weights/../../../x"), "data/weights/../"),
    "an absolute name": (lambda entries: entries.update({"/tmp/x": b""}), "holds /tmp/x"),
    "samples elsewhere": (entry("data/sample_inputs/other.pt"), "sample_inputs/other.pt"),
    "executorch": (entry("data/executorch/a.pte"), "a.pte"),
    "extra files": (entry("extra/other"), "extra/other"),
    "a weight as a pickle": (config("weights", use_pickle=True), "stored otherwise than as numbers"),
    "a weight's flag as text": (config("weights", use_pickle="no"), "stored otherwise than as numbers"),
    "a weight elsewhere": (config("weights", path_name="../constants/tensor_0"), "stored otherwise"),
    "a weight in a constant's file": (config("weights", path_name="opaque_obj_0"), "stored otherwise"),
    "a weight beyond its bytes": (config("weights", sizes=[{"as_int": 1 << 20}], strides=[{"as_int": 1}]), "beyond"),
    "an offset beyond the bytes": (config("weights", storage_offset={"as_int": 1 << 30}), "beyond"),
    "a negative offset": (config("weights", storage_offset={"as_int": -4}), "an invalid shape"),
    "strides beyond the bytes": (config("weights", strides=[{"as_int": 1 << 20}] * 4), "beyond"),
    "a symbolic size": (config("weights", sizes=[{"as_expr": {"expr_str": "1"}}]), "no program"),
    "another layout": (config("weights", layout=1), "another layout"),
    "a function of PyTorch": (model("torch.ops.aten.conv2d.default", "torch.hub.load"), "a call of torch.hub.load"),
    "a function of Python": (model("torch.ops.aten.conv2d.default", "_operator.methodcaller"), "a call of _operator"),
    "a file": (model("aten.conv2d.default", "aten.from_file.default"), "a call of torch.ops.aten.from_file"),
    "another library's operator": (
        model("ops.aten.conv2d.default", "ops.mine.run.default"),
        "a call of torch.ops.mine",
    ),
    "an attribute of an operator": (model("aten.conv2d.default", "aten.conv2d.__init__"), "a call of"),
    "an operator's internals": (model("aten.conv2d.default", "aten.conv2d.default._op"), "a call of"),
    "a repeated key": (model('{"graph_module"', '{"graph_module": {}, "graph_module"'), "'graph_module' is repeated"),
    "another schema": (model('"major": 8', '"major": 9'), "schema 9"),
    "a function as argument": (model('{"as_ints": [1, 1]}', '{"as_operator": "torch.hub.load"}'), "as_operator"),
    "an undefined name": (model('{"as_tensor": {"name": "p_', '{"as_tensor": {"name": "q_'), ""),
}


@pytest.mark.parametrize(("change", "found"), PT2.values(), ids=PT2)
def test_code_injection_into_pt2_is_rejected(
    change: Change, found: str, good: dict[str, Path], working_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = rebuilt(good["pt2"], working_folder / "b.pt2", change)
    assert found in rejection(file, capfd)


def test_duplicate_archive_entry_is_rejected(
    good: dict[str, Path], working_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for kind, name in (("pt2", "models/model.json"), ("torchscript", "data.pkl")):
        file = working_folder / f"b.{kind}"
        file.write_bytes(good[kind].read_bytes())
        with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr(f"archive/{name}", malicious_pickle())
        assert f"holds archive/{name} twice" in rejection(file, capfd)


def test_unused_pt2_entries_are_never_evaluated(good: dict[str, Path], working_folder: Path) -> None:
    """Samples, guards, formulas and descriptions are code to PyTorch; they stay what they are here: bytes."""
    ran = f"__import__('os').mkdir('{RAN}')"

    def change(entries: Entries) -> None:
        entries["archive/data/sample_inputs/model.pt"] = malicious_pickle()
        tree = json.loads(entries["archive/models/model.json"])
        tree["guards_code"] = [ran]
        tree["range_constraints"] = {ran: {"min_val": 0, "max_val": 1}}
        tree["graph_module"]["metadata"] = {"custom": ran}
        tree["graph_module"]["graph"]["sym_int_values"] = {"x": {"as_expr": {"expr_str": ran}}}
        for node in tree["graph_module"]["graph"]["nodes"]:
            node["metadata"] = {"stack_trace": ran, "source_fn_stack": f"a,torch.{ran}"}
        for call in tree["graph_module"]["module_call_graph"]:
            if call["signature"]:
                call["signature"]["in_spec"] = ran
        entries["archive/models/model.json"] = json.dumps(tree).encode()

    file = rebuilt(good["pt2"], working_folder / "b.pt2", change)
    images = torch.rand(1, 3, 64, 96)
    assert torch.equal(open_runtime(file)[0].forward(images)[0], open_runtime(good["pt2"])[0].forward(images)[0])
    assert RAN not in names()


def names_in_code(entries: Entries) -> None:
    """Names of values that would end what PyTorch writes with them, and begin something else."""
    text = entries["archive/models/model.json"].decode()
    name = json.loads(text)["graph_module"]["graph"]["nodes"][0]["outputs"][0]["as_tensor"]["name"]
    evil = f"x = 1; __import__('os').mkdir('{RAN}') #"
    entries["archive/models/model.json"] = text.replace(f'"{name}"', json.dumps(evil)).encode()


def test_value_names_in_pt2_are_not_executed(good: dict[str, Path], working_folder: Path) -> None:
    file = rebuilt(good["pt2"], working_folder / "b.pt2", names_in_code)
    open_runtime(file)[0].forward(torch.rand(1, 3, 64, 96))
    assert RAN not in names()


@pytest.mark.parametrize("sizes", [["x"], [1.5, 3, 64, 64], [True, 3, 64, 64], [], [1, 3], [1 << 27, 3, 64, 64]])
def test_pt2_with_invalid_input_shape_is_rejected(
    sizes: list[Any], good: dict[str, Path], working_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def change(entries: Entries) -> None:
        tree = json.loads(entries["archive/models/model.json"])
        graph = tree["graph_module"]["graph"]
        name = graph["inputs"][-1]["as_tensor"]["name"]
        graph["tensor_values"][name]["sizes"] = [{"as_int": one} for one in sizes]
        entries["archive/models/model.json"] = json.dumps(tree).encode()

    assert "b.pt2: " in rejection(rebuilt(good["pt2"], working_folder / "b.pt2", change), capfd)


def test_size_operators_accept_numbers_only() -> None:
    """Python's operators would also repeat a list, or format a text of any length."""
    for name, given in (("mul", ([0], 10**12)), ("mod", ("%1000000000000d", 1)), ("add", ("a", "b"))):
        with pytest.raises(TypeError, match="something else than numbers"):
            operators.resolve(f"_operator.{name}")(*given)  # type: ignore[misc]
    assert operators.resolve("_operator.mul")(6, 7) == 42  # type: ignore[misc]


def test_torchscript_requires_trust(
    good: dict[str, Path], working_folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch runs whatever it holds, so that without it PyTorch does not even see the file."""
    with monkeypatch.context() as patch:
        patch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("the file was opened"))
        assert "add --trust-file (Python: trust=True) if you know who made it" in rejection(good["torchscript"], capfd)
    with pytest.raises(SystemExit) as leaving:
        cli.main(["predict", str(good["torchscript"]), "a.jpg", "--trust-file"])
    assert leaving.value.code == 0
    with pytest.raises(InputError, match="--trust-file"):
        bw.load(good["torchscript"])
    trusted = bw.load(good["torchscript"], trust=True)
    assert isinstance(pickle.loads(pickle.dumps(trusted))("a.jpg"), bw.ClassPrediction)
