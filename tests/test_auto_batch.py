"""`train.batch: auto`: the number, where it is stored, and the error of a step that does not fit."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from boxwright import recipe as recipes
from boxwright.engine import auto_batch
from boxwright.engine.train import train
from boxwright.errors import InputError
from small_run import SMALL, furthest

AUTO = {"train.epochs": 1, "train.batch": "auto"}


def run(data: Any, out: Any, changes: Any, **words: Any) -> Any:
    return train("demo", data, out, overrides=SMALL | changes, **words)


@pytest.mark.slow
def test_run_stores_batch_size_in_its_recipe(tiny_coco: Any, tmp_path: Any, capsys: Any, monkeypatch: Any) -> None:
    """12 images fill a step of 8; the trial leaves no trace in the weights; a resume takes the number of the run."""
    folder = run(tiny_coco, tmp_path / "auto", AUTO)
    assert "train.batch: 8, the largest that fits (at most 12)" in capsys.readouterr().err
    assert recipes.load(folder / "recipe.yaml").train.batch == 8
    assert furthest(folder, run(tiny_coco, tmp_path / "eight", AUTO | {"train.batch": 8}))[0] == 0
    monkeypatch.setattr(auto_batch, "available_memory", lambda: 0)
    run(tiny_coco, folder, AUTO, resume=True)
    with pytest.raises(InputError, match=r"train\.batch is 8 there and 4 now"):
        run(tiny_coco, folder, AUTO | {"train.batch": 4}, resume=True)


@pytest.mark.slow
def test_batch_size_with_gradient_accumulation(tiny_coco: Any, tmp_path: Any) -> None:
    folder = run(tiny_coco, tmp_path / "run", AUTO | {"train.accumulate": 3})
    assert recipes.load(folder / "recipe.yaml").train.batch == 4


def test_image_too_large_for_memory_is_an_error(tiny_coco: Any, tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(auto_batch, "available_memory", lambda: 1000)
    with pytest.raises(InputError) as caught:
        run(tiny_coco, tmp_path / "run", AUTO | {"train.augment.sizes": [[64, 64], [96, 128]]})
    message = str(caught.value)
    assert message.startswith("train.batch: a step with one image of 128 x 96 px takes 0.0")
    assert len(message) <= 200
    assert not (tmp_path / "run").exists()


def fake_trial(step: Any, limit: int = 64, device: str = "cpu") -> Any:
    accelerator = SimpleNamespace(num_processes=1, device=torch.device(device))
    return SimpleNamespace(step=step, limit=limit, accelerator=accelerator)


@pytest.mark.parametrize(("available", "wanted"), [(15_999, 0), (16_000, 1), (1_000_000, 32), (10**9, 64)])
def test_batch_size_from_cpu_memory(available: int, wanted: int, monkeypatch: Any) -> None:
    """By hand: two exponentials keep their results, each 1,000 numbers of 4 bytes an image, and the weight is not
    counted: 8,000 bytes an image within half of the memory."""
    weight = torch.nn.Parameter(torch.ones(1000))
    monkeypatch.setattr(auto_batch, "available_memory", lambda: available)

    def step(images: int, repeats: int) -> None:
        assert repeats == 1, "tensors of two steps would be counted twice"
        (torch.zeros(images, 1000) + weight).exp().exp().sum().backward()

    found, taken, free = auto_batch._on_cpu(fake_trial(step), [1 << power for power in range(7)])
    assert (found, taken, free) == (wanted, 8000, available / 2)


@pytest.mark.slow
@pytest.mark.parametrize(("most", "wanted"), [(5, 4), (64, 64), (0, 0)])
def test_batch_size_from_gpu_memory(most: int, wanted: int, monkeypatch: Any) -> None:
    """A GPU of 100 bytes; a step takes 20 and one per image: 90 may be used."""
    taken = [0]

    def step(images: int) -> None:
        taken[0] = 20 + images
        if images > most:
            raise torch.OutOfMemoryError("CUDA out of memory")

    for name, value in {
        "mem_get_info": lambda device: (100 - taken[0], 100),
        "max_memory_allocated": lambda device: taken[0],
        "reset_peak_memory_stats": lambda device: None,
        "empty_cache": lambda: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    sizes = [1 << power for power in range(7)]
    found, needed, _ = auto_batch._on_cuda(fake_trial(step, device="cuda"), sizes)
    assert found == wanted
    assert wanted or needed == 21
    found, _, _ = auto_batch._on_cuda(fake_trial(step, device="cuda"), [*sizes, 128])
    assert found == wanted
    with pytest.raises(InputError, match="not of mps; give a number"):
        auto_batch._on_cuda(fake_trial(step, device="mps"), sizes)


@pytest.mark.slow
def test_gpu_memory_reserve_is_kept(monkeypatch: Any) -> None:
    taken = [0]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100 - taken[0], 100))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    trial = fake_trial(lambda images: taken.__setitem__(0, 60 + images), device="cuda")
    assert auto_batch._on_cuda(trial, [1, 2, 4, 8, 16, 32])[0] == 16  # 92 of 100 bytes would be too many


def test_processes_use_the_smallest_batch_size(tiny_coco: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(auto_batch, "Trial", lambda *_: fake_trial(None))
    monkeypatch.setattr(auto_batch, "_on_cpu", lambda *_: (16, 0.0, 0.0))
    given = []

    def gather(own: Any) -> Any:
        given.append(own.tolist())
        return torch.tensor([16, 4])

    alone = SimpleNamespace(device=torch.device("cpu"), gather=gather, is_main_process=False)
    recipe = recipes.load("demo", {"train.batch": "auto"})
    assert auto_batch.resolve(recipe, None, None, None, alone).train.batch == 4  # type: ignore[arg-type]
    assert given == [[16]]


@pytest.mark.parametrize("value", [0, -1, 2.5, "all", None, 70_000])
def test_invalid_batch_sizes_are_rejected(value: Any) -> None:
    with pytest.raises(InputError, match=r"train\.batch: needed a whole number from 1 to 65536, or auto"):
        recipes.load("demo", {"train.batch": value})
