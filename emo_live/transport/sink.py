"""What a live sink is: the last stop of a pair (a WebRTC connection, a virtual camera, your own code).

A sink owns one bounded queue and whatever task empties it. When the queue is full it drops whole pairs, oldest first,
never a picture without its sound. All methods are called on the media loop; `push` may not wait for anything there.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from emo_live.types import AVPair


@runtime_checkable
class Sink(Protocol):
    """Takes one pair every 40 ms from the pacer. A slow sink loses pairs of its own and delays no other sink."""

    async def open(self) -> None:
        """Get ready to take pairs; returns once `push` may be called. Raises EmoLiveError when it cannot."""

    def push(self, pair: AVPair) -> None:
        """Put a pair into the sink's own queue and return at once. Pairs come in order of `index`, possibly with holes.

        The arrays of the pair are shared with other sinks: read them, never write to them. A sink that is closed or has
        failed ignores the pair.
        """

    async def aclose(self) -> None:
        """Stop, free everything and drop what is still queued. May be called twice, and without `open`."""
