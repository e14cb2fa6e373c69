"""One live session of the server: the library's session, who watches it, who speaks through it, who is told about it.

Its id is the secret that opens it. Everything here runs on the media loop and ends with `close`.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from emo_live.audio.source import to_mono
from emo_live.errors import EmoLiveError, NotReadyError
from emo_live.events import (
    Event,
    Heard,
    SessionClosed,
    SessionStats,
    State,
    StatsReport,
    UtteranceFinished,
    UtteranceStarted,
)
from emo_live.media.sink import Sink
from emo_live.types import AudioChunk
from emo_live_server import logs
from emo_live_server.badge import BadgeSink
from emo_live_server.metrics import Metrics
from emo_live_server.microphone import Ear, Edge, SpeechGate
from emo_live_server.settings import Settings
from emo_live_server.tasks import Tasks
from emo_live_server.voices import SoundStream, Voices

_GREET_AFTER_S = 0.8  # browsers shrink their sound buffers in the first moments of a connection
_MAX_PEERS = 4  # each needs an encoder; a page that lost its connection makes another one before the old one ends
_KNOWN_PEERS = 64
_SOUND = "(sound)"  # what is said where sound comes without its text
_log = logs.get(__name__)


class Session(Protocol):
    """What is used of emo_live.AvatarSession."""

    @property
    def state(self) -> State: ...

    async def __aenter__(self) -> Any: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Any: ...
    def attach(self, sink: Sink) -> None: ...
    def detach(self, sink: Sink) -> None: ...
    async def say(self, text: str, voice: str | None = None) -> str: ...
    async def interrupt(self) -> Heard: ...
    async def pause(self) -> None: ...
    async def resume(self) -> None: ...
    def control(self, *, speed: float | None = None, motion: float | None = None) -> None: ...
    def events(self) -> AsyncIterator[Event]: ...
    def stats(self) -> SessionStats: ...


class Peer(Protocol):
    """What is used of a WebRTC connection (emo_live.transport.webrtc.RtcPeer)."""

    answer_sdp: str
    etag: str
    connected: asyncio.Event
    closed: asyncio.Event

    def offer(self, pair: Any) -> None: ...
    async def close(self) -> None: ...
    async def add_candidates(self, sdpfrag: str) -> None: ...
    def microphone(self) -> AsyncIterator[AudioChunk]: ...
    def stats(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class Caption:
    """What an utterance says, when it is known."""

    utterance: str
    text: str


Message = Event | Caption


class Live:
    """id: the secret of its URL. viewer: watched only, over WHEP; it ends with its viewer.

    on_end(live, reason): called once, when the session ends by itself.
    """

    def __init__(
        self,
        session: Session,
        voices: Voices,
        *,
        avatar: str,
        size: int,
        owner: str,
        viewer: bool,
        settings: Settings,
        metrics: Metrics,
        on_end: Callable[[Live, str], None],
    ) -> None:
        self.id = secrets.token_urlsafe(24)
        self.fingerprint = logs.fingerprint(self.id)
        self.session, self.avatar, self.size, self.owner, self.viewer = session, avatar, size, owner, viewer
        self._voices = voices
        self.peers: dict[str, Peer] = {}
        self.sockets = 0
        self.began_s = self.used_s = time.monotonic()
        self._settings, self._metrics, self._on_end = settings, metrics, on_end
        self._gone: dict[str, None] = {}  # peers that left; their URLs are answered for a while
        self._greeting: str | None = None
        self._speaking: str | None = None  # the utterance that is being shown
        self._repeated: set[str] = set()  # utterances that came from a microphone
        self._closed = False
        self._listeners: set[Callable[[Message], None]] = set()
        self._tasks = Tasks()
        self._seen = SessionStats()
        self._tasks.start(self._watch(session.events()), "session events")

    # who watches

    @property
    def in_use(self) -> bool:
        """Somebody is connected."""
        return bool(self.peers) or self.sockets > 0

    @property
    def left_alone(self) -> bool:
        """Nobody is connected, and nothing is being said either."""
        return not self.in_use and self.session.state != "speaking"

    def touch(self) -> None:
        """Somebody asked for something: the idle time begins anew."""
        self.used_s = time.monotonic()

    def add_peer(self, peer: Peer, *, microphone: bool) -> str:
        """Show the session to a peer. Returns the secret of the peer's URL. With too many, the oldest one goes.

        Raises NotReadyError if the session has ended meanwhile; the peer stays the caller's then.
        """
        if self._closed:
            raise NotReadyError("the session has ended")
        sink: Sink = BadgeSink(peer) if self._settings.badge_in_picture else peer
        self.session.attach(sink)
        for old in list(self.peers.values())[: max(0, len(self.peers) + 1 - _MAX_PEERS)]:
            self._tasks.start(old.close(), "one peer too many")
        name = secrets.token_urlsafe(16)
        self.peers[name] = peer
        self._tasks.start(self._attend(name, peer, sink), "peer")
        if microphone:
            self._tasks.start(self._listen(peer), "microphone")
        return name

    def knows_peer(self, name: str) -> bool:
        """Whether this peer is here or was."""
        return name in self.peers or name in self._gone

    async def _attend(self, name: str, peer: Peer, sink: Sink) -> None:
        """From offer to end: whoever does not connect, or vanishes, is forgotten."""
        try:
            try:
                async with asyncio.timeout(self._settings.connect_timeout_s):
                    await _first(peer.connected, peer.closed)
            except TimeoutError:
                self._metrics.refused("never_connected")
                return
            self.touch()
            if not peer.closed.is_set():
                self._tasks.start(self._greet(), "greeting")
            await peer.closed.wait()  # as long as somebody watches
        finally:
            self.session.detach(sink)
            self.peers.pop(name, None)
            self._gone[name] = None
            if len(self._gone) > _KNOWN_PEERS:
                del self._gone[next(iter(self._gone))]
            self.touch()
            self._metrics.dropped.labels("slow_peer").inc(_plain(peer.stats()).get("pairs_dropped", 0))
            await peer.close()
            if self.viewer:
                self._on_end(self, "viewer_left")

    async def drop_peer(self, name: str) -> None:
        """The viewer said goodbye."""
        peer = self.peers.get(name)
        if peer is not None:
            await peer.close()

    # who speaks

    def greet(self, text: str) -> None:
        """Say something as soon as somebody watches."""
        self._greeting = text

    async def _greet(self) -> None:
        text, self._greeting = self._greeting, None
        if text is None:
            return
        await asyncio.sleep(_GREET_AFTER_S)
        if self.session.state == "idle":
            with contextlib.suppress(EmoLiveError):  # a face without a voice is still a face
                await self.say(text, None)

    async def say(self, text: str, voice: str | None) -> str:
        """After all that waits to be spoken. Returns the utterance. Raises EmoLiveError."""
        self.touch()
        utterance = await self.session.say(text, voice)
        self._tell(Caption(utterance, text))
        return utterance

    async def speak(self, chunks: AsyncIterator[AudioChunk]) -> str:
        """As `say`, with sound that is there or comes; returns at its first chunk. What stops it closes `chunks`."""
        self.touch()
        voice = self._voices.once(chunks)
        try:
            return await self.session.say(_SOUND, voice)
        finally:
            self._voices.forget(voice)

    async def _listen(self, peer: Peer) -> None:
        """What is said into a viewer's microphone is spoken, unless the face is speaking something else."""
        gate, stream, ear = SpeechGate(), SoundStream(), Ear(peer.microphone())
        stream.end()  # nothing is being said
        try:
            while not ear.over:
                chunk = await ear.listen(gate.patience_s)
                for piece in gate.pass_on(None if chunk is None else to_mono(chunk.pcm), chunk.rate_hz if chunk else 0):
                    if piece is Edge.END:
                        stream.end()
                    elif piece is not Edge.BEGIN:
                        await stream.push(piece, gate.rate_hz)
                    elif self._speaking is None or self._speaking in self._repeated:
                        stream = SoundStream()
                        self._tasks.start(self._repeat(stream), "microphone speech")
        finally:
            stream.end()
            await ear.close()

    async def _repeat(self, stream: SoundStream) -> None:
        try:
            self._repeated.add(await self.speak(stream))
        except EmoLiveError as error:
            stream.drop()
            _log.info("speech from a microphone was not taken", error=type(error).__name__)

    async def interrupt(self) -> Heard:
        """Everything that was to be said is forgotten. Returns what was heard of it."""
        self.touch()
        self._metrics.interrupts.inc()
        return await self.session.interrupt()

    # who is told

    @contextlib.contextmanager
    def listener(self, tell: Callable[[Message], None]) -> Any:
        """While this is open, `tell` gets every event and caption; it must return at once and not raise."""
        self._listeners.add(tell)
        try:
            yield
        finally:
            self._listeners.discard(tell)

    def _tell(self, message: Message) -> None:
        for tell in list(self._listeners):
            tell(message)

    async def _watch(self, events: AsyncIterator[Event]) -> None:
        async for event in events:
            self._tell(event)
            match event:
                case StatsReport():
                    self._count(event.stats)
                case UtteranceStarted():
                    self._speaking = event.utterance
                case UtteranceFinished():
                    self._speaking = None if self._speaking == event.utterance else self._speaking
                    self._repeated.discard(event.utterance)
                case SessionClosed():
                    self._on_end(self, "engine_failed" if event.reason != "closed" else "closed")

    def _count(self, stats: SessionStats) -> None:
        """Let the server's counters grow by what grew in this session since the last time."""
        seen, self._seen = self._seen, stats
        self._metrics.underruns.inc(max(0, stats.underruns - seen.underruns))
        for reason, count in stats.dropped.items():
            self._metrics.dropped.labels(reason).inc(max(0, count - seen.dropped.get(reason, 0)))
        if stats.first_frame_ms is not None and stats.first_frame_ms != seen.first_frame_ms:
            self._metrics.first_frame.observe(stats.first_frame_ms / 1000)
        if stats.engine_ms_per_frame and stats.pairs != seen.pairs:
            self._metrics.stage.labels("engine").observe(stats.engine_ms_per_frame / 1000)
            self._metrics.stage.labels("pacer").observe(stats.pacer_late_p95_ms / 1000)
        for peer in self.peers.values():
            encode_ms = _plain(peer.stats()).get("encode_p50_ms")
            if encode_ms is not None:
                self._metrics.stage.labels("encode").observe(encode_ms / 1000)

    def stats(self) -> dict[str, Any]:
        """What GET .../stats answers: the session's figures and those of its connections."""
        peers = [_plain(peer.stats()) for peer in self.peers.values()]
        return {"session": self.session.stats().as_dict(), "peers": peers, "ai_generated": True}

    def figures(self) -> dict[str, float | None]:
        """For the metrics' gauges."""
        bitrates = [_plain(peer.stats()).get("target_bitrate_bps") for peer in self.peers.values()]
        return {
            "playout_depth_ms": float(self.session.stats().playout_depth_ms),
            "rtc_target_bitrate_bps": float(sum(rate for rate in bitrates if rate)) if bitrates else None,
        }

    async def close(self, reason: str) -> None:
        """End everything, last of all the session. Called once, by the registry."""
        self._closed = True
        self._count(self.session.stats())
        self._tell(SessionClosed(reason))
        await self._tasks.close()
        for peer in list(self.peers.values()):
            await peer.close()
        await self.session.__aexit__(None, None, None)


def _plain(stats: Any) -> dict[str, Any]:
    if hasattr(stats, "as_dict"):
        return dict(stats.as_dict())
    return dict(stats) if isinstance(stats, dict) else {}


async def _first(*events: asyncio.Event) -> None:
    """Wait until one of them is set."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)  # the caller has a timeout
    finally:
        for wait in waits:
            wait.cancel()
