"""A connection through a network that loses packets: what is seen and heard keeps its time."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from emo_live.engine.test_pattern import read_index
from emo_live.transport.webrtc import RtcHost, RtcSettings
from emo_live.types import OUTPUT_RATE_HZ
from emo_live_server.browser_bench.lossy import LossyPath, redirected, target_of, without_candidates
from tests.interop.aiortc_player import SIZE, pace, player

ANSWER = (
    "v=0\r\nm=audio 9 X 111\r\na=candidate:1 1 udp 1 fe80::1 5 typ host\r\n"
    "a=candidate:2 1 udp 1 192.0.2.1 7 typ host\r\n"
    "a=candidate:3 1 udp 1 192.0.2.2 9 typ srflx raddr 192.0.2.1 rport 7\r\na=end-of-candidates\r\n"
)


def test_nothing_goes_around_the_path() -> None:
    assert target_of(ANSWER) == ("192.0.2.1", 7)
    assert [line for line in redirected(ANSWER, ("192.0.2.1", 7), 1234).split("\r\n") if "candidate:" in line] == [
        "a=candidate:2 1 udp 1 192.0.2.1 1234 typ host"
    ]
    assert "candidate" not in without_candidates(ANSWER)
    with pytest.raises(ValueError, match="no host candidate"):
        target_of("v=0\r\n")


def test_a_share_of_all_datagrams_is_lost() -> None:
    path = LossyPath(("127.0.0.1", 9), 2.0)
    for _ in range(10_000):
        path.passes()
    assert 150 < path.lost < 250 and path.passed == 10_000 - path.lost


@pytest.mark.parametrize("percent", [0.0, 2.0, 10.0])
def test_pictures_keep_their_media_time_and_sound_its_length(percent: float) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), RtcHost(RtcSettings(loopback=True)) as host, player() as seen:
            peer = await host.answer(without_candidates(await seen.offer()), size=(SIZE, SIZE))
            target = target_of(peer.answer_sdp)
            path = LossyPath(target, percent)
            try:
                await seen.accept(redirected(peer.answer_sdp, target, await path.open()))
                await peer.connected.wait()
                await pace(peer, 100)
                await peer.close()
            finally:
                path.close()
        assert path.passed > 300 and (path.lost > 0) == (percent > 0)
        shown = [(frame.pts, read_index(frame.to_ndarray(format="rgb24"))) for _, frame in seen.frames["video"]]
        known = [(pts, index) for pts, index in shown if index is not None]
        assert len(known) >= 5
        assert len({round(pts / 3600) - index for pts, index in known}) == 1, "each picture is shown at its own time"
        heard = [frame.pts for _, frame in seen.frames["audio"]]
        assert len(heard) >= 20
        gaps = {after - before for before, after in pairwise(heard)}
        assert all(gap > 0 and gap % (OUTPUT_RATE_HZ // 50) == 0 for gap in gaps), "whole packets, in order"

    asyncio.run(main())
