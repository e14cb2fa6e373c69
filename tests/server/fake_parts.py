"""Stand-ins for a session and for WebRTC, and a running app around them: the server's own behaviour, in no time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
from fakes import bundled_avatar
from fastapi import FastAPI

from emo_live.avatar import Avatar
from emo_live.errors import BadInputError, EmoLiveError, NotReadyError, NotSupportedError
from emo_live.events import (
    Event,
    Heard,
    SessionClosed,
    SessionStats,
    State,
    StateChanged,
    StatsReport,
    UtteranceFinished,
    UtteranceStarted,
)
from emo_live.types import AudioChunk
from emo_live_server.app import create_app
from emo_live_server.context import Context
from emo_live_server.sessions import Wish
from emo_live_server.settings import Settings, load
from emo_live_server.voices import Voices

OFFER = "v=0 a fake offer"
SDP = {"Content-Type": "application/sdp"}
FRAGMENT = {"Content-Type": "application/trickle-ice-sdpfrag"}


class FakeSession:
    """Speaks at once whatever it is given; remembers what that was. hold: keeps speaking until an interrupt."""

    def __init__(self, avatar: Avatar, wish: Wish, voices: Voices) -> None:
        self.avatar, self.wish, self.voices = avatar, wish, voices
        self.state: State = "idle"
        self.hold = False
        self.entered = self.closed = False
        self.sinks: list[Any] = []
        self.texts: list[str] = []
        self.heard: list[AudioChunk] = []
        self.controls: list[tuple[float | None, float | None]] = []
        self.interrupts = 0
        self.figures = SessionStats()
        self._speaking: dict[str, asyncio.Task[None]] = {}
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._count = 0

    async def __aenter__(self) -> FakeSession:
        self.entered = True
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.interrupt()
        self.closed = True
        self.emit(SessionClosed("closed"))
        self._events.put_nowait(None)

    def attach(self, sink: Any) -> None:
        self.sinks.append(sink)

    def detach(self, sink: Any) -> None:
        if sink in self.sinks:
            self.sinks.remove(sink)

    async def say(self, text: str, voice: str | None = None) -> str:
        if not text.strip():
            raise BadInputError("there is no text to speak")
        self._count += 1
        name = f"u{self._count}"
        chunks = self.voices.speak(text, voice)
        self.texts.append(text)
        begun = asyncio.get_running_loop().create_future()
        self._speaking[name] = asyncio.create_task(self._speak(name, chunks, begun))
        await asyncio.wait((begun, self._speaking[name]), return_when=asyncio.FIRST_COMPLETED)
        if not begun.done() and name in self._speaking:
            await self._speaking.pop(name)  # raises what went wrong
        return name

    async def _speak(self, name: str, chunks: AsyncIterator[AudioChunk], begun: asyncio.Future[None]) -> None:
        interrupted = True
        try:
            async for chunk in chunks:
                self.heard.append(chunk)
                if not begun.done():
                    begun.set_result(None)
                    self.emit(UtteranceStarted(name))
                    self._enter("speaking")
            if self.hold:
                await asyncio.Event().wait()  # an interrupt ends it
            interrupted = False
        finally:
            if hasattr(chunks, "aclose"):
                await chunks.aclose()
            if begun.done():
                self._speaking.pop(name, None)
            self.emit(UtteranceFinished(name, 40 * len(self.heard), interrupted))
            self._enter("idle")

    async def interrupt(self) -> Heard:
        self.interrupts += 1
        names, tasks = list(self._speaking), list(self._speaking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return Heard(names[0], 40 * len(self.heard)) if names else Heard(None, 0)

    async def pause(self) -> None:
        self._enter("paused")

    async def resume(self) -> None:
        self._enter("idle")

    def control(self, *, speed: float | None = None, motion: float | None = None) -> None:
        self.controls.append((speed, motion))

    async def events(self) -> AsyncIterator[Event]:
        while (event := await self._events.get()) is not None:
            yield event

    def stats(self) -> SessionStats:
        return self.figures

    def emit(self, event: Event) -> None:
        self._events.put_nowait(event)

    def report(self, figures: SessionStats) -> None:
        self.figures = figures
        self.emit(StatsReport(figures))

    def _enter(self, state: State) -> None:
        self.state = state
        self.emit(StateChanged(state))


class FakeVoice:
    """A Speaker with one voice, which says a tone for every text."""

    async def speak(self, text: str, voice: str | None) -> AsyncIterator[AudioChunk]:
        if voice not in (None, "ada"):
            raise BadInputError("there is no such voice: use ada")
        yield AudioChunk(np.full(2400, 0.1, np.float32), 24_000)


class FakePeer:
    def __init__(self) -> None:
        self.answer_sdp, self.etag = "v=0 a fake answer", "tag-1"
        self.connected, self.closed = asyncio.Event(), asyncio.Event()
        self.fragments: list[str] = []
        self.pairs = 0
        self.sound: asyncio.Queue[AudioChunk | None] = asyncio.Queue()

    def offer(self, pair: Any) -> None:
        self.pairs += 1

    async def close(self) -> None:
        self.closed.set()

    async def add_candidates(self, sdpfrag: str) -> None:
        if "restart" in sdpfrag:
            raise NotSupportedError("ICE restarts are not supported")
        if "broken" in sdpfrag:
            raise BadInputError("this is no SDP fragment")
        self.fragments.append(sdpfrag)

    async def microphone(self) -> AsyncIterator[AudioChunk]:
        while (chunk := await self.sound.get()) is not None:
            yield chunk

    def stats(self) -> dict[str, Any]:
        return {"target_bitrate_bps": 1_000_000, "encode_p50_ms": 4.0, "pairs_dropped": 1}


class FakeRtc:
    """Answers every offer but those that name a fault."""

    faults: dict[str, EmoLiveError] = {
        "broken": BadInputError("this is not SDP"),
        "video to us": BadInputError("we take no video"),
        "no codec": NotSupportedError("the offer has neither H.264 nor VP8"),
        "busy": NotReadyError("too many connections"),
    }

    def __init__(self) -> None:
        self.peers: list[FakePeer] = []
        self.asked: list[tuple[tuple[int, int], bool]] = []

    async def answer(self, offer_sdp: str, *, size: tuple[int, int], receive_audio: bool = False) -> FakePeer:
        for fault, error in self.faults.items():
            if fault in offer_sdp:
                raise error
        self.asked.append((size, receive_audio))
        self.peers.append(FakePeer())
        return self.peers[-1]


class FakePool:
    def __init__(self, places: int = 4) -> None:
        self.places = places

    def free(self) -> int:
        return self.places


class Running:
    """A started app with fakes inside."""

    def __init__(self, app: FastAPI, rtc: FakeRtc, pool: FakePool, sessions: list[FakeSession]) -> None:
        self.app, self.rtc, self.pool, self.sessions = app, rtc, pool, sessions
        self.context: Context = app.state.context
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://localhost"
        )

    async def ready(self) -> None:
        async with asyncio.timeout(20):
            while not self.context.ready:
                assert self.context.failure is not None
                assert not self.context.failure.done(), self.context.failure
                await asyncio.sleep(0.005)

    async def session(self, **wish: Any) -> dict[str, Any]:
        reply = await self.http.post("/v1/sessions", json=wish)
        assert reply.status_code == 201, reply.text
        return dict(reply.json())

    def count(self, name: str, **labels: str) -> float:
        return self.context.metrics.value(name, **labels)


@contextlib.asynccontextmanager
async def running(settings: Settings | None = None, *, warm: bool = True, **given: Any) -> AsyncIterator[Running]:
    rtc, pool, sessions = FakeRtc(), FakePool(), list[FakeSession]()

    def open_session(avatar: Avatar, wish: Wish, voices: Voices) -> FakeSession:
        sessions.append(FakeSession(avatar, wish, voices))
        return sessions[-1]

    app = create_app(settings or load(**given), pool=pool, rtc=rtc, open_session=open_session)
    context: Context = app.state.context
    # The finder of faces is another test's business: its nets take a second to load.
    next(iter(context.avatars._faces.values())).avatar = bundled_avatar()
    async with app.router.lifespan_context(app):
        server = Running(app, rtc, pool, sessions)
        async with server.http:
            if warm:
                await server.ready()
            context.sessions.speaker = FakeVoice()
            yield server


async def connect(server: Running, session: dict[str, Any]) -> Any:
    reply = await server.http.post(session["webrtc_url"], content=OFFER, headers=SDP)
    assert reply.status_code == 201, reply.text
    return reply


def heard(server: Running, index: int = 0) -> np.ndarray[Any, Any]:
    """What a session was given to speak."""
    return np.concatenate([chunk.pcm for chunk in server.sessions[index].heard])
