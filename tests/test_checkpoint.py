"""Our own checkpoints, torch state dicts, run folders, and atomic writes."""

import json
import os
import pickle
import resource
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from boxwright import models, recipe, weights
from boxwright.errors import InputError
from boxwright.files import atomic_write
from boxwright.recipe import Recipe
from boxwright.weights import checkpoint, darknet, files


@pytest.fixture(scope="module")
def tiny() -> Recipe:
    settings = recipe.load("yolov3_tiny_coco_416_darknet", {"model.width": 0.125, "model.mean": [0.1, 0.2, 0.3]})
    return settings.with_names(["red cell", "white cell"])


def build(settings: Recipe) -> nn.Module:
    model = models.build(settings.model)
    assert isinstance(model, nn.Module)
    return model


def same(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def taken(settings: Recipe) -> Recipe:
    """What is taken of a stored recipe: not how its network was trained."""
    parts = {name: getattr(settings, name) for name in ("name", "model", "evaluate", "predict")}
    return Recipe(data={"canvas": settings.data.canvas, "names": settings.data.names}, **parts)


def test_weights_and_recipe_round_trip(tmp_path: Path, tiny: Recipe) -> None:
    source, model, file = build(tiny), build(tiny), tmp_path / "model.safetensors"
    assert not same(source, model)
    checkpoint.save(file, source, tiny)
    report = weights.load(model, file, tiny)
    assert same(source, model)
    assert set(report.matched) == set(source.state_dict())
    assert weights.stored_recipe(file) == taken(tiny)
    tensors, stored = checkpoint.read(file)
    assert stored == taken(tiny)
    assert tensors.keys() == source.state_dict().keys()
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]


def test_checkpoint_is_plain_safetensors(tmp_path: Path, tiny: Recipe) -> None:
    """Readable by anybody: the library's own functions, the recipe as JSON."""
    source, file = build(tiny), tmp_path / "model.safetensors"
    checkpoint.save(file, source, tiny)
    with safetensors.safe_open(file, "pt") as stream:
        tree = json.loads(stream.metadata()["recipe"])
    assert tree["data"]["names"] == ["red cell", "white cell"]
    assert torch.equal(safetensors.torch.load_file(file)["mean"].flatten(), torch.tensor([0.1, 0.2, 0.3]))


def test_transfer_to_other_classes(tmp_path: Path, tiny: Recipe) -> None:
    source, five = build(tiny), tiny.with_names(["a", "b", "c", "d", "e"])
    checkpoint.save(tmp_path / "m.safetensors", source, tiny)
    model = build(five)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(InputError, match=r"4 differ .*\[21(, .*)?\], the model's is \[30(, .*)?\]") as error:
        weights.load(model, tmp_path / "m.safetensors", five)
    assert "\n" not in str(error.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    report = weights.load(model, tmp_path / "m.safetensors", five, transfer=True)
    assert len(report.fresh) == 4
    assert sorted(report.fresh_parts()) == ["out16.*", "out32.*"]
    assert f"4 stay fresh ({', '.join(report.fresh_parts())})" in str(report)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name] if name in report.fresh else source.state_dict()[name]), name


def test_mean_that_differs_from_the_recipe_is_rejected(tmp_path: Path, tiny: Recipe) -> None:
    """A file made with another mean belongs to another recipe; for transfer the recipe at hand rules."""
    file, other = tmp_path / "m.safetensors", tiny.with_overrides({"model.mean": [0.0, 0.0, 0.5]})
    checkpoint.save(file, build(tiny), tiny)
    model = build(other)
    with pytest.raises(InputError, match=r"mean is \[0.1, 0.2, 0.3\], the model's is \[0.0, 0.0, 0.5\]"):
        weights.load(model, file, other)
    assert weights.load(model, file, other, transfer=True).fresh == ("mean",)
    assert model.state_dict()["mean"].flatten().tolist() == [0.0, 0.0, 0.5]


def test_tensor_name_with_a_line_break_is_escaped(tmp_path: Path, tiny: Recipe) -> None:
    safetensors.torch.save_file({"a\nb": torch.zeros(2)} | build(tiny).state_dict(), tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="no place in the model") as error:
        weights.load(build(tiny), tmp_path / "x.safetensors", tiny)
    assert "\n" not in str(error.value)


def test_torch_state_dicts_are_loaded(tmp_path: Path, tiny: Recipe) -> None:
    source, model = build(tiny), build(tiny)
    plain = source.state_dict()
    wrapped = {f"module.{name}": tensor for name, tensor in plain.items()}
    contents = {"a.pth": plain, "b.pt": plain, "c": plain, "d.pth": {"epoch": 3, "state_dict": wrapped}}
    for name, content in contents.items():
        torch.save(content, tmp_path / name)
        weights.load(model, tmp_path / name, tiny)
        assert same(source, model)
        assert weights.stored_recipe(tmp_path / name) is None
        model = build(tiny)


def test_torch_file_executes_no_code(tmp_path: Path, tiny: Recipe) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "trapped"),)

    torch.save({"a": Trap()}, tmp_path / "zip.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"a": Trap()}))
    for name in ("zip.pt", "plain.pt"):
        with pytest.raises(InputError, match="torch state dict") as error:
            weights.load(build(tiny), tmp_path / name, tiny)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("content", [[1, 2], {"model": {"a": torch.zeros(1)}}, {3: torch.zeros(1)}])
def test_torch_file_without_a_state_dict_is_rejected(tmp_path: Path, tiny: Recipe, content: object) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(InputError, match="needed a flat state dict"):
        weights.load(build(tiny), tmp_path / "x.pt", tiny)


def test_torch_file_with_a_zip_bomb_is_rejected(tmp_path: Path, tiny: Recipe) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(1_000_000))
    with pytest.raises(InputError, match="declares 1,000,000 bytes"):
        weights.load(build(tiny), tmp_path / "x.pt", tiny)


@pytest.mark.slow
def test_damaged_torch_files_are_rejected_or_unchanged(tmp_path: Path, tiny: Recipe) -> None:
    """One byte of the archive's directory at the end changed, at many places: an InputError or the saved weights."""
    file, source = tmp_path / "x.pt", build(tiny)
    torch.save(source.state_dict(), file)
    content = file.read_bytes()
    rejected = 0
    for place in range(1, 2000, 37):
        file.write_bytes(content[:-place] + bytes([content[-place] ^ 0x95]) + content[len(content) - place + 1 :])
        model = build(tiny)
        try:
            weights.load(model, file, tiny)
        except InputError:
            rejected += 1
        else:
            assert same(model, source), place
    assert rejected > 0


def test_run_folder_prefers_best_and_ema(tmp_path: Path, tiny: Recipe) -> None:
    run = tmp_path / "run"
    for place in ("last/model", "last/ema", "best/model", "best/ema"):
        file = run / f"{place}.safetensors"
        file.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.save(file, build(tiny), tiny)
        assert files.locate(run) == file  # each is preferred to those before it
        assert files.locate(file.parent) == file
    assert files.locate(run / "last") == run / "last" / "ema.safetensors"
    model, expected = build(tiny), build(tiny)
    weights.load(model, run, tiny)
    weights.load(expected, run / "best" / "ema.safetensors", tiny)
    assert same(model, expected)
    assert weights.stored_recipe(run) == taken(tiny)


def test_folder_without_weights_is_rejected(tmp_path: Path, tiny: Recipe) -> None:
    with pytest.raises(InputError, match="holds no weights"):
        weights.load(build(tiny), tmp_path, tiny)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.safetensors", b"", "empty"),
        ("x.safetensors", b"no safetensors at all, but a text", "safetensors"),
        ("x.safetensors", (2**62).to_bytes(8, "little") + b"{}", "safetensors"),
        ("x.safetensors", (8).to_bytes(8, "little") + b"{}      ", "none of its tensors fits"),
        (
            "x.safetensors",
            (70).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[99999999999],"data_offsets":[0,4]}}'.ljust(70),
            "safetensors",
        ),
        ("x.pt", b"PK\x03\x04 and no more", "torch"),
        ("x.pth", b"text", "torch"),
        ("x.onnx", b"whatever it is", "not a weights file"),
        ("x.jpg", b"\xff\xd8\xff\xe0 an image", "not a weights file"),
    ],
)
def test_broken_files_are_reported_in_one_line(
    tmp_path: Path, tiny: Recipe, name: str, content: bytes, message: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        weights.load(build(tiny), file, tiny)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_truncated_checkpoint_is_rejected(tmp_path: Path, tiny: Recipe) -> None:
    file = tmp_path / "x.safetensors"
    checkpoint.save(file, build(tiny), tiny)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match="truncated"):
        weights.load(build(tiny), file, tiny)
    with pytest.raises(InputError, match="truncated"):
        weights.stored_recipe(file)


@pytest.mark.parametrize("name", ["x.safetensors", "x.weights", "x.ckpt", "x.pt", "x.conv.15", "x"])
def test_missing_file_is_rejected(tmp_path: Path, tiny: Recipe, name: str) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        weights.load(build(tiny), tmp_path / name, tiny)


def test_broken_stored_recipe_does_not_block_weights(tmp_path: Path, tiny: Recipe) -> None:
    """Reading the recipe is rejected; the weights can still be loaded with another recipe."""
    source, file = build(tiny), tmp_path / "x.safetensors"
    tree = tiny.tree() | {"epohcs": 3}
    for text, message in ((json.dumps(tree), "epohcs: unknown key"), ("{", "not JSON"), ("[]", "needed a mapping")):
        safetensors.torch.save_file(source.state_dict(), file, {"recipe": text})
        with pytest.raises(InputError, match=message):
            weights.stored_recipe(file)
        weights.load(build(tiny), file, tiny)


def test_checkpoint_of_another_network_is_rejected(tmp_path: Path, tiny: Recipe) -> None:
    safetensors.torch.save_file({"a": torch.zeros(2)}, tmp_path / "x.safetensors")
    for transfer in (False, True):
        with pytest.raises(InputError, match="none of its tensors fits the model; it holds a, the model needs"):
            weights.load(build(tiny), tmp_path / "x.safetensors", tiny, transfer=transfer)


def test_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_text("old")

    def write_half() -> None:
        with atomic_write(target) as tmp:
            tmp.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="No space left"):
        write_half()
    assert target.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("name", ["x.safetensors", "x.weights"])
def test_full_disk_leaves_no_file(tmp_path: Path, tiny: Recipe, name: str) -> None:
    """A limit on the size of files stands in for a full disk."""
    model, file = build(tiny), tmp_path / name
    write = darknet.write if name == "x.weights" else partial(checkpoint.save, recipe=tiny)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(InputError, match="cannot be written") as error:
            write(file, model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_missing_output_folder_is_an_error(tmp_path: Path, tiny: Recipe) -> None:
    with pytest.raises(InputError, match=r"x\.safetensors: cannot be written \(No such file or directory\)"):
        checkpoint.save(tmp_path / "absent" / "x.safetensors", build(tiny), tiny)


def test_concurrent_atomic_writes_keep_the_umask(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    os.umask(mask)

    def write(number: int) -> None:
        with atomic_write(tmp_path / str(number)) as tmp:
            tmp.write_text("x")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(400)))
    after = os.umask(mask)
    assert after == mask
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o666 & ~mask}
