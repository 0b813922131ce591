"""Metrics of tracks in files: a table with a row for each sequence."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from boxwright.errors import InputError
from boxwright.json_text import JsonObject
from boxwright.metrics.tracks import TrackMetrics, score
from boxwright.progress import track
from boxwright.tracking import mot

FRACTIONS = ("HOTA", "DetA", "AssA", "MOTA", "IDF1")  # columns of the table
COUNTS = ("IDSW", "Frag", "FP", "FN", "truth ids", "found ids")
TOTAL = "all"


@dataclass(frozen=True, slots=True)
class TrackReport:
    """The metrics of each sequence, by name."""

    sequences: Mapping[str, TrackMetrics]

    @property
    def total(self) -> TrackMetrics:
        """The metrics over all boxes of all sequences, which are not the mean over sequences."""
        return sum(self.sequences.values(), start=TrackMetrics())

    def __str__(self) -> str:
        rows = [(name, metrics.summary) for name, metrics in self.sequences.items()]
        if len(rows) > 1:
            rows.append((TOTAL, self.total.summary))
        width = max(len("sequence"), *(len(name) for name, _ in rows))
        lines = [f"{'sequence':<{width}}" + "".join(f"  {name:>{max(6, len(name))}}" for name in FRACTIONS + COUNTS)]
        for name, summary in rows:
            values = [f"{summary[key]:>6.3f}" for key in FRACTIONS]
            values += [f"{summary[key]:>{max(6, len(key))}}" for key in COUNTS]
            lines.append("  ".join([f"{name:<{width}}", *values]))
        return "\n".join(lines)

    def to_json(self) -> JsonObject:
        """The content of a JSON file."""
        sequences = {name: metrics.summary for name, metrics in self.sequences.items()}
        return {"summary": self.total.summary, "sequences": sequences}


def evaluate_tracks(truth: str | Path, found: str | Path) -> TrackReport:
    """Compare files of tracks with their ground truth, both as MOT text.

    Args:
        truth: A file, a sequence of the MOT challenge with `gt/gt.txt`, a folder of such sequences, or a folder of
            files `SEQUENCE.txt`.
        found: The tracks: a file if there is one sequence, else a file for each sequence, found in the same ways.

    Raises:
        InputError: A file is missing or faulty, or there is no object in any sequence.
    """
    expected, tracked = find_sequences(Path(truth)), find_sequences(Path(found))
    if len(expected) == 1 and len(tracked) == 1:  # whose names may differ
        pairs = [(name, file, next(iter(tracked.values()))) for name, file in expected.items()]
    else:
        if missing := [name for name in expected if name not in tracked]:
            raise InputError(
                f"{found}: found no tracks of {missing[0]} ({len(missing)} of {len(expected)} sequences are missing), "
                f"needed {missing[0]}.txt"
            )
        pairs = [(name, file, tracked[name]) for name, file in expected.items()]
    steps = track(pairs, len(pairs), "evaluate-tracks", "sequences")
    report = TrackReport({name: score(mot.read(file), mot.read(other), name) for name, file, other in steps})
    if not report.total.summary["truth ids"]:
        raise InputError(f"{truth}: found no object that counts, needed one; are ground truth and tracks swapped?")
    return report


def find_sequences(path: Path) -> dict[str, Path]:
    """Name -> file of each sequence in `path`. Raises InputError if there is none."""
    if path.is_file():
        return {path.stem: path}
    if (file := path / "gt" / "gt.txt").is_file():
        return {path.resolve().name: file}
    if sequences := {file.parents[1].name: file for file in sorted(path.glob("*/gt/gt.txt"))}:
        return sequences
    if files := {file.stem: file for file in sorted(path.glob("*.txt")) if file.is_file()}:
        return files
    what = "no file of tracks there" if path.is_dir() else "no such file or folder"
    raise InputError(f"{path}: {what}; needed a .txt file, a folder of them, or folders with gt/gt.txt")
