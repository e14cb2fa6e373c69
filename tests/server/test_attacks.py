"""Clients that mean no good, over real sockets: they are let go, and others notice nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import struct
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fake_parts import OFFER, FakePool, FakeRtc, FakeSession
from fakes import bundled_avatar
from waiting import until

from emo_live_server import connections, guard
from emo_live_server.app import create_app
from emo_live_server.run import Server
from emo_live_server.settings import load


@contextlib.asynccontextmanager
async def listening(**given: Any) -> AsyncIterator[str]:
    """A server's address."""
    app = create_app(load(port=0, **given), pool=FakePool(), rtc=FakeRtc(), open_session=FakeSession)
    next(iter(app.state.context.avatars._faces.values())).avatar = bundled_avatar()
    addresses: list[str] = []
    server = Server(app, app.state.context.settings, addresses.append)
    task = asyncio.create_task(server.serve())
    await until(lambda: addresses and app.state.context.ready)
    try:
        yield addresses[0]
    finally:
        server.should_exit = True
        await task


async def connect(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", int(address.rpartition(":")[2]))


async def is_let_go(reader: asyncio.StreamReader) -> bytes:
    """What still came before the connection was closed."""
    came = b""
    with contextlib.suppress(ConnectionError):
        while part := await reader.read(1 << 16):
            came += part
    return came


async def is_well(address: str) -> None:
    async with httpx.AsyncClient(base_url=address) as client:
        assert (await client.get("/healthz")).status_code == 200


@pytest.mark.parametrize("beginning", [b"", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-", b"\x16\x03\x01"])
async def test_a_request_that_never_begins_or_ends_is_let_go(beginning: bytes, monkeypatch: Any) -> None:
    monkeypatch.setattr(connections, "REQUEST_S", 0.3)
    async with listening() as address:
        reader, writer = await connect(address)

        async def dribble() -> None:
            with contextlib.suppress(ConnectionError):
                while beginning.endswith(b"X-"):
                    writer.write(b"a")
                    await writer.drain()
                    await asyncio.sleep(0.05)

        writer.write(beginning)
        dribbling = asyncio.create_task(dribble())
        await is_let_go(reader)
        writer.close()
        await dribbling
        await is_well(address)


async def test_a_body_that_never_ends_is_let_go(monkeypatch: Any) -> None:
    monkeypatch.setattr(connections, "REQUEST_S", 0.3)
    monkeypatch.setattr(guard, "BODY_S", 0.3)
    routes = [("/v1/sessions", "json", 408), ("/whep/default", "sdp", 408), ("/nowhere", "json", 405)]
    async with listening() as address:
        for route, kind, status in routes:
            reader, writer = await connect(address)
            head = f"POST {route} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/{kind}\r\n"
            writer.write(f"{head}Transfer-Encoding: chunked\r\n\r\n1\r\n{{\r\n".encode())
            reply = await is_let_go(reader)
            assert reply.startswith(f"HTTP/1.1 {status}".encode()), (route, reply)
            writer.close()
        await is_well(address)


async def test_connections_beyond_what_media_leaves_are_closed(monkeypatch: Any) -> None:
    monkeypatch.setattr(connections, "max_connections", lambda: 20)
    async with listening() as address:
        opened = [await connect(address) for _ in range(40)]
        closed = [asyncio.create_task(is_let_go(reader)) for reader, _ in opened]
        await until(lambda: sum(task.done() for task in closed) >= 20)
        for _, writer in opened:
            writer.close()
        await asyncio.gather(*closed)
        await is_well(address)


async def test_pings_without_end_do_not_pile_up(monkeypatch: Any) -> None:
    monkeypatch.setattr(connections, "MAX_UNREAD_BYTES", 1 << 16)
    async with listening() as address:
        reader, writer = await connect(address)
        key = "dGhlIHNhbXBsZSBub25jZQ=="
        writer.write(
            f"GET /v1/realtime HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        assert b"101" in await reader.readline()
        ping = struct.pack("!BB4s", 0x89, 0x80 | 125, b"\0\0\0\0") + b"p" * 125
        with contextlib.suppress(ConnectionError):
            for _ in range(2000):  # the system takes some MB before anybody notices that nobody reads
                writer.write(ping * 100)
                await writer.drain()
            pytest.fail("the server still takes pings")
        writer.close()
        await is_well(address)


ODD_REQUESTS = [
    (b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    (b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    (b"GET /..%5c..%5cetc%5cpasswd HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    (b"GET /%00 HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    (b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    (b"GET /healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
    (b"GET /healthz HTTP/1.1\r\nHost: localhost.evil.example\r\n\r\n", 421),
    (b"GET /healthz HTTP/1.1\r\nHost: localhost:80@evil.example\r\n\r\n", 421),
    (b"GET /healthz HTTP/1.1\r\nHost: LOCALHOST:1\r\n\r\n", 200),
    (b"GET /healthz HTTP/1.1\r\nHost: [::1]:8000\r\n\r\n", 200),
    (b"GET /healthz HTTP/1.0\r\n\r\n", 421),
    (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
    (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", 400),
    (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: \xff\xc3\xa4\r\n\r\n", 200),
    (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer \xff\r\n\r\n", 200),
    (b"GET /v1/config HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer \xff\r\n\r\n", 200),
    (b"NONSENSE /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
    (b"HEAD /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
    (b"HEAD /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
    (b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
    (b"TRACE / HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
    (b"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nOrigin: null\r\nContent-Length: 0\r\n\r\n", 403),
    (b"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 400),
    (b"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
    (b"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999\r\n\r\n{", 413),
    (b"GET /v1/avatars/..%2f..%2fx/portrait.jpg HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    (b"GET /metrics/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
]


async def test_odd_requests() -> None:
    async with listening() as address:
        for request, status in ODD_REQUESTS:
            reader, writer = await connect(address)
            writer.write(request)
            line = await reader.readline()
            assert int(line.split()[1]) == status, (request[:100], line)
            writer.close()
        await is_well(address)


BODIES: list[tuple[bytes, int]] = [
    (b"[" * 500_000, 400),
    (b'{"avatar":' * 100_000, 400),
    (b'{"speed": NaN}', 422),
    (b'{"speed": Infinity}', 422),
    (b'{"speed": 1e999}', 422),
    (b'{"size": ' + b"9" * 5000 + b"}", 400),
    (b'{"size": 512.5}', 422),
    (b'{"avatar": "\\ud800"}', 404),
    (b'{"avatar": "../../etc/passwd"}', 404),
    (b"\xff\xfe\x00", 400),
    (b"null", 201),
    (b'{"greet": true, "greet": false}', 201),
]


async def test_odd_json() -> None:
    async with listening() as address, httpx.AsyncClient(base_url=address) as client:
        for body, status in BODIES:
            reply = await client.post("/v1/sessions", content=body, headers={"Content-Type": "application/json"})
            assert reply.status_code == status, (body[:100], reply.text)
            if status >= 400:
                assert reply.headers["content-type"] == "application/problem+json"
                assert len(reply.content) < 1000, "what was sent is not sent back"
        await is_well(address)


async def test_a_compressed_body_is_not_unpacked() -> None:
    async with listening() as address, httpx.AsyncClient(base_url=address) as client:
        headers = {"Content-Type": "application/sdp", "Content-Encoding": "gzip"}
        reply = await client.post("/whep/default", content=os.urandom(1000), headers=headers)
        assert reply.status_code in (400, 415)
        for kind in ("application/sdp;charset=utf-8", 'Application/SDP; charset="UTF-8"; x=y'):
            reply = await client.post("/whep/default", content=OFFER, headers={"Content-Type": kind})
            assert reply.status_code == 201


async def test_another_page_can_neither_read_nor_change_anything() -> None:
    async with listening() as address, httpx.AsyncClient(base_url=address) as client:
        evil = {"Origin": "http://evil.example"}
        preflight = {**evil, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x"}
        for route in ("/v1/sessions", "/whep/default", "/v1/avatars", "/"):
            reply = await client.options(route, headers=preflight)
            assert not [name for name in reply.headers if name.startswith("access-control")]
        assert "access-control-allow-origin" not in (await client.get("/v1/config", headers=evil)).headers
        assert (await client.post("/v1/sessions", headers=evil)).status_code == 403
        reader, writer = await connect(address)
        writer.write(
            b"GET /v1/realtime HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Origin: http://evil.example\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            b"Sec-WebSocket-Version: 13\r\n\r\n"
        )
        assert b"403" in await reader.readline()
        writer.close()


async def test_the_secrets_of_turn_are_never_written_down(capfd: Any) -> None:
    turn = [{"urls": "turn:turn.example.org", "username": "someone", "credential": "topsecret"}]
    async with listening(ice_servers=turn, log_level="debug") as address:
        async with httpx.AsyncClient(base_url=address) as client:
            await client.get("/v1/config")
            reply = await client.post("/whep/default", content=OFFER, headers={"Content-Type": "application/sdp"})
            assert "topsecret" in reply.headers["link"]
            spec = json.dumps((await client.get("/v1/openapi.json")).json())
        out, err = capfd.readouterr()
        assert "topsecret" not in out + err + spec and "someone" not in out + err
