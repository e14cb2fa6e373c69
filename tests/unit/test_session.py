"""AvatarSession in virtual time: pairs on time, and speech that is heard as it was pushed."""

from __future__ import annotations

import asyncio
import os

import numpy as np
import pytest
from stage import RATE, StillHost, check_whole, loud, speech, stage
from virtual_time import run

from emo_live import (
    AVPair,
    StateChanged,
    UtteranceFinished,
    UtteranceStarted,
)
from emo_live.engine.test_pattern import read_index
from emo_live.hardware import process_rss_bytes
from emo_live.types import FPS, STEP_S


def test_pairs_come_every_40_ms_from_the_first_on() -> None:
    async def main() -> None:
        async with stage() as live:
            await asyncio.sleep(10 - STEP_S / 2)
            pairs = live.pairs()
            assert [pair.index for pair in pairs] == list(range(250))
            check_whole(pairs)
            assert all(read_index(pair.video) in (None, pair.index) for pair in pairs), "idle moves on with every pair"
            assert not any(loud(pairs))
            assert live.session.stats().underruns == 0

    run(main())


def test_half_an_hour_does_not_drift_nor_grow() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with stage(frame_s=lambda settings: 0.02, host=StillHost) as live:
            began = loop.time()
            live.session.detach(live.sink)
            last: list[float] = []

            class Clock:
                def offer(self, pair: AVPair) -> None:
                    last[:] = [loop.time() - began - pair.index * STEP_S]

                async def close(self) -> None: ...

            live.session.attach(Clock())
            rss: list[int] = []
            for _ in range(30):
                rss.append(process_rss_bytes(os.getpid()) or 0)
                await live.session.push_audio(speech(3.0), RATE)
                await live.session.end_utterance()
                await asyncio.sleep(60)
            tasks = len(asyncio.all_tasks())
            stats = live.session.stats()
            assert stats.pairs == pytest.approx(30 * 60 * FPS, abs=2)
            assert abs(last[0]) < 0.001, "the last pair left on time"
            assert stats.underruns == 0 and stats.clock_jumps == 0
            assert tasks <= 4
            assert rss[-1] - rss[5] < 10_000_000, "memory does not grow"
            assert len(live.session._talk.playout._ready) < 10 and not live.session._talk.queue.queued_steps  # type: ignore[union-attr]

    run(main())


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 24_000, 44_100, 48_000])
def test_what_is_pushed_is_what_is_heard(rate_hz: int) -> None:
    async def main() -> None:
        async with stage() as live:
            sound = speech(2.0, rate_hz)
            await live.session.push_audio(sound, rate_hz)
            name = await live.session.end_utterance()
            await live.spoken()
            pairs = live.pairs()
            check_whole(pairs)
            speaking = loud(pairs)
            first = speaking.index(True)
            assert speaking[first : first + 50] == [True] * 50, "without a gap"
            assert not any(speaking[first + 51 :])
            heard = np.concatenate([pair.audio for pair in pairs[first : first + 50]])[:: 48_000 // 8_000]
            expected = np.interp(np.arange(16_000) / 8_000, np.arange(len(sound)) / rate_hz, sound)
            assert np.corrcoef(heard[200:-200], expected[200:-200])[0, 1] > 0.98
            assert await live.events() == [
                StateChanged("listening"),
                UtteranceStarted(str(name)),
                StateChanged("speaking"),
                UtteranceFinished(str(name), 2000, interrupted=False),
                StateChanged("idle"),
            ]

    run(main())


def test_int16_is_as_good_as_float() -> None:
    async def main() -> None:
        async with stage() as live:
            await live.session.push_audio((speech(0.4) * 32767).astype(np.int16), RATE)
            await live.session.end_utterance()
            await live.spoken()
            assert sum(loud(live.pairs())) == 10

    run(main())


@pytest.mark.parametrize("frame_s", [0.0, 0.02, 0.03])
def test_speech_that_is_there_starts_at_once_and_idle_frames_give_way(frame_s: float) -> None:
    async def main() -> None:
        async with stage(frame_s=lambda settings: frame_s) as live:
            for k in range(12):
                await asyncio.sleep(1 + 0.007 * k)
                await live.session.push_audio(speech(1.0), RATE)
                await live.session.end_utterance()
                await live.spoken()
            stats = live.session.stats()
            assert stats.first_frame_p50_ms is not None and stats.first_frame_p50_ms <= 180
            assert stats.underruns == 0 and stats.level == 0
            assert stats.dropped["idle"] > 0

    run(main())


@pytest.mark.parametrize("frame_s", [0.0, 0.02, 0.028])
def test_speech_that_comes_as_it_is_spoken_has_no_gaps(frame_s: float) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with stage(frame_s=lambda settings: frame_s) as live:
            await asyncio.sleep(1.013)
            sound, begin = speech(4.0), loop.time()
            for i in range(200):  # 20 ms each, when its end was spoken
                await asyncio.sleep(begin + 0.02 * (i + 1) - loop.time())
                await live.session.push_audio(sound[i * 320 : (i + 1) * 320], RATE)
            await live.session.end_utterance()
            await live.spoken()
            speaking = loud(live.pairs())
            first = speaking.index(True)
            assert speaking[first : first + 100] == [True] * 100, "one piece"
            stats = live.session.stats()
            assert stats.first_frame_ms is not None and stats.first_frame_ms <= 330

    run(main())


def test_live_sound_that_fell_behind_catches_up_in_its_pauses() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with stage(frame_s=lambda settings: 0.02) as live:
            words = np.concatenate([speech(0.8), np.zeros(round(0.4 * RATE), np.float32)])
            sound, begin = np.tile(words, 8), loop.time()
            for i in range(len(sound) // 320):
                await asyncio.sleep(begin + 0.02 * (i + 1) - loop.time())
                await live.session.push_audio(sound[i * 320 : (i + 1) * 320], RATE)
                if i == 60:
                    live.pool.lose(back_after_s=1.5)
                if i == 140:
                    assert live.session.stats().queued_ms > 1000
            assert live.session.stats().queued_ms <= 640
            await live.session.end_utterance()
            await live.spoken()
            assert 8 * 20 <= sum(loud(live.pairs())) <= 8 * 22, "no word was lost"

    run(main())


def test_a_text_keeps_its_pauses() -> None:
    async def main() -> None:
        async with stage() as live:
            await live.session.push_audio(np.concatenate([speech(0.4), np.zeros(4 * RATE), speech(0.4)]), RATE)
            name = await live.session.end_utterance()
            await live.spoken()
            assert UtteranceFinished(str(name), 4800, interrupted=False) in await live.events()

    run(main())


def test_a_pause_of_the_source_is_idle_and_then_goes_on() -> None:
    async def main() -> None:
        async with stage(frame_s=lambda settings: 0.02) as live:
            await live.session.push_audio(speech(0.6), RATE)
            await asyncio.sleep(3)
            assert live.session.state == "listening"
            before = live.pairs()
            indices = [read_index(pair.video) for pair in before[-50:]]
            assert len(set(indices)) > 40, "the face lives on"
            await live.session.push_audio(speech(0.6), RATE)
            name = await live.session.end_utterance()
            await live.spoken()
            assert sum(loud(before + live.pairs())) == 30
            assert UtteranceFinished(str(name), 1200, interrupted=False) in await live.events()

    run(main())


def test_a_few_milliseconds_are_an_utterance_too() -> None:
    async def main() -> None:
        async with stage() as live:
            await live.session.push_audio(speech(0.01), RATE)
            name = await live.session.end_utterance()
            await live.spoken()
            assert UtteranceFinished(str(name), 40, interrupted=False) in await live.events()
            assert await live.session.end_utterance() is None, "nothing is open"
            await live.session.push_audio(np.zeros(0, np.float32), RATE)
            assert await live.session.end_utterance() is None, "no sound opens nothing"

    run(main())


def test_push_waits_while_ten_seconds_wait_already() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with stage() as live:
            began = loop.time()
            await live.session.push_audio(speech(8.0), RATE)
            assert loop.time() - began < 0.1
            await live.session.push_audio(speech(30.0), RATE)
            assert 24 < loop.time() - began < 30
            await live.session.end_utterance()
            await live.spoken()
            assert sum(loud(live.pairs())) == 38 * FPS

    run(main())


def test_interrupt_frees_whoever_waits_for_room() -> None:
    async def main() -> None:
        async with stage() as live:
            pushing = asyncio.create_task(live.session.push_audio(speech(60.0), RATE))
            await asyncio.sleep(1)
            assert not pushing.done()
            await live.session.interrupt()
            await asyncio.wait_for(pushing, 0.1)
            await asyncio.sleep(1)
            live.pairs()
            await asyncio.sleep(1)
            assert not any(loud(live.pairs())), "the rest of it was dropped"

    run(main())
