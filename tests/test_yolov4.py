"""YOLOv4 and YOLOv4-tiny: sizes, decoding by hand, parts against plain ones. The original engines' numbers are in
`test_weights_yolov4.py`."""

import pytest
import torch
import torch.nn.functional as F

from boxwright import recipe
from boxwright.config import validate
from boxwright.errors import InputError
from boxwright.models import yolov4
from boxwright.nn.blocks import Style, spp
from boxwright.nn.cspdarknet import TinyStage
from boxwright.ops.anchors import Cells

TINY = {"network": "tiny", "anchors": [[10, 14], [23, 27], [37, 58], [81, 82], [135, 169], [344, 319]]}


def small(**changes: object) -> yolov4.YOLOv4:
    settings: dict[str, object] = TINY | {"classes": 3, "width": 0.25, "scale_xy": [1.05, 1.05]}
    torch.manual_seed(0)
    return yolov4.build(yolov4.Config.model_validate(settings | changes))


@pytest.mark.parametrize(
    ("name", "numbers"),
    [("yolov4_coco_608_darknet", 64_429_405), ("yolov4_tiny_coco_416_darknet", (24_251_276 - 20) // 4)],
)
def test_number_of_weights_matches_darknet(name: str, numbers: int) -> None:
    with torch.device("meta"):
        model = yolov4.build(recipe.load(name).model)
    running = [buffer for name, buffer in model.named_buffers() if "running" in name]
    assert sum(tensor.numel() for tensor in [*model.parameters(), *running]) == numbers


def test_spp_matches_naive_max_pooling() -> None:
    """Against one pool an extent, padded with what is below everything; smaller maps than the largest extent, too."""
    for h, w in ((19, 14), (3, 5), (1, 1)):
        x = torch.randn(2, 3, h, w, generator=torch.Generator().manual_seed(h)) - 5
        plain = [
            F.pad(x, (k // 2,) * 4, value=-torch.inf).unfold(2, k, 1).unfold(3, k, 1).amax((-1, -2)) for k in (13, 9, 5)
        ]
        assert torch.equal(spp(x), torch.cat((*plain, x), 1))


def test_tiny_stage_processes_the_second_half_of_the_channels() -> None:
    stage = TinyStage(8, Style()).eval()
    seen: list[torch.Tensor] = []
    stage.first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        joined, out = stage(x)
        assert torch.equal(seen[0], stage.conv(x)[:, 4:])
        assert torch.equal(out, torch.cat((stage.conv(x), joined), 1))


def test_decode_by_hand() -> None:
    """One cell speaks: stride 16, second anchor, row 1, column 2 of a 64 x 96 input."""
    raw = tuple(torch.full((1, 24, h, w), -20.0) for h, w in ((2, 3), (4, 6)))
    cell = raw[1].view(1, 3, 8, 4, 6)[0, 1, :, 1, 2]
    third = torch.tensor(3.0).log()
    cell[:] = torch.tensor([20.0, -20.0, 0.0, torch.tensor(2.0).log(), 20.0, -third, third, -20.0])
    model = small(scale_xy=[1.2, 1.05])
    one = model.decode(raw, 0.2)[0]
    several = small(multi_label=True).decode(raw, 0.2)[0]
    # A center reaches a tenth of a cell beyond it: x = (2 + 1.1) * 16, y = (1 - 0.1) * 16. Anchor 23 x 27.
    x, y = 3.1 * 16, 0.9 * 16
    assert one.boxes[0].tolist() == pytest.approx([x - 11.5, y - 27, x + 11.5, y + 27], rel=1e-5)
    assert one.labels.tolist() == [1]
    assert one.scores.tolist() == pytest.approx([0.75])
    assert several.labels.tolist() == [0, 1]
    assert several.scores.tolist() == pytest.approx([0.25, 0.75])


def test_scale_xy_is_applied_per_scale() -> None:
    """1.2 at stride 8, 1.1 at 16, 1.05 at 32 (yolov4.cfg): logits at minus infinity lie half of the rest before."""
    with torch.device("meta"):
        model = yolov4.build(yolov4.Config(classes=1))
    anchors = torch.ones(3, 3, 2)
    cells = Cells.of([(1, 1), (2, 2), (4, 4)], model.strides, anchors, model.scale_xy)
    logits = torch.tensor([-1000.0, -1000, 0, 0]).expand(len(cells.corner), 4)
    center = cells.boxes(logits)[:, 0] + 0.5
    for stride, before in ((32, 0.025), (16, 0.05), (8, 0.1)):
        here = cells.stride[:, 0] == stride
        torch.testing.assert_close(
            center[here] - cells.corner[here, 0], torch.full((int(here.sum()),), -before * stride)
        )


def test_uneven_width_builds_consistent_channels() -> None:
    for network in ("cspdarknet53", "tiny"):
        changes = TINY | {"scale_xy": [1, 1]} if network == "tiny" else {}
        model = yolov4.build(yolov4.Config.model_validate({"classes": 2, "width": 0.09} | changes)).eval()
        with torch.no_grad():
            assert [one.shape[1] for one in model(torch.zeros(1, 3, 32, 64))] == [21] * len(model.strides)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"anchors": [[1, 1]] * 5}, "anchors holds 5 pairs, cspdarknet53 needs 9"),
        ({"network": "tiny"}, "anchors holds 9 pairs, tiny needs 6"),
        (TINY, "scale_xy holds 3 numbers, tiny needs 2"),
        ({"scale_xy": [1.2, 1.1, 0.5]}, "scale_xy.2"),
        ({"loss": {"normalise": "boxes"}}, "did you mean 'normalize'"),
    ],
)
def test_invalid_config_is_a_one_line_error(changes: dict[str, object], words: str) -> None:
    with pytest.raises(InputError) as fault:
        validate(yolov4.Config, {"name": "yolov4", "classes": 3} | changes, "mine.yaml")
    assert words in str(fault.value)
    assert "\n" not in str(fault.value)


def test_size_not_a_multiple_of_32_is_rejected() -> None:
    with pytest.raises(InputError, match="100 x 64 px"):
        small()(torch.zeros(1, 3, 100, 64))
