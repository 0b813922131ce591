"""A file of YOLOX's own project: a network of its layers and names, written here, gives the same raw maps."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwright import models, recipe, weights
from boxwright.errors import InputError
from boxwright.nn import darknet
from test_models import stir


class Conv(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs, 1e-3, 0.03)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.bn(self.conv(x)), 0.1)


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer1, self.layer2 = Conv(channels, channels // 2, 1), Conv(channels // 2, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.layer2(self.layer1(x))
        return y


class Pooling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = Conv(1024, 512, 1), Conv(2048, 512, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        y: Tensor = self.conv2(torch.cat([x, *(F.max_pool2d(x, k, 1, k // 2) for k in (5, 9, 13))], 1))
        return y


def five_convolutions(inputs: int, narrow: int, wide: int) -> nn.Sequential:
    sizes = [(inputs, narrow, 1), (narrow, wide, 3), (wide, narrow, 1), (narrow, wide, 3), (wide, narrow, 1)]
    return nn.Sequential(*(Conv(*size) for size in sizes))


class OfficialYOLOX(nn.Module):
    """Pixels BGR from 0 to 255 -> maps at strides 8, 16, 32: box, objectness, classes."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        stages = [
            nn.Sequential(Conv(outputs // 2, outputs, 3, 2), *(Residual(outputs) for _ in range(count)))
            for outputs, count in ((darknet.STEM * multiple, count) for multiple, count in darknet.STAGES)
        ]
        spp = [Conv(1024, 512, 1), Conv(512, 1024, 3), Pooling(), Conv(512, 1024, 3), Conv(1024, 512, 1)]
        trunk = nn.Module()
        trunk.stem = nn.Sequential(Conv(3, 32, 3), *stages[0])
        trunk.dark2, trunk.dark3, trunk.dark4 = stages[1:4]
        # their number 5 is the first after the four residual blocks
        trunk.dark5 = nn.Sequential()
        for number, layer in [*enumerate(stages[4]), *enumerate(spp, 5)]:
            trunk.dark5.add_module(str(number), layer)
        self.backbone: Any = nn.Module()
        self.backbone.backbone = trunk
        self.backbone.out1_cbl, self.backbone.out1 = Conv(512, 256, 1), five_convolutions(768, 256, 512)
        self.backbone.out2_cbl, self.backbone.out2 = Conv(256, 128, 1), five_convolutions(384, 128, 256)
        self.head: Any = nn.Module()
        self.head.stems = nn.ModuleList(Conv(channels, 256, 1) for channels in (128, 256, 512))
        for name in ("cls_convs", "reg_convs"):
            setattr(
                self.head,
                name,
                nn.ModuleList(nn.Sequential(Conv(256, 256, 3), Conv(256, 256, 3)) for _ in range(3)),
            )
        for name, count in (("cls_preds", classes), ("reg_preds", 4), ("obj_preds", 1)):
            setattr(self.head, name, nn.ModuleList(nn.Conv2d(256, count, 1) for _ in range(3)))

    def forward(self, pixels: Tensor) -> list[Tensor]:
        fpn, trunk, head = self.backbone, self.backbone.backbone, self.head
        c3 = trunk.dark3(trunk.dark2(trunk.stem(pixels)))
        c4 = trunk.dark4(c3)
        p5 = trunk.dark5(c4)
        p4 = fpn.out1(torch.cat((F.interpolate(fpn.out1_cbl(p5), scale_factor=2.0), c4), 1))
        p3 = fpn.out2(torch.cat((F.interpolate(fpn.out2_cbl(p4), scale_factor=2.0), c3), 1))
        maps = []
        for number, level in enumerate((p3, p4, p5)):
            x = head.stems[number](level)
            of_class, of_box = head.cls_convs[number](x), head.reg_convs[number](x)
            parts = head.reg_preds[number](of_box), head.obj_preds[number](of_box), head.cls_preds[number](of_class)
            maps.append(torch.cat(parts, 1))
        return maps


@pytest.mark.slow
def test_yolox_checkpoint_gives_the_same_raw_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(darknet, "STAGES", tuple((multiple, 1) for multiple, _ in darknet.STAGES))
    torch.manual_seed(3)
    theirs = OfficialYOLOX(classes=4).eval()
    stir(theirs)
    theirs.backbone.backbone.stem[0].conv.weight.data.div_(100)
    torch.save({"model": theirs.state_dict(), "start_epoch": 300}, tmp_path / "yolox_darknet.pth")
    chosen = recipe.load("yolov3_640_modern", {"model.classes": 4, "data.names": []})
    model = models.build(chosen.model).eval()
    report = weights.load(model, tmp_path / "yolox_darknet.pth", chosen)
    assert not [name for name in report.fresh if name not in ("mean", "std")]
    images = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        for ours, wanted in zip(model(images), reversed(theirs(images.flip(1) * 255)), strict=True):
            assert wanted.std() > 0.01
            torch.testing.assert_close(ours, wanted, rtol=1e-3, atol=1e-4)
    again = models.build(recipe.load("yolov3_640_coco").model)
    with pytest.raises(InputError):
        weights.load(again, tmp_path / "yolox_darknet.pth", recipe.load("yolov3_640_coco"))
