"""Identification of weights files, and of shipped recipes that they fit: by names, shapes and counts of their tensors,
and by the text of the configuration that mmdetection stores, which is searched and never executed."""

import re
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from boxwright import recipe as recipes
from boxwright import weights
from boxwright.errors import InputError
from boxwright.recipe import Recipe
from boxwright.weights import checkpoint, darknet, meta, mindspore, torch_files
from boxwright.weights.files import locate
from boxwright.weights.fit import compare
from boxwright.weights.names import detectron2, mmdetection
from boxwright.weights.shapes import without_memory
from boxwright.weights.torch_files import Contents

VERSION_1 = re.compile(r"type['\"]?\s*[=:]\s*['\"]DCN(v1)?['\"]")  # deformable convolution v1
MAX_SHOWN = 3  # names in a message
OFFSETS = ("backbone.layer2.0.conv2.conv_offset.weight", "backbone.layer2.0.conv2_offset.weight")


class Identified(NamedTuple):
    """An identified file of weights.

    Attributes:
        what: Short description of its origin.
        fits: Recipes that it fits completely, with its own class names and number of classes.
        skipped: Names of objects in the file that were not built.
    """

    what: str
    fits: tuple[Recipe, ...]
    skipped: tuple[str, ...] = ()


def identify(path: str | Path) -> Identified:
    """Identify a file of any supported kind. Raises InputError if it cannot be read."""
    file = locate(Path(path))
    kind = weights.kind_of(file)
    if kind in ("darknet", "mindspore"):
        _check_readable(file, kind)
        what = "a file of Darknet" if kind == "darknet" else "a checkpoint of MindSpore"
        of_kind = [each for each in _shipped() if _is_for_darknet(each) == (kind == "darknet")]
        fits = tuple(each for each in of_kind if _fits(file, each))
        if not fits and kind == "mindspore":
            fits = tuple(each for recipe in of_kind for each in _of_other_classes(file, recipe))
            what += f" of {fits[0].model.classes} classes" if fits else ""
        return Identified(what, fits)
    stored = weights.stored_recipe(file)
    if stored is not None:
        return Identified(f"a checkpoint of boxwright, trained with recipe {stored.name}", (stored,))
    contents = _contents(file, kind)
    what, suffix = _origin(contents)
    shipped = [each for each in _shipped() if each.name.endswith(suffix)]
    for depths in ((None,), (101, 152)):  # a recipe with the file's depth, or else one of 50 with the depth changed
        chosen = [adapted(each, contents, depth) for each in shipped for depth in depths]
        fits = tuple(each for each in chosen if each is not None and _fits_tensors(file, contents, each))
        if fits or not suffix:
            break
    by_name = {each.name: each for each in shipped}
    own = {key: value for each in fits for key, value in meta.other_settings(by_name[each.name], contents).items()}
    if own:
        what += f" with {', '.join(f'{key}={meta.shown(value)}' for key, value in own.items())}"
    return Identified(what, fits, contents.skipped)


def the_recipe_of(path: str | Path) -> tuple[Recipe, str]:
    """The only shipped recipe that a file fits, and a description of the file.

    Raises InputError if several recipes fit, or none.
    """
    found = identify(path)
    what = found.what
    if found.skipped:
        what += f" (skipped: {', '.join(found.skipped[:MAX_SHOWN])})"
    names = [each.name for each in found.fits]
    if len(names) == 1:
        depth = getattr(found.fits[0].model, "depth", None)
        return found.fits[0], what + (f", ResNet-{depth}" if depth else "")
    if not names:
        remedy = "name one by --recipe, with --transfer to load what fits"
        if weights.kind_of(locate(Path(path))) == "darknet":
            remedy = "give its --cfg, or copy it again if it is truncated"
        raise InputError(f"{path}: {found.what}; fits no shipped recipe as a whole; {remedy}")
    raise InputError(f"{path}: {found.what}; fits {', '.join(names)}; name the one of its origin by --recipe")


def adapted(recipe: Recipe, contents: Contents, depth: int | None = None) -> Recipe | None:
    """`recipe` with the classes, the kind of deformable layers, anchors and normalization of another project's file,
    and the depth of the ResNet; None if the file's own configuration contradicts it."""
    changes: dict[str, object] = dict(meta.other_settings(recipe, contents))
    rows = next((contents.tensors[name].shape[0] for name in OFFSETS if name in contents.tensors), 0)
    if rows and getattr(recipe.model, "deform_bias", False):
        masks = rows % 27 == 0 and not VERSION_1.search(contents.config)
        changes = {"model.deform_masks": masks, "model.deform_groups": rows // (27 if masks else 18)}
    if (count := meta.class_count(contents)) not in (0, recipe.model.classes):
        changes |= {"model.classes": count, "data.names": []}
    if depth is not None:
        if getattr(recipe.model, "depth", None) != 50:
            return None
        changes["model.depth"] = depth
    try:
        own = meta.with_own_names(recipe.with_overrides(changes), contents)
    except InputError:
        return None
    return None if meta.contradiction(own, contents) else own


def with_own_classes(path: str | Path, recipe: Recipe) -> Recipe:
    """`recipe` with the number of classes, and the class names, of a file that fits it then; else as it is.

    Raises InputError for a file that cannot be read.
    """
    file = locate(Path(path))
    kind = weights.kind_of(file)
    if kind in ("darknet", "mindspore"):
        return next(iter(_of_other_classes(file, recipe)), recipe)
    contents = _contents(file, kind)
    own = None if meta.contradiction(recipe, contents) else adapted(recipe, contents)
    return own if own is not None and _fits_tensors(file, contents, own) else recipe


def _contents(file: Path, kind: str) -> Contents:
    return torch_files.contents(file) if kind == "torch" else Contents(checkpoint.read_tensors(file))


def _check_readable(file: Path, kind: str) -> None:
    """Raises InputError for a damaged file of Darknet or MindSpore; `_fits` does not tell it from another network."""
    if kind == "mindspore":
        for _ in mindspore.entries(file):
            pass
        return
    with file.open("rb") as stream:
        darknet.read_start(stream, file)


def _is_for_darknet(recipe: Recipe) -> bool:
    """Whether its weights are Darknet's, rather than the MindSpore zoo's."""
    return recipe.name.endswith("_darknet") or recipe.model.name == "darknet_cfg"


def _shipped() -> list[Recipe]:
    return [recipes.load(name) for name in recipes.names() if name != "demo"]


def _origin(contents: Contents) -> tuple[str, str]:
    """Description of the origin, and the suffix of the names of its recipes."""
    tensors = contents.tensors
    if mmdetection.is_faster_rcnn(tensors) or mmdetection.is_yolov3(tensors):
        network = "YOLOv3" if mmdetection.is_yolov3(tensors) else "Faster R-CNN"
        count, names, unused = meta.class_count(contents), len(contents.classes), ""
        if contents.names_fault:
            unused = f", whose stored class names are not used (found {contents.names_fault})"
        elif 0 < names != count > 0:
            unused = f" of {count} classes, whose {names} stored names are not used"
        return f"a {network} of mmdetection {contents.version or '2 or 3'}{unused}", "_mmdet"
    if detectron2.is_faster_rcnn(tensors):
        return "a Faster R-CNN of Detectron2", "_detectron2"
    if meta.TORCHVISION in tensors:
        second = "roi_heads.box_head.5.weight" in tensors
        return "a Faster R-CNN of torchvision", "_torchvision_v2" if second else "_torchvision"
    return "a state dict", ""


def _of_other_classes(file: Path, recipe: Recipe) -> list[Recipe]:
    """`recipe` with the number of classes of a file of Darknet or of the MindSpore zoo, if the file fits it then."""
    plan = without_memory(recipe.model)
    own = plan.state_dict()
    try:
        tensors, _ = weights.read(plan, file, recipe, transfer=True)
    except InputError:
        return []
    others = [each for name, each in tensors.items() if name in own and each.shape != own[name].shape]
    rows = min((each.shape[0] for each in others if each.ndim), default=0)  # of the last layer
    # head with three anchors, box head with background, classifier
    counts = [count for count in (rows // 3 - 5, rows - 1, rows) if count > 0]
    changed = [recipe.with_overrides({"model.classes": count, "data.names": []}) for count in counts]
    return [each for each in changed if _fits(file, each)][:1]


def _fits(file: Path, recipe: Recipe) -> bool:
    """Whether a file fits completely, for formats whose reader needs the network."""
    plan = without_memory(recipe.model)
    try:
        tensors, unexpected = weights.read(plan, file, recipe, transfer=False)
        compare(plan, tensors, str(file), transfer=False, unexpected=unexpected)
    except InputError:
        return False
    return True


def _fits_tensors(file: Path, contents: Contents, recipe: Recipe) -> bool:
    plan = without_memory(recipe.model)
    try:
        tensors: dict[str, Tensor] = weights.renamed(plan, contents, file, recipe)
        compare(plan, tensors, str(file), transfer=False)
    except InputError:
        return False
    return True
