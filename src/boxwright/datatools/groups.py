"""Groups of images that must stay in one split: augmented copies, frames of a video, tiles of a scene, near-duplicates.

If a group is split between training and evaluation, metrics are too optimistic.

P images
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boxwright.arrays import Array
from boxwright.data.class_dataset import ClassSet
from boxwright.data.dataset import Dataset
from boxwright.datatools.image_hash import Rows, merge, near_duplicates
from boxwright.datatools.placement import entry_values, scene_names
from boxwright.errors import InputError

KINDS = ("image", "folder", "video", "scene")
# Roboflow writes each augmented copy of photo.jpg as photo_jpg.rf.HASH.jpg, with a different HASH.
COPY = re.compile(r"(.+)\.rf\.[0-9A-Za-z]+")
ORIGINAL_SUFFIX = re.compile(r"_(?:jpe?g|png|bmp|webp|tiff?)$", re.IGNORECASE)
# "clip_0012", "clip-frame 12", "clip (12)": the number of a frame and its separator
FRAME_NUMBER = re.compile(r"[\s._-]*(?:frame|img|image)?[\s._-]*\(?\d+\)?$", re.IGNORECASE)


def group(keys: Sequence[str], sources: Sequence[str | Array] = (), cache: str | Path | None = None) -> Rows:
    """Group images with the same key, and near-duplicates.

    Args:
        keys: P keys, from `keys_of`.
        sources: P image files or arrays to search for near-duplicates; () for none.
        cache: Folder for the hashes of image files; None or "" for the user's cache folder.

    Returns:
        (P,) the index of the first image of each image's group.
    """
    first: dict[str, int] = {}
    labels = np.array([first.setdefault(key, index) for index, key in enumerate(keys)], dtype=np.int64)
    if len(sources):
        near = near_duplicates(sources, cache)
        labels = merge(labels, np.arange(len(near)), near)
    return labels


def keys_of(dataset: Dataset | ClassSet, by: str = "image") -> list[str]:
    """The key of each image's group.

    Args:
        dataset: A complete split.
        by: `image`: each image, with its augmented copies by Roboflow, and the tiles of a scene by `data tile`.
            `folder`: the images of a folder. `video`: names in a folder that differ only in their final number.
            `scene`: tiles of a scene. Otherwise a regular expression with a group, which is searched in the path.

    Raises:
        InputError: An image has no scene, or does not match the expression.
    """
    paths = [dataset.path(index) for index in range(len(dataset))]
    if by in ("image", "scene"):
        scenes = scene_names(dataset) if isinstance(dataset, Dataset) else [""] * len(paths)
        if by == "scene" and "" in scenes:
            raise InputError(
                f"{paths[scenes.index('')]}: found no 'scene' in its labels, as `boxwright data tile` writes it; "
                "use --group video, or a regular expression with a group"
            )
        return [f"scene {scene}" if scene else _copies_key(path) for path, scene in zip(paths, scenes, strict=True)]
    if by == "folder":
        return [os.path.dirname(path) for path in paths]  # noqa: PTH120  (100,000s of them)
    if by == "video":
        return [_video_key(path) for path in paths]
    return _matches(paths, by)


def _copies_key(path: str) -> str:
    """The name of the original for an augmented copy, else the path."""
    match = COPY.fullmatch(Path(path).stem)
    return f"copy {match[1]}" if match else path


def of_evaluation(dataset: Dataset | ClassSet) -> NDArray[np.int64]:
    """(P,) numbers from 0 of the groups of images that are not independent measurements.

    They are the tiles of a scene, the frames of a video (`video_id` in a COCO file), and the augmented copies of an
    image by Roboflow. Groups do not extend over several sets.
    """
    if dataset.members is None:
        keys = keys_of_evaluation(dataset)
        return np.unique(keys, return_inverse=True)[1].astype(np.int64) if keys else np.zeros(0, np.int64)
    numbers, total = np.zeros(len(dataset), np.int64), 0
    for member, indices, places in dataset.members.each():
        own = of_evaluation(member.dataset)[places]
        numbers[indices] = np.unique(own, return_inverse=True)[1] + total
        total = int(numbers.max(initial=-1)) + 1
    return numbers


def keys_of_evaluation(dataset: Dataset | ClassSet) -> list[str]:
    """The key of each image's group for `of_evaluation`, for a single set."""
    return [video or key for video, key in zip(_videos(dataset), keys_of(dataset), strict=True)]


def _videos(dataset: Dataset | ClassSet) -> list[str]:
    """`video_id` and file of each image of a COCO file, since files number their videos from 1; "" for none."""
    if not isinstance(dataset, Dataset):
        return [""] * len(dataset)
    ids = entry_values(dataset, "video_id")
    return [f"video {number} of {dataset.label_file(0)}" if isinstance(number, int | str) else "" for number in ids]


def _video_key(path: str) -> str:
    folder, name = os.path.split(path)
    stem = Path(name).stem
    if match := COPY.fullmatch(stem):
        folder, stem = "", ORIGINAL_SUFFIX.sub("", match[1])
    return f"{folder}/{FRAME_NUMBER.sub('', stem)}"


def _matches(paths: Sequence[str], pattern: str) -> list[str]:
    needed = f"needed one of {', '.join(KINDS)}, or a regular expression with a group such as '([^/]+)_[0-9]+[.]jpg'"
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise InputError(f"--group: found '{pattern[:60]}' ({error}), {needed}") from error
    if not expression.groups:
        raise InputError(f"--group: found '{pattern[:60]}', {needed}")
    keys = []
    for path in paths:
        match = expression.search(path)
        if match is None:
            raise InputError(f"{path}: does not match --group '{pattern[:60]}', needed a match for every image")
        keys.append("\0".join(group or "" for group in match.groups()))
    return keys
