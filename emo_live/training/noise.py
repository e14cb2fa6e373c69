"""The noise of engine/noise.py as training draws it: in batches, on any device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from emo_live.engine.noise import TAPS, filters


def correlated(white: Tensor) -> Tensor:
    """(B, TAPS - 1 + T, C, h, w) white noise -> (B, T, C, h, w) noise with a past."""
    weights = torch.from_numpy(filters(white.shape[2]))
    frames, drawn = white.shape[1] - TAPS + 1, white.shape[1]
    band = weights.new_zeros(
        len(weights), frames, drawn
    )  # a matrix product is quicker than unfolding the past of each frame
    for t in range(frames):
        band[:, t, t : t + TAPS] = weights
    return torch.einsum("cts,bschw->btchw", band.to(white.device), white)


def correlated_noise(size: int, frames: int, shape: Sequence[int], device: torch.device) -> Tensor:
    return correlated(torch.randn(size, TAPS - 1 + frames, *shape, device=device))
