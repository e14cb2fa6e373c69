"""What a live session says about itself: frozen data, made on the media loop, and a stream to read it from.

`ms` and `heard_ms` count sound that was handed to sinks, in media time; rounding is to the 40 ms of a pair.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

_EVENTS_KEPT = 256

State = Literal["idle", "listening", "speaking", "paused"]


@dataclass(frozen=True, slots=True)
class Heard:
    """What of an utterance was heard. utterance: its id, None if nobody was speaking."""

    utterance: str | None
    ms: int


@dataclass(frozen=True, slots=True)
class SessionStats:
    """Figures of a session since it began; times in milliseconds.

    first_frame_ms: of the newest utterance, from its first sound pushed to its first frame handed to sinks (None
    before the first); first_frame_p50_ms: the median of the last hundred. playout_depth_ms: pairs that wait now.
    pairs: handed to sinks; held: those of them that repeated a picture because none was there, `underruns` in a row
    count once. dropped: pairs that were made and never shown, by reason. pacer_late: how late pairs left, of the last
    thousand. engine_ms_per_frame: time the engine works on a frame; headroom: share of the engine's time that is
    left, 0 to 1. level: of the degradation ladder, 0 is none. restarts: of the engine. queued_ms: speech that waits.
    """

    state: State = "idle"
    uptime_s: float = 0.0
    pairs: int = 0
    first_frame_ms: float | None = None
    first_frame_p50_ms: float | None = None
    playout_depth_ms: int = 0
    queued_ms: int = 0
    underruns: int = 0
    held: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    pacer_late_p50_ms: float = 0.0
    pacer_late_p95_ms: float = 0.0
    clock_jumps: int = 0
    engine_ms_per_frame: float = 0.0
    headroom: float = 1.0
    level: int = 0
    restarts: int = 0
    interrupts: int = 0
    sink_errors: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class UtteranceStarted:
    """The first pair of an utterance was handed to sinks."""

    utterance: str


@dataclass(frozen=True, slots=True)
class UtteranceFinished:
    """The last pair of an utterance was handed to sinks, or it was interrupted (perhaps before its first)."""

    utterance: str
    heard_ms: int
    interrupted: bool


@dataclass(frozen=True, slots=True)
class StateChanged:
    state: State


@dataclass(frozen=True, slots=True)
class Degraded:
    """One step down. level: the rung that holds now; reason: one line for people."""

    level: int
    reason: str


@dataclass(frozen=True, slots=True)
class Recovered:
    """One step up, or the engine is back. level: the rung that holds now."""

    level: int


@dataclass(frozen=True, slots=True)
class StatsReport:
    """Once a second."""

    stats: SessionStats


@dataclass(frozen=True, slots=True)
class SessionClosed:
    """The last event. reason: "closed", or why the session could not go on."""

    reason: str


Event = UtteranceStarted | UtteranceFinished | StateChanged | Degraded | Recovered | StatsReport | SessionClosed


class EventStream:
    """Events from the moment of `session.events()` on.

    A slow reader gets the newest report only, and loses the oldest of the others when very many wait.
    """

    def __init__(self) -> None:
        self._waiting: deque[Event] = deque(maxlen=_EVENTS_KEPT)
        self._changed = asyncio.Event()
        self._over = False

    def put(self, event: Event) -> None:
        if isinstance(event, StatsReport):
            for waiting in [old for old in self._waiting if isinstance(old, StatsReport)]:
                self._waiting.remove(waiting)
        self._waiting.append(event)
        self._over = self._over or isinstance(event, SessionClosed)
        self._changed.set()

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Event:
        # No timeout: the session ends every stream with SessionClosed.
        while not self._waiting:
            if self._over:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        return self._waiting.popleft()
