"""The realtime protocol by tables: what a message asks for, what is answered, what an event of the session becomes."""

from __future__ import annotations

import base64
import json
import random
from typing import Any

import numpy as np
import pytest

from emo_live.events import (
    Degraded,
    Event,
    Heard,
    Recovered,
    SessionClosed,
    SessionStats,
    StateChanged,
    StatsReport,
    UtteranceFinished,
    UtteranceStarted,
)
from emo_live.transport import realtime
from emo_live.transport.realtime import (
    MAX_MESSAGE_BYTES,
    Control,
    EndUtterance,
    Interrupt,
    Pause,
    PushAudio,
    RealtimeProtocol,
    Received,
    Resume,
    Say,
)

PCM = np.array([0, 1, -1, 32767, -32768], "<i2")
AUDIO = base64.b64encode(PCM.tobytes()).decode()


@pytest.fixture
def protocol() -> RealtimeProtocol:
    return RealtimeProtocol({"id": "s", "avatar": "a", "size": 512, "ai_generated": True}, max_text_chars=20)


def receive(protocol: RealtimeProtocol, message: dict[str, Any] | str | bytes) -> Received:
    return protocol.receive(json.dumps(message) if isinstance(message, dict) else message)


def append() -> dict[str, Any]:
    return {"type": "input_audio_buffer.append", "audio": AUDIO}


def delta(item: str | None = "item_1", kind: str = "response.output_audio.delta") -> dict[str, Any]:
    return {"type": kind, "delta": AUDIO, "item_id": item, "response_id": "resp_1"}


def error_of(received: Received) -> dict[str, Any]:
    assert received.commands == ()
    (reply,) = (json.loads(reply) for reply in received.replies)
    assert reply["type"] == "error"
    assert reply["error"]["type"] == "invalid_request_error"
    return dict(reply["error"])


@pytest.mark.parametrize(
    ("message", "item"),
    [
        (append(), None),
        (delta(), "item_1"),
        (delta(None), "resp_1"),
        (delta(kind="response.audio.delta"), "item_1"),
        (PCM.tobytes(), None),
    ],
    ids=["append", "delta", "delta without item", "old name", "binary"],
)
def test_audio_is_pushed(protocol: RealtimeProtocol, message: Any, item: str | None) -> None:
    received = receive(protocol, message)
    (push,) = received.commands
    assert isinstance(push, PushAudio)
    assert push.pcm.dtype == np.int16
    assert (push.pcm == PCM).all()
    assert (push.rate_hz, push.item, received.replies) == (24_000, item, ())


@pytest.mark.parametrize("kind", ["response.output_audio.done", "response.audio.done", "response.done"])
def test_speech_ends_once(protocol: RealtimeProtocol, kind: str) -> None:
    receive(protocol, delta())
    assert receive(protocol, {"type": kind}) == Received((EndUtterance("item_1"),))
    assert receive(protocol, {"type": "response.done"}) == Received()


def test_commit_is_confirmed(protocol: RealtimeProtocol) -> None:
    receive(protocol, append())
    received = receive(protocol, {"type": "input_audio_buffer.commit"})
    assert received.commands == (EndUtterance(None),)
    assert [json.loads(reply)["type"] for reply in received.replies] == ["input_audio_buffer.committed"]


def test_a_new_item_ends_the_one_before(protocol: RealtimeProtocol) -> None:
    receive(protocol, delta("item_1"))
    end, push = receive(protocol, delta("item_2")).commands
    assert end == EndUtterance("item_1")
    assert isinstance(push, PushAudio)


@pytest.mark.parametrize("kind", ["response.cancel", "output_audio_buffer.clear", "input_audio_buffer.speech_started"])
def test_late_audio_of_what_was_interrupted_is_dropped(protocol: RealtimeProtocol, kind: str) -> None:
    receive(protocol, delta("item_1"))
    assert receive(protocol, {"type": kind}).commands == (Interrupt(),)
    assert receive(protocol, delta("item_1")) == Received()
    assert receive(protocol, {"type": "response.output_audio.done", "item_id": "item_1"}) == Received()
    assert len(receive(protocol, delta("item_2")).commands) == 1


def test_cancelling_by_name_drops_what_was_not_even_begun(protocol: RealtimeProtocol) -> None:
    receive(protocol, {"type": "response.cancel", "response_id": "resp_1"})
    assert receive(protocol, delta(None)) == Received()


def test_clearing_the_input_is_confirmed(protocol: RealtimeProtocol) -> None:
    received = receive(protocol, {"type": "input_audio_buffer.clear"})
    assert received.commands == (Interrupt(),)
    assert [json.loads(reply)["type"] for reply in received.replies] == ["input_audio_buffer.cleared"]


@pytest.mark.parametrize(
    ("message", "command"),
    [
        ({"type": "emo.say", "text": "hello", "voice": "ada"}, Say("hello", "ada")),
        ({"type": "emo.say", "text": "hello"}, Say("hello", None)),
        ({"type": "emo.control", "speed": 3}, Control(3.0, None)),
        ({"type": "emo.control", "motion": 0.5}, Control(None, 0.5)),
        ({"type": "emo.pause"}, Pause()),
        ({"type": "emo.resume"}, Resume()),
    ],
)
def test_our_own_messages(protocol: RealtimeProtocol, message: dict[str, Any], command: object) -> None:
    assert receive(protocol, message) == Received((command,))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "kind",
    ["session.created", "session.updated", "response.created", "response.output_audio_transcript.delta", "error",
     "conversation.item.created", "rate_limits.updated", "input_audio_buffer.committed", "output_audio_buffer.started"],
)  # fmt: skip
def test_the_rest_of_an_assistants_stream_is_ignored(protocol: RealtimeProtocol, kind: str) -> None:
    assert receive(protocol, {"type": kind}) == Received()
    assert protocol.errors == 0


def formats(rate: Any, kind: str = "audio/pcm", direction: str = "input") -> dict[str, Any]:
    return {"type": "session.update", "session": {"audio": {direction: {"format": {"type": kind, "rate": rate}}}}}


@pytest.mark.parametrize("direction", ["input", "output"])
@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 44_100, 48_000])
def test_the_rate_of_the_audio_is_set(protocol: RealtimeProtocol, rate: int, direction: str) -> None:
    (reply,) = receive(protocol, formats(rate, direction=direction)).replies
    assert json.loads(reply)["session"]["audio"]["input"]["format"]["rate"] == rate
    (push,) = receive(protocol, append()).commands
    assert isinstance(push, PushAudio)
    assert push.rate_hz == rate


def test_an_update_steers_and_says_what_holds(protocol: RealtimeProtocol) -> None:
    update = {"type": "session.update", "session": {"avatar": "a", "fps": 25, "motion": 1, "instructions": "be kind"}}
    received = receive(protocol, update)
    assert received.commands == (Control(None, 1.0),)
    session = json.loads(received.replies[0])["session"]
    assert (session["avatar"], session["size"], session["fps"], session["ai_generated"]) == ("a", 512, 25, True)
    assert "instructions" not in session


BAD: list[tuple[Any, str, str | None]] = [
    ("{", "invalid_json", None),
    ("[]", "invalid_json", None),
    ("[" * 100_000, "invalid_json", None),
    ("x" * (MAX_MESSAGE_BYTES + 1), "message_too_big", None),
    (b"x" * (MAX_MESSAGE_BYTES + 2), "message_too_big", None),
    (b"odd", "invalid_audio", "audio"),
    ({}, "invalid_type", "type"),
    ({"type": 3}, "invalid_type", "type"),
    ({"type": "emo.fly"}, "unknown_type", "type"),
    ({"type": "input_audio_buffer.append"}, "invalid_audio", "audio"),
    ({"type": "input_audio_buffer.append", "audio": "%%%%"}, "invalid_audio", "audio"),
    ({"type": "input_audio_buffer.append", "audio": "ä"}, "invalid_audio", "audio"),
    ({"type": "input_audio_buffer.append", "audio": "AAA="[:3]}, "invalid_audio", "audio"),
    ({"type": "input_audio_buffer.append", "audio": "AA=="}, "invalid_audio", "audio"),
    ({"type": "response.output_audio.delta", "delta": AUDIO, "item_id": 7}, "invalid_value", "item_id"),
    ({"type": "response.output_audio.delta", "delta": AUDIO, "item_id": "i" * 257}, "invalid_value", "item_id"),
    ({"type": "response.output_audio.delta", "delta": AUDIO, "response_id": ["x"]}, "invalid_value", "item_id"),
    ({"type": "input_audio_buffer.commit"}, "input_audio_buffer_commit_empty", None),
    ({"type": "session.update"}, "invalid_value", "session"),
    ({"type": "session.update", "session": {"avatar": "b"}}, "fixed", "session.avatar"),
    ({"type": "session.update", "session": {"fps": 30}}, "fixed", "session.fps"),
    ({"type": "session.update", "session": {"speed": 99}}, "invalid_value", "session.speed"),
    (formats(7_999), "unsupported_format", "session.audio.input.format.rate"),
    (formats(192_000), "unsupported_format", "session.audio.input.format.rate"),
    (formats(True), "unsupported_format", "session.audio.input.format.rate"),
    (formats("24000"), "unsupported_format", "session.audio.input.format.rate"),
    (formats(8_000, "audio/pcmu"), "unsupported_format", "session.audio.input.format"),
    ({"type": "emo.say"}, "invalid_value", "text"),
    ({"type": "emo.say", "text": "  "}, "invalid_value", "text"),
    ({"type": "emo.say", "text": "x" * 21}, "invalid_value", "text"),
    ({"type": "emo.say", "text": "x", "voice": 1}, "invalid_value", "voice"),
    ('{"type": "emo.say", "text": "\\ud800"}', "invalid_value", "text"),
    ({"type": "emo.control", "motion": -1}, "invalid_value", "motion"),
    ({"type": "emo.control", "motion": True}, "invalid_value", "motion"),
    ('{"type": "emo.control", "speed": NaN}', "invalid_value", "speed"),
]


@pytest.mark.parametrize(("message", "code", "param"), BAD, ids=[f"{i}-{code}" for i, (_, code, _) in enumerate(BAD)])
def test_what_cannot_be_obeyed_is_refused(
    protocol: RealtimeProtocol, message: Any, code: str, param: str | None
) -> None:
    error = error_of(receive(protocol, message))
    assert (error["code"], error["param"]) == (code, param)
    assert protocol.errors == 1
    assert len(receive(protocol, append()).commands) == 1, "the connection goes on"


def test_an_error_names_its_message_and_repeats_nothing_of_it(protocol: RealtimeProtocol) -> None:
    error = error_of(receive(protocol, {"type": "emo.say", "text": "secret" * 9, "event_id": "mine"}))
    assert error["event_id"] == "mine"
    assert "secret" not in json.dumps(error)


def test_the_rate_does_not_change_within_speech(protocol: RealtimeProtocol) -> None:
    receive(protocol, append())
    assert error_of(receive(protocol, formats(16_000)))["code"] == "out_of_order"
    receive(protocol, {"type": "input_audio_buffer.commit"})
    assert receive(protocol, formats(16_000)).replies


EVENTS: list[tuple[Event, dict[str, Any]]] = [
    (UtteranceStarted("u"), {"type": "output_audio_buffer.started", "item_id": "item_1", "utterance": "u"}),
    (
        UtteranceFinished("u", 1200, False),
        {"type": "output_audio_buffer.stopped", "item_id": "item_1", "utterance": "u", "audio_end_ms": 1200},
    ),
    (
        UtteranceFinished("u", 400, True),
        {"type": "output_audio_buffer.cleared", "item_id": "item_1", "utterance": "u", "audio_end_ms": 400},
    ),
    (UtteranceStarted("v"), {"type": "output_audio_buffer.started", "item_id": "v", "utterance": "v"}),
    (StateChanged("speaking"), {"type": "emo.state", "state": "speaking"}),
    (Degraded(2, "slow"), {"type": "emo.degraded", "level": 2, "reason": "slow"}),
    (Recovered(1), {"type": "emo.recovered", "level": 1}),
    (StatsReport(SessionStats()), {"type": "emo.stats", "stats": SessionStats().as_dict()}),
    (SessionClosed("closed"), {"type": "emo.closed", "reason": "closed"}),
]


@pytest.mark.parametrize(("event", "expected"), EVENTS, ids=[type(event).__name__ for event, _ in EVENTS])
def test_events_become_messages(protocol: RealtimeProtocol, event: Event, expected: dict[str, Any]) -> None:
    protocol.bind("u", "item_1")
    message = json.loads(protocol.event(event) or "null")
    assert message.pop("event_id") == "event_1"
    assert message == expected


def test_every_message_has_an_id_of_its_own(protocol: RealtimeProtocol) -> None:
    messages = [protocol.created(), protocol.caption("u", "hi"), protocol.error("no", "no")]
    assert len({json.loads(message)["event_id"] for message in messages}) == 3
    assert json.loads(messages[0])["session"]["audio"]["input"]["format"] == {"type": "audio/pcm", "rate": 24_000}


def test_an_interrupt_is_answered_once() -> None:
    protocol = RealtimeProtocol({})
    nobody = json.loads(protocol.interrupted(Heard(None, 0)) or "null")
    assert (nobody["type"], nobody["item_id"], nobody["audio_end_ms"]) == ("output_audio_buffer.cleared", None, 0)
    assert protocol.interrupted(Heard("u", 80)) is None


def test_names_of_utterances_do_not_pile_up(protocol: RealtimeProtocol) -> None:
    for number in range(1000):
        protocol.bind(f"u{number}", f"item_{number}")
    assert len(protocol._items) <= 64


def test_nothing_that_is_sent_raises() -> None:
    """Every known message with every field missing or of any kind, in any order."""
    rng = random.Random(7)
    kinds = [*realtime._HANDLERS, "error", "response.created", "emo.fly", "", None, 3]
    values: list[Any] = [None, True, -1, 1e400, "x", AUDIO, "%%", [], [{}], {}, {"format": {}}, "\ud800", "0" * 5000]
    values += [{"input": {"format": {"type": "audio/pcm", "rate": value}}} for value in (None, 0, "1", 16_000, 48_000)]
    fields = ["audio", "delta", "item_id", "response_id", "event_id", "session", "text", "voice", "speed", "motion"]
    for _ in range(30):
        protocol = RealtimeProtocol({"avatar": "a", "size": 512})
        for _ in range(200):
            message: dict[str, Any] = {name: rng.choice(values) for name in fields if rng.random() < 0.4}
            if isinstance(message.get("session"), dict):
                message["session"] = {name: rng.choice(values) for name in ("audio", "avatar", "fps", "speed")}
            message["type"] = rng.choice(kinds)
            received = protocol.receive(rng.choice([json.dumps(message), rng.randbytes(rng.randrange(9))]))
            for reply in received.replies:
                assert json.loads(reply)["type"]
                assert reply.isascii(), "whatever a client sent, it can be sent back"
