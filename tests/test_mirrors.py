"""Mirrors: folders that represent members of other files."""

import gc
import multiprocessing
import os
import shutil
import sys
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from types import ModuleType

import pytest

from boxwright import files, mirrors
from boxwright.archives.mirror import make_mirror
from boxwright.cache import VARIABLE
from boxwright.errors import InputError, printable
from boxwright.mirrors import DEFLATED, Member, Source, version_of

TEXT = b"first\nsecond and longer\n" * 40


@pytest.fixture
def pack(tmp_path: Path) -> tuple[Path, list[Member]]:
    """A file that holds three files: two as they are, one deflated."""
    stream = zlib.compressobj(wbits=-15)
    deflated = stream.compress(TEXT) + stream.flush()
    content = b"abc" + deflated + b"defgh"
    (tmp_path / "pack").write_bytes(content)
    end = 3 + len(deflated)
    members = [
        Member("a.txt", 3, start=0, length=3, crc=zlib.crc32(b"abc")),
        Member("in/b.txt", len(TEXT), start=3, length=len(deflated), method=DEFLATED, crc=zlib.crc32(TEXT)),
        Member("in/more/c.txt", 5, start=end, length=5),
    ]
    return tmp_path / "pack", members


def source_of(path: Path) -> Source:
    return Source("file", str(path), version_of(path))


def mirror_of(pack: tuple[Path, list[Member]], change: Callable[[Member], Member] = lambda member: member) -> Path:
    return make_mirror("my.pack", [source_of(pack[0])], lambda: map(change, pack[1]))


def test_members_are_read_from_the_archive(pack: tuple[Path, list[Member]]) -> None:
    tree = mirror_of(pack)
    found = {str(path.relative_to(tree)): files.read_bytes(path) for path in tree.rglob("*") if path.is_file()}
    assert found == {"a.txt": b"abc", "in/b.txt": TEXT, "in/more/c.txt": b"defgh"}
    assert {path.name: path.stat().st_size for path in tree.rglob("*.txt")} == {"a.txt": 3, "b.txt": 960, "c.txt": 5}
    assert sum(path.stat().st_blocks for path in tree.rglob("*.txt")) == 0  # no copy on the disk
    for path in tree.rglob("*.txt"):
        with files.open_regular(path) as file:
            assert files.length(file) == path.stat().st_size
            assert file.seek(1) == 1
            assert file.read(2) == found[str(path.relative_to(tree))][1:3]


def test_mirror_is_created_once_per_version(pack: tuple[Path, list[Member]]) -> None:
    tree, made = mirror_of(pack), tree_time(pack)
    assert mirror_of(pack) == tree
    assert tree_time(pack) == made
    content = pack[0].read_bytes()
    pack[0].write_bytes(content + b"!")
    other = mirror_of(pack)
    assert other != tree
    assert files.read_bytes(other / "a.txt") == b"abc"


def tree_time(pack: tuple[Path, list[Member]]) -> int:
    return mirror_of(pack).stat().st_ctime_ns


def test_mirrors_unused_for_a_month_are_removed(pack: tuple[Path, list[Member]]) -> None:
    month = 30 * 24 * 3600
    folders = []
    for _ in range(4):  # of four versions
        pack[0].write_bytes(pack[0].read_bytes() + b"!")
        folders.append(mirror_of(pack).parent)
    now = time.time()
    for folder, age in zip(folders, (1.1, 0.9, 1.1, 1.1), strict=True):
        os.utime(folder, (now - age * month, now - age * month))
    kept = mirrors._opened[str(folders[2])]  # as another process may have it open
    mirrors._opened.clear()
    gc.collect()
    assert mirror_of(pack).parent == folders[3]  # used now, by a process that has ended
    mirrors._opened.clear()
    gc.collect()
    (pack[0].parent / "other").write_bytes(b"12345")
    make_mirror("other", [source_of(pack[0].parent / "other")], lambda: [Member("a", 5, length=5)])
    assert [folder.exists() for folder in folders] == [False, True, True, True]
    assert not list(folders[0].parent.glob(".*"))
    del kept


def set_cache(folder: str) -> None:
    os.environ[VARIABLE] = folder


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_other_processes_read_members(pack: tuple[Path, list[Member]], method: str) -> None:
    tree = mirror_of(pack)
    assert files.read_bytes(tree / "a.txt") == b"abc"  # opened here before the others start
    paths = [tree / "a.txt", tree / "in" / "b.txt", tree / "in" / "more" / "c.txt"] * 4
    # the server of forks may have been started by another test, with another cache
    with multiprocessing.get_context(method).Pool(2, set_cache, [os.environ[VARIABLE]]) as pool:
        assert pool.map(files.read_bytes, paths) == [b"abc", TEXT, b"defgh"] * 4


def test_threads_read_members(pack: tuple[Path, list[Member]]) -> None:
    tree = mirror_of(pack)
    paths = [tree / "a.txt", tree / "in" / "b.txt", tree / "in" / "more" / "c.txt"] * 100
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(files.read_bytes, paths)) == [b"abc", TEXT, b"defgh"] * 100


def test_messages_name_the_source(pack: tuple[Path, list[Member]]) -> None:
    tree = mirror_of(pack)
    assert str(InputError(f"{tree / 'in' / 'b.txt'}: line 3")) == "my.pack/in/b.txt: line 3"
    assert printable(f"{tree}") == "my.pack"
    other = make_mirror(f"{tree}/in", [source_of(pack[0].parent)], lambda: [Member("x", 1)])  # of files in a mirror
    assert printable(f"{other}/x") == "my.pack/in/x"


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("/etc/passwd", "an absolute name"),
        ("../x.txt", "a part '..'"),
        ("in/../../x.txt", "a part '..'"),
        ("in//x.txt", "a part '..', '.' or without characters"),
        ("", "an empty name"),
        ("a\nb.txt", "control characters"),
        ("a\x1b[2Jb.txt", "control characters"),
        ("a\0.txt", "control characters"),
        ("x" * 300, "more than 255 bytes in a part"),
        ("x/" * 1100 + "x", "2048 in all"),
        ("\ud800", "not text"),
        ("a.txt", "twice"),
        ("a.txt/x", "twice (or as a file and a folder"),
        ("in", "twice (or as a file and a folder"),
    ],
)
def test_unsafe_member_names_are_rejected(
    pack: tuple[Path, list[Member]], name: str, fault: str, tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=r"^my\.pack: ") as raised:
        make_mirror("my.pack", [source_of(pack[0])], lambda: [*pack[1], Member(name, 1)])
    assert fault in str(raised.value)
    assert str(raised.value).isprintable()
    assert sorted(tmp_path.rglob("*")) == before
    left = Path(mirrors.root())
    assert not [path for path in left.iterdir() if path.name.endswith(".part")]


def test_changed_source_is_an_error(pack: tuple[Path, list[Member]]) -> None:
    tree = mirror_of(pack)
    assert files.read_bytes(tree / "a.txt") == b"abc"
    content = pack[0].read_bytes()
    pack[0].write_bytes(content.replace(b"abc", b"xyz"))
    os.utime(pack[0], ns=(1, 1))
    with pytest.raises(OSError, match="has changed since it was opened"):
        files.read_bytes(tree / "a.txt")
    with pytest.raises(OSError, match="has changed since it was opened"):
        files.local_file(tree / "a.txt")


def test_removed_source_is_an_error(pack: tuple[Path, list[Member]]) -> None:
    tree = mirror_of(pack)
    pack[0].unlink()
    with pytest.raises(OSError, match="was removed while it was in use"):
        files.read_bytes(tree / "a.txt")


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0 and no more"])
def test_damaged_index_is_an_error(pack: tuple[Path, list[Member]], content: bytes) -> None:
    folder = mirror_of(pack).parent
    mirrors._opened.clear()
    (folder / "index.sqlite").write_bytes(content)
    with pytest.raises(InputError, match=r"my\.pack: a damaged index .*; remove the folder "):
        mirror_of(pack)
    shutil.rmtree(folder)
    assert files.read_bytes(mirror_of(pack) / "a.txt") == b"abc"


def test_damaged_members_are_an_error(pack: tuple[Path, list[Member]]) -> None:
    content = bytearray(pack[0].read_bytes())
    content[1] ^= 1  # of a.txt
    content[20] ^= 1  # of b.txt
    pack[0].write_bytes(content)
    tree = mirror_of(pack)
    for name in ("a.txt", "in/b.txt"):
        with pytest.raises(OSError, match="damaged"):
            files.read_bytes(tree / name)


@pytest.mark.parametrize("size", [len(TEXT) - 1, len(TEXT) + 1, mirrors.MAX_INFLATED + 1])
def test_wrong_declared_size_is_an_error(pack: tuple[Path, list[Member]], size: int) -> None:
    member = pack[1][1]
    tree = make_mirror("p", [source_of(pack[0])], lambda: [
        Member("b.txt", size, start=member.start, length=member.length, method=DEFLATED)
    ])  # fmt: skip
    with pytest.raises(OSError, match=r"its size is not the declared|more than the 268,435,456 that are read at once"):
        files.read_bytes(tree / "b.txt")


def test_truncated_source_is_an_error(pack: tuple[Path, list[Member]]) -> None:
    pack[0].write_bytes(pack[0].read_bytes()[:-2])
    with pytest.raises(OSError, match="cut off: 3 of 5 bytes"):
        files.read_bytes(mirror_of(pack) / "in" / "more" / "c.txt")


def test_local_copies_and_links(pack: tuple[Path, list[Member]], tmp_path: Path) -> None:
    tree = mirror_of(pack)
    copy = files.local_file(tree / "in" / "b.txt")
    assert copy.read_bytes() == TEXT
    assert copy.is_relative_to(mirrors.root())
    assert files.local_file(tree / "in" / "b.txt") == copy
    assert files.local_file(tmp_path / "pack") == tmp_path / "pack"
    (tmp_path / "link").symlink_to(tree / "in" / "b.txt")
    assert files.read_bytes(tmp_path / "link") == TEXT


def test_mirror_of_another_cache_is_an_error(
    pack: tuple[Path, list[Member]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a process with another environment; its file would be read as zeros."""
    tree = mirror_of(pack)
    monkeypatch.setenv("BOXWRIGHT_CACHE", str(tmp_path / "other"))
    with pytest.raises(OSError, match="of another cache"):
        files.read_bytes(tree / "a.txt")


def test_missing_members_and_folders_are_an_error(pack: tuple[Path, list[Member]]) -> None:
    tree = mirror_of(pack)
    with pytest.raises(FileNotFoundError):
        files.open_regular(tree / "no.txt")
    with pytest.raises(IsADirectoryError):
        files.open_regular(tree / "in")


def test_folder_that_looks_like_a_mirror_is_read_as_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "mirrors" / "0123" / "tree"
    folder.mkdir(parents=True)
    (folder / "x.txt").write_text("own")
    (folder.parent / "index.sqlite").write_bytes(b"")
    assert files.read_bytes(folder / "x.txt") == b"own"


def test_remote_members_are_opened_by_their_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("made_reader")
    module.open_member = lambda source, member: BytesIO(f"{source.address}/{member.name} {member.version}".encode())  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "made_reader", module)
    monkeypatch.setattr(mirrors, "READERS", {"remote": "made_reader"})
    tree = make_mirror("s3://b/set", [Source("remote", "s3://b/set")], lambda: [Member("x/1.jpg", 20, version="e1")])
    assert files.read_bytes(tree / "x" / "1.jpg") == b"s3://b/set/x/1.jpg e1"
