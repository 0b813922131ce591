"""Benchmark of a network in all installed runtimes, in one run so that the ratios are comparable.

B images per batch
"""

import importlib.util
import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from matplotlib.figure import Figure

from boxwright import json_text
from boxwright.config import Overrides
from boxwright.datatools import scenes
from boxwright.errors import InputError
from boxwright.export.run import export_model
from boxwright.export.timing import side_by_side
from boxwright.files import atomic_write, make_folder
from boxwright.json_text import JsonObject
from boxwright.metrics.plots import disable_math
from boxwright.predict.inputs import Image, PreparedImage
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
MIN_ROUNDS = 3  # for large B


@dataclass(frozen=True, slots=True)
class Row:
    """Times of a runtime.

    Attributes:
        name: Name of the runtime.
        network: B -> median ms per image of the network alone.
        end_to_end: B -> median ms per image from the decoded image to boxes or classes, for B = 1 and the best B.
    """

    name: str
    network: dict[int, float]
    end_to_end: dict[int, float]

    @property
    def best(self) -> int:
        """The B with the fewest ms per image of the network."""
        return min(self.network, key=self.network.__getitem__)


@dataclass(frozen=True, slots=True)
class BenchReport:
    """The result of a benchmark.

    Attributes:
        rows: The times of each runtime.
        absent: Runtime -> why it was not timed.
        info: Recipe, canvas and machine.
        file: The plot.
    """

    rows: tuple[Row, ...]
    absent: dict[str, str]
    info: JsonObject
    file: Path

    def __str__(self) -> str:
        """A table with the speedup over the first row."""
        first = self.rows[0]
        width = max(len(row.name) for row in self.rows)
        columns = ("network, B = 1", "end to end, B = 1", "network, best B", "end to end, best B")
        lines = [f"ms per image (how many times as fast as {first.name})"]
        lines += [" " * width + "".join(f"{column:>22}" for column in columns)]
        for row in self.rows:
            pairs = (
                (row.network[1], first.network[1]),
                (row.end_to_end[1], first.end_to_end[1]),
                (row.network[row.best], first.network[first.best]),
                (row.end_to_end[row.best], first.end_to_end[first.best]),
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
    overrides: Overrides = (),
    batches: Sequence[int] = BATCHES,
    rounds: int = 10,
    compile_: bool = False,
    trust: bool = False,
) -> BenchReport:
    """Time a network on rendered scenes in all runtimes that can run it; writes bench.png and bench.json.

    Args:
        source: A run folder, weights or a raw exported file. Weights are exported to a temporary folder for the other
            runtimes, with the parity check.
        out: The output folder.
        recipe: As in `load`.
        overrides: Changes to the recipe by dotted key.
        batches: Batch sizes, in addition to 1.
        rounds: Number of repetitions.
        compile_: Also time torch.compile.
        trust: Also open a TorchScript file, which can execute any code.

    Raises:
        InputError: The weights cannot be read, no runtime can run the file, or it is a complete file.
    """
    if is_exported(source) and read_metadata(source).kind == "complete":
        raise InputError(f"{source}: found a file of --with-nms, needed weights or one exported with --raw")
    resolved = recipe_of(source, recipe).with_overrides(overrides)
    folder = make_folder(out)
    with tempfile.TemporaryDirectory() as tmp_folder:
        predictors, absent = _load_all(source, resolved, Path(tmp_folder), compile_, trust)
        if not predictors:
            raise InputError(f"{source}: no runtime can run it: " + "; ".join(dict.fromkeys(absent.values())))
        rows = tuple(_measure(predictors, sorted({1, *batches}), rounds))
    info = {
        "recipe": resolved.name,
        "canvas": list(resolved.data.canvas.size),
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
        "versions": versions("torch"),
    }
    report = BenchReport(rows, absent, info, folder / "bench.png")
    _draw(report)
    tree = {**info, "absent": absent, "rows": [asdict(row) | {"best": row.best} for row in rows]}
    json_text.write(folder / "bench.json", tree, indent=1)
    return report


def _load_all(
    source: str | Path, recipe: Recipe, tmp_folder: Path, compile_: bool, trust: bool
) -> tuple[dict[str, AnyPredictor], dict[str, str]]:
    """Name -> predictor for each available runtime, and name -> reason for each other one."""
    predictors: dict[str, AnyPredictor] = {}
    absent: dict[str, str] = {}

    @contextmanager
    def record_error(name: str) -> Iterator[None]:
        try:
            yield
        except InputError as error:
            absent[name] = str(error)

    def add(name: str, path: str | Path, backend: str = "auto") -> None:
        own_recipe = recipe if path == source else None  # files that were exported here have it
        options = RuntimeOptions(fuse=True, trust=trust)
        predictors[name] = load(path, own_recipe, "cpu", backend=backend, runtime_options=options)
        options = replace(options, batch_size=max(BATCHES))
        throughput = load(path, own_recipe, "cpu", backend=backend, runtime_options=options)
        if throughput.runtime is not None and throughput.runtime.streams > 1:
            predictors[f"{name}, throughput"] = throughput

    files: dict[str, str | Path] = {}
    if is_exported(source):
        files = dict.fromkeys(runtimes_of(source), source)
    else:
        add("torch", source)
        options = RuntimeOptions(fuse=True)
        if has_bfloat16(predictors["torch"].device):
            bfloat16 = replace(options, bfloat16=True)
            predictors["torch, bfloat16"] = load(source, recipe, "cpu", runtime_options=bfloat16)
        if compile_:
            compiled = replace(options, compile=True)
            predictors["torch, compiled"] = load(source, recipe, "cpu", runtime_options=compiled)
        for name, format_, file in (("onnxruntime", "onnx", "model.onnx"), ("openvino", "openvino", "model.xml")):
            with record_error(name):
                if importlib.util.find_spec(name) is None:
                    raise InputError("not installed")
                dynamic = name == "onnxruntime"  # a dynamic batch makes OpenVINO slower with one image
                export_model(source, format_, tmp_folder / file, recipe=recipe, dynamic_batch=dynamic)
                files[name] = tmp_folder / file
    for name, path in files.items():
        with record_error(name):
            add(name, path, name)
    return predictors, absent


def _measure(predictors: Mapping[str, AnyPredictor], batches: Sequence[int], rounds: int) -> Iterator[Row]:
    channels = next(iter(predictors.values())).recipe.model.input_channels
    images = (scenes.rendered_images(4, channels) * -(-max(batches) // 4))[: max(batches)]
    network: dict[str, dict[int, float]] = {name: {} for name in predictors}
    for batch in track(batches, len(batches), "network", "sizes"):
        calls = [_network(each, [each.preprocess(image) for image in images[:batch]]) for each in predictors.values()]
        for name, ms in zip(predictors, side_by_side(calls, (), max(MIN_ROUNDS, rounds // batch)), strict=True):
            network[name][batch] = ms / batch
    rows = [Row(name, times, {}) for name, times in network.items()]
    sizes = sorted({1, *(row.best for row in rows)})
    for batch in track(sizes, len(sizes), "end to end", "sizes"):
        timed = [row for row in rows if batch in (1, row.best)]
        calls = [_end_to_end(predictors[row.name], images[:batch]) for row in timed]
        for row, ms in zip(timed, side_by_side(calls, (), max(MIN_ROUNDS, rounds // batch)), strict=True):
            row.end_to_end[batch] = ms / batch
    yield from rows


def _network(predictor: AnyPredictor, images: Sequence[PreparedImage]) -> Callable[[], tuple[torch.Tensor, ...]]:
    assert isinstance(predictor.pipeline, CanvasPipeline)
    assert predictor.runtime is not None
    forward, inputs = predictor.runtime.forward, predictor.pipeline.inputs(images)
    return lambda: forward(*inputs)


def _end_to_end(predictor: AnyPredictor, images: Sequence[Image]) -> Callable[[], tuple[torch.Tensor, ...]]:
    args = predictor.args()

    def run() -> tuple[torch.Tensor, ...]:
        prepared = [predictor.preprocess(image) for image in images]
        predictor.postprocess(predictor.forward(prepared), prepared, args)
        return ()

    return run


def _draw(report: BenchReport) -> None:
    """Two bars per runtime, for B = 1 and the best B, each with the time of the network and of the rest."""
    figure = Figure(figsize=(8, 1 + 0.7 * len(report.rows)), layout="constrained")
    axes = figure.subplots()
    for index, row in enumerate(report.rows):
        for offset, batch in ((-0.2, 1), (0.2, row.best)) if row.best > 1 else ((0.0, 1),):
            y, network, total = index + offset, row.network[batch], row.end_to_end[batch]
            rest = max(0.0, total - network)
            axes.barh(y, network, 0.36, color="tab:blue" if batch == 1 else "tab:cyan")
            axes.barh(y, rest, 0.36, left=network, color="lightgray")
            axes.text(network + rest, y, f" {total:.1f}, B = {batch}", va="center", fontsize=8)
    axes.set_yticks(range(len(report.rows)), [row.name for row in report.rows])
    axes.invert_yaxis()
    axes.margins(x=0.15)
    height, width = report.info["canvas"]
    axes.set(
        title=f"{report.info['recipe']}, {height} x {width} px, {report.info['threads']} threads",
        xlabel="ms per image: network (blue), the rest to boxes or classes (gray)",
    )
    disable_math([axes.title, *axes.get_yticklabels()])
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    with atomic_write(report.file) as tmp:
        figure.savefig(tmp, format="png", dpi=120)
