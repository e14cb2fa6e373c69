"""An event loop whose clock jumps to the next timer: half an hour of a session runs in seconds, the same every time.

Time passes only when nothing is left to do, so whatever runs is infinitely fast; engines that should take time say so
with timers. Only for code that waits for timers and for its own tasks: real sockets, threads and processes would be
outrun. Threads are let finish: `run` waits for the executor before time jumps on.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _JumpingSelector(selectors.DefaultSelector):
    """Instead of waiting for the next timer it moves the clock there."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0  # not 0: code that takes a time of 0 for "never" would go unnoticed
        self.threads = 0  # jobs on the executor: while there are any, time stands still

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if events or timeout == 0:
            return events
        if self.threads or timeout is None:
            return super().select(1.0 if timeout is None else min(timeout, 1.0))
        self.now += timeout
        return events


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    def jump(self, seconds: float) -> None:
        """Set the clock forwards or backwards, as a suspended machine does."""
        self._jumping.now += seconds

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        self._jumping.threads += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._thread_done)
        return future

    def _thread_done(self, _: Any) -> None:
        self._jumping.threads -= 1


def run(main: Coroutine[Any, Any, T], *, limit_s: float = 7200.0) -> T:
    """asyncio.run in virtual time; limit_s: of virtual seconds, after which TimeoutError says that something hangs."""

    async def limited() -> T:
        async with asyncio.timeout(limit_s):
            return await main

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(limited())
