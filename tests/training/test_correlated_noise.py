"""Noise in training is the engine's: normal, with a past as long as its channel's, and a function of (seed, index)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emo_live.engine.noise import DECAYS, TAPS, FrameNoise, filters
from emo_live.training.noise import correlated, correlated_noise

SHAPE = (16, 6, 6)
GROUP = SHAPE[0] // len(DECAYS)


def wanted(decay: float, lag: int) -> float:
    """Correlation of frames `lag` apart, of noise filtered by decay ** k for k < TAPS."""
    powers = decay ** np.arange(TAPS)
    return float((powers[lag:] * powers[: TAPS - lag]).sum() / np.square(powers).sum())


def correlations(noise: np.ndarray, lag: int) -> list[float]:
    """(B, T, C, h, w) -> a number a group of channels."""
    a, b = noise[:, : noise.shape[1] - lag], noise[:, lag:]
    groups = [slice(k * GROUP, (k + 1) * GROUP) for k in range(len(DECAYS))]
    return [float(np.corrcoef(a[:, :, g].ravel(), b[:, :, g].ravel())[0, 1]) for g in groups]


def test_same_white_noise_same_frames() -> None:
    rng = np.random.default_rng(0)
    white = rng.standard_normal((TAPS + 4, *SHAPE), dtype=np.float32)
    engine = FrameNoise(0, SHAPE)
    engine._white = {i - TAPS + 1: frame for i, frame in enumerate(white)}
    frames = np.stack([engine(i) for i in range(5)])
    drawn = correlated(torch.from_numpy(np.stack([white, white[::-1]])))
    assert drawn.shape == (2, 5, *SHAPE)
    np.testing.assert_allclose(drawn[0].numpy(), frames, atol=2e-6)


def test_statistics_in_training() -> None:
    torch.manual_seed(0)
    noise = correlated_noise(100, 13, SHAPE, torch.device("cpu")).numpy()
    assert noise.shape == (100, 13, *SHAPE)
    np.testing.assert_allclose(noise.std((0, 1, 3, 4)), 1, atol=0.06)
    np.testing.assert_allclose(noise.mean((0, 1, 3, 4)), 0, atol=0.08)
    for lag in (1, 4, 12):
        np.testing.assert_allclose(correlations(noise, lag), [wanted(decay, lag) for decay in DECAYS], atol=0.04)


def test_statistics_in_the_engine() -> None:
    noise = np.stack([[FrameNoise(seed, SHAPE)(i) for i in (0, 1, 2, 3, 4)] for seed in range(60)])
    np.testing.assert_allclose(noise.std((0, 1, 3, 4)), 1, atol=0.08)
    for lag in (1, 4):
        np.testing.assert_allclose(correlations(noise, lag), [wanted(decay, lag) for decay in DECAYS], atol=0.06)


def test_places_are_independent() -> None:
    torch.manual_seed(0)
    noise = correlated_noise(400, 1, (16, 2, 2), torch.device("cpu")).flatten(2).squeeze(1)
    between = torch.corrcoef(noise.T)
    assert (between - torch.eye(len(between))).abs().max() < 0.25  # 5 standard deviations


def test_filters_have_unit_norm() -> None:
    np.testing.assert_allclose(np.linalg.norm(filters(16), axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("index", [0, 7, 300])
def test_a_frame_depends_on_seed_and_index_only(index: int) -> None:
    fresh = FrameNoise(5, SHAPE)(index)
    used = FrameNoise(5, SHAPE)
    for other in (3, 290, 0, 150, 8):
        used(other)
    np.testing.assert_array_equal(used(index), fresh)
    assert np.abs(FrameNoise(6, SHAPE)(index) - fresh).max() > 1
    assert np.abs(FrameNoise(5, SHAPE)(index + 1) - fresh).max() > 0.1
