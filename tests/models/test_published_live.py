"""Live sessions with published weights, in a real engine process, on a small random model."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

pytest.importorskip("torch")

from engine_mini import SIZE, mini_folder  # noqa: E402
from fakes import bundled_avatar, syllables  # noqa: E402

from emo_live import AvatarSession, AVPair, EnginePool  # noqa: E402
from emo_live.engine.published import PublishedFactory, PublishedOptions  # noqa: E402

LIMIT_S = 240  # an engine process imports torch, diffusers and transformers first


async def take(session: AvatarSession, pairs: int) -> list[AVPair]:
    taken = []
    async for pair in session:
        taken.append(pair)
        if len(taken) == pairs:
            return taken
    raise AssertionError("the session ended")


@pytest.mark.slow
def test_two_sessions_share_one_engine_and_keep_their_own_faces() -> None:
    """Spoken to, interrupted, steered; every pair is whole, and the two do not mix."""

    factory = PublishedFactory(PublishedOptions("hallo", weights=mini_folder("hallo"), steps=1), SIZE)
    avatar = bundled_avatar()

    async def main() -> None:
        async with (
            EnginePool(factory, max_sessions=2) as pool,
            AvatarSession(avatar, size=SIZE, seed=1, pool=pool) as one,
            AvatarSession(avatar, size=SIZE, seed=2, pool=pool) as other,
        ):
            await one.push_audio(syllables(1.0), 16_000)
            await one.end_utterance()
            one.control(motion=0.5, speed=9)
            pairs, others = await asyncio.gather(take(one, 40), take(other, 40))
            heard = await one.interrupt()
            assert heard.ms <= 1000
            for stream in (pairs, others):
                assert all(pair.video.shape == (SIZE, SIZE, 3) and pair.audio.shape == (1920,) for pair in stream)
                assert len({pair.video.tobytes() for pair in stream}) > 4, "the face moves"
            assert not {p.video.tobytes() for p in pairs} & {p.video.tobytes() for p in others}
            assert any(np.abs(pair.audio).max() > 300 for pair in pairs + await take(one, 5))
            assert pool.stats().restarts == 0 and pool.timing.lengths == (4, 12)

    asyncio.run(asyncio.wait_for(main(), LIMIT_S))
