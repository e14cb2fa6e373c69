"""The engine process: sessions share it, and it is replaced when it is dead or stuck, while pairs go on."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import LIMIT_S, MortalHost, NeverWarmHost, TroublesomeHost, UnfitHost, limited, order, wait_for
from fakes import bundled_avatar
from waiting import until

from emo_live import (
    AvatarSession,
    BadInputError,
    Degraded,
    EngineError,
    EnginePool,
    MemorySink,
    NotReadyError,
    Recovered,
    SessionClosed,
    StatsReport,
)
from emo_live.engine.test_pattern import read_index


def test_sessions_share_a_process_and_keep_their_own_frames() -> None:
    async def main() -> None:
        async with EnginePool("pattern", max_sessions=2) as pool, asyncio.TaskGroup() as group:
            avatar = bundled_avatar()
            await asyncio.gather(*(group.create_task(listen(pool, avatar, size)) for size in (256, 512)))
            assert pool.stats().sessions == 0

    async def listen(pool: EnginePool, avatar: Any, size: int) -> None:
        async with AvatarSession(avatar, size=size, pool=pool) as session:
            count = 0
            async for pair in session:
                assert pair.video.shape == (size, size, 3)
                shown = read_index(pair.video)
                assert shown is None or shown <= pair.index
                count += 1
                if count == 50:
                    return

    limited(main)


@pytest.mark.parametrize(("how", "reason"), [("kill", "died"), ("stop", "stuck"), ("hang", "stuck"), ("exit", "died")])
def test_a_dead_or_stuck_process_is_replaced_while_pairs_go_on(how: str, reason: str) -> None:
    async def main() -> None:
        async with EnginePool(TroublesomeHost) as pool, AvatarSession(bundled_avatar(), size=256, pool=pool) as session:
            sink = MemorySink(10_000)
            session.attach(sink)
            await session.push_audio(order(0.1, 2.0), 16_000)
            name = await session.end_utterance()
            lost = asyncio.create_task(wait_for(session, Degraded))
            back = asyncio.create_task(wait_for(session, Recovered))
            await asyncio.sleep(0.5)
            old = pool.pid
            if how in ("kill", "stop"):
                os.kill(old, signal.SIGKILL if how == "kill" else signal.SIGSTOP)
            else:
                await session.push_audio(order(0.75 if how == "hang" else 0.95, 0.04), 16_000)
                await session.end_utterance()
            event = await lost
            assert reason in event.reason
            if how in ("hang", "exit"):
                await session.interrupt()  # or the next process gets the same order
            await back
            assert pool.pid != old and pool.stats().restarts == 1
            await asyncio.sleep(0.3)
            pairs = sink.take()
            assert [pair.index for pair in pairs] == list(range(pairs[0].index, pairs[0].index + len(pairs)))
            await until(lambda: session.state == "idle", LIMIT_S)
            pairs += sink.take()
            if how in ("kill", "stop"):
                heard = sum(bool(np.abs(pair.audio).max() > 3000) for pair in pairs)
                assert heard >= 45, f"{name} went on where it had stopped"
            assert session.stats().restarts == 1

    limited(main)


def test_a_replacement_that_dies_as_well_is_replaced(tmp_path: Path) -> None:
    async def main() -> None:
        host = functools.partial(MortalHost, lives=tmp_path / "lives")
        async with EnginePool(host) as pool, AvatarSession(bundled_avatar(), size=256, pool=pool) as session:
            back = asyncio.create_task(wait_for(session, Recovered))
            await asyncio.sleep(0.1)
            os.kill(pool.pid, signal.SIGKILL)
            await back
            assert pool.stats().restarts == 2 and session.stats().restarts == 1, "one trouble to the session"

    limited(main)


def test_an_engine_that_breaks_ends_its_session_and_no_other() -> None:
    async def main() -> None:
        avatar = bundled_avatar()
        async with (
            EnginePool(TroublesomeHost, max_sessions=2) as pool,
            AvatarSession(avatar, size=256, pool=pool) as other,
        ):
            async with AvatarSession(avatar, size=256, pool=pool) as broken:
                over = asyncio.create_task(wait_for(broken, SessionClosed))
                pid = pool.pid
                await broken.push_audio(order(0.5, 3.0), 16_000)
                assert "this engine broke" in (await over).reason
                with pytest.raises(NotReadyError, match="this engine broke"):
                    await broken.push_audio(order(0.1), 16_000)
            pairs = [pair async for pair in first(other, 10)]
            assert len(pairs) == 10 and pool.pid == pid and other.stats().restarts == 0
            assert pool.free() == 1

    async def first(session: AvatarSession, n: int) -> Any:
        async for pair in session:
            yield pair
            n -= 1
            if not n:
                return

    limited(main)


def test_a_session_that_opens_while_the_process_dies_is_told_or_served() -> None:
    async def main() -> None:
        avatar = bundled_avatar()
        async with EnginePool("pattern", max_sessions=3) as pool, AvatarSession(avatar, size=256, pool=pool) as old:
            for delay_s in (0.0, 0.02):
                pid = pool.pid
                opening = asyncio.create_task(AvatarSession(avatar, size=256, pool=pool).__aenter__())
                await asyncio.sleep(delay_s)
                os.kill(pid, signal.SIGKILL)
                try:
                    async with asyncio.timeout(20):
                        session = await opening
                    await session.close()
                except EngineError as error:
                    assert "engine" in str(error)
                await until(lambda pid=pid: pool.pid != pid and pool.stats().ready, LIMIT_S)
                async with AvatarSession(avatar, size=256, pool=pool) as late:
                    async for _ in late:
                        break
            assert pool.stats().sessions == 1
            async for _ in old:
                break

    limited(main)


def test_a_flash_and_its_beep_never_part() -> None:
    async def main() -> None:
        async with AvatarSession(bundled_avatar(), engine="pattern", size=256) as session:
            sink = MemorySink(1000)
            session.attach(sink)
            for _ in range(6):
                await session.push_audio(order(0.1, 1.0), 16_000)
                await asyncio.sleep(0.33)
                await session.interrupt()
            pairs = sink.take()
            previous = None
            for pair in pairs:
                if not np.array_equal(pair.video, previous):  # a held picture has no sound
                    assert (read_index(pair.video) is None) == is_beep(pair.audio)
                previous = pair.video
            assert any(is_beep(pair.audio) for pair in pairs)

    limited(main)


def is_beep(audio: Any) -> bool:
    return bool(np.abs(audio).max() > 10_000)


def test_a_full_pool_refuses_and_says_why() -> None:
    async def main() -> None:
        avatar = bundled_avatar()
        async with EnginePool("pattern", max_sessions=1) as pool:
            async with AvatarSession(avatar, size=256, pool=pool):
                assert pool.free() == 0
                with pytest.raises(NotReadyError, match="full: 1 of 1"):
                    await AvatarSession(avatar, size=256, pool=pool).__aenter__()
            async with AvatarSession(avatar, size=256, pool=pool):
                pass
        with pytest.raises(NotReadyError, match="closed"):
            await AvatarSession(avatar, size=256, pool=pool).__aenter__()

    limited(main)


def test_admission_follows_what_a_frame_takes() -> None:
    pool = EnginePool("pattern")
    assert pool.free() == 1, "one, until something is known"
    for work_ms, sessions in ((5.0, 6), (20.0, 1), (15.0, 2), (200.0, 1)):
        pool.work_ms = work_ms
        assert pool.free() == sessions


@pytest.mark.parametrize(
    ("host", "words"), [(UnfitHost, "died"), (NeverWarmHost, "damaged"), (lambda threads, checkpoint: None, "top of a")]
)
def test_an_engine_that_cannot_start_says_why(host: Any, words: str) -> None:
    async def main() -> None:
        with pytest.raises((EngineError, BadInputError), match=words):
            await AvatarSession(bundled_avatar(), engine=host, size=256).__aenter__()

    limited(main)


def test_a_session_whose_engine_cannot_open_leaves_the_pool_usable() -> None:
    async def main() -> None:
        async with EnginePool(TroublesomeHost, max_sessions=1) as pool:
            with pytest.raises(EngineError, match="unlucky"):
                await AvatarSession(bundled_avatar(), size=256, seed=13, pool=pool).__aenter__()
            async with AvatarSession(bundled_avatar(), size=256, pool=pool) as session:
                async for _ in session:
                    break

    limited(main)


def test_closing_the_pool_ends_its_sessions() -> None:
    async def main() -> None:
        pool = await EnginePool("pattern").__aenter__()
        async with AvatarSession(bundled_avatar(), size=256, pool=pool) as session:
            over = asyncio.create_task(wait_for(session, SessionClosed))
            await asyncio.sleep(0.2)
            await pool.close()
            await pool.close()
            assert "pool was closed" in (await over).reason
            assert [pair async for pair in session_pairs(session)] == []

    async def session_pairs(session: AvatarSession) -> Any:
        try:
            async for pair in session:
                yield pair
        except NotReadyError:
            return

    limited(main)


@pytest.mark.parametrize("values", [{"threads": 0}, {"max_sessions": 0}])
def test_pool_options_that_cannot_be_used(values: dict[str, int]) -> None:
    with pytest.raises(BadInputError):
        EnginePool("pattern", **values)  # type: ignore[arg-type]


def test_reports_come_once_a_second() -> None:
    async def main() -> None:
        async with AvatarSession(bundled_avatar(), engine="pattern", size=256) as session:
            report = await wait_for(session, StatsReport)
            assert report.stats.pairs > 0 and report.stats.as_dict()["level"] == 0

    limited(main)
