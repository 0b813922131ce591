"""Raw ONNX files in OpenCV's cv2.dnn, which needs no other library."""

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from boxwright.errors import InputError
from boxwright.runtimes.base.checks import wrong_input
from boxwright.runtimes.base.metadata import Metadata
from boxwright.runtimes.base.runtime import Inputs, Runtime, RuntimeOptions
from boxwright.runtimes.serialization import onnx_file


class OpenCVRuntime(Runtime):
    """Network of cv2.dnn, which runs one batch at a time, on the CPU."""

    name = "opencv"
    channels_last = False

    def __init__(self, network: cv2.dnn.Net, shape: tuple[int | None, ...]) -> None:
        self.network = network
        self.outputs = network.getUnconnectedOutLayersNames()
        super().__init__(shape)

    def run(self, inputs: Inputs) -> list[Tensor]:
        (images,) = inputs
        self.network.setInput(images.float().contiguous().numpy())
        return [torch.from_numpy(np.array(output)) for output in self.network.forward(self.outputs)]


def open_file(file: Path, options: RuntimeOptions) -> tuple[OpenCVRuntime, str | None]:
    """Open a file. Returns the network, and the text of its metadata if it has any.

    Raises InputError for a complete file, one with other inputs than one image tensor, and one with an operator that
    this OpenCV does not support.
    """
    options.reject_unsupported("opencv", "bfloat16", "compile")
    model = onnx_file.read(file)
    if model.text is not None and Metadata.from_text(model.text, str(file)).kind == "complete":
        raise InputError(f"{file}: backend opencv runs raw files only; take another backend, or export with --raw")
    if len(model.shapes) != 1 or len(model.shapes[0]) != 4 or None in model.shapes[0][1:]:
        raise wrong_input(file)
    (shape,) = model.shapes
    try:
        network = cv2.dnn.readNetFromONNX(np.frombuffer(model.content, np.uint8))
        runtime = OpenCVRuntime(network, shape)
        runtime.run((torch.zeros([side or 1 for side in shape]),))  # fails here if it cannot be computed
    except cv2.error as error:
        reason = " ".join(str(error).rpartition("error: ")[2].split())[:80]  # without the name of OpenCV's source file
        raise InputError(
            f"{file}: OpenCV {cv2.__version__} cannot run it ({reason}); take another --backend"
        ) from error
    return runtime, model.text
