"""AvatarSession in virtual time: interrupts, pauses, and texts that are spoken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest
from stage import RATE, CountingSpeaker, check_whole, loud, speech, stage
from virtual_time import run

from emo_live import (
    AudioChunk,
    BadInputError,
    Controls,
    EngineError,
    Heard,
    UtteranceFinished,
)
from emo_live.engine.test_pattern import read_index


@pytest.mark.parametrize("frame_s", [0.0, 0.02])
def test_interrupt_is_silence_from_the_next_pair_on(frame_s: float) -> None:
    async def main() -> None:
        async with stage(frame_s=lambda settings: frame_s) as live:
            for k in range(20):
                await live.session.push_audio(speech(3.0), RATE)
                await asyncio.sleep(0.5 + 0.009 * k)
                before = live.pairs()
                heard = await live.session.interrupt()
                n_heard = sum(loud(before)) if k == 0 else round(heard.ms / 40)
                assert heard == Heard(f"u{k + 1}", n_heard * 40)
                await asyncio.sleep(0.5)
                after = live.pairs()
                assert not any(loud(after)), "not one pair of it is heard any more"
                moving = [read_index(pair.video) for pair in after]
                assert len(set(moving[:8])) > 1, "the face goes on within 300 ms"
                assert live.session.state == "idle"
            finished = [event for event in await live.events() if isinstance(event, UtteranceFinished)]
            assert len(finished) == 20 and all(event.interrupted for event in finished)

    run(main())


def test_interrupt_without_speech_is_nothing() -> None:
    async def main() -> None:
        async with stage() as live:
            epoch = live.pool.lanes[0].epoch
            for _ in range(50):
                assert await live.session.interrupt() == Heard(None, 0)
            assert live.pool.lanes[0].epoch == epoch, "the idle face does not even notice"

    run(main())


def test_fifty_interrupts_a_second_between_words() -> None:
    async def main() -> None:
        async with stage(frame_s=lambda settings: 0.02) as live:
            for _ in range(200):
                await live.session.push_audio(speech(0.5), RATE)
                await asyncio.sleep(0.02)
                await live.session.interrupt()
            await asyncio.sleep(1)
            check_whole(live.pairs())
            assert live.session.state == "idle" and live.session.stats().level == 0
            await live.session.push_audio(speech(0.4), RATE)
            await live.session.end_utterance()
            await live.spoken()
            assert sum(loud(live.pairs())) == 10

    run(main())


def test_pause_keeps_what_was_not_heard() -> None:
    async def main() -> None:
        async with stage(frame_s=lambda settings: 0.02) as live:
            sound = speech(2.0)
            await live.session.push_audio(sound, RATE)
            name = await live.session.end_utterance()
            await asyncio.sleep(0.7)
            await live.session.pause()
            before = live.pairs()
            await asyncio.sleep(5)
            assert live.session.state == "paused"
            during = live.pairs()
            assert not any(loud(during))
            assert len({read_index(pair.video) for pair in during}) > 100, "the face idles"
            await live.session.resume()
            await live.spoken()
            after = live.pairs()
            heard = [pair.audio for pair, is_loud in zip(before + after, loud(before + after), strict=True) if is_loud]
            assert len(heard) == 50, "every step once"
            expected = np.interp(np.arange(96_000) / 48_000, np.arange(len(sound)) / RATE, sound) * 32767
            assert np.abs(np.concatenate(heard)[500:-500] - expected[500:-500]).mean() < 300, "and in order"
            assert UtteranceFinished(str(name), 2000, interrupted=False) in await live.events()

    run(main())


def test_control_reaches_the_engine_while_it_speaks() -> None:
    async def main() -> None:
        async with stage() as live:
            live.session.control(speed=9)
            live.session.control(motion=0.5)
            assert live.pool.lanes[0].settings[-1].controls == Controls(9, 0.5)
            with pytest.raises(BadInputError, match="speed"):
                live.session.control(speed=99)

    run(main())


def test_say_speaks_sentence_by_sentence() -> None:
    async def main() -> None:
        speaker = CountingSpeaker(0.3)
        async with stage(speaker=speaker) as live:
            name = await live.session.say("One. Two. Three.")
            assert speaker.asked <= 2, "it did not wait for all of it"
            await live.spoken()
            assert UtteranceFinished(name, 1200, interrupted=False) in await live.events()
            assert speaker.closed
            with pytest.raises(BadInputError, match="nobody"):
                await live.session.say("One.", voice="nobody")
            with pytest.raises(BadInputError, match="no text"):
                await live.session.say("  ")
            await asyncio.sleep(0.2)
            assert live.session.state == "idle", "a failed voice leaves nothing that waits"

    run(main())


def test_texts_and_sound_wait_for_each_other() -> None:
    async def main() -> None:
        async with stage(speaker=CountingSpeaker()) as live:
            await live.session.push_audio(speech(0.4), RATE)  # and is never ended
            second = await live.session.say("One. Two. Three.")
            await live.session.push_audio(speech(0.2), RATE)
            third = await live.session.end_utterance()
            await live.spoken()
            finished = [event for event in await live.events() if isinstance(event, UtteranceFinished)]
            assert [(event.utterance, event.heard_ms) for event in finished] == [
                ("u1", 400),
                (second, 1200),
                (third, 200),
            ]

    run(main())


def test_interrupt_stops_the_voice() -> None:
    async def main() -> None:
        speaker = CountingSpeaker(0.2)
        async with stage(speaker=speaker) as live:
            name = await live.session.say("One. Two. Three.")
            assert (await live.session.interrupt()).utterance == name
            await asyncio.sleep(2)
            assert speaker.closed and speaker.asked <= 2
            assert not any(loud(live.pairs()[3:]))

            async def interrupt_soon() -> None:
                await asyncio.sleep(0.1)
                await live.session.interrupt()

            async with asyncio.TaskGroup() as group:
                group.create_task(interrupt_soon())
                saying = group.create_task(live.session.say("One. Two."))
            assert saying.result() == "u2", "interrupted before the first sound: said, and over"
            assert live.session.state == "idle"

    run(main())


def test_a_voice_that_breaks_says_so() -> None:
    class Broken:
        async def speak(self, text: str, voice: str | None) -> AsyncIterator[AudioChunk]:
            raise RuntimeError("no more air")
            yield

    async def main() -> None:
        async with stage(speaker=Broken()) as live:
            with pytest.raises(EngineError, match="no more air"):
                await live.session.say("Hello.")
            assert live.session.state == "idle"

    run(main())
