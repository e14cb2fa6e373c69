"""The realtime WebSocket, of a session that is there or of one made for it. What it says: docs/server.md."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, WebSocket

from emo_live.transport.realtime import RealtimeProtocol
from emo_live_server.auth import SUBPROTOCOL, Principal
from emo_live_server.context import Context
from emo_live_server.depends import Opened, Shared, may
from emo_live_server.live import Live
from emo_live_server.problems import Problem
from emo_live_server.routes.sessions import NewSession, begin, described
from emo_live_server.socket import RealtimeSocket

router = APIRouter(prefix="/v1")

_MAX_SOCKETS = 16
_ACCEPTED = (SUBPROTOCOL, "realtime")  # the second is what clients of OpenAI's API offer


@router.websocket("/sessions/{id}/realtime")
async def of_session(socket: WebSocket, live: Opened, shared: Shared) -> None:
    if live.sockets >= _MAX_SOCKETS:
        raise Problem.retry(503, "this session has too many sockets", reason="full")
    await _serve(socket, live, shared)


@router.websocket("/realtime")
async def new_session(
    socket: WebSocket,
    shared: Shared,
    caller: Annotated[Principal, Depends(may("session:create", kind="create"))],
    avatar: Annotated[str, Query(max_length=200)] = "default",
    size: int | None = None,
    greet: bool = False,
) -> None:
    """The session ends with the socket, unless somebody watches it."""
    live = await begin(shared, caller, NewSession(avatar=avatar, size=size, greet=greet))
    try:
        await _serve(socket, live, shared)
    finally:
        if not live.in_use:
            await shared.sessions.end(live.id, "socket_closed")


async def _serve(socket: WebSocket, live: Live, shared: Context) -> None:
    offered: list[str] = socket.scope.get("subprotocols", [])
    await socket.accept(subprotocol=next((name for name in offered if name in _ACCEPTED), None))
    session: dict[str, Any] = described(shared, live)
    protocol = RealtimeProtocol(session, max_text_chars=shared.settings.max_text_chars)
    await RealtimeSocket(socket, live, protocol, shared.metrics).run()
