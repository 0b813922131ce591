"""Where inside the network an ONNX file first goes another way than PyTorch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from boxwright.predict.backend import extra


def first_difference(model: nn.Module, file: Path, inputs: Sequence[Tensor], limit: float) -> dict[str, Any] | None:
    """The first value inside the ONNX file that PyTorch never has on its way: its name, its operator, and by what share
    of the largest number the nearest of PyTorch's differs. None where there is no such value.

    Names and numbers of operators differ, because exporting joins some of them; so each value is sought among all of
    PyTorch's of its shape. Values of shapes that PyTorch does not have are passed over.
    """
    seen = _values(model, inputs)
    for name, operator, value in _values_of_file(file, inputs):
        likely = [one for one in seen if one.shape == value.shape]
        shares = [float((one - value).abs().max() / one.abs().max().clamp(min=1e-12)) for one in likely]
        if shares and not min(shares) <= limit:
            return {"name": name, "operator": operator, "worst": min(shares)}
    return None


class _Recording(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps a copy of what every operation gives; a copy, for some operations write over their input."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[Tensor] = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = operation(*args, **(kwargs or {}))
        self.seen += [one.clone() for one in tree_leaves(made) if isinstance(one, Tensor) and one.is_floating_point()]
        return made


def _values(model: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    recording = _Recording()
    with torch.no_grad(), recording:
        model(*inputs)
    return recording.seen


def _values_of_file(file: Path, inputs: Sequence[Tensor]) -> list[tuple[str, str, Tensor]]:
    """(name, operator, value) of all float values of an ONNX file, in its order."""
    onnx, runtime = extra("onnx", "onnx"), extra("onnxruntime", "onnx")
    content = onnx.load(file)
    nodes = {name: node.op_type for node in content.graph.node for name in node.output if name}
    told = {output.name for output in content.graph.output}
    content.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in nodes if name not in told)
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors; it warns of the outputs without a shape
    session = runtime.InferenceSession(content.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = [torch.float16 if one.type == "tensor(float16)" else torch.float32 for one in session.get_inputs()]
    given = {
        one.name: value.to(kind).numpy() for one, value, kind in zip(session.get_inputs(), inputs, kinds, strict=True)
    }
    values = dict(zip((one.name for one in session.get_outputs()), session.run(None, given), strict=True))
    found = [(name, operator, torch.from_numpy(values[name])) for name, operator in nodes.items()]
    return [(name, operator, value.float()) for name, operator, value in found if value.is_floating_point()]
