"""The linear part of the motion model: what is known of the next frames before the diffusion network is asked.

Latents (C, h, w) lie near the span of K components of unit variance. The components of the next frames follow linearly
from those of the motion frames and from the mouth shapes that are heard, which move each face by its own traits. Noise
is drawn in components too, each with its own memory, so that heads drift and lids snap. The network generates what
deviates from all that. Frame `index` of a seed has the same noise offline, live, and whatever the windows are.
Cf. correlated video noise, arXiv 2305.10474.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emo_live.errors import EngineError
from emo_live.types import Float32

TAPS = 32  # frames of past that a frame's noise contains
# Among the 478 FaceLandmarker points: corners, top, bottom and inner edges of the lips, corners of the eyes, chin.
_CORNERS, _TOP, _BOTTOM, _INNER, _EYES, _CHIN = (61, 291), 0, 17, (13, 14), (33, 263), 152


@dataclass(frozen=True, slots=True, eq=False)
class MotionPrior:
    """basis: (K, N) latents of a unit of each component, N = C h w; readout: (N, K) components of latents.

    For 1 .. L frames after the motion frames: ahead (L, n, K) weights of the n motion frames, oldest first; heard
    (L, P S, K) weights of P traits times S shapes; spread (L, K) of what is left. decay: (K,) of noise, a frame.
    trait_mean, trait_scale: (P - 1,).
    """

    shape: tuple[int, int, int]
    basis: Float32
    readout: Float32
    ahead: Float32
    heard: Float32
    spread: Float32
    decay: Float32
    trait_mean: Float32
    trait_scale: Float32

    @classmethod
    def load(cls, path: Path) -> MotionPrior:
        if not path.exists():
            raise EngineError(f"the model files are missing: {path}; reinstall emo-live")
        with np.load(path, allow_pickle=False) as file:
            stored = {name: file[name].astype(np.float32) for name in file.files}
        for name in [key for key in stored if f"{key}_scale" in stored]:  # large ones are 8-bit, with a scale a row
            stored[name] = stored[name] * stored.pop(f"{name}_scale")
        channels, rows, columns = (int(v) for v in stored.pop("shape"))
        gains = stored.pop("gains")
        return cls((channels, rows, columns), readout=readout_of(stored["basis"], gains), **stored)

    def traits(self, points: Float32) -> Float32:
        """(478, 2) landmarks in shares of the crop -> (P,): 1 and what makes one mouth move unlike another."""
        return scaled_traits(raw_traits(points), self.trait_mean, self.trait_scale)

    def anchor(self, motion: Float32, shapes: Float32, traits: Float32) -> Float32:
        """(n, C, h, w) motion frames, (T, S) shapes, (P,) traits -> (T, C, h, w), what they foretell."""
        frames = len(shapes)
        components = motion.reshape(len(motion), -1) @ self.readout
        foretold = np.sum(self.ahead[:frames] * components, axis=1)
        foretold = foretold + np.einsum("tf,tfk->tk", products(shapes, traits), self.heard[:frames])
        return self._latents(foretold)

    def deviation(self, noise: Float32) -> Float32:
        """(T, C, h, w) noise -> (T, C, h, w), as large as what the anchor leaves open."""
        components = noise.reshape(len(noise), -1) @ self.readout
        return self._latents(components * self.spread[: len(noise)])

    def projected(self, latents: Float32) -> Float32:
        """(T, C, h, w) without what no face does."""
        return self._latents(latents.reshape(len(latents), -1) @ self.readout)

    def _latents(self, components: Float32) -> Float32:
        out: Float32 = (components @ self.basis).reshape(-1, *self.shape)
        return out

    def filters(self) -> Float32:
        """(K, TAPS) weights of the newest TAPS white noises, oldest first; every row has unit norm."""
        weights = self.decay[:, None] ** np.arange(TAPS - 1, -1, -1)
        return np.asarray(weights / np.linalg.norm(weights, axis=1, keepdims=True), np.float32)


def raw_traits(points: Float32) -> Float32:
    """(478, 2) landmarks in shares of the crop -> (P - 1,): place, size and opening of the mouth, size of the face."""
    left, right = points[_CORNERS[0]], points[_CORNERS[1]]
    middle = (left + right) / 2
    gap = points[_INNER[1], 1] - points[_INNER[0], 1]
    height = points[_BOTTOM, 1] - points[_TOP, 1]
    eyes = np.linalg.norm(points[_EYES[1]] - points[_EYES[0]])
    chin = points[_CHIN, 1] - middle[1]
    return np.array([*middle, np.linalg.norm(right - left), height, gap, eyes, chin], np.float32)


def scaled_traits(raw: Float32, mean: Float32, scale: Float32) -> Float32:
    """(P - 1,) -> (P,): 1, and how far each trait is from the usual."""
    return np.concatenate([[1.0], np.clip((raw - mean) / scale, -3, 3)]).astype(np.float32)


def products(shapes: Float32, traits: Float32) -> Float32:
    """(T, S) shapes and (P,) traits -> (T, P (S + 1)): every trait times every shape and times 1."""
    whole = np.concatenate([shapes, np.ones((len(shapes), 1), np.float32)], 1)
    return np.asarray((traits[None, :, None] * whole[:, None]).reshape(len(shapes), -1), np.float32)


def readout_of(basis: Float32, gains: Float32) -> Float32:
    """Least squares with `gains` (N,) for each latent: (K, N) -> (N, K), exact for a basis that was rounded."""
    weighted = basis * gains**2
    return np.asarray(np.linalg.solve((weighted @ basis.T).astype(np.float64), weighted).T, np.float32)


class FrameNoise:
    """noise(index) for one seed: (C, h, w). Remembers the white noises of the last frames."""

    def __init__(self, seed: int, prior: MotionPrior):
        self.seed, self.prior = seed, prior
        self._filters = prior.filters()
        self._white: dict[int, Float32] = {}

    def _draw(self, index: int) -> Float32:
        if index not in self._white:
            if len(self._white) > 4 * TAPS:
                self._white = {i: w for i, w in self._white.items() if i > index - 2 * TAPS}
            counter = (index + TAPS) << 64  # frames before the first have noise too
            generator = np.random.Generator(np.random.Philox(key=self.seed, counter=counter))
            self._white[index] = generator.standard_normal(len(self.prior.decay), dtype=np.float32)
        return self._white[index]

    def __call__(self, index: int) -> Float32:
        past = np.stack([self._draw(i) for i in range(index - TAPS + 1, index + 1)])
        components = np.einsum("sk,ks->k", past, self._filters)
        return np.asarray((components @ self.prior.basis).reshape(self.prior.shape), np.float32)
