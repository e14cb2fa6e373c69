"""Engines that break, hang and die on command, and waiting for what comes of it: for tests with real processes."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from emo_live import (
    AvatarSession,
    EngineError,
)
from emo_live.engine.base import EngineFrame
from emo_live.engine.live import Checkpoint, LiveEngine, LiveSpec, PatternEngine, PatternHost

LIMIT_S = 60.0  # of a test: an engine process starts in half a second, on a busy machine in many


class TroublesomeEngine(PatternEngine):
    """Sound above a level is an order: 0.5 to break, 0.7 to hang, 0.9 to end the process."""

    def push(self, pcm: Any) -> None:
        level = float(np.abs(pcm).max())
        if level > 0.85:
            os._exit(3)
        if level > 0.65:
            time.sleep(1000)
        if level > 0.45:
            raise RuntimeError("this engine broke")
        super().push(pcm)

    def frames(self) -> list[EngineFrame]:
        return [EngineFrame(frame.index, frame.video) for frame in super().frames()]  # without the pattern's beep


class TroublesomeHost(PatternHost):
    def open(self, spec: LiveSpec) -> LiveEngine:
        if spec.seed == 13:
            raise ValueError("an unlucky seed")
        return TroublesomeEngine(spec.size)


class MortalHost(PatternHost):
    """The second process dies while it opens a session. lives: a file with a byte for every process so far."""

    def __init__(self, threads: int, checkpoint: Checkpoint, lives: Path) -> None:
        with lives.open("ab") as file:
            file.write(b".")
            self._number = file.tell()

    def open(self, spec: LiveSpec) -> LiveEngine:
        if self._number == 2:
            os._exit(3)
        return super().open(spec)


class UnfitHost(PatternHost):
    def __init__(self, threads: int, checkpoint: Checkpoint) -> None:
        raise EngineError("there is no model")


class NeverWarmHost(PatternHost):
    def warm(self) -> None:
        raise EngineError("the model is damaged")


def order(level: float, duration_s: float = 0.4) -> Any:
    return np.full(round(16_000 * duration_s), level, np.float32)


def limited(main: Callable[[], Any]) -> None:
    async def run() -> None:
        async with asyncio.timeout(LIMIT_S):
            await main()

    asyncio.run(run())


async def wait_for(session: AvatarSession, kind: type) -> Any:
    async for event in session.events():
        if isinstance(event, kind):
            return event
    raise AssertionError(f"no {kind.__name__} came")
