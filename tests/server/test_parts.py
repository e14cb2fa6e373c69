"""The server's small parts: the speech gate, streams of sound, the badge, tasks with an owner."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from fake_parts import FakeVoice
from waiting import until

from emo_live.errors import NotSupportedError
from emo_live.types import AudioChunk, AVPair
from emo_live_server import voices
from emo_live_server.badge import BadgeSink, with_badge
from emo_live_server.microphone import AFTER_S, BEFORE_S, ONSET_S, Ear, Edge, SpeechGate
from emo_live_server.tasks import Tasks
from emo_live_server.voices import SoundStream, Voices

RATE = 48_000
CHUNK_S = 0.02


def chunks(*parts: tuple[float, float]) -> list[np.ndarray[Any, Any]]:
    """(seconds, level) of noise, cut into 20 ms."""
    rng = np.random.default_rng(0)
    return [
        (rng.standard_normal(round(RATE * CHUNK_S)) * level).astype(np.float32)
        for seconds, level in parts
        for _ in range(round(seconds / CHUNK_S))
    ]


def passed(gate: SpeechGate, sound: list[np.ndarray[Any, Any]]) -> list[Any]:
    return [piece for chunk in sound for piece in gate.pass_on(chunk, RATE)]


def test_speech_is_cut_out_with_a_little_before_and_a_pause_after() -> None:
    sound = chunks((1, 0.0005), (0.5, 0.1), (0.3, 0.0005), (0.5, 0.1), (2, 0.0005))
    pieces = passed(SpeechGate(), sound)
    assert (pieces[0], pieces[-1]) == (Edge.BEGIN, Edge.END)
    assert sum(isinstance(piece, Edge) for piece in pieces) == 2, "a short pause is within the sentence"
    speech = np.concatenate(pieces[1:-1])
    assert len(speech) / RATE == pytest.approx(BEFORE_S + 1.3 + AFTER_S, abs=3 * CHUNK_S)
    whole = np.concatenate(sound)
    start = round((1 - BEFORE_S) * RATE)
    starts = range(start - 3 * 960, start + 3 * 960, 960)
    assert any(np.array_equal(speech, whole[at : at + len(speech)]) for at in starts)


@pytest.mark.parametrize(
    "sound", [chunks((3, 0.0005)), chunks((1, 0), (ONSET_S / 2, 0.3), (1, 0)), [np.zeros(0, np.float32)]]
)
def test_silence_and_clicks_are_no_speech(sound: list[np.ndarray[Any, Any]]) -> None:
    assert passed(SpeechGate(), sound) == []


def test_nothing_at_all_ends_speech() -> None:
    gate = SpeechGate()
    assert gate.patience_s is None
    passed(gate, chunks((0.5, 0.1)))
    assert gate.patience_s == AFTER_S
    assert gate.pass_on(None, 0) == [Edge.END]
    assert gate.pass_on(None, 0) == []


async def test_an_ear_waits_without_losing_anything() -> None:
    sound: asyncio.Queue[AudioChunk | None] = asyncio.Queue()

    async def microphone() -> AsyncIterator[AudioChunk]:
        while (chunk := await sound.get()) is not None:
            yield chunk

    ear = Ear(microphone())
    chunk = AudioChunk(np.zeros(960, np.float32), RATE)
    for _ in range(3):
        assert await ear.listen(0.01) is None
        sound.put_nowait(chunk)
        assert await ear.listen(1) is chunk
    assert not ear.over
    sound.put_nowait(None)
    assert await ear.listen(1) is None
    assert ear.over
    await ear.close()


async def test_a_stream_makes_its_source_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voices, "_LIMIT_BYTES", 4000)
    stream, piece = SoundStream(), np.full(1000, 16384, np.int16)
    await stream.push(piece, RATE)
    await stream.push(piece, RATE)
    third = asyncio.create_task(stream.push(piece, RATE))
    await asyncio.sleep(0.01)
    assert not third.done()
    first = await anext(stream)
    assert (first.pcm.dtype, float(first.pcm[0]), first.rate_hz) == (np.float32, 0.5, RATE)
    await third
    stream.end()
    assert len([chunk async for chunk in stream]) == 2
    await stream.push(piece, RATE)
    assert [chunk async for chunk in stream] == []


async def test_a_stream_that_is_dropped_wakes_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voices, "_LIMIT_BYTES", 100)
    full, empty = SoundStream(), SoundStream()
    await full.push(np.zeros(100, np.int16), RATE)
    pushing = asyncio.create_task(full.push(np.zeros(100, np.int16), RATE))
    taking = asyncio.create_task(anext(empty, None))
    await asyncio.sleep(0.01)
    await full.aclose()
    empty.drop()
    await pushing
    assert await taking is None
    assert full.over


async def test_a_sound_is_spoken_once_and_texts_with_the_voice() -> None:
    speaker, stream = Voices(FakeVoice()), SoundStream()
    name = speaker.once(stream)
    assert speaker.speak("(sound)", name) is stream
    assert len([chunk async for chunk in speaker.speak("hello", None)]) == 1
    with pytest.raises(Exception, match="no such voice"):
        _ = [chunk async for chunk in speaker.speak("(sound)", name)]
    with pytest.raises(NotSupportedError, match="pip install"):
        Voices(None).speak("hello", None)


@pytest.mark.parametrize("size", [64, 256, 512])
def test_the_badge_is_in_the_corner_and_in_a_copy(size: int) -> None:
    video = np.full((size, size, 3), 200, np.uint8)
    marked = with_badge(video)
    assert (video == 200).all(), "the arrays of a pair are shared"
    changed = (marked != video).any(axis=2)
    rows, columns = np.nonzero(changed)
    assert rows.min() > size * 0.75
    assert columns.min() == 0
    assert changed.mean() < (0.08 if size > 64 else 0.3), "letters have a least size"
    corner = marked[rows.min() :, : columns.max()]
    assert corner.max() >= 220
    assert corner.min() < 150


async def test_the_badge_goes_in_front_of_a_sink() -> None:
    class Sink:
        def __init__(self) -> None:
            self.pairs: list[AVPair] = []
            self.closed = False

        def offer(self, pair: AVPair) -> None:
            self.pairs.append(pair)

        async def close(self) -> None:
            self.closed = True

    sink = Sink()
    badge = BadgeSink(sink)
    pair = AVPair(7, np.zeros((256, 256, 3), np.uint8), np.ones(1920, np.int16))
    badge.offer(pair)
    await badge.close()
    assert (sink.pairs[0].index, sink.closed) == (7, True)
    assert sink.pairs[0].audio is pair.audio
    assert sink.pairs[0].video.max() > 220


async def test_tasks_end_with_their_owner(capsys: pytest.CaptureFixture[str]) -> None:
    tasks = Tasks()
    ended: list[str] = []

    async def long() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("long")

    async def wrong() -> None:
        raise RuntimeError("broken")

    async def closing() -> None:
        await tasks.close()  # from one of its own
        ended.append("closing")

    tasks.start(long(), "long")
    tasks.start(wrong(), "wrong")
    await until(lambda: len(tasks) == 1)
    assert "broken" in capsys.readouterr().out
    tasks.start(closing(), "closing")
    await until(lambda: len(tasks) == 0)
    assert ended == ["long", "closing"]
