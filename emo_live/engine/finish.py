"""Runs what must not stop half-way, such as freeing things, to its end, however often whoever waits is cancelled."""

from __future__ import annotations

import asyncio
import contextlib


async def to_its_end(task: asyncio.Task[None]) -> None:
    """Awaits the task, whose waits are bounded; a cancellation is raised when it is done."""
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        raise
