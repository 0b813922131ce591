"""Every file in `models/`: what the protocol promises, on a small network and small images.

The oracles' tests have the networks at full depth.
"""

import re

import pytest
import torch

from boxwright import models
from boxwright.nn import rpn
from boxwright.types import Batch, ClassBatch, Classifier, Detector, Frame
from from_the_host import NoNumbersFromTheHost

FEW = {
    "rpn": {"samples": 2000, "max_positives": 32, "train_proposals": 60, "test_proposals": 60},
    "roi": {"samples": 32, "max_positives": 16},
}
# What makes a system small where its defaults are large; a new model needs no row.
SMALL = {
    "yolov3": [
        {},
        {"network": "tiny", "width": 0.25, "anchors": [[10, 14], [23, 27], [37, 58], [81, 82], [135, 169], [344, 319]]},
    ],
    "yolov4": [
        {"width": 0.25},
        {
            "network": "tiny",
            "width": 0.25,
            "scale_xy": [1.05, 1.05],
            "anchors": [[10, 14], [23, 27], [37, 58], [81, 82], [135, 169], [344, 319]],
        },
    ],
    "faster_rcnn": [
        {"deform": "none"} | FEW,
        {"deform": "standard"} | FEW,
        {"deform": "zoo", "padding": "same", "plus_one": True} | FEW,
    ],
}
TASKS = {name: models.module(name).Config.task for name in models.names()}
CASES = [(name, changes) for name, task in TASKS.items() if task == "detect" for changes in SMALL.get(name, [{}])]
CLASSIFIERS = [
    ("tiny_darknet", {"last": "plain"}),
    ("tiny_darknet", {"last": "block", "init_std": 0.02}),
    ("darknet_cls", {"network": "darknet53", "padding": "same"}),
    ("darknet_cls", {"network": "cspdarknet53", "activation": "mish"}),
]
SIZE = 64
# Layers that only say where objects lie, or in YOLOX of which class they are: without objects nothing is learned
ONLY_OF_OBJECTS = re.compile(r"deltas|head\d+\.class")


def stir(model: torch.nn.Module) -> None:
    """Random statistics, and weights where some start at 0: the outputs depend on all of them."""
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(part.weight, 0.7, 1.3)
    for place, parameter in model.named_parameters():
        if place.endswith(("offset.weight", "mask.weight", "rpn.deltas.weight", "head.deltas.weight")):
            torch.nn.init.normal_(parameter, std=0.03)


@pytest.fixture(
    params=CASES, ids=lambda case: "-".join([case[0], *(v for v in case[1].values() if isinstance(v, str))])
)
def model(request: pytest.FixtureRequest, short_networks: None) -> torch.nn.Module:
    name, changes = request.param
    module = models.module(name)
    torch.manual_seed(0)
    built = module.build(module.Config.model_validate({"name": name, "classes": 3} | changes))
    assert isinstance(built, torch.nn.Module)
    for part in built.modules():
        if isinstance(part, torch.nn.BatchNorm2d) and not part.weight.any():
            torch.nn.init.constant_(part.weight, 0.2)  # it starts at 0, which keeps gradients from what comes before it
    return built


def batch(empty: bool, rows: int = 7) -> Batch:
    """Two images; the objects have every size, so that every scale has some. empty: all rows are padding."""
    frames = tuple(Frame(i, "", (SIZE, SIZE), (SIZE, SIZE), (1.0, 1.0)) for i in range(2))
    images = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    sides = torch.tensor([8, 12, 20, 28, 40, 56, 60])
    corner = torch.tensor([1, 40, 5, 30, 10, 4, 2])
    boxes = torch.stack((corner, corner, corner + sides, corner + sides), 1).clamp(max=SIZE).float().expand(2, -1, -1)
    labels = torch.arange(7).remainder(3).expand(2, -1)
    labels = torch.full_like(labels, -1) if empty else labels
    ignore = torch.zeros_like(labels, dtype=torch.bool)
    return Batch(images, boxes[:, :rows], labels[:, :rows], ignore[:, :rows], frames)


def test_forward_returns_the_named_raw_outputs(model: torch.nn.Module) -> None:
    assert isinstance(model, Detector)
    raw = model.eval()(batch(empty=True).images)
    assert len(raw) == len(model.raw_names)
    assert all(len(one) == 2 for one in raw)
    for name in ("mean", "std"):
        assert model.state_dict()[name].shape == (3, 1, 1)


def test_one_stage_raw_outputs_are_ordered_coarse_to_fine(model: torch.nn.Module) -> None:
    if not model.raw_names[0].startswith("stride"):
        return
    raw = model.eval()(batch(empty=True).images)
    strides = [SIZE // level.shape[2] for level in raw]
    assert strides == sorted(strides, reverse=True)
    assert [f"stride{stride}" for stride in strides] == list(model.raw_names)
    assert model.finest_stride == strides[-1]
    boxes, scores = model.decode_padded(raw)
    anchors, left = divmod(boxes.shape[1], sum(level.shape[2] * level.shape[3] for level in raw))
    assert (anchors > 0, left, scores.shape) == (True, 0, (2, boxes.shape[1], model.config.classes))
    (channels,) = {level.shape[1] for level in raw}
    assert channels % anchors == 0
    assert channels // anchors >= 4 + model.config.classes  # a box and a score a class, for each anchor


def test_training_mode_affects_batch_norm_only(model: torch.nn.Module) -> None:
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.train = lambda mode=True, part=part: part  # type: ignore[method-assign,misc]
            part.training = False
    images = batch(empty=True).images
    with torch.no_grad():
        trained, evaluated = model.train()(images), model.eval()(images)
    assert all(torch.equal(a, b) for a, b in zip(trained, evaluated, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("empty", "rows"), [(False, 7), (True, 7), (True, 0)], ids=["full", "padding", "no-rows"])
def test_loss_and_gradients_are_finite(model: torch.nn.Module, empty: bool, rows: int) -> None:
    terms = model.train().loss(batch(empty, rows))
    assert all(term.shape == () and bool(term.isfinite()) for term in terms.values())
    total = torch.stack(list(terms.values())).sum()
    total.backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, f"{name} has no gradient"
        assert bool(weight.grad.isfinite().all()), f"{name} has a gradient that is not finite"
        assert bool((weight.grad != 0).any()) or (empty and ONLY_OF_OBJECTS.search(name)), f"{name} learns nothing"


@pytest.mark.slow
def test_loss_does_not_synchronize_with_the_gpu(model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpn, "_kept", lambda boxes, _, *settings: rpn.kept_at_once(boxes, *settings))  # a GPU's way
    full = batch(empty=False)
    with NoNumbersFromTheHost():
        torch.stack(list(model.train().loss(full).values())).sum().backward()


@pytest.mark.slow
def test_loss_decreases(model: torch.nn.Module) -> None:
    """A few steps on one batch bring the loss down: signs and targets are not upside down."""
    model.train()
    full = batch(empty=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        total = torch.stack(list(model.loss(full).values())).sum()
        total.backward()
        optimizer.step()
        losses.append(total.item())
    assert 0 <= losses[-1] < losses[0] * 0.9


def test_decode_returns_valid_boxes_and_scores(model: torch.nn.Module) -> None:
    with torch.no_grad():
        raw = model.eval()(batch(empty=True).images)
    everything = model.decode(raw, 0.0)
    assert len(everything) == 2
    for found in everything:
        assert len(found) >= 60
        assert bool((found.scores >= 0).all() and (found.scores <= 1).all())
        assert bool(found.boxes.isfinite().all() and (found.boxes[:, 2:] >= found.boxes[:, :2]).all())
        assert found.labels.dtype == torch.int64
        assert 0 <= int(found.labels.min()) <= int(found.labels.max()) < 3
        threshold = float(found.scores.median())
        assert int((found.scores >= threshold).sum()) < len(found)
    some = model.decode(raw, threshold)
    for found, kept in zip(everything, some, strict=True):
        better = found[found.scores >= threshold]
        assert torch.equal(kept.boxes, better.boxes)
        assert torch.equal(kept.scores, better.scores)
        assert torch.equal(kept.labels, better.labels)
    assert [len(found) for found in model.decode(raw, 1.0)] == [0, 0]


def test_detections_do_not_depend_on_the_rest_of_the_batch(model: torch.nn.Module) -> None:
    images = batch(empty=True).images
    with torch.no_grad():
        both, second = model.eval()(images), model(images[1:])
    together, alone = model.decode(both, 0.0)[1], model.decode(second, 0.0)[0]
    torch.testing.assert_close(together.boxes, alone.boxes, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(together.scores, alone.scores, rtol=1e-4, atol=1e-6)


def test_all_classifiers_are_tested() -> None:
    assert {name for name, _ in CLASSIFIERS} == {name for name, task in TASKS.items() if task == "classify"}


@pytest.fixture(params=CLASSIFIERS, ids=lambda case: "-".join([case[0], *(str(v) for v in case[1].values())]))
def classifier(request: pytest.FixtureRequest, short_networks: None) -> torch.nn.Module:
    name, changes = request.param
    module = models.module(name)
    torch.manual_seed(0)
    built = module.build(module.Config.model_validate({"name": name, "classes": 3, "label_smoothing": 0.1} | changes))
    assert isinstance(built, torch.nn.Module)
    return built


def example_images(blended: bool = False) -> ClassBatch:
    """Four images of three classes; blended: each with a share of the next class."""
    frames = tuple(Frame(i, "", (SIZE, SIZE), (SIZE, SIZE), (1.0, 1.0)) for i in range(4))
    images = torch.rand(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 2, 0])
    if not blended:
        return ClassBatch(images, labels, frames)
    return ClassBatch(images, labels, frames, (labels + 1).remainder(3), torch.tensor([0.0, 0.3, 0.6, 1.0]))


def test_classifier_returns_logits(classifier: torch.nn.Module) -> None:
    assert isinstance(classifier, Classifier)
    assert classifier.raw_names == ("logits",)
    with torch.no_grad():
        raw = classifier.eval()(example_images().images)
    assert [one.shape for one in raw] == [(4, 3)]
    for name in ("mean", "std"):
        assert classifier.state_dict()[name].shape == (3, 1, 1)


@pytest.mark.parametrize("blended", [False, True])
def test_classifier_loss_and_gradients_are_finite(classifier: torch.nn.Module, blended: bool) -> None:
    """Every weight learns, and nothing waits for a GPU."""
    batch = example_images(blended)
    with NoNumbersFromTheHost():
        terms = classifier.train().loss(batch)
        torch.stack(list(terms.values())).sum().backward()
    assert all(term.shape == () and bool(term.isfinite()) for term in terms.values())
    for name, weight in classifier.named_parameters():
        assert weight.grad is not None, f"{name} has no gradient"
        assert bool(weight.grad.isfinite().all() and (weight.grad != 0).any()), f"{name} learns nothing"


@pytest.mark.slow
def test_classifier_loss_decreases(classifier: torch.nn.Module) -> None:
    classifier.train()
    optimizer = torch.optim.Adam(classifier.parameters(), lr=1e-3)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        total = torch.stack(list(classifier.loss(example_images()).values())).sum()
        total.backward()
        optimizer.step()
        losses.append(total.item())
    assert 0 <= losses[-1] < losses[0] * 0.9


def test_classes_do_not_depend_on_the_rest_of_the_batch(classifier: torch.nn.Module) -> None:
    images = example_images().images
    with torch.no_grad():
        both, second = classifier.eval()(images), classifier(images[1:2])
    everything = classifier.decode(both, 10)
    assert len(everything) == 4
    for found in everything:
        assert found.labels.dtype == torch.int64
        assert sorted(found.labels.tolist()) == [0, 1, 2]
        assert float(found.scores.sum()) == pytest.approx(1)
        assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    (alone,) = classifier.decode(second, 1)
    torch.testing.assert_close(alone.scores, everything[1].scores[:1], rtol=1e-4, atol=1e-6)
    assert alone.labels.tolist() == everything[1].labels[:1].tolist()
