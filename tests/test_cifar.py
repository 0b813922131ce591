"""CIFAR-10 in both published forms, and files that pretend to be it. Pickles are written as Python 2 wrote them."""

import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from boxwright.data.class_dataset import ClassSet
from boxwright.errors import InputError
from boxwright.formats import cifar10, holds_classes, open_classes, splits

RECORDS = 3
TRAIN = [f"data_batch_{number}" for number in range(1, 6)]


def records(seed: int, count: int = RECORDS) -> tuple[np.ndarray, np.ndarray]:
    """Labels (count,) and pixels (count, 3072)."""
    draw = np.random.default_rng(seed)
    return draw.integers(0, 10, count), draw.integers(0, 256, (count, 3072)).astype(np.uint8)


def binary(labels: np.ndarray, pixels: np.ndarray) -> bytes:
    return b"".join(bytes([label]) + row.tobytes() for label, row in zip(labels.tolist(), pixels, strict=True))


def python2(labels: np.ndarray, pixels: np.ndarray) -> bytes:
    """As Python 2's cPickle writes: protocol 2, byte strings as BINSTRING, NumPy's array as its __reduce__ says."""
    small = b"".join(b"K" + bytes([label]) for label in labels.tolist())
    names = b"".join(b"U" + bytes([len(name)]) + name for name in (b"a.png", b"b.png"))
    dtype = b"cnumpy\ndtype\nq\x0aU\x02u1K\x00K\x01\x87q\x0bRq\x0c"
    dtype += b"(K\x03U\x01|q\x0dNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    shape = b"M" + struct.pack("<H", len(labels)) + b"M" + struct.pack("<H", pixels.shape[1]) + b"\x86q\x09"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x06cnumpy\nndarray\nq\x07K\x00\x85U\x01bq\x0e\x87Rq\x08(K\x01"
        + shape + dtype + b"\x89T" + struct.pack("<i", pixels.size) + pixels.tobytes() + b"tb"
    )  # fmt: skip
    return (
        b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03U\x06labelsq\x04](" + small
        + b"eU\x04dataq\x05" + array + b"U\tfilenamesq\x0f](" + names + b"eu."
    )  # fmt: skip


@pytest.fixture(params=["binary", "python"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A small CIFAR-10 in one form, as its archive unpacks."""
    inside = tmp_path / f"cifar-10-batches-{request.param[:2].replace('bi', 'bin')}"
    inside.mkdir()
    for seed, name in enumerate([*TRAIN, "test_batch"]):
        write = binary if request.param == "binary" else python2
        (inside / (name + (".bin" if request.param == "binary" else ""))).write_bytes(write(*records(seed)))
    return inside


def truth(seeds: range) -> tuple[np.ndarray, np.ndarray]:
    parts = [records(seed) for seed in seeds]
    pixels = np.concatenate([pixels for _, pixels in parts])
    return np.concatenate([labels for labels, _ in parts]), pixels.reshape(-1, 3, 32, 32)


def rejection(file: Path) -> str:
    with pytest.raises(InputError) as caught:
        cifar10.read_files((file,), "train", file.parent)
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)
    return str(caught.value)


def test_binary_and_python_formats_are_equal(folder: Path) -> None:
    for root in (folder, folder.parent):
        assert splits(root) == ["train", "val"]
        assert holds_classes(root)
        for split, seeds in (("train", range(5)), ("val", range(5, 6)), ("test", range(5, 6))):
            found = open_classes(root, split)
            labels, pixels = truth(seeds)
            np.testing.assert_array_equal(found.labels, labels)
            np.testing.assert_array_equal(found.pixels, pixels)
            assert (found.kind, len(found.names), found.names[5]) == ("cifar10", 10, "dog")
    sample = open_classes(folder, "train")[RECORDS]
    assert Path(sample.path).name.startswith("data_batch_2")
    assert sample.path.endswith("[0]")
    assert sample.pixels is not None
    np.testing.assert_array_equal(sample.image(), truth(range(5))[1][RECORDS].transpose(1, 2, 0))


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_python_3_pickles_are_read(tmp_path: Path, protocol: int) -> None:
    labels, pixels = records(0)
    file = tmp_path / "data_batch_1"
    held = {b"labels": labels.tolist(), b"data": pixels, b"filenames": [b"x.png"] * RECORDS, b"batch_label": b"one"}
    file.write_bytes(pickle.dumps(held, protocol))
    found = cifar10.read_files((file,), "train", tmp_path)
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_array_equal(found.pixels, pixels.reshape(-1, 3, 32, 32))


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.proof}",)


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_untrusted_pickle_is_rejected_and_not_executed(tmp_path: Path, protocol: int) -> None:
    proof, file = tmp_path / "executed", tmp_path / "data_batch_1"
    labels, pixels = records(0)
    for held in (Bomb(proof), {"labels": labels.tolist(), "data": pixels, "more": Bomb(proof)}):
        file.write_bytes(pickle.dumps(held, protocol))
        message = rejection(file)
        assert "rejected, and nothing in the file was executed" in message
        assert not proof.exists()
    pickle.loads(pickle.dumps(Bomb(proof), protocol))  # the trap itself works
    assert proof.exists()


def test_allowed_numpy_names_execute_nothing(tmp_path: Path) -> None:
    """A call of what is allowed stays a note, with any arguments; other names of the same modules are rejected."""
    file = tmp_path / "data_batch_1"
    file.write_bytes(b"\x80\x02cnumpy\ndtype\nU\x02u1\x85R.")
    assert "needed a dictionary" in rejection(file)
    file.write_bytes(b"\x80\x02cnumpy\nload\nU\x02u1\x85R.")
    assert "asks for 'numpy load'" in rejection(file)
    file.write_bytes(b"\x80\x02cnumpy\ndtype\nU\x02u1\x85R\x85R.")
    rejection(file)
    file.write_bytes(b"\x80\x02c_codecs\nencode\nU\x02hiU\x05utf-7\x86R.")
    assert "needed a dictionary" in rejection(file)


def test_rejected_name_with_a_line_break_is_escaped(tmp_path: Path) -> None:
    file = tmp_path / "data_batch_1"
    file.write_bytes(b"\x80\x04\x8c\x03o\ns\x8c\x01x\x93.")
    assert r"asks for 'o\ns x'" in rejection(file)


DEEP = (cifar10.MAX_OPCODES - 100) // 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (b"\x80\x02})" + b"\x85" * 3_000_000 + b"K\x01s.", f"more than {cifar10.MAX_OPCODES} opcodes"),
        (b"\x80\x02})" + b"\x85" * (cifar10.MAX_OPCODES - 100) + b"K\x01s.", "asks for a key of type tuple"),
        (b"\x80\x02}()" + b"\x85" * (cifar10.MAX_OPCODES - 100) + b"K\x01u.", "asks for a key of type tuple"),
        (b"\x80\x02}K\x01K\x01s.", "asks for a key of type int"),
        (b"\x80\x02" + b"cnumpy\ndtype\n" * DEEP + b"N" + b"\x85R" * DEEP + b".", "needed a dictionary"),
        (b"\x80\x02" + b"]" * DEEP + b"N" + b"a" * DEEP + b".", "needed a dictionary"),
        (b"\x80\x02" + b"}U\x01k" * DEEP + b"N" + b"s" * DEEP + b".", "labels: needed a list|data: needed an array"),
    ],
    ids=["long", "setitem", "setitems", "number", "notes", "lists", "dictionaries"],
)
def test_deeply_nested_pickle_does_not_overflow_the_stack(tmp_path: Path, pickled: bytes, message: str) -> None:
    """In a separate process: an overflow of C's stack would end pytest."""
    file = tmp_path / "data_batch_1"
    file.write_bytes(pickled)
    program = (
        "import pathlib, sys; from boxwright.formats import cifar10; cifar10._read_python(pathlib.Path(sys.argv[1]))"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    line = ended.stderr.splitlines()[-1]
    assert "InputError: " + str(file) in line
    assert any(part in line for part in message.split("|"))


def peak_memory(file: Path) -> int:
    """Peak of bytes allocated while `file` is rejected."""
    tracemalloc.start()
    try:
        rejection(file)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_repeated_encode_calls_do_not_copy_text(tmp_path: Path) -> None:
    file, size = tmp_path / "data_batch_1", 1 << 20
    made = b"c_codecs\nencode\nq\x00X" + struct.pack("<i", size) + b"a" * size + b"X\x06\0\0\0latin1\x86q\x01R"
    file.write_bytes(b"\x80\x02](" + made + b"h\x00h\x01R" * 100 + b"e.")
    assert peak_memory(file) < 20 * size


def test_pixels_beyond_latin_1_are_rejected(tmp_path: Path) -> None:
    file, pixels = tmp_path / "data_batch_1", np.full((1, 3072), 97, np.uint8)
    whole = pickle.dumps({"labels": [0], "data": pixels}, 2)  # as text to be encoded
    assert whole.count(b"a" * 3072) == 1
    file.write_bytes(whole)
    np.testing.assert_array_equal(cifar10.read_files((file,), "train", tmp_path).pixels.ravel(), pixels[0])
    changed = "\u0100".encode() + b"a" * 3071
    file.write_bytes(whole.replace(struct.pack("<i", 3072) + b"a" * 3072, struct.pack("<i", len(changed)) + changed))
    assert "data: character 0 is beyond Latin 1" in rejection(file)


@pytest.mark.slow
def test_many_empty_values_have_bounded_memory(tmp_path: Path) -> None:
    file = tmp_path / "data_batch_1"
    file.write_bytes(b"\x80\x02" + b"}" * (1 << 20) + b".")
    assert peak_memory(file) < 40 << 20
    assert f"more than {cifar10.MAX_OPCODES} opcodes" in rejection(file)
    assert cifar10.MAX_BYTES == 1 << 25


def test_truncated_python_file_is_an_input_error(tmp_path: Path) -> None:
    whole, file = python2(*records(0, 1)), tmp_path / "data_batch_1"
    for end in [*range(0, 330, 7), len(whole) // 2, len(whole) - 1]:
        file.write_bytes(whole[:end])
        assert "fetch" in rejection(file)


def test_changed_bytes_are_an_input_error_or_read(tmp_path: Path) -> None:
    whole, file = python2(*records(0, 1)), tmp_path / "data_batch_1"
    draw = np.random.default_rng(0)
    for place in range(0, 300):
        changed = bytearray(whole)
        changed[place] = draw.integers(256)
        file.write_bytes(bytes(changed))
        try:
            found = len(cifar10.read_files((file,), "train", tmp_path))
        except InputError as error:
            found = 1 - str(error).count("\n")  # one line
        assert found == 1


@pytest.mark.parametrize("size", [0, 1, 3072, 3074, 2 * 3073 - 1])
def test_truncated_binary_file_is_rejected(tmp_path: Path, size: int) -> None:
    file = tmp_path / "data_batch_1.bin"
    file.write_bytes(bytes(size))
    assert f"{size} bytes, needed a multiple of 3073" in rejection(file)


@pytest.mark.parametrize("form", ["binary", "python"])
def test_label_out_of_range_is_rejected(tmp_path: Path, form: str) -> None:
    labels, pixels = np.array([3, 10, 200]), records(0)[1]
    file = tmp_path / ("data_batch_1.bin" if form == "binary" else "data_batch_1")
    file.write_bytes((binary if form == "binary" else python2)(labels, pixels))
    assert "record 1: label is 10, needed 0 to 9 (in 2 records)" in rejection(file)


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"data": np.zeros((2, 3072), np.uint8)}, "labels: needed a list"),
        ({"labels": [0, "x"], "data": np.zeros((2, 3072), np.uint8)}, "labels: needed a list"),
        ({"labels": [0, 1, 2], "data": np.zeros((2, 3072), np.uint8)}, "3 labels for 2 images"),
        ({"labels": [0, 1], "data": np.zeros((2, 3000), np.uint8)}, "shape (records, 3072)"),
        ({"labels": [0, 1], "data": np.zeros((2, 3072), np.int8)}, "shape (records, 3072)"),
        ({"labels": [0, 1], "data": np.asfortranarray(np.zeros((2, 3072), np.uint8))}, "shape (records, 3072)"),
        ({"labels": [0, 1], "data": [1, 2]}, "shape (records, 3072)"),
        ([1, 2], "needed a dictionary"),
        ({"fine_labels": [0], "coarse_labels": [0], "data": np.zeros((1, 3072), np.uint8)}, "labels: needed a list"),
    ],
)
def test_invalid_pickle_contents_are_rejected(tmp_path: Path, held: object, message: str) -> None:
    file = tmp_path / "data_batch_1"
    file.write_bytes(pickle.dumps(held, 2))
    assert message in rejection(file)


def test_missing_batch_file_is_named(folder: Path) -> None:
    gone = next(file for file in folder.iterdir() if file.name.startswith("data_batch_4"))
    gone.unlink()
    with pytest.raises(InputError, match=r"data_batch_4.*cannot be read"):
        open_classes(folder, "train")
    assert len(open_classes(folder, "val")) == RECORDS


def test_huge_file_is_rejected_before_reading(tmp_path: Path) -> None:
    file = tmp_path / "data_batch_1"
    with open(file, "wb") as sparse:
        sparse.truncate(cifar10.MAX_BYTES + 1)
    assert f"needed at most {cifar10.MAX_BYTES}" in rejection(file)


def test_ordered_renumbers_labels_by_class_name(folder: Path) -> None:
    found = open_classes(folder, "val")
    turned: ClassSet = found.ordered(("extra", *reversed(found.names)))
    assert [turned.names[label] for label in turned.labels] == [found.names[label] for label in found.labels]
    with pytest.raises(InputError, match="class airplane of split val"):
        found.ordered(found.names[1:])
