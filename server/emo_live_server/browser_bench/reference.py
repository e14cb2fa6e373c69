"""An ideal sender to compare with: flash and beep leave together, once a second, by nothing but a clock and aiortc.

Knows nothing of sessions and engines. `skew_ms` makes it a bad sender on purpose, for a measurement that must notice.
As a program: `python -m emo_live_server.browser_bench.reference PORT SIZE SKEW_MS`.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from fractions import Fraction
from typing import Any

import av
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCRtpSender, RTCSessionDescription
from fastapi import FastAPI, Request, Response

from emo_live.engine.test_pattern import beep, picture
from emo_live.types import OUTPUT_RATE_HZ, OUTPUT_STEP_SAMPLES, STEP_S

_PACKET_SAMPLES = OUTPUT_STEP_SAMPLES // 2  # Opus packets of 20 ms
_VIDEO_CLOCK_HZ = 90_000


class _Picture(MediaStreamTrack):
    kind = "video"

    def __init__(self, start_s: float, size: int, skew_ms: float):
        super().__init__()
        self._start_s, self._size, self._skew_s, self._index = start_s, size, skew_ms / 1000, 0

    async def recv(self) -> Any:
        await _until(self._start_s + self._index * STEP_S + self._skew_s)
        frame = av.VideoFrame.from_ndarray(picture(self._index, self._size), format="rgb24")
        frame.pts, frame.time_base = round(self._index * STEP_S * _VIDEO_CLOCK_HZ), Fraction(1, _VIDEO_CLOCK_HZ)
        self._index += 1
        return frame


class _Sound(MediaStreamTrack):
    kind = "audio"

    def __init__(self, start_s: float):
        super().__init__()
        self._start_s, self._packet = start_s, 0

    async def recv(self) -> Any:
        index, half = divmod(self._packet, 2)
        # Both packets of a step leave with its picture, as the session's pairs do.
        await _until(self._start_s + index * STEP_S)
        part = beep(index)[half * _PACKET_SAMPLES : (half + 1) * _PACKET_SAMPLES]
        frame = av.AudioFrame.from_ndarray(part[None], format="s16", layout="mono")
        frame.sample_rate = OUTPUT_RATE_HZ
        frame.pts, frame.time_base = self._packet * _PACKET_SAMPLES, Fraction(1, OUTPUT_RATE_HZ)
        self._packet += 1
        return frame


async def _until(moment_s: float) -> None:
    await asyncio.sleep(max(0.0, moment_s - time.monotonic()))


def reference_app(*, size: int, skew_ms: float = 0.0) -> FastAPI:
    """POST /whep answers an offer. skew_ms: how much later than its sound each picture leaves."""
    peers: set[RTCPeerConnection] = set()

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.gather(*(peer.close() for peer in peers))

    app = FastAPI(lifespan=lifespan)

    @app.get("/healthz")
    async def healthz() -> Response:
        return Response()

    @app.post("/whep")
    async def whep(request: Request) -> Response:
        peer = RTCPeerConnection()
        peers.add(peer)
        start_s = time.monotonic()
        peer.addTrack(_Sound(start_s))
        peer.addTrack(_Picture(start_s, size, skew_ms))
        known = RTCRtpSender.getCapabilities("video").codecs
        for transceiver in peer.getTransceivers():
            if transceiver.kind == "video":
                transceiver.setCodecPreferences([codec for codec in known if codec.mimeType == "video/H264"])
        await peer.setRemoteDescription(RTCSessionDescription((await request.body()).decode(), "offer"))
        await peer.setLocalDescription(await peer.createAnswer())
        return Response(peer.localDescription.sdp, 201, {"Location": "/whep/1"}, "application/sdp")

    return app


if __name__ == "__main__":
    import uvicorn

    port, side, skew = sys.argv[1:]
    uvicorn.run(
        reference_app(size=int(side), skew_ms=float(skew)), host="127.0.0.1", port=int(port), log_level="warning"
    )
