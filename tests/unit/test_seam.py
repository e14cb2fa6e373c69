"""Sound that is cut off fades and does not click: the seam alone, and in sessions in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from stage import Stage, stage
from virtual_time import run

from emo_live import Heard
from emo_live.media.seam import FADE_SAMPLES, Seam
from emo_live.types import OUTPUT_RATE_HZ, OUTPUT_STEP_SAMPLES, Float32, Int16

LEVEL = 20_000
SILENT = np.zeros(OUTPUT_STEP_SAMPLES, np.int16)
FLAT = np.full(OUTPUT_STEP_SAMPLES, LEVEL, np.int16)


def tone(duration_s: float) -> Float32:
    t = np.arange(round(duration_s * OUTPUT_RATE_HZ)) / OUTPUT_RATE_HZ
    return (LEVEL / 32767 * np.sin(2 * np.pi * 220 * t)).astype(np.float32)


NATURAL_STEP = int(np.abs(np.diff(tone(1.0))).max() * 32767) + 2


def heard(live: Stage) -> Int16:
    return np.concatenate([pair.audio for pair in live.pairs()])


def steps(sound: Int16) -> int:
    """The largest one between two samples."""
    return int(np.abs(np.diff(sound.astype(np.int32))).max())


@pytest.mark.parametrize("following", [FLAT, None])
def test_what_is_cut_off_falls_evenly_to_silence(following: Int16 | None) -> None:
    seam = Seam()
    assert seam.joined(FLAT, rises=False) is FLAT, "what follows itself is not touched"
    seam.cut(following)
    out = seam.joined(SILENT, rises=False)
    assert (np.diff(out[:FADE_SAMPLES]) <= 0).all() and out[0] > 0.99 * LEVEL and out[FADE_SAMPLES - 1] < 0.01 * LEVEL
    assert not out[FADE_SAMPLES:].any()
    assert steps(out) < 0.01 * LEVEL
    assert seam.joined(SILENT, rises=False) is SILENT, "once"


def test_what_goes_on_rises_evenly() -> None:
    out = Seam().joined(FLAT, rises=True)
    assert (np.diff(out) >= 0).all() and out[0] < 0.01 * LEVEL and (out[FADE_SAMPLES:] == LEVEL).all()


def test_a_rest_and_loud_sound_do_not_wrap_around() -> None:
    seam = Seam()
    loudest = np.full(OUTPUT_STEP_SAMPLES, 32767, np.int16)
    seam.cut(loudest)
    assert seam.joined(loudest, rises=False).min() == 32767
    seam.cut(-loudest - 1)
    assert seam.joined(-loudest - 1, rises=False).max() == -32768


async def _interrupt(live: Stage) -> None:
    before = live.session.stats().pairs
    await live.session.push_audio(tone(3.0), OUTPUT_RATE_HZ)
    await asyncio.sleep(0.613)
    n_heard = live.session.stats().pairs - before
    told = await live.session.interrupt()
    assert told.ms <= 40 * n_heard, "what fades is not counted"
    assert await live.session.interrupt() == Heard(None, 0)


async def _pause(live: Stage) -> None:
    await live.session.push_audio(tone(2.0), OUTPUT_RATE_HZ)
    await live.session.end_utterance()
    await asyncio.sleep(0.613)
    await live.session.pause()
    await asyncio.sleep(0.5)
    await live.session.resume()
    await live.spoken()


async def _stall(live: Stage) -> None:
    sound = tone(1.5)
    await live.session.push_audio(sound[:40_001], OUTPUT_RATE_HZ)
    await asyncio.sleep(2)
    await live.session.push_audio(sound[40_001:], OUTPUT_RATE_HZ)
    await live.session.end_utterance()
    await live.spoken()


async def _lost_engine(live: Stage) -> None:
    await live.session.push_audio(tone(2.0), OUTPUT_RATE_HZ)
    await live.session.end_utterance()
    await asyncio.sleep(0.7)
    live.pool.lose(back_after_s=0.9)
    await live.spoken()


@pytest.mark.parametrize("trouble", [_interrupt, _pause, _stall, _lost_engine])
def test_no_click_whatever_stops_the_sound(trouble: Callable[[Stage], Awaitable[None]]) -> None:
    async def main() -> None:
        async with stage(frame_s=lambda settings: 0.02) as live:
            await trouble(live)
            await asyncio.sleep(0.3)
            sound = heard(live)
            assert np.abs(sound).max() > 0.95 * LEVEL
            # 8 ms of a falling raised cosine add at most pi / 2 / FADE_SAMPLES of the level to a step.
            assert steps(sound) <= NATURAL_STEP + LEVEL * np.pi / 2 / FADE_SAMPLES
            assert not sound[-OUTPUT_STEP_SAMPLES:].any()

    run(main())


def test_an_interrupt_is_silence_48_ms_later_and_tells_exactly_what_was_heard() -> None:
    async def main() -> None:
        async with stage(frame_s=lambda settings: 0.02) as live:
            for k in range(20):
                await live.session.push_audio(np.full(3 * OUTPUT_RATE_HZ, 0.5, np.float32), OUTPUT_RATE_HZ)
                await asyncio.sleep(0.5 + 0.009 * k)
                before = heard(live)
                told = await live.session.interrupt()
                whole = np.count_nonzero(before.reshape(-1, OUTPUT_STEP_SAMPLES).all(axis=1))
                assert told.ms == 40 * whole
                await asyncio.sleep(0.4)
                after = heard(live)
                assert (np.diff(after) <= 0).all(), "one even fall"
                assert after[0] > 0.99 * before[-1] and not after[FADE_SAMPLES:].any()

    run(main())


def test_speech_that_comes_to_its_end_is_left_as_it_is() -> None:
    async def main() -> None:
        async with stage(frame_s=lambda settings: 0.02) as live:
            for _ in range(3):
                flat = np.full(OUTPUT_RATE_HZ, 0.5, np.float32)
                await live.session.push_audio(flat, OUTPUT_RATE_HZ)
                await live.session.end_utterance()
            await live.spoken()
            sound = heard(live)
            assert set(np.unique(sound)) == {0, np.rint(0.5 * 32767)}
            assert np.count_nonzero(sound) == 3 * OUTPUT_RATE_HZ

    run(main())
