"""Archives, and data sets in several of them (shards), as folders."""

import glob
import itertools
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from boxwright import mirrors
from boxwright.archives import tar_members, zip_members
from boxwright.archives.faults import is_of_macos
from boxwright.archives.mirror import make_mirror
from boxwright.errors import InputError
from boxwright.files import local_file
from boxwright.mirrors import Member, Source
from boxwright.progress import track

logger = logging.getLogger(__name__)

READERS = {".zip": zip_members.members, ".tar": tar_members.members}
SUFFIXES = tuple(READERS)
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")  # recognized, not read
RANGE = re.compile(r"\{(\d{1,18})\.\.(\d{1,18})\}")  # as in bash and WebDataset: data-{000000..000099}.tar
MAX_SHARDS = 100_000


def is_archive(path: str | Path) -> bool:
    """Whether a path names an archive, or several by a pattern; it need not exist."""
    return str(path).lower().endswith((*SUFFIXES, *COMPRESSED))


def as_folder(path: str | Path, title: str | None = None) -> Path:
    """The folder of an archive or of shards, without unpacking them; any other path as it is.

    Args:
        path: A `.zip` or `.tar` file, a pattern of them (`data-{000000..000099}.tar`, `shard-*.tar`), or a folder that
            contains nothing else. The path may continue inside an archive (`set.zip/images/1.jpg`).
        title: Name in messages; None for `path`.

    Raises:
        InputError: An archive is missing, damaged, or not safe.
    """
    title = str(path) if title is None else title
    shards = _shards(path, title)
    if not shards:
        archive = None if os.path.exists(path) else _archive_of(Path(path))  # noqa: PTH110
        return Path(path) if archive is None else as_folder(archive) / Path(path).relative_to(archive)
    places = [_local(shard, title) for shard in shards]
    sources = [Source("file", str(place), mirrors.version_of(place)) for place in places]
    return make_mirror(title, sources, lambda: _members(shards, places, title))


def _archive_of(path: Path) -> Path | None:
    """The archive that a path leads into; None if there is none."""
    return next((above for above in path.parents if above.name.lower().endswith(SUFFIXES) and above.is_file()), None)


def only_folders(root: Path) -> Iterator[Path]:
    """The folder that is the only entry of an archive, the one that is the only entry of that, and so on."""
    if mirrors.is_tree(root):
        while len(entries := [*root.iterdir()]) == 1 and entries[0].is_dir():
            root = as_folder(entries[0])
            yield root


def exists(path: str | Path) -> bool:
    """Whether there is a file or folder, or an archive that a pattern names. False for a name that is too long."""
    if os.path.exists(path) or not is_archive(path):  # noqa: PTH110
        return os.path.exists(path)  # noqa: PTH110
    try:
        return any(map(os.path.exists, _expanded(str(path), str(path)))) or bool(glob.glob(str(path)))  # noqa: PTH207
    except InputError:
        return False


def _shards(path: str | Path, title: str) -> list[Path]:
    """The archives that a path names, in the order of their names; [] if it names something else."""
    if os.path.isdir(path):  # noqa: PTH112
        return _shards_in(Path(path))
    if not is_archive(path):
        return []
    if os.path.exists(path):  # noqa: PTH110
        shards = [Path(path)]
    elif ranges := _expanded(str(path), title):
        if missing := [shard for shard in ranges if not os.path.exists(shard)]:  # noqa: PTH110
            raise InputError(f"{title}: {len(missing)} of {len(ranges)} archives are missing, the first {missing[0]}")
        shards = [Path(shard) for shard in ranges]
    else:
        shards = [Path(shard) for shard in sorted(glob.glob(str(path)))]  # noqa: PTH207 (absolute ones)
    if not shards:
        raise InputError(f"{title}: there is no such archive")
    if wrong := next((shard for shard in shards if not str(shard).lower().endswith(SUFFIXES)), None):
        raise InputError(
            f"{wrong}: compressed as a whole, so its files cannot be read one by one; unpack it, or pack it as .tar or "
            ".zip"
        )
    return shards


def _shards_in(folder: Path) -> list[Path]:
    """The archives in a folder that contains nothing else; otherwise []."""
    with os.scandir(folder) as entries:
        names = []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if not entry.name.lower().endswith(SUFFIXES) or not entry.is_file():
                return []
            names.append(entry.name)
    return [folder / name for name in sorted(names)]


def _expanded(pattern: str, title: str) -> list[str]:
    """The names of a pattern with ranges {000..123}; [] if it has none."""
    parts: list[list[str]] = []
    end, count = 0, 1
    for match in RANGE.finditer(pattern):
        first, last = int(match[1]), int(match[2])
        count *= max(0, last - first + 1)
        if count > MAX_SHARDS:
            raise InputError(f"{title}: more than {MAX_SHARDS:,} archives; needed a smaller range")
        parts += [
            [pattern[end : match.start()]],
            [str(number).zfill(len(match[1])) for number in range(first, last + 1)],
        ]
        end = match.end()
    return ["".join(words) for words in itertools.product(*parts, [pattern[end:]])] if parts else []


def _members(shards: Sequence[Path], places: Sequence[Path], title: str) -> Iterator[Member]:
    """The files of all shards. places: local files with the content of the shards."""
    each = (
        READERS[shard.suffix.lower()](place, title if len(shards) == 1 else str(shard), number)
        for number, (shard, place) in enumerate(zip(shards, places, strict=True))
    )
    left_out = 0
    for member in track(itertools.chain.from_iterable(each), None, f"index of {title}", "files"):
        if is_of_macos(member.name):
            left_out += 1
        else:
            yield member
    if left_out:
        logger.info("%s: left out %d files of macOS (__MACOSX, ._*)", title, left_out)


def _local(shard: Path, title: str) -> Path:
    """The archive itself, or a copy in the cache if it is in another archive or a remote folder."""
    try:
        return local_file(shard).resolve(strict=True)
    except OSError as error:
        raise InputError(f"{title}: {shard} cannot be read ({error.strerror})") from error
