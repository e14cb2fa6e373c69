"""Calls once per 40 ms, at t0 + index * 40 ms: the heartbeat of a session, from its first pair to its last.

One task on the media loop. Remembers how late its calls were.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

import numpy as np

from emo_live.media.clock import MediaClock

log = logging.getLogger(__name__)
_REMEMBERED = 1000  # calls: 40 s


class Pacer:
    """release(index) is called on the loop; it must return quickly. What it raises is logged, and time goes on."""

    def __init__(self, release: Callable[[int], None]) -> None:
        self._release = release
        self._clock: MediaClock | None = None
        self._late_s: deque[float] = deque(maxlen=_REMEMBERED)
        self.index = 0  # next call

    @property
    def jumps(self) -> int:
        return self._clock.jumps if self._clock else 0

    def late_ms(self) -> tuple[float, float]:
        """p50 and p95 of how late the newest calls were."""
        if not self._late_s:
            return 0.0, 0.0
        p50, p95 = np.percentile(np.array(self._late_s), (50, 95)) * 1000
        return float(p50), float(p95)

    async def run(self) -> None:
        """Until cancelled."""
        self._clock = MediaClock(asyncio.get_running_loop().time)
        while True:
            wait = self._clock.until_due(self.index)
            # Also when it is late: whoever else waits for the loop gets it between two calls.
            await asyncio.sleep(max(0.0, wait))
            self._late_s.append(max(0.0, -self._clock.until_due(self.index)))
            try:
                self._release(self.index)
            except Exception:
                log.exception("a pair could not be released")
            self.index += 1
