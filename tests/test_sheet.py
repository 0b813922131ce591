"""Sheets of images: rows that fill the width, lines and colors that remain."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from boxwright.data.dataset import Sample
from boxwright.images.draw import color
from boxwright.metrics import sheet
from boxwright.metrics.matching import Kind, match
from boxwright.metrics.sheet import GAP, KIND_COLORS, WIDTH, Panel, View
from boxwright.types import Detections

NO_BOXES = np.zeros((0, 4))


def plain(width: int, height: int, gray: int = 60) -> Panel:
    return Panel(np.full((height, width, 3), gray, np.uint8), (View("", NO_BOXES),))


def found(boxes: list[list[float]], labels: list[int], names: tuple[str, ...] = ("a", "b")) -> Detections:
    scores = torch.linspace(0.9, 0.5, len(boxes))
    return Detections(torch.tensor(boxes).reshape(-1, 4), scores, torch.tensor(labels, dtype=torch.int64), names)


def truth(boxes: list[list[float]], labels: list[int]) -> Sample:
    count = len(boxes)
    return Sample(0, "x/y.jpg", None, np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64),
                  np.zeros(count, bool), np.ones(count), np.arange(count), np.zeros(count, bool))  # fmt: skip


def count_pixels(image: np.ndarray, tint: tuple[int, int, int]) -> int:
    return int((image == np.array(tint)).all(axis=2).sum())


@pytest.mark.parametrize("seed", range(5))
def test_rows_fill_the_width_with_mixed_aspect_ratios(seed: int) -> None:
    rng = np.random.default_rng(seed)
    panels = [plain(*rng.integers(200, 900, 2).tolist(), gray=60 + index) for index in range(12)]
    drawn = sheet.draw_sheet(panels)
    assert drawn.shape[1] == WIDTH
    dark = (drawn < 200).all(axis=2)
    rows = dark[:, GAP:].any(axis=1)
    right = WIDTH - 1 - dark[:, ::-1].argmax(axis=1)
    assert (right[rows] > WIDTH - 2 * GAP).mean() > 0.99, "no row ends before the margin"
    assert dark.mean() > 0.9, "little of the sheet is white"
    shown = [int(value) for value in dict.fromkeys(drawn[dark][:, 0].tolist())]
    assert sorted(shown) == list(range(60, 72)), "all of them"
    tallest = max(np.diff(np.flatnonzero(np.diff(np.r_[0, rows.astype(int), 0]))))
    assert tallest < 2 * sheet.ROW


def test_images_keep_their_aspect_ratio() -> None:
    for width, height in ((300, 100), (100, 300), (64, 64)):
        dark = (sheet.draw_sheet([plain(width, height)]) < 200).all(axis=2)
        rows, columns = np.flatnonzero(dark.any(axis=1)), np.flatnonzero(dark.any(axis=0))
        assert len(columns) / len(rows) == pytest.approx(width / height, rel=0.02)


def test_lines_are_drawn_after_large_images_are_resized() -> None:
    """Lines that were drawn on 4000 px and then made eight times smaller would have another color."""
    image = np.zeros((4000, 6000, 3), np.uint8)
    panel = sheet.truth_and_prediction(image, truth([[1000, 1000, 5000, 3000]], [0]), found([], []))
    drawn = sheet.draw_sheet([panel])
    sides = 2 * (4000 + 2000) / 6000 * (WIDTH - 2.5 * GAP) / 2  # px of the box on the sheet
    assert count_pixels(drawn, color(0)) > 1.8 * sides, "two px wide"


def test_ground_truth_and_prediction_side_by_side() -> None:
    image = np.zeros((100, 120, 3), np.uint8)
    panel = sheet.truth_and_prediction(image, truth([[10, 40, 60, 90]], [0]), found([[50, 20, 110, 80]], [1]))
    assert [name for name, _ in panel.legend] == ["a", "b"]
    drawn = sheet.draw_sheet([Panel(panel.image, panel.views, panel.captions)])
    left, right = drawn[:, : WIDTH // 2], drawn[:, WIDTH // 2 :]
    assert (count_pixels(left, color(0)) > 100, count_pixels(left, color(1))) == (True, 0)
    assert (count_pixels(right, color(0)), count_pixels(right, color(1)) > 100) == (0, True)


def test_errors_have_the_colors_of_their_kind() -> None:
    sample = truth([[0, 0, 100, 100], [300, 300, 400, 400]], [0, 1])
    guesses = found([[0, 0, 100, 100], [0, 0, 95, 100], [500, 100, 550, 160]], [0, 1, 1])
    image = np.zeros((500, 600, 3), np.uint8)
    panel = sheet.errors(image, sample, match([sample], [guesses]), ("a", "b"))
    assert panel.captions == ("3 errors: y.jpg",)
    assert panel.views[0].texts == ("", "b 0.70, is a", "b 0.50", "b")
    drawn = sheet.draw_sheet([panel])
    for kind in (Kind.CORRECT, Kind.CLASSIFICATION, Kind.BACKGROUND, Kind.MISSED):
        assert count_pixels(drawn, KIND_COLORS[kind]) > 100, kind
    assert not count_pixels(drawn, KIND_COLORS[Kind.LOCALIZATION])
    for guesses in (found([[0, 0, 100, 100]], [0]), found([], [])):
        sheet.draw_sheet([sheet.errors(image, sample, match([sample], [guesses]), ("a", "b"))])
    nothing = truth([], [])
    sheet.draw_sheet([sheet.errors(image, nothing, match([nothing], [found([[0, 0, 9, 9]], [0])]), ("a", "b"))])


def test_write_replaces_or_removes_an_earlier_sheet(tmp_path: Path) -> None:
    file = tmp_path / "sheet.jpg"
    sheet.write([plain(50, 40)], file, [("<img onerror>\n", (1, 2, 3))])
    assert cv2.imread(str(file)).shape[1] == WIDTH
    sheet.write([], file)
    assert not file.exists()


def test_large_images_are_downscaled_to_the_sheet() -> None:
    small, factors = sheet.fitted(np.zeros((300, 400, 3), np.uint8))
    assert (small.shape, factors.tolist()) == ((300, 400, 3), [1] * 4)
    large, factors = sheet.fitted(np.zeros((4000, 2800, 3), np.uint8))
    assert (large.shape, factors.tolist()) == ((1000, 700, 3), [0.25] * 4)
