"""Run in a network namespace of its own: a machine without any network. Prints what Chromium sees, as JSON.

python -m tests.interop.offline CHROMIUM
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from playwright.async_api import async_playwright

from tests.interop.player_server import serving

# Without the flag, or without leave to use the microphone, Chromium looks for no path where there is no network.
FLAGS = (
    "--no-sandbox",
    "--autoplay-policy=no-user-gesture-required",
    "--allow-loopback-in-peer-connection",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
)
PLAY = """async (url) => {
  await navigator.mediaDevices.getUserMedia({ audio: true });
  const connection = new RTCPeerConnection({ bundlePolicy: "max-bundle" });
  for (const kind of ["audio", "video"]) connection.addTransceiver(kind, { direction: "recvonly" });
  const video = document.querySelector("video");
  const stream = new MediaStream();
  connection.ontrack = (event) => { stream.addTrack(event.track); video.srcObject = stream; };
  video.muted = true;
  await connection.setLocalDescription(await connection.createOffer());
  const headers = { "Content-Type": "application/sdp" };
  const reply = await fetch(url, { method: "POST", headers, body: connection.localDescription.sdp });
  const answer = await reply.text();
  await connection.setRemoteDescription({ type: "answer", sdp: answer });
  const shown = new Promise((resolve) => video.requestVideoFrameCallback(() => resolve(true)));
  const late = new Promise((resolve) => setTimeout(() => resolve(false), 8000));
  return { shown: await Promise.race([shown, late]), candidates: answer.match(/^a=candidate.*$/gm) };
}"""


async def main(chromium: str) -> None:
    async with serving() as player, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        page = await browser.new_page()
        await page.goto(player.base)
        seen: dict[str, Any] = await page.evaluate(PLAY, f"{player.base}/whep")
        await browser.close()
    print(json.dumps(seen))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
