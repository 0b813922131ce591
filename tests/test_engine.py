"""The components of training, and the errors of a run."""

import json
import math
import shutil
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import nn

from boxwright.batches.loader import Loader
from boxwright.config import validate
from boxwright.engine import checkpointing, optim, processes
from boxwright.engine import train as training
from boxwright.engine.ema import EMA
from boxwright.engine.log import TrainLogger
from boxwright.engine.schedule import Schedule
from boxwright.errors import InputError
from boxwright.formats import open_dataset
from boxwright.metrics import plots
from boxwright.models import yolov3
from boxwright.recipe import EmaConfig, TrainConfig
from boxwright.tasks.detect import TASK, Detect
from small_run import ROUNDING, SMALL, furthest, lines, tensors


def run(data, out, changes=None, **words):
    return training.train("demo", data, out, overrides=SMALL | (changes or {}), **words)


def config(**changes):
    return validate(TrainConfig, changes, "test")


def small_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))


class TestOptimizer:
    def test_parameter_groups(self):
        groups = {group["name"]: group for group in optim.build(small_network(), config()).param_groups}
        shapes = {name: [tuple(p.shape) for p in group["params"]] for name, group in groups.items()}
        assert shapes == {"weight": [(4, 3, 3, 3), (2, 4, 1, 1)], "bias": [(4,), (2,)], "scale": [(4,)]}
        assert {name: group["weight_decay"] for name, group in groups.items()} == {
            "weight": 0.0005,
            "bias": 0,
            "scale": 0,
        }

    @pytest.mark.parametrize("everything", [False, True])
    @pytest.mark.parametrize("nesterov", [False, True])
    def test_sgd_step_matches_mindspore_momentum(self, nesterov, everything):
        """mindspore.nn.Momentum's documented formula, in float64: v = m v + g; w -= lr v, or w -= lr (g + m v)."""
        network = small_network().double()
        draw = np.random.default_rng(1)
        schedule = Schedule(draw.uniform(0.01, 0.1, 4), draw.uniform(0.01, 0.1, 4), draw.uniform(0.5, 0.9, 4))
        decay = {"weight_decay": 0.05, "decay_all": everything}
        settings = config(optimizer={"momentum": 0.9, "nesterov": nesterov} | decay)
        optimizer = optim.build(network, settings)
        weights = {name: p.detach().numpy().copy() for name, p in network.named_parameters()}
        moved = {name: np.zeros_like(value) for name, value in weights.items()}
        for step in range(4):
            optim.set_rates(optimizer, schedule, step)
            for name, parameter in network.named_parameters():
                gradient = draw.normal(size=parameter.shape)
                parameter.grad = torch.from_numpy(gradient)
                if parameter.ndim == 4 or everything:
                    gradient = gradient + 0.05 * weights[name]
                rate = (schedule.bias_lr if name.endswith("bias") else schedule.weight_lr)[step]
                m = schedule.momentum[step]
                moved[name] = m * moved[name] + gradient
                weights[name] = weights[name] - rate * (gradient + m * moved[name] if nesterov else moved[name])
            optimizer.step()
        for name, parameter in network.named_parameters():
            np.testing.assert_allclose(parameter.detach().numpy(), weights[name], rtol=1e-12)

    @pytest.mark.parametrize("everything", [False, True])
    def test_adamw_step_matches_documented_formula(self, everything):
        """Algorithm 2 of arXiv 1711.05101 as PyTorch documents it, in float64, with the rates of a schedule."""
        network = small_network().double()
        draw = np.random.default_rng(2)
        schedule = Schedule(draw.uniform(0.01, 0.1, 4), draw.uniform(0.01, 0.1, 4), draw.uniform(0.5, 0.9, 4))
        keys = {"kind": "adamw", "betas": [0.8, 0.95], "eps": 1e-3, "weight_decay": 0.05, "decay_all": everything}
        optimizer = optim.build(network, config(optimizer=keys))
        weights = {name: p.detach().numpy().copy() for name, p in network.named_parameters()}
        first, second = ({name: np.zeros_like(value) for name, value in weights.items()} for _ in range(2))
        for step in range(4):
            optim.set_rates(optimizer, schedule, step)
            for name, parameter in network.named_parameters():
                gradient = draw.normal(size=parameter.shape)
                parameter.grad = torch.from_numpy(gradient)
                rate = (schedule.bias_lr if name.endswith("bias") else schedule.weight_lr)[step]
                if parameter.ndim == 4 or everything:
                    weights[name] = weights[name] - rate * 0.05 * weights[name]
                first[name] = 0.8 * first[name] + 0.2 * gradient
                second[name] = 0.95 * second[name] + 0.05 * gradient**2
                mean, square = first[name] / (1 - 0.8 ** (step + 1)), second[name] / (1 - 0.95 ** (step + 1))
                weights[name] = weights[name] - rate * mean / (np.sqrt(square) + 1e-3)
            optimizer.step()
        for name, parameter in network.named_parameters():
            np.testing.assert_allclose(parameter.detach().numpy(), weights[name], rtol=1e-12)

    def test_adamw_weight_decay_is_decoupled(self):
        """By hand: with gradients of 0 a weight of 2 shrinks to 2 x (1 - 0.1 x 0.5); a bias stays."""
        network = small_network()
        last = network[3]
        with torch.no_grad():
            last.weight.fill_(2), last.bias.fill_(2)
        optimizer = optim.build(network, config(optimizer={"kind": "adamw", "weight_decay": 0.5}))
        optim.set_rates(optimizer, Schedule(*np.full((3, 1), 0.1)), 0)
        last.weight.grad, last.bias.grad = torch.zeros_like(last.weight), torch.zeros_like(last.bias)
        optimizer.step()
        assert last.weight.flatten().tolist() == pytest.approx([1.9] * 8)
        assert last.bias.tolist() == [2, 2]

    @pytest.mark.parametrize("kind", ["sgd", "adamw"])
    def test_backbone_lr_scales_the_step(self, kind):
        """A factor of 1/4: both optimizers move a weight, from fresh states and without decay, in proportion to it."""
        moved = {}
        for factor in (1, 0.25):
            network = nn.ModuleDict({"backbone": small_network(), "head": small_network()}).double()
            keys = {"kind": kind, "weight_decay": 0, "backbone_lr": factor}
            optimizer = optim.build(network, config(optimizer=keys))
            before = {name: p.detach().clone() for name, p in network.named_parameters()}
            optim.set_rates(optimizer, Schedule(np.array([0.1]), np.array([0.2]), np.array([0.9])), 0)
            for parameter in network.parameters():
                parameter.grad = torch.full_like(parameter, 0.5)
            optimizer.step()
            moved[factor] = {name: before[name] - p.detach() for name, p in network.named_parameters()}
        assert moved[1]["head.0.weight"].abs().min() > 0.04
        for name, distance in moved[0.25].items():
            wanted = moved[1][name] * (0.25 if name.startswith("backbone.") else 1)
            torch.testing.assert_close(distance, wanted, rtol=1e-9, atol=0)

    def test_backbone_lr_keeps_weight_decay_of_groups(self):
        network = nn.ModuleDict({"backbone": small_network(), "head": small_network()})
        groups = optim.build(network, config(optimizer={"backbone_lr": 0.1})).param_groups
        assert [(each["name"], len(each["params"]), each["weight_decay"]) for each in groups] == [
            ("weight", 2, 0.0005), ("bias", 2, 0), ("scale", 1, 0),
            ("backbone.weight", 2, 0.0005), ("backbone.bias", 2, 0), ("backbone.scale", 1, 0),
        ]  # fmt: skip
        with pytest.raises(InputError, match=r"backbone_lr: no parameter under 'backbone' is trained"):
            optim.build(small_network(), config(optimizer={"backbone_lr": 0.1}))

    @pytest.mark.parametrize(
        ("keys", "words"),
        [
            ({"optimizer": {"kind": "adam"}}, "train.optimizer.kind: input should be 'sgd' or 'adamw' (found 'adam')"),
            ({"optimizer": {"kind": "adamw", "momentum": 0.8, "nesterov": True}}, "momentum, nesterov set; kind adamw"),
            ({"optimizer": {"eps": 1e-6}}, "eps set; kind sgd does not use this"),
            ({"optimizer": {"betas": [0.9, 0.99]}}, "betas set; kind sgd does not use this"),
            ({"optimizer": {"kind": "adamw", "betas": [0.9, 1]}}, "optimizer.betas.1: input should be less than 1"),
            ({"optimizer": {"kind": "adamw"}, "schedule": {"warmup_momentum": 0.8}}, "adamw has no momentum"),
        ],
    )
    def test_keys_of_another_optimizer_are_rejected(self, keys, words):
        with pytest.raises(InputError) as caught:
            training.recipes.load("demo", {"train": keys})
        assert words in str(caught.value)
        assert len(str(caught.value)) <= 200

    def test_gradient_scale_matches_the_zoo(self):
        """The zoo's YOLOv4: v = m v + g / 64 + decay w; w -= lr v, on a weight that is decayed and a bias that is not.
        The loss scale itself is divided out."""
        network = small_network().double()
        settings = config(optimizer={"weight_decay": 0.05, "loss_scale": 1024, "gradient_scale": 1 / 64})
        optimizer = optim.build(network, settings)
        last = network[3]
        before = last.weight.detach().clone(), last.bias.detach().clone()
        last.weight.grad, last.bias.grad = (torch.full_like(p, 1024 * 3.2) for p in (last.weight, last.bias))
        optim.set_rates(optimizer, Schedule(*np.full((3, 1), 0.1)), 0)
        optim.unscale(network.parameters(), settings.optimizer)
        optimizer.step()
        torch.testing.assert_close(last.weight, before[0] - 0.1 * (3.2 / 64 + 0.05 * before[0]))
        torch.testing.assert_close(last.bias, before[1] - 0.1 * 3.2 / 64)

    def test_freeze_by_name(self):
        network = small_network()
        settings = config(freeze=["0.", "1."])
        trained = [p for group in optim.build(network, settings).param_groups for p in group["params"]]
        assert [p.shape for p in trained] == [(2, 4, 1, 1), (2,)]
        optim.training_mode(network, settings)
        assert not network[1].training, "a frozen layer keeps its statistics"
        assert network[3].training

    def test_freeze_norm(self):
        network = small_network()
        settings = config(freeze_norm=True)
        groups = {group["name"]: group["params"] for group in optim.build(network, settings).param_groups}
        assert not groups["scale"]
        assert len(groups["bias"]) == 1
        optim.training_mode(network, settings)
        before = network[1].running_mean.clone()
        network(torch.rand(2, 3, 8, 8))
        assert network[1].running_mean.equal(before)

    def test_freeze_statistics_trains_scale_and_shift(self):
        network = small_network()
        settings = config(freeze_statistics=True)
        optimizer = optim.build(network, settings)
        groups = {group["name"]: len(group["params"]) for group in optimizer.param_groups}
        assert groups == {"weight": 2, "bias": 2, "scale": 1}
        optim.training_mode(network, settings)
        assert [module.training for module in network] == [True, False, True, True]
        before = {name: value.clone() for name, value in network.state_dict().items()}
        optim.set_rates(optimizer, Schedule(*np.full((3, 1), 0.1)), 0)
        network(torch.rand(2, 3, 8, 8)).square().sum().backward()
        optimizer.step()
        changed = {name for name, value in network.state_dict().items() if not value.equal(before[name])}
        assert changed == {name for name, _ in network.named_parameters()}

    @pytest.mark.parametrize(
        ("freeze", "words"), [(["bakbone"], "no module 'bakbone'"), (["0", "1", "3"], "freezes every")]
    )
    def test_invalid_freeze_is_rejected(self, freeze, words):
        with pytest.raises(InputError, match=words):
            optim.build(small_network(), config(freeze=freeze))


class TestEMA:
    def test_average_by_hand(self):
        network = nn.BatchNorm1d(1)
        ema = EMA(network, EmaConfig(decay=0.9, ramp=2.0))
        mean, scale = 0.0, 1.0
        for n, value in enumerate((3.0, -1.0, 2.0), 1):
            with torch.no_grad():
                network.weight.fill_(value)
                network.running_mean.fill_(10 * value)
                network.num_batches_tracked.fill_(n)
            ema.update(n)
            decay = 0.9 * (1 - math.exp(-n / 2))
            scale, mean = decay * scale + (1 - decay) * value, decay * mean + (1 - decay) * 10 * value
            assert ema.network.weight.item() == pytest.approx(scale, rel=1e-6)
            assert ema.network.running_mean.item() == pytest.approx(mean, rel=1e-6)
            assert ema.network.num_batches_tracked.item() == n

    def test_decay_is_constant_without_ramp(self):
        assert EMA(nn.Linear(1, 1), EmaConfig(decay=0.95)).decay(1) == 0.95


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_step_does_not_synchronize_with_the_gpu(kind, tmp_path):
    """Reading a value waits for the GPU. On the device `meta`, where tensors have no values, it raises."""
    network = small_network().to("meta")
    settings = config(optimizer={"kind": kind, "clip": 1.0, "loss_scale": 2.0}, ema={"decay": 0.9, "ramp": 5})
    accelerator = SimpleNamespace(
        backward=lambda loss: loss.backward(),
        clip_grad_norm_=nn.utils.clip_grad_norm_,
        sync_gradients=True,
        is_main_process=False,
        device=torch.device("meta"),
    )
    optimizer, ema = optim.build(network, settings), EMA(network, settings.ema)
    log = TrainLogger(tmp_path, accelerator, settings, 0, SimpleNamespace())
    for step in range(3):
        optim.set_rates(optimizer, Schedule(*np.full((3, 3), 0.1)), step)
        terms = {"all": network(torch.rand(2, 3, 8, 8, device="meta")).square().mean()}
        log.record(step + 1, SimpleNamespace(frames=()), terms)
        training.optimizer_step(terms, network, optimizer, settings, accelerator)
        ema.update(step + 1)
    with pytest.raises(RuntimeError, match="meta"):
        terms["all"].item()


class TestReplaceFolder:
    """A kill is played by an exception at each of the moves that replace a folder."""

    def write(self, folder, text):
        with checkpointing.replace_folder(folder) as new:
            (new / "file").write_text(text)

    @pytest.mark.parametrize("killed_at", range(1, 5))
    def test_kill_at_any_moment_leaves_a_complete_folder(self, tmp_path, monkeypatch, killed_at):
        folder = tmp_path / "last"
        self.write(folder, "old")
        calls = iter(range(1, 100))

        class Killed(BaseException):
            pass

        def patch(holder, name):
            real = getattr(holder, name)

            def counted(*args, **words):
                if next(calls) >= killed_at:  # from the kill on nothing happens any more
                    raise Killed
                return real(*args, **words)

            monkeypatch.setattr(holder, name, counted)

        (tmp_path / "last.boxwright-new").mkdir()  # of an earlier kill
        for holder, name in ((shutil, "rmtree"), (checkpointing.Path, "rename")):
            patch(holder, name)
        with pytest.raises(Killed):
            self.write(folder, "new")
        monkeypatch.undo()
        checkpointing.recover(tmp_path)
        assert (folder / "file").read_text() == ("old" if killed_at <= 2 else "new")
        assert [path.name for path in tmp_path.iterdir()] == ["last"]

    def test_full_disk_keeps_the_old_folder(self, tmp_path, monkeypatch):
        folder = tmp_path / "last"
        self.write(folder, "old")

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(checkpointing.Path, "write_text", full)
        with pytest.raises(InputError, match=r"last: the checkpoint cannot be written \(No space left on device\)"):
            self.write(folder, "new")
        assert (folder / "file").read_text() == "old"
        assert [path.name for path in tmp_path.iterdir()] == ["last"]


@pytest.fixture(scope="module")
def finished(tiny_coco, tmp_path_factory):
    """A run of two epochs with each kind of output."""
    changes = {"train.keep_checkpoints": 1, "train.profile": 2, "train.log_every": 4}
    return run(tiny_coco, tmp_path_factory.mktemp("runs") / "finished", changes)


@pytest.mark.slow
def test_images_are_loaded_at_the_largest_augmentation_size(tiny_coco, tmp_path, monkeypatch):
    real, seen = Detect.augment, set()

    def augment(task, loaded, *rest):
        seen.add(tuple(loaded.images.shape[2:]))
        return real(task, loaded, *rest)

    monkeypatch.setattr(Detect, "augment", augment)
    run(tiny_coco, tmp_path / "run", {"train.epochs": 1, "train.augment.sizes": [[64, 96], [128, 64]]})
    assert seen == {(128, 96)}


class TestRunFolder:
    def test_files_of_a_run_folder(self, finished):
        names = {path.name.split(".out.")[0] for path in finished.iterdir()}
        assert names >= {
            "recipe.yaml",
            "log.jsonl",
            "events",
            "last",
            "best",
            "epoch-0002",
            "trace.json",
            "metrics.json",
        }
        assert "epoch-0001" not in names, "train.keep_checkpoints is 1"
        assert "left_out.txt" not in names

    def test_log_lines(self, finished):
        found = lines(finished)
        assert [(line["step"], line["epoch"]) for line in found] == [(4, 0), (6, 0), (8, 1), (12, 1), (12, 1)]
        assert found[-1]["AP50"] >= 0
        for line in found[:-1]:
            assert line["total"] == pytest.approx(sum(line["terms"].values()))
            assert line["lr"] > 0

    @pytest.mark.usefixtures("figures")
    def test_curves_show_logged_values(self, finished, tmp_path):
        assert (finished / "curves.png").is_file()
        plots.curves(finished / "log.jsonl", tmp_path / "curves.png", ("AP50", "AP"))
        image = cv2.imread(str(tmp_path / "curves.png")).astype(int)
        vivid = image.max(axis=2) - image.min(axis=2) > 60  # the colored lines of the loss terms, and of AP
        loss, _, quality = (part.sum() for part in np.array_split(vivid, 3, axis=1))
        assert loss > 500
        assert quality > 50

    def test_metrics_match_the_last_evaluation(self, finished):
        summary = json.loads((finished / "metrics.json").read_text())["summary"]
        assert summary["AP"] == lines(finished)[-1]["AP"]

    def test_second_run_in_the_folder_is_rejected(self, finished, tiny_coco):
        with pytest.raises(InputError, match="holds a run already"):
            run(tiny_coco, finished)

    def test_resume_rejects_changed_recipe(self, finished, tiny_coco):
        with pytest.raises(InputError, match=r"recipe.yaml: train.batch is 2 there and 3 now"):
            run(tiny_coco, finished, {"train.keep_checkpoints": 1, "train.batch": 3}, resume=True)

    def test_resume_rejects_changed_labels(self, finished, tiny_coco, tmp_path):
        other = shutil.copytree(tiny_coco, tmp_path / "other")
        file = other / "annotations" / "train.json"
        labels = json.loads(file.read_text())
        labels["annotations"][0]["bbox"][2] += 1
        file.write_text(json.dumps(labels))
        with pytest.raises(InputError, match="images or labels have changed"):
            run(other, finished, resume=True)

    @pytest.mark.slow
    def test_resume_of_a_finished_run_changes_nothing(self, finished, tiny_coco):
        before, log = tensors(finished / "last"), lines(finished)
        run(tiny_coco, finished, resume=True)
        after = tensors(finished / "last")
        assert all(before[name].equal(after[name]) for name in before)
        assert lines(finished) == log

    @pytest.mark.slow
    def test_all_processes_read_the_checkpoint_before_it_is_written(self, tiny_coco, tmp_path, monkeypatch):
        """On resume at step 0 the first process writes `last` again, which the others may not have read yet."""
        done = []

        def note(holder, name):
            real = getattr(holder, name)

            def noted(*args):
                done.append(name)
                return real(*args)

            monkeypatch.setattr(holder, name, noted)

        note(checkpointing.Checkpointer, "restore")
        note(Accelerator, "wait_for_everyone")
        note(checkpointing.Checkpointer, "save")
        run(tiny_coco, tmp_path / "run", {"train.epochs": 1})
        assert done[done.index("restore") :][:3] == ["restore", "wait_for_everyone", "save"]

    @pytest.mark.slow
    @pytest.mark.parametrize("damage", [b"", b"not a state", None])
    def test_damaged_state_is_an_error(self, finished, tiny_coco, tmp_path, damage):
        copy = shutil.copytree(finished, tmp_path / "copy")
        file = copy / "last" / "state.pt"
        file.write_bytes(file.read_bytes()[:-500] if damage is None else damage)
        with pytest.raises(InputError, match=r"state\.pt: not the state of a run"):
            run(tiny_coco, copy, resume=True)

    def test_resume_without_a_run_is_an_error(self, tiny_coco, tmp_path):
        with pytest.raises(InputError, match="no run to resume"):
            run(tiny_coco, tmp_path / "new", resume=True)

    def test_unwritable_run_folder_is_an_error(self, tiny_coco, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match="the run folder cannot be created"):
            run(tiny_coco, tmp_path / "file" / "run")


class TestFaults:
    @pytest.mark.slow
    def test_bad_labels_stop_the_run_unless_skip_bad(self, tiny_coco, tmp_path, capsys):
        data = shutil.copytree(tiny_coco, tmp_path / "data")
        file = data / "annotations" / "train.json"
        labels = json.loads(file.read_text())
        labels["annotations"][0]["bbox"][2:] = [0, 5]
        file.write_text(json.dumps(labels))
        with pytest.raises(InputError, match=r"1 error, .*annotations\[0\].*boxwright data check.*--skip-bad"):
            run(data, tmp_path / "run")
        assert not (tmp_path / "run").exists()
        folder = run(data, tmp_path / "run", {"train.epochs": 1}, skip_bad=True)
        left_out = (folder / "left_out.txt").read_text().splitlines()
        assert len(left_out) == 1
        assert "annotation id 1" in left_out[0]
        assert left_out[0] in capsys.readouterr().err

    def test_non_finite_loss_stops_the_run(self, tiny_coco, tmp_path, monkeypatch):
        real = yolov3.YOLOv3.loss
        seen = []

        def loss(self, batch):
            seen.append([frame.image_id for frame in batch.frames])
            terms = real(self, batch)
            return terms | {"xy": terms["xy"] * math.nan} if len(seen) == 4 else terms

        monkeypatch.setattr(yolov3.YOLOv3, "loss", loss)
        with pytest.raises(InputError, match=r"step 4: the loss is not finite \(xy nan") as caught:
            run(tiny_coco, tmp_path / "run", {"train.save_every": 1})
        assert f"images {', '.join(map(str, seen[3]))};" in str(caught.value)
        saved = tensors(tmp_path / "run" / "last")
        assert all(value.isfinite().all() for value in saved.values())
        assert torch.load(tmp_path / "run" / "last" / "state.pt", weights_only=True)["step"] == 3

    def test_non_finite_weights_are_not_saved(self, tiny_coco, tmp_path, monkeypatch):
        """A gradient can break the weights in the very step before a checkpoint, with every loss still finite."""
        real = optim.unscale

        def broken(parameters, settings):
            parameters = list(parameters)
            real(parameters, settings)
            parameters[0].grad.fill_(math.inf)

        monkeypatch.setattr(optim, "unscale", broken)
        with pytest.raises(InputError, match=r"step 1: .* no longer finite"):
            run(tiny_coco, tmp_path / "run", {"train.save_every": 1, "train.optimizer.clip": 0})
        assert torch.load(tmp_path / "run" / "last" / "state.pt", weights_only=True)["step"] == 0

    def test_accumulation_beyond_an_epoch_is_rejected(self, tiny_coco, tmp_path):
        with pytest.raises(InputError, match=r"train.accumulate: a step takes 7 batches, an epoch has only 6"):
            run(tiny_coco, tmp_path / "run", {"train.accumulate": 7})
        assert not (tmp_path / "run").exists()


PLAIN = {  # nothing random but the order, a loss that is a mean over images, statistics held
    "train.epochs": 1,
    "train.augment": {},
    "train.freeze_norm": True,
    "model.loss.normalize": "images",
}


@pytest.mark.slow
def test_accumulated_batches_equal_one_large_batch(tiny_coco, tmp_path):
    large = run(tiny_coco, tmp_path / "large", PLAIN | {"train.batch": 4})
    parts = run(tiny_coco, tmp_path / "parts", PLAIN | {"train.batch": 2, "train.accumulate": 2})
    assert furthest(large, parts)[0] < ROUNDING


@pytest.mark.slow
def test_loss_scale_does_not_change_the_result(tiny_coco, tmp_path):
    plain = run(tiny_coco, tmp_path / "plain", PLAIN)
    scaled = run(tiny_coco, tmp_path / "scaled", PLAIN | {"train.optimizer.loss_scale": 1024})
    assert furthest(plain, scaled)[0] == 0  # a power of two changes exponents only


ADAMW = {"train.optimizer": {"kind": "adamw", "backbone_lr": 0.5}, "train.schedule.lr": 1e-3, "train.save_every": 2}


@pytest.mark.slow
def test_resumed_adamw_run_equals_uninterrupted_run(tiny_coco, tmp_path, monkeypatch):
    whole = run(tiny_coco, tmp_path / "whole", ADAMW)
    real, steps = training.optimizer_step, []

    def interrupted(*args):
        steps.append(len(steps))
        if len(steps) == 6:
            raise KeyboardInterrupt
        real(*args)

    monkeypatch.setattr(training, "optimizer_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_coco, tmp_path / "cut", ADAMW)
    monkeypatch.undo()
    resumed = run(tiny_coco, tmp_path / "cut", ADAMW, resume=True)
    assert "exp_avg_sq.0" in tensors(resumed / "last")
    assert tensors(resumed / "last")["step.0"] == 12
    assert furthest(whole, resumed)[0] == 0
    assert lines(whole) == lines(resumed)
    with pytest.raises(InputError, match=r"backbone_lr is 0\.5 there and 1\.0 now"):
        run(tiny_coco, resumed, ADAMW | {"train.optimizer": {"kind": "adamw"}}, resume=True)


def test_class_names_come_from_the_data_set(finished):
    recipe = training.recipes.load(finished / "recipe.yaml")
    assert recipe.data.names == ("blue", "red")
    assert recipe.model.classes == 2


@pytest.mark.slow
def test_transfer_with_channels_last(finished, tiny_coco, tmp_path):
    changes = {"train.epochs": 1, "train.channels_last": True, "train.schedule.lr": 1e-9, "train.schedule.eta_min": 0}
    other_anchors = {"model.anchors": [[5, 5]] * 6}
    folder = run(tiny_coco, tmp_path / "run", changes | other_anchors, weights=finished, transfer=True)
    start, end = tensors(finished / "best"), tensors(folder / "last")
    name = "ema.out16.weight"
    torch.testing.assert_close(end[name], start[name], atol=1e-6, rtol=0)


@pytest.mark.slow
def test_best_checkpoint_is_kept(tiny_coco, tmp_path, monkeypatch):
    """AP falls after the second of four epochs; the first is not evaluated."""
    scores, kept = iter([0.3, 0.2, 0.1]), []
    real = training._evaluate

    def scored(job, out=None):
        metrics = real(job, out)
        if out is not None:
            return metrics
        kept.append({name: tensor.clone() for name, tensor in job.eval_network.state_dict().items()})
        return replace(metrics, summary=metrics.summary | {"AP": next(scores)})

    monkeypatch.setattr(training, "_evaluate", scored)
    folder = run(tiny_coco, tmp_path / "run", {"train.epochs": 4, "train.evaluate_every": 1, "train.evaluate_from": 1})
    assert [line["epoch"] for line in lines(folder) if "AP" in line] == [1, 2, 3]
    best = load_file(folder / "best" / "ema.safetensors")
    assert all(torch.equal(best[name], kept[0][name]) for name in best)
    assert not all(torch.equal(best[name], kept[2][name]) for name in best)


class TestPrecision:
    @pytest.mark.slow
    def test_auto_on_a_cpu(self, tiny_coco, tmp_path, capsys, monkeypatch):
        monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
        changes = {"train.epochs": 1, "train.precision": "auto"}
        folder = run(tiny_coco, tmp_path / "run", changes)
        assert "precision" not in capsys.readouterr().err  # there is no choice
        assert training.recipes.load(folder / "recipe.yaml").train.precision == "no"
        run(tiny_coco, folder, changes, resume=True)
        with pytest.raises(InputError, match=r"train\.precision is 'no' there and 'bf16' now"):
            run(tiny_coco, folder, {"train.epochs": 1, "train.precision": "bf16"}, resume=True)

    @pytest.mark.parametrize(
        ("device", "has", "wanted"), [("cuda", True, "bf16"), ("cuda", False, "no"), ("mps", True, "no")]
    )
    def test_auto_on_an_accelerator(self, device, has, wanted, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has)
        assert processes.best_precision(torch.device(device)) == wanted

    @pytest.mark.slow
    def test_chosen_precision_is_used(self, tiny_coco, tmp_path, monkeypatch):
        """In bfloat16 the network's raw outputs have 8 bits; in the run's recipe it stays what was set."""
        real, kinds = yolov3.YOLOv3Tiny.forward, set()

        def forward(self, images):
            raw = real(self, images)
            kinds.add((self.training, raw[0].dtype))
            return raw

        monkeypatch.setattr(yolov3.YOLOv3Tiny, "forward", forward)
        folder = run(tiny_coco, tmp_path / "run", {"train.epochs": 1, "train.precision": "bf16"})
        assert (True, torch.bfloat16) in kinds
        assert training.recipes.load(folder / "recipe.yaml").train.precision == "bf16"


PATIENT = {"train.epochs": 9, "train.evaluate_every": 1, "train.patience": 2}


@pytest.fixture
def scripted(monkeypatch):
    """Evaluations with the quality 0.3, 0.2, 0.4, 0.4, 0.1, ...: the best is the third, two later ones end the run."""
    real, scores = training._evaluate, [0.3, 0.2, 0.4, 0.4, 0.1, 0.9, 0.9, 0.9, 0.9]

    def scored(job, out=None):
        done = len([line for line in lines(scored.run) if "AP" in line])
        metrics = real(job, out)
        return metrics if out is not None else replace(metrics, summary=metrics.summary | {"AP": scores[done]})

    monkeypatch.setattr(training, "_evaluate", scored)
    return scored


class TestPatience:
    @pytest.mark.slow
    def test_early_stopped_run_is_complete(self, tiny_coco, tmp_path, scripted, capsys):
        scripted.run = tmp_path / "run"
        folder = run(tiny_coco, scripted.run, PATIENT)
        message = "stopped after epoch 5: 2 evaluations without a better network"
        assert message in capsys.readouterr().err
        assert [line["epoch"] for line in lines(folder) if "AP" in line] == [0, 1, 2, 3, 4]
        assert torch.load(folder / "best" / "state.pt", weights_only=True)["step"] == 3 * 6
        assert torch.load(folder / "last" / "state.pt", weights_only=True)["step"] == 5 * 6
        assert (folder / "metrics.json").exists()
        assert (folder / "curves.png").exists()
        before, log = tensors(folder / "last"), lines(folder)
        run(tiny_coco, folder, PATIENT, resume=True)
        assert message in capsys.readouterr().err
        assert lines(folder) == log
        assert all(value.equal(before[name]) for name, value in tensors(folder / "last").items())
        run(tiny_coco, folder, PATIENT | {"train.patience": 3}, resume=True)  # and with more of it goes on
        assert [line["AP"] for line in lines(folder) if "AP" in line][:6] == [0.3, 0.2, 0.4, 0.4, 0.1, 0.9]

    @pytest.mark.slow
    def test_count_continues_after_resume(self, tiny_coco, tmp_path, scripted, monkeypatch):
        scripted.run = tmp_path / "cut"
        real, steps = training.optimizer_step, []

        def interrupted(*args):
            steps.append(len(steps))
            if len(steps) == 4 * 6 + 3:  # in the fifth epoch, after one evaluation without a better network
                raise KeyboardInterrupt
            real(*args)

        with monkeypatch.context() as patch:
            patch.setattr(training, "optimizer_step", interrupted)
            with pytest.raises(KeyboardInterrupt):
                run(tiny_coco, scripted.run, PATIENT)
        run(tiny_coco, scripted.run, PATIENT, resume=True)
        assert max(line["epoch"] for line in lines(scripted.run)) == 4

    def test_patience_without_evaluation_is_rejected(self, tiny_coco, tmp_path):
        with pytest.raises(InputError, match="patience counts evaluations, and evaluate_every is 0"):
            run(tiny_coco, tmp_path / "run", {"train.patience": 2, "train.evaluate_every": 0})


def test_head_with_other_class_names_is_logged(finished, capsys):
    """As many classes as in the file, but others."""
    recipe = training.recipes.load(finished / "recipe.yaml").with_overrides({"data.names": ["car", "red"]})
    main = SimpleNamespace(is_main_process=True)
    training.initial_network(recipe, finished, False, main)
    assert "its classes are blue, red" in capsys.readouterr().err
    training.initial_network(recipe.with_overrides({"data.names": ["blue", "red"]}), finished, False, main)
    assert "classes" not in capsys.readouterr().err


@pytest.mark.slow
def test_frozen_layers_without_weights_are_rejected(finished, tiny_coco, tmp_path):
    changes = {"train.epochs": 1, "train.freeze": ["backbone"]}
    with pytest.raises(InputError, match=r"backbone would keep random weights.*--weights"):
        run(tiny_coco, tmp_path / "run", changes)
    with pytest.raises(InputError, match=r"--set train\.freeze=\[\] --set train\.freeze_statistics=false$"):
        run(tiny_coco, tmp_path / "run", changes | {"train.freeze_statistics": True})
    folder = run(tiny_coco, tmp_path / "run", changes, weights=finished)
    run(tiny_coco, folder, changes, resume=True)  # which has its layers from the run


@pytest.mark.slow
def test_profile_counts_optimizer_steps(tiny_coco, tmp_path):
    changes = {"train.epochs": 1, "train.accumulate": 2, "train.profile": 2}
    folder = run(tiny_coco, tmp_path / "run", changes)
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    assert len([event for event in events if event["name"] == "Optimizer.step#SGD.step"]) == 2


def test_accumulated_batches_have_the_same_size(tiny_coco):
    changes = {"train.accumulate": 2, "train.augment.sizes": [[96, 96], [64, 64], [128, 128]]}
    recipe = training.recipes.load("demo", SMALL | changes)
    batch = next(Loader(open_dataset(tiny_coco, "train"), recipe.data.canvas, 2).epoch(0))
    sizes = [TASK.augment(batch, recipe, 0, number, 0).images.shape[2] for number in range(12)]
    assert sizes[0::2] == sizes[1::2]
    assert len(set(sizes)) == 3


@pytest.mark.slow
@pytest.mark.parametrize("mixed", [0, 0.5])
def test_training_with_images_without_boxes(tiny_coco, tmp_path, monkeypatch, mixed):
    """Several training images have no box; some batches have none, and contribute background only."""
    data = shutil.copytree(tiny_coco, tmp_path / "data")
    for split, kept in (("train", {1, 2, 3}), ("val", {1, 2})):
        file = data / "annotations" / f"{split}.json"
        labels = json.loads(file.read_text())
        labels["annotations"] = [each for each in labels["annotations"] if each["image_id"] in kept]
        file.write_text(json.dumps(labels))
    real, boxes = yolov3.YOLOv3.loss, []

    def loss(self, batch):
        boxes.append(int(batch.valid.sum()))
        return real(self, batch)

    monkeypatch.setattr(yolov3.YOLOv3, "loss", loss)
    folder = run(data, tmp_path / "run", {"train.augment.mosaic": mixed, "train.augment.mixup": mixed})
    assert len(boxes) == 12
    assert 0 in boxes
    assert max(boxes) > 0
    assert all(value.isfinite().all() for value in tensors(folder / "last").values())
    found = {line["step"]: line["terms"] for line in lines(folder) if "terms" in line}
    for step, count in enumerate(boxes, 1):
        if not count:
            assert found[step].pop("objectness") > 0
            assert set(found[step].values()) == {0}


@pytest.mark.slow
def test_dropout_is_a_function_of_the_step(tiny_coco, tmp_path, monkeypatch):
    """What PyTorch's generator, from which dropout draws, gives in each step, also after a resume."""
    real, drawn = yolov3.YOLOv3.loss, []

    def loss(self, batch):
        if len(drawn) == stop:
            raise KeyboardInterrupt
        drawn.append(torch.rand(()).item())
        return real(self, batch)

    monkeypatch.setattr(yolov3.YOLOv3, "loss", loss)
    stop = None
    run(tiny_coco, tmp_path / "whole")
    whole, stop = drawn.copy(), 8
    drawn.clear()
    with pytest.raises(KeyboardInterrupt):
        run(tiny_coco, tmp_path / "cut")
    drawn.clear()
    stop = None
    run(tiny_coco, tmp_path / "cut", resume=True)
    assert len(set(whole)) == len(whole) == 12
    assert drawn == whole[-len(drawn) :]
