"""Weights -> a file for another runtime, which is kept only where it gives the same answers."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from boxwright import __version__, runtimes
from boxwright.errors import InputError
from boxwright.export import parity
from boxwright.export.complete import complete_graph
from boxwright.files import atomic_write, atomic_write_group
from boxwright.predict.loading import load_network, recipe_of
from boxwright.recipe import Recipe
from boxwright.runtimes.base.graph import Graph, raw_graph
from boxwright.runtimes.base.metadata import Metadata, fingerprint
from boxwright.runtimes.base.target import Target
from boxwright.types import Detector
from boxwright.weights.files import keep_apart, locate

MAX_BATCH = 4096  # of a file


def export_model(
    source: str | Path,
    to: str,
    out: str | Path | None = None,
    *,
    recipe: str | Path | Recipe | None = None,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    size: tuple[int, int] | None = None,
    batch: int = 1,
    dynamic_batch: bool = False,
    half: bool = False,
    complete: bool = False,
    data: str | None = None,
    split: str | None = None,
    chip: str | None = None,
) -> parity.Report:
    """Write a network to a file for another runtime, which is kept only where it gives PyTorch's answers.

    The file is run beside PyTorch; the report lies beside it as FILE.parity.json, also where the answers differ. Then
    `out` is left as it was.

    Args:
        source: A run folder or a file of weights.
        to: One of `onnx`, `openvino`, `torchscript`, `pt2`, `mindir`, `om`, `darknet`, `ckpt`.
        out: The file; None for one in this folder with the name of `source`.
        recipe: A shipped name, a YAML file or a Recipe; None for the one stored with the weights.
        overrides: Changes to the recipe by dotted key.
        size: (height, width) px of the canvas; None for the recipe's.
        batch: Batch size of the file.
        dynamic_batch: The file takes any batch size.
        half: FP16 weights.
        complete: From pictures as bytes to detections or classes, preprocessing and NMS inside; else from canvases to
            the raw tensors.
        data: The root of a data set on whose pictures the answers are compared; None for rendered scenes.
        split: Which part of it; None for val.
        chip: The Ascend device that an om is for, such as Ascend310P3.

    Returns:
        The report.

    Raises:
        InputError: Where the answers differ, and where; for weights that cannot be read, arguments that do not go
            together, and what the format cannot hold.

    Example:
        >>> bw.export_model("runs/mine", "onnx", "mine.onnx", dynamic_batch=True)
    """
    if to == "air":
        raise InputError("--to air: MindSpore writes AIR on Ascend hardware only; use --to mindir or --to om")
    target = runtimes.target(to)
    _check_options(to, target, batch, dynamic_batch, half, complete, chip)
    split = _split(split, data)
    if target.compiler is not None:
        target.compiler.check(chip)
    path = _path(source, to, target, out)
    model, chosen = network(source, recipe, overrides, size)

    def make_graph(recipe: Recipe) -> Graph:
        return (complete_graph if complete else raw_graph)(model, recipe, batch, dynamic_batch)

    graph = make_graph(chosen) if target.write else None
    metadata = Metadata(
        recipe=chosen,
        kind="complete" if complete else "raw",
        precision="float16" if half else "float32",
        outputs=graph.outputs if graph is not None else cast(Detector, model).raw_names,
        fingerprint=fingerprint(model),
        version=__version__,
    )
    checked = partial(_write_and_compare, target, model=model, path=path, data=data, split=split)
    with atomic_write_group(path) as final:
        tmp = final if target.compiler is None else final.with_suffix(target.compiler.source)
        if target.metadata_beside:
            with atomic_write(f"{final}.json") as beside:
                beside.write_text(metadata.to_text(), encoding="utf-8")
        report = checked(tmp, graph, metadata)
        if complete and report.found_nothing:
            lower = replace(metadata, recipe=chosen.with_overrides({"predict.threshold": parity.LOWEST}))
            with tempfile.TemporaryDirectory() as folder:
                report = checked(Path(folder) / path.name, make_graph(lower.recipe), lower)
            report = _refused_if_empty(report)
        saved = report.save()
        if report.reason:
            raise InputError(f"{path}: not written, for {report.reason}; all of it: {saved}")
        if target.compiler is not None:
            target.compiler.run(tmp, final, str(chip))
            tmp.unlink()
    return report


def _check_options(
    to: str, target: Target, batch: int, dynamic_batch: bool, half: bool, complete: bool, chip: str | None
) -> None:
    """Raise InputError for options that do not go together."""
    if not 1 <= batch <= MAX_BATCH:
        raise InputError(f"--batch: found {batch}, needed 1 to {MAX_BATCH}")
    if dynamic_batch and batch > 1:
        raise InputError(f"--dynamic-batch and --batch {batch}: found both, needed one; leave --batch out")
    given = {"--batch": batch > 1, "--dynamic-batch": dynamic_batch, "--half": half, "--with-nms": complete}
    if not target.write and any(given.values()):
        wrong = ", ".join(option for option, is_given in given.items() if is_given)
        raise InputError(f"{wrong}: --to {to} writes weights without a network; leave it out")
    if target.fixed_shapes and (dynamic_batch or complete):
        raise InputError(f"--to {to}: found --dynamic-batch or --with-nms, needs fixed shapes; leave it out")
    if chip is not None and target.compiler is None:
        able = [name for name, other in runtimes.targets().items() if other.compiler is not None]
        raise InputError(f"--chip: found with --to {to}, goes with {' and '.join(able)}; leave it out")
    if half and "float16" not in target.write:
        able = [name for name, other in runtimes.targets().items() if "float16" in other.write]
        raise InputError(f"--half: found with --to {to}, goes with {' and '.join(able)}")


def _split(split: str | None, data: str | None) -> str:
    """The split to compare on. Raises InputError for one of no data set."""
    if split is not None and data is None:
        raise InputError(f"--split {split}: found without --data, of which it is a part; name the data set as well")
    return split or "val"


def _path(source: str | Path, to: str, target: Target, out: str | Path | None) -> Path:
    """Where the file goes. Raises InputError for another suffix and where it would replace what is read."""
    path = Path(named_after(source) + target.suffix if out is None else out)
    if path.suffix != target.suffix:
        raise InputError(f"{path}: found the suffix '{path.suffix}', needed {target.suffix} for --to {to}")
    written = [path, Path(f"{path}.parity.json")]
    if target.metadata_beside:
        written.append(Path(f"{path}.json"))
    if target.companion:
        written.append(path.with_suffix(target.companion))
    keep_apart(written, read_of(source))
    return path


def named_after(source: str | Path) -> str:
    """The name without suffix of a file in this folder that is made of the weights at `source`: theirs, or their run's.

    It is never that of the stored recipe, by which somebody else would choose the file to write.
    """
    place = Path(source).resolve()
    if place.is_dir():
        return (place.parent if place.name in {"best", "last"} else place).name or "model"
    return place.stem


def read_of(source: str | Path) -> list[Path]:
    """The files that are read where `source` is."""
    file = locate(Path(source))
    return [file, Path(f"{file}.json")]


def network(
    source: str | Path,
    given: str | Path | Recipe | None,
    overrides: Mapping[str, Any] | Sequence[str],
    size: tuple[int, int] | None,
) -> tuple[nn.Module, Recipe]:
    """The network on the CPU, and its recipe with the canvas that the file will have."""
    chosen = recipe_of(source, given).with_overrides(overrides)
    changes: dict[str, Any] = {"data.canvas.trim": False}  # the file's canvas has one size
    if size is not None:
        changes["data.canvas.size"] = list(size)
    chosen = chosen.with_overrides(changes)
    model, chosen, _ = load_network(source, chosen, "cpu", (), chosen.model.task)
    # plain rows: files hold weights so, whatever layout is fast here
    return model.to(memory_format=torch.contiguous_format), chosen  # type: ignore[call-overload]


def _write_and_compare(
    target: Target,
    tmp: Path,
    graph: Graph | None,
    metadata: Metadata,
    model: nn.Module,
    path: Path,
    data: str | None,
    split: str,
) -> parity.Report:
    if graph is not None:
        target.write[metadata.precision](graph, tmp, metadata.to_text())
    elif target.write_weights is not None:
        target.write_weights(tmp, model, metadata.recipe)
    try:
        return parity.check(tmp, path, model, metadata, target.checked_by, data, split)
    except InputError as error:  # by the name that the user gave
        raise InputError(str(error).replace(str(tmp), str(path))) from error


def _refused_if_empty(report: parity.Report) -> parity.Report:
    # two files that find nothing are equal whatever they compute
    if not report.found_nothing:
        return report
    reason = f"nothing is found on {report.content['pictures']} from score {parity.LOWEST} on, so that nothing is"
    return replace(report, reason=f"{reason} compared; name images with something on them by --data")
