"""How fast a network is in each runtime that is installed, in one run, so that the ratios mean something.

B images at a time
"""

import importlib.util
import json
import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from boxwright.datatools import scenes
from boxwright.errors import InputError
from boxwright.export.run import export_model
from boxwright.export.timing import side_by_side
from boxwright.files import atomic_write, make_folder
from boxwright.metrics.plots import as_it_stands
from boxwright.predict.inputs import PreparedImage
from boxwright.predict.loading import recipe_of
from boxwright.predict.pipeline import CanvasPipeline
from boxwright.predict.predictor import AnyPredictor, load
from boxwright.progress import track
from boxwright.recipe import Recipe
from boxwright.runtimes.base.open import is_exported, read_metadata, runtimes_of
from boxwright.runtimes.base.runtime import RuntimeOptions
from boxwright.runtimes.base.torch_runtime import has_bfloat16
from boxwright.version import versions

BATCHES = (1, 4, 8)
FEWEST = 3  # rounds, for large B


@dataclass(frozen=True, slots=True)
class Row:
    """A runtime. network: B -> median ms an image of the network alone. whole: likewise from the decoded image to
    boxes or classes, for B = 1 and the best B."""

    name: str
    network: dict[int, float]
    whole: dict[int, float]

    @property
    def best(self) -> int:
        """The B that makes the network fastest an image."""
        return min(self.network, key=self.network.__getitem__)


@dataclass(frozen=True, slots=True)
class Report:
    """absent: runtime -> why it is not among the rows. info: recipe, canvas and machine. file: of the image."""

    rows: tuple[Row, ...]
    absent: dict[str, str]
    info: dict[str, Any]
    file: Path

    def __str__(self) -> str:
        """A table; ratios are those to the first row, above 1 is faster."""
        first = self.rows[0]
        width = max(len(row.name) for row in self.rows)
        columns = ("network, B = 1", "end to end, B = 1", "network, best B", "end to end, best B")
        lines = [f"ms an image (how many times as fast as {first.name})"]
        lines += [" " * width + "".join(f"{column:>22}" for column in columns)]
        for row in self.rows:
            pairs = (
                (row.network[1], first.network[1]),
                (row.whole[1], first.whole[1]),
                (row.network[row.best], first.network[first.best]),
                (row.whole[row.best], first.whole[first.best]),
            )
            cells = (f"{ms:.1f} ({reference / ms:.2f})" for ms, reference in pairs)
            lines.append(f"{row.name:{width}}" + "".join(f"{cell:>22}" for cell in cells) + f"  B = {row.best}")
        lines += [f"not timed: {name}: {reason}" for name, reason in self.absent.items()]
        return "\n".join([*lines, f"{self.file}, {self.file.with_suffix('.json')}"])


def bench(
    source: str | Path,
    out: str | Path = "bench",
    *,
    recipe: str | Path | Recipe | None = None,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    batches: Sequence[int] = BATCHES,
    rounds: int = 10,
    compile_: bool = False,
    trust: bool = False,
) -> Report:
    """Time the network at `source` (a run folder, weights or a raw exported file) in all runtimes that can run it, on
    rendered scenes; write bench.png and bench.json into the folder `out`.

    Weights are exported for the runtimes that need it, through the gate, into a temporary folder. compile_: also
    torch.compile. trust: also a TorchScript file. Raises InputError where the weights cannot be read, nothing can run
    the file, or it is complete.
    """
    if is_exported(source) and read_metadata(source).kind == "complete":
        raise InputError(f"{source}: found a file of --with-nms, needed weights or one exported with --raw")
    chosen = recipe_of(source, recipe).with_overrides(overrides)
    place = make_folder(out)
    with tempfile.TemporaryDirectory() as spare:
        found, absent = _all(source, chosen, Path(spare), compile_, trust)
        if not found:
            raise InputError(f"{source}: nothing can run it: " + "; ".join(absent.values()))
        rows = tuple(_measured(found, sorted({1, *batches}), rounds))
    info = {
        "recipe": chosen.name,
        "canvas": list(chosen.data.canvas.size),
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
        "versions": versions("torch"),
    }
    report = Report(rows, absent, info, place / "bench.png")
    _draw(report)
    with atomic_write(place / "bench.json") as tmp:
        tree = {**info, "absent": absent, "rows": [asdict(row) | {"best": row.best} for row in rows]}
        tmp.write_text(json.dumps(tree, indent=1), encoding="utf-8")
    return report


def _all(
    source: str | Path, chosen: Recipe, spare: Path, compile_: bool, trust: bool
) -> tuple[dict[str, AnyPredictor], dict[str, str]]:
    """name -> predictor of all that are there, and name -> reason of the others."""
    found: dict[str, AnyPredictor] = {}
    absent: dict[str, str] = {}

    @contextmanager
    def told(name: str) -> Iterator[None]:
        try:
            yield
        except InputError as error:
            absent[name] = str(error)

    def add(name: str, path: str | Path, backend: str = "auto") -> None:
        given = None if is_exported(path) else chosen
        one = RuntimeOptions(fuse=True, trust=trust)
        found[name] = load(path, given, "cpu", backend=backend, runtime_options=one)
        many = load(path, given, "cpu", backend=backend, runtime_options=replace(one, batch_size=max(BATCHES)))
        if many.runtime is not None and many.runtime.streams > 1:
            found[f"{name}, throughput"] = many

    files: dict[str, str | Path] = {}
    if is_exported(source):
        files = dict.fromkeys(runtimes_of(source), source)
    else:
        add("torch", source)
        if has_bfloat16(found["torch"].device):
            found["torch, bfloat16"] = load(
                source, chosen, "cpu", runtime_options=RuntimeOptions(fuse=True, bfloat16=True)
            )
        if compile_:
            found["torch, compiled"] = load(
                source, chosen, "cpu", runtime_options=RuntimeOptions(fuse=True, compile=True)
            )
        for name, format_, file in (("onnxruntime", "onnx", "model.onnx"), ("openvino", "openvino", "model.xml")):
            with told(name):
                if importlib.util.find_spec(name) is None:
                    raise InputError("not installed")
                dynamic = name == "onnxruntime"  # a free batch costs OpenVINO some speed with one image
                export_model(source, format_, spare / file, recipe=chosen, dynamic_batch=dynamic)
                files[name] = spare / file
    for name, path in files.items():
        with told(name):
            add(name, path, name)
    return found, absent


def _measured(found: Mapping[str, AnyPredictor], batches: Sequence[int], rounds: int) -> Iterator[Row]:
    images = [scenes.scene(0, index % 4).image for index in range(max(batches))]
    network: dict[str, dict[int, float]] = {name: {} for name in found}
    for many in track(batches, len(batches), "network", "sizes"):
        tasks = [_network(one, [one.preprocess(image) for image in images[:many]]) for one in found.values()]
        for name, ms in zip(found, side_by_side(tasks, (), max(FEWEST, rounds // many)), strict=True):
            network[name][many] = ms / many
    rows = [Row(name, times, {}) for name, times in network.items()]
    sizes = sorted({1, *(row.best for row in rows)})
    for many in track(sizes, len(sizes), "end to end", "sizes"):
        chosen = [row for row in rows if many in (1, row.best)]
        tasks = [_end_to_end(found[row.name], images[:many]) for row in chosen]
        for row, ms in zip(chosen, side_by_side(tasks, (), max(FEWEST, rounds // many)), strict=True):
            row.whole[many] = ms / many
    yield from rows


def _network(predictor: AnyPredictor, images: Sequence[PreparedImage]) -> Callable[[], tuple[torch.Tensor, ...]]:
    assert isinstance(predictor.pipeline, CanvasPipeline)
    assert predictor.runtime is not None
    forward, inputs = predictor.runtime.forward, predictor.pipeline.inputs(images)
    return lambda: forward(*inputs)


def _end_to_end(predictor: AnyPredictor, images: Sequence[Any]) -> Callable[[], tuple[torch.Tensor, ...]]:
    args = predictor.args()

    def run() -> tuple[torch.Tensor, ...]:
        prepared = [predictor.preprocess(image) for image in images]
        predictor.postprocess(predictor.forward(prepared), prepared, args)
        return ()

    return run


def _draw(report: Report) -> None:
    """Two bars a runtime, one image at a time and its best number, with what the rest adds on top of the network."""
    figure = Figure(figsize=(8, 1 + 0.7 * len(report.rows)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(report.rows):
        for offset, many in ((-0.2, 1), (0.2, row.best)) if row.best > 1 else ((0.0, 1),):
            rest = max(0.0, row.whole[many] - row.network[many])
            axes.barh(place + offset, row.network[many], 0.36, color="tab:blue" if many == 1 else "tab:cyan")
            axes.barh(place + offset, rest, 0.36, left=row.network[many], color="lightgray")
            axes.text(
                row.network[many] + rest, place + offset, f" {row.whole[many]:.1f}, B = {many}", va="center", fontsize=8
            )
    axes.set_yticks(range(len(report.rows)), [row.name for row in report.rows])
    axes.invert_yaxis()
    axes.margins(x=0.15)
    height, width = report.info["canvas"]
    axes.set(
        title=f"{report.info['recipe']}, {height} x {width} px, {report.info['threads']} threads",
        xlabel="ms an image: network (blue), the rest to boxes or classes (gray)",
    )
    as_it_stands([axes.title, *axes.get_yticklabels()])
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    with atomic_write(report.file) as tmp:
        figure.savefig(tmp, format="png", dpi=120)
