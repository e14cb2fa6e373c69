"""What routes ask for besides their own parameters: the app's context, the caller, the session that a URL opens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

import structlog
from fastapi import Depends
from starlette.requests import HTTPConnection

from emo_live_server.auth import Principal, bearer, from_subprotocols
from emo_live_server.context import Context
from emo_live_server.limits import Kind
from emo_live_server.live import Live
from emo_live_server.problems import Problem
from emo_live_server.settings import Scope


def context(connection: HTTPConnection) -> Context:
    found: Context = connection.app.state.context
    return found


Shared = Annotated[Context, Depends(context)]


def address(connection: HTTPConnection) -> str:
    """Of the client, for rate limits only: it is never logged."""
    return connection.client.host if connection.client else "nobody"


def secret_of(connection: HTTPConnection) -> str | None:
    """A key or token sent as a header or, by a browser's WebSocket, as a subprotocol."""
    offered = [name.strip() for name in connection.headers.get("sec-websocket-protocol", "").split(",")]
    return bearer(connection.headers.get("authorization")) or from_subprotocols(offered)


async def identify(connection: HTTPConnection, shared: Shared) -> Principal | None:
    """Who asks; None if nobody said. Raises Problem 401 for a key that is not valid, 429 after too many of them."""
    where = address(connection)
    if shared.auth.protected:
        await shared.limits.check_failures(where)
    try:
        return shared.auth.principal(secret_of(connection))
    except Problem:
        await shared.limits.spend("failed", where)
        raise


Caller = Annotated[Principal | None, Depends(identify)]


def may(*scopes: Scope, kind: Kind | None = None) -> Callable[..., Awaitable[Principal]]:
    """A dependency: the caller, who has one of these scopes and does not ask too often."""

    async def check(connection: HTTPConnection, caller: Caller, shared: Shared) -> Principal:
        held = next((scope for scope in scopes if caller is not None and scope in caller.scopes), scopes[0])
        principal = shared.auth.require(caller, held)
        if kind is not None:
            await shared.limits.spend(kind, _who(principal, connection))
        return principal

    return check


def limited(kind: Kind) -> Callable[..., Awaitable[None]]:
    """A dependency: requests to a session's own URL, which is its own permission, but not without end."""

    async def check(connection: HTTPConnection, shared: Shared) -> None:
        await shared.limits.spend(kind, address(connection))

    return check


async def live_session(id: str, caller: Caller, shared: Shared) -> Live:
    """The session that a URL opens. A key that is sent along must be valid; none is needed."""
    live = shared.sessions.get(id)
    structlog.contextvars.bind_contextvars(session=live.fingerprint)
    live.touch()
    return live


Opened = Annotated[Live, Depends(live_session)]


def _who(principal: Principal, connection: HTTPConnection) -> str:
    """Callers without a name of their own are told apart by their address."""
    return address(connection) if principal.name == "local" else principal.name
