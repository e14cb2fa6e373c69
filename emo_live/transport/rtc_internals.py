"""The only module that touches what aiortc and aioice do not promise to keep; test_rtc_internals.py notices changes.

| what | why |
|---|---|
| RTCRtpSender.__encoder, set before it starts | we encode pairs ourselves; aiortc only cuts packets for the network |
| RTCRtpSender._send_keyframe, on the object | the receiver's PLI and FIR reach our encoder |
| RTCRtpSender._send_rtcp, on the object; RTCRtpSender.__lsr | sender reports give media time, not the time of sending |
| Encoder.target_bitrate | the receiver's REMB reaches our rate control |
| H264Encoder.pack, Vp8Encoder.pack | RFC 6184 and RFC 7741 packets out of encoded pictures |
| Connection.gather_candidates, on the object | UDP port range, loopback, and a short wait for a dead STUN server |

Everything is set on single objects: other users of aiortc in the same process notice nothing.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
from collections.abc import Callable
from typing import Any

import av
from aioice.candidate import Candidate, candidate_foundation, candidate_priority
from aioice.ice import Connection, StunProtocol, server_reflexive_candidate
from aiortc import RTCIceTransport, RTCRtpSender, clock
from aiortc.codecs.base import Encoder
from aiortc.codecs.h264 import H264Encoder
from aiortc.codecs.vpx import Vp8Encoder
from aiortc.rtp import AnyRtcpPacket, RtcpSrPacket

from emo_live.transport.rtc_codecs import CodecName
from emo_live.transport.rtc_net import LOOPBACK, RtcNet

TESTED_WITH = {"aiortc": "1.16", "aioice": "0.13"}

_STUN_WAIT_S = 1.0  # a server that answers does so within a few round trips
_TURN_WAIT_S = 3
_RECEIVE_BUFFER_BYTES = 262_144
_COMPONENT = 1  # RTP and RTCP share it

_log = logging.getLogger(__name__)


def own_encoder(codec: CodecName) -> H264Encoder | Vp8Encoder:
    """aiortc's: for cutting packets, and for comparing."""
    return H264Encoder() if codec == "h264" else Vp8Encoder()


class _Packets(Encoder):
    """Stands where aiortc keeps its encoder and passes on what is encoded already."""

    def __init__(self, pack: Callable[[av.Packet[Any]], tuple[list[bytes], int]]) -> None:
        self._pack = pack
        self.newest = 0  # media time of what was sent last, in ticks of the RTP clock

    def encode(self, frame: Any, force_keyframe: bool = False) -> tuple[list[bytes], int]:
        raise AssertionError("our tracks give packets, never frames")

    def pack(self, packet: av.Packet[Any]) -> tuple[list[bytes], int]:
        payloads, self.newest = self._pack(packet)
        return payloads, self.newest


class _VideoPackets(_Packets):
    def __init__(self, codec: CodecName, on_bitrate: Callable[[int], None]) -> None:
        super().__init__(own_encoder(codec).pack)
        self._on_bitrate, self._bps = on_bitrate, 0

    @property
    def target_bitrate(self) -> int:
        return self._bps

    @target_bitrate.setter
    def target_bitrate(self, bps: int) -> None:
        self._bps = bps
        self._on_bitrate(bps)


def send_video_packets(
    sender: RTCRtpSender, codec: CodecName, on_keyframe: Callable[[], None], on_bitrate: Callable[[int], None]
) -> None:
    """on_keyframe: the receiver needs one. on_bitrate: bits a second that the receiver estimates."""
    sender._RTCRtpSender__encoder = _VideoPackets(codec, on_bitrate)  # type: ignore[attr-defined]
    sender._send_keyframe = on_keyframe  # type: ignore[method-assign]


def send_audio_packets(sender: RTCRtpSender) -> None:
    """Opus needs no cutting: one packet of the encoder is one of the network (RFC 7587, section 4.2)."""
    sender._RTCRtpSender__encoder = _Packets(lambda packet: ([bytes(packet)], packet.pts or 0))  # type: ignore[attr-defined]


class MediaTime:
    """When a moment of one connection's media was, as an NTP timestamp (64 bits, RFC 3550, section 4).

    One for all its senders: what happened together has the same timestamp, however late either was sent.
    """

    def __init__(self) -> None:
        self._begin: int | None = None

    def ntp(self, ticks: int, rate_hz: int) -> int:
        since = (ticks << 32) // rate_hz
        if self._begin is None:
            self._begin = clock.current_ntp_time() - since
        return self._begin + since


def report_media_time(sender: RTCRtpSender, media: MediaTime, rate_hz: int) -> None:
    """After send_*_packets. aiortc reports when a packet left, so that a sender's own delays become a receiver's skew
    between sound and picture; what shall be reported is when its content was (RFC 3550, section 6.4.1)."""
    send = sender._send_rtcp
    sent: _Packets = sender._RTCRtpSender__encoder  # type: ignore[attr-defined]

    async def send_rtcp(packets: list[AnyRtcpPacket]) -> None:
        for packet in packets:
            # Zero: nothing was sent yet, and there is nothing to say.
            if isinstance(packet, RtcpSrPacket) and packet.sender_info.ntp_timestamp:
                packet.sender_info.ntp_timestamp = ntp = media.ntp(sent.newest, rate_hz)
                # What the receiver's report will refer to, for the round trip (RFC 3550, section 6.4.1).
                sender._RTCRtpSender__lsr = (ntp >> 16) & 0xFFFFFFFF  # type: ignore[attr-defined]
        await send(packets)

    sender._send_rtcp = send_rtcp  # type: ignore[method-assign]


def gather_within(transport: RTCIceTransport, net: RtcNet) -> None:
    """Have a transport that has not gathered yet do so by our rules."""
    connection: Connection = transport._connection
    connection.gather_candidates = functools.partial(_gather, connection, net)  # type: ignore[method-assign]


async def _gather(connection: Connection, net: RtcNet) -> None:
    """As Connection.gather_candidates. Raises NotReadyError if every port of the range is taken."""
    if connection._local_candidates_start:
        return
    connection._local_candidates_start = True
    protocols = []
    for address in net.addresses():
        try:
            protocols.append(await _listen(connection, address, net))
        except OSError as error:  # an address that is just going away
            _log.info("no candidate for an address", extra={"address": address, "error": str(error)})
    hosts = [protocol.local_candidate for protocol in protocols]
    found = await asyncio.gather(_reflexive(connection, protocols), _relayed(connection))
    connection._local_candidates += [*hosts, *found[0], *found[1]]
    connection._local_candidates_end = True


async def _listen(connection: Connection, address: str, net: RtcNet) -> StunProtocol:
    bound = net.socket(address)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_datagram_endpoint(lambda: StunProtocol(connection), sock=bound)
    except BaseException:
        bound.close()
        raise
    connection._protocols.append(protocol)  # from here on the connection closes it
    host, port = bound.getsockname()[:2]
    protocol.local_candidate = Candidate(
        foundation=candidate_foundation("host", "udp", host),
        component=_COMPONENT,
        transport="udp",
        priority=candidate_priority(_COMPONENT, "host"),
        host=host,
        port=port,
        type="host",
    )
    return protocol


async def _reflexive(connection: Connection, protocols: list[StunProtocol]) -> list[Candidate]:
    """How the outside sees our sockets, as far as the STUN server answers in time."""
    server = connection.stun_server
    if server is None:
        return []
    asked = [
        asyncio.create_task(server_reflexive_candidate(protocol, server))
        for protocol in protocols
        if ":" not in protocol.local_candidate.host and protocol.local_candidate.host != LOOPBACK
    ]
    if not asked:
        return []
    done, late = await asyncio.wait(asked, timeout=_STUN_WAIT_S)
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    return [task.result()[0] for task in done if task.exception() is None]


async def _relayed(connection: Connection) -> list[Candidate]:
    if connection.turn_server is None:
        return []
    return await connection.get_component_candidates(_COMPONENT, addresses=[], timeout=_TURN_WAIT_S)
