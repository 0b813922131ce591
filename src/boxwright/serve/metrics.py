"""Metrics in Prometheus' text format."""

import bisect
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # bounds of buckets
IMAGES = (1, 2, 4, 8, 16, 32, 64)


class Histogram:
    """Counts of values in buckets, each up to and including its bound."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, value: float) -> None:
        with self._lock:
            self._counts[bisect.bisect_left(self._bounds, value)] += 1
            self._sum += value

    def lines(self, name: str, labels: str) -> list[str]:
        """The samples. labels: such as `model="a"`."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        lines, count = [], 0
        for bound, number in zip([*map(str, self._bounds), "+Inf"], counts, strict=True):
            count += number
            lines.append(f'{name}_bucket{{{labels},le="{bound}"}} {count}')
        return [*lines, f"{name}_sum{{{labels}}} {total}", f"{name}_count{{{labels}}} {count}"]


@dataclass(frozen=True, slots=True)
class ModelMetrics:
    """The histograms of a model.

    Attributes:
        batch_images: Images in a batch.
        queue_seconds: From the arrival of an image until a thread takes it.
        network_seconds: Time of a batch in the network, without decoding and postprocessing.
    """

    batch_images: Histogram = field(default_factory=lambda: Histogram(IMAGES))
    queue_seconds: Histogram = field(default_factory=lambda: Histogram(BUCKETS))
    network_seconds: Histogram = field(default_factory=lambda: Histogram(BUCKETS))


class Metrics:
    """The metrics of a server."""

    def __init__(self, models: Iterable[str]) -> None:
        self.models = {name: ModelMetrics() for name in models}
        self._requests: Counter[tuple[str, int]] = Counter()  # by model and status; changed by the event loop only

    def count(self, model: str, status: int) -> None:
        """Count an answered request. model: "" for requests that name none."""
        self._requests[model, status] += 1

    def text(self, queued: Mapping[str, int]) -> str:
        """All metrics. queued: images that wait, by model."""
        requests = sorted(self._requests.items())
        lines = _head("boxwright_requests_total", "counter", "Requests answered, by model and HTTP status.")
        lines += [
            f'boxwright_requests_total{{model="{_escaped(model)}",status="{status}"}} {count}'
            for (model, status), count in requests
        ]
        lines += _head("boxwright_errors_total", "counter", "Requests answered with a status of 400 or more.")
        for name in ["", *self.models]:
            errors = sum(count for (model, status), count in requests if model == name and status >= 400)
            lines.append(f'boxwright_errors_total{{model="{_escaped(name)}"}} {errors}')
        lines += _head("boxwright_queue_images", "gauge", "Images that wait.")
        lines += [f'boxwright_queue_images{{model="{_escaped(name)}"}} {count}' for name, count in queued.items()]
        for column, text in (
            ("batch_images", "Images in a batch."),
            ("queue_seconds", "Time of an image in the queue."),
            ("network_seconds", "Time of a batch in the network."),
        ):
            name = f"boxwright_{column}"
            lines += _head(name, "histogram", text)
            for model, metrics in self.models.items():
                lines += getattr(metrics, column).lines(name, f'model="{_escaped(model)}"')
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
