"""What a receiver can know of what belongs together: timestamps, sender reports, and when it arrives."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from aiortc import clock
from aiortc.rtp import RtcpSrPacket

from emo_live.engine.test_pattern import read_index
from emo_live.transport.rtc_codecs import PairEncoder
from emo_live.transport.webrtc import RtcHost, RtcSettings
from emo_live.types import FPS
from tests.interop.aiortc_player import connected, pace, run


def test_reports_give_media_time_however_late_packets_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """What receivers align sound and picture by (RFC 3550, section 6.4.1), from a sender whose encoder stumbles."""
    encode = PairEncoder.encode

    def stumble(self: PairEncoder, video: Any, audio: Any, position: int, **rest: Any) -> Any:
        time.sleep(0.03 * (position % 4))
        return encode(self, video, audio, position, **rest)

    monkeypatch.setattr(PairEncoder, "encode", stumble)
    first: dict[str, int] = {}
    reported: dict[str, list[float]] = {"audio": [], "video": []}
    rates = {"audio": 48_000, "video": 90_000}

    def listen(receiver: Any) -> None:
        kind, rtp, rtcp = receiver.track.kind, receiver._handle_rtp_packet, receiver._handle_rtcp_packet

        async def on_rtp(packet: Any, arrival_time_ms: int) -> None:
            first.setdefault(kind, packet.timestamp)
            await rtp(packet, arrival_time_ms)

        async def on_rtcp(packet: Any) -> None:
            if isinstance(packet, RtcpSrPacket) and packet.sender_info.ntp_timestamp:
                info = packet.sender_info
                since_first = ((info.rtp_timestamp - first[kind]) & 0xFFFFFFFF) / rates[kind]
                reported[kind].append(info.ntp_timestamp / 2**32 - since_first)
            await rtcp(packet)

        receiver._handle_rtp_packet, receiver._handle_rtcp_packet = on_rtp, on_rtcp

    async def main(host: RtcHost) -> None:
        async with connected(host) as (seen, peer):
            for receiver in seen.connection.getReceivers():
                listen(receiver)
            while min(map(len, reported.values())) < 3:
                await pace(peer, 5, peer.stats().pairs_sent)
            began = [*reported["audio"], *reported["video"]]
            assert max(began) - min(began) < 0.001, "when the first pair was, by each of the reports"
            assert began[0] == pytest.approx(clock.current_ntp_time() / 2**32, abs=60)
            assert peer.stats().rtt_ms is not None, "the client's reports still refer to ours"

    run(main)


@pytest.mark.parametrize("codec", ["h264", "vp8"])
def test_flash_and_beep_arrive_together(codec: Any) -> None:
    async def main(host: RtcHost) -> None:
        async with connected(host) as (seen, peer):
            await pace(peer, 2 * FPS + 5)
            assert peer.stats().codec == codec
        indexes = [read_index(frame.to_ndarray(format="rgb24")) for _, frame in seen.frames["video"]]
        # Media time, from the timestamps on the wire: both begin with pair 0.
        flashes = [frame.pts / 90_000 for _, frame in seen.frames["video"]]
        flashes = [at for at, index in zip(flashes, indexes, strict=True) if index is None]
        beeps = [f.pts / 48_000 for _, f in seen.frames["audio"] if np.abs(f.to_ndarray()).max() > 8000]
        assert flashes == pytest.approx([0, 1, 2])
        assert [at for at in beeps if at % 1 < 0.001] == pytest.approx([0, 1, 2])
        # Wall time: the player's own jitter buffers (80 ms of sound, one picture) are all there may be between them.
        flashed = [at for (at, _), index in zip(seen.frames["video"], indexes, strict=True) if index is None]
        beeped = [at for at, f in seen.frames["audio"] if np.abs(f.to_ndarray()).max() > 8000 and f.pts % 48_000 < 960]
        assert np.median(np.subtract(beeped, flashed)) == pytest.approx(0.05, abs=0.08)
        assert {f.pts for _, f in seen.frames["audio"]} >= set(range(0, 2 * 48_000, 960)), "no jump in sound"
        shown = [index for index in indexes if index is not None]
        assert shown == sorted(shown)

    run(main, RtcSettings(loopback=True, prefer=codec))
