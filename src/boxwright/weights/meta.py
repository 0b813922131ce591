"""Metadata that mmdetection stores beside weights: class names, and the configuration as text, which is searched and
never executed."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from boxwright import recipe as recipes
from boxwright.config import AUTO
from boxwright.errors import shortened
from boxwright.nn.yolo import ANCHORS_PER_SCALE
from boxwright.recipe import Recipe
from boxwright.weights.names import detectron2, faster_rcnn, mmdetection
from boxwright.weights.torch_files import Contents

STYLE = re.compile(r"\bstyle\s*=\s*['\"](caffe|pytorch)['\"]|['\"]style['\"]\s*:\s*['\"](caffe|pytorch)['\"]")
TO_RGB = re.compile(r"\b(?:bgr_)?to_rgb['\"]?\s*[=:]\s*(True|False)")
GENERATOR = re.compile(r"\banchor_generator['\"]?\s*[=:]\s*(?:dict\(|\{)(.*?)(?:dict\(|\{|\Z)", re.DOTALL)
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?")
MAX_NUMBERS = 64  # of a list in a configuration
MAX_SHOWN = 40  # characters of a value in a message
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


def other_settings(recipe: Recipe, contents: Contents) -> dict[str, Any]:
    """Keys of `recipe` for which mmdetection's configuration in a file has other values, with these values: anchors and
    normalization, which tensors do not show."""
    tensors, config = contents.tensors, contents.config
    if not (mmdetection.is_faster_rcnn(tensors) or mmdetection.is_yolov3(tensors)):
        return {}
    order = -1 if _reads_bgr(recipe) else 1
    generator = GENERATOR.search(config)
    anchors = generator[1] if generator else ""
    scales, sizes = _numbers(anchors, "scales"), _numbers(anchors, "base_sizes")
    found: dict[str, Any] = {
        "mean": [value / 255 for value in _numbers(config, "mean")[::order]],
        "std": [value / 255 for value in _numbers(config, "std")[::order]],
        "anchor_scale": scales[0] if len(scales) == 1 else scales,
        "anchor_ratios": _numbers(anchors, "ratios"),
    }
    if len(sizes) % (2 * ANCHORS_PER_SCALE) == 0:  # large to small in their order of scales
        found["anchors"] = np.reshape(sizes, (-1, ANCHORS_PER_SCALE, 2))[::-1].reshape(-1, 2).tolist()
    return {f"model.{key}": value for key, value in found.items() if value and _differs(recipe, key, value)}


def _differs(recipe: Recipe, key: str, value: Any) -> bool:
    own = getattr(recipe.model, key, None)
    if own is None or own == AUTO:
        return False
    own, value = np.ravel(own), np.ravel(value)
    return own.shape != value.shape or not np.allclose(own, value, rtol=1e-3)


def _numbers(text: str, key: str) -> list[float]:
    """The numbers of a list, also of a nested one, in the text of a configuration; [] if there is none, if there are
    several that differ, and for long ones."""
    lists = re.findall(rf"\b{key}['\"]?\s*[=:]\s*([\[(][-+.,\s\de()\[\]]*)", text)
    found = {tuple(map(float, NUMBER.findall(each))) for each in lists}
    numbers = found.pop() if len(found) == 1 else ()
    return list(numbers) if len(numbers) <= MAX_NUMBERS else []


def _reads_bgr(recipe: Recipe) -> bool:
    """Whether files for `recipe` are of a network that reads BGR: those in caffe style."""
    return getattr(recipe.model, "stride_in", None) == "conv1"


def contradiction(recipe: Recipe, contents: Contents) -> str:
    """Contradiction between `recipe` and a file's origin or configuration that tensors do not show; "" for none."""
    if reason := _other_origin(recipe, contents.tensors) or _other_style(recipe, contents):
        return f"{reason}; take the recipe of its origin"
    settings = [
        f"{key}={shortened(shown(value), MAX_SHOWN)}" for key, value in other_settings(recipe, contents).items()
    ]
    found = ", ".join(settings)
    return f"its configuration has {found}, unlike recipe {recipe.name}; import it without --recipe" if settings else ""


def shown(value: Any) -> str:
    """A number, or a list of numbers or of pairs, as --set takes them."""
    return f"[{','.join(map(shown, value))}]" if isinstance(value, list) else f"{value:.9g}"


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
    tensors, stride_in = contents.tensors, getattr(recipe.model, "stride_in", None)
    found = STYLE.search(contents.config)
    if found and stride_in is not None and mmdetection.is_faster_rcnn(tensors):
        style = found[1] or found[2]
        needed = "conv1" if style == "caffe" else "conv2"
        if stride_in != needed:
            return (
                f"its configuration has style='{style}', recipe {recipe.name} has model.stride_in={stride_in}, needed "
                f"{needed}"
            )
    of_mmdetection = mmdetection.is_faster_rcnn(tensors) or mmdetection.is_yolov3(tensors)
    if of_mmdetection and set(TO_RGB.findall(contents.config)) == {str(_reads_bgr(recipe))}:
        order = ("RGB", "BGR") if _reads_bgr(recipe) else ("BGR", "RGB")
        return f"its configuration has to_rgb={_reads_bgr(recipe)}, {order[0]}, recipe {recipe.name} is for {order[1]}"
    return ""
