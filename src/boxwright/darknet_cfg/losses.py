"""What the heads of a .cfg say about their loss, as keys of a recipe's section `model`."""

from collections.abc import Callable, Sequence
from typing import Any

from boxwright.darknet_cfg.layers import Head
from boxwright.darknet_cfg.text import Section

Keys = dict[str, Any]

# The keys that are read here, and in `region` those without effect
YOLO = {
    "ignore_thresh", "iou_thresh", "iou_loss", "iou_normalizer", "obj_normalizer", "cls_normalizer", "max_delta",
    "label_smooth_eps",
}  # fmt: skip
REGION = {
    "coord_scale", "object_scale", "noobject_scale", "class_scale", "thresh", "rescore", "bias_match", "focal_loss",
    "absolute", "coords",
}  # fmt: skip
UNLIMITED = 1e9  # `max_delta` of a head without the key, beside one that has it


def loss(heads: Sequence[Head]) -> Keys:
    """`loss` or `region_loss`, by the kind of the first head.

    Raises:
        InputError: With line and section, for a loss that is not supported.
    """
    sections = [head.section for head in heads]
    if sections[0].kind == "region":
        return {"region_loss": _region(sections[0])}
    return {"loss": _yolo(sections)}


def _region(section: Section) -> Keys:
    focal_loss = bool(section.whole("focal_loss"))
    if focal_loss and not section.whole("softmax"):
        raise section.error("training needs softmax=1 with it", "focal_loss")
    return {
        "box": section.number("coord_scale", 1.0),
        "objectness": section.number("object_scale", 1.0),
        "background": section.number("noobject_scale", 1.0),
        "classes": section.number("class_scale", 1.0),
        "ignore_iou": min(section.number("thresh", 0.5), 1.0),
        "rescore": bool(section.whole("rescore")),
        "bias_match": bool(section.whole("bias_match")),
        "focal_loss": focal_loss,
    }


def _yolo(sections: Sequence[Section]) -> Keys:
    """A list of one number where all heads have the same."""
    kinds = [each.word("iou_loss", "mse") for each in sections]
    if odd := next((each for each, kind in zip(sections, kinds, strict=True) if kind != kinds[0]), None):
        raise odd.error(f"training needs one for all heads, the first has iou_loss={kinds[0][:10]}", "iou_loss")

    def of_heads(value: Callable[[Section], float]) -> list[float]:
        values = [value(each) for each in sections]
        return values[:1] if len(set(values)) == 1 else values

    keys: Keys = {
        "box_loss": kinds[0] if kinds[0] in {"iou", "giou", "diou", "ciou"} else "mse",
        "box": of_heads(lambda each: each.number("iou_normalizer", 0.75)),
        "objectness": of_heads(lambda each: each.number("obj_normalizer", 1.0)),
        "assign_iou": of_heads(lambda each: min(each.number("iou_thresh", 1.0), 1.0)),
        "ignore_iou": of_heads(lambda each: min(each.number("ignore_thresh", 0.5), 1.0)),
        "label_smoothing": sections[0].number("label_smooth_eps"),
    }
    if any(each.number("max_delta") for each in sections):
        keys["max_delta"] = of_heads(lambda each: each.number("max_delta") or UNLIMITED)
    return keys
