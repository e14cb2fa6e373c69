"""Engines in the caller's own process and on its loop: for tests, in virtual time too. Not for live use: it blocks.

`frame_s` pretends that a frame takes so long, with given settings; `lose` pretends that the engine process died.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any

from emo_live.engine.base import EngineFrame
from emo_live.engine.lane import LaneFrame, LaneOwner
from emo_live.engine.live import (
    EngineFactory,
    LiveEngine,
    LiveSettings,
    LiveSpec,
    Timing,
    limits_of,
    no_checkpoint,
)
from emo_live.engine.named import factory_of
from emo_live.errors import NotReadyError
from emo_live.types import Float32

_ROOM = 32  # steps


class LocalPool:
    """The interface of EnginePool without a process."""

    def __init__(
        self,
        engine: str | EngineFactory = "pattern",
        *,
        max_sessions: int = 8,
        frame_s: Callable[[LiveSettings], float] = lambda settings: 0.0,
    ) -> None:
        self.frame_s = frame_s
        self.lanes: list[LocalLane] = []
        self._max_sessions = max_sessions
        factory = factory_of(engine)
        self.limits = limits_of(factory)
        self._host = factory(1, no_checkpoint)

    async def __aenter__(self) -> LocalPool:
        self._host.warm()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for lane in list(self.lanes):
            await lane.close()
        self._host.close()

    @property
    def timing(self) -> Timing:
        return self._host.timing

    def free(self) -> int:
        return self._max_sessions - len(self.lanes)

    async def open(self, spec: LiveSpec, owner: LaneOwner) -> LocalLane:
        self.limits.check(spec.size, spec.settings.steps)
        if not self.free():
            raise NotReadyError(f"the engine is full with {len(self.lanes)} sessions: try again later")
        lane = LocalLane(self, self._host.open(spec), owner, spec.settings)
        self.lanes.append(lane)
        return lane

    def lose(self, back_after_s: float) -> None:
        """All engines are lost now, and others are there after some time."""
        for lane in self.lanes:
            lane.lose(back_after_s)


class LocalLane:
    def __init__(self, pool: LocalPool, engine: LiveEngine, owner: LaneOwner, settings: LiveSettings) -> None:
        self.shape = engine.shape
        self.epoch = 0
        self.settings = [settings]
        self._pool, self._engine, self._owner = pool, engine, owner
        self._waiting: deque[tuple[int, int, Float32]] = deque()
        self._offset: int | None = None  # index of the engine's first step, None before that
        self._timers: set[asyncio.Handle] = set()
        self._busy_until = 0.0
        self._down = False

    @property
    def timing(self) -> Timing:
        return self._pool.timing

    @property
    def _frame_s(self) -> float:
        return self._pool.frame_s(self.settings[-1])

    def push(self, epoch: int, index: int, pcm: Float32) -> bool:
        if len(self._waiting) >= _ROOM or self._down:
            return False
        self._waiting.append((epoch, index, pcm))
        self._later(0.0, self._work)
        return True

    def rewind(self, epoch: int, index: int) -> None:
        self.epoch = epoch
        self._waiting.clear()
        # A window in progress is given up at the latest after one of its pieces of work.
        self._busy_until = min(self._busy_until, asyncio.get_running_loop().time() + self._frame_s)
        self._engine.rewind(max(0, index - (index if self._offset is None else self._offset)))
        if self._offset is not None and index <= self._offset:
            self._offset = None

    def adjust(self, settings: LiveSettings) -> None:
        self.settings.append(settings)
        self._engine.adjust(settings)

    def shown(self, index: int) -> None:
        """Nothing to do: there is nobody to be more urgent than."""

    async def close(self) -> None:
        for timer in self._timers:
            timer.cancel()
        if self in self._pool.lanes:
            self._pool.lanes.remove(self)

    def lose(self, back_after_s: float) -> None:
        self._down = True
        self._waiting.clear()
        self._owner.engine_lost("the engine was taken away")
        self._later(back_after_s, self._back)

    def _back(self) -> None:
        self._down = False
        self._engine.rewind(0)
        self._offset = None
        self._owner.engine_back()

    def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting and not self._down:
            epoch, index, pcm = self._waiting.popleft()
            if epoch != self.epoch:
                continue
            self._offset = index if self._offset is None else self._offset
            self._engine.push(pcm)
            frames = self._engine.frames()
            self._busy_until = max(self._busy_until, loop.time()) + len(frames) * self._frame_s
            # Together, because timers of one time fire in any order.
            self._later(self._busy_until - loop.time(), self._deliver, epoch, self._offset, frames)

    def _deliver(self, epoch: int, offset: int, frames: list[EngineFrame]) -> None:
        for frame in frames if not self._down else []:
            work_ms = self._frame_s * 1000
            self._owner.frame_came(LaneFrame(epoch, frame.index + offset, frame.video, frame.heard, work_ms))

    def _later(self, delay_s: float, job: Callable[..., None], *arguments: Any) -> None:
        loop = asyncio.get_running_loop()

        def now() -> None:
            self._timers.discard(timer)
            job(*arguments)

        timer = loop.call_soon(now) if delay_s <= 0 else loop.call_later(delay_s, now)
        self._timers.add(timer)
