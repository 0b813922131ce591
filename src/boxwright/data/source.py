"""Location of a split of a data set on disk."""

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
    ids: tuple[int, ...] = ()  # their numbers in label files; (): 0, 1, ...
    images: Path | None = None  # base folder of relative paths, from a data YAML
    crowd: str = ""  # from a data YAML: `objects` if `iscrowd` marks single objects, `regions` if it does not
    bbox: str = ""  # from a data YAML: form of a box, `xywh` or `xyxy`, if the layout does not define it
    data_file: Path | None = None  # the data YAML
    labeled: tuple[str, ...] | None = None  # the classes that were looked for, from a data YAML; None: all
    others: tuple[Path, ...] = ()  # `path` of the other splits
    more: tuple[Path, ...] = ()  # additional paths of this split, from a data YAML
    keypoints: int = 0  # how many numbers of keypoints follow a box, from a data YAML
    notes: tuple[tuple[str, str], ...] = ()  # place and text: how the data YAML was read
    cache: str | Path | None = None  # folder of indexes; None: the user's cache folder
