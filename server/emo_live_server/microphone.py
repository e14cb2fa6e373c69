"""Finds speech in a microphone's sound: where it begins, with a little of what came before, and where it is over.

The gate is pure: chunks in, pieces of speech out. Browsers suppress noise and control the level, so that a fixed
threshold does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from enum import Enum

import numpy as np

from emo_live.types import AudioChunk, Float32

THRESHOLD = 0.008  # root mean square, about -42 dB of full scale
BEFORE_S = 0.16  # a word begins softly, before it is loud enough to be noticed
ONSET_S = 0.04  # shorter sounds are clicks
AFTER_S = 0.7  # shorter pauses are within a sentence


class Ear:
    """The chunks of a microphone that may be switched off for a while: then none come, and that is noticed.

    over: there will be no more.
    """

    def __init__(self, chunks: AsyncIterator[AudioChunk]) -> None:
        self.over = False
        self._chunks = chunks
        self._next: asyncio.Task[AudioChunk | None] | None = None

    async def listen(self, patience_s: float | None) -> AudioChunk | None:
        """The next chunk; None if it does not come in time (None: for ever), or if there will be no more."""
        if self._next is None:
            self._next = asyncio.create_task(self._take())
        # Waiting for it again and again, because cancelling it would end a generator for good.
        done, _ = await asyncio.wait((self._next,), timeout=patience_s)
        if not done:
            return None
        chunk, self._next = self._next.result(), None
        self.over = chunk is None
        return chunk

    async def _take(self) -> AudioChunk | None:
        return await anext(self._chunks, None)

    async def close(self) -> None:
        if self._next is not None:
            self._next.cancel()
            await asyncio.wait((self._next,), timeout=1)


class Edge(Enum):
    BEGIN = "begin"
    END = "end"


class SpeechGate:
    """rate_hz: of the sound that was passed on last."""

    def __init__(self) -> None:
        self.rate_hz = 0
        self._open = False
        self._loud_s = self._quiet_s = 0.0
        self._before: deque[Float32] = deque()
        self._before_s = 0.0

    @property
    def patience_s(self) -> float | None:
        """How long to wait for the next chunk before calling `pass_on(None, 0)`; None: for ever."""
        return AFTER_S if self._open else None

    def pass_on(self, pcm: Float32 | None, rate_hz: int) -> list[Float32 | Edge]:
        """pcm: (S,) mono, or None if nothing came. Returns speech in order: its beginning, pieces (S,), its end."""
        if pcm is None or not len(pcm):
            return self._close() if pcm is None and self._open else []
        self.rate_hz = rate_hz
        length_s = len(pcm) / rate_hz
        loud = float(np.sqrt(np.mean(np.square(pcm, dtype=np.float64)))) > THRESHOLD
        if self._open:
            self._quiet_s = 0.0 if loud else self._quiet_s + length_s
            return [pcm, *(self._close() if self._quiet_s >= AFTER_S else [])]
        self._remember(pcm, length_s)
        self._loud_s = self._loud_s + length_s if loud else 0.0
        if self._loud_s < ONSET_S:
            return []
        self._open, self._quiet_s = True, 0.0
        begun: list[Float32 | Edge] = [Edge.BEGIN, *self._before]
        self._forget()
        return begun

    def _remember(self, pcm: Float32, length_s: float) -> None:
        self._before.append(pcm)
        self._before_s += length_s
        while self._before_s > BEFORE_S + ONSET_S and len(self._before) > 1:
            self._before_s -= len(self._before.popleft()) / self.rate_hz

    def _close(self) -> list[Float32 | Edge]:
        self._open = False
        self._forget()
        return [Edge.END]

    def _forget(self) -> None:
        self._before.clear()
        self._before_s = self._loud_s = 0.0
