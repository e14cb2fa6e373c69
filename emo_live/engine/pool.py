"""EnginePool: one engine process, shared by sessions, watched and replaced.

The process makes the most urgent session's window next. A session that would make the others fall behind is refused. A
process that is dead or stuck is noticed within a second and replaced, while its sessions hold their last picture. Runs
on one event loop.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from emo_live import hardware
from emo_live.engine.finish import to_its_end
from emo_live.engine.lane import LaneOwner
from emo_live.engine.live import EngineFactory, LiveSpec, Timing, limits_of
from emo_live.engine.named import factory_of
from emo_live.engine.pool_lane import PoolLane
from emo_live.engine.process import WATCH_EVERY_S, EngineProcess, Pulse
from emo_live.engine.published import PublishedOptions
from emo_live.engine.ring import LaneMemory, n_frames_of, new_memory, size_of
from emo_live.engine.tiny import TinyHost, usual_threads
from emo_live.errors import BadInputError, EngineError, NotReadyError
from emo_live.types import STEP_S

log = logging.getLogger(__name__)
_ATTACH_TIMEOUT_S = 120.0
_ATTEMPTS = 3  # to replace an engine process, in a row
_SHARE = 0.85  # of the engine's time that may be promised
_FAILURES = 2  # of one session's engine, after which the session ends


@dataclass(frozen=True, slots=True)
class PoolStats:
    """ms_per_frame: the engine's time for a frame, running mean; 0 before the first. restarts: of the process."""

    sessions: int
    capacity: int
    ms_per_frame: float
    restarts: int
    ready: bool

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class EnginePool:
    """An async context manager, warm when it is entered.

    engine: a name, as of AvatarSession, PublishedOptions, or a factory of a host that can be imported by name. threads:
    of inference (None: what suits this machine). max_sessions: None for as many as the engine has time for, measured
    while it runs. Entering raises EngineError if the engine cannot start.
    """

    def __init__(
        self,
        engine: str | PublishedOptions | EngineFactory = "tiny",
        *,
        threads: int | None = None,
        max_sessions: int | None = None,
    ) -> None:
        if threads is not None and threads < 1:
            raise BadInputError(f"threads must be 1 or more, not {threads}")
        if max_sessions is not None and max_sessions < 1:
            raise BadInputError(f"max_sessions must be 1 or more, not {max_sessions}")
        self._factory = factory_of(engine)
        self.limits = limits_of(self._factory)
        self._timing: Timing | None = None  # known when the process is warm
        self._cache: tempfile.TemporaryDirectory[str] | None = None
        self._threads = threads or usual_threads(hardware.cpu())
        self._max_sessions = max_sessions
        self._names = itertools.count()
        self._lanes: dict[int, PoolLane] = {}
        self._process: EngineProcess | None = None
        self._ready = asyncio.Event()
        self._trouble = asyncio.Event()  # wakes the watchdog at once
        self._why = ""
        self._watchdog: asyncio.Task[None] | None = None
        self._pulse: Pulse | None = None
        self._restarts = 0
        self._closed = False
        self.work_ms = 0.0

    async def __aenter__(self) -> EnginePool:
        if self._factory is TinyHost:
            # Compiling takes most of the time that a replacement takes: what is needed first is done once.
            self._cache = tempfile.TemporaryDirectory(prefix="emo-live-", ignore_cleanup_errors=True)
            self._factory = functools.partial(TinyHost, cache=Path(self._cache.name))
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise
        self._watchdog = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the process; sessions that are still open end with it. May be called twice."""
        await to_its_end(asyncio.ensure_future(self._close()))

    async def _close(self) -> None:
        self._closed = True
        self._ready.set()  # whoever waits for it learns the truth
        if self._watchdog is not None:
            self._watchdog.cancel()
            await asyncio.wait([self._watchdog])
        for lane in list(self._lanes.values()):
            self._give_up(lane, "the engine pool was closed")
        if self._process is not None:
            await self._process.stop()
        if self._cache is not None:
            self._cache.cleanup()

    def free(self) -> int:
        """How many more sessions could be opened now."""
        return max(0, self._capacity() - len(self._lanes))

    def stats(self) -> PoolStats:
        ready = self._ready.is_set() and not self._closed
        return PoolStats(len(self._lanes), self._capacity(), round(self.work_ms, 2), self._restarts, ready)

    @property
    def timing(self) -> Timing:
        """Of the engine's windows."""
        assert self._timing is not None, "the pool is entered when its engine is warm"
        return self._timing

    @property
    def pid(self) -> int:
        """Of the engine process, -1 if there is none."""
        return self._process.pid if self._process else -1

    def _capacity(self) -> int:
        if self._max_sessions is not None:
            return self._max_sessions
        if not self.work_ms:
            return 1  # nothing is known yet of how fast it is
        return max(1, int(_SHARE * STEP_S * 1000 / self.work_ms))

    async def open(self, spec: LiveSpec, owner: LaneOwner) -> PoolLane:
        """A lane for one session. Raises NotReadyError if there is no room, EngineError if the engine fails."""
        self.limits.check(spec.size, spec.settings.steps)
        if self._closed:
            raise NotReadyError("the engine pool is closed")
        if not self.free():
            raise NotReadyError(
                f"the engine is full: {len(self._lanes)} of {self._capacity()} sessions"
                + (f", a frame takes {self.work_ms:.0f} of 40 ms" if self.work_ms else "")
            )
        lane = PoolLane(self, next(self._names), spec, owner)
        self._lanes[lane.name] = lane
        try:
            async with asyncio.timeout(self.limits.start_s + _ATTACH_TIMEOUT_S):
                await self._ready.wait()
                if self._closed:
                    raise NotReadyError("the engine pool was closed")
                await self._attach(lane)
        except TimeoutError:
            await lane.close()
            raise EngineError("the engine did not take the avatar in time") from None
        except BaseException:
            await lane.close()
            raise
        lane.established = True
        return lane

    async def _attach(self, lane: PoolLane) -> None:
        """Open the lane in the process that runs now."""
        assert self._process is not None, "a pool that is entered has a process"
        shape, n_frames = (lane.spec.size, lane.spec.size), n_frames_of(self.timing)
        fd = new_memory(size_of(shape, n_frames))
        try:
            opened = lane.attach(LaneMemory(fd, shape, n_frames))
            await self._process.open(lane.name, lane.spec, fd)
        finally:
            os.close(fd)
        await opened

    async def detach(self, lane: PoolLane) -> None:
        if self._lanes.pop(lane.name, None) is not None and self._process is not None and self._ready.is_set():
            try:
                await self._process.close(lane.name)
            except EngineError:
                log.info("the engine process was gone before a session was closed in it")

    def note(self, work_ms: float) -> None:
        """A frame took so long."""
        self.work_ms += (0.02 if self.work_ms else 1.0) * (work_ms - self.work_ms)

    def wake(self) -> None:
        if self._process is not None:
            self._process.wake()

    # -- the process -------------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        """A new process, warm."""
        self._ready.clear()
        self._trouble.clear()
        self._process = EngineProcess(self._take)
        await self._process.start(self._factory, self._threads)
        # Told of its sessions at once, it prepares their avatars while models still load.
        opening = [asyncio.create_task(self._mend(lane)) for lane in list(self._lanes.values()) if lane.established]
        trouble = asyncio.ensure_future(self._trouble.wait())
        ready = asyncio.ensure_future(self._ready.wait())
        try:
            done, _ = await asyncio.wait({trouble, ready}, timeout=self.limits.start_s, return_when="FIRST_COMPLETED")
        finally:
            trouble.cancel()
            ready.cancel()
            if not ready.done():
                for task in opening:
                    task.cancel()
        if ready not in done:
            raise EngineError(self._why if done else f"the engine was not ready after {self.limits.start_s:.0f} s")
        await asyncio.gather(*opening)

    def _take(self, kind: str, name: int, *rest: Any) -> None:
        """A message of the process."""
        if kind == "frames":
            for lane in list(self._lanes.values()):
                lane.drain()
        elif kind == "ready":
            self._timing = rest[0]
            self._pulse = Pulse(self._timing.piece_s)
            self._ready.set()
        elif kind == "opened" and name in self._lanes:
            self._lanes[name].settle(None)
        elif kind == "failed" and name in self._lanes:
            ours, text = rest[0]
            self._lanes[name].settle(EngineError(text if ours else f"the engine failed: {text}"))
            self._trouble.set()
        elif kind in ("dead", "unfit"):
            self._why = self._why or (rest[0][1] if rest else "the engine process died")
            self._ready.clear()
            self._trouble.set()
            for lane in list(self._lanes.values()):
                lane.lose(self._why)  # whoever waits for it to be opened learns it now

    async def _watch(self) -> None:
        """Notices a process that is dead or stuck, and sessions whose engine failed."""
        while True:
            try:
                async with asyncio.timeout(WATCH_EVERY_S):
                    await self._trouble.wait()
            except TimeoutError:
                pass
            self._trouble.clear()
            assert self._process is not None, "the watchdog starts after the process"
            if self._pulse is not None:
                self._why = self._why or self._pulse.check(self._process)
            if self._why:
                await self._replace()
            for lane in [lane for lane in self._lanes.values() if lane.failure is not None]:
                await self._mend(lane)

    async def _replace(self) -> None:
        """Another process for all sessions; after some vain attempts they end."""
        reason = self._why
        log.warning("replacing the engine process", extra={"reason": reason})
        for lane in list(self._lanes.values()):
            lane.lose(reason)
        for _ in range(_ATTEMPTS):
            assert self._process is not None, "there was a process"
            await self._process.stop(kill=True)
            self._why = ""
            self._restarts += 1
            try:
                await self._start()
                if not self._why:
                    return
                reason = self._why
            except (EngineError, OSError) as error:
                reason = str(error)
        for lane in list(self._lanes.values()):
            self._give_up(lane, reason)

    async def _mend(self, lane: PoolLane) -> None:
        """A new engine for one session, in the process that runs now."""
        if lane.failure is not None:
            lane.failures += 1
            lane.lose(str(lane.failure))
            if lane.failures > _FAILURES:
                self._give_up(lane, str(lane.failure))
                return
        try:
            async with asyncio.timeout(_ATTACH_TIMEOUT_S):
                await self._attach(lane)
        except (EngineError, OSError) as error:  # a timeout is one, too
            if self._why:
                return  # the process is gone: all sessions get another one
            self._give_up(lane, str(error) or "the engine did not take the avatar in time")
            return
        lane.back()

    def _give_up(self, lane: PoolLane, reason: str) -> None:
        self._lanes.pop(lane.name, None)
        lane.lose(reason)
        lane.forget()
        lane.owner.engine_gone(reason)
