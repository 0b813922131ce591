"""Files -> Batch. `open_dataset` finds out which files a folder holds and reads one split of it.

`--data` names a folder, a COCO JSON file, or a small YAML file that says what lies where:

    root: ../coco              # folder all paths start from; default: the YAML's own folder (`path` means the same)
    kind: coco                 # coco, yolo_txt, line_txt, dota or voc; default: found out
    train: annotations/a.json  # one entry a split (train, val, test): a COCO JSON, a folder of pictures, or a list;
                               # for dota the folder of labels, for voc a list of names or the folder of labels
    val: annotations/b.json
    images: pictures           # the folder that file_name (COCO) or a list's paths start from; default: looked for
    names: [car, truck]        # other formats: classes in label order, or a shipped list such as dota15; default:
                               # classes.txt, obj.names, data.yaml

Nothing in the file is executed or fetched.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pydantic
from pydantic import Field

from boxwright import config
from boxwright.data import coco, dota, index, line_txt, text, voc, yolo_txt
from boxwright.data.dataset import Dataset, Sample
from boxwright.data.split_names import ordered, plain
from boxwright.errors import InputError

__all__ = ["Dataset", "Sample", "open_dataset", "open_pictures", "splits"]

Names = Annotated[tuple[str, ...], pydantic.BeforeValidator(text.listed_names)]
READERS = {"yolo_txt": yolo_txt.read, "line_txt": line_txt.read, "dota": dota.read, "voc": voc.read}  # and `coco`
FINDERS = {
    "coco": coco.find, "yolo_txt": yolo_txt.find, "line_txt": line_txt.find, "dota": dota.find, "voc": voc.find,
}  # fmt: skip
LOOKED_FOR = {
    "coco": coco.LOOKED_FOR, "yolo_txt": yolo_txt.LOOKED_FOR, "line_txt": line_txt.LOOKED_FOR,
    "dota": dota.LOOKED_FOR, "voc": voc.LOOKED_FOR,
}  # fmt: skip


class DataFile(config.Config):
    """The YAML that `--data` may name."""

    root: str = Field("", validation_alias=pydantic.AliasChoices("root", "path"))
    kind: Literal["auto", "coco", "yolo_txt", "line_txt", "dota", "voc"] = "auto"
    train: str | None = None
    val: str | None = None
    test: str | None = None
    images: str | None = None
    names: Names | None = None
    nc: int | None = None  # how many names, as YOLO's files say it again

    @pydantic.model_validator(mode="after")
    def _counts_agree(self) -> "DataFile":
        if self.nc is not None and self.names is not None and self.nc != len(self.names):
            raise ValueError(f"nc is {self.nc}, names holds {len(self.names)} names")
        return self


def open_dataset(root: str | Path, split: str, kind: str = "auto", cache: str | Path | None = None) -> Dataset:
    """The pictures and labels of one split, faulty labels included (see `check`).

    root: a folder, a COCO JSON file (whose pictures are looked for near it, and which is every split), or a YAML file
    as above. split: train, val, test or another that the folder holds. kind: one of FINDERS, or auto.
    cache: folder for the index of a COCO JSON (see `index`); None or "": the user's cache folder.
    Raises InputError when nothing or more than one thing is found, and for files that cannot be read.
    """
    source = _sought(Path(root), split, kind)
    dataset = source.read(split, cache)
    names = dataset.names
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        raise InputError(
            f"{source.path}: {len(twice)} class names stand more than once ({', '.join(twice[:5])}), needed different "
            "ones; rename or merge these classes"
        )
    return dataset


def open_pictures(root: str | Path, split: str, kind: str = "auto") -> Dataset:
    """The pictures of one split without their labels, which need not be there: for results that others score.

    root, split, kind: as in `open_dataset`. Of a folder, COCO's lists of pictures without labels come first:
    annotations/image_info_SPLIT2017.json, for test also image_info_test-dev2017.json.
    """
    place, name = Path(root), plain(split)
    listed = {key: _Source("coco", file, place) for key, file in coco.find_pictures(place).items()}
    meant = {key: source for key, source in listed.items() if plain(key) in {name, f"{name}-dev"}}
    if split in listed:
        meant = {split: listed[split]}
    source = _only(place, split, meant) if meant else _sought(place, split, kind)
    if source.kind == "coco":
        return coco.placed(coco.parse_pictures(source.path), source.path, split, source.root, source.pictures)
    dataset = source.read(split, None)
    return dataset.without_rows(np.ones(len(dataset.rows), dtype=bool))


def _sought(place: Path, split: str, kind: str) -> "_Source":
    """The one labelled source of that split."""
    found = _find(place, kind)
    sources = {name: source for name, source in found.items() if plain(name) == plain(split)}
    if split in found or (place.suffix == ".json" and found):
        sources = {split: found.get(split) or next(iter(found.values()))}
    if not sources:
        raise InputError(f"{place}: no split '{split}'; it holds {', '.join(ordered(found))}")
    return _only(place, split, sources)


def _only(place: Path, split: str, sources: "Mapping[str, _Source]") -> "_Source":
    if len(sources) > 1:
        raise InputError(f"{place}: split '{split}' may be {' or '.join(sources)}; say which")
    (source,) = sources.values()
    return source


def splits(root: str | Path, kind: str = "auto") -> list[str]:
    """The splits that `root` holds: train, val, test first, then others by name."""
    return ordered(_find(Path(root), kind))


@dataclass(frozen=True)
class _Source:
    """One split that was found, and how to read it."""

    kind: str
    path: Path
    root: Path
    names: tuple[str, ...] = ()
    pictures: Path | None = None

    def read(self, split: str, cache: str | Path | None) -> Dataset:
        if self.kind == "coco":
            dataset = coco.placed(index.contents(self.path, cache), self.path, split, self.root, self.pictures)
            if self.names and self.names != dataset.names:
                raise InputError(f"{self.path}: categories are {dataset.names}, names in the data YAML {self.names}")
            return dataset
        return READERS[self.kind](self.path, split, self.root, self.names, self.pictures)


def _find(place: Path, kind: str) -> dict[str, _Source]:
    """Split -> source, for anything that `--data` may name."""
    if place.suffix in {".yaml", ".yml"}:
        return _from_yaml(place, kind)
    if place.suffix == ".json":
        folder = place.parent.parent if place.parent.name == "annotations" else place.parent
        return {place.stem.removeprefix("instances_"): _Source("coco", place, folder)}
    if not place.is_dir():
        raise InputError(f"{place}: there is no such folder; needed a data set's folder, COCO JSON, or YAML")
    wanted = list(FINDERS) if kind == "auto" else [kind]
    found = {name: FINDERS[name](place) for name in wanted if FINDERS[name](place)}
    if not found:
        looked_for = "; ".join(f"{name}: {LOOKED_FOR[name]}" for name in wanted)
        raise InputError(f"{place}: no data set found; looked for {looked_for}")
    if len(found) > 1:
        raise InputError(f"{place}: may be {' or '.join(found)}; say which with the key 'kind' (data.kind in a recipe)")
    ((name, files),) = found.items()
    return {split: _Source(name, path, place) for split, path in files.items()}


def _from_yaml(file: Path, kind: str) -> dict[str, _Source]:
    said = config.validate(DataFile, config.read_yaml(file), str(file))
    root = file.parent / said.root
    kind = said.kind if kind == "auto" else kind
    paths = {split: root / value for split in ("train", "val", "test") if (value := getattr(said, split)) is not None}
    pictures = None if said.images is None else root / said.images
    names = said.names or ()
    if not paths:
        return {split: replace(s, names=names, pictures=pictures) for split, s in _find(root, kind).items()}
    for split, path in paths.items():
        if not path.exists():
            raise InputError(f"{file}: {split}: there is no {path}")
    return {split: _Source(_kind_of(path, kind), path, root, names, pictures) for split, path in paths.items()}


def _kind_of(path: Path, kind: str) -> str:
    if kind != "auto":
        return kind
    found = "yolo_txt" if path.is_dir() else "coco" if path.suffix == ".json" else text.list_kind(path)
    if found is None:
        raise InputError(f"{path}: neither a COCO JSON, a folder of pictures, nor a list of pictures; say 'kind'")
    return found
