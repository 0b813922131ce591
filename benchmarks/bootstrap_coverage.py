"""How often intervals hold the truth, and a better model is found, on made data sets whose truth is known.

python benchmarks/bootstrap_coverage.py [PAIRS]

A made detector finds an object with a chance that depends on the image, places it with noise, and adds false ones. Two
models of a pair are equal in all chances; `shared` is the share of objects and images on which they do the very same,
as two trainings of one network mostly do.
"""

import sys
from dataclasses import dataclass
from datetime import date

import numpy as np
import torch

from boxwright.data.dataset import Sample
from boxwright.metrics import coco
from boxwright.metrics.comparison import Difference, differences
from boxwright.metrics.resampling import draw_weights, interval
from boxwright.types import Detections

CLASSES = ("a", "b", "c")
RESAMPLES = 400  # as `boxwright compare` takes at least
WORSE, BETTER = 0.80, 0.832  # chance to find an object; AP differs by 0.02


@dataclass(frozen=True, slots=True)
class Noise:
    """The random numbers of one model on one image of n objects."""

    hit: np.ndarray
    jitter: np.ndarray
    score: np.ndarray
    wild: np.ndarray
    wild_labels: np.ndarray
    wild_scores: np.ndarray

    @staticmethod
    def draw(rng: np.random.Generator, n: int, difficulty: float) -> "Noise":
        m = rng.poisson(3 * (1.5 - difficulty))
        low = rng.uniform(0, 400, (m, 2))
        wild = np.concatenate([low, low + rng.uniform(10, 150, (m, 2))], 1)
        labels = rng.integers(0, len(CLASSES), m)
        return Noise(rng.random(n), rng.normal(0, 0.06, (n, 4)), rng.beta(5, 2, n), wild, labels, rng.beta(2, 5, m))


def truth(rng: np.random.Generator, images: int) -> list[Sample]:
    samples = []
    for index in range(images):
        n = int(rng.integers(1, 12))
        low, side = rng.uniform(0, 400, (n, 2)), rng.choice([20, 60, 150], (n, 1)) * rng.uniform(0.7, 1.4, (n, 2))
        boxes, none = np.concatenate([low, low + side], 1).astype(np.float32), np.zeros(n, bool)
        labels = rng.integers(0, len(CLASSES), n)
        samples.append(Sample(index, "", None, boxes, labels, none, side.prod(1), np.arange(n), none))
    return samples


def detect(sample: Sample, noise: Noise, difficulty: float, chance: float) -> Detections:
    hit = noise.hit < np.clip(chance + 0.3 * (difficulty - 0.5), 0, 1)
    side = np.tile(sample.boxes[:, 2:] - sample.boxes[:, :2], 2)
    boxes = np.concatenate([(sample.boxes + noise.jitter * side)[hit], noise.wild]).reshape(-1, 4)
    scores = np.concatenate([noise.score[hit], noise.wild_scores])
    labels = np.concatenate([sample.labels[hit], noise.wild_labels])
    return Detections(torch.from_numpy(boxes).float(), torch.from_numpy(scores).float(), torch.from_numpy(labels))


def pair(
    rng: np.random.Generator, samples: list[Sample], shared: float, chances: tuple[float, float]
) -> tuple[list[Detections], list[Detections]]:
    """What two models find."""
    a, b = [], []
    for sample in samples:
        difficulty, n = rng.beta(2, 2), len(sample)
        one, other = Noise.draw(rng, n, difficulty), Noise.draw(rng, n, difficulty)
        same = rng.random(n) < shared
        wild = one if rng.random() < shared else other
        mixed = Noise(
            np.where(same, one.hit, other.hit),
            np.where(same[:, None], one.jitter, other.jitter),
            np.where(same, one.score, other.score),
            wild.wild,
            wild.wild_labels,
            wild.wild_scores,
        )
        a.append(detect(sample, one, difficulty, chances[0]))
        b.append(detect(sample, mixed, difficulty, chances[1]))
    return a, b


def compared(seed: int, images: int, shared: float, chances: tuple[float, float]) -> Difference:
    """The difference of AP of one pair on its own images."""
    rng = np.random.default_rng([images, seed])
    samples = truth(rng, images)
    weights = np.concatenate([np.ones((images, 1), np.float32), draw_weights(np.arange(images), RESAMPLES)], axis=1)
    a, b = (coco.resample(samples, found, CLASSES, weights) for found in pair(rng, samples, shared, chances))
    return differences(a, b)[0]


def holds_truth(seed: int, images: int, expected: float) -> bool:
    """Whether the interval of a model's own AP holds its AP on very many images."""
    rng = np.random.default_rng([images, seed, 1])
    samples = truth(rng, images)
    found, _ = pair(rng, samples, 0.0, (WORSE, WORSE))
    weights = np.concatenate([np.ones((images, 1), np.float32), draw_weights(np.arange(images), RESAMPLES)], axis=1)
    values = coco.resample(samples, found, CLASSES, weights).summary["AP"]
    ends = interval(values[0], values[1:])
    assert ends is not None
    return ends.low <= expected <= ends.high


def main() -> None:
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    print(f"{date.today()}, {pairs} pairs each, AP over {len(CLASSES)} classes, {RESAMPLES} resamples")
    for images, shared in ((100, 0.0), (200, 0.7)):
        rows = [compared(seed, images, shared, (WORSE, WORSE)) for seed in range(pairs)]
        held = sum(row.interval[0] <= 0 <= row.interval[1] for row in rows)
        print(
            f"equal models, {images} images, {shared:.0%} shared: 0 is in {held / pairs:.1%} of the intervals",
            flush=True,
        )
    for shared in (0.7, 0.0):
        rows = [compared(seed, 500, shared, (WORSE, BETTER)) for seed in range(pairs)]
        found = sum(row.interval[0] > 0 for row in rows)
        gain, spread = np.mean([row.difference for row in rows]), np.std([row.difference for row in rows])
        print(
            f"a model {gain:.3f} AP better, 500 images, {shared:.0%} shared: found in {found / pairs:.1%} "
            f"(differences spread by {spread:.4f})",
            flush=True,
        )
    rng = np.random.default_rng(0)
    samples = truth(rng, 20_000)
    expected = coco.score(samples, pair(rng, samples, 0.0, (WORSE, WORSE))[0], CLASSES).ap
    for images in (20, 50, 200):
        held = sum(holds_truth(seed, images, expected) for seed in range(pairs))
        print(f"AP of one model, {images} images: the interval holds AP of 20,000 in {held / pairs:.1%}", flush=True)


if __name__ == "__main__":
    main()
