"""Post-training quantization to INT8.

The network is calibrated on images of `train`, and AP (or top-1) is measured on `val`. If it drops by more than the
limit, the most sensitive layers stay in float.
"""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from boxwright import tasks
from boxwright.config import Overrides
from boxwright.data.class_dataset import ClassSet
from boxwright.data.dataset import Dataset, evenly_spaced
from boxwright.errors import InputError
from boxwright.evaluation.compare import Predicted, compare_predicted, predicted
from boxwright.export import int8_files
from boxwright.export.int8_files import SUFFIXES
from boxwright.export.int8_report import FileStats, Int8Report, Trial
from boxwright.export.run import default_name, load_for_export, source_files
from boxwright.export.sensitivity import sensitivity
from boxwright.export.timing import side_by_side
from boxwright.files import atomic_write_group
from boxwright.metrics.comparison import Difference
from boxwright.nn.network import is_two_stage
from boxwright.predict.pipeline import CanvasPipeline
from boxwright.predict.predictor import load
from boxwright.recipe import Recipe
from boxwright.runtimes.base.graph import raw_graph
from boxwright.runtimes.base.metadata import Metadata, fingerprint
from boxwright.runtimes.base.open import open_runtime
from boxwright.runtimes.serialization import onnx_file
from boxwright.tasks.base import Result
from boxwright.version import __version__
from boxwright.weights.files import check_not_overwritten

SENSITIVITY_IMAGES = 8  # of the calibration images; each runs once per layer


def quantize(
    source: str | Path,
    data: str | Path,
    out: str | Path | None = None,
    *,
    backend: str = "openvino",
    images: int = 64,
    max_drop: float = 0.005,
    recipe: str | Path | Recipe | None = None,
    overrides: Overrides = (),
) -> Int8Report:
    """Quantize weights to an INT8 file. The report is written to FILE.int8.json, .md and .png.

    Args:
        source: A run folder or a file of weights.
        data: A data set, with the splits train for calibration and val for evaluation.
        out: The file; None for one in the working directory, named after `source`.
        backend: The runtime, `openvino` or `onnxruntime`.
        images: Number of calibration images.
        max_drop: Maximum drop of AP, or of top-1, from the float32 network in the same runtime.
        recipe: As in `export_model`.
        overrides: As in `export_model`.

    Raises:
        InputError: Weights or data cannot be read, an argument is invalid, an extra is not installed, or the limit
            cannot be met. Nothing is written then.
    """
    target = _target(source, out, backend, images, max_drop)
    int8_files.import_nncf()  # fails before the long computation
    model, resolved = load_for_export(source, recipe, overrides, None)
    if is_two_stage(model):
        raise InputError(
            f"{source}: quantize takes YOLO and classifiers, found Faster R-CNN; its graph computes with px of boxes, "
            "which 256 steps cannot hold; export it with --half"
        )
    task = tasks.of(resolved)
    calibration, val = _Calibration(data, model, resolved, images), task.open(data, "val", resolved.data)
    with tempfile.TemporaryDirectory() as folder, atomic_write_group(target) as final:
        files = _Files(backend, model, resolved, calibration, Path(folder))
        files.compare(files.float32, val)  # an error without objects, before the long computation
        count = min(SENSITIVITY_IMAGES, len(calibration))
        layers = sensitivity(model, [calibration.image(index) for index in range(count)])
        names = [row.layer for row in layers if row.layer in files.nodes]
        trials, difference = _search(files, val, max_drop, names)
        ms = files.latencies()
        files.save(final)
        report = Int8Report(
            file=target,
            recipe=resolved.name,
            backend=backend,
            calibrated_on=calibration.description,
            measured_on=f"{len(val)} images of val of {data}",
            measure=task.measure,
            limit=max_drop,
            before=FileStats(difference.a, _size(files.float32), ms[0]),
            after=FileStats(difference.b, _size(files.int8), ms[1]),
            trials=tuple(trials),
            layers=tuple(layers),
            difference=difference,
        )
    report.save()
    return report


def _search(
    files: "_Files", val: Dataset | ClassSet, max_drop: float, layers: list[str]
) -> tuple[list[Trial], Difference]:
    """Quantize with 0, 1, 2, 4, ... of `layers` (most sensitive first) in float, until the drop is small enough."""
    trials: list[Trial] = []
    for count in (0, *(1 << power for power in range(len(layers).bit_length()))):
        if count and count >= len(layers):
            break
        files.quantize(layers[:count])
        difference = files.compare(files.int8, val)
        trials.append(Trial(tuple(layers[:count]), difference.b))
        if -difference.difference <= max_drop:
            return trials, difference
    raise InputError(
        f"--max-drop: found {max_drop:g}; {trials[-1].quality:.4f} is further below {difference.a:.4f}, even with "
        f"{len(trials[-1].floats)} of {len(layers)} layers in float; nothing is written, allow more"
    )


def _target(source: str | Path, out: str | Path | None, backend: str, images: int, max_drop: float) -> Path:
    """The path of the file. Raises InputError for invalid arguments, and if it would overwrite an input."""
    if backend not in SUFFIXES:
        raise InputError(f"--backend: found '{backend}', needed one of {', '.join(SUFFIXES)}")
    if images < 1:
        raise InputError(f"--images: found {images}, needed at least one image to calibrate on")
    if not 0 <= max_drop <= 1:
        raise InputError(f"--max-drop: found {max_drop:g}, needed a number from 0 to 1, such as 0.005")
    target = Path(f"{default_name(source)}.int8{SUFFIXES[backend]}" if out is None else out)
    if target.suffix != SUFFIXES[backend]:
        raise InputError(
            f"{target}: found the suffix '{target.suffix}', needed {SUFFIXES[backend]} for --backend {backend}"
        )
    check_not_overwritten([target, target.with_suffix(".bin")], source_files(source))
    return target


class _Calibration:
    """Preprocessed images of the split train, evenly spaced over it; on canvases of H x W px."""

    def __init__(self, data: str | Path, model: nn.Module, recipe: Recipe, count: int) -> None:
        task = tasks.of(recipe)
        dataset = task.open(data, "train", recipe.data)
        if not len(dataset):
            raise InputError(f"{data}: split train holds no image, needed at least one to calibrate on")
        indices = evenly_spaced(len(dataset), count)
        self.pipeline = CanvasPipeline[Result](model, recipe, task, torch.device("cpu"), None)
        self.images = [self.pipeline.preprocess(dataset.source(index), index, keep_image=False) for index in indices]
        self.description = f"{len(indices)} of {len(dataset)} images of train"

    def image(self, index: int) -> Tensor:
        """The network's input for an image: (1, 3, H, W) float in [0, 1]."""
        return self.pipeline.inputs([self.images[index]])[0].contiguous()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, object]:
        """The input of an image as an array by name, for NNCF."""
        return {"images": self.image(index).numpy()}  # raises IndexError after the last, which ends an iteration


class _Files:
    """The files `float32` and `int8` in a temporary folder."""

    def __init__(self, backend: str, model: nn.Module, recipe: Recipe, calibration: _Calibration, folder: Path) -> None:
        self.backend, self.recipe, self.calibration = backend, recipe, calibration
        self.float32, self.int8 = (folder / f"{name}{SUFFIXES[backend]}" for name in ("float32", "int8"))
        graph = raw_graph(model, recipe)
        metadata = Metadata(recipe, "raw", "float32", graph.outputs, fingerprint(model), __version__)
        self.graph, self.metadata = folder / "graph.onnx", replace(metadata, precision="int8").to_text()
        onnx_file.write(graph, self.graph, metadata.to_text())
        int8_files.write_float32(backend, self.graph, self.float32, metadata.to_text())
        self.nodes = onnx_file.layers(self.graph)
        self.before: Predicted | None = None  # predictions of `float32`

    def quantize(self, float_layers: Sequence[str]) -> None:
        """Write `int8`, with the layers `float_layers` in float."""
        nodes = [node for layer in float_layers for node in self.nodes[layer]]
        int8_files.write_int8(self.backend, self.graph, self.int8, self.metadata, self.calibration, nodes)

    def compare(self, file: Path, val: Dataset | ClassSet) -> Difference:
        """AP, or top-1, of `float32` and of a file on the data set `val`."""
        if self.before is None:
            self.before = self._predict(self.float32, val)
        after = self.before if file == self.float32 else self._predict(file, val)
        return compare_predicted(self.before, after).main

    def _predict(self, file: Path, val: Dataset | ClassSet) -> Predicted:
        return predicted(load(file, device="cpu", backend=self.backend), val, title=file.name)

    def latencies(self) -> list[float]:
        """Median ms of the network for one image, of both files."""
        networks = [open_runtime(file, self.backend)[0].forward for file in (self.float32, self.int8)]
        return side_by_side(networks, [self.calibration.image(0)])

    def save(self, target: Path) -> None:
        """Copy `int8` to `target`, with its .bin."""
        shutil.copy(self.int8, target)
        if (weights := self.int8.with_suffix(".bin")).exists():
            shutil.copy(weights, target.with_suffix(".bin"))


def _size(file: Path) -> int:
    """Bytes of a file, with OpenVINO's .bin."""
    return sum(path.stat().st_size for path in {file, file.with_suffix(".bin")} if path.is_file())
