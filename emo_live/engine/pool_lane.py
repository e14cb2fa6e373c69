"""A session's end of the memory that it shares with the engine process. Runs on the pool's loop and never blocks it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np

from emo_live.engine.lane import LaneFrame, LaneOwner
from emo_live.engine.live import LiveSettings, LiveSpec, Timing
from emo_live.engine.ring import LaneMemory
from emo_live.errors import EngineError
from emo_live.types import Float32

if TYPE_CHECKING:
    from emo_live.engine.pool import EnginePool


class PoolLane:
    """A session's end of its shared memory. failure: why its engine broke, None while it works."""

    def __init__(self, pool: EnginePool, name: int, spec: LiveSpec, owner: LaneOwner) -> None:
        self.name, self.spec, self.owner = name, spec, owner
        self.shape = (spec.size, spec.size)
        self.failure: EngineError | None = None
        self.failures = 0
        self.established = False  # it was opened: whatever happens to the process, the session goes on
        self.opened: asyncio.Future[None] | None = None  # the process has been told of it
        self._pool = pool
        self._memory: LaneMemory | None = None
        self._lost = False

    @property
    def timing(self) -> Timing:
        return self._pool.timing

    def attach(self, memory: LaneMemory) -> asyncio.Future[None]:
        """Done when the process has taken the session."""
        self.forget()
        self._memory = memory
        self.failure = None
        self.opened = asyncio.get_running_loop().create_future()
        return self.opened

    def settle(self, failure: EngineError | None) -> None:
        """The process took the session, or could not, or its engine broke later."""
        if self.opened is None or self.opened.done():
            self.failure = failure
        elif failure is None:
            self.opened.set_result(None)
        else:
            self.opened.set_exception(failure)

    def lose(self, reason: str) -> None:
        if self.opened is not None and not self.opened.done():
            self.opened.set_exception(EngineError(reason))
        elif self.established and not self._lost:
            self._lost = True
            self.owner.engine_lost(reason)

    def back(self) -> None:
        if self._lost:
            self._lost = False
            self.owner.engine_back()

    def push(self, epoch: int, index: int, pcm: Float32) -> bool:
        if self._lost or self._memory is None or not self._memory.put_step(epoch, index, pcm):
            return False
        self._pool.wake()
        return True

    def rewind(self, epoch: int, index: int) -> None:
        if self._memory is not None:
            self._memory.words["rewind_to"] = index
            self._memory.words["epoch"] = epoch
            self._pool.wake()

    def adjust(self, settings: LiveSettings) -> None:
        if self._memory is not None:
            self._memory.adjust(settings)

    def shown(self, index: int) -> None:
        if self._memory is not None:
            self._memory.words["shown"] = index

    def drain(self) -> None:
        """Hand over the frames that came; those of an older epoch are not even copied."""
        if self._memory is None:
            return
        ring = self._memory.frames
        while len(ring):
            slot = ring.oldest()
            frame = None
            if not self._lost and slot["epoch"] == self._memory.words["epoch"]:
                heard = np.array(slot["heard"]) if slot["has_sound"] else None
                video = np.array(slot["video"])
                frame = LaneFrame(int(slot["epoch"]), int(slot["index"]), video, heard, float(slot["work_ms"]))
            del slot
            ring.take()
            if frame is not None:
                self._pool.note(frame.work_ms)
                self.owner.frame_came(frame)
        self._pool.wake()  # there is room again

    async def close(self) -> None:
        self.forget()
        await self._pool.detach(self)

    def forget(self) -> None:
        if self._memory is not None:
            self._memory.close()
            self._memory = None
