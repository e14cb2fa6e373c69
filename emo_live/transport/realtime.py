"""The realtime WebSocket as a protocol without I/O: messages in -> commands and replies, session events in -> messages.

Names are those of the OpenAI Realtime API, so that what an assistant's server sends can be forwarded as it comes;
everything of our own is called `emo.*`. One object a connection, called from one task. Knows nothing of sockets and
sessions; `ms` is milliseconds of the utterance that were heard.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from emo_live.events import (
    Degraded,
    Event,
    Heard,
    Recovered,
    SessionClosed,
    State,
    StateChanged,
    StatsReport,
    UtteranceFinished,
    UtteranceStarted,
)
from emo_live.types import FPS, Int16

MAX_MESSAGE_BYTES = 1 << 20
MIN_RATE_HZ, DEFAULT_RATE_HZ, MAX_RATE_HZ = 8_000, 24_000, 96_000
_REMEMBERED = 64  # items whose late audio is dropped, utterances whose names are known
_MAX_NAME_CHARS = 256  # of an assistant's names; they are kept and sent back

# What else an assistant's server sends, in one stream with its audio: nothing to do for a face.
_FORWARDED = ("response.", "conversation.", "rate_limits.", "session.", "input_audio_buffer.", "output_audio_buffer.")


@dataclass(frozen=True, slots=True, eq=False)
class PushAudio:
    """Speech to show. pcm: (S,) int16. item: the assistant's name for this speech, if it has one."""

    pcm: Int16
    rate_hz: int
    item: str | None


@dataclass(frozen=True, slots=True)
class EndUtterance:
    item: str | None


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Speech that was pushed and not heard yet is to be forgotten."""


@dataclass(frozen=True, slots=True)
class Say:
    text: str
    voice: str | None


@dataclass(frozen=True, slots=True)
class Pause: ...


@dataclass(frozen=True, slots=True)
class Resume: ...


@dataclass(frozen=True, slots=True)
class Control:
    speed: float | None
    motion: float | None


Command = PushAudio | EndUtterance | Interrupt | Say | Pause | Resume | Control


@dataclass(frozen=True, slots=True)
class Received:
    """What a message asks for, in order, and what to answer at once."""

    commands: tuple[Command, ...] = ()
    replies: tuple[str, ...] = ()


class _Refused(Exception):
    """A message that cannot be obeyed. code: for programs; param: which part of the message."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.param = code, param


class RealtimeProtocol:
    """session: what `session.created` says about the session, with `id`, `avatar` and `size`.

    errors: messages refused so far; a connection that makes too many of them is worth closing.
    """

    def __init__(self, session: Mapping[str, Any], *, max_text_chars: int = 2000) -> None:
        self.errors = 0
        self.rate_hz = DEFAULT_RATE_HZ
        self._session, self._max_text_chars = dict(session), max_text_chars
        self._numbers = itertools.count(1)
        self._open: str | None = None  # item of the utterance that audio is being pushed to
        self._pushed = False  # audio came since the last end of an utterance
        self._dropped: deque[str] = deque(maxlen=_REMEMBERED)  # items that were interrupted
        self._items: dict[str, str] = {}  # utterance -> item

    # in

    def receive(self, data: str | bytes) -> Received:
        """A whole WebSocket message; never raises. Binary messages are PCM, 16 bits, little endian, mono."""
        origin: str | None = None
        try:
            if len(data) > MAX_MESSAGE_BYTES:
                raise _Refused("message_too_big", f"a message may have {MAX_MESSAGE_BYTES} bytes: send shorter pieces")
            if isinstance(data, bytes):
                return self._push(data, None)
            message = _parsed(data)
            origin = _name(message, "event_id")
            return self._obey(message)
        except _Refused as refused:
            return Received(replies=(self.error(str(refused), refused.code, param=refused.param, origin=origin),))

    def _obey(self, message: dict[str, Any]) -> Received:
        kind = message.get("type")
        if not isinstance(kind, str):
            raise _Refused("invalid_type", "a message needs a type", "type")
        handler = _HANDLERS.get(kind)
        if handler is not None:
            return handler(self, message)
        if kind == "error" or kind.startswith(_FORWARDED):
            return Received()
        raise _Refused("unknown_type", f"there is no message {kind[:64]!r}", "type")

    def _update(self, message: dict[str, Any]) -> Received:
        wanted = message.get("session")
        if not isinstance(wanted, dict):
            raise _Refused("invalid_value", "session.update needs a session object", "session")
        for name, fixed in (("avatar", self._session.get("avatar")), ("size", self._session.get("size")), ("fps", FPS)):
            if wanted.get(name) not in (None, fixed):
                raise _Refused("fixed", f"{name} is {fixed} in this session: make another one", f"session.{name}")
        control = _control(wanted, "session.")
        rate_hz = _rate_hz(wanted)
        if rate_hz is not None and rate_hz != self.rate_hz:
            if self._pushed:
                raise _Refused("out_of_order", "the rate can change only between utterances", "session.audio")
            self.rate_hz = rate_hz
        commands = () if control == Control(None, None) else (control,)
        return Received(commands, (self._say("session.updated", session=self._described()),))

    def _delta(self, message: dict[str, Any]) -> Received:
        item = _name(message, "item_id") or _name(message, "response_id")
        if item is None and (message.get("item_id") or message.get("response_id")):
            raise _Refused(
                "invalid_value", f"item_id must be a string of {_MAX_NAME_CHARS} characters at most", "item_id"
            )
        if item is not None and item in self._dropped:
            return Received()  # still on its way when it was interrupted
        return self._push(_decoded(message.get("delta"), "delta"), item)

    def _append(self, message: dict[str, Any]) -> Received:
        return self._push(_decoded(message.get("audio"), "audio"), None)

    def _push(self, data: bytes, item: str | None) -> Received:
        if len(data) % 2:
            raise _Refused("invalid_audio", "PCM of 16 bits has an even number of bytes", "audio")
        if not data:
            return Received()
        pcm = np.frombuffer(data, "<i2").astype(np.int16)
        # A new item means that the one before is over, even where nobody said so.
        before: tuple[Command, ...] = (EndUtterance(self._open),) if self._pushed and item != self._open else ()
        self._open, self._pushed = item, True
        return Received((*before, PushAudio(pcm, self.rate_hz, item)))

    def _done(self, message: dict[str, Any]) -> Received:
        """The assistant's speech is over; a stream without speech says so too, and that is no error."""
        return self._end()

    def _commit(self, message: dict[str, Any]) -> Received:
        if not self._pushed:
            raise _Refused("input_audio_buffer_commit_empty", "there is no audio to commit: append some first")
        return Received(self._end().commands, (self._say("input_audio_buffer.committed"),))

    def _end(self) -> Received:
        if not self._pushed:
            return Received()
        ended, self._open, self._pushed = self._open, None, False
        return Received((EndUtterance(ended),))

    def _interrupt(self, message: dict[str, Any]) -> Received:
        if self._open is not None:
            self._dropped.append(self._open)
        if message.get("type") == "response.cancel":
            named = (_name(message, "item_id"), _name(message, "response_id"))
            self._dropped.extend(name for name in named if name is not None)
        self._open, self._pushed = None, False
        cleared = message.get("type") == "input_audio_buffer.clear"
        return Received((Interrupt(),), (self._say("input_audio_buffer.cleared"),) if cleared else ())

    def _speak(self, message: dict[str, Any]) -> Received:
        text, voice = message.get("text"), message.get("voice")
        if not isinstance(text, str) or not text.strip():
            raise _Refused("invalid_value", "emo.say needs a text", "text")
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise _Refused("invalid_value", "the text holds half a character (a lone surrogate)", "text")
        if len(text) > self._max_text_chars:
            raise _Refused("invalid_value", f"a text may have {self._max_text_chars} characters", "text")
        if voice is not None and not isinstance(voice, str):
            raise _Refused("invalid_value", "voice must be a name", "voice")
        return Received((Say(text, voice),))

    def _steer(self, message: dict[str, Any]) -> Received:
        return Received((_control(message, ""),))

    # out

    def created(self) -> str:
        """The first message of a connection."""
        return self._say("session.created", session=self._described())

    def state(self, state: State) -> str:
        """What the session is doing now; for whoever comes in the middle."""
        return self._say("emo.state", state=state)

    def bind(self, utterance: str, item: str | None) -> None:
        """From now on an utterance is called by the assistant's name for it."""
        if item is not None:
            while len(self._items) >= _REMEMBERED:
                del self._items[next(iter(self._items))]
            self._items[utterance] = item

    def event(self, event: Event) -> str | None:
        """The message that tells of an event of the session; None if there is nothing to tell."""
        match event:
            case UtteranceStarted():
                return self._say("output_audio_buffer.started", **self._named(event.utterance))
            case UtteranceFinished():
                name = "cleared" if event.interrupted else "stopped"
                heard = {**self._named(event.utterance), "audio_end_ms": event.heard_ms}
                self._items.pop(event.utterance, None)
                return self._say(f"output_audio_buffer.{name}", **heard)
            case StateChanged():
                return self.state(event.state)
            case Degraded():
                return self._say("emo.degraded", level=event.level, reason=event.reason)
            case Recovered():
                return self._say("emo.recovered", level=event.level)
            case StatsReport():
                return self._say("emo.stats", stats=event.stats.as_dict())
            case SessionClosed():
                return self._say("emo.closed", reason=event.reason)
        return None

    def interrupted(self, heard: Heard) -> str | None:
        """The answer to an interrupt that found nobody speaking; otherwise the utterance's own end is the answer."""
        if heard.utterance is not None:
            return None
        return self._say("output_audio_buffer.cleared", item_id=None, utterance=None, audio_end_ms=0)

    def caption(self, utterance: str, text: str) -> str:
        return self._say("emo.caption", **self._named(utterance), text=text)

    def error(
        self, message: str, code: str, *, kind: str = "invalid_request_error", param: str | None = None,
        origin: str | None = None,
    ) -> str:  # fmt: skip
        """origin: event_id of the message that it is about."""
        self.errors += 1
        details = {"type": kind, "code": code, "message": message, "param": param, "event_id": origin}
        return self._say("error", error=details)

    def _named(self, utterance: str) -> dict[str, str]:
        return {"item_id": self._items.get(utterance, utterance), "utterance": utterance}

    def _described(self) -> dict[str, Any]:
        sound = {"input": {"format": {"type": "audio/pcm", "rate": self.rate_hz}}}
        return {"object": "realtime.session", "type": "realtime", **self._session, "fps": FPS, "audio": sound}

    def _say(self, kind: str, **content: Any) -> str:
        message = {"type": kind, "event_id": f"event_{next(self._numbers)}", **content}
        return json.dumps(message, separators=(",", ":"))  # ASCII: what a client sent may hold half a character


_HANDLERS: dict[str, Callable[[RealtimeProtocol, dict[str, Any]], Received]] = {
    "session.update": RealtimeProtocol._update,
    "response.output_audio.delta": RealtimeProtocol._delta,
    "response.audio.delta": RealtimeProtocol._delta,  # its name before the API was final; still widely sent
    "response.output_audio.done": RealtimeProtocol._done,
    "response.audio.done": RealtimeProtocol._done,
    "response.done": RealtimeProtocol._done,
    "input_audio_buffer.append": RealtimeProtocol._append,
    "input_audio_buffer.commit": RealtimeProtocol._commit,
    "input_audio_buffer.speech_started": RealtimeProtocol._interrupt,
    "input_audio_buffer.clear": RealtimeProtocol._interrupt,
    "output_audio_buffer.clear": RealtimeProtocol._interrupt,
    "response.cancel": RealtimeProtocol._interrupt,
    "emo.say": RealtimeProtocol._speak,
    "emo.control": RealtimeProtocol._steer,
    "emo.pause": lambda protocol, message: Received((Pause(),)),
    "emo.resume": lambda protocol, message: Received((Resume(),)),
}


def _parsed(text: str) -> dict[str, Any]:
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise _Refused("invalid_json", "a text message must be a JSON object") from None
    if not isinstance(message, dict):
        raise _Refused("invalid_json", "a text message must be a JSON object")
    return message


def _name(message: dict[str, Any], key: str) -> str | None:
    """What the client calls something; None where it says nothing that can be a name."""
    name = message.get(key)
    return name if isinstance(name, str) and 0 < len(name) <= _MAX_NAME_CHARS else None


def _decoded(value: Any, param: str) -> bytes:
    if not isinstance(value, str):
        raise _Refused("invalid_audio", f"{param} must be audio in base64", param)
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise _Refused("invalid_audio", f"{param} is not base64", param) from None


def _rate_hz(session: dict[str, Any]) -> int | None:
    """Where an assistant says how its speech comes; the format of the input counts if both are there."""
    audio = session.get("audio")
    if audio is None:
        return None
    for direction in ("input", "output"):
        half = audio.get(direction) if isinstance(audio, dict) else None
        form = half.get("format") if isinstance(half, dict) else None
        if form is None:
            continue
        param = f"session.audio.{direction}.format"
        if not isinstance(form, dict) or form.get("type") != "audio/pcm":
            raise _Refused("unsupported_format", "the only format is audio/pcm: 16 bits, little endian, mono", param)
        rate_hz = form.get("rate", DEFAULT_RATE_HZ)
        if isinstance(rate_hz, bool) or not isinstance(rate_hz, int) or not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
            raise _Refused("unsupported_format", f"rate must be {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz", f"{param}.rate")
        return rate_hz
    return None


def _control(message: dict[str, Any], where: str) -> Control:
    values = []
    for name, limit in (("speed", 30), ("motion", 2)):
        value = message.get(name)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is not None and not (number and 0 <= value <= limit):
            raise _Refused("invalid_value", f"{name} must be a number from 0 to {limit}", f"{where}{name}")
        values.append(None if value is None else float(value))
    return Control(*values)
