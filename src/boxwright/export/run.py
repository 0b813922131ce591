"""Weights -> a file for another runtime, which is kept only where it gives the same answers."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from boxwright import __version__
from boxwright.errors import InputError
from boxwright.export import mindir, om, onnx, openvino, parity, programs
from boxwright.export.complete import complete_graph
from boxwright.export.graph import Graph, raw_graph
from boxwright.files import atomic_write, atomic_write_group
from boxwright.predict.card import Card, fingerprint
from boxwright.predict.loading import load_network, recipe_of
from boxwright.recipe import Recipe
from boxwright.weights import darknet, mindspore
from boxwright.weights.files import keep_apart, locate

Format = Literal["onnx", "openvino", "torchscript", "pt2", "mindir", "om", "darknet", "ckpt"]
SUFFIXES = {
    "onnx": ".onnx", "openvino": ".xml", "torchscript": ".torchscript", "pt2": ".pt2", "mindir": ".mindir",
    "om": ".om", "darknet": ".weights", "ckpt": ".ckpt",
}  # fmt: skip
# What runs the file beside PyTorch. The files of weights are read back into the same network. Files for Ascend devices
# run there only: what is compared is the ONNX file that they are made of.
RUNTIMES = {
    "onnx": "onnxruntime", "openvino": "openvino", "torchscript": "torch", "pt2": "torch", "mindir": "mindspore",
    "om": "onnxruntime", "darknet": "torch", "ckpt": "torch",
}  # fmt: skip
WEIGHTS = ("darknet", "ckpt")
HALVED = ("onnx", "openvino")
MOST_PICTURES = 4096  # that a file takes at a time
FIXED = ("mindir", "om")  # in all their shapes


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
    _check(to, batch, dynamic_batch, half, complete, chip)
    split = _part(split, data)
    if to == "om":
        om.need_atc(chip)
    target = _target(source, to, out)
    model, chosen = network(source, recipe, overrides, size)
    kind, precision = "complete" if complete else "raw", "float16" if half else "float32"
    if to in WEIGHTS:
        graph, outputs = None, tuple(model.raw_names)  # type: ignore[arg-type]
    else:
        graph = (complete_graph if complete else raw_graph)(model, chosen, batch, dynamic_batch)
        outputs = graph.outputs
    card = Card(chosen, kind, precision, outputs, fingerprint(model), __version__)  # type: ignore[arg-type]
    with atomic_write_group(target) as final:
        part = final.with_suffix(".onnx") if to == "om" else final
        if graph is None:
            _write_weights(to, part, model, card)
        else:
            _write_graph(to, part, graph, card)
        report = _compared(to, part, target, model, card, data, split)
        if complete and report.found_nothing:
            report = _probe(to, target, model, card, batch, dynamic_batch, data, split)
        saved = report.save()
        if report.reason:
            raise InputError(f"{target}: not written, for {report.reason}; all of it: {saved}")
        if to == "om":
            om.write(part, final, str(chip))
            part.unlink()
            _write_beside(final, card)
    return report


def _check(to: str, batch: int, dynamic_batch: bool, half: bool, complete: bool, chip: str | None) -> None:
    """Raises InputError for words that do not go together."""
    if to == "air":
        raise InputError("--to air: MindSpore writes AIR on Ascend hardware only; use --to mindir or --to om")
    if to not in SUFFIXES:
        raise InputError(f"--to: found '{to}', needed one of {', '.join(get_args(Format))}")
    if not 1 <= batch <= MOST_PICTURES:
        raise InputError(f"--batch: found {batch}, needed 1 to {MOST_PICTURES}")
    if dynamic_batch and batch > 1:
        raise InputError(f"--dynamic-batch and --batch {batch}: found both, needed one; leave --batch out")
    asked = {"--batch": batch > 1, "--dynamic-batch": dynamic_batch, "--half": half, "--with-nms": complete}
    if to in WEIGHTS and any(asked.values()):
        wrong = ", ".join(option for option, given in asked.items() if given)
        raise InputError(f"{wrong}: --to {to} writes weights without a network; leave it out")
    if to in FIXED and (dynamic_batch or complete):
        raise InputError(f"--to {to}: found --dynamic-batch or --with-nms, needs fixed shapes; leave it out")
    if chip is not None and to != "om":
        raise InputError(f"--chip: found with --to {to}, goes with om; leave it out")
    if half and to not in HALVED:
        raise InputError(f"--half: found with --to {to}, goes with {' and '.join(HALVED)}")


def _part(split: str | None, data: str | None) -> str:
    """The split to look at. Raises InputError for one of no data set."""
    if split is not None and data is None:
        raise InputError(f"--split {split}: found without --data, of which it is a part; name the data set as well")
    return split or "val"


def _target(source: str | Path, to: str, out: str | Path | None) -> Path:
    """Where the file goes. Raises InputError for another suffix and where it would take the place of what is read."""
    target = Path(named_after(source) + SUFFIXES[to] if out is None else out)
    if target.suffix != SUFFIXES[to]:
        raise InputError(f"{target}: found the suffix '{target.suffix}', needed {SUFFIXES[to]} for --to {to}")
    written = [target, Path(f"{target}.parity.json")]
    if to in (*WEIGHTS, "om"):
        written.append(Path(f"{target}.json"))
    if to == "openvino":
        written.append(target.with_suffix(".bin"))
    keep_apart(written, read_of(source))
    return target


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


def _compared(
    to: str, part: Path, target: Path, model: nn.Module, card: Card, data: str | None, split: str
) -> parity.Report:
    try:
        return parity.check(part, target, model, card, RUNTIMES[to], data, split)
    except InputError as error:  # by the name that the user gave
        raise InputError(str(error).replace(str(part), str(target))) from error


def _probe(
    to: str, target: Path, model: nn.Module, card: Card, batch: int, dynamic_batch: bool, data: str | None, split: str
) -> parity.Report:
    """The comparison of a file with a lower threshold inside, where nothing on the pictures reaches the recipe's: two
    that find nothing are equal whatever they compute. Refused where nothing reaches the lower one either."""
    lower = replace(card, recipe=card.recipe.with_overrides({"predict.threshold": parity.LOWEST}))
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / target.name
        _write_graph(to, part, complete_graph(model, lower.recipe, batch, dynamic_batch), lower)
        report = _compared(to, part, target, model, lower, data, split)
    if report.found_nothing:
        pictures = report.content["pictures"]
        reason = f"nothing is found on {pictures} from score {parity.LOWEST} on, so that nothing is compared"
        report = replace(report, reason=f"{reason}; name pictures with something on them by --data")
    return report


def _write_graph(to: str, part: Path, graph: Graph, card: Card) -> None:
    text, half = card.to_text(), card.precision == "float16"
    if to == "onnx":
        onnx.write(graph, part, text, half=half)
    elif to == "om":
        onnx.write(graph, part, text, deform="plain")
    elif to == "openvino":
        openvino.write(graph, part, text, half=half)
    elif to == "torchscript":
        programs.write_torchscript(graph, part, text)
    elif to == "pt2":
        programs.write_pt2(graph, part, text)
    else:
        mindir.write(graph, part, text)


def _write_weights(to: str, part: Path, model: nn.Module, card: Card) -> None:
    """Files that have no place for their card."""
    if to == "darknet":
        darknet.write(part, model)
    else:
        mindspore.write(part, model, card.recipe)
    _write_beside(part, card)


def _write_beside(part: Path, card: Card) -> None:
    with atomic_write(f"{part}.json") as beside:
        beside.write_text(card.to_text(), encoding="utf-8")
