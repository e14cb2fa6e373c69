"""A live session in virtual time with a sink that keeps everything, and engines that cost nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from fakes import bundled_avatar, syllables

from emo_live import AudioChunk, AvatarSession, AVPair, BadInputError, MemorySink
from emo_live.engine.base import EngineFrame
from emo_live.engine.live import EngineFactory, LiveSettings, LiveSpec, PatternEngine, PatternHost
from emo_live.engine.local import LocalPool
from emo_live.events import Event
from emo_live.media.seam import FADE_SAMPLES
from emo_live.types import STEP_S, Float32

RATE = 16_000


def speech(duration_s: float, rate_hz: int = RATE) -> Float32:
    """Never silent, so that a step with speech is told from one without."""
    return (syllables(duration_s, rate_hz) + 0.2).astype(np.float32)


class QuietEngine(PatternEngine):
    """The test pattern without its beep: what is heard is what was pushed."""

    def frames(self) -> list[Any]:
        return [type(frame)(frame.index, frame.video, None) for frame in super().frames()]


class QuietHost(PatternHost):
    def open(self, spec: LiveSpec) -> PatternEngine:
        return QuietEngine(spec.size)


class LittleEngine(QuietEngine):
    """Says that its pictures are as large as was asked for, and makes little ones: quick enough for long tests."""

    def frames(self) -> list[Any]:
        shape, self.shape = self.shape, (16, 16)
        made = super().frames()
        self.shape = shape
        return made


class LittleHost(PatternHost):
    def open(self, spec: LiveSpec) -> PatternEngine:
        return LittleEngine(spec.size)


class StillEngine(PatternEngine):
    """One picture for ever: quick enough for long tests."""

    still = np.zeros((256, 256, 3), np.uint8)

    def frames(self) -> list[Any]:
        n_frames = len(self._waiting) - self.latency
        return [EngineFrame(self._waiting.popleft(), self.still) for _ in range(n_frames)]


class StillHost(PatternHost):
    def open(self, spec: LiveSpec) -> PatternEngine:
        return StillEngine(spec.size)


class Stage:
    """A session with a sink that keeps everything, and its events."""

    def __init__(self, session: AvatarSession, pool: LocalPool) -> None:
        self.session, self.pool = session, pool
        self.sink = MemorySink(1_000_000)
        self.stream = session.events()
        session.attach(self.sink)

    async def until(self, done: Callable[[], bool], limit_s: float = 60) -> None:
        for _ in range(round(limit_s / STEP_S * 4)):
            if done():
                return
            await asyncio.sleep(STEP_S / 4)
        raise TimeoutError

    async def spoken(self) -> None:
        await self.until(lambda: self.session.state == "idle")

    def pairs(self) -> list[AVPair]:
        return self.sink.take()

    async def events(self) -> list[Event]:
        """So far, without reports."""
        found = []
        try:
            while True:
                found.append(await asyncio.wait_for(anext(self.stream), 0.001))
        except (TimeoutError, StopAsyncIteration):
            return [event for event in found if not hasattr(event, "stats")]


@asynccontextmanager
async def stage(
    *,
    frame_s: Callable[[LiveSettings], float] = lambda settings: 0.0,
    size: int = 256,
    host: EngineFactory = QuietHost,
    **options: Any,
) -> AsyncIterator[Stage]:
    async with (
        LocalPool(host, frame_s=frame_s) as pool,
        AvatarSession(bundled_avatar(), size=size, pool=pool, **options) as session,
    ):
        yield Stage(session, pool)


def loud(pairs: list[AVPair]) -> list[bool]:
    """Which have sound of their own: the first milliseconds may be what is left of sound that was cut off."""
    return [bool(np.abs(pair.audio[FADE_SAMPLES:]).max() > 300) for pair in pairs]


def check_whole(pairs: list[AVPair]) -> None:
    """Invariants of every stream: indices without holes, shapes, types."""
    assert [pair.index for pair in pairs] == list(range(pairs[0].index, pairs[0].index + len(pairs)))
    for pair in pairs:
        assert pair.video.shape == (256, 256, 3) and pair.video.dtype == np.uint8
        assert pair.audio.shape == (1920,) and pair.audio.dtype == np.int16


class CountingSpeaker:
    """Three sentences of 400 ms each; counts how many were asked for, and whether it was closed."""

    def __init__(self, sentence_takes_s: float = 0.0) -> None:
        self.asked, self.closed, self.takes_s = 0, False, sentence_takes_s

    async def speak(self, text: str, voice: str | None) -> AsyncIterator[AudioChunk]:
        if voice == "nobody":
            raise BadInputError("there is no voice 'nobody'")
        try:
            for _ in range(3):
                self.asked += 1
                await asyncio.sleep(self.takes_s)
                yield AudioChunk(speech(0.4, 24_000), 24_000)
        finally:
            self.closed = True
