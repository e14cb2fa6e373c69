"""What lies around every request: who may connect from where, headers that protect the browser, the log, the counts.

Plain ASGI, because bodies of any length and WebSockets pass through. A page elsewhere must not use a server on loopback
that asks for no key, so names (Host) and pages (Origin) are checked there.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import MutableMapping
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from emo_live_server import logs
from emo_live_server.metrics import Metrics
from emo_live_server.problems import Problem
from emo_live_server.settings import Settings

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_METHODS = _SAFE_METHODS | {"POST", "PUT", "PATCH", "DELETE"}
_MAX_BODY_BYTES = 1 << 20  # of requests that do not count their own bytes, as uploads do
BODY_S = 30.0  # that these take to arrive
_OWN_LIMITS = re.compile(r"^/v1/(avatars|sessions/[^/]+/audio)$")
_HOST = re.compile(r"^[A-Za-z0-9.\-]+(:\d{1,5})?$|^\[[0-9A-Fa-f:.]+\](:\d{1,5})?$")
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), payment=(), usb=(), microphone=(self), display-capture=()",
    # What this server shows is made, not filmed: for programs that never see the page's badge.
    "X-AI-Generated": "true",
}
_API = ("/v1/", "/whep/", "/metrics", "/healthz", "/readyz")
_log = logs.get(__name__)


class Guard:
    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request=uuid.uuid4().hex[:8])
        try:
            self._check(scope)
        except Problem as problem:
            self._metrics.refused(problem.reason)
            await self._refuse(problem, scope, receive, send)
            return
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)
            return
        await self._serve(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._settings.hosts and _without_port(host) not in self._settings.hosts:
            detail = "this server does not answer to that name: add it to allowed_hosts"
            raise Problem(421, detail, reason="wrong_host")
        origin = headers.get("origin")
        changes = scope["type"] == "websocket" or scope["method"] not in _SAFE_METHODS
        if origin is None or not changes or self._settings.protected:
            return
        if origin not in self._settings.cors_origins and origin.partition("://")[2] != host:
            raise Problem(403, "another page may not do that: add its origin to cors_origins", reason="wrong_origin")

    async def _refuse(self, problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": problem.reason})
            return
        await self._serve(scope, receive, send, problem.response())

    async def _serve(self, scope: Scope, receive: Receive, send: Send, app: ASGIApp | None = None) -> None:
        began_s = time.monotonic()
        status = 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._add_headers(scope, message)
            await send(message)

        try:
            await (app or self._app)(scope, _capped(scope, receive), sending)
        finally:
            route = getattr(scope.get("route"), "path", None) or "other"
            method = scope["method"] if scope["method"] in _METHODS else "other"  # clients can send any word
            self._metrics.request(method, route, status)
            took_ms = round((time.monotonic() - began_s) * 1000, 1)
            say = _log.debug if route == "other" and status < 400 else _log.info  # files of the page
            say("request", method=method, route=route, status=status, took_ms=took_ms)

    def _add_headers(self, scope: Scope, message: MutableMapping[str, Any]) -> None:
        headers = MutableHeaders(scope=message)
        for name, value in _HEADERS.items():
            headers.setdefault(name, value)
        headers.setdefault("Content-Security-Policy", content_security_policy(Headers(scope=scope).get("host", "")))
        headers.setdefault("Cache-Control", "no-store" if scope["path"].startswith(_API) else "no-cache")
        if scope["path"].startswith("/whep/") and scope["method"] in ("OPTIONS", "HEAD"):
            headers.setdefault("Accept-Post", "application/sdp")
        if self._settings.tls_certificate is not None:
            headers.setdefault("Strict-Transport-Security", "max-age=31536000")


def _capped(scope: Scope, receive: Receive) -> Receive:
    """Bodies end at a limit and in time, whatever was announced."""
    if _OWN_LIMITS.match(scope["path"]):
        return receive
    received, over = 0, False
    until = asyncio.get_running_loop().time() + BODY_S
    announced = Headers(scope=scope).get("content-length", "")

    async def receiving() -> Message:
        nonlocal received, over
        if announced.isdigit() and int(announced) > _MAX_BODY_BYTES:
            raise HTTPException(413, f"at most {_MAX_BODY_BYTES} bytes are taken")
        try:
            async with asyncio.timeout_at(None if over else until):
                message = await receive()
        except TimeoutError:
            raise HTTPException(408, f"the request took longer than {BODY_S:.0f} s to arrive") from None
        over = not message.get("more_body", False)
        received += len(message.get("body", b""))
        if received > _MAX_BODY_BYTES:
            raise HTTPException(413, f"at most {_MAX_BODY_BYTES} bytes are taken")
        return message

    return receiving


def content_security_policy(host: str) -> str:
    """Nothing but this server's own files and connections, and what the page makes itself (blob:).

    Older browsers do not count ws: and wss: of the same host as 'self', so they are named.
    """
    sockets = f" ws://{host} wss://{host}" if _HOST.match(host) else ""
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; font-src 'self'; "
        f"media-src 'self' blob: mediastream:; connect-src 'self' blob:{sockets}; worker-src 'self' blob:; "
        "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _without_port(host: str) -> str:
    return re.sub(r":\d+$", "", host).lower()
