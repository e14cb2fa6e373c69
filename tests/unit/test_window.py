"""The rolling window on a backend that records what it is asked: lengths, alignment, motion frames, cancel, rewind."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fakes import N_GESTURES, N_SHAPES, plain_prior

from emo_live.audio.features import CONTEXT_SAMPLES, LEFT_SAMPLES
from emo_live.config import LIDS, TINY
from emo_live.engine import tiny as tiny_module
from emo_live.engine.base import EngineFrame, Prepared, WindowInputs
from emo_live.engine.motion_prior import FrameNoise, MotionPrior
from emo_live.engine.tiny import HEARD_GAIN, LIVE, LOOK_AHEAD, OFFLINE, SIDE_BY_SIDE, tiny_window
from emo_live.engine.window import Controls, RollingWindow, WindowPolicy
from emo_live.errors import BadInputError, EngineError

STEP = 640


@dataclass
class FakeFace:
    """One of shapes and gestures, in this order, moves the first channel so far."""

    moved: tuple[int, float]

    def anchor(self, shapes: np.ndarray, gestures: np.ndarray) -> np.ndarray:
        anchor = np.zeros((len(shapes), *plain_prior().shape), np.float32)
        cause, amount = self.moved
        anchor[:, 0] = amount * np.concatenate([shapes, gestures], 1)[:, cause, None, None]
        return anchor


@dataclass
class FakeBackend:
    """Latents of a frame are its noise plus the mean of the sound it sees, so every dependence shows in the result."""

    name: str = "fake"
    prior: MotionPrior = field(default_factory=plain_prior)
    calls: list[tuple[int, np.ndarray]] = field(default_factory=list)
    answers: list[np.ndarray] = field(default_factory=list)
    on_denoise: Any = None
    moved: tuple[int, float] = (0, 0.0)  # by what a face is moved before the network is asked

    def hear(self, mel: np.ndarray) -> np.ndarray:
        return mel  # the tests replace log_mel by the identity

    def shapes(self, sound: np.ndarray) -> np.ndarray:
        shapes = np.zeros((len(sound) // 2 - 4, N_SHAPES), np.float32)
        shapes[:, 1] = sound.reshape(-1, 2)[2:-2].mean(1)
        return shapes

    def gestures(self, noise: np.ndarray, speed: float) -> np.ndarray:
        """The second one is the newest noise, the last one (of the pose) 1."""
        gestures = np.zeros((len(noise) - TINY.gestures.reach, N_GESTURES), np.float32)
        gestures[:, 1], gestures[:, -1] = noise[TINY.gestures.reach :, 0], 1
        return gestures

    def denoise(self, avatar: Any, noisy: Any, timestep: int, given: WindowInputs) -> np.ndarray:
        motion, sound = given.motion, given.sound
        assert given.anchor.shape == noisy.shape and given.speed.shape == (len(noisy) + 4,)
        self.calls.append((len(noisy), motion.copy()))
        if self.on_denoise:
            self.on_denoise()
        heard = sound.reshape(len(noisy) + 4, 2)[2:-2].mean(1)
        clean = noisy + motion[-1].mean() * 0.5 + heard[:, None, None, None]
        self.answers.append(clean)
        return -clean

    def close(self) -> None: ...


class FakePictures:
    shape = (512, 512)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def make(self, latents: np.ndarray, lids: np.ndarray) -> list[np.ndarray]:
        assert lids.shape == (len(latents), 2)
        return list(latents.copy())


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    def tokens(pcm: np.ndarray) -> np.ndarray:
        assert pcm.shape == (LEFT_SAMPLES + CONTEXT_SAMPLES,)
        return pcm[LEFT_SAMPLES:].reshape(80, 320).mean(1)  # one value every 20 ms

    monkeypatch.setattr(tiny_module, "log_mel", tokens)
    monkeypatch.setattr(tiny_module, "PictureMaker", FakePictures)
    monkeypatch.setattr(tiny_module, "_enlarged", lambda picture, shape: picture)


def make(policy: WindowPolicy = OFFLINE, backend: FakeBackend | None = None, **options: Any) -> RollingWindow:
    backend = backend or FakeBackend()
    avatar, face = SimpleNamespace(), FakeFace(backend.moved)
    prepared = Prepared(avatar, np.zeros((512, 512, 3), np.uint8), (0, 0), face, {})  # type: ignore[arg-type]
    return tiny_window(backend, prepared, policy=policy, **options)  # type: ignore[arg-type]


def speech(steps: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(steps, STEP)).astype(np.float32)


def drive(window: RollingWindow, steps: np.ndarray, every: int = 1) -> list[EngineFrame]:
    frames: list[EngineFrame] = []
    for i, step in enumerate(steps):
        window.push(step)
        if i % every == every - 1:
            frames += window.frames()
    window.finish()
    return frames + window.frames()


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 14, 37, 100])
@pytest.mark.parametrize("policy", [OFFLINE, LIVE, WindowPolicy((4, 8))])
def test_every_step_gets_one_frame_in_order(steps: int, policy: WindowPolicy) -> None:
    frames = drive(make(policy), speech(steps))
    assert [frame.index for frame in frames] == list(range(steps))


def test_lengths_follow_the_policy_and_the_first_window_is_short() -> None:
    backend = FakeBackend()
    drive(make(LIVE, backend), speech(40))
    lengths = [length for length, _ in backend.calls]
    assert lengths[:4] == [2, 4, 4, 4] and LIVE.length(0) < LIVE.length(1)


def test_the_first_frame_needs_160_ms_of_sound() -> None:
    window = make(LIVE)
    for i, step in enumerate(speech(4)):
        assert window.frames() == [], f"a frame after {i} steps"
        window.push(step)
    assert len(window.frames()) == 2


def test_a_frame_is_made_from_its_own_sound() -> None:
    steps = np.zeros((30, STEP), np.float32)
    steps[17] = 5
    quiet = drive(make(), np.zeros((30, STEP), np.float32))
    loud = drive(make(), steps)
    changed = [
        i for i, (a, b) in enumerate(zip(quiet, loud, strict=True)) if abs(float((a.video - b.video).mean())) > 1
    ]
    assert changed[0] == 17, "the sound of step 17 shows first in frame 17"


def test_chunking_does_not_change_the_frames() -> None:
    steps = speech(60)
    one, many = drive(make(seed=3), steps), drive(make(seed=3), steps, every=13)
    assert all(np.array_equal(a.video, b.video) for a, b in zip(one, many, strict=True))


def test_another_seed_gives_other_frames() -> None:
    steps = speech(10)
    assert not np.array_equal(drive(make(seed=1), steps)[5].video, drive(make(seed=2), steps)[5].video)


def test_noise_belongs_to_the_frame_not_to_the_window() -> None:
    forwards, anew = FrameNoise(7, plain_prior()), FrameNoise(7, plain_prior())
    rolled = np.concatenate([forwards.frames(index, index + 4) for index in range(0, 300, 4)])
    for index in (250, 3, 0, 251):
        np.testing.assert_allclose(anew.frames(index, index + 2), rolled[index : index + 2], atol=1e-6)
    assert np.abs(rolled[5] - FrameNoise(8, plain_prior()).frames(5, 6)[0]).max() > 0.1


def test_noise_is_normal_and_as_slow_as_it_should_be() -> None:
    decay = np.repeat(np.array([0, 0.6, 0.88, 0.96], np.float32), 4)
    noise = FrameNoise(1, replace(plain_prior((16, 1, 1)), decay=decay))
    frames = noise.frames(0, 6000).reshape(6000, 4, 4)
    for group, expected in enumerate(decay[::4]):
        values = frames[:, group]
        assert values.std() == pytest.approx(1, abs=0.08) and abs(values.mean()) < 0.15
        assert np.mean(values[1:] * values[:-1]) == pytest.approx(expected, abs=0.06)


def test_what_is_heard_is_added_at_its_own_frame() -> None:
    steps, backend = speech(10), FakeBackend(moved=(1, 7))
    frames = drive(make(WindowPolicy((4,)), backend), steps)
    heard = np.stack([frame.video - answer for frame, answer in zip(frames[:4], backend.answers[0], strict=True)])
    np.testing.assert_allclose(heard[:, 0].mean((1, 2)), HEARD_GAIN * 7 * steps[:4].mean(1), atol=1e-4)
    assert np.abs(heard[:, 1:]).max() < 1e-5


def test_gestures_belong_to_the_frame_not_to_the_window() -> None:
    quiet, made = np.zeros((24, STEP), np.float32), []
    for policy in (WindowPolicy((8,)), LIVE):
        backend = FakeBackend(moved=(N_SHAPES + 1, 3))
        frames = drive(make(policy, backend, seed=5), quiet)
        moved = [f.video[0] - a[0] for f, a in zip(frames, np.concatenate(backend.answers), strict=False)]
        made.append(np.stack(moved).mean((1, 2)))
    np.testing.assert_allclose(made[0], made[1], atol=1e-4)
    assert made[0].std() > 1


@pytest.mark.parametrize("strength", [0.0, 0.5, 2.0])
def test_head_motion_is_as_strong_as_it_is_asked_for(strength: float) -> None:
    backend = FakeBackend(moved=(N_SHAPES + N_GESTURES - 1, 3))
    frames = drive(make(WindowPolicy((4,)), backend, controls=Controls(motion=strength)), speech(8))
    for frame, answer in zip(frames[:4], backend.answers[0], strict=True):
        np.testing.assert_allclose((frame.video - answer)[0], 3 * strength, atol=1e-4)


@pytest.mark.parametrize(("drawn", "shown"), [(0.5, 0.75), (0.9, 1.0), (3.0, 1.0), (-0.1, 0.0)])
def test_lids_go_to_the_pictures_and_not_to_the_latents(drawn: float, shown: float) -> None:
    backend = FakeBackend(moved=(N_SHAPES + LIDS.start, 5))
    backend.gestures = lambda noise, speed: np.full((4, N_GESTURES), drawn, np.float32)  # type: ignore[method-assign]
    generator = make(WindowPolicy((4,)), backend).generator
    gestures, lids = generator._gestures(0, 4)
    np.testing.assert_allclose(lids, shown, atol=1e-6)
    assert not gestures[:, LIDS].any()
    np.testing.assert_allclose(np.delete(gestures, [LIDS.start, LIDS.start + 1], 1), drawn)


def test_pictures_made_beside_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = drive(make(OFFLINE), speech(40))
    with ThreadPoolExecutor(1) as painter:
        beside = drive(make(SIDE_BY_SIDE, painter=painter), speech(40))
    assert [frame.index for frame in beside] == [frame.index for frame in alone] == list(range(40))
    for one, other in zip(alone, beside, strict=True):
        np.testing.assert_array_equal(one.video, other.video)


def test_pictures_that_cannot_be_made_beside_are_an_error_where_they_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise EngineError("no picture")

    monkeypatch.setattr(FakePictures, "make", fail)
    with ThreadPoolExecutor(1) as painter, pytest.raises(EngineError, match="no picture"):
        drive(make(SIDE_BY_SIDE, painter=painter), speech(40))


def test_deviations_are_in_units_of_the_priors_scale() -> None:
    prior = replace(plain_prior(), spread=np.full(16, 0.25, np.float32))
    assert prior.scale == pytest.approx(0.25)
    backend = FakeBackend(prior=prior)
    frames = drive(make(WindowPolicy((4,)), backend, seed=5), np.zeros((10, STEP), np.float32))
    for frame, answer in zip(frames[:4], backend.answers[0], strict=True):
        np.testing.assert_allclose(frame.video, 0.25 * answer, atol=1e-5)


def test_motion_frames_are_the_last_frames_of_the_window_before() -> None:
    backend = FakeBackend()
    frames = drive(make(WindowPolicy((4,)), backend), speech(20))
    assert not backend.calls[0][1].any(), "the first window starts from the portrait"
    for number, (_, motion) in enumerate(backend.calls[1:], 1):
        assert np.array_equal(motion, np.stack([frames[4 * number - 2].video, frames[4 * number - 1].video]))


def test_cancel_stops_between_steps_and_keeps_nothing() -> None:
    backend = FakeBackend()
    window = make(WindowPolicy((4,)), backend, steps=4)
    for step in speech(6):
        window.push(step)
    backend.on_denoise = window.cancel
    assert window.frames() == []
    assert len(backend.calls) == 1, "the second of four steps was not taken"
    assert window.index == 0
    assert window.frames() == [], "cancelled until rewind"


def test_rewind_continues_from_what_was_shown() -> None:
    steps, other = speech(30), speech(30, seed=9)
    window = make(WindowPolicy((4,)))
    for step in steps[:20]:
        window.push(step)
    shown = window.frames()[:7]
    window.cancel()
    window.rewind(7)
    assert window.index == 7
    frames = shown + drive(window, other[:12])
    direct = make(WindowPolicy((4,)))
    assert [frame.index for frame in frames] == list(range(19))
    backend = window.generator.backend
    assert isinstance(backend, FakeBackend)
    first_after = next(m for n, (_, m) in enumerate(backend.calls) if n == 5 - 1)
    assert np.array_equal(first_after, np.stack([shown[5].video, shown[6].video]))
    assert direct.index == 0


def test_rewind_forgets_the_sound_that_was_not_heard() -> None:
    base, loud, soft = speech(8) / 100, speech(12, seed=1), speech(10, seed=2) / 100
    window = make(WindowPolicy((2,)))
    for step in [*base, *loud]:
        window.push(step)
    window.frames()
    window.rewind(8)
    after = drive(window, soft)
    alone = drive(make(WindowPolicy((2,))), np.concatenate([base, soft]))[8:]
    assert all(np.allclose(a.video, b.video, atol=1e-5) for a, b in zip(after, alone, strict=True))


def test_the_end_listens_to_silence() -> None:
    assert LOOK_AHEAD == 2
    frames = drive(make(WindowPolicy((8,))), speech(8))
    assert len(frames) == 8 and all(np.isfinite(frame.video).all() for frame in frames)


@pytest.mark.parametrize(("speed", "motion"), [(-1, 1), (31, 1), (float("nan"), 1), (4, -0.1), (4, 2.1)])
def test_controls_out_of_range_are_refused(speed: float, motion: float) -> None:
    with pytest.raises(BadInputError):
        Controls(speed, motion)


@pytest.mark.parametrize("steps", [0, 9])
def test_step_counts_out_of_range_are_refused(steps: int) -> None:
    with pytest.raises(BadInputError, match="steps must be"):
        make(steps=steps)
