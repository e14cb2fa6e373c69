"""A live session with the shipped model. In virtual time, so that it does not matter what else the machine does."""

from __future__ import annotations

import asyncio
import os
import signal

import numpy as np
import pytest
from fakes import bundled_avatar
from virtual_time import run

from emo_live import AvatarSession, AVPair, Degraded, EnginePool, MemorySink, Recovered
from emo_live.engine.local import LocalPool
from emo_live.face.landmarker import FaceFinder
from emo_live.media.seam import FADE_SAMPLES
from emo_live.types import Float32

RATE = 16_000
FRAME_S = 0.022  # what the model takes on one core of the kind of machine that we promise 25 frames a second on


@pytest.fixture(scope="module")
def finder() -> FaceFinder:
    return FaceFinder(threads=1)


def opening(finder: FaceFinder, pair: AVPair) -> float:
    """Of the lips, in percent of the mouth's width."""
    points = finder.find(pair.video)[0].points[:, :2]
    return float(100 * np.linalg.norm(points[13] - points[14]) / np.linalg.norm(points[61] - points[291]))


def test_lips_follow_speech_and_close_after_an_interrupt(greeting: Float32, finder: FaceFinder) -> None:
    turns = 3

    async def main() -> tuple[list[AVPair], list[list[AVPair]], list[list[AVPair]]]:
        async with (
            LocalPool("tiny", frame_s=lambda settings: FRAME_S) as pool,
            AvatarSession(bundled_avatar(), size=256, pool=pool) as session,
        ):
            sink = MemorySink(1000)
            session.attach(sink)
            await asyncio.sleep(1.5)
            idle, speaking, after = sink.take(), [], []
            for turn in range(turns):
                await session.push_audio(np.roll(greeting, -turn * RATE)[: 3 * RATE], RATE)
                await asyncio.sleep(1.4 + 0.011 * turn)
                speaking.append(sink.take())
                await session.interrupt()
                await asyncio.sleep(0.5)
                after.append(sink.take())
                await asyncio.sleep(0.2)
                sink.take()
            stats = session.stats()
            assert stats.level == 0 and stats.first_frame_p50_ms is not None and stats.first_frame_p50_ms <= 200
            return idle, speaking, after

    idle, speaking, after = run(main())
    assert np.median([opening(finder, pair) for pair in idle[::8]]) < 3, "a silent mouth is closed"
    widest = [max(opening(finder, pair) for pair in pairs[::5]) for pairs in speaking]
    assert np.median(widest) > 6, "and opens with the sound"
    assert not any(pair.audio[FADE_SAMPLES:].any() for pairs in after for pair in pairs), "silence, but for the fade"
    # Seven pairs are 280 ms, the eighth one is shown before 320.
    assert np.median([opening(finder, pairs[7]) for pairs in after]) < 4, "a neutral mouth within 300 ms"


def test_a_dead_engine_is_replaced_and_the_face_goes_on() -> None:
    async def main() -> None:
        async with EnginePool("tiny", max_sessions=1) as pool:
            async with AvatarSession(bundled_avatar(), size=256, pool=pool) as session:
                events, sink = session.events(), MemorySink(100_000)
                session.attach(sink)
                await asyncio.sleep(0.5)
                os.kill(pool.pid, signal.SIGKILL)
                kinds = []
                async for event in events:
                    kinds.append(type(event))
                    if isinstance(event, Recovered):
                        break
                assert Degraded in kinds
                indices = [pair.index for pair in sink.take()]
                faces: set[bytes] = set()
                async for pair in sink:
                    indices.append(pair.index)
                    faces.add(pair.video.tobytes())
                    if len(faces) == 10:
                        break
                assert indices == list(range(indices[0], indices[0] + len(indices))), "one pair after the other"

    asyncio.run(asyncio.wait_for(main(), 200))
