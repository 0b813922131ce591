"""ResNet and the feature pyramid against torchvision's."""

from collections import OrderedDict
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from boxwright.nn.fpn import FPN
from boxwright.nn.resnet import BLOCKS, ResNet


def randomise_norms(model: nn.Module) -> None:
    """Statistics, scales and shifts that differ from the identity, so that a swap of any two shows."""
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            part.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
            nn.init.normal_(part.weight, 0.5, 0.1)
            nn.init.normal_(part.bias, 0, 0.1)


def torchvision_maps(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Outputs of the four stages of torchvision's classifier."""
    parts = dict(model.named_children())
    for name in ("conv1", "bn1", "relu", "maxpool"):
        x = parts[name](x)
    maps = []
    for stage in range(1, 5):
        x = parts[f"layer{stage}"](x)
        maps.append(x)
    return maps


@pytest.mark.slow
@torch.no_grad()
def test_stages_match_torchvision(torchvision_ops: ModuleType) -> None:
    import torchvision

    torch.manual_seed(0)
    theirs = torchvision.models.resnet50(weights=None).eval()
    randomise_norms(theirs)
    ours = ResNet(50, deform="none", padding="symmetric").eval()
    state = {name: tensor for name, tensor in theirs.state_dict().items() if not name.startswith("fc.")}
    ours.load_state_dict(state)
    images = torch.randn(2, 3, 64, 96)
    for found, expected in zip(ours(images), torchvision_maps(theirs, images), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("depth", [50, 101, 152])
def test_parameter_shapes_match_torchvision(depth: int, torchvision_ops: ModuleType) -> None:
    import torchvision

    with torch.device("meta"):
        ours = ResNet(depth, deform="none", padding="symmetric")  # type: ignore[arg-type]
        theirs = getattr(torchvision.models, f"resnet{depth}")(weights=None)
    shapes = {name: tensor.shape for name, tensor in theirs.state_dict().items() if not name.startswith("fc.")}
    assert {name: tensor.shape for name, tensor in ours.state_dict().items()} == shapes


@pytest.mark.slow
def test_max_pool_padding() -> None:
    """The stem passes every second cell on and the stages are skipped, so that the pool alone decides. Cells are
    numbered: the largest of a window is its last one."""
    with torch.no_grad():
        for padding, last in (("symmetric", [[5, 7], [13, 15]]), ("same", [[10, 11], [14, 15]])):
            net = ResNet(50, deform="none", padding=padding).eval()  # type: ignore[arg-type]
            net.conv1.weight.zero_()[:, 0, 3, 3] = 1
            for stage in range(1, 5):
                setattr(net, f"layer{stage}", nn.Identity())
            cells = torch.zeros(1, 3, 8, 8)
            cells[0, 0, ::2, ::2] = torch.arange(16.0).view(4, 4)
            c2, *_ = net(cells)
            torch.testing.assert_close(c2[0, 5], torch.tensor(last) / (1 + 1e-5) ** 0.5)


def test_deformable_layers_are_in_the_last_three_stages() -> None:
    for depth, blocks in BLOCKS.items():
        with torch.device("meta"):
            net = ResNet(depth, deform="standard", padding="symmetric")  # type: ignore[arg-type]
        found = {name for name, _ in net.named_parameters() if ".conv2.offset." in name}
        expected = {
            f"layer{stage}.{block}.conv2.offset.weight" for stage in (2, 3, 4) for block in range(blocks[stage - 1])
        }
        assert found == expected


@pytest.mark.slow
@torch.no_grad()
def test_initialization_matches_torchvision(torchvision_ops: ModuleType) -> None:
    """Deviation of every convolution, which is drawn from a normal distribution (bound: five standard errors)."""
    import torchvision

    torch.manual_seed(0)
    ours = dict(ResNet(50, deform="none", padding="symmetric").named_parameters())
    theirs = dict(torchvision.models.resnet50(weights=None, zero_init_residual=True).named_parameters())
    for name, weight in ours.items():
        if weight.ndim == 4:
            apart = abs(float(weight.std() / theirs[name].std()) - 1)
            assert apart < 5 * weight.numel() ** -0.5, name
        else:
            assert torch.equal(weight, theirs[name]), name


@torch.no_grad()
@pytest.mark.parametrize("size", [(24, 40), (25, 33)])
def test_fpn_matches_torchvision(size: tuple[int, int], torchvision_ops: ModuleType) -> None:
    torch.manual_seed(0)
    channels = (8, 16, 24, 32)
    more = torchvision_ops.feature_pyramid_network.LastLevelMaxPool()
    theirs = torchvision_ops.FeaturePyramidNetwork(list(channels), 12, more)
    ours = FPN(channels, 12)
    for level in range(4):
        for mine, other in ((ours.inner, theirs.inner_blocks), (ours.outer, theirs.layer_blocks)):
            weight, bias = mine[level].weight, mine[level].bias
            assert isinstance(weight, nn.Parameter)
            assert isinstance(bias, nn.Parameter)
            apart = float(weight.abs().max() / other[level][0].weight.abs().max())  # uniform: its end tells
            assert apart == pytest.approx(1, abs=0.05)
            assert torch.equal(bias, torch.zeros_like(bias))
            nn.init.normal_(other[level][0].bias)
            weight.copy_(other[level][0].weight)
            bias.copy_(other[level][0].bias)
    (height, width), maps = size, []
    for count in channels:
        maps.append(torch.randn(2, count, height, width))
        height, width = -(-height // 2), -(-width // 2)
    expected = theirs(OrderedDict((str(i), one) for i, one in enumerate(maps)))
    for found, other in zip(ours(maps), expected.values(), strict=True):
        torch.testing.assert_close(found, other)


def test_smallest_image() -> None:
    maps = ResNet(50, deform="standard", padding="same").eval()(torch.zeros(1, 3, 32, 32))
    assert [one.shape for one in maps] == [(1, 256, 8, 8), (1, 512, 4, 4), (1, 1024, 2, 2), (1, 2048, 1, 1)]
    assert [one.shape[-2:] for one in FPN((256, 512, 1024, 2048), 4)(maps)] == [(8, 8), (4, 4), (2, 2), (1, 1), (1, 1)]
