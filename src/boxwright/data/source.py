"""Where a split of a data set is on disk."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Source:
    """One split of a data set on disk."""

    kind: str  # name of the layout
    path: Path  # of the split, from `Layout.find` or a data YAML
    split: str
    root: Path  # the folder or file that was opened
    names: tuple[str, ...] = ()  # class names from a data YAML
    images: Path | None = None  # base folder of relative paths, from a data YAML
    others: tuple[Path, ...] = ()  # `path` of the other splits
    cache: str | Path | None = None  # folder of indexes; None: the user's cache folder
