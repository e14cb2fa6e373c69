"""What we rely on in aiortc and aioice beyond what they promise: if a new release changes it, this says what."""

from __future__ import annotations

import asyncio
import inspect
from fractions import Fraction
from importlib import metadata
from typing import Any

import av
import pytest
from aioice import ice
from aiortc import RTCBundlePolicy, RTCConfiguration, RTCPeerConnection, RTCRtpSender, rtcrtpsender
from aiortc.codecs.h264 import H264Encoder
from aiortc.codecs.vpx import Vp8Encoder
from aiortc.rtp import (
    RTCP_PSFB_APP,
    RTCP_PSFB_FIR,
    RTCP_PSFB_PLI,
    RtcpPacket,
    RtcpPsfbPacket,
    RtcpSenderInfo,
    RtcpSrPacket,
    pack_remb_fci,
)

from emo_live.transport import rtc_internals
from emo_live.transport.rtc_net import RtcNet
from emo_live.transport.rtc_tracks import PacketTrack


def packet(size: int = 3000, pts: int = 7200) -> Any:
    made = av.Packet(b"\x00\x00\x00\x01\x65" + bytes(range(1, 251)) * (size // 250))
    made.pts, made.time_base = pts, Fraction(1, 90_000)
    return made


def run_with_connection(check: Any) -> None:
    async def main() -> None:
        connection = RTCPeerConnection(RTCConfiguration([], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))
        try:
            await check(connection)
        finally:
            await connection.close()

    asyncio.run(main())


def test_releases_that_this_was_written_for() -> None:
    """Not a failure by itself: the tests below decide. Raise TESTED_WITH when they pass with a new release."""
    for name, version in rtc_internals.TESTED_WITH.items():
        have, tested = (tuple(map(int, text.split(".")[:2])) for text in (metadata.version(name), version))
        assert have[0] == tested[0], f"{name} {metadata.version(name)}: read what has changed since {version}"
        assert have >= tested


def test_a_sender_keeps_its_encoder_where_we_put_ours() -> None:
    async def check(connection: RTCPeerConnection) -> None:
        sender = connection.addTrack(PacketTrack("video"))
        assert sender._RTCRtpSender__encoder is None  # type: ignore[attr-defined]
        bitrates: list[int] = []
        rtc_internals.send_video_packets(sender, "h264", lambda: None, bitrates.append)
        sender.track.put(packet())  # type: ignore[attr-defined]
        encoded = await sender._next_encoded_frame(None)  # type: ignore[arg-type]
        assert encoded is not None
        assert encoded.timestamp == 7200
        assert len(encoded.payloads) == 3, "cut for the network by our encoder's stand-in, not by a new one"

    run_with_connection(check)


def test_requests_of_the_receiver_reach_us() -> None:
    async def check(connection: RTCPeerConnection) -> None:
        sender = connection.addTrack(PacketTrack("video"))
        asked: list[str] = []
        rtc_internals.send_video_packets(
            sender, "vp8", lambda: asked.append("keyframe"), lambda bps: asked.append(str(bps))
        )
        for kind in (RTCP_PSFB_PLI, RTCP_PSFB_FIR):
            await sender._handle_rtcp_packet(RtcpPsfbPacket(kind, 1, sender._ssrc))
        estimate = pack_remb_fci(640_000, [sender._ssrc])
        await sender._handle_rtcp_packet(RtcpPsfbPacket(RTCP_PSFB_APP, 1, 0, estimate))
        assert asked == ["keyframe", "keyframe", "640000"]

    run_with_connection(check)


def test_other_senders_keep_what_aiortc_gives_them() -> None:
    async def check(connection: RTCPeerConnection) -> None:
        first = connection.addTrack(PacketTrack("video"))
        rtc_internals.send_video_packets(first, "h264", lambda: None, lambda bps: None)
        second = connection.addTrack(PacketTrack("audio"))
        assert second._RTCRtpSender__encoder is None  # type: ignore[attr-defined]
        assert "_send_keyframe" not in vars(second)
        assert rtcrtpsender.get_encoder.__module__ == "aiortc.codecs"

    run_with_connection(check)


def test_audio_is_passed_on_as_it_is() -> None:
    async def check(connection: RTCPeerConnection) -> None:
        sender = connection.addTrack(PacketTrack("audio"))
        rtc_internals.send_audio_packets(sender)
        made = av.Packet(b"opus")
        made.pts, made.time_base = 1920, Fraction(1, 48_000)
        sender.track.put(made)  # type: ignore[attr-defined]
        encoded = await sender._next_encoded_frame(None)  # type: ignore[arg-type]
        assert encoded is not None
        assert (encoded.payloads, encoded.timestamp) == ([b"opus"], 1920)

    run_with_connection(check)


def test_a_report_gives_the_media_time_of_what_was_sent_last() -> None:
    async def check(connection: RTCPeerConnection) -> None:
        sent: list[bytes] = []

        class Transport:
            async def _send_rtp(self, data: bytes) -> None:
                sent.append(data)

        media = rtc_internals.MediaTime()
        moments = []
        for kind, rate_hz, pts in (("video", 90_000, 3 * 3600), ("audio", 48_000, 3 * 1920 + 960)):
            sender = connection.addTrack(PacketTrack(kind))
            rtc_internals.send_audio_packets(sender)  # no cutting: only the time matters here
            rtc_internals.report_media_time(sender, media, rate_hz)
            sender.setTransport(Transport())  # type: ignore[arg-type]
            sender.track.put(packet(250, pts))  # type: ignore[attr-defined]
            await sender._next_encoded_frame(None)  # type: ignore[arg-type]
            info = RtcpSenderInfo(ntp_timestamp=1, rtp_timestamp=2, packet_count=3, octet_count=4)
            await sender._send_rtcp([RtcpSrPacket(sender._ssrc, info)])
            (report,) = RtcpPacket.parse(sent.pop())
            assert isinstance(report, RtcpSrPacket)
            assert (report.sender_info.rtp_timestamp, report.sender_info.packet_count) == (2, 3)
            moments.append(report.sender_info.ntp_timestamp)
            middle = (report.sender_info.ntp_timestamp >> 16) & 0xFFFFFFFF
            assert sender._RTCRtpSender__lsr == middle, "or the round trip is never known"  # type: ignore[attr-defined]
            nothing = RtcpSenderInfo(ntp_timestamp=0, rtp_timestamp=0, packet_count=0, octet_count=0)
            await sender._send_rtcp([RtcpSrPacket(sender._ssrc, nothing)])
            (report,) = RtcpPacket.parse(sent.pop())
            assert report.sender_info.ntp_timestamp == 0  # type: ignore[union-attr]
        assert (moments[1] - moments[0]) / 2**32 == pytest.approx(0.02, abs=1e-6), "the second half of a pair's sound"

    run_with_connection(check)


def test_gathering_is_ours() -> None:
    async def check(connection: RTCPeerConnection) -> None:
        connection.addTransceiver("audio", direction="recvonly")
        connection.addTransceiver("video", direction="recvonly")
        transports = {id(t.receiver.transport.transport) for t in connection.getTransceivers()}
        assert len(transports) == 1, "max-bundle makes one transport"
        transport = connection.getTransceivers()[0].receiver.transport.transport
        rtc_internals.gather_within(transport, RtcNet(loopback=True))
        await connection.setLocalDescription(await connection.createOffer())
        found = [candidate.ip for candidate in transport.iceGatherer.getLocalCandidates()]
        assert found == RtcNet(loopback=True).addresses()
        assert "127.0.0.1" in connection.localDescription.sdp
        await transport.iceGatherer.gather()  # once is enough
        assert len(transport.iceGatherer.getLocalCandidates()) == len(found)

    run_with_connection(check)


@pytest.mark.parametrize("coder", [H264Encoder, Vp8Encoder])
def test_packets_fit_the_network(coder: type[H264Encoder] | type[Vp8Encoder]) -> None:
    payloads, timestamp = coder().pack(packet(6000, pts=3600))
    assert timestamp == 3600
    assert len(payloads) >= 5
    assert max(map(len, payloads)) <= 1300


def test_names_that_are_used_are_there() -> None:
    connection = ice.Connection(ice_controlling=False)
    for name in ("_local_candidates", "_local_candidates_start", "_local_candidates_end", "_protocols"):
        assert hasattr(connection, name), f"aioice.Connection has no {name} any more"
    parameters = inspect.signature(ice.Connection.get_component_candidates).parameters
    assert {"component", "addresses", "timeout"} <= parameters.keys()
    assert list(inspect.signature(ice.server_reflexive_candidate).parameters) == ["protocol", "stun_server"]
    assert inspect.iscoroutinefunction(RTCRtpSender._next_encoded_frame)
