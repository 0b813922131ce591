"""Export of weights to a file for another runtime, with a parity check."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import nn

from boxwright import runtimes
from boxwright.config import Overrides
from boxwright.errors import InputError, titled
from boxwright.export import parity
from boxwright.export.complete import complete_graph
from boxwright.export.parity_predictions import MIN_SCORE
from boxwright.files import atomic_write, atomic_write_group
from boxwright.predict.loading import load_network, recipe_of
from boxwright.recipe import Recipe
from boxwright.runtimes.base.graph import Graph, raw_graph
from boxwright.runtimes.base.metadata import Metadata, fingerprint
from boxwright.runtimes.base.target import Target
from boxwright.types import Detector
from boxwright.version import __version__
from boxwright.weights.files import check_not_overwritten, locate

MAX_BATCH = 4096


def export_model(
    source: str | Path,
    to: str,
    out: str | Path | None = None,
    *,
    recipe: str | Path | Recipe | None = None,
    overrides: Overrides = (),
    size: tuple[int, int] | None = None,
    batch: int | None = None,
    dynamic_batch: bool = False,
    half: bool = False,
    complete: bool = False,
    data: str | Path | None = None,
    split: str | None = None,
    chip: str | None = None,
    inputs: Sequence[str | Path] = (),
) -> parity.ParityReport:
    """Export a network to a file for another runtime, which is kept only if its results match PyTorch's.

    The report of the parity check is written to FILE.parity.json, also if the check fails; `out` is unchanged then.

    Args:
        source: A run folder or a file of weights.
        to: One of `onnx`, `openvino`, `torchscript`, `pt2`, `mindir`, `om`, `darknet`, `ckpt`, `triton`.
        out: The file; None for one in the working directory, named after `source`. For triton the model repository.
        recipe: A shipped name, a YAML file or a Recipe; None for the one stored with the weights.
        overrides: Changes to the recipe by dotted key.
        size: (height, width) px of the canvas; None for the recipe's.
        batch: Batch size of the file; None for 1. For triton the largest batch size; None for 8.
        dynamic_batch: Support any batch size.
        half: FP16 weights.
        complete: Include preprocessing, decoding and NMS: from uint8 images to detections or classes. Otherwise from
            canvases to raw outputs.
        data: The root of a data set to compare results on; None for rendered scenes.
        split: Split of `data`; None for val.
        chip: The Ascend device of an om, such as Ascend310P3.
        inputs: Further files that `recipe` was made of; they are not overwritten either.

    Returns:
        The report of the parity check.

    Raises:
        InputError: The results differ, the weights cannot be read, arguments conflict, or the format does not support
            the network.

    Example:
        >>> bw.export_model("runs/mine", "onnx", "mine.onnx", dynamic_batch=True)
    """
    if to == "triton":
        from boxwright.export import triton  # which calls this function

        return triton.export_repository(
            source, out, batch=batch, recipe=recipe, overrides=overrides, size=size, half=half, data=data, split=split,
            chip=chip,
        )  # fmt: skip
    if to == "air":
        raise InputError("--to air: MindSpore writes AIR on Ascend hardware only; use --to mindir or --to om")
    target, batch = runtimes.target(to), 1 if batch is None else batch
    _check_options(to, target, batch, dynamic_batch, half, complete, chip)
    split = _split(split, data)
    if target.compiler is not None:
        target.compiler.check(chip)
    read = [*inputs, *([recipe] if isinstance(recipe, str | Path) else [])]
    path = _path(source, to, target, out, [*source_files(source), *map(Path, read)])
    model, resolved = load_for_export(source, recipe, overrides, size)

    def make_graph(recipe: Recipe) -> Graph:
        return (complete_graph if complete else raw_graph)(model, recipe, batch, dynamic_batch)

    graph = make_graph(resolved) if target.write else None
    metadata = Metadata(
        recipe=resolved,
        kind="complete" if complete else "raw",
        precision="float16" if half else "float32",
        outputs=graph.outputs if graph is not None else cast(Detector, model).raw_names,
        fingerprint=fingerprint(model),
        version=__version__,
    )
    write = partial(_write_and_compare, target, model=model, path=path, data=data, split=split)
    with atomic_write_group(path) as final:
        tmp = final if target.compiler is None else final.with_suffix(target.compiler.source)
        if target.metadata_beside:
            with atomic_write(f"{final}.json") as beside:
                beside.write_text(metadata.to_text(), encoding="utf-8")
        report = write(tmp, graph, metadata)
        _check_companion(target, tmp, path)
        if complete and report.has_no_predictions:
            lower = replace(metadata, recipe=resolved.with_overrides({"predict.threshold": MIN_SCORE}))
            with tempfile.TemporaryDirectory() as folder:
                report = write(Path(folder) / path.name, make_graph(lower.recipe), lower)
            report = _fail_if_empty(report)
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
    """Raise InputError for options that conflict."""
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
        supported = [name for name, other in runtimes.targets().items() if other.compiler is not None]
        raise InputError(f"--chip: found with --to {to}, goes with {' and '.join(supported)}; leave it out")
    if half and "float16" not in target.write:
        supported = [name for name, other in runtimes.targets().items() if "float16" in other.write]
        raise InputError(f"--half: found with --to {to}, goes with {' and '.join(supported)}")


def _split(split: str | None, data: str | Path | None) -> str:
    """The split to compare on. Raises InputError for a split without a data set."""
    if split is not None and data is None:
        raise InputError(f"--split {split}: found without --data; name the data set as well")
    return split or "val"


def _path(source: str | Path, to: str, target: Target, out: str | Path | None, read: list[Path]) -> Path:
    """The path of the file. Raises InputError for another suffix, if it would overwrite one of `read` or a companion
    file of something else, and if a default name is that of weights from elsewhere."""
    path = Path(default_name(source) + target.suffix if out is None else out)
    if path.suffix != target.suffix:
        raise InputError(f"{path}: found the suffix '{path.suffix}', needed {target.suffix} for --to {to}")
    others = [Path(f"{path}.json")] if target.metadata_beside else []
    if target.companion:
        others.append(path.with_suffix(target.companion))
    check_not_overwritten([path, Path(f"{path}.parity.json"), *others], read)
    if not path.exists() and (there := next((other for other in others if other.exists()), None)):
        raise InputError(f"{there}: exists without {path.name}, and would be overwritten; name another file")
    if out is None and target.metadata_beside and path.exists() and not Path(f"{path}.json").exists():
        raise InputError(
            f"{path}: exists, and no export wrote it (there is no {path.name}.json); name another file with -o"
        )
    return path


def _check_companion(target: Target, tmp: Path, path: Path) -> None:
    """Raise InputError if the companion file of `path` exists already, and belongs to another file."""
    other = path.with_suffix(target.companion)
    if target.companion and other.exists() and not tmp.with_suffix(target.companion).exists():
        raise InputError(
            f"{other}: is there, and is not that of {path.name}, which gets none; remove it or name another file"
        )


def default_name(source: str | Path) -> str:
    """The default file name, without suffix: that of the weights or of their run.

    Not the name of the stored recipe, which an untrusted file could choose to overwrite another file.
    """
    path = Path(source).resolve()
    is_folder, path = path.is_dir(), Path(titled(str(path)))  # the name in an archive or an object store
    if is_folder:
        return (path.parent if path.name in {"best", "last"} else path).name or "model"
    return path.stem


def is_model_name(name: str) -> bool:
    """Whether a model may have this name in a server: in URLs, configurations and file names."""
    return bool(name) and name[0] != "." and all(char.isalnum() or char in "-_." for char in name)


def source_files(source: str | Path) -> list[Path]:
    """The files that are read for `source`."""
    file = locate(Path(source))
    return [file, Path(f"{file}.json")]


def load_for_export(
    source: str | Path,
    given: str | Path | Recipe | None,
    overrides: Overrides,
    size: tuple[int, int] | None,
) -> tuple[nn.Module, Recipe]:
    """The network on the CPU, and its recipe with the canvas of the file."""
    changes: dict[str, object] = {"data.canvas.trim": False}  # the file's canvas has a fixed size
    if size is not None:
        changes["data.canvas.size"] = list(size)
    resolved = recipe_of(source, given).with_overrides(overrides).with_overrides(changes)
    model, resolved, _ = load_network(source, resolved, "cpu", ())
    # files store weights in contiguous layout, not in the one that is fast here
    return model.to(memory_format=torch.contiguous_format), resolved  # type: ignore[call-overload]


def _write_and_compare(
    target: Target,
    tmp: Path,
    graph: Graph | None,
    metadata: Metadata,
    model: nn.Module,
    path: Path,
    data: str | Path | None,
    split: str,
) -> parity.ParityReport:
    if graph is not None:
        target.write[metadata.precision](graph, tmp, metadata.to_text())
    elif target.write_weights is not None:
        target.write_weights(tmp, model, metadata.recipe)
    try:
        return parity.check(tmp, path, model, metadata, target.checked_by, data, split)
    except InputError as error:  # with the path that the user gave
        raise InputError(str(error).replace(str(tmp), str(path))) from error


def _fail_if_empty(report: parity.ParityReport) -> parity.ParityReport:
    # without any detections the results match whatever the networks compute
    if not report.has_no_predictions:
        return report
    reason = f"nothing is found on {report.content['images']} from score {MIN_SCORE} on"
    return replace(report, reason=f"{reason}; name images with something on them by --data")
