"""`data tensors`: input files for other runtimes equal the input of our network, and boxes can be mapped back."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import class_folder
from boxwright import cli, models, recipe
from boxwright.errors import InputError
from boxwright.predict import tensors
from boxwright.predict.predictor import Predictor
from boxwright.types import Frame

TINY = "yolov3_tiny_coco_416_darknet"
NARROW = {"model.width": 0.25}
KINDS: dict[str, dict[str, Any]] = {  # one of each way to place an image
    TINY: {**NARROW, "data.canvas.size": [64, 96]},
    "yolov3_640_coco": {"data.canvas.size": [96, 64]},
    "faster_rcnn_r50_dcn_coco_standard": {"data.canvas.size": [64, 96], "model.deform": "none"},
    "tiny_darknet_imagenet_224_darknet": {"data.canvas.size": [48, 64], "data.canvas.short_side": 70},
}


def index_of(folder: Path) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads((folder / "tensors.json").read_text(encoding="utf-8"))
    return tree


def read(folder: Path, tree: dict[str, Any], row: dict[str, Any]) -> torch.Tensor:
    """Read the tensors with the index alone."""
    assert (tree["dtype"], tree["byte_order"], tree["layout"]) == ("float32", "little", "NCHW")
    if tree["format"] == "npy":
        return torch.from_numpy(np.load(folder / row["file"], allow_pickle=False))
    return torch.from_numpy(np.frombuffer((folder / row["file"]).read_bytes(), "<f4").reshape(tree["shape"]).copy())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bin", "npy"])
@pytest.mark.parametrize("name", KINDS)
def test_tensor_file_and_image_give_equal_outputs(
    name: str, kind: tensors.Format, tiny_coco: Path, tmp_path: Path
) -> None:
    chosen = recipe.load(name, KINDS[name])
    classifies = chosen.model.task == "classify"
    root = class_folder.write(tmp_path / "cells", {"val": 1}) if classifies else tiny_coco
    tensors.write(root, tmp_path / "out", chosen, "val", 2, kind)
    tree = index_of(tmp_path / "out")
    model = models.build(chosen.model).eval()
    assert len(tree["images"]) == 2
    for row in tree["images"]:
        with torch.inference_mode():
            # in the layout of our own canvases, so that the sums have the same order
            found = model(read(tmp_path / "out", tree, row).to(memory_format=torch.channels_last))
        predictor = Predictor(model, chosen)
        wanted = predictor.forward([predictor.preprocess(row["image"])]).tensors
        assert all(map(torch.equal, found, wanted))
        assert found[0].isfinite().all()


def test_image_of_canvas_size_keeps_its_pixels(tiny_coco: Path, tmp_path: Path) -> None:
    chosen = recipe.load(TINY, {"data.canvas.size": [96, 96]})
    tensors.write(tiny_coco, tmp_path / "out", chosen, "train", 4)
    tree = index_of(tmp_path / "out")
    assert [row["image_id"] for row in tree["images"]] == [1, 5, 8, 12]  # evenly: places 0, 3.7, 7.3, 11
    for row in tree["images"]:
        image = cv2.imread(str(tiny_coco / "train" / f"{row['image_id']}.png"))[..., ::-1]
        assert row["image"].endswith(f"{row['image_id']}.png")
        np.testing.assert_array_equal(
            (read(tmp_path / "out", tree, row)[0].permute(1, 2, 0) * 255).round().numpy(), image
        )
        assert (row["size"], row["scale"], row["offset"], row["extent"]) == ([96, 96], [1, 1], [0, 0], [96, 96])


def test_index_maps_boxes_to_the_image(tiny_coco: Path, tmp_path: Path) -> None:
    """A blue and a red rectangle are found in the tensor itself and compared with the labels."""
    chosen = recipe.load("yolov3_640_coco", {"data.canvas.size": [96, 192]})
    tensors.write(tiny_coco, tmp_path / "out", chosen)
    tree = index_of(tmp_path / "out")
    labels = json.loads((tiny_coco / "annotations" / "val.json").read_text())
    assert tree["names"] == ["blue", "red"]
    for row in tree["images"]:
        assert (row["offset"], row["extent"]) == ([0, 48], [96, 96])  # centered, 48 px of fill at each side
        image = read(tmp_path / "out", tree, row)[0]
        colored = torch.nonzero(image.amax(0) - image.amin(0) > 0.4).float()
        (top, left), (bottom, right) = colored.amin(0).tolist(), (colored.amax(0) + 1).tolist()
        (dy, dx), (sy, sx) = row["offset"], row["scale"]
        boxes = np.array([a["bbox"] for a in labels["annotations"] if a["image_id"] == row["image_id"]], np.float64)
        around = [*boxes[:, :2].min(0), *(boxes[:, :2] + boxes[:, 2:]).max(0)]
        np.testing.assert_allclose(
            [(left - dx) / sx, (top - dy) / sy, (right - dx) / sx, (bottom - dy) / sy], around, atol=1e-6
        )
        frame = Frame(0, "", tuple(row["size"]), (96, 192), (sy, sx), (dy, dx))
        torch.testing.assert_close(
            frame.to_original(torch.tensor([[left, top, right, bottom]])), torch.tensor([around]).float()
        )


def test_index_records_class_and_frame_of_stretched_images(tmp_path: Path) -> None:
    root = class_folder.write(tmp_path / "cells", {"train": 1, "val": 2})
    chosen = recipe.load("tiny_darknet_cifar10", class_folder.SMALL)
    tensors.write(root, tmp_path / "out", chosen)
    tree = index_of(tmp_path / "out")
    assert len(tree["images"]) == 6
    for row in tree["images"]:
        assert Path(row["image"]).parent.name == tree["names"][row["label"]]
        assert (row["size"], row["offset"], row["extent"]) == ([40, 48], [0, 0], [32, 32])
        assert row["scale"] == pytest.approx([32 / 40, 32 / 48])


def test_repeated_run_is_a_no_op_and_changed_settings_are_rejected(tiny_coco: Path, tmp_path: Path) -> None:
    chosen, out = recipe.load(TINY, {"data.canvas.size": [32, 32]}), tmp_path / "out"
    assert "4 of 4 images of val as bin, 1 x 3 x 32 x 32: written" in tensors.write(tiny_coco, out, chosen)
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in out.iterdir()}
    assert "there already" in tensors.write(tiny_coco, out, chosen)
    assert {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in out.iterdir()} == before
    for other in (
        lambda: tensors.write(tiny_coco, out, chosen, count=3),
        lambda: tensors.write(tiny_coco, out, chosen, kind="npy"),
        lambda: tensors.write(tiny_coco, out, chosen, "train"),
        lambda: tensors.write(tiny_coco, out, recipe.load(TINY, {"data.canvas.size": [64, 64]})),
    ):
        with pytest.raises(InputError, match="is there already, needed a new or empty folder"):
            other()
    next(out.glob("*.bin")).unlink()
    with pytest.raises(InputError, match="is there already"):
        tensors.write(tiny_coco, out, chosen)


def test_tensors_of_a_replaced_image_or_of_bands_are_not_taken_for_those_asked_for(
    tiny_coco: Path, tmp_path: Path
) -> None:
    """The names, sizes and shapes are equal, the pixels are not."""
    chosen, out = recipe.load(TINY, {"data.canvas.size": [32, 32]}), tmp_path / "out"
    tensors.write(tiny_coco, out, chosen)
    path = Path(index_of(out)["images"][0]["image"])
    cv2.imwrite(str(path), 255 - cv2.imread(str(path)))
    with pytest.raises(InputError, match="is there already, needed a new or empty folder"):
        tensors.write(tiny_coco, out, chosen)
    reversed_bands = chosen.with_overrides({"data.bands": [3, 2, 1]})
    tensors.write(tiny_coco, tmp_path / "bands", reversed_bands)
    with pytest.raises(InputError, match="is there already, needed a new or empty folder"):
        tensors.write(tiny_coco, tmp_path / "bands", chosen)


def test_damaged_image_leaves_no_output(tmp_path: Path) -> None:
    root = class_folder.write(tmp_path / "cells", {"val": 2})
    (root / "val" / "red" / "1.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"red/1\.png: not a readable image"):
        tensors.write(root, tmp_path / "out", recipe.load("tiny_darknet_cifar10"))
    assert [path.name for path in tmp_path.iterdir()] == ["cells"]


def test_command_line(tiny_coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    words = ["data", "tensors", str(tiny_coco), "-o", out, "--count", "1", "--format", "npy"]
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--recipe", TINY, "--set", "data.canvas.size=[32, 64]"])
    assert not ended.value.code
    assert capsys.readouterr().out == f"1 of 4 images of val as npy, 1 x 3 x 32 x 64: written\n{out}\n"
    assert [file.name for file in sorted(Path(out).iterdir())] == ["000000_1.npy", "tensors.json"]
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2
    assert "--recipe and --weights: needed exactly one" in capsys.readouterr().err
