"""The realtime WebSocket through a real server on loopback, with a fake session behind it and a real client."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest
from fake_parts import Running, running
from waiting import until
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from emo_live.events import SessionClosed, SessionStats
from emo_live.transport.realtime import MAX_MESSAGE_BYTES
from emo_live_server.run import Server

AUDIO = base64.b64encode(np.full(2400, 1000, "<i2").tobytes()).decode()


@contextlib.asynccontextmanager
async def listening(**given: Any) -> AsyncIterator[tuple[Running, str]]:
    """The address begins with ws://."""
    addresses: list[str] = []
    async with running(port=0, **given) as inside:
        server = Server(inside.app, inside.context.settings.model_copy(update={"port": 0}), addresses.append)
        server.config.lifespan = "off"  # the app runs already
        task = asyncio.create_task(server.serve())
        await until(lambda: addresses)
        try:
            yield inside, addresses[0].replace("http://localhost", "ws://127.0.0.1")
        finally:
            server.should_exit = True
            await task


async def receive(socket: ClientConnection, kind: str) -> dict[str, Any]:
    """The next message of a type."""
    async with asyncio.timeout(5):
        while True:
            message = json.loads(await socket.recv())
            if message["type"] == kind:
                return dict(message)


async def send(socket: ClientConnection, kind: str, **content: Any) -> None:
    await socket.send(json.dumps({"type": kind, **content}))


async def test_an_assistants_stream_is_spoken_and_told_about() -> None:
    async with listening() as (inside, address), connect(f"{address}/v1/realtime?size=256") as socket:
        created = await receive(socket, "session.created")
        assert created["session"]["ai_generated"] is True
        assert created["session"]["size"] == 256
        assert (await receive(socket, "emo.state"))["state"] == "idle"
        await send(socket, "response.created")
        for _ in range(3):
            await send(socket, "response.output_audio.delta", item_id="item_7", delta=AUDIO)
        await send(socket, "response.output_audio.done", item_id="item_7")
        started = await receive(socket, "output_audio_buffer.started")
        assert started["item_id"] == "item_7"
        stopped = await receive(socket, "output_audio_buffer.stopped")
        assert (stopped["item_id"], stopped["audio_end_ms"]) == ("item_7", 120)
        heard = inside.sessions[0].heard
        assert [(len(chunk.pcm), chunk.rate_hz) for chunk in heard] == [(2400, 24_000)] * 3
        np.testing.assert_allclose(heard[0].pcm, 1000 / 32768, atol=1e-6)


async def test_binary_frames_are_speech() -> None:
    async with listening() as (inside, address), connect(f"{address}/v1/realtime") as socket:
        format_ = {"type": "audio/pcm", "rate": 48_000}
        await send(socket, "session.update", session={"audio": {"input": {"format": format_}}})
        await receive(socket, "session.updated")
        await socket.send(np.zeros(4800, "<i2").tobytes())
        await send(socket, "input_audio_buffer.commit")
        await receive(socket, "output_audio_buffer.stopped")
        assert inside.sessions[0].heard[0].rate_hz == 48_000


async def test_an_interrupt_overtakes_speech() -> None:
    async with listening() as (inside, address), connect(f"{address}/v1/realtime") as socket:
        await receive(socket, "session.created")
        inside.sessions[0].hold = True
        await send(socket, "response.output_audio.delta", item_id="item_1", delta=AUDIO)
        await receive(socket, "output_audio_buffer.started")
        await send(socket, "response.cancel")
        cleared = await receive(socket, "output_audio_buffer.cleared")
        assert (cleared["item_id"], cleared["audio_end_ms"]) == ("item_1", 40)
        await send(socket, "response.output_audio.delta", item_id="item_1", delta=AUDIO)
        await send(socket, "response.cancel")
        nobody = await receive(socket, "output_audio_buffer.cleared")
        assert nobody["item_id"] is None, "what was late was dropped"


async def test_texts_are_said_with_captions() -> None:
    async with listening() as (inside, address):
        session = await inside.session()
        url = f"{address}{session['realtime_url']}"
        async with connect(url) as one, connect(url) as other:
            await receive(one, "session.created")
            await receive(other, "session.created")
            await send(one, "emo.say", text="hello")
            for socket in (one, other):
                caption = await receive(socket, "emo.caption")
                assert (caption["text"], caption["utterance"]) == ("hello", "u1")
            await send(one, "emo.say", text="hello", voice="eve", event_id="mine")
            assert (await receive(one, "error"))["error"]["code"] == "bad_input"
            await send(one, "emo.control", motion=0.5)
            await send(one, "emo.pause")
            assert (await receive(other, "emo.state"))["state"] in ("speaking", "idle", "paused")
            await until(lambda: inside.sessions[0].state == "paused")
            await send(one, "emo.resume")
            await until(lambda: inside.sessions[0].state == "idle")
            assert inside.sessions[0].controls == [(None, 0.5)]
            inside.sessions[0].report(SessionStats(level=1))
            assert (await receive(other, "emo.stats"))["stats"]["level"] == 1


async def test_a_socket_of_its_own_session_ends_it_and_one_of_another_does_not() -> None:
    async with listening() as (inside, address):
        async with connect(f"{address}/v1/realtime") as socket:
            await receive(socket, "session.created")
        await until(lambda: inside.sessions[0].closed)
        session = await inside.session()
        async with connect(f"{address}{session['realtime_url']}") as socket:
            await receive(socket, "session.created")
        await until(lambda: not inside.context.sessions.get(session["id"]).in_use)
        assert not inside.sessions[1].closed


async def test_the_end_of_the_session_ends_the_socket() -> None:
    async with listening() as (inside, address):
        session = await inside.session()
        async with connect(f"{address}{session['realtime_url']}") as socket:
            await receive(socket, "session.created")
            inside.sessions[0].emit(SessionClosed("the engine died"))
            assert (await receive(socket, "emo.closed"))["reason"] == "the engine died"
            with pytest.raises(ConnectionClosed):
                await socket.recv()
            assert socket.close_code == 1001


async def test_the_end_by_request_ends_the_socket_too() -> None:
    async with listening() as (inside, address):
        session = await inside.session()
        async with connect(f"{address}{session['realtime_url']}") as socket:
            await receive(socket, "session.created")
            await inside.http.delete(f"/v1/sessions/{session['id']}")
            assert (await receive(socket, "emo.closed"))["reason"] == "deleted"
            with pytest.raises(ConnectionClosed):
                await socket.recv()


async def test_rubbish_is_answered_counted_and_at_last_shown_out() -> None:
    async with listening() as (inside, address), connect(f"{address}/v1/realtime") as socket:
        await receive(socket, "session.created")
        await send(socket, "input_audio_buffer.append", audio="%%%", event_id="e1")
        error = await receive(socket, "error")
        assert (error["error"]["code"], error["error"]["event_id"]) == ("invalid_audio", "e1")
        await send(socket, "input_audio_buffer.commit")
        assert (await receive(socket, "error"))["error"]["code"] == "input_audio_buffer_commit_empty"
        assert inside.count("refused_total", reason="realtime_message") == 2
        for _ in range(100):
            await socket.send("{")
        with pytest.raises(ConnectionClosed):
            while True:
                await receive(socket, "error")
        assert socket.close_code == 1008


async def test_messages_have_a_size() -> None:
    async with listening() as (inside, address), connect(f"{address}/v1/realtime") as socket:
        await receive(socket, "session.created")
        await socket.send(b"\0" * MAX_MESSAGE_BYTES)
        await receive(socket, "output_audio_buffer.started")
        await socket.send(b"\0" * (MAX_MESSAGE_BYTES + 2))
        with pytest.raises(ConnectionClosed):
            while True:
                await socket.recv()
        assert socket.close_code == 1009
        await until(lambda: inside.count("refused_total", reason="message_too_big") == 1)


async def test_an_interrupt_storm_disturbs_nobody() -> None:
    async with listening() as (inside, address):
        calm = await inside.session()
        inside.sessions[0].hold = True
        await inside.http.post(f"/v1/sessions/{calm['id']}/say", json={"text": "let me finish"})
        async with connect(f"{address}/v1/realtime") as socket:
            await receive(socket, "session.created")
            for _ in range(50):
                await send(socket, "input_audio_buffer.append", audio=AUDIO)
                await send(socket, "output_audio_buffer.clear")
            await send(socket, "emo.say", text="still here")
            assert (await receive(socket, "emo.caption"))["text"] == "still here"
        assert inside.count("interrupts_total") == 50
        assert list(inside.sessions[0]._speaking) == ["u1"]


async def test_a_client_that_never_reads_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emo_live_server.socket._SEND_TIMEOUT_S", 0.2)
    async with listening() as (inside, address):
        session = await inside.session()
        async with connect(f"{address}{session['realtime_url']}", max_queue=1, compression=None) as socket:
            await receive(socket, "session.created")
            socket.transport.pause_reading()
            fat = SessionStats(dropped={"x" * 10_000: 1})
            for _ in range(2000):
                inside.sessions[0].report(fat)
                await asyncio.sleep(0)
            await until(lambda: inside.count("refused_total", reason="client_does_not_read") >= 1)
            await until(lambda: not inside.context.sessions.get(session["id"]).in_use)
            socket.transport.abort()
        assert not inside.sessions[0].closed


async def test_a_client_that_vanishes_leaves_nothing() -> None:
    async with listening() as (inside, address):
        async with connect(f"{address}/v1/realtime") as socket:
            await receive(socket, "session.created")
            await send(socket, "input_audio_buffer.append", audio=AUDIO)
            await receive(socket, "output_audio_buffer.started")
            socket.transport.abort()
        await until(lambda: inside.sessions[0].closed)
        assert len(inside.context.sessions) == 0


async def refused(url: str, **given: Any) -> int:
    with pytest.raises(InvalidStatus) as caught:
        async with connect(url, **given):
            pass
    body = json.loads(caught.value.response.body or b"{}")
    assert body.get("status") == caught.value.response.status_code
    return caught.value.response.status_code


async def test_who_is_not_let_in() -> None:
    key = "an-api-key-of-24-letters"
    async with listening(api_keys=key) as (inside, address):
        url = f"{address}/v1/realtime"
        assert await refused(url) == 401
        assert await refused(url, additional_headers={"Authorization": "Bearer wrong"}) == 401
        assert await refused(f"{address}/v1/sessions/nobody/realtime") == 404
        inside.pool.places = 0
        bearer = {"Authorization": f"Bearer {key}"}
        assert await refused(url, additional_headers=bearer) == 503
        inside.pool.places = 1
        async with connect(url, additional_headers=bearer) as socket:
            await receive(socket, "session.created")
        async with connect(url, subprotocols=["emo-live", f"emo-live-key.{key}"]) as socket:  # type: ignore[list-item]
            assert socket.subprotocol == "emo-live"
            await receive(socket, "session.created")


async def test_another_page_is_not_let_in() -> None:
    async with listening() as (_, address):
        with pytest.raises(InvalidStatus) as caught:
            async with connect(f"{address}/v1/realtime", origin="https://evil.example"):  # type: ignore[arg-type]
                pass
        assert caught.value.response.status_code == 403
        own = address.replace("ws://", "http://")
        async with connect(f"{address}/v1/realtime", origin=own) as socket:  # type: ignore[arg-type]
            await receive(socket, "session.created")


async def test_plain_http_on_the_same_port() -> None:
    async with listening() as (_, address), httpx.AsyncClient() as client:
        reply = await client.get(f"{address.replace('ws', 'http')}/healthz")
        assert reply.json() == {"ok": True}
        assert "server" not in reply.headers
