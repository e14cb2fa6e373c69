"""The noise of engine/noise.py as training draws it: in batches, on any device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from emo_live.engine.noise import TAPS, filters


def correlated(white: Tensor) -> Tensor:
    """(B, TAPS - 1 + T, C, h, w) white noise -> (B, T, C, h, w) noise with a past."""
    weights = torch.from_numpy(filters(white.shape[2])).to(white.device)
    return torch.einsum("btchwk,ck->btchw", white.unfold(1, TAPS, 1), weights)


def correlated_noise(size: int, frames: int, shape: Sequence[int], device: torch.device) -> Tensor:
    return correlated(torch.randn(size, TAPS - 1 + frames, *shape, device=device))
