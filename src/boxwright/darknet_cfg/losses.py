"""Settings of the heads' loss in a .cfg, as keys of a recipe's section `model`."""

from collections.abc import Callable, Sequence

from boxwright.config import Tree
from boxwright.darknet_cfg.layers import Head
from boxwright.darknet_cfg.text import Section

# The keys that are read here, and those without effect
YOLO = {
    "ignore_thresh", "iou_thresh", "iou_loss", "iou_normalizer", "obj_normalizer", "cls_normalizer", "max_delta",
    "label_smooth_eps", "truth_thresh", "objectness_smooth", "focal_loss", "counters_per_class", "iou_thresh_kind",
    "uc_normalizer",
}  # fmt: skip
GAUSSIAN = YOLO - {"objectness_smooth"}  # which has another meaning there
REGION = {
    "coord_scale", "object_scale", "noobject_scale", "class_scale", "thresh", "rescore", "bias_match", "focal_loss",
    "absolute", "coords",
}  # fmt: skip
UNLIMITED = 1e9  # `max_delta` of a head without the key, beside one that has it


def loss(heads: Sequence[Head]) -> Tree:
    """`loss` or `region_loss`, by the kind of the first head.

    Raises:
        InputError: With line and section, for a loss that is not supported.
    """
    sections = [head.section for head in heads]
    if sections[0].kind == "region":
        return {"region_loss": _region(sections[0])}
    return {"loss": _yolo(sections)}


def _region(section: Section) -> Tree:
    focal_loss = bool(section.integer("focal_loss"))
    if focal_loss and not section.integer("softmax"):
        raise section.error("training needs softmax=1 with it", "focal_loss")
    return {
        "box": section.number("coord_scale", 1.0),
        "objectness": section.number("object_scale", 1.0),
        "background": section.number("noobject_scale", 1.0),
        "classes": section.number("class_scale", 1.0),
        "ignore_iou": min(section.number("thresh", 0.5), 1.0),
        "rescore": bool(section.integer("rescore")),
        "bias_match": bool(section.integer("bias_match")),
        "focal_loss": focal_loss,
    }


def _yolo(sections: Sequence[Section]) -> Tree:
    """`loss` of [yolo] heads: lists per head, of one number if all heads have the same."""

    def of_heads(value: Callable[[Section], float]) -> list[float]:
        values = [value(each) for each in sections]
        return values[:1] if len(set(values)) == 1 else values

    keys: Tree = {
        "box_loss": _overlap(sections, "iou_loss", "mse"),
        "box": of_heads(lambda each: each.number("iou_normalizer", 0.75)),
        "objectness": of_heads(lambda each: each.number("obj_normalizer", 1.0)),
        "assign_iou": of_heads(lambda each: min(each.number("iou_thresh", 1.0), 1.0)),
        "ignore_iou": of_heads(lambda each: min(each.number("ignore_thresh", 0.5), 1.0)),
        "assign_kind": _overlap(sections, "iou_thresh_kind", "iou"),
        "truth_iou": of_heads(lambda each: min(each.number("truth_thresh", 1.0), 1.0)),
        "label_smoothing": sections[0].number("label_smooth_eps"),
    }
    if sections[0].kind == "yolo":
        keys["objectness_smooth"] = of_heads(lambda each: bool(each.integer("objectness_smooth")))
        keys["focal_loss"] = of_heads(lambda each: bool(each.integer("focal_loss")))
    else:
        keys["uncertainty"] = of_heads(lambda each: each.number("uc_normalizer", 1.0))
    if weights := _class_weights(sections):
        keys |= {"class_weights": weights, "own_class": of_heads(lambda each: each.number("cls_normalizer", 1.0))}
    if any(each.number("max_delta") for each in sections):
        keys["max_delta"] = of_heads(lambda each: each.number("max_delta") or UNLIMITED)
    return keys


def _same(sections: Sequence[Section], key: str, default: str = "") -> str:
    """The word that all sections share. Raises InputError if one differs from the first."""
    first, *others = (each.word(key, default) for each in sections)
    for section, word in zip(sections[1:], others, strict=True):
        if word != first:
            raise section.error(f"training needs one for all heads, the first has {key}={first[:20]}", key)
    return first


def _overlap(sections: Sequence[Section], key: str, default: str) -> str:
    """One of Darknet's words; like Darknet, unknown ones are iou."""
    word = _same(sections, key, default)
    return word if word in {default, "giou", "diou", "ciou"} else "iou"


def _class_weights(sections: Sequence[Section]) -> list[float]:
    """The largest class count divided by each count; [] without counts.

    Raises InputError if the number of counts is not that of classes.
    """
    _same(sections, "counters_per_class")
    section = sections[0]
    counts = [max(1, count) for count in section.integers("counters_per_class", end="#")]
    if counts and len(counts) != section.integer("classes", 20):
        needed = section.integer("classes", 20)
        raise section.error(f"{len(counts)} counts for {needed} classes; needed one per class", "counters_per_class")
    limit = section.number("max_delta") or UNLIMITED
    return [min(max(counts) / count, limit) for count in counts]
