"""Weights -> a file that computes in 8 bits, and what that costs.

Calibration pictures come from `train`, AP (of classifiers top-1) from `val`. Where the drop is above the limit, the
most sensitive layers stay float until it is met.
"""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from boxwright import __version__
from boxwright.data.class_loader import ClassLoader
from boxwright.data.loader import Loader
from boxwright.data.open import open_labelled
from boxwright.errors import InputError
from boxwright.evaluation.evaluate import evaluate
from boxwright.export import int8_files
from boxwright.export.int8_files import SUFFIXES
from boxwright.export.int8_report import Report, Side, Trial
from boxwright.export.run import named_after, network, read_of
from boxwright.export.sensitivity import sensitivity
from boxwright.export.timing import side_by_side
from boxwright.files import atomic_write_group
from boxwright.predict.load import load
from boxwright.recipe import Recipe
from boxwright.runtimes.base.graph import raw_graph
from boxwright.runtimes.base.metadata import Metadata, fingerprint
from boxwright.runtimes.base.open import open_runtime
from boxwright.runtimes.serialization import onnx_file
from boxwright.weights.files import keep_apart

LOOKED_AT = 8  # of the calibration pictures, for the sensitivity of the layers: each costs a pass for every layer


def quantize(
    source: str | Path,
    data: str | Path,
    out: str | Path | None = None,
    *,
    backend: str = "openvino",
    pictures: int = 64,
    max_drop: float = 0.005,
    recipe: str | Path | Recipe | None = None,
    overrides: Mapping[str, Any] | Sequence[str] = (),
) -> Report:
    """Write the weights at `source` (a run folder or a file) as INT8 for `backend`, openvino or onnxruntime, to `out`.

    data: a data set; so many `pictures` of its split train calibrate, its split val measures. out: None for a file in
    this folder, called as the source is. max_drop: of AP, or top-1, against the same network as float32 in the same
    runtime.
    recipe, overrides: as in `export_model`. The report lies beside the file as FILE.int8.json, .md and .png.

    Raises InputError for weights or data that cannot be read, words that do not fit, an extra that is not installed,
    and where the limit cannot be met; then nothing is written.
    """
    target = _target(source, out, backend, pictures, max_drop)
    int8_files.library()  # before the work, as the place to write to below
    model, chosen = network(source, recipe, overrides, None)
    if getattr(model, "two_stage", False):
        raise InputError(
            f"{source}: quantize takes YOLO and classifiers, found Faster R-CNN; its graph computes with px of boxes, "
            "which 256 steps cannot hold; export it with --half"
        )
    calibration, held_out = _Calibration(data, chosen, pictures), open_labelled(str(data), "val", chosen)
    with tempfile.TemporaryDirectory() as folder, atomic_write_group(target) as final:
        work = _Work(backend, model, chosen, calibration, Path(folder))
        quality = work.worth(work.plain, held_out)
        moved = sensitivity(model, [calibration.picture(index) for index in range(min(LOOKED_AT, len(calibration)))])
        trials = _search(work, held_out, quality, max_drop, [one.layer for one in moved if one.layer in work.nodes])
        ms = work.times()
        work.save(final)
        report = Report(
            file=target,
            recipe=chosen.name,
            backend=backend,
            calibrated_on=calibration.told,
            measured_on=f"{len(held_out)} pictures of val of {data}",
            measure="top-1" if chosen.model.task == "classify" else "AP",
            limit=max_drop,
            before=Side(quality, _size(work.plain), ms[0]),
            after=Side(trials[-1].quality, _size(work.small), ms[1]),
            trials=tuple(trials),
            layers=tuple(moved),
        )
    report.save()
    return report


def _search(work: "_Work", held_out: Any, quality: float, max_drop: float, layers: list[str]) -> list[Trial]:
    """Quantise with none, 1, 2, 4, ... of `layers` (most sensitive first) in float, until no more than `max_drop` is
    lost of `quality`. Raises InputError where that is not so with any number of them below all."""
    trials: list[Trial] = []
    for count in (0, *(1 << power for power in range(len(layers).bit_length()))):
        if count >= len(layers):
            break
        work.quantise(layers[:count])
        trials.append(Trial(tuple(layers[:count]), work.worth(work.small, held_out)))
        if quality - trials[-1].quality <= max_drop:
            return trials
    raise InputError(
        f"--max-drop: found {max_drop:g}; {trials[-1].quality:.4f} is further below {quality:.4f}, even with "
        f"{len(trials[-1].floats)} of {len(layers)} layers in float; nothing is written, allow more"
    )


def _target(source: str | Path, out: str | Path | None, backend: str, pictures: int, max_drop: float) -> Path:
    """Where the file goes. Raises InputError for words that do not fit, and where it would take the place of what is
    read."""
    if backend not in SUFFIXES:
        raise InputError(f"--backend: found '{backend}', needed one of {', '.join(SUFFIXES)}")
    if pictures < 1:
        raise InputError(f"--images: found {pictures}, needed at least one image to calibrate on")
    if not 0 <= max_drop <= 1:
        raise InputError(f"--max-drop: found {max_drop:g}, needed a number from 0 to 1, as 0.005")
    target = Path(f"{named_after(source)}.int8{SUFFIXES[backend]}" if out is None else out)
    if target.suffix != SUFFIXES[backend]:
        raise InputError(
            f"{target}: found the suffix '{target.suffix}', needed {SUFFIXES[backend]} for --backend {backend}"
        )
    keep_apart([target, target.with_suffix(".bin")], read_of(source))
    return target


class _Calibration:
    """Pictures of the split train, spread evenly over it; bytes on canvases of H x W px, as they were loaded."""

    def __init__(self, data: str | Path, recipe: Recipe, most: int) -> None:
        chosen = open_labelled(str(data), "train", recipe)
        if not len(chosen):
            raise InputError(f"{data}: split train holds no picture, needed at least one to calibrate on")
        some = np.unique(np.linspace(0, len(chosen) - 1, min(most, len(chosen))).round().astype(int))
        kind: Any = ClassLoader if recipe.model.task == "classify" else Loader
        loader = kind(chosen.subset(some), recipe.data.canvas, 1, workers=0, shuffle=False)
        self.images: list[Tensor] = [batch.images for batch in loader.epoch(0)]
        self.told = f"{len(some)} of {len(chosen)} pictures of train"

    def picture(self, index: int) -> Tensor:
        """What the network takes for a picture: (1, 3, H, W) float in [0, 1]."""
        return self.images[index].float() / 255

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The same as an array by name, for the tool that calibrates."""
        return {"images": self.picture(index).numpy()}  # IndexError after the last ends a loop over all


class _Work:
    """The files in a temporary folder: `plain` (float32) and `small` (INT8)."""

    def __init__(self, backend: str, model: nn.Module, recipe: Recipe, calibration: _Calibration, folder: Path) -> None:
        self.backend, self.recipe, self.calibration = backend, recipe, calibration
        self.plain, self.small = (folder / f"{name}{SUFFIXES[backend]}" for name in ("float32", "int8"))
        graph, mark = raw_graph(model, recipe), fingerprint(model)
        cards = [
            Metadata(recipe, "raw", one, graph.outputs, mark, __version__).to_text() for one in ("float32", "int8")
        ]
        self.graph, self.card = folder / "graph.onnx", cards[1]
        onnx_file.write(graph, self.graph, cards[0])
        int8_files.write_plain(backend, self.graph, self.plain, cards[0])
        self.nodes = onnx_file.layers(self.graph)

    def quantise(self, kept: Sequence[str]) -> None:
        """Write `small`, with the layers `kept` in float."""
        nodes = [node for layer in kept for node in self.nodes[layer]]
        int8_files.write_int8(self.backend, self.graph, self.small, self.card, self.calibration, nodes)

    def worth(self, file: Path, held_out: Any) -> float:
        """AP, or top-1, of the file on all pictures of `held_out`."""
        found: float = evaluate(load(file, device="cpu", backend=self.backend), held_out).quality
        if found < 0:
            raise InputError(f"{held_out.root}: split val holds no object, needed some to measure AP on")
        return found

    def times(self) -> list[float]:
        """Median ms of the network for one picture, of both files."""
        networks = [open_runtime(file, self.backend)[0].forward for file in (self.plain, self.small)]
        return side_by_side(networks, [self.calibration.picture(0)])

    def save(self, target: Path) -> None:
        """Copy `small` to `target`, and its .bin beside it."""
        shutil.copy(self.small, target)
        if (weights := self.small.with_suffix(".bin")).exists():
            shutil.copy(weights, target.with_suffix(".bin"))


def _size(file: Path) -> int:
    """Bytes, with OpenVINO's .bin."""
    return sum(one.stat().st_size for one in {file, file.with_suffix(".bin")} if one.is_file())
