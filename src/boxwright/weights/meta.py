"""Metadata that mmdetection stores beside weights: class names, and the configuration as text, which is searched and
never executed."""

import re
from collections.abc import Mapping

from torch import Tensor

from boxwright import recipe as recipes
from boxwright.recipe import Recipe
from boxwright.weights.names import detectron2, faster_rcnn, mmdetection
from boxwright.weights.torch_files import Contents

STYLE = re.compile(r"\bstyle\s*=\s*['\"](caffe|pytorch)['\"]|['\"]style['\"]\s*:\s*['\"](caffe|pytorch)['\"]")
TORCHVISION = "rpn.head.cls_logits.weight"  # in both versions of its Faster R-CNN


def with_own_names(recipe: Recipe, contents: Contents) -> Recipe:
    """`recipe` with the class names in a file, if their number matches and the user has not set names."""
    shipped = recipe.data.names in ((), recipes.class_names("coco"))
    if not contents.classes or (recipe.model.classes == len(contents.classes) and not shipped):
        return recipe
    if class_count(contents) not in (0, len(contents.classes)):  # names that were left in a changed configuration
        return recipe
    return recipe.with_names(contents.classes)


def class_count(contents: Contents) -> int:
    """Number of classes of another project's detector; 0 if unknown."""
    tensors = contents.tensors
    for name in ("roi_head.bbox_head.fc_cls.weight", "roi_heads.box_predictor.cls_score.weight"):
        if name in tensors and tensors[name].ndim == 2:
            rows = tensors[name].shape[0]
            by_ids = name.startswith("roi_heads.box_predictor") and rows == len(faster_rcnn.COCO_IDS)
            return (len(faster_rcnn.COCO_ROWS) if by_ids else rows) - 1
    last = tensors.get("bbox_head.convs_pred.0.bias")
    return last.shape[0] // 3 - 5 if last is not None and last.ndim else 0


def contradiction(recipe: Recipe, contents: Contents) -> str:
    """Contradiction between `recipe` and a file's origin or configuration that tensors do not show; "" for none."""
    return _other_origin(recipe, contents.tensors) or _other_style(recipe, contents)


def _other_origin(recipe: Recipe, tensors: Mapping[str, Tensor]) -> str:
    """As `contradiction`, for the origin: networks of these projects have the same shapes but different features."""
    roi = getattr(recipe.model, "roi", None)
    if roi is None:
        return ""
    for project, is_of, samples in (
        ("mmdetection", mmdetection.is_faster_rcnn, 0),
        ("Detectron2", detectron2.is_faster_rcnn, 0),
        ("torchvision", lambda tensors: TORCHVISION in tensors, 2),
    ):
        if is_of(tensors) and roi.samples_per_bin != samples:
            found = f"model.roi.samples_per_bin={roi.samples_per_bin}"
            return f"is of {project}, recipe {recipe.name} has {found}, needed {samples}"
    return ""


def _other_style(recipe: Recipe, contents: Contents) -> str:
    found = STYLE.search(contents.config)
    stride_in = getattr(recipe.model, "stride_in", None)
    if not found or stride_in is None or not mmdetection.is_faster_rcnn(contents.tensors):
        return ""
    style = found[1] or found[2]
    if (style == "caffe") == (stride_in == "conv1"):
        return ""
    needed = "conv1" if style == "caffe" else "conv2"
    return (
        f"its configuration has style='{style}', recipe {recipe.name} has model.stride_in={stride_in}, needed {needed}"
    )
