"""The two ends of aiortc that we provide: tracks that give encoded packets, and the reader of a microphone track.

Both run on the media loop. A track never waits for its neighbour: whoever fills both at once makes them leave together.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import av
import numpy as np
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError

from emo_live.types import AudioChunk, Float32

_MAX_PACKETS = 100  # two seconds of sound: a sender that lets so much pile up is dead


class PacketTrack(MediaStreamTrack):
    """wanted: set when the sender asks for its first packet, that is, when media may flow."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.wanted = asyncio.Event()
        self._packets: deque[tuple[float, av.Packet[Any]]] = deque()
        self._changed = asyncio.Event()

    def put(self, packet: av.Packet[Any], not_before: float = 0.0) -> None:
        """not_before: loop time until which the packet is held, unless another one comes after it."""
        if len(self._packets) >= _MAX_PACKETS:
            raise MediaStreamError(f"nobody takes {self.kind} any more")
        self._packets.append((not_before, packet))
        self._changed.set()

    async def recv(self) -> av.Packet[Any]:
        """No timeout: the connection's watch ends a track, and that wakes it."""
        self.wanted.set()
        loop = asyncio.get_running_loop()
        while self.readyState == "live":
            if self._packets and (len(self._packets) > 1 or self._packets[0][0] <= loop.time()):
                return self._packets.popleft()[1]
            self._changed.clear()
            until = self._packets[0][0] if self._packets else None
            try:
                async with asyncio.timeout_at(until):
                    await self._changed.wait()
            except TimeoutError:
                pass
        raise MediaStreamError

    def stop(self) -> None:
        super().stop()
        self._changed.set()


class Microphone:
    """Sound from the other side, always drained; the newest `limit` chunks of 20 ms wait for whoever listens."""

    def __init__(self, limit: int = 50) -> None:
        self.received = self.dropped = 0
        self._chunks: deque[AudioChunk] = deque()
        self._limit = limit
        self._over = False
        self._changed = asyncio.Event()

    async def drain(self, track: MediaStreamTrack) -> None:
        """Until the track ends."""
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            if isinstance(frame, av.AudioFrame):
                self._take(AudioChunk(_mono(frame), frame.sample_rate))

    def _take(self, chunk: AudioChunk) -> None:
        self.received += 1
        if len(self._chunks) == self._limit:
            self._chunks.popleft()
            self.dropped += 1
        self._chunks.append(chunk)
        self._changed.set()

    def end(self) -> None:
        """Whoever listens gets what is there, and then the end."""
        self._over = True
        self._changed.set()

    async def chunks(self) -> AsyncIterator[AudioChunk]:
        """One listener at a time. No timeout: closing the connection ends it."""
        while True:
            while self._chunks:
                yield self._chunks.popleft()
            if self._over:
                return
            self._changed.clear()
            await self._changed.wait()


def _mono(frame: av.AudioFrame) -> Float32:
    """(S,) float32 in [-1, 1] of packed or planar 16-bit sound."""
    samples = frame.to_ndarray()
    channels = len(frame.layout.channels)
    if not frame.format.is_planar:
        samples = samples.reshape(-1, channels).T
    mono: Float32 = samples.mean(axis=0, dtype=np.float32) / np.float32(32768)
    return mono
