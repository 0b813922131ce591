"""Learning rate schedules compared with the arrays of the original systems, and by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from boxwright import recipe
from boxwright.config import validate
from boxwright.engine.schedule import Schedule, learning_rates
from boxwright.errors import InputError
from boxwright.recipe import ScheduleConfig, TrainConfig

ORACLES = Path(__file__).parent / "oracles" / "schedules"
KINDS = {"exponential": "multistep", "cosine_annealing": "cosine"}  # the zoo's word -> ours
ZOO = [(system, case) for system in ("yolov3_darknet53", "yolov4")
       for case in ("exponential", "exponential_warm", "cosine", "cosine_warm", "cosine_eta")]  # fmt: skip


def oracle(system: str, case: str) -> tuple[np.ndarray, dict]:
    with np.load(ORACLES / f"{system}.npz") as file:
        return file[case], json.loads(str(file["meta"])).get(case, {})


def make_schedule(steps_per_epoch: int, epochs: int, momentum: float = 0.9, **schedule) -> Schedule:
    return learning_rates(ScheduleConfig(**schedule), steps_per_epoch, epochs, momentum)


@pytest.mark.parametrize(("system", "case"), ZOO)
def test_schedules_match_the_zoo(system, case):
    expected, meta = oracle(system, case)
    ours = make_schedule(
        meta["steps_per_epoch"],
        meta["max_epoch"],
        kind=KINDS[meta["lr_scheduler"]],
        lr=meta["lr"],
        lr_epochs=tuple(meta["lr_epochs"]),
        lr_gamma=meta["lr_gamma"],
        eta_min=meta["eta_min"],
        T_max=meta.get("T_max") or meta["t_max"],
        warmup_epochs=meta["warmup_epochs"],
    )
    np.testing.assert_allclose(ours.weight_lr, expected, rtol=2e-7)
    np.testing.assert_array_equal(ours.bias_lr, ours.weight_lr)
    np.testing.assert_array_equal(ours.momentum, np.full(len(expected), 0.9))


def test_yolov4_dota_schedule_matches_its_published_log():
    """The rates it prints at the end of epochs 1 to 4, steps counted from 0, 378 per epoch (4 decimals are exact)."""
    published = {377: 0.003, 755: 0.006, 1133: 0.009, 1511: 0.012}
    train = recipe.load("yolov4_dota_608").train
    ours = learning_rates(train.schedule, 378, train.epochs, train.optimizer.momentum).weight_lr
    assert {step: float(ours[step]) for step in published} == pytest.approx(published, rel=1e-7)
    assert len(ours) == 120960  # the number in its checkpoint's name
    assert ours[378 * 160] == pytest.approx(0.006)  # half of the cosine


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        ("step", "multistep"),
        ("step_warm", "multistep"),
        ("cosine", "cosine"),
        ("cosine_warm", "cosine"),
        ("every", "step"),
    ],
)
def test_tiny_darknet_schedules_match_the_zoo(case, kind):
    expected, meta = oracle("tinydarknet", case)
    falls = meta.get("lr_epochs") or [meta.get("epoch_size") or 1]
    keys = {"lr_gamma": "gamma", "eta_min": "eta_min", "T_max": "T_max", "warmup_epochs": "warmup_epochs"}
    given = {ours: meta[theirs] for ours, theirs in keys.items() if theirs in meta}
    ours = make_schedule(
        meta["steps_per_epoch"], meta["max_epoch"], kind=kind, lr=meta["lr"], lr_epochs=tuple(falls), **given
    )
    np.testing.assert_allclose(ours.weight_lr, expected, rtol=2e-7)


@pytest.mark.parametrize("run", ["a", "b"])
def test_schedule_matches_mindyolo(run):
    meta = oracle("mindyolo_yolov3", f"{run}.weight")[1]
    ours = make_schedule(
        meta["steps_per_epoch"],
        meta["epochs"],
        momentum=0.937,
        kind="cosine",
        lr=meta["lr_init"] * meta["start_factor"],
        eta_min=meta["lr_init"] * meta["end_factor"],
        warmup_epochs=meta["warmup_epochs"],
        warmup_min_steps=meta["min_warmup_step"],
        warmup_bias_lr=meta["warmup_bias_lr"],
        warmup_momentum=0.8,
    )
    np.testing.assert_allclose(ours.weight_lr, oracle("mindyolo_yolov3", f"{run}.weight")[0], rtol=1e-12)
    np.testing.assert_allclose(ours.weight_lr, oracle("mindyolo_yolov3", f"{run}.other")[0], rtol=1e-12)
    np.testing.assert_allclose(ours.bias_lr, oracle("mindyolo_yolov3", f"{run}.bias_beta")[0], rtol=1e-12)
    rising = oracle("mindyolo_yolov3", f"{run}.momentum")[0]
    np.testing.assert_allclose(ours.momentum[: len(rising)], rising, rtol=1e-12)
    np.testing.assert_array_equal(ours.momentum[len(rising) :], 0.937)


@pytest.mark.parametrize("case", ["a", "b"])
def test_per_step_schedules_match_the_zoo(case):
    """Faster R-CNN's table is one epoch longer than the training, which never reaches its end."""
    expected = oracle("faster_rcnn_dcn", case)[0]
    with np.load(ORACLES / "faster_rcnn_dcn.npz") as file:
        meta = json.loads(str(file["meta"]))[case]
    settings = {
        "lr": meta["base_lr"],
        "by_step": True,
        "warmup_min_steps": meta["warmup_step"],
        "warmup_from": meta["warmup_ratio"],
    }
    for epochs, beyond in ((meta["epoch_size"], 1), (meta["epoch_size"] + 1, 0)):
        ours = make_schedule(meta["steps_per_epoch"], epochs, T_beyond=beyond, **settings)
        assert len(ours.weight_lr) == epochs * meta["steps_per_epoch"]
        np.testing.assert_allclose(ours.weight_lr, expected[: len(ours.weight_lr)], rtol=2e-7)
        np.testing.assert_array_equal(ours.bias_lr, ours.weight_lr)


def test_per_step_schedules_by_hand():
    """Two steps of warm-up, then four steps of the line or of the cosine from 1 to 0.2 within two epochs of two."""
    settings = {"lr": 1.0, "eta_min": 0.2, "T_max": 2, "by_step": True, "warmup_min_steps": 2}
    line = make_schedule(2, 4, kind="linear", warmup_from=0.5, **settings).weight_lr
    assert line == pytest.approx([0.5, 0.75, 1, 0.8, 0.6, 0.4, 0.2, 0.2])
    curve = make_schedule(2, 4, kind="cosine", **settings).weight_lr
    half = 0.8 * (1 + 0.5**0.5) / 2  # a quarter of the way to pi
    assert curve == pytest.approx([0.5, 1, 1, 0.2 + half, 0.6, 1 - half, 0.2, 1 - half])
    falling = make_schedule(2, 4, kind="multistep", lr_epochs=(2,), **settings).weight_lr
    assert falling == pytest.approx([0.5, 1, 1, 1, 0.1, 0.1, 0.1, 0.1])


def test_linear_and_constant_by_hand():
    assert make_schedule(2, 4, kind="linear", lr=1.0, eta_min=0.2).weight_lr == pytest.approx(
        [1, 1, 0.8, 0.8, 0.6, 0.6, 0.4, 0.4]
    )
    assert make_schedule(1, 4, kind="linear", lr=1.0, T_max=2).weight_lr == pytest.approx([1, 0.5, 0, 0])
    assert make_schedule(2, 2, kind="constant", lr=0.5).weight_lr.tolist() == [0.5] * 4


def test_darknet_schedules_match_its_loop():
    """burn_in with a power, then unequal scales at iterations, as AlexeyAB's get_current_rate goes through them."""
    burn_in, power, steps, scales, rate = 5, 4, (8, 9, 13), (0.1, 10, 0.5), 0.3
    expected = []
    for iteration in range(20):
        now = rate
        if iteration < burn_in:
            now = rate * (iteration / burn_in) ** power
        else:
            for step, scale in zip(steps, scales, strict=True):
                if iteration >= step:
                    now *= scale
        expected.append(now)
    settings = {"warmup_min_steps": burn_in, "warmup_from": 0.0, "warmup_power": power}
    ours = make_schedule(4, 5, kind="multistep", lr=rate, lr_steps=steps, lr_gamma=scales, **settings)
    np.testing.assert_allclose(ours.weight_lr, expected, rtol=1e-12)
    step = make_schedule(4, 5, kind="step", lr=rate, lr_steps=(6,), lr_gamma=0.2).weight_lr
    np.testing.assert_allclose(step, [rate * 0.2 ** (iteration // 6) for iteration in range(20)], rtol=1e-12)
    poly = make_schedule(4, 5, kind="linear", lr=rate, by_step=True, linear_power=4).weight_lr
    np.testing.assert_allclose(poly, [rate * (1 - iteration / 20) ** 4 for iteration in range(20)], rtol=1e-12)


def test_darknet_exp_sigmoid_and_sgdr_match_its_loop():
    """exp, sigmoid and sgdr with restarts, after a burn-in; AlexeyAB's program starts a cycle behind its end."""
    warmup = {"warmup_min_steps": 3, "warmup_from": 0.0, "warmup_power": 4, "lr": 0.3, "by_step": True}
    expected = {"exponential": [], "sigmoid": [], "cosine": []}
    for iteration in range(24):
        start, cycle, reached = 0, 4, min(iteration, 12)  # the lowest rate behind the last end that is given
        while start + cycle < reached:
            start, cycle = start + cycle, cycle * 2
        expected["cosine"].append(0.01 + 0.5 * 0.29 * (1 + np.cos((reached - start) * np.pi / cycle)))
        expected["exponential"].append(0.3 * 0.9**iteration)
        expected["sigmoid"].append(0.3 / (1 + np.exp(0.5 * (iteration - 7))))
    keys = {
        "exponential": {"lr_gamma": 0.9},
        "sigmoid": {"lr_gamma": 0.5, "lr_steps": (7,)},
        "cosine": {"cycle_steps": (4, 12), "eta_min": 0.01},
    }
    for kind, own in keys.items():
        rates = np.where(np.arange(24) < 3, 0.3 * (np.arange(24) / 3) ** 4, expected[kind])
        np.testing.assert_allclose(make_schedule(6, 4, kind=kind, **own, **warmup).weight_lr, rates, rtol=1e-12)
    assert make_schedule(1, 3, kind="sigmoid", lr=1.0, lr_gamma=1000, lr_steps=(1,)).weight_lr == pytest.approx(
        [1, 0.5, 0]
    )


def test_warmup_power_of_other_warmup_kinds():
    assert make_schedule(4, 1, kind="constant", lr=1.0, warmup_min_steps=4, warmup_power=2).weight_lr.tolist() == [
        (1 / 4) ** 2, (2 / 4) ** 2, (3 / 4) ** 2, 1.0,
    ]  # fmt: skip
    ours = make_schedule(4, 1, kind="constant", lr=1.0, warmup_min_steps=4, warmup_bias_lr=2.0, warmup_power=2)
    assert ours.weight_lr.tolist() == [0, 1 / 16, 4 / 16, 9 / 16]


def test_epochs_from_min_steps():
    """10 steps at 4 per epoch take 3 epochs; an evaluation every 5 steps is one every 2 epochs."""
    config = TrainConfig(epochs="auto", min_steps=10, evaluate_min_steps=5).in_epochs(4)
    assert (config.epochs, config.evaluate_every) == (3, 2)
    assert TrainConfig(epochs="auto", min_epochs=5, min_steps=10).in_epochs(4).epochs == 5
    assert TrainConfig(epochs=2, min_epochs=5, min_steps=10).in_epochs(4).epochs == 2
    assert TrainConfig(epochs=7).in_epochs(4) == TrainConfig(epochs=7)


@pytest.mark.parametrize("epochs", ["all", 0, 1.5, True, 10_000_000, None])
def test_epochs_are_a_number_or_auto(epochs):
    with pytest.raises(InputError, match=r"train\.epochs: needed a whole number from 1 to 1000000, or auto"):
        recipe.load("demo", {"train.epochs": epochs})
    assert TrainConfig(evaluate_every=0, evaluate_min_steps=5).in_epochs(4).evaluate_every == 0


def test_warmup_longer_than_the_training():
    assert make_schedule(1, 2, kind="constant", lr=1.0, warmup_min_steps=4).weight_lr.tolist() == [0.25, 0.5]
    ours = make_schedule(1, 2, kind="constant", lr=1.0, warmup_min_steps=4, warmup_bias_lr=2.0)
    assert ours.weight_lr.tolist() == [0, 0.25]
    assert ours.bias_lr.tolist() == [2, 1.75]


def test_momentum_without_warmup_is_that_of_the_optimizer():
    assert make_schedule(1, 2, kind="constant", warmup_bias_lr=0.1, warmup_momentum=0.5).momentum.tolist() == [0.9, 0.9]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "step"}, "kind step needs one number"),
        ({"kind": "step", "lr_epochs": [3, 5]}, "kind step needs one number"),
        ({"kind": "multistep", "lr_epochs": [5, 3]}, "needs rising epochs"),
        ({"kind": "multistep"}, "needs rising epochs"),
        ({"kind": "multistep", "lr_epochs": [3], "lr_steps": [3]}, "lr_epochs and lr_steps are both set"),
        ({"kind": "multistep", "lr_steps": [3, 9], "lr_gamma": [0.1]}, "holds 1 factors; .* or 2, one per fall"),
        ({"lr_gamma": [0.1]}, "kind cosine needs one number"),
        ({"kind": "sigmoid"}, "kind sigmoid needs one number, where lr is half"),
        ({"cycle_steps": [5, 3]}, "cycle_steps holds .5, 3.; needed rising steps"),
        ({"lr": 0.1, "eta_min": 0.2}, "eta_min 0.2 is above lr 0.1"),
        ({"warmup_from": 0.1, "warmup_bias_lr": 0.1}, "belong to different warm-ups"),
    ],
)
def test_invalid_schedules_are_rejected(changes, words):
    with pytest.raises(InputError, match=words):
        validate(ScheduleConfig, changes, "train.schedule")
