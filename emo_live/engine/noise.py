"""Noise that has a past: channels of a frame's noise are correlated over time, each group as far back as it should.

White noise asks the temporal layers to agree on one head pose out of independent pictures; with slow channels the noise
itself drifts as heads do, while fast ones stay free for blinks. Every frame is standard normal on its own, and depends
only on (seed, index): the same offline, live, and whatever the windows are. Cf. arXiv 2305.10474.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from emo_live.types import Float32

TAPS = 32  # frames of past that a frame's noise contains
DECAYS = (0.0, 0.6, 0.88, 0.96)  # per frame, for equal groups of channels


@cache
def filters(channels: int) -> Float32:
    """(channels, TAPS) weights of the newest TAPS white noises, oldest first; every row has unit norm."""
    decay = np.repeat(DECAYS, channels // len(DECAYS))[:, None]
    weights = decay ** np.arange(TAPS - 1, -1, -1)
    unit: Float32 = (weights / np.linalg.norm(weights, axis=1, keepdims=True)).astype(np.float32)
    return unit


class FrameNoise:
    """noise(index) for one seed; remembers the white noises of the last frames."""

    def __init__(self, seed: int, shape: tuple[int, int, int]):
        self.seed, self.shape = seed, shape
        self._white: dict[int, Float32] = {}

    def _draw(self, index: int) -> Float32:
        if index not in self._white:
            if len(self._white) > 4 * TAPS:
                self._white = {i: w for i, w in self._white.items() if i > index - 2 * TAPS}
            counter = (index + TAPS) << 64  # frames before the first have noise too
            generator = np.random.Generator(np.random.Philox(key=self.seed, counter=counter))
            self._white[index] = generator.standard_normal(self.shape, dtype=np.float32)
        return self._white[index]

    def __call__(self, index: int) -> Float32:
        past = np.stack([self._draw(i) for i in range(index - TAPS + 1, index + 1)])
        out: Float32 = np.einsum("kchw,ck->chw", past, filters(self.shape[0]))
        return out
