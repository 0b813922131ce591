"""Every shipped recipe, and invalid recipes."""

from pathlib import Path

import pytest
import torch
import yaml

from boxwright import config, models, recipe
from boxwright.engine.schedule import learning_rates
from boxwright.errors import InputError
from boxwright.tasks.detect import training_canvas

FOLDER = Path(recipe.__file__).parents[1] / "recipes"
NAMES = recipe.names()
SOME = "yolov3_640_coco"


def rejection(overrides, name=SOME):
    with pytest.raises(InputError) as caught:
        recipe.load(name, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"recipe {name}: ")


def test_all_recipe_files_are_listed():
    assert {f"{name}.yaml" for name in NAMES} == {file.name for file in FOLDER.glob("*.yaml")}
    assert SOME in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_shipped_recipe_has_summary_and_command(name):
    loaded = recipe.load(name)
    assert loaded.name == name
    assert loaded.summary == recipe.summaries()[name]
    assert 20 < len(loaded.summary) < 90
    first, *rest = (FOLDER / f"{name}.yaml").read_text().splitlines()
    assert first.startswith("# ")
    assert any(line.startswith("#   boxwright ") for line in rest), "needs a command to copy in its header"
    assert loaded.model.name in models.names()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_shipped_recipe_builds_model_and_schedule(name):
    loaded = recipe.load(name)
    if loaded.model.name == "faster_rcnn":
        loaded = recipe.load(name, {"model.rpn.test_proposals": 10})
    with torch.device("meta"):  # filling hundreds of millions of weights with random numbers takes most of the time
        network = models.build(loaded.model).eval()
    for tensor in (network := network.to_empty(device="cpu")).state_dict().values():
        tensor.zero_()
    side = 2 * loaded.model.size_step
    assert all(length % loaded.model.size_step == 0 for length in loaded.data.canvas.size)
    with torch.inference_mode():
        raw = network(torch.zeros(1, 3, side, side))
    assert len(raw) == len(network.raw_names)
    assert network.mean.shape == network.std.shape == (3, 1, 1)
    train = loaded.train.in_epochs(5)
    plan = learning_rates(train.schedule, 5, train.epoch_count, train.optimizer.momentum)
    assert len(plan.weight_lr) == 5 * train.epoch_count


@pytest.mark.parametrize("name", NAMES)
def test_shipped_recipe_yaml_round_trip(name, tmp_path):
    loaded = recipe.load(name)
    assert recipe.from_tree(loaded.tree(), "memory") == loaded
    path = tmp_path / "recipe.yaml"
    path.write_text(loaded.to_yaml(), encoding="utf-8")
    assert recipe.load(path) == loaded
    assert type(recipe.load(path).model) is type(loaded.model)


def test_training_canvas_is_the_largest_multi_scale_size():
    zoo = recipe.load("yolov3_coco_416")
    assert (training_canvas(zoo).size, zoo.data.canvas.size) == ((608, 608), (416, 416))
    assert training_canvas(recipe.load("yolov3_640_coco")).size == (640, 640)
    mixed = {"train.augment.sizes": [[320, 416], [352, 320]]}
    assert training_canvas(recipe.load("yolov3_coco_416", mixed)).size == (352, 416)


def test_max_positives_above_samples_is_an_error():
    output = rejection({"model.roi.samples": 100}, "faster_rcnn_r50_dcn_coco")
    assert output == "model.roi: max_positives is 128, of only 100 samples"


def test_published_schedule_and_canvas():
    """MindYOLO's configs/yolov3: lr 0.01 to a tenth of it, 640, gray 114, IoU 0.65, 300 boxes."""
    ours = recipe.load(SOME)
    assert (ours.train.schedule.kind, ours.train.schedule.lr, ours.train.schedule.eta_min) == ("cosine", 0.01, 0.001)
    assert ours.train.optimizer.weight_decay == 0.001 * 128 / 64
    assert ours.data.canvas == recipe.CanvasConfig(size=(640, 640), fit="letterbox", fill=114, resize="area")
    assert ours.evaluate.nms == recipe.NMSConfig(iou=0.65, pre_nms_top_k=30000, max_detections=300)


@pytest.mark.parametrize("name", ["coco", "coco_darknet"])
def test_class_lists(name):
    names = recipe.class_names(name)
    assert len(names) == len(set(names)) == 80
    assert (names[0], names[79]) == ("person", "toothbrush")
    assert all(one == one.strip() != "" for one in names)


def test_with_names_and_overrides():
    ours = recipe.load(SOME).with_names(["cat", "dog"]).with_overrides(["train.epochs=3", "train.precision=no"])
    assert ours.model.classes == 2
    assert ours.data.names == ("cat", "dog")
    assert (ours.train.epochs, ours.train.precision) == (3, "no")
    assert ours.train.schedule == recipe.load(SOME).train.schedule


@pytest.mark.parametrize("name", ["no", "on", "2024-01-01", "1e3", "010", "null", "a: b", "наука"])
def test_unusual_class_names_yaml_round_trip(name, tmp_path):
    ours = recipe.load(SOME).with_names([name, "x"])
    (tmp_path / "r.yaml").write_text(ours.to_yaml(), encoding="utf-8")
    assert recipe.load(tmp_path / "r.yaml").data.names == (name, "x")


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("train.epohcs=3", "train.epohcs: unknown key (did you mean 'epochs'?)"),
        ("trian.epochs=3", "trian: unknown key (did you mean 'train'?)"),
        ("model.clases=3", "model.clases: unknown key (did you mean 'classes'?)"),
        ("model.loss.bxo=1", "model.loss.bxo: unknown key (did you mean 'box'?)"),
        ("model.loss=3", "model.loss: needed a mapping of keys to values (found 3)"),
        ("model.anchors=[[1, 2]]", "model.anchors: needed at least 9 values, found 1"),
        ("model.anchors=[[1, 2, 3]]", "model.anchors.0: needed at most 2 values, found 3"),
        ("model.loss.balance=[1, 2]", "model.loss.balance: too few values, found [1, 2]"),
        ("model.classes=3", "model.classes is 3, data.names holds 80 names"),
        ("data.canvas.size=640", "data.canvas.size: needed a list of values (found 640)"),
        ("data.canvas.size=[600, 608]", "data.canvas.size: found [600, 608] px, the model needs multiples of 32"),
        ("train.augment.sizes=[[32, 33]]", "train.augment.sizes: found [32, 33] px, the model needs multiples of 32"),
        ("train.augment.scale=[2, 1]", "train.augment.scale: the lower end comes first (found [2, 1])"),
        ("train.epochs.x=3", "train.epochs.x: 'epochs' holds 300, which has no keys below it"),
        ("train.schedule=null", "train.schedule: needed a mapping of keys to values (found None)"),
        ("data=3", "data: needed a mapping of keys to values (found 3)"),
    ],
)  # fmt: skip
def test_message_of_each_invalid_override(word, expected):
    assert rejection([word]) == expected


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("model.name=yolov9", ["model.name: there is no model 'yolov9'; the nearest are ", "yolov4"]),
        ("model=3", ["model.name: missing, needed one of"]),
        ("data.names=coko", ["data.names: there is no list 'coko'", "coco_darknet"]),
        ("data.names=../names/coco", ["data.names: there is no list '../names/coco'"]),
        ("train.schedule.lr=.nan", ["train.schedule.lr", "found nan"]),
        ("train.schedule.kind=cosin", ["train.schedule.kind", "'sigmoid' (found 'cosin')"]),
        ("train.epochs=1.5", ["train.epochs", "found 1.5"]),
        ("evaluate.threshold=2", ["evaluate.threshold", "found 2"]),
    ],
)
def test_message_parts_of_invalid_overrides(word, parts):
    message = rejection([word])
    assert all(part in message for part in parts), message


def test_unknown_recipes_are_rejected():
    assert rejection((), "yolov3_640").startswith("there is no recipe 'yolov3_640'; did you mean 'yolov3_640_coco'?")
    assert rejection((), "qqq").startswith("there is no recipe 'qqq'; `boxwright list` shows them.")
    assert rejection((), "absent.yaml").startswith("absent.yaml: cannot be read")


@pytest.mark.parametrize("tree", [[], 3, None, {}, {"model": None}, {"model": {"classes": 3}}])
def test_invalid_trees_are_rejected(tree):
    with pytest.raises(InputError, match=r"^metadata: "):
        recipe.from_tree(tree, "metadata")


def test_own_recipe_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nmodel: {name: yolov3_640, classes: 2}\ndata: {names: [no, yes]}\n")
    assert recipe.load(path).data.names == ("no", "yes")
    path.write_text("name: mine\nmodel: {name: yolov3_640, classes: 2}\ntrain: {epohcs: 3}\n")
    with pytest.raises(InputError, match=r"mine\.yaml: train\.epohcs: unknown key \(did you mean 'epochs'\?\)"):
        recipe.load(path)


def test_yaml_is_dumped_from_plain_values():
    assert yaml.safe_load(recipe.load(SOME).to_yaml()) == recipe.load(SOME).tree()
    assert config.override(recipe.load(SOME).tree(), {}) == recipe.load(SOME).tree()


def test_greedy_nms_with_plus_one_is_an_error() -> None:
    with pytest.raises(InputError, match="plus_one counts pixels"):
        recipe.load("yolov4_coco_608", {"evaluate.nms.kind": "greedy"})
