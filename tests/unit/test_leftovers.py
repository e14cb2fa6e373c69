"""Sessions and pools leave nothing behind: no descriptors, processes, tasks or memory, however they end."""

from __future__ import annotations

import asyncio
import gc
import os
from pathlib import Path

import pytest
from engines import LIMIT_S, limited, order
from fakes import bundled_avatar
from waiting import until

from emo_live import (
    AvatarSession,
    EnginePool,
    MemorySink,
)


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def leftovers() -> tuple[int, int, int]:
    """Open descriptors, child processes, threads."""
    gc.collect()
    return len(os.listdir("/proc/self/fd")), len(children()), len(os.listdir("/proc/self/task"))


def mapped_bytes() -> int:
    """Of memory shared with engine processes."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    return sum(int(e, 16) - int(b, 16) for b, e in (m.split()[0].split("-") for m in maps if "memfd:emo-live" in m))


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
        await until(lambda: not lives(pid), LIMIT_S)

    limited(main)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False
