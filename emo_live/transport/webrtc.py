"""WebRTC: answers offers of browsers and WHEP players with connections that are sinks.

One host a process, on the media loop. Encoders run on its threads, so that neither a slow picture nor anybody's work on
the loop's default executor delays another connection.
"""

from __future__ import annotations

import asyncio
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

from aiortc import (
    RTCBundlePolicy,
    RTCConfiguration,
    RTCIceServer,
    RTCIceTransportPolicy,
    RTCPeerConnection,
    RTCSessionDescription,
)

from emo_live.errors import BadInputError, EmoLiveError, NotReadyError, NotSupportedError
from emo_live.transport import rtc_internals
from emo_live.transport.rtc_codecs import INSTALL_AV, CodecName, has_nvenc, working_codecs
from emo_live.transport.rtc_net import IceServer, RtcNet
from emo_live.transport.rtc_offer import Offer, read_offer
from emo_live.transport.rtc_peer import RtcPeer, RtcStats

__all__ = ["IceServer", "RtcHost", "RtcPeer", "RtcSettings", "RtcStats"]

ANSWER_S = 10.0
WARM_UP_S = 5.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RtcSettings:
    """ice_servers: the first STUN and the first TURN server are used. port_range: of UDP, first and last.

    relay_only: media goes through TURN only, so addresses stay private. prefer: the codec if the client has both.
    loopback: offer 127.0.0.1 too; None: where the machine has no other address.
    """

    ice_servers: tuple[IceServer, ...] = ()
    relay_only: bool = False
    port_range: tuple[int, int] | None = None
    max_bitrate_bps: int = 1_500_000
    prefer: CodecName = "h264"
    loopback: bool | None = None

    @property
    def net(self) -> RtcNet:
        """BadInputError for a combination that cannot work."""
        return RtcNet(self.ice_servers, self.relay_only, self.port_range, self.loopback)


class RtcHost:
    """An async context manager that owns its peers: leaving it closes them all."""

    def __init__(self, settings: RtcSettings | None = None) -> None:
        self.settings = settings or RtcSettings()
        self.peers: set[RtcPeer] = set()
        self._net = self.settings.net
        self._workers: ThreadPoolExecutor | None = None

    async def __aenter__(self) -> RtcHost:
        self._workers = ThreadPoolExecutor(os.cpu_count() or 2, thread_name_prefix="emo-live-rtc")
        try:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._workers, has_nvenc)
            if not await loop.run_in_executor(self._workers, working_codecs):
                raise NotSupportedError(f"this build of PyAV encodes neither H.264 nor VP8: {INSTALL_AV}")
            await self._warm_up()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(peer.close() for peer in list(self.peers)))
        if self._workers is not None:
            workers, self._workers = self._workers, None
            await asyncio.to_thread(workers.shutdown)  # at most one picture each

    async def answer(self, offer_sdp: str, *, size: tuple[int, int], receive_audio: bool = False) -> RtcPeer:
        """Answer with every candidate inside. size: (H, W) px of the video on the wire.

        receive_audio: take the client's microphone if it offers one; otherwise we only send, as WHEP wants it.
        BadInputError: the offer is broken or cannot be meant. NotSupportedError: it has no codec of ours.
        NotReadyError: no free UDP port, no relay, or this took too long.
        """
        return await self._answer(offer_sdp, size, receive_audio, self._net)

    async def _answer(self, offer_sdp: str, size: tuple[int, int], receive_audio: bool, net: RtcNet) -> RtcPeer:
        if self._workers is None:
            raise NotReadyError("this RtcHost is not open: use it as an async context manager")
        offer = read_offer(offer_sdp)
        peer = RtcPeer(
            RTCPeerConnection(_configuration(net)),
            offer,
            self._choose(offer),
            size,
            max_bitrate_bps=self.settings.max_bitrate_bps,
            workers=self._workers,
            gone=self.peers.discard,
        )
        self.peers.add(peer)
        try:
            async with asyncio.timeout(ANSWER_S):
                await peer.negotiate(net, receive_audio=receive_audio)
        except BaseException as error:
            await peer.close()
            if isinstance(error, TimeoutError):
                raise NotReadyError("answering took too long: STUN and TURN servers do not reply") from error
            if isinstance(error, EmoLiveError) or not isinstance(error, Exception):
                raise
            # What aiortc says about an offer that our own reader let through: it has no class of errors for that.
            raise BadInputError(f"the offer was refused: {error}") from error
        return peer

    def _choose(self, offer: Offer) -> CodecName:
        order: tuple[CodecName, CodecName] = ("vp8", "h264") if self.settings.prefer == "vp8" else ("h264", "vp8")
        for codec in order:
            if codec in offer.codecs and codec in working_codecs():
                return codec
        raise NotSupportedError("the offer has no video codec that this machine encodes")

    async def _warm_up(self) -> None:
        """One whole connection to ourselves: the first one loads libraries and is five times as slow as later ones."""
        net = RtcNet(loopback=True)
        client = RTCPeerConnection(_configuration(net))
        peer: RtcPeer | None = None
        try:
            async with asyncio.timeout(WARM_UP_S):
                for kind in ("audio", "video"):
                    client.addTransceiver(kind, direction="recvonly")
                rtc_internals.gather_within(client.getTransceivers()[0].receiver.transport.transport, net)
                await client.setLocalDescription(await client.createOffer())
                peer = await self._answer(client.localDescription.sdp, (64, 64), False, net)
                await client.setRemoteDescription(RTCSessionDescription(peer.answer_sdp, "answer"))
                await peer.connected.wait()
        except (TimeoutError, OSError, EmoLiveError) as error:
            _log.warning("warming WebRTC up failed: is UDP on 127.0.0.1 blocked?", extra={"error": repr(error)})
        finally:
            if peer is not None:
                await peer.close()
            await client.close()


def _configuration(net: RtcNet) -> RTCConfiguration:
    servers = [RTCIceServer(list(server.urls), server.username, server.credential) for server in net.ice_servers]
    policy = RTCIceTransportPolicy.RELAY if net.relay_only else RTCIceTransportPolicy.ALL
    return RTCConfiguration(servers, policy, RTCBundlePolicy.MAX_BUNDLE)
