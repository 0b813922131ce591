"""`train.class_weights`: factors in the loss of classes of every model, and nowhere else."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright import models, recipe
from boxwright.engine import train
from boxwright.engine.compiling import compiled_loss
from boxwright.errors import InputError
from boxwright.models import faster_rcnn
from boxwright.models.darknet_cfg import CfgDetector
from boxwright.models.darknet_cfg import Config as CfgConfig
from boxwright.models.faster_rcnn import FasterRCNN, Targets
from boxwright.ops.losses import cross_entropy
from boxwright.tasks.classify import TASK as CLASSIFY
from boxwright.tasks.detect import TASK as DETECT
from boxwright.types import Batch, ClassBatch, Frame
from class_folder import RECIPE
from from_the_host import NoNumbersFromTheHost
from small_run import SMALL
from test_compile import Graphs
from test_darknet_training import cfg
from test_models import CASES, example_images
from test_models import SMALL as SYSTEMS
from zoo_loss import batch_of

TERMS = ("cls", "classes")  # of classes
WEIGHTS = torch.tensor([2.0, 0.0, 1.0])


def build(name: str, changes: dict[str, Any]) -> Any:
    torch.manual_seed(3)
    if name == "darknet_cfg":
        return CfgDetector(CfgConfig(cfg=cfg()))
    module = models.module(name)
    return module.build(module.Config.model_validate({"name": name, "classes": 3} | changes))


@pytest.fixture(params=[*CASES, ("darknet_cfg", {})], ids=lambda case: case[0])
def network(request: pytest.FixtureRequest, short_networks: None) -> Any:
    return build(*request.param).eval()


def objects(height: int = 64, width: int = 96) -> Batch:
    """Two images; the objects of the first are of class 0, those of the second of class 1, and one of class 2."""
    boxes = torch.tensor([[4.0, 6, 16, 20], [30, 10, 44, 22], [50, 20, 95, 60], [8, 30, 26, 63]]).expand(2, -1, -1)
    labels = torch.tensor([[0, 0, 0, -1], [1, 1, 1, 2]])
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))
    return replace(batch_of(boxes, labels, (height, width)), images=images, keys=torch.tensor([5, 8]))


def classes_of(terms: dict[str, Tensor]) -> Tensor:
    (found,) = (term for name, term in terms.items() if name in TERMS)
    return found


def test_class_weights_change_only_the_classification_loss(network: Any) -> None:
    given = objects()
    plain, ones = network.loss(given), network.loss(replace(given, class_weights=torch.ones(3)))
    weighted, doubled = (network.loss(replace(given, class_weights=WEIGHTS * factor)) for factor in (1, 2))
    for name, term in plain.items():
        assert torch.equal(ones[name], term), name
        assert (name in TERMS) != torch.equal(weighted[name], term), name
    zero = classes_of(network.loss(replace(given, class_weights=torch.zeros(3))))  # Faster R-CNN's background
    torch.testing.assert_close(classes_of(doubled) - zero, 2 * (classes_of(weighted) - zero))
    if not isinstance(network, CfgDetector):  # whose settings of each head come from the host
        with NoNumbersFromTheHost():
            torch.stack(list(network.loss(replace(given, class_weights=WEIGHTS)).values())).sum().backward()


@pytest.mark.parametrize("case", [case for case in CASES if case[0] != "faster_rcnn"] + [("darknet_cfg", {})])
def test_gradients_are_scaled_by_class_weight(case: Any, short_networks: None) -> None:
    """The first image has weight 2, the second 0 but for its object of class 2."""
    network, given = build(*case).eval(), objects()
    raw = [level.detach().requires_grad_() for level in network(given.images)]

    def gradients(batch: Batch) -> list[Tensor]:
        return list(torch.autograd.grad(classes_of(network.loss_of_raw(tuple(raw), batch)), raw))

    other = replace(given, labels=given.labels.where(given.labels == 2, -1))
    plain, weighted, third = gradients(given), gradients(replace(given, class_weights=WEIGHTS)), gradients(other)
    if case[0] in {"yolov3_640", "yolox"}:  # which divide by the positive cells
        third = gradients(replace(given, class_weights=torch.tensor([0.0, 0.0, 1.0])))
    for before, after, rest in zip(plain, weighted, third, strict=True):
        torch.testing.assert_close(after[0], 2 * before[0])
        torch.testing.assert_close(after[1], rest[1])
    assert sum(float(each[0].abs().sum()) for each in plain) > 0
    assert sum(float((before[1] - after[1]).abs().sum()) for before, after in zip(plain, weighted, strict=True)) > 0


def test_faster_rcnn_class_weights_match_torch_cross_entropy() -> None:
    """Against torch's weighted cross entropy, whose sum is divided by the samples; background has weight 1."""
    model = FasterRCNN(faster_rcnn.Config.model_validate({"classes": 3, "deform": "none"}))
    draw = torch.Generator().manual_seed(2)
    logits = torch.randn(1, 6, 4, generator=draw)
    positive = torch.tensor([[True, True, True, False, False, False]])
    drawn = torch.tensor([[True, True, True, True, True, False]])
    matched = torch.tensor([[2, 0, 1, 0, 0, 0]])
    targets = Targets(torch.zeros(1, 6, 4), matched, drawn, positive, matched, torch.zeros(1, 6, 4))
    found = model.roi_loss(targets, logits, torch.zeros(1, 6, 16), torch.tensor([[0, 1, 2]]), class_weights=WEIGHTS)
    of_torch = F.cross_entropy(
        logits[0, :5], torch.tensor([3, 1, 2, 0, 0]), torch.tensor([1.0, 2, 0, 1]), reduction="sum"
    )
    torch.testing.assert_close(found["classes"], of_torch / 5)


@pytest.mark.parametrize("blended", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_classifier_class_weights_match_torch_cross_entropy(smoothing: float, blended: bool) -> None:
    given = replace(example_images(blended), class_weights=WEIGHTS)
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(4))
    probabilities = F.one_hot(given.labels, 3).float()
    if given.others is not None and given.share is not None:
        share = given.share[:, None]
        probabilities = share * probabilities + (1 - share) * F.one_hot(given.others, 3)
    probabilities = probabilities * (1 - smoothing) + (1 - probabilities) * smoothing / 2
    wanted = F.cross_entropy(logits, probabilities, WEIGHTS, reduction="sum") / 4
    torch.testing.assert_close(cross_entropy(logits, given, smoothing), wanted)
    equal = cross_entropy(logits, replace(given, class_weights=torch.ones(3)), smoothing)
    assert torch.equal(equal, cross_entropy(logits, replace(given, class_weights=None), smoothing))


@pytest.mark.slow
def test_compiled_loss_uses_class_weights() -> None:
    torch._dynamo.reset()
    network, graphs = build("yolov3", SYSTEMS["yolov3"][1]).eval(), Graphs()
    given = replace(objects(64, 64), class_weights=WEIGHTS)
    found = compiled_loss(network, graphs)(given)
    assert len(graphs) == 1
    for name, term in network.loss(given).items():
        torch.testing.assert_close(found[name], term)


def test_class_weights_follow_label_order() -> None:
    frames = (Frame(0, "", (32, 32), (32, 32), (1.0, 1.0)),)
    detector = recipe.load("demo", {"data.names": ["a", "b", "c"], "model.classes": 3})
    image = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    batch = Batch(image, torch.zeros(1, 0, 4), torch.zeros(1, 0).long(), torch.zeros(1, 0).bool(), frames)
    assert DETECT.augment(batch, detector, 0, 0, 0).class_weights is None
    weighted = detector.with_overrides(["train.class_weights={c: 3, a: 0.5}"])
    assert DETECT.augment(batch, weighted, 0, 0, 0).class_weights.tolist() == [0.5, 1, 3]  # type: ignore[union-attr]
    classifier = recipe.load(RECIPE, {"train.class_weights": {"cat": 3}})
    found = CLASSIFY.augment(ClassBatch(image, torch.zeros(1).long(), frames), classifier, 0, 0, 0).class_weights
    assert found is not None
    assert found.tolist() == [3 if name == "cat" else 1 for name in classifier.data.names]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"gren": 2}, "train.class_weights: there is no class 'gren'; there are blue, red"),
        ({"rad": 2, "blue": 1}, "train.class_weights: there is no class 'rad'; did you mean 'red'?"),
        ({"red": -1}, "recipe demo: train.class_weights.red: input should be greater than or equal to 0 (found -1)"),
        ({"red": float("inf")}, "recipe demo: train.class_weights.red: input should be a finite number (found inf)"),
        ({"re\nd": 1}, "recipe demo: train.class_weights.re\\nd"),
    ],
)
def test_invalid_class_weights_are_rejected(
    tiny_coco: Path, tmp_path: Path, weights: dict[str, float], message: str
) -> None:
    with pytest.raises(InputError) as error:
        train.train("demo", tiny_coco, tmp_path / "run", overrides=SMALL | {"train.class_weights": weights})
    assert str(error.value).startswith(message)
    assert len(str(error.value)) <= 200
    assert str(error.value).isprintable()
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_run_stores_class_weights_and_checks_them_on_resume(tiny_coco: Path, tmp_path: Path) -> None:
    """The first loss of classes is not that without them; the run stores them, and resumes with the same ones only."""
    overrides = SMALL | {"train.epochs": 1, "train.class_weights": {"red": 3}}
    run = train.train("demo", tiny_coco, tmp_path / "run", overrides=overrides)
    assert recipe.load(run / "recipe.yaml").train.class_weights == {"red": 3}
    with pytest.raises(InputError, match=r"train.class_weights.red is 3.0 there and 2.0 now"):
        train.train("demo", tiny_coco, run, resume=True, overrides=overrides | {"train.class_weights": {"red": 2}})
