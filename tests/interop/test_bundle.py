"""Offers as browsers make them with bundlePolicy max-bundle: the second section leans on the first."""

from __future__ import annotations

import asyncio

from emo_live.transport.webrtc import RtcHost, RtcSettings
from tests.interop.aiortc_player import SIZE, pace, player

_LEFT_OUT = ("a=ice-ufrag", "a=ice-pwd", "a=fingerprint", "a=setup", "a=rtcp-mux", "a=candidate", "a=end-of-candidates")


def test_a_bundle_only_section_is_served() -> None:
    async def main() -> None:
        async with asyncio.timeout(30), RtcHost(RtcSettings(loopback=True)) as host, player() as seen:
            head, video = (await seen.offer()).split("m=video ")
            lines = [line for line in video.split("\r\n") if line and not line.startswith(_LEFT_OUT)]
            lines = ["m=video 0 " + lines[0].split(" ", 1)[1], "a=bundle-only", *lines[1:]]
            peer = await host.answer(head + "\r\n".join(lines) + "\r\n", size=(SIZE, SIZE))
            await seen.accept(peer.answer_sdp)
            await peer.connected.wait()
            await pace(peer, 15)
            await peer.close()
            assert len(seen.frames["video"]) > 3 and len(seen.frames["audio"]) > 6

    asyncio.run(main())
