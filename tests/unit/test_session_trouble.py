"""AvatarSession in virtual time: bad input, calls out of order, slow sinks, lost and slow engines, the end."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from fakes import bundled_avatar
from stage import RATE, CountingSpeaker, LittleHost, check_whole, loud, speech, stage
from virtual_time import VirtualTimeLoop, run

from emo_live import (
    AvatarSession,
    AVPair,
    BadInputError,
    Degraded,
    MemorySink,
    NotReadyError,
    Recovered,
    SessionClosed,
    UtteranceFinished,
)
from emo_live.engine.live import LiveSettings
from emo_live.engine.test_pattern import read_index
from emo_live.events import Event
from emo_live.types import STEP_S

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
