"""COCO JSON: `images`, `annotations` with xywh boxes, `categories`.

Labels are numbered in the order of the category ids, so COCO's 80 classes with ids 1 to 90 become 0 to 79, as in
pycocotools' `sorted(getCatIds())`. A box's area is the JSON's `area`, which for COCO is that of the outline.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from boxwright import json_text
from boxwright.data import coco_entries, coco_json, labeled_classes, text
from boxwright.data.coco_entries import Remarks, id_text
from boxwright.data.coco_images import image_paths
from boxwright.data.coco_index import Contents, read_indexed
from boxwright.data.coco_json import Entries, entries, load, parse, to_contents
from boxwright.data.contents import head, json_keys
from boxwright.data.dataset import Dataset, Images, paths_column
from boxwright.data.findings import Finding
from boxwright.data.layout import Extras, Keys, Layout, Split, Writer
from boxwright.data.listing import listing
from boxwright.data.source import Source
from boxwright.data.split_names import STANDARD, canonical_name
from boxwright.data.text import decimals, write_lines
from boxwright.errors import InputError

PARSER = (
    json_text,
    coco_json,
    coco_entries,
    labeled_classes,
    text,
)  # modules that determine the content of an index
OTHERS = ("captions_", "person_keypoints_", "stuff_", "panoptic_", "image_info_")  # COCO's other files in the folder
SPLIT_FILES = ("_annotations.coco.json", "labels.json", "annotations.json", "coco.json", "result.json")
ONE_FILE = {"default", "labels", "annotations", "_annotations", "_annotations.coco", "coco", "result", "result_coco"}
MAX_FILES = 20  # JSONs in a folder of label files; folders of one JSON per image have more
MANY_CROWD = 0.1  # fraction of crowd regions; COCO has 0.012
MIN_CROWD = 4  # objects; if there are fewer, all may be crowd regions


def find(root: Path) -> dict[str, Path]:
    """Split -> JSON file, for the folder of a data set or for a JSON file."""
    if root.suffix == ".json" and not root.is_dir():
        return {root.stem.removeprefix("instances_"): root} if accepts(root) else {}
    splits: dict[str, Path] = {}
    for folder in text.subfolders(root):
        if folder.name == "annotations":
            continue
        named = [folder / name for name in SPLIT_FILES if (folder / name).is_file()]
        files = [file for file in named if file.name == SPLIT_FILES[0] or _is_coco(file)]
        if not files and canonical_name(folder.name) in STANDARD:
            files = [file for file in _json_files(folder) if _is_coco(file)]
        if len(files) == 1:
            splits[folder.name] = files[0]
    splits |= {file.stem.removeprefix("instances_"): file for file in _split_files(root)}
    is_single = {*splits} <= ONE_FILE
    if not splits:
        splits = {file.stem: file for file in _json_files(root) if _is_coco(file)}
    return {"all": file for file in splits.values()} if len(splits) == 1 and is_single else splits  # noqa: B035


def find_unlabeled(root: Path) -> dict[str, Path]:
    """Split -> JSON file with unlabeled images, such as COCO's test sets."""
    files = sorted((root / "annotations").glob("image_info_*.json")) + sorted(root.glob("image_info_*.json"))
    return {file.stem.removeprefix("image_info_"): file for file in files}


def accepts(path: Path) -> bool:
    """Whether a path in a data YAML is a COCO JSON, even a damaged one."""
    if path.suffix != ".json":
        return False
    return _is_coco(path) or not _is_other(path)


def read(source: Source) -> Dataset:
    """Read a JSON file, from its index if there is one.

    Raises InputError as `parse` and `to_dataset`, and if the categories differ from the names in a data YAML.
    """
    contents = _contents(source.path, source)
    if source.names and source.names != contents.names:
        raise InputError(f"{source.path}: categories are {contents.names}, names in the data YAML {source.names}")
    return to_dataset(contents, source)


def read_unlabeled(source: Source) -> Dataset:
    """Read a JSON file without `annotations`, which may be missing."""
    return to_dataset(to_contents(load(source.path), [], source.path), replace(source, others=()))


def to_dataset(contents: Contents, source: Source) -> Dataset:
    """Convert the contents of a JSON file to a data set with the paths of its images.

    Raises InputError if none of the images is found.
    """
    file, root = source.path, source.root
    if root == file:
        root = file.parent.parent if file.parent.name == "annotations" else file.parent
    remarks = Remarks()
    paths = image_paths(contents, source, root, remarks)
    rows, group = contents.rows, _unused_group(contents, source)
    if group is not None:
        name = contents.names[group]
        remarks.note(
            f"class '{name}' is only the supercategory of the others; training and crops leave it out", "categories"
        )
    if source.crowd == "objects":
        rows = replace(rows, crowd=rows.ignored)
    findings = (*contents.findings, *remarks.all(), *_many_crowds(contents, source))
    findings = tuple(
        replace(
            finding,
            split=source.split,
            file=f"{file} {finding.file}".rstrip(),
            image="" if finding.index is None else os.fsdecode(paths[finding.index].item()),
        )
        for finding in findings
    )
    images = Images(contents.image_ids, paths, contents.sizes, paths_column([str(file)]), contents.labeled)
    return Dataset(
        contents.names, contents.category_ids, source.split, root, source.kind, images, rows, contents.starts,
        findings, entry="annotations[{}]", group=group,
    )  # fmt: skip


def image_entries(file: Path) -> Entries:
    """The entries of `images` with all keys. Raises InputError as `parse`."""
    return entries(load(file), "images", file)


def extras(dataset: Dataset) -> Extras:
    """All keys of the JSON file that are not in the data set, such as outlines, and ids that are not integers."""
    file = Path(dataset.label_file(0))
    tree = load(file, outlines=True)
    read_keys = {
        "images": {"id", "file_name", "height", "width"},
        "annotations": {"id", "image_id", "category_id", "bbox", "area", "iscrowd", "difficult"},
        "categories": {"id", "name"},
    }

    def further(entry: Keys, where: str) -> Keys:
        return {key: value for key, value in entry.items() if key not in read_keys[where]}

    _, _, category_ids = coco_json.categories(entries(tree, "categories", file), file)
    classes = {category_ids[id_text(entry["id"]) or ""]: further(entry, "categories") for entry in tree["categories"]}
    by_id: dict[str | None, Keys] = {}
    for entry in tree["images"]:
        if isinstance(entry, dict):
            by_id.setdefault(id_text(entry.get("id")), entry)
    images = [
        further(by_id[str(number)], "images") | _other_id(by_id[str(number)], number)
        for number in dataset.images.ids.tolist()
    ]
    numbers = zip(dataset.rows.entries.tolist(), dataset.rows.ids.tolist(), strict=True)
    return Extras(
        [
            further(tree["annotations"][index], "annotations") | _other_id(tree["annotations"][index], number)
            for index, number in numbers
        ],
        images,
        [classes[number] for number in dataset.category_ids],
        {key: value for key, value in tree.items() if key not in read_keys},
    )


def write(split: Split, folder: Path) -> list[Path]:
    """Write annotations/{split}.json, with the key `difficult` if there are difficult objects.

    Boxes are renumbered if ids repeat.
    """
    dataset, rows, name = split.dataset, split.dataset.rows, split.dataset.split
    own = dataset.kind == "coco"  # if so, an `id` in the extras is the original one
    image_ids = [
        extra.get("id", number) if own else number
        for number, extra in zip(dataset.images.ids.tolist(), split.extras.images, strict=True)
    ]
    box = decimals(rows.xyxy)
    box[:, 2:] = np.round(box[:, 2:] - box[:, :2], 12)  # without the rounding error of the subtraction
    columns = (
        annotation_ids(split) or range(1, len(rows) + 1),
        [image_ids[index] for index in dataset.image_indices().tolist()],
        rows.categories.tolist(),
        box.tolist(),
        rows.areas.tolist(),
        rows.crowd.astype(int).tolist(),
    )
    keys = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
    annotations = [
        extra | dict(zip(keys, values, strict=True)) for *values, extra in zip(*columns, split.extras.rows, strict=True)
    ]
    for row in np.flatnonzero(rows.ignored).tolist():  # other tools need a category, and support crowd regions
        annotations[row] |= {"category_id": dataset.category_ids[0], "ignore": 1}
    if rows.difficult.any():
        for annotation, difficult in zip(annotations, rows.difficult.tolist(), strict=True):
            annotation["difficult"] = int(difficult)
    images = [
        extra | {"id": image_id, "file_name": str(path), "height": height, "width": width}
        for image_id, path, (height, width), extra in zip(
            image_ids, split.images, split.sizes.tolist(), split.extras.images, strict=True
        )
    ]
    if (labeled := dataset.images.labeled) is not None:
        for image, column in zip(images, labeled, strict=True):
            image |= labeled_classes.to_coco(column, dataset.names)
    classes = split.extras.classes or [{} for _ in dataset.names]
    categories = [
        {"id": number, "name": label} | extra
        for number, label, extra in zip(dataset.category_ids, dataset.names, classes, strict=True)
    ]
    tree = split.extras.dataset | {"images": images, "annotations": annotations, "categories": categories}
    write_lines(folder / "annotations" / f"{name}.json", [json_text.dumps(tree)])
    return [folder / "images" / name / path for path in split.images]


def annotation_ids(split: Split) -> list[int | str] | None:
    """The ids of the boxes, those of a COCO file as they are in it; None if some repeat."""
    own = split.dataset.kind == "coco"  # then an `id` in the extras is the one in the file
    numbers, extras = split.dataset.rows.ids.tolist(), split.extras.rows
    ids = [extra.get("id", number) if own else number for number, extra in zip(numbers, extras, strict=True)]
    return ids if len({*map(str, ids)}) == len(ids) else None


def _contents(file: Path, source: Source) -> Contents:
    return read_indexed(file, lambda: parse(file), PARSER, source.cache)


def _other_id(entry: Keys, number: int | str) -> Keys:
    """The original id of an entry, if the data set replaced it."""
    return {"id": entry["id"]} if "id" in entry and entry["id"] != number else {}


def _unused_group(contents: Contents, source: Source) -> int | None:
    """The label of a class that is only the supercategory of all others: no split has a box of it.

    Roboflow writes the name of the project as such a class. It keeps its label here, since other tools count it.
    """
    group = contents.group
    if group is None or (contents.rows.labels == group).any():
        return None
    for other in (_contents(file, source) for file in source.others):
        if other.names != contents.names or (other.rows.labels == group).any():
            return None
    return group


def _many_crowds(contents: Contents, source: Source) -> Iterator[Finding]:
    """A finding if all or many objects are crowd regions: CVAT and others mark each object with a mask as one."""
    rows = contents.rows
    objects = ~rows.ignored
    count, total = int((rows.crowd & objects).sum()), int(objects.sum())
    if source.crowd or contents.tiled or count <= MANY_CROWD * total:
        return
    text = f"{count} of {total} have iscrowd 1; set crowd: objects (or regions) in a data YAML"
    kind = "only_crowd" if count == total >= MIN_CROWD else "unusual"
    yield Finding(kind, "", "", text)


def _split_files(root: Path) -> list[Path]:
    """The JSON files that have the names of splits."""
    files = sorted((root / "annotations").glob("instances_*.json"))
    files += [file for file in _json_files(root / "annotations") if file not in files and _is_known(file)]
    files += sorted(root.glob("instances_*.json"))
    files += [file for name in ("train", "val", "valid", "test") if (file := root / f"{name}.json").is_file()]
    return [file for file in files if not file.name.startswith(OTHERS) and not _is_other(file)]


def _is_known(file: Path) -> bool:
    return canonical_name(file.stem) in STANDARD or _is_coco(file)


def _json_files(folder: Path) -> list[Path]:
    """The JSON files in a folder, sorted; [] if there are more than `MAX_FILES`."""
    try:
        names = [name for name in listing(folder).by_suffix().get(".json", []) if name.endswith(".json")]
    except OSError:
        return []
    return sorted(folder / name for name in names) if len(names) <= MAX_FILES else []


def _is_other(file: Path) -> bool:
    """Whether a JSON file has another layout: a list of objects, LabelMe's, or VIA's."""
    start, keys = json_keys(file)
    is_via = "_via_img_metadata" in keys.get(1, set()) or "regions" in keys.get(2, set())
    return is_via or "shapes" in keys.get(1, set()) or (start == "[" and bool(keys.get(2)))


def _is_coco(file: Path) -> bool:
    """Whether the start of a JSON file has keys of COCO."""
    start = head(file).lstrip()
    return start.startswith(b"{") and (
        (b'"images"' in start and b'"file_name"' in start) or (b'"image_id"' in start and b'"category_id"' in start)
    )


LAYOUT = Layout(
    dataset_type=Dataset,
    expected="annotations/{split}.json or annotations/instances_{split}2017.json or {split}/_annotations.coco.json",
    find=find,
    read=read,
    accepts=accepts,
    has_ids=True,
    find_unlabeled=find_unlabeled,
    read_unlabeled=read_unlabeled,
    extras=extras,
    writer=Writer(
        write=write,
        crowd=True,
        ignored=True,
        labeled=True,
        difficult=True,
        file_per_image=False,
        class_list=False,
        row_keys=None,
        image_keys=None,
    ),
)
