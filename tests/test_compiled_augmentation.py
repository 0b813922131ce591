"""Augmentation with `train.compile`: its functions for pixels are one graph each, and give the same pixels.

The graphs run in PyTorch's own operators here, as in test_compile.py.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from boxwright.batches import class_transforms, compilable, transforms, warp
from boxwright.engine.compiling import compiled_augmentation
from boxwright.recipe import AugmentConfig
from test_class_transforms import changed
from test_class_transforms import noise as class_noise
from test_transforms import EVERYTHING, noise

# Of a position below 100 px in float32 (2^-24 * 100), some operations long, where neighbors may differ by 1. A wrong
# pixel is off by 1e-2 and more.
ROUNDING = 5e-5
SINGLE = EVERYTHING.model_copy(update={"mosaic": 0.0, "mixup": 0.0, "perspective": 0.0})


def detection(config: AugmentConfig, channels: int = 3) -> Callable[[int], Tensor]:
    batch = noise(6)
    batch = replace(batch, images=batch.images.repeat(1, 2, 1, 1)[:, :channels])

    def images(step: int) -> Tensor:
        size = [(64, 64), (32, 96), (96, 64)][step % 3]
        return transforms.augment(batch, config, size=size, seed=3, step=step, rank=0).images

    return images


def classes(step: int) -> Tensor:
    colors = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.2}
    return changed(class_noise(5), step=step, pad=2, flip=0.5, erase=0.5, mixup=0.3, **colors).images


CASES = {
    "mosaic": detection(EVERYTHING),
    "single": detection(SINGLE),
    "bands": detection(SINGLE, 5),
    "classes": classes,
}
STEPS = 3
ON_CPU, ON_GPU = False, True


@pytest.fixture
def single_chunk(request: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whether all images are one chunk, as on a GPU, or each is one."""
    if request.param:
        for module in (class_transforms, transforms, warp):
            monkeypatch.setattr(module, "chunks", lambda images: [slice(0, len(images))])
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("single_chunk", [ON_GPU], indirect=True)
@pytest.mark.usefixtures("single_chunk")
def test_each_augmentation_function_is_one_graph() -> None:
    explained = {}

    def explain(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            if function not in explained:
                copies = [each.clone() if isinstance(each, Tensor) else each for each in args]
                explained[function] = torch._dynamo.explain(function)(*copies)
            return function(*args)

        return call

    with compilable.replaced(explain):
        for images in CASES.values():
            images(0)
    assert explained.keys() == set(compilable.FUNCTIONS)
    assert {(each.graph_count, each.graph_break_count) for each in explained.values()} == {(1, 0)}


@pytest.mark.slow
@pytest.mark.usefixtures("single_chunk")
@pytest.mark.parametrize(
    ("case", "single_chunk", "backend", "most"),
    [("mosaic", ON_GPU, "eager", 8), ("bands", ON_CPU, "aot_eager", 4), ("classes", ON_GPU, "eager", 10)],
    indirect=["single_chunk"],
)
def test_compiled_pixels_match_eager(case: str, backend: str, most: int) -> None:
    """In three sizes, with other numbers of images by mixup. most: two graphs for each function, as square images have
    one of their own; four for the mosaic, which may get a single image."""
    graphs: list[torch.fx.GraphModule] = []

    def counting(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        graphs.append(graph)
        return torch._dynamo.lookup_backend(backend)(graph, inputs)

    wanted = [CASES[case](step) for step in range(STEPS)]
    with compiled_augmentation(True, counting):  # type: ignore[arg-type]
        found = [CASES[case](step) for step in range(STEPS)]
    assert 2 <= len(graphs) <= most
    for one, other in zip(wanted, found, strict=True):
        assert float((one - other).abs().max()) < ROUNDING
    with compiled_augmentation(False, backend):
        assert torch.equal(CASES[case](0), wanted[0])
