"""Waiting for what other tasks and processes do, which know nothing of tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(done: Callable[[], object], timeout_s: float = 5.0) -> None:
    """TimeoutError if it does not come about in time."""
    async with asyncio.timeout(timeout_s):
        while not done():  # noqa: ASYNC110  what is waited for sets no event
            await asyncio.sleep(0.005)
