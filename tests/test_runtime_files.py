"""Untrusted exported files for ONNX Runtime and OpenVINO: one line each, and no other file is read."""

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import boxwright as bw
from boxwright import cli
from boxwright.errors import InputError
from boxwright.extras import first_line
from boxwright.predict.predictor import Predictor
from boxwright.recipe import Recipe, load
from boxwright.runtimes import openvino as openvino_target
from boxwright.runtimes.base.checks import check_input
from boxwright.runtimes.base.metadata import KEY, Metadata
from boxwright.runtimes.base.open import open_runtime, read_metadata
from boxwright.runtimes.base.runtime import MAX_NUMEL, Runtime
from boxwright.runtimes.serialization import onnx_file

pytestmark = pytest.mark.runtimes

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
openvino = pytest.importorskip("openvino")

RUNTIMES = ("onnxruntime", "openvino")
SIDE = 64
SHAPES = {"stride32": (24, 2, 2), "stride16": (24, 4, 4)}  # 3 anchors of 4 edges, 1 objectness and 3 classes
CASES = Path(__file__).parents[2] / "shared" / "cases" / "R-onnx"


def small_recipe(**changes: Any) -> Recipe:
    small = {"data.canvas.size": [SIDE, SIDE], "model.width": 0.03, "data.workers": 0, "model.classes": 3}
    return load("demo", small | changes).with_names(("a", "b", "c"))


def model(
    outputs: dict[str, tuple[int, ...]] = SHAPES,
    batch: Any = 1,
    recipe: Recipe | None = None,
    names: Any = tuple(SHAPES),
) -> Any:
    """Images in, as many zeros as said out, with metadata that list `names`."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("ReduceMax", ["images"], ["one"], keepdims=0),
        helper.make_node("Mul", ["one", "no"], ["zero"]),
    ]
    weights = [helper.make_tensor("no", kind, [1], [0.0])]
    for name, shape in outputs.items():
        sides = np.asarray((1, *shape), np.int64)
        weights.append(helper.make_tensor(f"{name}.shape", onnx.TensorProto.INT64, [len(sides)], sides))
        nodes.append(helper.make_node("Expand", ["zero", f"{name}.shape"], [name]))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", kind, [batch, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info(name, kind, [1, *shape]) for name, shape in outputs.items()],
        weights,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    metadata = Metadata(recipe or small_recipe(), "raw", "float32", names, "", "1")
    helper.set_model_props(made, {KEY: metadata.to_text()})
    return made


def saved(made: Any, folder: Path) -> Path:
    (folder / "a.onnx").write_bytes(made.SerializeToString())
    return folder / "a.onnx"


def error_message(file: Path, runtime: str) -> str:
    """The error of opening the file and predicting on an image."""
    with pytest.raises(InputError) as rejected:
        bw.load(file, backend=runtime)([np.zeros((SIDE, SIDE, 3), np.uint8)])
    assert str(rejected.value).isprintable()
    return str(rejected.value)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_outputs_that_match_the_metadata(runtime: str, tmp_path: Path) -> None:
    loaded = bw.load(saved(model(), tmp_path), backend=runtime)
    assert isinstance(loaded, Predictor)
    loaded([np.zeros((SIDE, SIDE, 3), np.uint8)])


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    ("made", "found"),
    [
        (
            lambda: model({"stride16": SHAPES["stride16"]}),
            "gives 1 outputs, by its metadata needed 2: stride32, stride16",
        ),
        (lambda: model(SHAPES | {"more": (1,)}), "gives 3 outputs"),
        (lambda: model(names=("stride32",)), "gives 2 outputs"),
        (lambda: model({"stride32": (24, 2, 2), "stride16": (21, 4, 4)}), "stride16 of 1 x 21 x 4 x 4"),
        (lambda: model({"stride32": (24, 4, 4), "stride16": (24, 2, 2)}), "needed 1 x 24 x 2 x 2"),
        (lambda: model({"stride32": (24,), "stride16": (24, 4, 4)}), "stride32 of 1 x 24"),
        (lambda: model(recipe=small_recipe(**{"model.classes": 2}).with_names(("a", "b"))), "needed 1 x 21 x 2 x 2"),
    ],
    ids=["fewer", "more", "fewer names", "channels", "order", "axes", "classes"],
)
def test_outputs_that_contradict_the_metadata_are_rejected(made: Any, found: str, runtime: str, tmp_path: Path) -> None:
    assert found in error_message(saved(made(), tmp_path), runtime)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("batch", [0, 1 << 31, 1 << 40])
def test_invalid_batch_size_is_rejected(batch: int, runtime: str, tmp_path: Path) -> None:
    assert f"takes inputs of {batch} x 3 x 64 x 64" in error_message(saved(model(batch=batch), tmp_path), runtime)


def test_check_input_limits() -> None:
    check_input(Path("a"), (None, 3, None, None))
    check_input(Path("a"), (64, 3, 1024, 1024))
    for shape in ((0, 3), (-1, 3), (MAX_NUMEL + 1,), (1 << 20, 1 << 20)):
        with pytest.raises(InputError, match="a: takes inputs of"):
            check_input(Path("a"), shape)


def weights_outside(made: Any) -> None:
    one = made.graph.initializer[0]
    one.ClearField("float_data")
    one.data_location = onnx.TensorProto.EXTERNAL
    one.external_data.add(key="location", value="w.bin")


def constant_outside(made: Any) -> None:
    one = onnx.TensorProto(data_type=1, dims=[1], name="c", data_location=onnx.TensorProto.EXTERNAL)
    one.external_data.add(key="location", value="/dev/zero")
    made.graph.node.append(onnx.helper.make_node("Constant", [], ["c"], value=one))


def inside_a_branch(made: Any) -> None:
    """Two graphs deep."""
    inner = onnx.helper.make_graph([onnx.helper.make_node("Run", [], ["x"], domain="mine")], "i", [], [])
    outer = onnx.helper.make_graph(
        [onnx.helper.make_node("If", ["y"], ["x"], then_branch=inner, else_branch=inner)], "o", [], []
    )
    made.graph.node.append(onnx.helper.make_node("Loop", ["z", "y"], ["x"], body=outer))


def function(made: Any) -> None:
    made.functions.add(name="f", domain="mine")


def custom(made: Any) -> None:
    made.graph.node.append(onnx.helper.make_node("Run", ["one"], ["x"], domain="com.mine"))


def imported(made: Any) -> None:
    made.opset_import.append(onnx.helper.make_opsetid("com.mine", 1))


def duplicate_metadata(made: Any) -> None:
    made.metadata_props.add(key=KEY, value="{}")


OUTSIDE = {
    weights_outside: "the weight no, which lies in another file",
    constant_outside: "the weight c, which lies in another file",
    inside_a_branch: "the operator mine.Run",
    function: "functions",
    custom: "the operator com.mine.Run",
    imported: "operators of com.mine",
    duplicate_metadata: "2 times",
}


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(("change", "found"), OUTSIDE.items(), ids=lambda one: getattr(one, "__name__", ""))
def test_onnx_with_external_data_or_custom_operators_is_rejected(
    change: Any, found: str, runtime: str, tmp_path: Path
) -> None:
    np.zeros(1, np.float32).tofile(tmp_path / "w.bin")
    made = model()
    change(made)
    assert found in error_message(saved(made, tmp_path), runtime)
    with pytest.raises(InputError, match=found):
        read_metadata(tmp_path / "a.onnx")


def test_checked_graph_is_the_one_that_runs(tmp_path: Path) -> None:
    """What other formats are told by is not handed over: a start of ONNX Runtime's own in a field that ONNX does not
    know, and a tag of OpenVINO's in a text that nobody needs."""
    hidden = b"ORTM" + b"x" * 60
    unknown = b"\x9a\x06" + bytes([len(hidden)]) + hidden  # field 99, which comes first in the file
    made = model()
    made.producer_name = "<net name='evil'>"
    (tmp_path / "a.onnx").write_bytes(unknown + made.SerializeToString())
    content = onnx_file.read(tmp_path / "a.onnx").content
    assert b"ORTM" not in content
    assert b"<net" not in content
    assert onnx.load_from_string(content).graph == made.graph
    made.graph.name = "<net name='evil'>"
    with pytest.raises(InputError, match="a file of two formats"):
        onnx_file.read(saved(made, tmp_path))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_damaged_files_are_one_line_errors(runtime: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Names of operators, and of tensors, that are not text: the runtimes quote them."""
    whole = model().SerializeToString()
    for old, new in ((b"ReduceMax", b"Redu\xc6\x1b[1m"), (b"images", b"im\xffges"), (b"Expand", b"Exp\n\xfed")):
        (tmp_path / "a.onnx").write_bytes(whole.replace(old, new))
        error_message(tmp_path / "a.onnx", runtime)
    for length in (0, 1, 10, len(whole) // 2, len(whole) - 1):
        (tmp_path / "a.onnx").write_bytes(whole[:length])
        error_message(tmp_path / "a.onnx", runtime)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["batch_0", "one_output_less", "openvino_message_no_utf8"])
def test_files_that_caused_tracebacks_are_one_line_errors(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if not CASES.is_dir():
        pytest.skip("no folder `shared` with the damaged files beside the checkout")
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("a.jpg", np.zeros((SIDE, SIDE, 3), np.uint8))
    for words in ([], ["--backend", "onnxruntime"], ["--backend", "openvino"]):
        with pytest.raises(SystemExit) as leaving:
            cli.main(["predict", str(CASES / f"{name}.onnx"), "a.jpg", *words])
        assert leaving.value.code == 2
        output = capfd.readouterr()
        assert (output.out, output.err.count("\n")) == ("", 1)


@pytest.fixture
def openvino_files(tmp_path: Path) -> Path:
    """The same in OpenVINO's two files."""
    made = openvino.Core().read_model(saved(model(), tmp_path))
    made.set_rt_info(Metadata(small_recipe(), "raw", "float32", tuple(SHAPES), "", "1").to_text(), [KEY])
    openvino.save_model(made, tmp_path / "a.xml", compress_to_fp16=False)
    return tmp_path / "a.xml"


def test_openvino_reads_only_its_xml_and_bin_file(openvino_files: Path) -> None:
    open_runtime(openvino_files)
    weights = openvino_files.with_suffix(".bin")
    assert weights.stat().st_size > 0
    content = weights.read_bytes()
    weights.write_bytes(b"")
    assert "a.xml: not a model that OpenVINO can read" in error_message(openvino_files, "openvino")
    weights.unlink()
    assert "a.bin: cannot be read" in error_message(openvino_files, "openvino")
    os.mkfifo(weights)  # would never end
    assert "a.bin: cannot be read" in error_message(openvino_files, "openvino")
    weights.unlink()
    weights.symlink_to("/dev/zero")
    assert "a.bin: cannot be read" in error_message(openvino_files, "openvino")
    weights.unlink()
    weights.write_bytes(content)
    text = openvino_files.read_text()
    openvino_files.write_text(
        text.replace('type="Broadcast"', 'type="Mine"').replace('version="opset', 'version="extension', 3)
    )
    assert "a.xml: not a model that OpenVINO can read" in error_message(openvino_files, "openvino")


class Failing(Runtime):
    name, channels_last = "failing", False

    def __init__(self, error: Exception) -> None:
        super().__init__((None, 3, None, None))
        self.error = error

    def run(self, inputs: Any) -> Any:
        raise self.error


def test_runtime_errors_are_one_line_with_the_file() -> None:
    error = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no")
    for raised, found in (
        (error, "its message is not text"),
        (KeyError("x\x1b[0m\ny"), r"\(.*x"),
        (ValueError(), "ValueError"),
    ):
        failing = Failing(raised)
        with pytest.raises(type(raised)):
            failing.forward(torch.zeros(1, 3, 2, 2))
        failing.source = Path("a.onnx")
        with pytest.raises(
            InputError, match=rf"a.onnx: cannot be run on inputs of \(1, 3, 2, 2\).*{found}"
        ) as rejected:
            failing.forward(torch.zeros(1, 3, 2, 2))
        assert str(rejected.value).isprintable()
    assert first_line(RuntimeError("\x1b[2Ja\rb")).isprintable()


def test_undecodable_openvino_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Core:
        def read_model(self, content: bytes) -> Any:
            return b"\xc6".decode()

    monkeypatch.setattr(openvino_target, "core", Core)
    assert "its message is not text; the file is damaged" in error_message(saved(model(), tmp_path), "openvino")
