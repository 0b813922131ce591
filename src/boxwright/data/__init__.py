"""Files -> Batch. `open_dataset` finds out which files a folder holds and reads one split of it.

`--data` names a folder, a COCO JSON file, or a small YAML file that says what lies where:

    root: ../coco              # folder all paths start from; default: the YAML's own folder (`path` means the same)
    kind: coco                 # coco, yolo_txt or line_txt; default: found out
    train: annotations/a.json  # one entry a split: a COCO JSON, a folder of pictures, or a .txt list
    val: annotations/b.json
    images: pictures           # COCO: the folder that file_name starts from; default: looked for
    names: [car, truck]        # classes in label order, for the text formats; default: classes.txt, obj.names, data.yaml

Nothing in the file is executed or fetched.
"""

from pathlib import Path

from boxwright.data.dataset import Dataset, Sample

__all__ = ["Dataset", "Sample", "open_dataset", "splits"]


def open_dataset(root: str | Path, split: str, kind: str = "auto") -> Dataset:
    """The pictures and labels of one split."""
    raise NotImplementedError


def splits(root: str | Path, kind: str = "auto") -> list[str]:
    """The splits that `root` holds: train, val, test first, then others by name."""
    raise NotImplementedError
