"""A WHEP endpoint around RtcHost and the test pattern, for players of other makers; the real one is the server's."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.staticfiles import StaticFiles

from emo_live.engine.test_pattern import beep, picture
from emo_live.errors import BadInputError, EmoLiveError
from emo_live.transport.webrtc import RtcHost, RtcPeer, RtcSettings
from emo_live.types import STEP_S, AVPair

SIZE = 256


@dataclass
class Player:
    """base: http address. peers: every peer so far, by its path; tokens and patches are those that were sent."""

    base: str
    peers: dict[str, RtcPeer] = field(default_factory=dict)
    authorizations: list[str | None] = field(default_factory=list)
    fragments: list[str] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)


async def pace(peers: dict[str, RtcPeer]) -> None:
    """Offer the pattern to every peer, 25 times a second, for ever."""
    loop = asyncio.get_running_loop()
    start, index = loop.time(), 0
    while True:
        pair = AVPair(index, picture(index, SIZE), beep(index))
        for peer in list(peers.values()):
            peer.offer(pair)
        index += 1
        await asyncio.sleep(max(0.0, start + index * STEP_S - loop.time()))


def make_app(host: RtcHost, player: Player, packages: Path | None) -> FastAPI:
    app = FastAPI()
    if packages is not None:
        app.mount("/packages", StaticFiles(directory=packages))

    @app.middleware("http")
    async def note(request: Request, call_next: Any) -> Response:
        player.methods.append(request.method)
        player.authorizations.append(request.headers.get("authorization"))
        response: Response = await call_next(request)
        for name in ("Origin", "Headers", "Methods"):
            response.headers[f"Access-Control-Allow-{name}"] = "*"
        response.headers["Access-Control-Expose-Headers"] = "Location, ETag, Link, Accept-Patch"
        return response

    @app.get("/")
    async def page() -> Response:
        return Response(
            "<!doctype html><title>player</title><video id=video autoplay playsinline></video>",
            200,
            media_type="text/html",
        )

    @app.options("/{path:path}")
    async def options(path: str) -> Response:
        headers = {
            "Accept-Post": "application/sdp",
            "Access-Control-Allow-Headers": "authorization, content-type, if-match",
        }
        return Response(status_code=204, headers=headers)

    @app.post("/whep")
    async def post(request: Request) -> Response:
        try:
            offer = (await request.body()).decode()
            peer = await host.answer(offer, size=(SIZE, SIZE), receive_audio=request.query_params.get("mic") == "1")
        except EmoLiveError as error:
            return Response(str(error), 400 if isinstance(error, BadInputError) else 503)
        path = f"/whep/{len(player.peers)}"
        player.peers[path] = peer
        headers = {"Location": path, "ETag": f'"{peer.etag}"', "Accept-Patch": "application/trickle-ice-sdpfrag"}
        return Response(peer.answer_sdp, 201, headers, "application/sdp")

    @app.patch("/whep/{number}")
    async def patch(number: str, request: Request) -> Response:
        fragment = (await request.body()).decode()
        player.fragments.append(fragment)
        try:
            await player.peers[f"/whep/{number}"].add_candidates(fragment)
        except EmoLiveError as error:
            return Response(str(error), 400 if isinstance(error, BadInputError) else 422)
        return Response(status_code=204)

    @app.delete("/whep/{number}")
    async def delete(number: str) -> Response:
        await player.peers[f"/whep/{number}"].close()
        return Response(status_code=200)

    return app


@contextlib.asynccontextmanager
async def serving(settings: RtcSettings | None = None, packages: Path | None = None) -> AsyncIterator[Player]:
    """A server on a free port of this machine, in the running loop. packages: what the page may import."""
    listening = socket.create_server(("127.0.0.1", 0))
    player = Player(f"http://127.0.0.1:{listening.getsockname()[1]}")
    async with RtcHost(settings) as host:
        server = uvicorn.Server(uvicorn.Config(make_app(host, player, packages), log_level="warning", lifespan="off"))
        serving = asyncio.create_task(server.serve([listening]))
        pacing = asyncio.create_task(pace(player.peers))
        try:
            yield player
        finally:
            server.should_exit = True
            pacing.cancel()
            await asyncio.gather(serving, pacing, return_exceptions=True)
