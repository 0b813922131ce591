"""Files of an audit: audit.json, audit.csv and audit.jpg."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from boxwright.arrays import Array
from boxwright.audit.drift import Drift
from boxwright.audit.findings import KINDS, Finding, Kind
from boxwright.audit.subject import Subject
from boxwright.data.dataset import Dataset
from boxwright.datatools.report import pluralize
from boxwright.errors import InputError, one_line, titled
from boxwright.files import atomic_write
from boxwright.images.decode import read_image
from boxwright.images.draw import Color
from boxwright.json_text import JsonObject
from boxwright.metrics import sheet
from boxwright.metrics.error_table import table_text
from boxwright.metrics.sheet import Panel, View, fitted

FORMAT = "boxwright audit 1"
FILES = JSON, TABLE, SHEET, DRIFT = ("audit.json", "audit.csv", "audit.jpg", "drift.png")
COLUMNS = (
    "id", "kind", "score", "split", "image", "object", "class", "x1", "y1", "x2", "y2",
    "suggested_class", "suggested_x1", "suggested_y1", "suggested_x2", "suggested_y2",
)  # fmt: skip
LABEL, SUGGESTED, OTHER = (213, 94, 0), (0, 158, 115), (150, 150, 150)  # colors of boxes
LEGEND: tuple[tuple[str, Color], ...] = (("label", LABEL), ("suggestion", SUGGESTED), ("other labels", OTHER))
CONTEXT, MIN_CROP = 2.5, 96  # a crop is CONTEXT times the longer side of the boxes, at least MIN_CROP px
MAX_PRINTED = 10  # findings, groups and differences each
POOR = 0.5  # AP50 below which findings are called unreliable
MAX_P = 0.01  # maximum p-value of a difference that is printed


@dataclass(frozen=True, slots=True)
class AuditReport:
    """The result of an audit.

    Attributes:
        subject: The images.
        network: Description of the networks or the file that the labels were compared with.
        trained_here: Whether that network was trained on some of these images; None if unknown.
        ap50: AP50 of the detections on the labels, in [0, 1]; -1 without objects.
        findings: Labels that may be wrong, the most certain first.
        groups: Images of different splits or sets that are near-duplicates, or copies, tiles or frames of one:
            (split or set, image) of each.
        drifts: Differences between splits or sets.
    """

    subject: Subject
    network: str
    trained_here: bool | None
    ap50: float
    findings: Sequence[Finding]
    groups: Sequence[Sequence[tuple[str, str]]]
    drifts: Sequence[Drift]

    def rows(self) -> list[JsonObject]:
        """The findings as entries of audit.json."""
        return [_row(number, finding, self.subject) for number, finding in enumerate(self.findings)]

    def to_json(self) -> JsonObject:
        """The content of audit.json."""
        dataset = self.subject.dataset
        return {
            "format": FORMAT,
            "data": titled(str(dataset.root)),
            "splits": {
                name: int((self.subject.split_of == number).sum()) for number, name in enumerate(self.subject.splits)
            },
            "network": self.network,
            "trained_on_these_images": self.trained_here,
            "ap50": self.ap50,
            "left_out": list(self.subject.left_out),
            "findings": self.rows(),
            "groups_across_splits": [
                [{"split": split, "image": image} for split, image in group] for group in self.groups
            ],
            "drift": [drift.to_json() for drift in self.drifts],
        }

    def __str__(self) -> str:
        counts = {kind: sum(finding.kind is kind for finding in self.findings) for kind in KINDS}
        listed = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        lines = [f"{pluralize(len(self.findings), 'finding[s]')} ({listed}), the most certain first; {self.network}"]
        lines += [f"  {_sentence(row)}" for row in self.rows()[:MAX_PRINTED]]
        lines.append(f"AP50 of the detections on these labels: {self.ap50:.3f}")
        if 0 <= self.ap50 < POOR:
            lines[-1] += "; findings of such weak networks are unreliable: raise --minutes, or --start from weights"
        if self.trained_here:
            lines.append(
                "the network was trained on some of these images and repeats errors of their labels; --folds finds more"
            )
        lines.append(f"{pluralize(len(self.groups), 'group[s]')} of images across splits (near-duplicates, copies)")
        lines += [
            f"  {', '.join(f'{split}: {image}' for split, image in group)}" for group in self.groups[:MAX_PRINTED]
        ]
        sure = [drift for drift in self.drifts if drift.p <= MAX_P]
        lines.append(f"{pluralize(len(sure), 'difference[s]')} of {len(self.drifts)} between splits with p <= {MAX_P}")
        lines += [f"  {drift}" for drift in sorted(sure, key=lambda drift: -drift.distance)[:MAX_PRINTED]]
        return "\n".join(map(one_line, [*self.subject.left_out, *lines]))

    def write_table(self, file: Path) -> None:
        """Write the findings as CSV."""
        with (
            atomic_write(file) as tmp,
            tmp.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream,
        ):
            table = csv.writer(stream, lineterminator="\n")
            table.writerow(COLUMNS)
            for row in self.rows():
                texts = {name: value for name, value in row.items() if name not in ("box", "suggested_box")}
                for prefix, box in (("", row["box"]), ("suggested_", row["suggested_box"])):
                    texts |= {f"{prefix}{name}": box[place] for place, name in enumerate(COLUMNS[7:11]) if box}
                cells = [texts.get(name) for name in COLUMNS]
                table.writerow(table_text(cell) if isinstance(cell, str) else cell for cell in cells)

    def write_sheet(self, file: Path, count: int) -> None:
        """Draw the first `count` findings, each with its surroundings; without findings remove an earlier sheet."""
        sheet.write(list(_panels(self.subject.dataset, self.findings[:count], self.rows())), file, LEGEND)


def _row(number: int, finding: Finding, subject: Subject) -> JsonObject:
    dataset, rows = subject.dataset, subject.dataset.rows
    labeled = finding.row >= 0
    return {
        "id": number,
        "kind": str(finding.kind),
        "image": dataset.short_path(finding.image),
        "split": subject.splits[subject.split_of[finding.image]],
        "box": [round(value, 2) for value in rows.xyxy[finding.row].tolist()] if labeled else None,
        "class": dataset.names[rows.labels[finding.row]] if labeled else None,
        "suggested_class": dataset.names[finding.label] if finding.label >= 0 else None,
        "suggested_box": None if finding.box is None else [round(value, 2) for value in finding.box],
        "score": round(finding.score, 4),
        "object": int(subject.ids[finding.row]) if labeled else None,
    }


def _sentence(row: Mapping[str, object]) -> str:
    sentences = {
        Kind.MISSING: f"no box for {row['suggested_class']}",
        Kind.SPURIOUS: f"nothing seen in the box of {row['class']}",
        Kind.CLASS: f"{row['class']} looks like {row['suggested_class']}",
        Kind.LOCATION: f"the box of {row['class']} lies elsewhere",
    }
    return f"{row['score']:.2f} {sentences[Kind(str(row['kind']))]}: {row['image']}"


def _panels(dataset: Dataset, findings: Sequence[Finding], rows: Sequence[JsonObject]) -> Iterator[Panel]:
    """A square crop around each finding."""
    for finding, row in zip(findings, rows, strict=False):
        try:
            image = read_image(dataset.path(finding.image))
        except InputError:  # removed in the meantime
            continue
        yield _panel(image, dataset, finding, row)


def _panel(image: Array, dataset: Dataset, finding: Finding, row: JsonObject) -> Panel:
    label, suggested = row["box"], row["suggested_box"]
    boxes = np.array([box for box in (label, suggested) if box], np.float64)
    left, top, right, bottom = _crop(boxes, image.shape[:2])
    sample = dataset[finding.image]
    start = int(dataset.starts[finding.image])
    others = np.delete(sample.boxes, finding.row - start, axis=0) if finding.row >= 0 else sample.boxes
    small, factors = fitted(image[top:bottom, left:right])
    drawn = np.concatenate([others.astype(np.float64), boxes]) - np.array([left, top] * 2)
    tints = [OTHER] * len(others) + [LABEL] * bool(label) + [SUGGESTED] * bool(suggested)
    texts = [""] * len(others) + [str(row["class"])] * bool(label) + [str(row["suggested_class"])] * bool(suggested)
    seen = (drawn[:, 2:] > 0).all(axis=1) & (drawn[:, :2] < [right - left, bottom - top]).all(axis=1)
    shown = np.flatnonzero(seen).tolist()
    view = View(
        "",
        drawn[shown] * factors,
        tuple(tints[place] for place in shown),
        tuple(texts[place] for place in shown),
        tuple(float(place) for place in shown),  # the suggestion on top
    )
    return Panel(small, (view,), (f"{row['id']}: {_sentence(row)}",))


def _crop(boxes: Array, size: tuple[int, ...]) -> tuple[int, int, int, int]:
    """(N, 4) boxes -> left, top, right, bottom px of a square around them, limited to the image."""
    corners = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
    limits = np.array([size[1], size[0]])
    sides = np.minimum(max(MIN_CROP, CONTEXT * float((corners[2:] - corners[:2]).max())), limits).astype(int)
    center = (corners[:2] + corners[2:]) / 2
    first = np.clip(np.round(center - sides / 2), 0, limits - sides).astype(int)
    return int(first[0]), int(first[1]), int(first[0] + sides[0]), int(first[1] + sides[1])
