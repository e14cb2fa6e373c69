"""The server with real parts inside: sessions on the test pattern, an engine process, WebRTC, a real client."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ctypes
import gc
import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from aiortc import RTCPeerConnection, RTCSessionDescription
from fakes import bundled_avatar, syllables, write_wav
from waiting import until
from websockets.asyncio.client import connect

from emo_live import samples
from emo_live.engine.test_pattern import read_index
from emo_live_server.app import create_app
from emo_live_server.run import Server
from emo_live_server.settings import load

pytestmark = pytest.mark.slow


@contextlib.asynccontextmanager
async def serving(patience_s: float = 25, **given: Any) -> AsyncIterator[tuple[httpx.AsyncClient, Any]]:
    app = create_app(load(**{"port": 0, "engine": "pattern", "size": 256, **given}))
    next(iter(app.state.context.avatars._faces.values())).avatar = bundled_avatar()
    addresses: list[str] = []
    server = Server(app, app.state.context.settings, addresses.append)
    task = asyncio.create_task(server.serve())
    try:
        await until(lambda: addresses and app.state.context.ready, patience_s)
        async with httpx.AsyncClient(base_url=addresses[0], timeout=20) as client:
            yield client, app.state.context
    finally:
        server.should_exit = True
        await task


def used_bytes() -> int:
    """Memory that this process has asked for and not given back. Its resident memory would count, too, what gaps the
    tests before have left."""
    gc.collect()
    try:
        info = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        pytest.skip("counts what glibc 2.33 and later tell of their memory")
    info.restype = _MallInfo
    now = info()
    return int(now.uordblks + now.hblkhd)


class _MallInfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    ]


class Viewer:
    """An aiortc client that counts what it gets."""

    def __init__(self) -> None:
        self.pc = RTCPeerConnection()
        self.pc.addTransceiver("audio", direction="recvonly")
        self.pc.addTransceiver("video", direction="recvonly")
        self.tasks: list[asyncio.Task[None]] = []
        self.indices: list[int | None] = []
        self.different: set[int] = set()
        self.loudest = 0
        self.pc.on("track", lambda track: self.tasks.append(asyncio.create_task(self._take(track))))

    async def _take(self, track: Any) -> None:
        with contextlib.suppress(Exception):  # the track ends with the connection
            while True:
                frame = await track.recv()
                if track.kind == "video":
                    picture = frame.to_ndarray(format="rgb24")
                    self.indices.append(read_index(picture))
                    self.different.add(hash(picture.tobytes()))
                else:
                    self.loudest = max(self.loudest, int(np.abs(frame.to_ndarray()).max()))

    async def watch(self, client: httpx.AsyncClient, path: str) -> httpx.Response:
        await self.pc.setLocalDescription(await self.pc.createOffer())
        reply = await client.post(
            path, content=self.pc.localDescription.sdp, headers={"Content-Type": "application/sdp"}
        )
        assert reply.status_code == 201, reply.text
        await self.pc.setRemoteDescription(RTCSessionDescription(reply.text, "answer"))
        return reply

    async def close(self) -> None:
        await self.pc.close()
        await asyncio.gather(*self.tasks)


async def test_a_viewer_sees_and_hears_the_session() -> None:
    async with serving() as (client, context):
        viewer = Viewer()
        reply = await viewer.watch(client, "/whep/default")
        await until(lambda: len(viewer.indices) > 50, 15)
        seen = [index for index in viewer.indices[10:] if index is not None]
        assert seen == sorted(seen)
        assert viewer.loudest > 5000, "the beep of the pattern"
        await viewer.close()  # as players do: first the connection, then goodbye
        assert (await client.delete(reply.headers["location"])).status_code == 200
        await until(lambda: len(context.sessions) == 0, 10)


async def test_published_weights_are_served_like_the_tiny_model() -> None:
    """A small random model: its pictures are noise, but they come, and they go on when something is said."""
    pytest.importorskip("diffusers")
    from engine_mini import SIZE, mini_folder

    weights = {"engine": "hallo", "weights": str(mini_folder("hallo")), "size": SIZE, "steps": 1}
    async with serving(patience_s=120, **weights) as (client, context):
        made = (await client.post("/v1/sessions", json={"greet": False})).json()
        viewer = Viewer()
        await viewer.watch(client, made["webrtc_url"])
        await until(lambda: len(viewer.different) > 4, 30)
        session = f"/v1/sessions/{made['id']}"
        assert (await client.post(f"{session}/audio", content=samples.greeting().read_bytes())).status_code == 202
        await until(lambda: viewer.loudest > 1000, 30)
        assert (await client.post(f"{session}/interrupt")).json()["heard_ms"] > 0
        assert (await client.get(f"{session}/stats")).json()["session"]["engine_ms_per_frame"] > 0
        await viewer.close()
        assert (await client.delete(session)).status_code == 200
        await until(lambda: len(context.sessions) == 0, 10)


async def test_broken_offers_get_their_status() -> None:
    async with serving() as (client, context):
        sdp = {"Content-Type": "application/sdp"}
        assert (await client.post("/whep/default", content="v=0\r\nrubbish", headers=sdp)).status_code == 400
        offering = RTCPeerConnection()
        offering.addTransceiver("audio", direction="recvonly")
        await offering.setLocalDescription(await offering.createOffer())
        audio_only = offering.localDescription.sdp
        await offering.close()
        assert (await client.post("/whep/default", content=audio_only, headers=sdp)).status_code in (400, 422)
        viewer = Viewer()
        await viewer.pc.setLocalDescription(await viewer.pc.createOffer())
        no_codec = viewer.pc.localDescription.sdp.replace("H264", "H999").replace("VP8", "VP0")
        assert (await client.post("/whep/default", content=no_codec, headers=sdp)).status_code == 422
        await viewer.close()
        assert len(context.sessions) == 0
        assert context.rtc.peers == set()


@pytest.mark.parametrize(("viewers", "interrupts"), [(4, 20), pytest.param(50, 200, marks=pytest.mark.slow)])
async def test_viewers_and_interrupts_leave_nothing_behind(viewers: int, interrupts: int) -> None:
    async with serving(rate_create="1000/minute", rate_speech="1000/minute") as (client, context):
        left: list[tuple[int, int]] = []
        used: list[int] = []
        for number in range(viewers):
            goodbye_first = number % 2 == 0
            viewer = Viewer()
            location = (await viewer.watch(client, "/whep/default")).headers["location"]
            await until(lambda viewer=viewer: len(viewer.indices) > 2, 15)  # type: ignore[misc]
            if goodbye_first:
                await client.delete(location)
            await viewer.close()
            assert (await client.delete(location)).status_code == 200
            await until(lambda: len(context.sessions) == 0 and not context.rtc.peers, 10)
            left.append((len(os.listdir("/dev/fd")), len(asyncio.all_tasks())))
            used.append(used_bytes())
        await until(lambda: len(asyncio.all_tasks()) <= left[0][1], 10)  # connections of the last one's requests end
        assert left[-1][0] <= left[0][0]
        assert used[-1] - used[viewers // 2] < 5_000_000, "memory does not grow"
        session = f"/v1/sessions/{(await client.post('/v1/sessions')).json()['id']}"
        threads = threading.active_count()
        for _ in range(interrupts):
            assert (await client.post(f"{session}/audio", content=samples.greeting().read_bytes())).status_code == 202
            reply = await client.post(f"{session}/interrupt")
            assert reply.status_code == 200, reply.text
            assert reply.json()["heard_ms"] < 400
            await asyncio.sleep(0.015)  # 60 a second are allowed
        assert (await client.delete(session)).status_code == 200
        await until(lambda: len(asyncio.all_tasks()) <= left[0][1], 10)
        assert len(os.listdir("/dev/fd")) <= left[0][0] and threading.active_count() <= threads + 4


async def test_the_example_of_the_websocket(repository: Path, tmp_path: Path) -> None:
    speech = write_wav(tmp_path / "speech.wav", syllables(1.0, 22_050), 22_050)
    async with serving() as (client, _):
        address = str(client.base_url).rstrip("/").replace("http", "ws")
        script = str(repository / "examples/over_websocket.py")
        example = await asyncio.create_subprocess_exec(
            sys.executable, script, str(speech), address, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        said = (await example.communicate())[0].decode()
    assert example.returncode == 0, said
    assert "watch it at /v1/sessions/" in said
    assert "output_audio_buffer.started" in said
    assert "'audio_end_ms': 1" in said, "about a second of it was heard"


async def test_long_speech_at_once_keeps_its_name() -> None:
    """Longer than what may wait in the session: it begins, and is called by its name, before all of it has a place."""
    delta = base64.b64encode(np.zeros(15 * 24_000, "<i2").tobytes()).decode()
    async with serving() as (client, _):
        address = str(client.base_url).rstrip("/").replace("http", "ws")
        async with connect(f"{address}/v1/realtime") as socket:
            await socket.send(json.dumps({"type": "response.output_audio.delta", "item_id": "item_1", "delta": delta}))
            async with asyncio.timeout(8):
                async for text in socket:
                    message = json.loads(text)
                    if message["type"] == "output_audio_buffer.started":
                        assert message["item_id"] == "item_1"
                        break
