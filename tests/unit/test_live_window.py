"""The rolling window in live use: what a session shows is what the window makes of the same steps, and its settings."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from fakes import FakeBackend, bundled_avatar, syllables
from virtual_time import run

from emo_live import AvatarSession, AVPair, MemorySink
from emo_live.engine.lane import LaneFrame
from emo_live.engine.live import (
    Checkpoint,
    LiveEngine,
    LiveSettings,
    LiveSpec,
    PatternHost,
    WindowEngine,
)
from emo_live.engine.local import LocalLane, LocalPool
from emo_live.engine.tiny import LIVE, guarded_backend, tiny_engine, tiny_window
from emo_live.engine.window import Controls
from emo_live.types import UInt8


class FakeHost(PatternHost):
    """The rolling window on a backend that opens the mouth when it is loud."""

    def open(self, spec: LiveSpec) -> LiveEngine:
        backend = FakeBackend()
        return tiny_engine(backend, backend.prepare(spec.avatar), spec)


def engine(**settings: Any) -> WindowEngine:
    backend = FakeBackend()
    spec = LiveSpec(bundled_avatar(), 512, 0, LiveSettings(**settings))
    return tiny_engine(backend, backend.prepare(bundled_avatar()), spec)


def frames_of(made: WindowEngine, n_steps: int) -> list[tuple[int, UInt8]]:
    """(frames that came with it, picture) of every frame."""
    sound, out = syllables(n_steps * 0.04).reshape(-1, 640), []
    for pcm in sound:
        made.push(pcm)
        came = made.frames()
        out += [(len(came), frame.video) for frame in came]
    return out


def test_a_session_shows_what_the_window_makes_of_the_same_steps() -> None:
    calls: list[tuple[Any, ...]] = []
    came: list[LaneFrame] = []

    class Recording(LocalLane):
        def push(self, epoch: int, index: int, pcm: Any) -> bool:
            calls.append(("push", epoch, index, pcm))
            return super().push(epoch, index, pcm)

        def rewind(self, epoch: int, index: int) -> None:
            calls.append(("rewind", epoch, index, None))
            super().rewind(epoch, index)

    class RecordingPool(LocalPool):
        async def open(self, spec: LiveSpec, owner: Any) -> LocalLane:
            lane = await super().open(spec, owner)
            lane.__class__ = Recording
            take = owner.frame_came

            def frame_came(frame: LaneFrame) -> None:
                came.append(frame)
                take(frame)

            owner.frame_came = frame_came
            return lane

    async def main() -> list[AVPair]:
        async with (
            RecordingPool(FakeHost) as pool,
            AvatarSession(bundled_avatar(), size=256, seed=5, pool=pool) as session,
        ):
            sink = MemorySink(1000)
            session.attach(sink)
            await asyncio.sleep(0.5)
            await session.push_audio(syllables(1.2), 16_000)
            await session.end_utterance()
            await asyncio.sleep(0.6)
            await session.interrupt()
            await asyncio.sleep(0.5)
            return sink.take()

    pairs = run(main())
    assert [call[0] for call in calls].count("rewind") >= 2
    backend = FakeBackend()
    alone = tiny_window(backend, backend.prepare(bundled_avatar()), size=256, seed=5, policy=LIVE)
    expected: list[tuple[int, int, UInt8]] = []
    for kind, epoch, index, pcm in calls:
        if kind == "rewind":
            alone.rewind(index)
        else:
            alone.push(pcm)
            expected += [(epoch, frame.index, frame.video) for frame in alone.frames()]
    assert len(expected) >= len(came) > 30
    for frame, (epoch, index, video) in zip(came, expected, strict=False):
        assert (frame.epoch, frame.index) == (epoch, index)
        assert np.array_equal(frame.video, video)
    shown = {frame.video.tobytes() for frame in came}
    assert all(pair.video.tobytes() in shown for pair in pairs), "and nothing else is shown"


def test_long_windows_only_when_sound_waits_and_they_are_compiled() -> None:
    assert [n for n, _ in frames_of(engine(), 20)][:10] == [2, 2, *[4] * 8]
    assert {n for n, _ in frames_of(engine(patient=False), 20)} == {LIVE.lengths[0]}
    cold = engine()
    cold._long_are_warm = lambda: False
    assert {n for n, _ in frames_of(cold, 20)} == {LIVE.lengths[0]}


def test_small_pictures_are_delivered_at_the_size_that_was_asked_for() -> None:
    plain, small = frames_of(engine(), 14), frames_of(engine(small=True), 14)
    for (_, one), (_, other) in zip(plain, small, strict=True):
        assert other.shape == (512, 512, 3)
        difference = np.abs(one.astype(int) - other)
        assert 0 < difference.mean() < 4, "the same picture, softer"


def test_every_second_picture_is_mixed_of_its_neighbours() -> None:
    made = engine(sparse=True)
    calls: list[int] = []
    paint = made.generator.backend.paint

    def counting(avatar: Any, warped: Any, motion: Any) -> Any:
        calls.append(len(warped))
        return paint(avatar, warped, motion)

    made.generator.backend.paint = counting  # type: ignore[method-assign]
    frames = [video for _, video in frames_of(made, 30)]
    assert set(calls) == {2} and len(frames) == 2 + 4 * (len(calls) - 1)
    full = [video for _, video in frames_of(engine(), 30)]
    assert len(frames) == len(full)
    for before, mixed, after in zip(frames[3::2], frames[4::2], frames[5::2], strict=False):
        assert np.abs(mixed.astype(int) - (before.astype(int) + after) / 2).max() <= 1
    assert all(np.array_equal(one, other) for one, other in zip(frames[3::2], full[3::2], strict=True))


def test_settings_change_between_two_windows() -> None:
    made = engine()
    first = frames_of(made, 10)
    made.adjust(LiveSettings(Controls(9, 0.5), steps=3, small=True))
    assert (made.generator.controls, len(made.generator.sampler.timesteps)) == (Controls(9, 0.5), 3)
    second = frames_of(made, 10)
    made.adjust(LiveSettings())
    assert len(made.generator.sampler.timesteps) == 1
    assert all(video.shape == (512, 512, 3) for _, video in first + second + frames_of(made, 10))


class _StaleError(Exception):
    pass


def test_a_checkpoint_leaves_a_window_anywhere_and_nothing_of_it_is_kept() -> None:
    passed = 0

    def checkpoint() -> None:
        nonlocal passed
        passed += 1
        if passed in stops:
            raise _StaleError

    stops: set[int] = set()
    plain = [video for _, video in frames_of(engine(), 12)]
    backend = FakeBackend()
    guard: Checkpoint = checkpoint
    spec = LiveSpec(bundled_avatar(), 512)
    made = tiny_engine(guarded_backend(backend, guard), backend.prepare(bundled_avatar()), spec)
    sound = syllables(12 * 0.04).reshape(-1, 640)
    for pcm in sound[:5]:
        made.push(pcm)
    for stop in range(1, 6):
        stops, passed = {stop}, 0
        with pytest.raises(_StaleError):
            made.frames()
    made.rewind(0)
    stops = set()
    frames = []
    for pcm in sound:
        made.push(pcm)
        frames += [frame.video for frame in made.frames()]
    assert len(frames) == len(plain) and all(np.array_equal(a, b) for a, b in zip(frames, plain, strict=True))
