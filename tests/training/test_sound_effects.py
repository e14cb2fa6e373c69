"""Augmented sound: something changes, but never when."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
from scipy.signal import fftconvolve

from emo_live.training import augment as effects
from emo_live.types import Float32

REACH = 800  # samples: lags that are looked at, 50 ms to each side
MILLISECOND = 16
PITCH_LAG = 20 * MILLISECOND  # half a frame: stretching moves pieces of sound about


def envelope(pcm: Float32) -> np.ndarray:
    """Loudness over about 2 ms, without its mean."""
    window = np.hanning(65)
    level = np.sqrt(np.maximum(np.convolve(pcm.astype(float) ** 2, window / window.sum(), "same"), 0))
    return level - level.mean()


def lag(before: np.ndarray, after: np.ndarray) -> int:
    """Samples by which `after` is later than `before`."""
    every = fftconvolve(after, before[::-1])
    around = every[len(before) - 1 - REACH : len(before) + REACH]
    return int(around.argmax()) - REACH


def parts(x: np.ndarray, count: int = 4) -> list[np.ndarray]:
    return np.array_split(x, count)


EFFECTS: dict[str, Callable[[Float32, np.random.Generator], Float32]] = {
    "room": effects.room,
    "codec 8": lambda pcm, _: effects.codec(pcm, 8_000),
    "codec 20": lambda pcm, _: effects.codec(pcm, 20_000),
    "noise": lambda pcm, random: pcm + effects.noise(len(pcm), 1.0, random) * effects.rms(pcm) * 0.3,
}


@pytest.mark.parametrize("name", EFFECTS)
@pytest.mark.parametrize("voice", [0, 1])
def test_effects_keep_time_within_a_millisecond(speech: tuple[Float32, ...], voice: int, name: str) -> None:
    pcm = speech[voice]
    out = EFFECTS[name](pcm, np.random.default_rng(0))
    assert out.shape == pcm.shape and out.dtype == np.float32 and np.isfinite(out).all()
    assert np.abs(out - pcm).max() > 0.001
    assert abs(lag(pcm, out)) <= MILLISECOND
    shifts = [lag(envelope(a), envelope(b)) for a, b in zip(parts(pcm), parts(out), strict=True)]
    assert max(map(abs, shifts)) <= MILLISECOND


@pytest.mark.parametrize("factor", [0.84, 0.95, 1.1, 1.2])
@pytest.mark.parametrize("voice", [0, 1])
def test_pitch_keeps_time(speech: tuple[Float32, ...], voice: int, factor: float) -> None:
    pcm = speech[voice]
    out = effects.pitch(pcm, factor)
    assert out.shape == pcm.shape and out.dtype == np.float32 and np.isfinite(out).all()
    assert abs(lag(envelope(pcm), envelope(out))) <= PITCH_LAG


def test_the_probe_sees_a_shift(speech: tuple[Float32, ...]) -> None:
    late = np.roll(speech[0], 40)
    assert lag(speech[0], late) == 40
    assert lag(envelope(speech[0]), envelope(late)) == 40


def test_pitch_moves_the_tone() -> None:
    t = np.arange(16_000) / 16_000
    tone = (0.3 * np.sin(2 * np.pi * 400 * t)).astype(np.float32)
    for factor in (0.84, 1.2):
        spectrum = np.abs(np.fft.rfft(effects.pitch(tone, factor)[4000:12_000]))
        assert spectrum.argmax() * 2 == pytest.approx(400 * factor, abs=4)  # bins of 2 Hz


def test_a_room_is_the_sound_and_a_quieter_tail() -> None:
    click = np.zeros(16_000, np.float32)
    click[1000] = 1
    tails = [effects.room(click, np.random.default_rng(seed)) for seed in range(10)]
    for out in tails:
        assert np.abs(out[:1000]).max() < 1e-5 and out[1000] == pytest.approx(1, abs=1e-4)
        assert 0.04 < np.sqrt(np.square(out[1001:]).sum()) < 0.41
        assert np.abs(out[1001:1032]).max() < 1e-5, "nothing in the first 2 ms"


def test_the_colour_of_noise() -> None:
    random = np.random.default_rng(0)
    for colour in (0.0, 1.0, 2.0):
        wave = effects.noise(32_000, colour, random)
        power = np.abs(np.fft.rfft(wave)) ** 2
        low, high = power[400:1000].mean(), power[4000:10_000].mean()  # 200 to 500 Hz, 2 to 5 kHz: a factor of 10
        assert np.log10(low / high) == pytest.approx(colour, abs=0.15)
        assert wave.std() == pytest.approx(1, abs=1e-3)


def test_mixtures_are_bounded_and_finite(speech: tuple[Float32, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effects, "pitch", lambda pcm, factor: pcm)
    pcm, other = speech
    kept, levels = pcm.copy(), []
    for seed in range(25):
        out = effects.augment(pcm, [other, other[:5000]], np.random.default_rng(seed))
        assert out.shape == pcm.shape and out.dtype == np.float32 and np.isfinite(out).all()
        assert np.abs(out).max() <= 0.9901
        assert abs(lag(envelope(pcm), envelope(out))) <= MILLISECOND
        levels.append(20 * np.log10(effects.rms(out) / effects.rms(pcm)))
    np.testing.assert_array_equal(pcm, kept)
    assert min(levels) < -12 and max(levels) > 0, "quieter and louder"


@pytest.mark.parametrize("seed", range(6))
def test_silence_stays_finite(seed: int) -> None:
    silence = np.zeros(8000, np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = effects.augment(silence, [silence, silence], np.random.default_rng(seed))
    assert np.isfinite(out).all() and np.abs(out).max() < 0.01


def test_the_same_seed_the_same_sound(speech: tuple[Float32, ...]) -> None:
    first, again = (effects.augment(speech[0], [speech[1]], np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(effects.augment(speech[0], [speech[1]], np.random.default_rng(8)) - first).max() > 0.01
