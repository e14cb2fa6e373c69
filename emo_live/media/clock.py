"""The one clock of a session: pair `index` is due at t0 + index * 40 ms, for hours, without drift.

Knows only a function that tells monotonic seconds. Where that clock jumps (a suspended machine, a stalled process), the
schedule moves with it instead of racing through what was missed: media time never jumps.
"""

from __future__ import annotations

from collections.abc import Callable

from emo_live.types import STEP_S

MAX_LATE_S = 0.2  # up to here what was missed is caught up; browsers' jitter buffers take that
MAX_EARLY_S = 2 * STEP_S


class MediaClock:
    """now: monotonic seconds. jumps: how often the schedule had to be moved."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._t0: float | None = None
        self.jumps = 0

    def until_due(self, index: int) -> float:
        """Seconds until pair `index` is due, negative if it is late. The first call makes its pair due now."""
        now = self._now()
        if self._t0 is None:
            self._t0 = now - index * STEP_S
        wait = self._t0 + index * STEP_S - now
        if -MAX_LATE_S <= wait <= MAX_EARLY_S:
            return wait
        self._t0 = now - index * STEP_S
        self.jumps += 1
        return 0.0
