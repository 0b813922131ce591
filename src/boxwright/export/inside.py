"""Finding the first tensor inside an ONNX file that differs from PyTorch."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from boxwright.extras import import_extra


def first_difference(model: nn.Module, file: Path, inputs: Sequence[Tensor], limit: float) -> dict[str, object] | None:
    """The first tensor inside the ONNX file that matches no intermediate tensor of PyTorch.

    Operators do not correspond one to one, because export fuses some of them, so each tensor is compared with all of
    PyTorch's tensors of its shape. Tensors of other shapes are skipped.

    Returns:
        Its name, its operator, and the smallest relative difference; None if all tensors match within `limit`.
    """
    expected = _intermediate_tensors(model, inputs)
    for name, operator, value in _onnx_tensors(file, inputs):
        candidates = [tensor for tensor in expected if tensor.shape == value.shape]
        errors = [float((ours - value).abs().max() / ours.abs().max().clamp(min=1e-12)) for ours in candidates]
        if errors and not min(errors) <= limit:
            return {"name": name, "operator": operator, "worst": min(errors)}
    return None


class _Recording(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records a copy of the output of every operation; a copy, since in-place operations overwrite it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tensors: list[Tensor] = []

    def __torch_dispatch__(
        self,
        operation: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        result = operation(*args, **(kwargs or {}))
        leaves = (leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        self.tensors += [tensor.clone() for tensor in leaves if tensor.is_floating_point()]
        return result


def _intermediate_tensors(model: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    recording = _Recording()
    with torch.no_grad(), recording:
        model(*inputs)
    return recording.tensors


def _onnx_tensors(file: Path, inputs: Sequence[Tensor]) -> list[tuple[str, str, Tensor]]:
    """(name, operator, value) of all float tensors of an ONNX file, in its order."""
    onnx, runtime = import_extra("onnx", "onnx"), import_extra("onnxruntime", "onnx")
    content = onnx.load(file)
    nodes = {name: node.op_type for node in content.graph.node for name in node.output if name}
    outputs = {output.name for output in content.graph.output}
    content.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in nodes if name not in outputs)
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors only; outputs without a shape cause warnings
    session = runtime.InferenceSession(content.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {
        port.name: value.to(torch.float16 if port.type == "tensor(float16)" else torch.float32).numpy()
        for port, value in zip(session.get_inputs(), inputs, strict=True)
    }
    values = dict(zip((port.name for port in session.get_outputs()), session.run(None, feeds), strict=True))
    tensors = [(name, operator, torch.from_numpy(values[name])) for name, operator in nodes.items()]
    return [(name, operator, value.float()) for name, operator, value in tensors if value.is_floating_point()]
