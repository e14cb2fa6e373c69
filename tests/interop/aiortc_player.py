"""A player made of aiortc: what a browser does, in the same loop, with everything that arrives kept."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
import numpy as np
from aiortc import (
    MediaStreamTrack,
    RTCBundlePolicy,
    RTCConfiguration,
    RTCIceServer,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError
from waiting import until

from emo_live.engine.test_pattern import beep, picture
from emo_live.transport import rtc_internals
from emo_live.transport.rtc_net import RtcNet
from emo_live.transport.webrtc import RtcHost, RtcPeer, RtcSettings
from emo_live.types import STEP_S, AVPair

SIZE = 128
NET = RtcNet(loopback=True)  # tests run on machines without a network too
SETTINGS = RtcSettings(loopback=True)


class ToneTrack(MediaStreamTrack):
    """A microphone that hums at 440 Hz, 20 ms at a time."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self._samples = 0
        self._start: float | None = None

    async def recv(self) -> av.AudioFrame:
        loop = asyncio.get_running_loop()
        self._start = self._start or loop.time()
        await asyncio.sleep(max(0.0, self._start + self._samples / 48_000 - loop.time()))
        t = (np.arange(960) + self._samples) / 48_000
        frame = av.AudioFrame.from_ndarray(
            (np.sin(2 * np.pi * 440 * t) * 8000).astype(np.int16)[None], format="s16", layout="mono"
        )
        frame.sample_rate, frame.pts, frame.time_base = 48_000, self._samples, Fraction(1, 48_000)
        self._samples += 960
        return frame


@dataclass
class Player:
    """frames: by kind, with the loop time at which they were decoded."""

    connection: RTCPeerConnection
    frames: dict[str, list[tuple[float, Any]]] = field(default_factory=lambda: {"audio": [], "video": []})
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def keep(self, track: MediaStreamTrack) -> None:
        async def read() -> None:
            with contextlib.suppress(MediaStreamError):
                while True:
                    frame = await track.recv()
                    self.frames[track.kind].append((asyncio.get_running_loop().time(), frame))

        self.tasks.append(asyncio.ensure_future(read()))

    async def offer(self) -> str:
        await self.connection.setLocalDescription(await self.connection.createOffer())
        return self.connection.localDescription.sdp

    async def accept(self, answer: str) -> None:
        await self.connection.setRemoteDescription(RTCSessionDescription(answer, "answer"))

    def vanish(self) -> None:
        """As if the cable was cut: nothing is sent or received any more, and nothing is said."""
        connection = self.connection.getTransceivers()[0].receiver.transport.transport._connection
        for protocol in connection._protocols:
            protocol.datagram_received = lambda data, addr: None  # type: ignore[method-assign]
            protocol.transport.sendto = lambda data, addr=None: None  # type: ignore[method-assign]


def run(main: Callable[[RtcHost], Awaitable[None]], settings: RtcSettings = SETTINGS) -> None:
    async def with_host() -> None:
        async with asyncio.timeout(60), RtcHost(settings) as host:
            await main(host)
            await asyncio.gather(*(peer.close() for peer in list(host.peers)))
            assert not host.peers

    asyncio.run(with_host())


@contextlib.asynccontextmanager
async def player(
    *,
    microphone: bool = False,
    net: RtcNet = NET,
    ice_servers: list[RTCIceServer] | None = None,
    kinds: tuple[str, str] = ("audio", "video"),
) -> AsyncIterator[Player]:
    configuration = RTCConfiguration(ice_servers or [], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE)
    made = Player(RTCPeerConnection(configuration))
    for kind in kinds:
        if kind == "audio" and microphone:
            made.connection.addTrack(ToneTrack())
        else:
            made.connection.addTransceiver(kind, direction="recvonly")
    made.connection.on("track", made.keep)
    rtc_internals.gather_within(made.connection.getTransceivers()[0].receiver.transport.transport, net)
    try:
        yield made
    finally:
        await made.connection.close()
        for task in made.tasks:
            task.cancel()
        await asyncio.gather(*made.tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def connected(
    host: RtcHost, *, receive_audio: bool = False, **kwargs: Any
) -> AsyncIterator[tuple[Player, RtcPeer]]:
    """A player that sees what a new peer of the host sends."""
    async with player(**kwargs) as made:
        peer = await host.answer(await made.offer(), size=(SIZE, SIZE), receive_audio=receive_audio)
        await made.accept(peer.answer_sdp)
        async with asyncio.timeout(10):
            await peer.connected.wait()
        yield made, peer


async def pace(peer: RtcPeer, steps: int, start: int = 0, make: Callable[[int], AVPair] | None = None) -> None:
    """Offer pairs of the pattern at 25 a second, or as fast as a busy machine sends them."""
    loop = asyncio.get_running_loop()
    begun, before = loop.time(), handled(peer)
    for step in range(steps):
        index = start + step
        peer.offer(make(index) if make else AVPair(index, picture(index, SIZE), beep(index)))
        await asyncio.sleep(max(0.0, begun + (step + 1) * STEP_S - loop.time()))
        await until(lambda offered=step + 1: handled(peer) - before >= offered or peer.closed.is_set(), 10)  # type: ignore[misc]


def handled(peer: RtcPeer) -> int:
    """Pairs that a peer has sent or dropped."""
    stats = peer.stats()
    return stats.pairs_sent + stats.pairs_dropped
