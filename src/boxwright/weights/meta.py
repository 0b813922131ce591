"""What mmdetection stores beside weights: class names, and the configuration as text, searched and never executed."""

import re

from boxwright import recipe as recipes
from boxwright.recipe import Recipe
from boxwright.weights.names import mmdetection
from boxwright.weights.torch_files import Contents

STYLE = re.compile(r"\bstyle\s*=\s*['\"](caffe|pytorch)['\"]|['\"]style['\"]\s*:\s*['\"](caffe|pytorch)['\"]")


def with_own_names(recipe: Recipe, contents: Contents) -> Recipe:
    """`recipe` with the class names in a file, unless it has names of the user's, and as many."""
    shipped = recipe.data.names in ((), recipes.class_names("coco"))
    if not contents.classes or (recipe.model.classes == len(contents.classes) and not shipped):
        return recipe
    return recipe.with_names(contents.classes)


def contradiction(recipe: Recipe, contents: Contents) -> str:
    """What a file's own configuration says against `recipe`, which no tensor shows; "" where nothing does."""
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
