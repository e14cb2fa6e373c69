"""An engine without a model, for timing tests: a white flash and a 1 kHz beep in the same step, once a second.

Between flashes the picture carries its index as 16 black or white bars, so that a decoded frame tells which one it is.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from emo_live.engine.base import EngineFrame
from emo_live.errors import BadInputError
from emo_live.types import FPS, MODEL_STEP_SAMPLES, OUTPUT_RATE_HZ, OUTPUT_STEP_SAMPLES, Float32, Int16, UInt8

BARS = 16
BEEP_HZ = 1000
FLASH, DARK, LIGHT = 255, 16, 160  # grey levels that survive video coding apart from each other


class TestPatternEngine:
    """size: picture side in px, at least BARS. latency: steps between a push and its frame, as a model's look-ahead."""

    __test__ = False  # a name that pytest would collect

    def __init__(self, size: int = 256, latency: int = 2):
        if size < BARS:
            raise BadInputError(f"a test pattern needs at least {BARS} px, not {size}")
        self.shape, self.latency, self.index = (size, size), latency, 0
        self._waiting: deque[int] = deque()
        self._pushed, self._finished, self._cancelled = 0, False, False

    def push(self, pcm: Float32) -> None:
        assert pcm.shape == (MODEL_STEP_SAMPLES,), "one step is 640 samples at 16 kHz"
        self._waiting.append(self._pushed)
        self._pushed += 1

    def finish(self) -> None:
        self._finished = True

    def frames(self) -> list[EngineFrame]:
        done = []
        while self._waiting and not self._cancelled and (self._finished or len(self._waiting) > self.latency):
            self.index = self._waiting.popleft() + 1
            done.append(EngineFrame(self.index - 1, picture(self.index - 1, self.shape[0]), beep(self.index - 1)))
        return done

    def cancel(self) -> None:
        self._cancelled = True

    def rewind(self, index: int) -> None:
        self._waiting.clear()
        self.index = self._pushed = index
        self._finished = self._cancelled = False


def picture(index: int, size: int) -> UInt8:
    """(size, size, 3): all white in the first step of a second, else the index in bars, most significant first."""
    if index % FPS == 0:
        return np.full((size, size, 3), FLASH, np.uint8)
    bits = (index >> np.arange(BARS - 1, -1, -1)) & 1
    row = np.where(bits, LIGHT, DARK)[np.arange(size) * BARS // size].astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(row[None, :, None], (size, size, 3)))


def read_index(video: UInt8) -> int | None:
    """The index that a picture shows; None for a flash."""
    size = video.shape[1]
    centres = (np.arange(BARS) * size // BARS) + size // (2 * BARS)
    grey = video[video.shape[0] // 4 : -(video.shape[0] // 4), centres].mean((0, 2))
    if grey.min() > (FLASH + LIGHT) / 2:
        return None
    return int(np.dot(grey > (DARK + LIGHT) / 2, 1 << np.arange(BARS - 1, -1, -1)))


def beep(index: int) -> Int16:
    """(1920,) int16 at 48 kHz: a full step of tone in the first step of a second, else silence."""
    if index % FPS:
        return np.zeros(OUTPUT_STEP_SAMPLES, np.int16)
    t = np.arange(OUTPUT_STEP_SAMPLES) / OUTPUT_RATE_HZ
    return (np.sin(2 * np.pi * BEEP_HZ * t) * 16000).astype(np.int16)
