"""One realtime WebSocket: three tasks around the protocol, which itself knows no sockets.

The reader obeys commands at once, so that an interrupt never waits behind speech; speech goes into streams that hold
some minutes and then make the client wait. A client that does not read is let go when its outbox is full.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Coroutine
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from emo_live.errors import EmoLiveError
from emo_live.events import SessionClosed, UtteranceFinished, UtteranceStarted
from emo_live.transport.realtime import (
    Command,
    Control,
    EndUtterance,
    Interrupt,
    Pause,
    PushAudio,
    RealtimeProtocol,
    Resume,
    Say,
)
from emo_live_server import logs
from emo_live_server.live import Caption, Live, Message
from emo_live_server.metrics import Metrics
from emo_live_server.problems import Problem
from emo_live_server.tasks import Tasks
from emo_live_server.voices import SoundStream

MAX_ERRORS = 100
_OUTBOX = 512  # messages; a quiet minute has 60
_SEND_TIMEOUT_S = 10.0
_MAX_BEGINNING = 8  # texts and items whose voice has not begun
TOO_SLOW, TOO_MANY_ERRORS, GONE, TOO_BIG = 1008, 1008, 1001, 1009
_log = logs.get(__name__)


class _Over(Exception):
    """The connection is to be closed from our side."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class RealtimeSocket:
    """socket: accepted. `run` returns when either side has had enough; the session goes on."""

    def __init__(self, socket: WebSocket, live: Live, protocol: RealtimeProtocol, metrics: Metrics) -> None:
        self._socket, self._live, self._protocol, self._metrics = socket, live, protocol, metrics
        self._outbox: deque[str] = deque()
        self._wake = asyncio.Event()
        self._over: _Over | None = None
        self._stream: SoundStream | None = None
        self._beginning: set[asyncio.Task[None]] = set()
        self._held: deque[Message] = deque(maxlen=_OUTBOX)
        self._tasks = Tasks()

    async def run(self) -> None:
        live = self._live
        live.sockets += 1
        _log.info("socket opens", session=live.fingerprint)
        self._send(self._protocol.created())
        self._send(self._protocol.state(live.session.state))
        try:
            with live.listener(self._tell):
                await self._until_over()
        finally:
            live.sockets -= 1
            live.touch()
            _log.info("socket closes", session=live.fingerprint, errors=self._protocol.errors)
            if self._stream is not None:
                self._stream.end()
            await self._tasks.close()

    async def _until_over(self) -> None:
        reader = self._tasks.start(self._read(), "socket reader")
        writer = self._tasks.start(self._write(), "socket writer")
        # Either of them ends it: the client left, is too slow, or was shown out.
        await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
        over = self._over
        if over is not None:
            reader.cancel()
            with contextlib.suppress(Exception):  # it may be gone by now
                async with asyncio.timeout(_SEND_TIMEOUT_S):
                    await self._socket.close(over.code, over.reason)

    # in

    async def _read(self) -> None:
        try:
            while True:
                message = await self._socket.receive()  # as long as the client likes
                if message["type"] == "websocket.disconnect":
                    if message.get("code") == TOO_BIG:
                        self._metrics.refused("message_too_big")
                    return
                self._live.touch()
                await self._take(message.get("bytes") or message.get("text") or "")
                await asyncio.sleep(0)  # a client that sends without end leaves room for the others
        except WebSocketDisconnect:
            return

    async def _take(self, data: str | bytes) -> None:
        before = self._protocol.errors
        received = self._protocol.receive(data)
        if self._protocol.errors > before:
            self._metrics.refused("realtime_message")
        for reply in received.replies:
            self._send(reply)
        if self._protocol.errors > MAX_ERRORS:
            self._finish(_Over(TOO_MANY_ERRORS, "too many messages that cannot be obeyed"))
        for command in received.commands:
            try:
                await self._obey(command)
            except EmoLiveError as error:
                self._refuse(error)

    async def _obey(self, command: Command) -> None:
        session = self._live.session
        match command:
            case PushAudio():
                if self._stream is None:
                    self._stream = SoundStream()
                    await self._speak(self._begin(self._stream, command.item))
                await self._stream.push(command.pcm, command.rate_hz)
            case EndUtterance():
                if self._stream is not None:
                    self._stream.end()
                    self._stream = None
            case Interrupt():
                if self._stream is not None:
                    self._stream.drop()
                    self._stream = None
                answer = self._protocol.interrupted(await self._live.interrupt())
                if answer is not None:
                    self._send(answer)
            case Say():
                await self._speak(self._say(command))
            case Pause():
                await session.pause()
            case Resume():
                await session.resume()
            case Control():
                session.control(speed=command.speed, motion=command.motion)

    async def _speak(self, work: Coroutine[Any, Any, None]) -> None:
        """Speech begins beside the reader: a voice takes a moment, and an interrupt must not wait for it."""
        if len(self._beginning) >= _MAX_BEGINNING:
            await asyncio.wait(self._beginning, return_when=asyncio.FIRST_COMPLETED)  # `say` has a timeout
        task = self._tasks.start(work, "socket speech")
        self._beginning.add(task)
        task.add_done_callback(self._begun)

    def _begun(self, task: asyncio.Task[None]) -> None:
        self._beginning.discard(task)
        while self._held and not self._beginning:
            self._tell(self._held.popleft())

    async def _begin(self, stream: SoundStream, item: str | None) -> None:
        if stream.over:
            return
        try:
            self._protocol.bind(await self._live.speak(stream), item)
        except EmoLiveError as error:
            stream.drop()
            self._refuse(error)

    async def _say(self, command: Say) -> None:
        try:
            await self._live.say(command.text, command.voice)
        except EmoLiveError as error:
            self._refuse(error)

    def _refuse(self, error: EmoLiveError) -> None:
        problem = Problem.of(error)
        self._metrics.refused(problem.reason)
        kind = "server_error" if problem.status >= 500 else "invalid_request_error"
        self._send(self._protocol.error(problem.detail, problem.reason, kind=kind))

    # out

    def _tell(self, message: Message) -> None:
        if isinstance(message, Caption):
            self._send(self._protocol.caption(message.utterance, message.text))
            return
        if self._beginning and isinstance(message, UtteranceStarted | UtteranceFinished):
            self._held.append(message)  # its name is about to be known
            return
        text = self._protocol.event(message)
        if text is not None:
            self._send(text)
        if isinstance(message, SessionClosed):
            self._finish(_Over(GONE, "the session has ended"))

    def _send(self, text: str) -> None:
        if len(self._outbox) >= _OUTBOX:
            self._metrics.refused("client_does_not_read")
            self._outbox.clear()
            self._finish(_Over(TOO_SLOW, "messages are not being read"))
            return
        self._outbox.append(text)
        self._wake.set()

    def _finish(self, over: _Over) -> None:
        self._over = self._over or over
        self._wake.set()

    async def _write(self) -> None:
        while True:
            while self._outbox:
                try:
                    async with asyncio.timeout(_SEND_TIMEOUT_S):
                        await self._socket.send_text(self._outbox.popleft())
                except TimeoutError:
                    self._metrics.refused("client_does_not_read")
                    self._finish(_Over(TOO_SLOW, "messages are not being read"))
                    return
                except (WebSocketDisconnect, RuntimeError, OSError):  # gone, by the names that servers have for it
                    return
            if self._over is not None:
                return
            self._wake.clear()
            await self._wake.wait()  # until there is something to say, or the reader ends
