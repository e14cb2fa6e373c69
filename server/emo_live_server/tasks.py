"""Tasks that have an owner: they end with it, and what goes wrong in one is logged and not lost."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from emo_live_server import logs

_log = logs.get(__name__)


class Tasks:
    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("task failed", task=task.get_name(), error=type(error).__name__, exc_info=error)

    async def close(self) -> None:
        """Cancel all but the calling task and wait until they have ended."""
        others = [task for task in self._running if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        if others:
            # Each was cancelled; none of them waits for anything that takes long in its cleaning up.
            await asyncio.wait(others, timeout=10)
