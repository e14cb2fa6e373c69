"""Decides how much a slow machine is asked for: one rung down when frames come late, one up when none did for a while.

Rungs: 0 as asked, 1 one denoising step, 2 pictures of 256 px (delivered enlarged), 3 every second picture mixed of its
neighbours, 4 the face is held while speech goes on. Pure: time is counted in ticks of 40 ms.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from emo_live.types import FPS

HELD = 4
RUNGS = {
    1: "fewer denoising steps",
    2: "smaller pictures",
    3: "every second picture is mixed",
    HELD: "the face is held",
}
_WATCHED_TICKS = 5 * FPS
_LATE_TICKS = 12  # of those watched: a tenth of the time there was no new picture
_FIRST_GRACE_TICKS = 10 * FPS  # models are still being compiled beside the first frames
_GRACE_TICKS = 2 * FPS  # after a change, until its effect is seen
_UP_TICKS = 5 * FPS  # without a late one; doubled whenever going up was too early
_MAX_UP_TICKS = 80 * FPS
_FORGIVEN_TICKS = 60 * FPS  # after so long at the top without a late one, the next way up is quick again


class Ladder:
    """usable: rungs that make a difference; HELD always does. level: the rung that holds now."""

    def __init__(self, usable: Collection[int] = (1, 2, 3)) -> None:
        self._rungs = [0, *sorted({*usable, HELD})]
        self.level = 0
        self._late: deque[bool] = deque(maxlen=_WATCHED_TICKS)
        self._grace = _FIRST_GRACE_TICKS
        self._good = 0  # ticks since the last late one, or the last change
        self._up_after = _UP_TICKS
        self._went_up = False  # the last change was up

    def tick(self, late: int = 0) -> int:
        """A picture was shown, after `late` ticks without one. Returns 1 for a rung down, -1 for one up, else 0."""
        if self._grace:
            self._grace -= 1
            return 0
        self._late.extend([True] * late + [False])
        self._good = 0 if late else self._good + 1
        if self.level == 0 and self._good >= _FORGIVEN_TICKS:
            self._up_after, self._went_up = _UP_TICKS, False
        if sum(self._late) >= _LATE_TICKS and self.level != HELD:
            if self._went_up:
                self._up_after = min(2 * self._up_after, _MAX_UP_TICKS)
            return self._move(1)
        if self.level and self._good >= self._up_after:
            return self._move(-1)
        return 0

    def forgive(self) -> None:
        """Late pictures have another cause now: wait and see."""
        self._grace = _GRACE_TICKS
        self._late.clear()
        self._good = 0

    def _move(self, rungs: int) -> int:
        self.level = self._rungs[self._rungs.index(self.level) + rungs]
        self._went_up = rungs < 0
        self.forgive()
        return rungs
