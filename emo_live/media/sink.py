"""Where pairs go: the protocol of live sinks, and a sink that keeps pairs in memory for whoever iterates over it.

A sink owns one bounded queue. When it is full the sink drops whole pairs, never a picture without its sound. All calls
come from the media loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol, runtime_checkable

from emo_live.types import AVPair


@runtime_checkable
class Sink(Protocol):
    """Takes one pair every 40 ms from the pacer. A slow sink loses pairs of its own and delays no other sink."""

    def offer(self, pair: AVPair) -> None:
        """Take a pair and return at once: never blocks, never raises. Pairs come in order of `index`, without holes.

        The arrays are shared with other sinks: read them, never write to them. A closed sink ignores the pair.
        """

    async def close(self) -> None:
        """Stop, free everything, drop what is still queued. May be called twice."""


class MemorySink:
    """Keeps the newest `limit` pairs; `async for pair in sink` takes them. 25 pairs of 512 px are 20 MB.

    dropped: pairs that were lost because nobody took them in time. One reader at a time.
    """

    def __init__(self, limit: int = 25) -> None:
        assert limit > 0, "a sink holds at least one pair"
        self.dropped = 0
        self._pairs: deque[AVPair] = deque()
        self._limit = limit
        self._changed = asyncio.Event()
        self._closed = False

    def offer(self, pair: AVPair) -> None:
        if self._closed:
            return
        if len(self._pairs) == self._limit:
            self._pairs.popleft()
            self.dropped += 1
        self._pairs.append(pair)
        self._changed.set()

    def __len__(self) -> int:
        return len(self._pairs)

    def take(self) -> list[AVPair]:
        """Every pair that waits, without waiting for more."""
        taken = list(self._pairs)
        self._pairs.clear()
        return taken

    def __aiter__(self) -> MemorySink:
        return self

    async def __anext__(self) -> AVPair:
        # No timeout: whoever owns the sink closes it, and the caller may wrap this in one.
        while not self._pairs:
            if self._closed:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        return self._pairs.popleft()

    async def close(self) -> None:
        """Ends the iteration; pairs that still wait are dropped."""
        self._closed = True
        self._pairs.clear()
        self._changed.set()
