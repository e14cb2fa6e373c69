"""Players of other makers: werift on node, and the WHEP client of the draft's author in Chromium."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from emo_live.transport.webrtc import RtcSettings
from tests.interop.player_server import serving

pytestmark = pytest.mark.slow
SECONDS = 2


@pytest.mark.parametrize("codec", ["H264", "VP8"])
def test_werift(npm_packages: Path, codec: str) -> None:
    script = Path(__file__).with_name("werift_player.mjs")

    async def main() -> dict[str, Any]:
        async with asyncio.timeout(40), serving(RtcSettings(loopback=True)) as player:
            node = await asyncio.create_subprocess_exec(
                *("node", str(script), str(npm_packages), f"{player.base}/whep", str(SECONDS), codec),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            out, err = await node.communicate()
            assert node.returncode == 0, err.decode()
            (peer,) = player.peers.values()
            assert peer.stats().codec == codec.lower()
            assert peer.closed.is_set()
            seen: dict[str, Any] = json.loads(out)
            return seen

    seen = asyncio.run(main())
    assert seen["deleted"] == 200
    assert "connected" in seen["states"]
    assert seen["audio"] >= 50 * (SECONDS - 1)
    assert seen["video"] >= 25 * (SECONDS - 1)


WHEP = """async ([url, seconds]) => {
  const { WHEPClient } = await import("/packages/whip-whep/whep.js");
  const connection = new RTCPeerConnection({ bundlePolicy: "max-bundle" });
  for (const kind of ["audio", "video"]) connection.addTransceiver(kind, { direction: "recvonly" });
  const video = document.querySelector("video");
  const stream = new MediaStream();
  connection.ontrack = (event) => { stream.addTrack(event.track); video.srcObject = stream; };
  video.muted = true;
  const client = new WHEPClient();
  await client.view(connection, url, "a-token");
  await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
  const stats = [...(await connection.getStats()).values()].filter((entry) => entry.type === "inbound-rtp");
  const counts = Object.fromEntries(stats.map((entry) => [entry.kind, entry]));
  await client.stop();
  return {
    frames: counts.video.framesDecoded, keyframes: counts.video.keyFramesDecoded, freezes: counts.video.freezeCount,
    lost: counts.video.packetsLost + counts.audio.packetsLost, sound: counts.audio.totalSamplesReceived,
    width: video.videoWidth,
  };
}"""


def test_whip_whep_in_chromium(npm_packages: Path, chromium: str) -> None:
    from playwright.async_api import async_playwright

    async def main() -> dict[str, Any]:
        async with asyncio.timeout(60), serving(packages=npm_packages / "node_modules") as player:
            async with async_playwright() as playwright:
                browser = await playwright.chromium.launch(
                    executable_path=chromium, args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
                )
                page = await browser.new_page()
                await page.goto(player.base)
                seen: dict[str, Any] = await page.evaluate(WHEP, [f"{player.base}/whep", SECONDS])
                await browser.close()
            assert "Bearer a-token" in player.authorizations
            assert player.methods.count("PATCH") == len(player.fragments) >= 1, "it trickles"
            assert player.methods[-1] == "DELETE"
            (peer,) = player.peers.values()
            assert peer.closed.is_set()
            return seen

    seen = asyncio.run(main())
    assert seen["frames"] >= 25 * (SECONDS - 1)
    assert (seen["keyframes"], seen["lost"], seen["width"]) == (1, 0, 256)
    assert seen["sound"] > 48_000 * (SECONDS - 1)
