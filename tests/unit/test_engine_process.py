"""The engine process: sessions share it, it is replaced when it is dead or stuck, and nothing of it stays behind."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import bundled_avatar

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
from emo_live.engine.base import EngineFrame
from emo_live.engine.live import Checkpoint, LiveEngine, LiveSpec, PatternEngine, PatternHost
from emo_live.engine.test_pattern import read_index

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
            await until(lambda: session.state == "idle")
            pairs += sink.take()
            if how in ("kill", "stop"):
                heard = sum(bool(np.abs(pair.audio).max() > 3000) for pair in pairs)
                assert heard >= 45, f"{name} went on where it had stopped"
            assert session.stats().restarts == 1

    limited(main)


async def until(done: Callable[[], bool]) -> None:
    for _ in range(round(LIMIT_S / 0.05)):
        if done():
            return
        await asyncio.sleep(0.05)


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
                await until(lambda pid=pid: pool.pid != pid and pool.stats().ready)
                async with AvatarSession(avatar, size=256, pool=pool) as late:
                    async for _ in late:
                        break
            assert pool.stats().sessions == 1
            async for _ in old:
                break

    limited(main)


def test_closing_is_finished_however_often_it_is_cancelled() -> None:
    async def main() -> None:
        async def live() -> None:
            async with AvatarSession(bundled_avatar(), engine="pattern", size=256) as session:
                async for _ in session:
                    await asyncio.sleep(10)

        before = children()
        for cancel_after_s in (0.0, 0.3, 1.5):
            task = asyncio.create_task(live())
            await asyncio.sleep(cancel_after_s)
            for _ in range(3):
                task.cancel()
                await asyncio.sleep(0.001)
            with pytest.raises(asyncio.CancelledError):
                await task
            assert children() == before

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


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def leftovers() -> tuple[int, int, int]:
    """Open descriptors, child processes, threads."""
    gc.collect()
    return len(os.listdir("/proc/self/fd")), len(children()), len(os.listdir("/proc/self/task"))


def mapped_bytes() -> int:
    """Of memory shared with engine processes."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    return sum(int(e, 16) - int(b, 16) for b, e in (m.split()[0].split("-") for m in maps if "emo-live" in m))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="counts what Linux tells of a process")
def test_fifty_sessions_leave_nothing_behind() -> None:
    async def main() -> None:
        avatar = bundled_avatar()
        async with EnginePool("pattern", max_sessions=2) as pool:
            async with AvatarSession(avatar, size=256, pool=pool):
                await asyncio.sleep(0.05)
            before, tasks = leftovers(), len(asyncio.all_tasks())
            for number in range(50):
                async with AvatarSession(avatar, size=256, pool=pool) as session:
                    sink = MemorySink()
                    session.attach(sink)
                    if number % 5 == 0:
                        await session.push_audio(order(0.1), 16_000)
                        await asyncio.sleep(0.02)
                        await session.interrupt()
            del session, sink
            assert len(asyncio.all_tasks()) == tasks
            fds, n_children, threads = leftovers()
            assert (fds, n_children) == before[:2] and threads <= before[2] + 4, "the executor may have grown"
            assert mapped_bytes() <= 4096 * 2, "two heartbeats at most"
            assert pool.stats().sessions == 0 and pool.stats().restarts == 0

    before = leftovers()
    limited(main)
    fds, n_children, _ = leftovers()
    assert fds <= before[0] and n_children <= before[1]


def test_pools_leave_nothing_behind_either() -> None:
    async def main() -> None:
        for _ in range(3):
            async with AvatarSession(bundled_avatar(), engine="pattern", size=256) as session:
                async for _ in session:
                    break

    limited(main)
    before = leftovers()
    limited(main)
    fds, n_children, _ = leftovers()
    assert fds <= before[0] and n_children <= before[1]


def test_an_engine_process_ends_with_its_parent(tmp_path: Path) -> None:
    code = (
        "import asyncio, os, emo_live\n"
        "async def main():\n"
        "    pool = await emo_live.EnginePool('pattern').__aenter__()\n"
        "    print(pool.pid, flush=True)\n"
        "    os._exit(9)\n"
        "asyncio.run(main())\n"
    )

    async def main() -> None:
        import sys

        child = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
        assert child.stdout is not None
        pid = int(await child.stdout.readline())
        await child.wait()
        await until(lambda: not lives(pid))

    limited(main)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_reports_come_once_a_second() -> None:
    async def main() -> None:
        async with AvatarSession(bundled_avatar(), engine="pattern", size=256) as session:
            report = await wait_for(session, StatsReport)
            assert report.stats.pairs > 0 and report.stats.as_dict()["level"] == 0

    limited(main)
