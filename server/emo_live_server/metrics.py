"""What Prometheus may ask about this server. One registry an app: two apps in a process do not share counts.

Gauges are the worst of the running sessions, read when somebody asks; counters grow by what each session's statistics
grew since they were last looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

_STAGE_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.1, 0.2, 0.5)
_FIRST_FRAME_S = (0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 5.0)

Snapshot = Mapping[str, float | None]


class Metrics:
    """sessions: figures of every running session, with the names that `watch` understands."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "http_requests", "HTTP requests", ["method", "route", "status"], registry=self.registry
        )
        self._refused = Counter("refused", "requests and messages refused", ["reason"], registry=self.registry)
        self.sessions_opened = Counter("sessions_opened", "sessions begun", registry=self.registry)
        self._closed = Counter("sessions_closed", "sessions ended", ["reason"], registry=self.registry)
        self.interrupts = Counter("interrupts", "speech interrupted", registry=self.registry)
        self.first_frame = Histogram(
            "first_frame_seconds",
            "first audio pushed until its picture leaves",
            buckets=_FIRST_FRAME_S,
            registry=self.registry,
        )
        self.stage = Histogram(
            "stage_seconds", "work a picture takes", ["stage"], buckets=_STAGE_S, registry=self.registry
        )
        self.underruns = Counter("underruns", "pictures held because none was ready", registry=self.registry)
        self.dropped = Counter("frames_dropped", "pairs dropped", ["reason"], registry=self.registry)

    def watch(self, figures: Callable[[], Iterable[Snapshot]]) -> None:
        """Ask for the figures of the running sessions whenever somebody reads the metrics."""
        self.registry.register(_Running(figures))

    def request(self, method: str, route: str, status: int) -> None:
        self._requests.labels(method, route, str(status)).inc()

    def refused(self, reason: str) -> None:
        self._refused.labels(reason).inc()

    def closed(self, reason: str) -> None:
        self._closed.labels(reason).inc()

    def text(self) -> bytes:
        return generate_latest(self.registry)

    def value(self, name: str, **labels: str) -> float:
        """One sample, 0 if there is none; for tests and the log."""
        return self.registry.get_sample_value(name, labels) or 0.0


class _Running(Collector):
    _GAUGES: tuple[tuple[str, str, Callable[[Iterable[float]], float]], ...] = (
        ("playout_depth_ms", "shortest playout buffer of all sessions", min),
        ("av_offset_ms", "largest distance between a picture and its sound when they leave", max),
        ("rtc_target_bitrate_bps", "video bitrate of all connections", sum),
        ("gpu_step_seconds", "slowest denoising step on a GPU", max),
    )

    def __init__(self, figures: Callable[[], Iterable[Snapshot]]) -> None:
        self._figures = figures

    def collect(self) -> Iterable[Any]:
        running = list(self._figures())
        yield GaugeMetricFamily("session_active", "sessions that run", value=len(running))
        for name, text, together in self._GAUGES:
            values = [value for figures in running if (value := figures.get(name)) is not None]
            family = GaugeMetricFamily(name, text)
            if values:
                family.add_metric([], together(values))
            yield family
