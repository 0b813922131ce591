"""Boxes drawn on images of all sizes: positions of lines and texts."""

import numpy as np
import pytest
import torch

from boxwright.errors import InputError
from boxwright.images.draw import OUTLINE, color, draw
from boxwright.types import Detections


def detections(*boxes, label=0, names=("first", "second", "third")):
    return Detections(torch.tensor(boxes).float().reshape(-1, 4), torch.full((len(boxes),), 0.9),
                      torch.full((len(boxes),), label), names)  # fmt: skip


def painted(image):
    """(x1, y1, x2, y2) of the pixels that are not black."""
    rows, columns = np.nonzero(image.any(axis=2))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_lines_are_on_box_edges_and_label_beside_the_box():
    image = np.zeros((300, 400, 3), np.uint8)
    drawn = draw(image, detections([100, 120, 220, 260], label=1))
    assert not image.any()  # the caller's image is untouched
    for x, y in [(100, 190), (219, 190), (160, 259)]:
        assert tuple(drawn[y, x]) == color(1)
    assert not drawn[140:240, 120:200].any()  # nothing inside
    x1, y1, x2, y2 = painted(drawn)
    assert abs(x1 - 100) <= 1
    assert abs(x2 - 220) <= 1
    assert abs(y2 - 260) <= 1
    label = drawn[y1 : 120 - 2, 100:220]
    assert 10 <= 120 - y1 <= 30  # above it, one line of text high
    assert len(np.unique(label.reshape(-1, 3), axis=0)) > 5  # letters, smoothed


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (12, 400), (400, 12), (60, 80), (3000, 4000), (2, 20000)])
@pytest.mark.parametrize("gray", [False, True])
def test_image_size_is_kept(size, gray):
    image = np.full(size if gray else (*size, 3), 90, np.uint8)
    height, width = size
    boxes = [-50, -50, width + 50, height + 50], [0, 0, 1, 1], [width / 2, height / 2, width / 2, height / 2]
    drawn = draw(image, detections(*boxes))
    assert drawn.shape == (*size, 3)
    assert drawn.dtype == np.uint8
    assert {color(0), OUTLINE} & {tuple(pixel) for pixel in drawn[0]}  # the outer box is seen at the image's edge


@pytest.mark.parametrize("corner", [(0, 0, 30, 30), (370, 0, 400, 30), (0, 270, 30, 300), (370, 270, 400, 300)])
def test_texts_are_inside_the_image(corner):
    """A text at a corner has as many letter pixels as one in the center."""
    wide = {"names": ("quite a long name", "b")}
    image = np.full((300, 400, 3), 77, np.uint8)
    middle, moved = draw(image, detections((150, 150, 180, 180), **wide)), draw(image, detections(corner, **wide))

    def ink(image):  # text is white or black on the class color; the outline is dark gray
        return (image.min(axis=2) == 255).sum() + (image.max(axis=2) == 0).sum()

    assert ink(middle) > 10
    assert ink(moved) == ink(middle)


def test_line_width_and_font_size_scale_with_the_image():
    small, large = (
        draw(np.zeros((300 * k, 400 * k, 3), np.uint8), detections([100 * k, 120 * k, 220 * k, 260 * k]))
        for k in (1, 8)
    )
    thickness = [(image[image.shape[0] * 19 // 30] == color(0)).all(axis=1).sum() for image in (small, large)]
    assert thickness[1] >= 5 * thickness[0]
    heights = [painted(image)[3] - painted(image)[1] - k * 140 for image, k in ((small, 1), (large, 8))]
    assert heights[1] >= 4 * heights[0]


def test_small_objects_on_a_large_image_stay_visible():
    """100 objects of 12 px on 3000 px have thin lines, with unchanged pixels inside."""
    corner = torch.cartesian_prod(torch.arange(10), torch.arange(10)) * 300.0 + 100
    found = Detections(torch.cat((corner, corner + 12), 1), torch.full((100,), 0.5), torch.zeros(100).long(), ("x",))
    drawn = draw(np.zeros((3000, 3000, 3), np.uint8), found)
    assert not drawn[102:110, 102:110].any()
    assert (drawn[100, 100:112] == color(0)).all()


def test_only_the_highest_scoring_boxes_have_texts():
    corner = torch.cartesian_prod(torch.arange(40), torch.arange(40)) * 60.0 + 30
    scores = torch.linspace(1, 0.5, 1600)
    found = Detections(torch.cat((corner, corner + 8), 1), scores, torch.zeros(1600).long(), ("x",))
    image = np.zeros((2460, 2460, 3), np.uint8)
    drawn = draw(image, found)
    near = [drawn[int(y) - 25 : int(y), int(x) : int(x) + 40].any() for x, y in corner.tolist()]
    assert sum(near) == 300 == sum(near[:300])


def test_texts_of_coinciding_boxes_do_not_overlap():
    image = np.zeros((300, 400, 3), np.uint8)
    box = [100.0, 100, 200, 200]
    both = Detections(torch.tensor([box, box]), torch.tensor([0.9, 0.6]), torch.tensor([0, 1]), ("one", "two"))
    drawn = draw(image, both)
    for label in (0, 1):
        ground = (drawn == color(label)).all(axis=2).sum()
        alone = (draw(image, both[both.labels == label]) == color(label)).all(axis=2).sum()
        assert ground >= 0.3 * alone


def test_neighboring_classes_differ_in_color():
    colors = np.array([color(label) for label in range(80)], int)
    apart = np.abs(colors[:, None] - colors[None]).max(axis=2)
    assert apart[~np.eye(80, dtype=bool)].min() > 8
    assert all(apart[label, label + 1] > 100 for label in range(79))


def test_non_finite_boxes_missing_names_and_invalid_images():
    drawn = draw(np.zeros((40, 60, 3), np.uint8), detections([float("nan"), -1e30, float("inf"), 1e30], names=()))
    assert drawn.shape == (40, 60, 3)
    assert not draw(np.zeros((40, 60, 3), np.uint8), detections()).any()
    for image in (np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros((2, 4, 4, 3), np.uint8)):
        with pytest.raises(InputError, match="image: found"):
            draw(image, detections())
