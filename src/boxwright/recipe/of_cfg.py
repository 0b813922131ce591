"""The recipe of a Darknet .cfg file: its network, with Darknet's preprocessing and postprocessing."""

import logging
import re
from collections import Counter
from contextlib import suppress
from pathlib import Path

from boxwright.config import MAX_CLASSES, MAX_YAML, Tree, class_name_fault
from boxwright.darknet_cfg.plan import Plan, plan, with_size
from boxwright.darknet_cfg.text import read_cfg
from boxwright.darknet_cfg.training import not_taken_over, training
from boxwright.errors import InputError
from boxwright.files import read_input

logger = logging.getLogger(__name__)

# Defaults of AlexeyAB's `detector test`: -thresh, and the IoU threshold of its NMS (detector.c)
THRESHOLD = 0.25
NMS_IOU = 0.45
GREEDY_BETA = 0.6  # exponent of `greedynms`, and default of `beta_nms`
OTHER_FILES = {".data", ".yaml", ".yml", ".json", ".cfg"}  # of which each line would be read as a class name
NMS_KINDS = {"greedynms": "greedy", "diounms": "diou"}


def recipe_of_cfg(path: str | Path) -> Tree:
    """The recipe of the .cfg at `path` as plain values, without class names; odd activations are logged.

    Raises:
        InputError: For a file that cannot be read, with line and section.
    """
    text = read_cfg(path)
    network = plan(text, str(path))
    if network.classes > MAX_CLASSES:
        raise network.last.section.error(
            f"the last layer gives {network.classes:,} numbers, needed at most {MAX_CLASSES:,} classes, or a [yolo]; "
            "is the file cut off?"
        )
    for note in network.notes:
        logger.warning("%s: %s", path, note)
    height, width = network.image[1:]
    nms = _nms(network)
    return {
        "name": re.sub(r"[^\w.-]", "_", Path(path).stem)[:64].lstrip("-.") or "network",
        "summary": f"{'Detector' if network.heads else 'Classifier'} of a Darknet .cfg",
        "model": {"name": "darknet_cfg", "cfg": text, "classes": network.classes},
        "data": {"canvas": {"size": [height, width], "fill": 127.5, "resize": "darknet", **_fit(network)}},
        "evaluate": {"nms": nms},
        "predict": {"threshold": THRESHOLD, "nms": nms},
    }


def with_training(recipe: Tree, source: str, data: object) -> Tree:
    """`recipe_of_cfg` with what the file says about training; keys without a counterpart are logged in one line.

    data: The section `data` with overrides; the sizes to train at depend on its `canvas.size`.

    Raises:
        InputError: With line and section, for a schedule or a loss that is not supported.
    """
    text = recipe["model"]["cfg"]
    network = plan(text, source)
    match data:
        case {"canvas": {"size": [int(height), int(width)]}} if (height, width) != network.image[1:]:
            with suppress(InputError):  # the size does not fit: the check of the recipe names the key
                network = plan(with_size(text, height, width), source)
    train, own_data, model = training(network)
    if others := not_taken_over(network):
        logger.info("%s: not taken over for training: %s", source, ", ".join(others))
    return {**recipe, "train": train, "data": recipe["data"] | own_data, "model": recipe["model"] | model}


def read_names(path: str | Path, classes: int) -> list[str]:
    """The first `classes` lines of a .names file; a warning is logged if there are more.

    Names that occur twice, such as `crane` in Darknet's list of ImageNet, get the number of their class: `crane (428)`.

    Raises:
        InputError: For a file that cannot be read, has fewer lines, or a line that is not a name, with its number; and
            for one of another kind, such as obj.data.
    """
    if (suffix := Path(path).suffix.lower()) in OTHER_FILES:
        raise InputError(
            f"{path}: found the suffix {suffix}, needed a text with one class name per line; `names` in obj.data "
            "is its path"
        )
    try:
        text = read_input(path, ", needed one class name per line", MAX_YAML).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from error
    names = [line.strip() for line in text.rstrip().split("\n")] if text.strip() else []
    if len(names) < classes:
        raise InputError(
            f"{path}: holds {len(names)} names, the .cfg has classes={classes}; needed a line for each class"
        )
    if len(names) > classes:
        logger.warning("%s: holds %d names, the .cfg has classes=%d; the first are used", path, len(names), classes)
    for number, name in enumerate(names[:classes], 1):
        if fault := class_name_fault(name) if name else "empty, needed a class name":
            raise InputError(f"{path} line {number}: {fault}")
    count = Counter(names[:classes])
    return [f"{name} ({label})" if count[name] > 1 else name for label, name in enumerate(names[:classes])]


def _fit(network: Plan) -> dict[str, object]:
    """The keys of `canvas` that place images on it. A classifier crops the center of the resized image."""
    if not network.heads:
        _, height, width = network.image
        return {"fit": "crop", "short_side": 0 if height == width else max(height, width)}
    return {"fit": "letterbox" if network.net.integer("letter_box") else "stretch"}


def _nms(network: Plan) -> Tree:
    """The NMS of the last head, which is used for all heads."""
    kind, iou = "standard", {"iou": NMS_IOU}
    if network.heads and network.heads[-1].section.kind != "region":
        last = network.heads[-1].section
        kind = NMS_KINDS.get(last.word("nms_kind"), "standard")
        if last.word("nms_kind") == "cornersnms":
            raise last.error("not supported; needed greedynms, diounms or default", "nms_kind")
        if kind == "diou" and (beta := last.number("beta_nms", GREEDY_BETA)) != 1:
            if beta != GREEDY_BETA:
                raise last.error(f"needed 1 or {GREEDY_BETA} with nms_kind=diounms", "beta_nms")
            kind = "greedy"  # which is diounms with this exponent
    return {"kind": kind, **iou}
