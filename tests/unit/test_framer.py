"""Steps out of chunks: both copies at the same instant, the right number of them, whatever the chopping."""

from __future__ import annotations

import math

import numpy as np
import pytest

from emo_live.audio.framer import AudioStep, Framer
from emo_live.errors import BadInputError
from emo_live.types import Float32

RATES_HZ = (8_000, 16_000, 22_050, 24_000, 44_100, 48_000, 96_000)


def frame(pcm: Float32, rate_hz: int, sizes: list[int] | None = None) -> list[AudioStep]:
    """Push pcm in chunks of the given sizes, over and over; whole if there are none."""
    framer = Framer(rate_hz)
    steps: list[AudioStep] = []
    start = n_chunks = 0
    while start < len(pcm):
        size = sizes[n_chunks % len(sizes)] if sizes else len(pcm)
        steps += framer.push(pcm[start : start + size])
        start, n_chunks = start + size, n_chunks + 1
    return steps + framer.flush()


def noise(n_samples: int, seed: int = 0) -> Float32:
    return (np.random.default_rng(seed).standard_normal(n_samples) * 0.2).astype(np.float32)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_an_impulse_stays_where_it_is_in_both_copies(rate_hz: int) -> None:
    for at_s in (0.1, 0.733, 1.5):
        pcm = np.zeros(2 * rate_hz, np.float32)
        at = round(at_s * rate_hz)
        pcm[at] = 0.9
        steps = frame(pcm, rate_hz, [rate_hz // 50])
        model = np.concatenate([step.model for step in steps])
        heard = np.concatenate([step.heard for step in steps])
        assert abs(int(np.abs(model).argmax()) - at / rate_hz * 16_000) <= 1
        assert abs(int(np.abs(heard.astype(np.int32)).argmax()) - at / rate_hz * 48_000) <= 3


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_chopping_changes_nothing(rate_hz: int) -> None:
    pcm = noise(rate_hz * 3 // 2 + 17)
    whole = frame(pcm, rate_hz)
    for sizes in ([160], [1, 2, 3, 1000], [4096, 0, 77]):
        chopped = frame(pcm, rate_hz, sizes)
        assert len(chopped) == len(whole)
        for a, b in zip(whole, chopped, strict=True):
            assert a.index == b.index
            assert np.array_equal(a.model, b.model)
            assert np.array_equal(a.heard, b.heard)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("duration_s", [0.0, 0.0101, 0.04, 0.9999, 1.0, 1.0401])
def test_number_and_shape_of_steps(rate_hz: int, duration_s: float) -> None:
    n_samples = round(duration_s * rate_hz)
    steps = frame(noise(n_samples), rate_hz, [333])
    assert len(steps) == math.ceil(n_samples * 25 / rate_hz)
    assert [step.index for step in steps] == list(range(len(steps)))
    for step in steps:
        assert step.model.shape == (640,) and step.model.dtype == np.float32
        assert step.heard.shape == (1920,) and step.heard.dtype == np.int16


def test_own_rates_pass_through_untouched() -> None:
    pcm = noise(16_000)
    model = np.concatenate([step.model for step in frame(pcm, 16_000, [700])])
    assert np.array_equal(model, pcm)
    heard = np.concatenate([step.heard for step in frame(np.array([0.5, -1.5, 2.0] * 640, np.float32), 48_000)])
    assert heard[:3].tolist() == [16384, -32767, 32767]


def test_last_step_is_padded_with_zeros() -> None:
    (step,) = frame(np.full(100, 0.5, np.float32), 16_000)
    assert np.all(step.model[:100] == 0.5) and not step.model[100:].any()
    assert not step.heard[310:].any()


def test_steps_come_while_sound_is_pushed() -> None:
    framer = Framer(44_100)
    n_steps = sum(len(framer.push(noise(441, seed))) for seed in range(100))
    assert n_steps >= 23  # at most one step and the resampler's look-ahead wait of the 25 pushed


def test_after_flush_the_index_goes_on_and_nothing_leaks() -> None:
    framer = Framer(24_000)
    framer.push(np.ones(1_000, np.float32))
    assert [step.index for step in framer.flush()] == [0, 1]
    assert framer.flush() == []
    framer.push(np.zeros(960, np.float32))
    (step,) = framer.flush()
    assert step.index == 2 and not step.model.any() and not step.heard.any()


def test_reset_forgets() -> None:
    framer = Framer(44_100)
    framer.push(np.ones(10_000, np.float32))
    framer.reset()
    assert framer.flush() == []
    steps = framer.push(np.zeros(44_100, np.float32)) + framer.flush()
    assert [step.index for step in steps] == list(range(25))
    assert not any(step.model.any() for step in steps)


def test_steps_own_their_samples() -> None:
    framer = Framer(16_000)
    pcm = noise(1_280)
    steps = framer.push(pcm) + framer.flush()
    kept = steps[0].model.copy()
    pcm[:] = 0
    assert np.array_equal(steps[0].model, kept)


@pytest.mark.parametrize("rate_hz", [0, -8_000, 999, 10**7])
def test_senseless_rates_are_refused(rate_hz: int) -> None:
    with pytest.raises(BadInputError, match="sample rate"):
        Framer(rate_hz)


def test_unusable_sound_is_refused() -> None:
    with pytest.raises(BadInputError, match="mono"):
        Framer(16_000).push(np.zeros((10, 2), np.float32))
    with pytest.raises(BadInputError, match="NaN"):
        Framer(16_000).push(np.array([0.0, np.nan], np.float32))


def test_sound_far_beyond_full_scale_is_clipped() -> None:
    framer = Framer(16_000)
    first, *_ = framer.push(np.full(6_400, -1e30, np.float32)) + framer.flush()
    assert np.array_equal(first.model, np.full(640, -1))
    assert first.heard[200:].min() == first.heard[200:].max() == -32_767
