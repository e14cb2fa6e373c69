"""AvatarSession on the test pattern, in virtual time: pairs, turns, bad input, and what is left behind."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from fakes import bundled_avatar, syllables
from virtual_time import VirtualTimeLoop, run

from emo_live import (
    AudioChunk,
    AvatarSession,
    AVPair,
    BadInputError,
    Controls,
    Degraded,
    EngineError,
    Heard,
    MemorySink,
    NotReadyError,
    Recovered,
    SessionClosed,
    StateChanged,
    UtteranceFinished,
    UtteranceStarted,
)
from emo_live.engine.base import EngineFrame
from emo_live.engine.live import EngineFactory, LiveSettings, LiveSpec, PatternEngine, PatternHost
from emo_live.engine.local import LocalPool
from emo_live.engine.test_pattern import read_index
from emo_live.events import Event
from emo_live.types import FPS, STEP_S, Float32

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
    return [bool(np.abs(pair.audio).max() > 300) for pair in pairs]


def check_whole(pairs: list[AVPair]) -> None:
    """Invariants of every stream: indices without holes, shapes, types."""
    assert [pair.index for pair in pairs] == list(range(pairs[0].index, pairs[0].index + len(pairs)))
    for pair in pairs:
        assert pair.video.shape == (256, 256, 3) and pair.video.dtype == np.uint8
        assert pair.audio.shape == (1920,) and pair.audio.dtype == np.int16


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
            for _ in range(30):
                await live.session.push_audio(speech(3.0), RATE)
                await live.session.end_utterance()
                await asyncio.sleep(60)
            tasks = len(asyncio.all_tasks())
            stats = live.session.stats()
            assert stats.pairs == pytest.approx(30 * 60 * FPS, abs=2)
            assert abs(last[0]) < 0.001, "the last pair left on time"
            assert stats.underruns == 0 and stats.clock_jumps == 0
            assert tasks <= 4
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


BAD_SOUND: list[tuple[Any, Any]] = [
    (np.zeros((2, 100), np.float32), RATE),
    (np.zeros(100, np.int32), RATE),
    (np.array(["a"]), RATE),
    (np.array([0.0, np.nan], np.float32), RATE),
    (np.array([0.0, np.inf], np.float64), RATE),
    (np.zeros(100, complex), RATE),
    ([[1.0], [1.0, 2.0]], RATE),
    (None, RATE),
    (b"abc", RATE),
    (np.zeros(100, np.float32), 0),
    (np.zeros(100, np.float32), -8000),
    (np.zeros(100, np.float32), 999),
    (np.zeros(100, np.float32), 10_000_000),
    (np.zeros(100, np.float32), 16_000.5),
    (np.zeros(100, np.float32), "16000"),
    (np.zeros(100, np.float32), None),
]


def test_bad_sound_is_refused_and_leaves_no_trace() -> None:
    async def main() -> None:
        async with stage() as live:
            for pcm, rate_hz in BAD_SOUND:
                with pytest.raises(BadInputError):
                    await live.session.push_audio(pcm, rate_hz)
            assert await live.session.end_utterance() is None
            await live.session.push_audio(np.full(8000, 3.0, np.float32), 11_025)
            await live.session.push_audio(np.full(8000, 0.5, np.float64), 44_100)  # the rate may change
            await live.session.end_utterance()
            await live.spoken()
            assert sum(loud(live.pairs())) in (23, 24)

    run(main())


def test_calls_out_of_order() -> None:
    async def main() -> None:
        session = AvatarSession(bundled_avatar(), engine="pattern", size=256)
        assert session.state == "idle" and session.stats().pairs == 0
        for call in every_call(session):
            with pytest.raises(NotReadyError, match="not open"):
                await call()
        async with stage() as live:
            await live.session.resume()
            assert await live.session.end_utterance() is None
            await live.session.pause()
            await live.session.pause()
            await live.session.interrupt()
            assert live.session.state == "paused"
            await live.session.resume()
            with pytest.raises(NotReadyError, match="once"):
                await live.session.__aenter__()
        for call in every_call(live.session):
            with pytest.raises(NotReadyError, match="over"):
                await call()
        with pytest.raises(NotReadyError):
            live.session.attach(MemorySink())
        live.session.detach(live.sink)
        assert [event async for event in live.session.events()] == [SessionClosed("closed")]
        assert live.session.stats().pairs >= 0

    run(main())


def every_call(session: AvatarSession) -> list[Callable[[], Awaitable[Any]]]:
    async def control() -> None:
        session.control(speed=1)

    return [
        lambda: session.push_audio(speech(0.1), RATE),
        session.end_utterance,
        session.interrupt,
        session.pause,
        session.resume,
        lambda: session.say("Hello."),
        control,
    ]


@pytest.mark.parametrize("options", [{"size": 300}, {"steps": 0}, {"steps": 9}, {"seed": -1}])
def test_options_that_cannot_be_used(options: dict[str, Any]) -> None:
    with pytest.raises(BadInputError):
        AvatarSession(bundled_avatar(), **options)


def test_an_unknown_engine_is_refused() -> None:
    async def main() -> None:
        with pytest.raises(BadInputError, match="no engine 'huge'"):
            await AvatarSession(bundled_avatar(), engine="huge").__aenter__()

    run(main())


def test_a_slow_sink_loses_pairs_and_a_broken_one_goes() -> None:
    class Broken:
        def offer(self, pair: AVPair) -> None:
            raise OSError("gone")

        async def close(self) -> None: ...

    async def main() -> None:
        async with stage() as live:
            slow = MemorySink(3)
            live.session.attach(slow)
            live.session.attach(Broken())
            await asyncio.sleep(2)
            assert len(slow) == 3 and slow.dropped >= 45
            assert len(live.pairs()) >= 49, "the others got all"
            assert live.session.stats().sink_errors == 1

    run(main())


def test_iterating_and_leaving() -> None:
    async def main() -> None:
        async with stage() as live:
            async for pair in live.session:
                if pair.index >= 5:
                    break
            seen = [pair.index async for pair in take(live.session, 10)]
            assert seen == list(range(seen[0], seen[0] + 10))
            task = asyncio.create_task(collect(live.session))
            await asyncio.sleep(1)
        assert len(await asyncio.wait_for(task, 1)) >= 24, "the loop ends with the session"

    async def collect(session: AvatarSession) -> list[AVPair]:
        return [pair async for pair in session]

    async def take(session: AvatarSession, n: int) -> AsyncIterator[AVPair]:
        numbers = itertools.count(1)
        async for pair in session:
            yield pair
            if next(numbers) == n:
                return

    run(main())


def test_close_during_everything() -> None:
    async def main() -> None:
        for after_s in (0.0, 0.01, 0.05, 0.3, 1.0):
            async with stage(speaker=CountingSpeaker(0.1), frame_s=lambda settings: 0.02) as live:
                jobs = [
                    asyncio.create_task(job)
                    for job in (
                        live.session.push_audio(speech(60.0), RATE),
                        live.session.say("One. Two. Three."),
                        live.session.end_utterance(),
                        anext(aiter(live.session)),
                        live.session.pause(),
                    )
                ]
                await asyncio.sleep(after_s)
            results = await asyncio.wait_for(asyncio.gather(*jobs, return_exceptions=True), 1)
            for result in results:
                assert not isinstance(result, BaseException) or isinstance(
                    result, (NotReadyError, StopAsyncIteration)
                ), result
            assert len(asyncio.all_tasks()) == 1

    run(main())


def test_a_session_that_ends_by_itself_ends_loops_and_sinks() -> None:
    async def main() -> None:
        async with stage() as live:
            loop = asyncio.create_task(collect(live.session))
            reading = asyncio.create_task(collect_events(live.stream))
            await asyncio.sleep(0.5)
            live.session.engine_gone("the engine is gone")
            assert await asyncio.wait_for(loop, 1)
            assert (await asyncio.wait_for(reading, 1))[-1] == SessionClosed("the engine is gone")
            assert [pair async for pair in live.sink] == []
            with pytest.raises(NotReadyError, match="the engine is gone"):
                await live.session.push_audio(speech(0.1), RATE)
            await live.session.close()
            await live.session.close()

    async def collect(session: AvatarSession) -> list[AVPair]:
        return [pair async for pair in session]

    async def collect_events(stream: Any) -> list[Event]:
        return [event async for event in stream]

    run(main())


def test_the_session_goes_on_with_another_engine() -> None:
    async def main() -> None:
        async with stage(frame_s=lambda settings: 0.02) as live:
            await live.session.push_audio(speech(2.0), RATE)
            name = await live.session.end_utterance()
            await asyncio.sleep(0.8)
            live.pool.lose(back_after_s=1.5)
            assert name is not None
            before = live.pairs()
            await asyncio.sleep(1.4)
            during = live.pairs()
            assert len(during) == 35 and not any(loud(during[-25:])), "what was made is shown, then silence"
            assert len({pair.video.tobytes() for pair in during[-25:]}) == 1, "and the last picture is held"
            await live.spoken()
            pairs = before + during + live.pairs()
            check_whole(pairs)
            assert sum(loud(pairs)) == 50, "every step was heard once"
            kinds = [type(event) for event in await live.events()]
            assert kinds.index(Degraded) < kinds.index(Recovered) < kinds.index(UtteranceFinished)
            assert live.session.stats().level == 0

    run(main())


def test_a_slow_engine_is_asked_for_less_until_the_face_is_held() -> None:
    def frame_s(settings: LiveSettings) -> float:
        return pace["s"] * (0.9 if settings.small else 1.0) * (0.7 if settings.sparse else 1.0)

    pace = {"s": 0.02}

    async def main() -> None:
        async with stage(frame_s=frame_s, host=LittleHost, size=512) as live:
            await asyncio.sleep(12)
            pace["s"] = 0.05
            await asyncio.sleep(12)
            assert live.session.stats().level == 3, "0.05 * 0.9 * 0.7 s is less than 40 ms"
            assert live.pool.lanes[0].settings[-1].small and live.pool.lanes[0].settings[-1].sparse
            pace["s"] = 0.2
            await asyncio.sleep(4)
            assert live.session.stats().level == 4
            live.pairs()
            await live.session.push_audio(speech(0.8), RATE)
            await live.session.end_utterance()
            await live.spoken()
            speaking = loud(live.pairs())
            first = speaking.index(True)
            assert speaking[first : first + 20] == [True] * 20, "speech goes on"
            pace["s"] = 0.02
            await asyncio.sleep(300)
            assert live.session.stats().level == 0
            assert live.pool.lanes[0].settings[-1] == LiveSettings()
            levels = [event.level for event in await live.events() if isinstance(event, (Degraded, Recovered))]
            assert levels[:3] == [2, 3, 4] and levels[-4:] == [4, 3, 2, 0][-len(levels[-4:]) :]
            moving = live.pairs()[-50:]
            assert len({read_index(pair.video) for pair in moving}) > 40

    run(main())


@pytest.mark.parametrize("jump_s", [0.15, 0.3, 3600.0])
def test_clock_jumps_are_no_jumps_of_media_time(jump_s: float) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        async with stage() as live:
            await asyncio.sleep(1)
            await live.session.push_audio(speech(2.0), RATE)
            await live.session.end_utterance()
            loop.jump(jump_s)
            before = len(live.pairs())
            began = loop.time()
            await live.until(lambda: live.session.state == "idle")
            pairs = live.pairs()
            check_whole(pairs)
            assert sum(loud(pairs)) >= 49 and before <= 27
            assert abs(len(pairs) * STEP_S - (loop.time() - began)) < 0.3, "neither a rush nor a stop"

    run(main())
