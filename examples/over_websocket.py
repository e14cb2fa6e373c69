"""Sends speech to a server and tells what it says: python examples/over_websocket.py speech.wav [ws://localhost:8000]

Start one with `emo-live serve`. An assistant's own server would send the same messages, as its speech is made.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from pathlib import Path

import numpy as np
from websockets.asyncio.client import ClientConnection, connect

from emo_live.audio.source import AudioFile, to_mono


async def send(socket: ClientConnection, kind: str, **content: object) -> None:
    await socket.send(json.dumps({"type": kind, **content}))


async def speak(socket: ClientConnection, path: str) -> None:
    with AudioFile(Path(path)) as file:
        form = {"type": "audio/pcm", "rate": file.rate_hz}
        await send(socket, "session.update", session={"audio": {"input": {"format": form}}})
        for chunk in file.chunks():
            pcm = (np.clip(to_mono(chunk), -1, 1) * 32767).astype("<i2")
            await send(socket, "input_audio_buffer.append", audio=base64.b64encode(pcm.tobytes()).decode())
    await send(socket, "input_audio_buffer.commit")


async def main(path: str, address: str = "ws://localhost:8000") -> None:
    async with connect(f"{address}/v1/realtime") as socket:
        await speak(socket, path)
        async for text in socket:
            message = json.loads(text)
            if message["type"] == "session.created":  # a browser or a WHEP player would look at it there
                print("watch it at", message["session"]["webrtc_url"])
            elif message["type"].startswith(("output_audio_buffer.", "error")):
                print(message)
            if message["type"] in ("output_audio_buffer.stopped", "error"):
                return


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
