"""AvatarSession on the test pattern, in virtual time: pairs, turns, bad input, and what is left behind."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from fakes import bundled_avatar, syllables
from virtual_time import run

import emo_live
from emo_live import AvatarSession, MemorySink
from emo_live.engine.local import LocalPool
from emo_live.engine.test_pattern import read_index
from emo_live.types import STEP_S


def speech(duration_s: float, rate_hz: int = 16_000) -> Any:
    """Never silent, so that a step with speech is told from one without."""
    return (syllables(duration_s, rate_hz) + 0.1).astype(np.float32)


def test_pairs_come_every_40_ms_from_the_first_on() -> None:
    async def main() -> None:
        async with LocalPool() as pool, AvatarSession(bundled_avatar(), size=256, pool=pool) as session:
            sink = MemorySink(1000)
            session.attach(sink)
            begin = asyncio.get_running_loop().time()
            await asyncio.sleep(0)
            await asyncio.sleep(10 - STEP_S / 2)
            pairs = sink.take()
            assert [pair.index for pair in pairs] == list(range(250))
            assert asyncio.get_running_loop().time() - begin < 10
            for pair in pairs:
                assert pair.video.shape == (256, 256, 3) and pair.audio.shape == (1920,)
                assert read_index(pair.video) in (None, pair.index)

    run(main())


@pytest.mark.slow
def test_in_a_process_of_its_own() -> None:
    async def main() -> None:
        async with AvatarSession(bundled_avatar(), engine="pattern", size=256) as session:
            sink = MemorySink(1000)
            session.attach(sink)
            await session.push_audio(speech(1.0), 16_000)
            name = await session.end_utterance()
            async for event in session.events():
                if isinstance(event, emo_live.UtteranceFinished):
                    assert event == emo_live.UtteranceFinished(name, 1000, interrupted=False)
                    break
            pairs = sink.take()
            assert [pair.index for pair in pairs] == list(range(len(pairs)))
            print(session.stats())

    asyncio.run(main())
