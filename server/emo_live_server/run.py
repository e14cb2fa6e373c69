"""Runs the application with uvicorn in this process, and ends it gently: SIGTERM empties the server first."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from emo_live.errors import BadInputError
from emo_live.transport.realtime import MAX_MESSAGE_BYTES
from emo_live_server import logs
from emo_live_server.connections import PatientHttp, PatientSocket
from emo_live_server.context import Context
from emo_live_server.settings import Settings
from emo_live_server.tasks import Tasks

_log = logs.get(__name__)


class Server(uvicorn.Server):
    """on_started(address): called when it listens, with the port that it got.

    The first SIGTERM lets running sessions go on for `drain_s` while new ones get 503; a second one, or Ctrl-C, ends
    them at once.
    """

    def __init__(self, app: FastAPI, settings: Settings, on_started: Callable[[str], None] | None = None) -> None:
        super().__init__(_config(app, settings))
        self._context: Context = app.state.context
        self._settings, self._on_started = settings, on_started
        self._tasks = Tasks()
        self.interrupted = False
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[Any] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets=sockets)
        if not self.started:
            return
        self._tasks.start(self._watch(), "engine failure")
        if self._on_started is not None:
            port = self.servers[0].sockets[0].getsockname()[1]
            self._on_started(self._settings.model_copy(update={"port": port}).address)

    async def shutdown(self, sockets: list[Any] | None = None) -> None:
        await self._tasks.close()
        await super().shutdown(sockets=sockets)

    async def _watch(self) -> None:
        """A server whose engine does not start is of no use: it ends."""
        assert self._context.failure is not None, "the app has started"
        await self._context.failure  # as long as the server runs
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig == signal.SIGTERM and not self._context.sessions.draining and self._loop is not None:
            self._loop.call_soon_threadsafe(self.drain)
            return
        self.interrupted = self.interrupted or sig == signal.SIGINT
        self.force_exit = self.should_exit
        self.should_exit = True

    def drain(self) -> None:
        """End when the running sessions have, or their time is over."""
        _log.info("draining", sessions=len(self._context.sessions))
        self._tasks.start(self._drain(), "drain")

    async def _drain(self) -> None:
        await self._context.sessions.drain()
        self.should_exit = True


async def serve(app: FastAPI, settings: Settings, on_started: Callable[[str], None] | None = None) -> bool:
    """Returns when the server has ended, and whether Ctrl-C ended it.

    Raises BadInputError if it cannot listen, EmoLiveError if it cannot get ready.
    """
    server = Server(app, settings, on_started)
    try:
        await server.serve()
    except SystemExit:  # uvicorn's way to say that it cannot listen; its log has said why
        raise BadInputError(f"{settings.host}:{settings.port} cannot be used: choose another one with --port") from None
    failure = app.state.context.failure
    if failure is not None and failure.done() and not failure.cancelled():
        raise failure.result()
    return server.interrupted


def _config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=settings.host.strip("[]"),
        port=settings.port,
        http=PatientHttp,
        ws=PatientSocket,
        ws_per_message_deflate=False,  # base64 of sound does not shrink enough to be worth a window a connection
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_ping_interval=20.0,
        ws_ping_timeout=20.0,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,
        forwarded_allow_ips=list(settings.forwarded_allow_ips),
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
        log_config=None,
        access_log=False,
        server_header=False,
    )
