"""AvatarSession, the public async API of a live conversation: speech in as it comes, a pair out every 40 ms.

Everything here runs on one event loop and never blocks it; engines run in a process of their own. What is said next,
when idle steps give way to speech, and what an interrupt does is in `conversation.py`, how sound and texts get there in
`speech.py`; this module owns the tasks, the sinks and the events.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any

import numpy as np

from emo_live.audio.tts import Speaker
from emo_live.avatar import Avatar
from emo_live.conversation import Conversation
from emo_live.engine.finish import to_its_end
from emo_live.engine.lane import LaneFrame, Lanes
from emo_live.engine.live import EngineFactory, LiveSettings, LiveSpec, limits_of
from emo_live.engine.named import factory_of
from emo_live.engine.pool import EnginePool
from emo_live.engine.published import PublishedOptions
from emo_live.engine.window import Controls
from emo_live.errors import EngineError, NotReadyError
from emo_live.events import Event, EventStream, Heard, SessionClosed, SessionStats, State, StatsReport
from emo_live.media.pacer import Pacer
from emo_live.media.sink import MemorySink, Sink
from emo_live.speech import SpeechIn
from emo_live.types import AVPair

log = logging.getLogger(__name__)
_CLOSE_TIMEOUT_S = 5.0
_STATS_EVERY_S = 1.0


class AvatarSession:
    """One live conversation with one avatar: an async context manager, warmed before it is entered.

    engine: "tiny", published weights ("hallo", ... or PublishedOptions), "pattern" (flash and beep), or a factory.
    size: 256 or 512 px, of published weights any multiple of 64. seed: another one gives another performance. steps:
    None is the engine's usual. speaker: for `say` (None: hibari, offline). pool: shares its engine with other sessions.
    Raises BadInputError; entering also NotReadyError if it is full, EngineError if it cannot start.
    """

    def __init__(
        self,
        avatar: Avatar,
        *,
        engine: str | PublishedOptions | EngineFactory = "tiny",
        size: int = 512,
        seed: int = 0,
        steps: int | None = None,
        speaker: Speaker | None = None,
        controls: Controls | None = None,
        pool: EnginePool | Lanes | None = None,
    ) -> None:
        self._factory = factory_of(engine if pool is None else "tiny", size)
        self._limits = limits_of(self._factory) if pool is None else pool.limits
        settings = LiveSettings(controls or Controls(), self._limits.usual_steps if steps is None else steps)
        self._limits.check(size, settings.steps)
        self._spec = LiveSpec(_cropped(avatar), size, seed, settings)
        self._pool = pool
        self._talk: Conversation | None = None
        self._pacer = Pacer(self._release)
        self._sinks: list[Sink] = []
        self._streams: weakref.WeakSet[EventStream] = weakref.WeakSet()
        self._stack = contextlib.AsyncExitStack()
        self._tasks: set[asyncio.Task[None]] = set()
        self._speech = SpeechIn(self._check_open, self._own, speaker)
        self._filled = asyncio.Event()  # enough frames to begin with
        self._closed: str | None = None
        self._freeing: asyncio.Task[None] | None = None
        self._sink_errors = 0
        self._began = 0.0

    async def __aenter__(self) -> AvatarSession:
        if self._talk is not None or self._closed is not None:
            raise NotReadyError("a session is entered once: make another one")
        try:
            async with asyncio.timeout(self._limits.start_s):
                await self._open()
        except TimeoutError:
            await self._stop("the engine did not start")
            raise EngineError(f"the engine did not start within {self._limits.start_s:.0f} s") from None
        except BaseException:
            await self._stop("the session did not start")
            raise
        return self

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        pool = self._pool
        if pool is None:
            pool = await self._stack.enter_async_context(EnginePool(self._factory, max_sessions=1))
        lane = await pool.open(self._spec, self)
        self._stack.push_async_callback(lane.close)
        self._talk = Conversation(lane, self._spec.settings, loop.time, self._say)
        self._talk.feed()
        await self._filled.wait()
        if self._closed is not None:
            raise EngineError(self._closed)
        self._began = loop.time()
        for job in (self._pacer.run(), self._report()):
            self._own(asyncio.create_task(job))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """As leaving `async with`: closes sinks, wakes whoever waits, frees everything. May be called twice."""
        await self._stop("closed")

    # -- speech ------------------------------------------------------------------------------------------------------

    async def push_audio(self, pcm: Any, rate_hz: int) -> None:
        """Say this sound: it is the next part of the open utterance, or begins one. Returns once it has a place.

        pcm: (S,) float32 in [-1, 1] or int16, mono, of any length. Waits while ten seconds of speech wait already. What
        an interrupt meets half-way is dropped. Raises BadInputError for sound that cannot be used, NotReadyError if the
        session is not open.
        """
        await self._speech.push(pcm, rate_hz)

    async def end_utterance(self) -> str | None:
        """The open utterance is complete. Returns its id, None if there is none open (any more)."""
        return await self._speech.end()

    async def say(self, text: str, voice: str | None = None) -> str:
        """Speak a text after all that waits; sentences follow each other as they are ready. Returns the utterance's id.

        An utterance that push_audio left open ends here. Raises BadInputError for text or a voice that cannot be used,
        NotSupportedError if no voice is installed, EngineError if the voice fails before its first sound.
        """
        return await self._speech.say(text, voice)

    async def interrupt(self) -> Heard:
        """What was said or waits is dropped: 8 ms into the next pair it is silent. Returns what was heard before."""
        talk = self._check_open()
        self._speech.dropped()
        heard = talk.interrupt()
        self._speech.wake()
        return heard

    async def pause(self) -> None:
        """As after an interrupt, but what was not heard waits for `resume`. The face idles."""
        self._check_open().pause()

    async def resume(self) -> None:
        """Go on where `pause` stopped."""
        self._check_open().resume()

    def control(self, *, speed: float | None = None, motion: float | None = None) -> None:
        """Head velocity in degrees a second (0 to 30) and strength of motion (0 to 2), from the next window on."""
        talk = self._check_open()
        old = talk.settings.controls
        talk.adjust(controls=Controls(old.speed if speed is None else speed, old.motion if motion is None else motion))

    # -- what comes out ----------------------------------------------------------------------------------------------

    def attach(self, sink: Sink) -> None:
        """Pairs go to this sink from the next one on. What is attached at the end of the session is closed with it."""
        if self._closed is not None:
            raise NotReadyError(f"the session is over: {self._closed}")
        if sink not in self._sinks:
            self._sinks.append(sink)

    def detach(self, sink: Sink) -> None:
        """No more pairs for this sink; it is not closed. Nothing happens if it is not attached."""
        if sink in self._sinks:
            self._sinks.remove(sink)

    async def __aiter__(self) -> AsyncIterator[AVPair]:
        """Every pair from now on; a loop that is more than a second late loses the oldest ones."""
        sink = MemorySink()
        self.attach(sink)
        try:
            async for pair in sink:
                yield pair
        finally:
            self.detach(sink)

    def events(self) -> EventStream:
        """What happens from this call on, to be read with `async for`; ends after SessionClosed."""
        stream = EventStream()
        if self._closed is not None:
            stream.put(SessionClosed(self._closed))
        else:
            self._streams.add(stream)
        return stream

    @property
    def state(self) -> State:
        return self._talk.state if self._talk is not None else "idle"

    def stats(self) -> SessionStats:
        """Figures so far; also after the end."""
        if self._talk is None:
            return SessionStats()
        return self._talk.stats(
            uptime_s=asyncio.get_running_loop().time() - self._began,
            late_ms=self._pacer.late_ms(),
            clock_jumps=self._pacer.jumps,
            sink_errors=self._sink_errors,
        )

    def _release(self, index: int) -> None:
        assert self._talk is not None, "the pacer runs in an open session"
        pair = self._talk.tick(index)
        self._speech.wake()
        for sink in list(self._sinks):
            try:
                sink.offer(pair)
            except Exception:  # its own fault, and no reason to stop the others
                self._sink_errors += 1
                log.exception("a sink failed and was detached")
                self.detach(sink)

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(_STATS_EVERY_S)
            self._say(StatsReport(self.stats()))

    def _say(self, event: Event) -> None:
        for stream in list(self._streams):
            stream.put(event)

    # -- the engine's side (LaneOwner) -------------------------------------------------------------------------------

    def frame_came(self, frame: LaneFrame) -> None:
        if self._talk is not None:
            self._talk.frame_came(frame)
            if self._talk.playout.depth >= self._talk.margin_steps:
                self._filled.set()

    def engine_lost(self, reason: str) -> None:
        if self._talk is not None:
            self._talk.engine_lost(reason)

    def engine_back(self) -> None:
        if self._talk is not None:
            self._talk.engine_back()

    def engine_gone(self, reason: str) -> None:
        self._end(reason)

    # -- the end -----------------------------------------------------------------------------------------------------

    def _check_open(self) -> Conversation:
        if self._closed is not None:
            raise NotReadyError(f"the session is over: {self._closed}")
        if self._talk is None:
            raise NotReadyError("the session is not open: use `async with`")
        return self._talk

    def _own(self, task: asyncio.Task[None]) -> asyncio.Task[None]:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _end(self, reason: str) -> None:
        """No more pairs; whoever waits is woken, and everything is freed by a task that `close` waits for."""
        if self._closed is not None:
            return
        self._closed = reason
        for task in self._tasks:
            task.cancel()
        self._speech.close()
        self._filled.set()
        self._say(SessionClosed(reason))
        self._freeing = asyncio.create_task(self._free())

    async def _stop(self, reason: str) -> None:
        """Frees everything; may be called twice, and while tasks still run."""
        self._end(reason)
        assert self._freeing is not None, "what has ended is being freed"
        await to_its_end(self._freeing)

    async def _free(self) -> None:
        tasks = [task for task in self._tasks if not task.done()]
        sinks, self._sinks = self._sinks, []
        if tasks:
            await asyncio.wait(tasks, timeout=_CLOSE_TIMEOUT_S)
        for sink in sinks:
            try:
                async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                    await sink.close()
            except Exception:
                log.exception("a sink did not close")
        await self._stack.aclose()


def _cropped(avatar: Avatar) -> Avatar:
    """Without the picture around the crop, which may be large and is never shown live."""
    small = avatar.picture.nbytes <= avatar.portrait.nbytes
    return avatar if small else Avatar(avatar.portrait, avatar.landmarks, avatar.portrait, np.eye(2, 3))
