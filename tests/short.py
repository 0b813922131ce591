"""Networks for tests whose time depends on their size."""

import pytest

from boxwright.models import faster_rcnn
from boxwright.nn import cspdarknet, darknet, resnet


def make_networks_short(patch: pytest.MonkeyPatch) -> None:
    """One block a stage instead of up to 36, since exports take as long as there are layers; and a quarter of the
    channels where no setting says how many."""
    patch.setattr(resnet, "BLOCKS", {50: (1, 1, 1, 1), 101: (1, 1, 2, 1)})
    patch.setattr(resnet, "WIDTHS", (16, 32, 64, 128))
    patch.setattr(faster_rcnn, "PYRAMID", 64)
    patch.setattr(faster_rcnn, "HIDDEN", 256)
    make_yolo_short(patch)


def make_yolo_short(patch: pytest.MonkeyPatch) -> None:
    """Those whose weights can still be written and read as published ones."""
    patch.setattr(darknet, "STAGES", tuple((multiple, 1) for multiple, _ in darknet.STAGES))
    patch.setattr(darknet, "STEM", 8)
    patch.setattr(cspdarknet, "STEM", 8)
    patch.setattr(cspdarknet, "BLOCKS", (1, 1, 1, 1, 1))
