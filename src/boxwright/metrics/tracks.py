"""Metrics of multi-object tracking: HOTA, CLEAR (MOTA) and Identity (IDF1).

HOTA: Luiten et al., IJCV 2021, "HOTA: A Higher Order Metric for Evaluating Multi-Object Tracking". CLEAR: Bernardin and
Stiefelhagen 2008, "Evaluating Multiple Object Tracking Performance". Identity: Ristani et al. 2016, "Performance
Measures and a Data Set for Multi-Target, Multi-Camera Tracking". All counts are sums over frames and sequences, so the
metrics of several sequences follow from the sums of their counts.

    n, m boxes of the ground truth and of the tracker in one frame; G, T ids of a sequence; A = 19 thresholds
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields

import numpy as np

from boxwright.arrays import Array
from boxwright.errors import InputError
from boxwright.tracking.association import assign, overlaps
from boxwright.tracking.mot import MotRows

ALPHAS = np.arange(1, 20) / 20  # localization thresholds of HOTA
IOU = 0.5  # of CLEAR and Identity, and of distractors
EPS = np.finfo(np.float64).eps  # an IoU that differs from a threshold by rounding reaches it
# Classes of MOT16 and MOT17 whose detection is neither right nor wrong, if their boxes do not count: person on vehicle,
# static person, distractor, reflection.
DISTRACTORS = (2, 7, 8, 12)
MOSTLY_TRACKED, MOSTLY_LOST = 0.8, 0.2  # fractions of a track's boxes, as in the MOT challenge
# Limits, since tables of pairs are dense and the assignment takes cubic time.
MAX_BOXES, MAX_IDS = 2000, 10_000  # per frame, per sequence

Boxes = tuple[Array, Array, Array]  # of a frame: (n,) and (m,) indices of ids, (n, m) IoU


def _zeros() -> Array:
    return np.zeros(len(ALPHAS))


@dataclass(frozen=True, slots=True)
class TrackMetrics:
    """The counts of one or more sequences, which can be added, and the metrics that follow from them, in [0, 1].

    Attributes:
        hota_tp: (A,) matched boxes at each threshold.
        hota_loc: (A,) the sum of their IoU.
        hota_ass: (A,) the sum over them of the association Jaccard index of their pair of ids.
        truth, found: Number of boxes of the ground truth and of the tracker.
        truth_ids, found_ids: Number of tracks of both.
        tp: Matched boxes at IoU 0.5.
        iou: The sum of their IoU.
        switches: Matches whose id differs from the object's previous match.
        fragments: Times that a track of the ground truth is detected again after a gap.
        mostly_tracked, partly_tracked, mostly_lost: Tracks of the ground truth, by the fraction of boxes matched.
        idtp: Boxes matched by the best assignment of whole tracks.
    """

    hota_tp: Array = field(default_factory=_zeros)
    hota_loc: Array = field(default_factory=_zeros)
    hota_ass: Array = field(default_factory=_zeros)
    truth: int = 0
    found: int = 0
    truth_ids: int = 0
    found_ids: int = 0
    tp: int = 0
    iou: float = 0.0
    switches: int = 0
    fragments: int = 0
    mostly_tracked: int = 0
    partly_tracked: int = 0
    mostly_lost: int = 0
    idtp: int = 0

    def __add__(self, other: "TrackMetrics") -> "TrackMetrics":
        return TrackMetrics(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    @property
    def fp(self) -> int:
        return self.found - self.tp

    @property
    def fn(self) -> int:
        return self.truth - self.tp

    @property
    def deta(self) -> Array:
        """(A,) detection accuracy."""
        accuracy: Array = self.hota_tp / np.maximum(1, self.truth + self.found - self.hota_tp)
        return accuracy

    @property
    def assa(self) -> Array:
        """(A,) association accuracy."""
        return self.hota_ass / np.maximum(1, self.hota_tp)

    @property
    def loca(self) -> Array:
        """(A,) localization accuracy, 1 where nothing matches."""
        return np.where(self.hota_tp > 0, self.hota_loc / np.maximum(1, self.hota_tp), 1.0)

    @property
    def hota(self) -> float:
        return float(np.sqrt(self.deta * self.assa).mean())

    @property
    def mota(self) -> float:
        """MOTA: at most 1, and negative if there are more errors than objects."""
        return (self.tp - self.fp - self.switches) / max(1, self.truth)

    @property
    def motp(self) -> float:
        return self.iou / max(1, self.tp)

    @property
    def idf1(self) -> float:
        return 2 * self.idtp / max(1, self.truth + self.found)

    @property
    def summary(self) -> dict[str, float]:
        """The metrics by their usual names."""
        means = {"DetA": self.deta, "AssA": self.assa, "LocA": self.loca}
        return {
            "HOTA": self.hota,
            **{name: float(values.mean()) for name, values in means.items()},
            "MOTA": self.mota,
            "MOTP": self.motp,
            "IDF1": self.idf1,
            "IDP": self.idtp / max(1, self.found),
            "IDR": self.idtp / max(1, self.truth),
            "IDSW": self.switches,
            "Frag": self.fragments,
            "FP": self.fp,
            "FN": self.fn,
            "MT": self.mostly_tracked,
            "PT": self.partly_tracked,
            "ML": self.mostly_lost,
            "truth boxes": self.truth,
            "truth ids": self.truth_ids,
            "found boxes": self.found,
            "found ids": self.found_ids,
        }


def score(truth: MotRows, found: MotRows, name: str = "sequence") -> TrackMetrics:
    """Compare the tracks of one sequence with its ground truth, without regard to classes.

    As in the MOT challenge, boxes of the ground truth with confidence 0 do not count, nor do boxes of the tracker that
    match one with a class in `DISTRACTORS`.

    Args:
        truth: The ground truth.
        found: The tracks.
        name: Name of the sequence, for errors.

    Raises:
        InputError: More than `MAX_BOXES` boxes in a frame or `MAX_IDS` tracks, or SciPy is not installed.
    """
    for rows, what in ((truth, "ground truth"), (found, "tracks")):
        ids, boxes = len(np.unique(rows.ids)), int(np.unique(rows.frames, return_counts=True)[1].max(initial=0))
        if ids > MAX_IDS or boxes > MAX_BOXES:
            raise InputError(
                f"{name}, {what}: found {ids:,} ids and up to {boxes:,} boxes per frame, needed at most {MAX_IDS:,} "
                f"and {MAX_BOXES:,}; split the sequence"
            )
    found = _without_distractors(truth, found)
    truth = truth[truth.scores != 0]
    pairs = _Pairs(truth, found)
    counts = TrackMetrics(
        truth=len(truth),
        found=len(found),
        truth_ids=len(pairs.truth_counts),
        found_ids=len(pairs.found_counts),
        idtp=_identity(pairs),
    )
    return counts + _hota(pairs) + _clear(pairs)


class _Pairs:
    """The boxes of a sequence, frame by frame, with ids as indices.

    Attributes:
        truth_counts: (G,) boxes of each id.
        found_counts: (T,) boxes of each id.
    """

    def __init__(self, truth: MotRows, found: MotRows) -> None:
        self._truth, self._found = truth, found
        _, self._truth_ids, self.truth_counts = np.unique(truth.ids, return_inverse=True, return_counts=True)
        _, self._found_ids, self.found_counts = np.unique(found.ids, return_inverse=True, return_counts=True)

    def __iter__(self) -> Iterator[Boxes]:
        """Yield each frame with boxes. IoU is recomputed in each iteration, since storing it could fill the memory."""
        for a, b in _frames(self._truth, self._found):
            yield self._truth_ids[a], self._found_ids[b], overlaps(self._truth.boxes[a], self._found.boxes[b])

    def zeros(self) -> Array:
        """A table (G, T) of zeros."""
        return np.zeros((len(self.truth_counts), len(self.found_counts)))


def _frames(truth: MotRows, found: MotRows) -> Iterator[tuple[slice, slice]]:
    """The rows of each frame with boxes, in the ground truth and in the tracks."""
    numbers = np.union1d(truth.frames, found.frames)
    sides = [np.searchsorted(rows.frames, numbers, side) for rows in (truth, found) for side in ("left", "right")]
    for a, b, c, d in zip(*(side.tolist() for side in sides), strict=True):
        yield slice(a, b), slice(c, d)


def _without_distractors(truth: MotRows, found: MotRows) -> MotRows:
    """The tracker's boxes that match no distractor; all boxes of the ground truth take part in the matching."""
    distractor = (truth.scores == 0) & np.isin(truth.classes, DISTRACTORS)
    keep = np.ones(len(found), np.bool_)
    if distractor.any():
        for a, b in _frames(truth, found):
            iou = overlaps(truth.boxes[a], found.boxes[b])
            rows, columns = assign(np.where(iou < IOU - EPS, 0, iou))
            keep[b.start + columns[distractor[a][rows]]] = False
    return found[keep]


def _hota(pairs: _Pairs) -> TrackMetrics:
    """The counts of HOTA: the matching maximizes IoU times the alignment of two ids over the sequence."""
    common = pairs.zeros()
    for truth, found, iou in pairs:
        union = iou.sum(1, keepdims=True) + iou.sum(0, keepdims=True) - iou
        common[np.ix_(truth, found)] += np.divide(iou, union, out=np.zeros_like(iou), where=union > EPS)
    alignment = common / (pairs.truth_counts[:, None] + pairs.found_counts - common)
    ids, ious = [np.zeros(0, np.int64)], [np.zeros(0)]
    for truth, found, iou in pairs:
        rows, columns = assign(alignment[np.ix_(truth, found)] * iou)
        ids.append(truth[rows] * len(pairs.found_counts) + found[columns])
        ious.append(iou[rows, columns])
    pair, iou = np.concatenate(ids), np.concatenate(ious)
    tp, loc, ass = _zeros(), _zeros(), _zeros()
    for index, alpha in enumerate(ALPHAS):
        matched = iou >= alpha - EPS
        both, counts = np.unique(pair[matched], return_counts=True)
        total = pairs.truth_counts[both // alignment.shape[1]] + pairs.found_counts[both % alignment.shape[1]]
        tp[index], loc[index] = matched.sum(), iou[matched].sum()
        ass[index] = (counts * counts / (total - counts)).sum()
    return TrackMetrics(tp, loc, ass)


def _clear(pairs: _Pairs) -> TrackMetrics:
    """The counts of CLEAR: each frame's matching keeps the pairs of the last frame that had boxes of both."""
    count = len(pairs.truth_counts)
    last = np.full(count, -1)  # the id that each object was matched with last, ever
    current = np.full(count, -1)  # and in the last frame that had boxes of both
    matches, runs = np.zeros(count, np.int64), np.zeros(count, np.int64)
    tp = switches = 0
    total = 0.0
    for truth, found, iou in pairs:
        if not iou.size:  # the pairs of the frame before stay
            continue
        kept = current[truth][:, None] == found
        # 1000: more than the sum of a frame's IoUs, so that the number of kept pairs is maximized first
        rows, columns = assign(np.where(iou < IOU - EPS, 0, 1000 * kept + iou))
        objects, tracks = truth[rows], found[columns]
        switches += int(((last[objects] >= 0) & (last[objects] != tracks)).sum())
        runs[objects] += current[objects] < 0
        current[:] = -1
        current[objects] = last[objects] = tracks
        matches[objects] += 1
        tp += len(rows)
        total += float(iou[rows, columns].sum())
    share = matches / pairs.truth_counts
    tracked = int((share > MOSTLY_TRACKED).sum())
    lost = int((share < MOSTLY_LOST).sum())
    return TrackMetrics(
        tp=tp,
        iou=total,
        switches=switches,
        fragments=int((runs[runs > 0] - 1).sum()),
        mostly_tracked=tracked,
        partly_tracked=count - tracked - lost,
        mostly_lost=lost,
    )


def _identity(pairs: _Pairs) -> int:
    """`idtp`: the one-to-one assignment of objects to tracks with the most matching boxes."""
    common = pairs.zeros()
    for truth, found, iou in pairs:
        common[np.ix_(truth, found)] += iou >= IOU
    rows, columns = assign(common)
    return int(common[rows, columns].sum())
