"""A model of the user's in a module outside the package, named by its dotted path in the recipe."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from boxwright import models, recipe
from boxwright.engine import train as training
from boxwright.errors import InputError
from boxwright.export.complete import complete_graph
from boxwright.export.run import export_model
from boxwright.predict.predictor import Predictor, load
from boxwright.types import Batch, Detector
from boxwright.weights import checkpoint, names

NAME = "mypackage.mymodel"
SOURCE = '''
"""A detector with a cell for every 8 x 8 px: one box a cell, as large as the cell."""

from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from boxwright.config import ModelConfig
from boxwright.nn.network import Network
from boxwright.types import Detections

(Path(__file__).parent / "imported").touch()
STRIDE = 8


class Config(ModelConfig):
    size_step: ClassVar[int] = STRIDE
    sharpness: float = 1.0


class MyModel(Network):
    raw_names = ("scores",)
    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.conv = nn.Conv2d(3, config.classes, STRIDE, STRIDE)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.config.sharpness * self.conv(self.normalize(images)),)

    def loss_of_raw(self, raw, batch):
        return {"scores": raw[0].sigmoid().mean()}

    def decode_padded(self, raw):
        batch, _, h, w = raw[0].shape
        y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        corner = STRIDE * torch.stack((x, y), -1).view(-1, 2).to(raw[0])
        boxes = torch.cat((corner, corner + STRIDE), 1)[None, :, None].expand(batch, -1, -1, -1)
        return boxes, raw[0].sigmoid().flatten(2).mT

    def decode(self, raw, threshold):
        found = []
        for boxes, scores in zip(*self.decode_padded(raw), strict=True):
            row, label = (scores >= threshold).nonzero(as_tuple=True)
            found.append(Detections(boxes[row, 0], scores[row, label], label))
        return found


def build(config: Config) -> MyModel:
    return MyModel(config)
'''
RECIPE = {
    "name": "mine",
    "model": {"name": NAME, "classes": 2, "mean": [0.5, 0.5, 0.5]},
    "data": {"canvas": {"size": [32, 48]}, "workers": 0},
    "train": {
        "epochs": 2,
        "batch": 4,
        "log_every": 1,
        "schedule": {"lr": 0.1, "kind": "constant"},
        "optimizer": {"weight_decay": 0},
    },
    "predict": {"threshold": 0.0, "nms": {"max_detections": 20}},
}


def unload_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process."""
    monkeypatch.setattr(models, "_own", {})
    for name in [name for name in sys.modules if name.partition(".")[0] == "mypackage"]:
        del sys.modules[name]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "elsewhere" / "mypackage"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "mymodel.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(folder.parent)
    unload_modules(monkeypatch)
    yield folder
    unload_modules(monkeypatch)


@pytest.fixture
def file(package: Path, tmp_path: Path) -> Path:
    (tmp_path / "mine.yaml").write_text(json.dumps(RECIPE))  # JSON is YAML
    return tmp_path / "mine.yaml"


def test_own_model_is_built_from_a_recipe(file: Path) -> None:
    chosen = recipe.load(file, {"model.sharpness": 2})
    torch.manual_seed(0)
    model = models.build(chosen.model)
    assert isinstance(model, Detector)
    assert model.inputs == ("images",)
    images = torch.rand(2, 3, 16, 24)
    (raw,) = model(images)
    torch.testing.assert_close(raw, 2 * model.conv(images - 0.5))
    assert set(model.state_dict()) == {"mean", "std", "conv.weight", "conv.bias"}
    loss = model.loss(Batch(images, *(torch.zeros(2, 0),) * 3, ()))
    torch.testing.assert_close(loss, {"scores": raw.sigmoid().mean()})
    with pytest.raises(InputError, match=r"found 12 x 24 px, the network needs multiples of 8"):
        model(torch.rand(1, 3, 12, 24))


def test_complete_graph_needs_padded_decoding(file: Path) -> None:
    chosen = recipe.load(file)
    model = models.build(chosen.model)
    assert complete_graph(model, chosen).outputs == ("boxes", "scores", "labels")
    del type(model).decode_padded  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"^mypackage\.mymodel: its network has no decode_padded, .*--with-nms out$"):
        complete_graph(model, chosen)


def test_own_model_has_no_foreign_tensor_names(file: Path) -> None:
    foreign = names.of(recipe.load(file).model)
    assert type(foreign) is names.ForeignNames
    assert foreign.mindspore("conv.weight") is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model.sharpnes": 1}, "model.sharpnes: unknown key (did you mean 'sharpness'?)"),
        ({"model.sharpness": "high"}, "model.sharpness: input should be a valid number"),
        ({"model.std": [1, 0, 1]}, "model.std.1: input should be greater than 0"),
        ({"data.names": ["a"]}, "model.classes is 2, data.names holds 1 names"),
        ({"data.canvas.size": [36, 48]}, "data.canvas.size: found [36, 48] px, the model needs multiples of 8"),
        ({"model.name": "mypackage.other"}, "model.name: there is no module 'mypackage.other' for 'mypackage.other'"),
        ({"model.name": "nowhere.mymodel"}, "model.name: there is no module 'nowhere' for 'nowhere.mymodel'"),
        ({"model.name": "mypackage..mymodel"}, "model.name: found 'mypackage..mymodel', needed a name such as"),
        ({"model.name": ".mymodel"}, "model.name: found '.mymodel', needed a name such as"),
        ({"model.name": "json.decoder"}, "model.name: json.decoder needs `Config`, a subclass of"),
        ({"model.name": "mymodel"}, "a module of your own is named by its dotted path"),
    ],
)
def test_recipe_keys_of_own_models_are_validated(file: Path, changes: dict[str, object], words: str) -> None:
    with pytest.raises(InputError) as caught:
        recipe.load(file, changes)
    assert words in str(caught.value)


def test_errors_in_the_users_module(file: Path, package: Path) -> None:
    (package / "mymodel.py").write_text("import no_such_library\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):  # the user's own fault keeps its traceback
        recipe.load(file)
    (package / "mymodel.py").write_text(SOURCE.replace("return MyModel(config)", "return nn.Linear(1, 1)"))
    with pytest.raises(InputError, match=r"mymodel\.build\(\) returns Linear, needed a boxwright\.nn\.network"):
        models.build(recipe.load(file).model)


@pytest.mark.slow
def test_own_model_trains_and_predicts(
    file: Path, package: Path, tiny_coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = training.train(str(file), tiny_coco, tmp_path / "run")
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    losses = [line["terms"]["scores"] for line in lines if "terms" in line]
    assert losses[-1] < losses[0] - 0.001
    training.train(str(file), tiny_coco, tmp_path / "again", weights=run)  # stored in it: a model that is imported here
    image = tiny_coco / "val" / "1.png"
    predictor = load(run, file)
    assert isinstance(predictor, Predictor)
    assert len(predictor(image)) == 20
    export_model(run, "pt2", tmp_path / "mine.pt2", recipe=file)
    exported = load(tmp_path / "mine.pt2", file)
    assert torch.equal(exported(image).labels, predictor(image).labels)

    unload_modules(monkeypatch)
    (package / "imported").unlink()
    for stored in (run, tmp_path / "mine.pt2"):
        with pytest.raises(InputError, match=r"found 'mypackage\.mymodel'.* what a file names is never imported"):
            load(stored)
        assert "mypackage" not in sys.modules
        assert not (package / "imported").exists()
    assert len(load(run, run / "recipe.yaml")(image)) == 20
    assert (package / "imported").exists()


def test_stored_recipes_never_import_own_models(
    file: Path, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = recipe.load(file)
    checkpoint.save(tmp_path / "m.safetensors", models.build(chosen.model), chosen)
    unload_modules(monkeypatch)
    (package / "imported").unlink()
    for allowed in ({}, {"allow_import": False}):
        with pytest.raises(InputError, match="never imported"):
            recipe.from_tree(chosen.tree(), "test", **allowed)
    with pytest.raises(InputError, match=r"stored recipe: model\.name: found 'mypackage\.mymodel'"):
        checkpoint.read_recipe(tmp_path / "m.safetensors")
    assert "mypackage" not in sys.modules
    assert not (package / "imported").exists()
