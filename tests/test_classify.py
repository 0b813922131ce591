"""Classifiers: their loss and training steps against the zoo's numbers, their runs, their predictions."""

import json
import random
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import boxwright
import class_folder
import oracle_weights
import small_run
from boxwright import cli
from boxwright import recipe as recipes
from boxwright.datatools.clean import Cleaning
from boxwright.engine import datasets, optim
from boxwright.engine.job import build_network, initial_network
from boxwright.engine.schedule import learning_rates
from boxwright.engine.train import optimizer_step, train
from boxwright.errors import InputError
from boxwright.formats import open_classes
from boxwright.ops.losses import cross_entropy
from boxwright.predict.predictor import Predictor, load
from boxwright.tasks.classify import TASK
from boxwright.types import ClassBatch
from boxwright.weights.names.tiny_darknet import Names
from small_run import ROUNDING, finish, furthest, lines, start, tensors
from test_weights_oracles import undo_normalization

pytestmark = pytest.mark.slow

ZOO = oracle_weights.ORACLES / "tinydarknet"
DOG = Path(__file__).parents[2] / "shared" / "oracles" / "darknet" / "images" / "dog.png"
TRAINED = Path(__file__).parents[2] / "shared" / "weights" / "tiny.weights"
# All that draws numbers or has a memory.
EVERYTHING: dict[str, Any] = {
    "train.epochs": 4,
    "train.accumulate": 2,
    "train.save_every": 2,
    "train.evaluate_every": 1,
    "train.ema.decay": 0.9,
    "train.class_augment.mixup": 0.4,
    "train.class_augment.cutmix": 0.4,
    "train.class_augment.erase": 0.5,
    "model.label_smoothing": 0.1,
}


def labeled(labels: Tensor, **blend: Tensor) -> ClassBatch:
    return ClassBatch(torch.zeros(len(labels), 3, 1, 1), labels, (), **blend)


def run(data: Path, out: Path, changes: dict[str, Any] | None = None, **words: Any) -> Path:
    return train(class_folder.RECIPE, data, out, overrides=class_folder.SMALL | (changes or {}), **words)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folder.write(tmp_path_factory.mktemp("classes") / "data", {"train": 8, "val": 3})


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run long enough to learn the colors."""
    changes = {"train.epochs": 6, "train.evaluate_every": 1, "train.batch": 8, "train.schedule.kind": "cosine"}
    changes |= {f"train.class_augment.{each}": 0 for each in ("cutout", "brightness", "contrast", "saturation")}
    return run(data, tmp_path_factory.mktemp("runs") / "finished", changes)


class TestLoss:
    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    def test_loss_matches_zoo(self, smoothing: float) -> None:
        with np.load(ZOO / "loss.npz") as oracle:
            logits = torch.from_numpy(oracle["logits"]).requires_grad_()
            loss = cross_entropy(logits, labeled(torch.from_numpy(oracle["labels"]).long()), smoothing)
            loss.backward()
            assert loss.item() == pytest.approx(float(oracle[f"loss.smooth{smoothing}"]), rel=1e-6)
            torch.testing.assert_close(logits.grad, torch.from_numpy(oracle[f"grad.smooth{smoothing}"]))

    @pytest.mark.parametrize("smoothing", [0.0, 0.2])
    def test_loss_matches_torch_with_soft_targets(self, smoothing: float) -> None:
        draw = torch.Generator().manual_seed(1)
        logits = torch.randn(5, 7, generator=draw)
        first, second = torch.randint(7, (2, 5), generator=draw)
        share = torch.tensor([1.0, 0.0, 0.3, 0.5, 0.9])
        hard = share[:, None] * F.one_hot(first, 7) + (1 - share[:, None]) * F.one_hot(second, 7)
        target = hard * (1 - smoothing) + (1 - hard) * smoothing / 6
        ours = cross_entropy(logits, labeled(first, others=second, share=share), smoothing)
        torch.testing.assert_close(ours, F.cross_entropy(logits, target))
        alone = cross_entropy(logits, labeled(first), smoothing)
        torch.testing.assert_close(alone, F.cross_entropy(logits, first, label_smoothing=smoothing * 7 / 6))

    def test_loss_is_finite_in_bfloat16_with_large_logits(self) -> None:
        logits = torch.tensor([[1e4, -1e4, 0.0]], dtype=torch.bfloat16)
        assert cross_entropy(logits, labeled(torch.tensor([0])), 0.1).item() == pytest.approx(0.05 * 3e4, rel=0.01)

    def test_loss_of_a_single_class_is_zero(self) -> None:
        assert cross_entropy(torch.tensor([[3.0]]), labeled(torch.tensor([0])), 0.1).item() == 0


def test_three_training_steps_match_zoo() -> None:
    """Losses, and all parameters and statistics after the steps. The bounds are those that an independent
    implementation reached (shared oracles, README); rounding grows at this rate."""
    settings = recipes.load("tiny_darknet_imagenet_224", {"train.schedule.kind": "constant"})
    network = build_network(settings)
    known = oracle_weights.mindspore_recipe(ZOO / "params_network.json")
    names, state = Names(settings.model), network.state_dict()
    for name, tensor in state.items():
        if theirs := names.mindspore(name):
            tensor.copy_(torch.from_numpy(known[theirs]).reshape(tensor.shape))
    config = settings.train
    optimizer = optim.build(network, config)
    plan = learning_rates(config.schedule, 3, 1, config.optimizer.momentum)
    alone = SimpleNamespace(backward=lambda loss: loss.backward(), sync_gradients=True)
    optim.training_mode(network, config)
    with np.load(ZOO / "train_3_steps.npz") as oracle:
        assert json.loads(str(oracle["settings"])) == {
            "lr": config.schedule.lr,
            "momentum": config.optimizer.momentum,
            "weight_decay": config.optimizer.weight_decay,
            "loss_scale": config.optimizer.loss_scale,
            "smooth": settings.model.label_smoothing,
            "steps": 3,
        }
        images = np.random.default_rng(0).standard_normal(oracle["input_shape"]).astype(np.float32)
        images = torch.from_numpy(undo_normalization(network, images))
        batch = ClassBatch(images, torch.from_numpy(oracle["labels"]).long(), ())
        for step, bound in enumerate((1e-6, 1e-4, 2e-3)):
            optim.set_rates(optimizer, plan, step)
            terms = network.loss(batch)
            assert terms["classes"].item() == pytest.approx(oracle["losses"][step], rel=bound)
            optimizer_step(terms, network, optimizer, config, alone)
        for name, tensor in network.state_dict().items():
            if not (theirs := names.mindspore(name)):
                continue
            key, ours = f"after.{theirs}", tensor.flatten().numpy()
            if f"{key}.sub" in oracle:
                ours, key = ours[:: int(oracle[f"{key}.stride"])], f"{key}.sub"
            np.testing.assert_allclose(ours, oracle[key].reshape(-1), atol=5e-3, rtol=0, err_msg=theirs)


class TestRun:
    def test_run_learns_and_keeps_best_checkpoint(self, finished: Path) -> None:
        found = [line for line in lines(finished) if "top1" in line]
        assert [line["epoch"] for line in found] == list(range(6))
        metrics = json.loads((finished / "metrics.json").read_text())
        assert metrics["summary"]["top1"] == max(line["top1"] for line in found) == 1
        assert {"curves.png", "confusion.png", "predictions.json", "recipe.yaml", "best", "last"} <= {
            path.name for path in finished.iterdir()
        }

    def test_class_names_are_taken_from_the_data(self, finished: Path) -> None:
        settings = recipes.load(finished / "recipe.yaml")
        assert settings.data.names == tuple(class_folder.COLORS)
        assert settings.model.classes == 3

    def test_class_order_of_the_recipe_is_kept(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(datasets, "on_main", lambda work, accelerator: work())
        names = ["red", "blue", "green"]
        settings = recipes.load(class_folder.RECIPE, {"data.names": names, "model.classes": 3, "data.root": str(data)})
        for part in datasets.open_checked(TASK, settings, Cleaning(), SimpleNamespace(num_processes=1))[:2]:
            assert part.names == ("red", "blue", "green")
            assert {names[part.labels[n]] for n in range(len(part)) if "/red/" in part.path(n)} == {"red"}

    def test_other_class_order_of_initial_weights_is_logged(self, finished: Path, log: list[str]) -> None:
        settings = recipes.load(finished / "recipe.yaml")
        for names, note in (("red, green, blue", "another order"), ("a, b, c", "as many"), ("blue, green, red", "")):
            log.clear()
            initial_network(
                settings.with_names(names.split(", ")), finished, False, SimpleNamespace(is_main_process=True)
            )
            assert [note in line for line in log if "its classes are blue, green, red; " in line] == [True] * bool(note)

    def test_ema_weights_are_evaluated(self, data: Path, tmp_path: Path) -> None:
        folder = run(data, tmp_path / "run", {"train.ema.decay": 0.5})
        assert (folder / "best" / "ema.safetensors").exists()
        loaded = boxwright.load(folder)
        average = tensors(folder / "best")["ema.last.weight"]
        assert loaded.model.last.weight.equal(average)

    def test_channels_last_changes_only_rounding(self, data: Path, tmp_path: Path) -> None:
        # Small steps: in a fresh network a maximum that rounding moves to another pixel changes the next loss by 0.3 %.
        steps = {"train.epochs": 1, "train.schedule.lr": 0.001}
        changes = ({"train.channels_last": last} | steps for last in (False, True))
        runs = [lines(run(data, tmp_path / str(number), each)) for number, each in enumerate(changes)]
        for step, bound in enumerate((1e-4, 1e-3)):  # rounding grows quickly in a fresh network
            assert runs[1][step]["total"] == pytest.approx(runs[0][step]["total"], rel=bound)

    def test_resume_needs_the_same_images(self, data: Path, tmp_path: Path) -> None:
        folder = run(data, tmp_path / "run", {"train.epochs": 1})
        other = shutil.copytree(data, tmp_path / "data")
        (other / "train" / "red" / "1.png").rename(other / "train" / "blue" / "9.png")
        with pytest.raises(InputError, match="images or labels have changed"):
            run(other, folder, {"train.epochs": 1}, resume=True)
        known = open_classes(data, "train")
        relabeled = replace(known, labels=known.labels[::-1].copy())
        recipe = recipes.load(folder / "recipe.yaml")
        assert TASK.fingerprint(relabeled, recipe) != TASK.fingerprint(known, recipe)
        moved = shutil.copytree(data, tmp_path / "moved")
        run(moved, folder, {"train.epochs": 1}, resume=True)

    def test_unreadable_images_are_rejected_or_skipped(self, data: Path, tmp_path: Path) -> None:
        bad = shutil.copytree(data, tmp_path / "data")
        (bad / "train" / "red" / "3.png").write_bytes(b"no image")
        with pytest.raises(InputError, match=r"1 error, the first: .*red/3\.png.*--skip-bad"):
            run(bad, tmp_path / "run")
        assert not (tmp_path / "run").exists()
        folder = run(bad, tmp_path / "run", {"train.epochs": 1}, skip_bad=True)
        assert "red/3.png" in (folder / "left_out.txt").read_text()

    @pytest.mark.slow
    def test_killed_and_resumed_run_equals_uninterrupted_run(self, data: Path, tmp_path: Path) -> None:
        words = {"recipe": class_folder.RECIPE, "small": class_folder.SMALL}
        small_run.run(data, tmp_path / "uninterrupted", EVERYTHING, **words)
        process = start(data, tmp_path / "killed", EVERYTHING, **words)
        moment = random.randrange(2, 11)
        try:
            while (
                process.poll() is None
                and max((line["step"] for line in lines(tmp_path / "killed")), default=0) < moment
            ):
                time.sleep(0.002)
            process.kill()
            process.communicate()
            assert process.returncode == -signal.SIGKILL, "it ended before it was killed"
            process = start(data, tmp_path / "killed", EVERYTHING, "--resume", **words)
            finish(process)
        finally:
            process.kill()
            process.communicate()
        for name in ("last", "best"):
            expected, found = tensors(tmp_path / "uninterrupted" / name), tensors(tmp_path / "killed" / name)
            assert [key for key in expected if not expected[key].equal(found[key])] == [], f"killed at {moment}: {name}"
        assert lines(tmp_path / "killed") == lines(tmp_path / "uninterrupted"), f"killed at {moment}"

    @pytest.mark.slow
    def test_two_processes_equal_one_process(self, data: Path, tmp_path: Path) -> None:
        """Batch norm is held fixed, because its statistics are each process's own; blends are within a process."""
        changes = {"train.freeze_norm": True, "model.label_smoothing": 0.1, "train.class_augment.erase": 0.5}
        words = {"recipe": class_folder.RECIPE, "small": class_folder.SMALL}
        small_run.run(data, tmp_path / "whole", changes | {"train.batch": 4}, **words)
        finish(start(data, tmp_path / "halves", changes | {"train.batch": 2}, processes=2, **words))
        difference, where = furthest(tmp_path / "whole", tmp_path / "halves")
        assert difference < ROUNDING, where
        for one, two in zip(lines(tmp_path / "whole"), lines(tmp_path / "halves"), strict=True):
            name = "top1" if "top1" in one else "total"
            assert two[name] == pytest.approx(one[name], rel=1e-5)
        found = [json.loads((tmp_path / run / "predictions.json").read_text()) for run in ("whole", "halves")]
        assert [row["best"] for row in found[0]["images"]] == [row["best"] for row in found[1]["images"]]
        one, two = ([row["scores"] for row in each["images"]] for each in found)
        assert len({tuple(row) for row in one}) > 2  # so that an image with another's scores is seen
        assert [pytest.approx(row, rel=1e-4) for row in one] == two


class TestPredict:
    def test_predict_file_array_and_list(self, finished: Path, data: Path) -> None:
        predictor = boxwright.load(finished)
        file = data / "val" / "green" / "0.png"
        array = np.ascontiguousarray(cv2.imread(str(file))[:, :, ::-1])
        one, *others = predictor(file), *predictor([file, array], top_k=2)
        assert one.names[one.labels[0]] == "green"
        assert (len(one), one.path, one.size) == (3, str(file), (40, 48))
        assert one.scores.sum().item() == pytest.approx(1)
        assert one.scores.tolist() == sorted(one.scores.tolist(), reverse=True)
        for other in others:
            assert other.labels.equal(one.labels[:2])
            torch.testing.assert_close(other.scores, one.scores[:2])
        assert str(one).startswith(f"green {one.scores[0]:.2f}, ")
        drawn = others[1].draw()
        assert drawn.shape == array.shape
        assert (drawn != array).any()
        assert (drawn[-1] == array[-1]).all(), "the classes stand at the top"

    def test_prediction_restores_training_mode(self, finished: Path, data: Path) -> None:
        predictor = boxwright.load(finished)
        predictor.model.train()
        predictor(data / "val" / "red" / "0.png")
        assert predictor.model.training

    def test_predict_command(
        self, finished: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        images = shutil.copytree(data / "val" / "blue", tmp_path / "images")
        (images / "broken.png").write_bytes(b"no image")
        out = tmp_path / "out"
        with pytest.raises(SystemExit) as leaving:
            cli.main(["predict", str(finished), str(images), "--out", str(out), "--top-k", "2"])
        assert leaving.value.code == 1, "one image cannot be read"
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith(f"{images / '0.png'}: blue ")
        assert lines[3] == "3 images: 3 blue"
        assert "classes.json" in lines[4]
        assert "broken.png" in lines[5]
        written = json.loads((out / "classes.json").read_text())
        assert [row["classes"][0]["name"] for row in written["images"]] == ["blue"] * 3
        assert {len(row["classes"]) for row in written["images"]} == {2}
        assert sorted(path.name for path in out.iterdir()) == ["0.png", "1.png", "2.png", "classes.json"]

    def test_evaluate_command(
        self, finished: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as leaving:
            cli.main(["evaluate", str(finished), "--data", str(data), "--out", str(tmp_path / "out")])
        assert leaving.value.code == 0
        assert "top-1 1.0000 [1.000, 1.000], top-5 1.0000 [1.000, 1.000]" in capsys.readouterr().out
        assert (tmp_path / "out" / "metrics.json").exists()

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["predict", "RUN", "x.png", "--tile", "600"], "--tile: recipe tiny_darknet_cifar10 is a classifier"),
            (["predict", "RUN", "x.png", "--threshold", "0", "--nms", "0.5"], "--threshold, --nms: recipe tiny"),
            (["evaluate", "RUN", "--data", "x", "--no-truth"], "--no-truth: recipe tiny_darknet_cifar10 is"),
            (["predict", "RUN", "nowhere.png"], "nowhere.png: there is no such image"),
            (["evaluate", "RUN", "--data", "nowhere"], "nowhere"),
            (["predict", "w", "x.png", "--recipe", "demo", "--top-k", "3"], "--top-k: recipe demo is a detector"),
        ],
    )
    def test_options_of_the_other_task_are_rejected(
        self, finished: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as leaving:
            cli.main([str(finished) if word == "RUN" else word for word in words])
        assert leaving.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line

    def test_arguments_of_the_other_task_are_rejected(self, finished: Path) -> None:
        classifier = load(finished)
        for words in ({"threshold": 0.5}, {"iou": 0.5}, {"classes": ["red"]}):
            with pytest.raises(InputError, match=f"{next(iter(words))}: recipe .* is a classifier, which has none"):
                classifier.args(**words)
        detector = Predictor(nn.Identity(), recipes.load("demo"))
        with pytest.raises(InputError, match="top_k: recipe demo is a detector, which has none"):
            detector.args(top_k=3)

    def test_top5_of_tiny_weights_matches_darknet(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        if not (DOG.is_file() and TRAINED.is_file()):
            pytest.skip("no folder `shared` with Darknet's tiny.weights and dog.png beside the checkout")
        oracle = json.loads((oracle_weights.ORACLES / "darknet" / "real" / "tiny_top5.json").read_text())
        expected = oracle["dog.png"]["short_side_crop"]
        words = ["--recipe", "tiny_darknet_imagenet_224_darknet", "--out", str(tmp_path)]
        with pytest.raises(SystemExit) as leaving:
            cli.main(["predict", str(TRAINED), str(DOG), *words])
        assert leaving.value.code == 0
        assert f"{DOG}: dogsled 0.45, malamute 0.12" in capsys.readouterr().out
        (row,) = json.loads((tmp_path / "classes.json").read_text())["images"]
        assert [(found["label"], found["name"]) for found in row["classes"]] == [(n, name) for n, name, _ in expected]
        scores = [found["score"] for found in row["classes"]]
        assert scores == pytest.approx([score for _, _, score in expected], abs=2e-3)
