"""Anchors and normalization in the configuration that mmdetection stores in its files."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from boxwright import recipe, weights
from boxwright.errors import InputError
from boxwright.weights import meta
from boxwright.weights.identify import adapted
from boxwright.weights.torch_files import Contents

# As mmdetection 2.28 and 3.3 write the configurations of faster_rcnn_r50_fpn, its caffe style, and yolov3_d53.
CONFIG_2 = """model = dict(
    type='FasterRCNN',
    backbone=dict(type='ResNet', depth=50, style='pytorch'),
    rpn_head=dict(
        type='RPNHead',
        anchor_generator=dict(
            type='AnchorGenerator',
            scales=[8],
            ratios=[0.5, 1.0, 2.0],
            strides=[4, 8, 16, 32, 64]),
        bbox_coder=dict(
            type='DeltaXYWHBBoxCoder',
            target_means=[0.0, 0.0, 0.0, 0.0],
            target_stds=[1.0, 1.0, 1.0, 1.0])))
img_norm_cfg = dict(
    mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
"""
CONFIG_3 = """model = dict(
    backbone=dict(
        depth=50,
        init_cfg=dict(checkpoint='open-mmlab://detectron2/resnet50_caffe', type='Pretrained'),
        style='caffe',
        type='ResNet'),
    data_preprocessor=dict(
        bgr_to_rgb=False,
        mean=[
            103.53,
            116.28,
            123.675,
        ],
        std=[
            1.0,
            1.0,
            1.0,
        ],
        type='DetDataPreprocessor'),
    rpn_head=dict(
        anchor_generator=dict(
            ratios=[
                0.5,
                1.0,
                2.0,
            ],
            scales=[
                8,
            ],
            type='AnchorGenerator'),
        bbox_coder=dict(target_stds=[
            1.0,
        ])))
"""
CONFIG_YOLOV3 = """model = dict(
    bbox_head=dict(
        type='YOLOV3Head',
        anchor_generator=dict(
            type='YOLOAnchorGenerator',
            base_sizes=[[(116, 90), (156, 198), (373, 326)],
                        [(30, 61), (62, 45), (59, 119)],
                        [(10, 13), (16, 30), (33, 23)]],
            strides=[32, 16, 8]),
        bbox_coder=dict(type='YOLOBBoxCoder')))
img_norm_cfg = dict(mean=[0, 0, 0], std=[255., 255., 255.], to_rgb=True)
"""
CONFIGS = {
    "faster_rcnn_r50_coco_mmdet": CONFIG_2,
    "faster_rcnn_r50_caffe_coco_mmdet": CONFIG_3,
    "yolov3_coco_608_mmdet": CONFIG_YOLOV3,
}


def with_config(config: str) -> Contents:
    names = ("bbox_head.convs_pred.0.weight",) if "YOLO" in config else ("rpn_head.rpn_cls.weight",)
    return Contents({name: torch.zeros(1) for name in names}, config=config)


@pytest.mark.parametrize("name", CONFIGS)
def test_unchanged_mmdet_configurations_agree_with_their_recipes(name: str) -> None:
    chosen = recipe.load(name)
    assert meta.contradiction(chosen, with_config(CONFIGS[name])) == ""
    found = adapted(chosen, with_config(CONFIGS[name]))
    assert found is not None
    assert found.model == chosen.model
    as_json = re.sub(r"(\w+)=", r"'\1': ", CONFIGS[name].replace("dict(", "{"))
    assert meta.contradiction(chosen, with_config(as_json)) == ""


@pytest.mark.parametrize(
    ("name", "old", "new", "key", "value"),
    [
        ("faster_rcnn_r50_coco_mmdet", "scales=[8]", "scales=[2]", "anchor_scale", 2),
        ("faster_rcnn_r50_coco_mmdet", "[0.5, 1.0, 2.0]", "(.2, .5, 1, 2)", "anchor_ratios", (0.2, 0.5, 1, 2)),
        ("faster_rcnn_r50_coco_mmdet", "58.395, 57.12, 57.375", "255, 51, 102", "std", (1, 0.2, 0.4)),
        ("faster_rcnn_r50_caffe_coco_mmdet", "103.53,", "102,", "mean", (0.485, 0.456, 0.4)),  # blue comes first there
        (
            "yolov3_coco_608_mmdet", "(116, 90), (156, 198), (373, 326)", "(60, 60), (70, 80), (90, 99)", "anchors",
            ((10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (60, 60), (70, 80), (90, 99)),
        ),
    ],
)  # fmt: skip
def test_mmdet_configuration_with_other_anchors_or_pixels(
    name: str, old: str, new: str, key: str, value: Any, tmp_path: Path
) -> None:
    """`import` takes them over; a recipe that has others is rejected, since tensors would fit all the same."""
    contents = with_config(CONFIGS[name].replace(old, new))
    found = adapted(recipe.load(name), contents)
    assert found is not None
    np.testing.assert_allclose(getattr(found.model, key), value, rtol=1e-6)
    torch.save({"meta": {"cfg": contents.config}, "state_dict": contents.tensors}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=f"its configuration has model.{key}=.*, unlike recipe {name}; import it"):
        weights.build(tmp_path / "a.pth", recipe.load(name))


def test_mmdet_configuration_with_other_channel_order() -> None:
    contents = with_config(CONFIG_2.replace("to_rgb=True", "to_rgb=False"))
    assert "to_rgb=False, BGR, recipe" in meta.contradiction(recipe.load("faster_rcnn_r50_coco_mmdet"), contents)
    assert adapted(recipe.load("faster_rcnn_r50_coco_mmdet"), contents) is None
