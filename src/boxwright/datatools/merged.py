"""Merging of several sets in a conversion: unique image names, and joined extra keys."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from boxwright.data.dataset import Dataset
from boxwright.data.layout import Extras, Keys, Writer
from boxwright.errors import InputError


def image_names(names: Sequence[Sequence[PurePosixPath]], titles: Sequence[str], writer: Writer) -> list[PurePosixPath]:
    """The image names of all sets, one set after the other; a name of several sets gets its set's name as a prefix.

    Args:
        names: The image names of each set.
        titles: The path of each set.
        writer: The writer of the new layout.

    Raises:
        InputError: Names are equal even with prefixes.
    """
    counts = Counter(key for own in names for key in {label_key(name, writer) for name in own})
    taken: dict[str, int] = {}
    result = []
    for number, (own, prefix) in enumerate(zip(names, _prefixes(titles), strict=True)):
        for name in own:
            new = name.with_name(f"{prefix}_{name.name}") if counts[label_key(name, writer)] > 1 else name
            if taken.setdefault(label_key(new, writer), number) != number:
                raise InputError(f"{titles[number]}: image {new} would have the name of another set's; rename it")
            result.append(new)
    return result


def label_key(name: PurePosixPath, writer: Writer) -> str:
    """A key that is equal for images that would share a label file, or be the same file."""
    if not writer.file_per_image:
        return str(name)
    return name.stem if writer.flat else str(name.with_suffix(""))


def _prefixes(titles: Sequence[str]) -> list[str]:
    """The folder names of sets, numbered where they are equal: a, b, a2."""
    prefixes: list[str] = []
    for title in titles:
        path = Path(title).resolve()
        base = path.stem if path.is_file() else path.name
        name, number = base, 2
        while name in prefixes:
            name, number = f"{base}{number}", number + 1
        prefixes.append(name)
    return prefixes


def extras(names: Sequence[str], datasets: Sequence[Dataset], each: Sequence[Extras]) -> tuple[Extras, tuple[str, ...]]:
    """The extra keys of all sets, and a line for what is left out.

    A class has the keys of the first set with it. Keys of the data set stay if they are the same in all sets. `license`
    of images, an id in `licenses`, stays only if `licenses` does.
    """
    classes: dict[str, Keys] = {}
    for dataset, found in zip(datasets, each, strict=True):
        for name, keys in zip(dataset.names, found.classes, strict=False):  # layouts without such keys have no list
            classes.setdefault(name, keys)
    same = {key: value for key, value in each[0].dataset.items() if all(own.dataset.get(key) == value for own in each)}
    lost = sorted({key for own in each for key in own.dataset} - same.keys())
    images = [keys for own in each for keys in own.images]
    if "licenses" in lost:
        images = [{key: value for key, value in keys.items() if key != "license"} for keys in images]
        lost.append("license of images")
    line = f"left out, since the sets differ in it: {', '.join(lost)}"
    rows = [keys for own in each for keys in own.rows]
    return Extras(rows, images, [classes.get(name, {}) for name in names], same), (line,) if lost else ()
