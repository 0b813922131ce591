"""Where inside the network an ONNX file first goes another way than PyTorch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from boxwright.runtimes.base.extras import import_extra


def first_difference(model: nn.Module, file: Path, inputs: Sequence[Tensor], limit: float) -> dict[str, Any] | None:
    """The first value inside the ONNX file that PyTorch never has on its way: its name, its operator, and by what share
    of the largest number the nearest of PyTorch's differs. None where there is no such value.

    Names and numbers of operators differ, because exporting joins some of them; so each value is sought among all of
    PyTorch's of its shape. Values of shapes that PyTorch does not have are passed over.
    """
    seen = _values(model, inputs)
    for name, operator, value in _values_of_file(file, inputs):
        candidates = [tensor for tensor in seen if tensor.shape == value.shape]
        shares = [float((ours - value).abs().max() / ours.abs().max().clamp(min=1e-12)) for ours in candidates]
        if shares and not min(shares) <= limit:
            return {"name": name, "operator": operator, "worst": min(shares)}
    return None


class _Recording(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps a copy of what every operation gives; a copy, for some operations write over their input."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[Tensor] = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.seen += [tensor.clone() for tensor in tensors if tensor.is_floating_point()]
        return result


def _values(model: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    recording = _Recording()
    with torch.no_grad(), recording:
        model(*inputs)
    return recording.seen


def _values_of_file(file: Path, inputs: Sequence[Tensor]) -> list[tuple[str, str, Tensor]]:
    """(name, operator, value) of all float values of an ONNX file, in its order."""
    onnx, runtime = import_extra("onnx", "onnx"), import_extra("onnxruntime", "onnx")
    content = onnx.load(file)
    nodes = {name: node.op_type for node in content.graph.node for name in node.output if name}
    outputs = {output.name for output in content.graph.output}
    content.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in nodes if name not in outputs)
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors; it warns of the outputs without a shape
    session = runtime.InferenceSession(content.SerializeToString(), options, providers=["CPUExecutionProvider"])
    given = {
        port.name: value.to(torch.float16 if port.type == "tensor(float16)" else torch.float32).numpy()
        for port, value in zip(session.get_inputs(), inputs, strict=True)
    }
    values = dict(zip((port.name for port in session.get_outputs()), session.run(None, given), strict=True))
    found = [(name, operator, torch.from_numpy(values[name])) for name, operator in nodes.items()]
    return [(name, operator, value.float()) for name, operator, value in found if value.is_floating_point()]
