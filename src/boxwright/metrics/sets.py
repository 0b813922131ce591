"""The metrics of each of several sets that were evaluated together."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from boxwright.errors import printable
from boxwright.metrics.resampling import Intervals, summary_json


class Summary(Protocol):
    """The interface of `Metrics` and `TopK`."""

    @property
    def summary(self) -> dict[str, float]: ...

    @property
    def headline(self) -> str: ...

    @property
    def intervals(self) -> Intervals | None: ...

    @property
    def info(self) -> Mapping[str, object]: ...


def set_lines(sets: Sequence[tuple[str, Summary]]) -> list[str]:
    """A line for each set."""
    return [printable(f"{title}: {metrics.headline} ({metrics.info['images']} images)") for title, metrics in sets]


def set_summaries(sets: Sequence[tuple[str, Summary]]) -> dict[str, object]:
    """The key `sets` of `metrics.json`, if there are several."""
    rows = [
        {"data": title, "images": found.info["images"], "summary": found.summary, **summary_json(found.intervals)}
        for title, found in sets
    ]
    return {"sets": rows} if rows else {}
