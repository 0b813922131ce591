"""Copy tensors into a model by name and shape, and report what was copied."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from boxwright.errors import InputError

# Buffers determined by the recipe. Our files also hold them, which shows if they were written with another recipe.
FROM_RECIPE = {"mean", "std"}
# Entries that other projects' files may lack; the counter only matters for batch norm with momentum=None.
OPTIONAL = FROM_RECIPE | {"num_batches_tracked"}
# Types that PyTorch computes with on every device; other types are packed or quantized.
PLAIN = {
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool,
}  # fmt: skip
MAX_SHOWN = 4  # names in a message


@dataclass(frozen=True)
class LoadReport:
    """Result of loading, for each tensor.

    Attributes:
        path: The file.
        matched: Tensors that were copied.
        missing: Tensors of the model that are not in the file.
        unexpected: Tensors of the file that are not in the model.
        mismatched: Tensors with different shapes, or a mean or std unlike the recipe's. With transfer, missing and
            mismatched tensors keep their values.
        assumed: Settings taken from the recipe because the file does not store them.
    """

    path: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]
    assumed: str = ""

    @property
    def fresh(self) -> tuple[str, ...]:
        """Tensors of the model that were not loaded."""
        return self.missing + self.mismatched

    def fresh_parts(self) -> list[str]:
        """`fresh`, abbreviated: `layer.*` if nothing below `layer` was loaded, `*` for numbers of blocks."""
        found: dict[str, None] = {}
        for name in self.fresh:
            pieces = name.split(".")
            parents = [".".join(pieces[:depth]) + "." for depth in range(1, len(pieces))]
            empty = (parent + "*" for parent in parents if not any(n.startswith(parent) for n in self.matched))
            shortest = next(empty, name)
            found[re.sub(r"(?<=\.)\d+(?=\.\w)", "*", shortest)] = None
        return list(found)

    def __str__(self) -> str:
        words = [f"{Path(self.path).name}: {len(self.matched)} tensors loaded"]
        if self.fresh:
            words.append(f"{len(self.fresh)} stay fresh ({', '.join(self.fresh_parts())})")
        if self.unexpected:
            words.append(f"{len(self.unexpected)} of the file left over ({_first(self.unexpected)})")
        if self.assumed:
            words.append(f"assumed {self.assumed}; set model.anchors if your .cfg has others")
        return "; ".join(words)


def is_optional(name: str) -> bool:
    return name.rpartition(".")[2] in OPTIONAL


def fit(
    model: nn.Module, tensors: dict[str, Tensor], path: str, *, transfer: bool, unexpected: Sequence[str] = ()
) -> LoadReport:
    """Copy `tensors` into the model if name and shape match, converted to the model's types.

    Raises InputError before anything is copied: as `compare`, and if a value is not finite.
    """
    report = compare(model, tensors, path, transfer=transfer, unexpected=unexpected)
    own = model.state_dict()
    for name in report.matched:
        if not torch.isfinite(tensors[name].to(own[name].dtype)).all():
            raise InputError(f"{path}: {name} holds numbers that are not finite; the run that made it diverged")
    with torch.no_grad():
        for name in report.matched:
            own[name].copy_(tensors[name])
    return report


def compare(
    model: nn.Module, tensors: dict[str, Tensor], path: str, *, transfer: bool, unexpected: Sequence[str] = ()
) -> LoadReport:
    """Report of what `fit` would do, for a model whose parameters need not have memory yet.

    unexpected: additional entries of the file that are not in the model, for the report.
    Raises InputError if something does not fit and `transfer` is False, if nothing fits at all, and for a tensor whose
    type is not in `PLAIN`.
    """
    own = model.state_dict()
    for name, tensor in tensors.items():
        if name in own and tensor.dtype not in PLAIN:
            raise InputError(
                f"{path}: {name} holds numbers of type {str(tensor.dtype).removeprefix('torch.')}, needed plain ones "
                "such as float32 or float16; convert the file"
            )
    fits = {name for name, tensor in tensors.items() if name in own and _fits(name, tensor, own[name])}
    report = LoadReport(
        path=path,
        matched=tuple(name for name in own if name in fits),
        missing=tuple(name for name in own if name not in tensors and not is_optional(name)),
        unexpected=(*(name for name in tensors if name not in own), *unexpected),
        mismatched=tuple(name for name in tensors if name in own and name not in fits),
    )
    if not any(not is_optional(name) for name in fits):
        raise InputError(f"{path}: none of its tensors fits the model; {_hint(report)}")
    if not transfer and (report.fresh or report.unexpected):
        raise InputError(_refusal(report, tensors, own))
    return report


def _fits(name: str, tensor: Tensor, own: Tensor) -> bool:
    if tensor.shape != own.shape or tensor.is_floating_point() != own.is_floating_point():
        return False
    return name not in FROM_RECIPE or torch.equal(tensor.to(own), own)


def _refusal(report: LoadReport, tensors: dict[str, Tensor], own: dict[str, Tensor]) -> str:
    parts = [f"{len(report.matched)} tensors fit"]
    if report.mismatched:
        name = report.mismatched[0]
        values = name in FROM_RECIPE and tensors[name].shape == own[name].shape
        found, needed = (_describe(state[name], values) for state in (tensors, own))
        parts.append(f"{len(report.mismatched)} differ ({name} is {found}, the model's is {needed})")
    if report.missing:
        parts.append(f"{len(report.missing)} are missing ({_first(report.missing)})")
    if report.unexpected:
        parts.append(f"{len(report.unexpected)} have no place in the model ({_first(report.unexpected)})")
    remedy = "use the recipe they were made with"
    of_other_classes = all(_differ_in_rows(tensors[name], own[name]) for name in report.mismatched)
    if of_other_classes and not report.missing and not report.unexpected:
        remedy = "--set model.classes=N --set 'data.names=[]'"
    return f"{report.path}: {', '.join(parts)}; {remedy}, or --transfer to load what fits"


def _differ_in_rows(tensor: Tensor, own: Tensor) -> bool:
    """As those of a head for another number of classes."""
    return tensor.ndim > 0 and tensor.shape != own.shape and tensor.shape[1:] == own.shape[1:]


def _describe(tensor: Tensor, values: bool) -> str:
    """Its first values, or its shape."""
    return str([round(x, 4) for x in tensor.flatten()[:3].tolist()] if values else list(tensor.shape))


def _hint(report: LoadReport) -> str:
    found = report.unexpected or report.mismatched
    return f"it holds {_first(found, 1)}, the model needs {_first(report.missing, 1)}" if found else "it holds nothing"


def _first(names: Sequence[str], limit: int = MAX_SHOWN) -> str:
    shown = [(name if name.isprintable() else repr(name))[:100] for name in names[:limit]]
    return ", ".join(shown) + (", ..." if len(names) > limit else "")
