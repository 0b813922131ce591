"""Load weights from a file into a model, and report what was loaded.

Kinds of file: safetensors and torch state dicts (.pt, .pth) with our names or those of `weights/names`, Darknet's
.weights and truncated backbones (*.conv.N), MindSpore's .ckpt. For a run folder, or its best/ or last/, the best
checkpoint in it is used.
"""

import re
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from boxwright import models
from boxwright.config import ModelConfig, Padding
from boxwright.errors import InputError
from boxwright.nn.channels import widen_tensors
from boxwright.nn.network import Network
from boxwright.recipe import Recipe
from boxwright.weights import checkpoint, darknet, mindspore, names, torch_files
from boxwright.weights.files import locate, require
from boxwright.weights.fit import LoadReport, compare, fit
from boxwright.weights.meta import contradiction, with_own_names
from boxwright.weights.shapes import without_memory
from boxwright.weights.torch_files import Contents

__all__ = ["LoadReport", "build", "kind_of", "load", "load_new", "read", "renamed", "stored_recipe", "with_names_of"]


def build(path: str | Path, recipe: Recipe) -> Network:
    """Build the network of `recipe` with the weights in `path`. Its shapes are compared with the file's before memory
    is allocated, since the recipe may be as untrusted as the file.

    Raises InputError for an unreadable file and for one that does not fit.
    """
    file = locate(Path(path))
    plan = without_memory(recipe.model)
    tensors, unexpected = read(plan, file, recipe, transfer=False)
    compare(plan, tensors, str(file), transfer=False, unexpected=unexpected)
    model = models.build(recipe.model)
    fit(model, tensors, str(file), transfer=False, unexpected=unexpected)
    return model


def load(model: nn.Module, path: str | Path, recipe: Recipe, *, transfer: bool = False) -> LoadReport:
    """Load the weights in `path` into `model`, which was built from `recipe.model`.

    transfer: load the tensors that fit and leave the rest unchanged; without it everything has to fit. In the MindSpore
    zoo's terms, `transfer_train` with `filter_weight`, and `pretrained_backbone`, are transfer; `resume` is not.
    Weights for RGB are adapted to a network with other channels (`nn/channels.py`).
    Raises InputError for an unreadable file and for one that does not fit; the model is unchanged then.
    """
    file = locate(Path(path))
    tensors, unexpected = _widened(model, file, recipe, transfer)
    report = fit(model, tensors, str(file), transfer=transfer, unexpected=unexpected)
    return _with_assumptions(report, file, recipe)


def load_new(path: str | Path, recipe: Recipe, *, transfer: bool = False) -> tuple[Network, LoadReport]:
    """The network of `recipe`, filled as by `load`; it takes memory only once its shapes fit the file's."""
    file = locate(Path(path))
    plan = without_memory(recipe.model)
    tensors, unexpected = _widened(plan, file, recipe, transfer)
    compare(plan, tensors, str(file), transfer=transfer, unexpected=unexpected)
    model = models.build(recipe.model)
    report = fit(model, tensors, str(file), transfer=transfer, unexpected=unexpected)
    return model, _with_assumptions(report, file, recipe)


def _widened(model: nn.Module, file: Path, recipe: Recipe, transfer: bool) -> tuple[dict[str, Tensor], list[str]]:
    """As `read`, for the channels of `recipe`."""
    tensors, unexpected = read(model, file, recipe, transfer)
    return widen_tensors(tensors, model.state_dict(), recipe.model.input_channels), unexpected


def _with_assumptions(report: LoadReport, file: Path, recipe: Recipe) -> LoadReport:
    anchors = getattr(recipe.model, "anchors", None)
    if kind_of(file) == "darknet" and anchors and not report.fresh:  # shapes do not depend on the anchors
        report = replace(report, assumed=f"anchors {' '.join(f'{w:g}x{h:g}' for w, h in anchors)}")
    return report


def stored_recipe(path: str | Path) -> Recipe | None:
    """Recipe that a checkpoint (or the best one in a run folder) was trained with; None if the file stores none."""
    file = locate(Path(path))
    return checkpoint.read_recipe(file) if kind_of(file) == "safetensors" else None


def with_names_of(path: str | Path, recipe: Recipe) -> Recipe:
    """`recipe` with the class names stored in a file of mmdetection; see `meta.with_own_names`."""
    file = locate(Path(path))
    return with_own_names(recipe, torch_files.contents(file)) if kind_of(file) == "torch" else recipe


def read(model: nn.Module, file: Path, recipe: Recipe, transfer: bool) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors by the names of `model`, of which only names and shapes are used, and entries that the model lacks."""
    kind, foreign = kind_of(file), names.of(recipe.model)
    unexpected: list[str] = []
    if kind == "darknet":
        tensors = darknet.read(file, model, recipe, transfer=transfer)
    elif kind == "mindspore":
        tensors, unexpected = mindspore.read(file, model, recipe, transfer=transfer)
    else:
        contents = torch_files.contents(file) if kind == "torch" else Contents(checkpoint.read_tensors(file))
        if not transfer and (reason := contradiction(recipe, contents)):
            raise InputError(f"{file}: {reason}, or --transfer")
        return renamed(model, contents, file, recipe), []
    if not transfer:
        _check_lineage(kind, foreign.padding, file, recipe)
    return foreign.adapt(tensors), unexpected


def renamed(model: nn.Module, contents: Contents, file: Path, recipe: Recipe) -> dict[str, Tensor]:
    """Tensors of a file by the names of `model`, of which only names are used."""
    foreign, tensors = names.of(recipe.model), contents.tensors
    if foreign.is_foreign(tensors) or not tensors.keys() & model.state_dict().keys():
        tensors = _translated(foreign, tensors, file)
    return foreign.adapt(tensors)


def _translated(foreign: names.ForeignNames[ModelConfig], tensors: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    try:
        return foreign.translate(tensors)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def _check_lineage(kind: str, padding: Padding | None, file: Path, recipe: Recipe) -> None:
    """Raise InputError for the zoo's weights with a Darknet recipe or vice versa: same shapes, different padding."""
    if (kind, padding) in {("darknet", "same"), ("mindspore", "symmetric")}:
        right = (
            "symmetric padding (recipes *_darknet)" if kind == "darknet" else "the padding 'same' (the zoo's recipes)"
        )
        raise InputError(
            f"{file}: such files belong to networks with {right}; recipe {recipe.name} has model.padding={padding}. "
            "Take the recipe of the file's origin, or --transfer to start from it all the same"
        )


def kind_of(file: Path) -> str:
    """Kind of a file: safetensors, torch, darknet or mindspore; by content if that is certain, else by suffix."""
    with require(file).open("rb") as stream:
        start = stream.read(9)
    if start.startswith(b"PK\x03\x04"):
        return "torch"
    if file.suffix == ".weights" or re.search(r"\.conv\.\d+$", file.name):
        return "darknet"
    if file.suffix == ".ckpt":
        return "mindspore"
    if file.suffix in {".pt", ".pth", ".pkl"}:
        return "torch"
    if file.suffix == ".safetensors" or start[8:9] == b"{":
        return "safetensors"
    if file.suffix == ".cfg":
        raise InputError(
            f"{file}: is the .cfg of a network, needed its weights; name them first, and the .cfg by --cfg"
        )
    raise InputError(f"{file}: not a weights file; needed .safetensors, .pt, .pth, .pkl, .weights, *.conv.N or .ckpt")
