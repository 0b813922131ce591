"""A model repository for Triton Inference Server around a complete ONNX file.

K output rows per image, as in the file
"""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from boxwright.errors import InputError
from boxwright.export import parity, run
from boxwright.extras import import_extra
from boxwright.files import new_folder

MAX_BATCH = 8
DELAY_MICROSECONDS = 5000  # that Triton waits to fill a batch; as `boxwright serve --max-wait-ms`
TYPES = {"UINT8": "TYPE_UINT8", "FLOAT": "TYPE_FP32", "INT64": "TYPE_INT64"}  # ONNX -> Triton


def export_repository(
    source: str | Path, out: str | Path | None, *, batch: int | None, **options: Any
) -> parity.ParityReport:
    """Write `OUT/NAME/config.pbtxt` and `OUT/NAME/1/model.onnx`, completely or not at all.

    NAME is that of the weights or their run. The file takes any batch size, so that Triton can batch requests whose
    images have the same size.

    Args:
        source: A run folder or a file of weights.
        out: The repository, which may hold other models; None for `model_repository`.
        batch: Largest batch size in Triton; None for 8.
        options: Options of `export_model`; the file is always complete and of dynamic batch.

    Raises:
        InputError: As `export_model`, and if the repository has a model of this name, or the name is not valid.
    """
    repository = Path("model_repository" if out is None else out)
    name = run.default_name(source)
    if not run.is_model_name(name):
        raise InputError(f"{source}: found the model name '{name}', needed letters, digits, - _ .; rename it")
    target = repository / name
    options |= {"complete": True, "dynamic_batch": True}
    is_new = not repository.exists()
    try:
        with new_folder(target) as folder:
            (folder / "1").mkdir()
            report = run.export_model(source, "onnx", folder / "1" / "model.onnx", **options)
            text = config(name, report.file, MAX_BATCH if batch is None else batch)
            (folder / "config.pbtxt").write_text(text, encoding="utf-8")
    except InputError as error:
        if is_new:
            with suppress(OSError):
                repository.rmdir()
        raise InputError(str(error).partition("; all of it: ")[0]) from error  # the report is removed, too
    return replace(report, file=target / "1" / "model.onnx")


def config(name: str, file: Path, max_batch: int) -> str:
    """Triton's configuration of a complete ONNX file, without the axis of the batch, which Triton adds."""
    graph = import_extra("onnx", "onnx").load(file, load_external_data=False).graph
    onnx_types = import_extra("onnx", "onnx").TensorProto.DataType
    lines = [f'name: "{name}"', 'backend: "onnxruntime"', f"max_batch_size: {max_batch}"]
    for kind, values in (("input", graph.input), ("output", graph.output)):
        entries = []
        for value in values:
            tensor = value.type.tensor_type
            sides = [side.dim_value or -1 for side in tensor.shape.dim][1:]
            data_type = TYPES[onnx_types.Name(tensor.elem_type)]
            entries.append(f'  {{ name: "{value.name}", data_type: {data_type}, dims: {sides} }}')
        lines += [f"{kind} [", ",\n".join(entries), "]"]
    lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {DELAY_MICROSECONDS} }}")
    return "\n".join(lines) + "\n"
