"""The plain part of the motion model: what is known of the next frames before the diffusion network is asked.

Head pose moves a face as a whole, by its traits; the expression (mouth shapes that are heard, upper face that is drawn)
is a sum of fields of motion on the mean face, carried to this face by its landmarks and turned with its head. Both make
the anchor. The network generates what deviates from it, in units of `scale`.

Latents (C, h, w) lie near the span of K components of unit variance. The network's noise is drawn in components, each
as large as it deviates and with its own memory. Frame `index` of a seed has the same noise offline, live, in windows of
any length. Cf. correlated video noise, arXiv 2305.10474.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from emo_live.config import POSE
from emo_live.engine.face_map import FaceMap, sample
from emo_live.errors import EngineError
from emo_live.types import Float32

TAPS = 32  # frames of past that a frame's noise contains
# Among the 478 FaceLandmarker points: corners, top, bottom and inner edges of the lips, corners of the eyes, chin.
_CORNERS, _TOP, _BOTTOM, _INNER, _EYES, _CHIN = (61, 291), 0, 17, (13, 14), (33, 263), 152


@dataclass(frozen=True, slots=True, eq=False)
class MotionPrior:
    """basis: (K, N) latents of a unit of each component, N = C h w; readout: (N, K) components of latents.

    head: (P POSE, K) components of P traits times the pose. fields: (E + 1, 3, S, S) motion of the mean face for a unit
    of each of E ARKit weights, and at rest; points: (M,) landmarks that carry them; mean_face: (M, 2) where the mean
    face has them. unpatch: (C, 3 p^2) and patch: (3 p^2, C), between latents and squares of p px of a field. spread:
    (K,) of what is left. decay: (K,) of noise, a frame. trait_mean, trait_scale: (P - 1,).
    """

    shape: tuple[int, int, int]
    basis: Float32
    readout: Float32
    head: Float32
    fields: Float32
    points: Float32
    mean_face: Float32
    unpatch: Float32
    patch: Float32
    spread: Float32
    decay: Float32
    trait_mean: Float32
    trait_scale: Float32
    scale: float = field(init=False)  # of deviations: their root mean square over all latents

    def __post_init__(self) -> None:
        energy = np.square(self.basis * self.spread[:, None]).sum() / self.basis.shape[1]
        object.__setattr__(self, "scale", float(np.sqrt(energy)))

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
        """(478, 2) landmarks in shares of the crop -> (P,): 1 and what makes one face turn unlike another."""
        normal = (raw_traits(points) - self.trait_mean) / self.trait_scale
        return np.concatenate([[1.0], np.clip(normal, -3, 3)]).astype(np.float32)

    def expressions(self, points: Float32) -> Float32:
        """(478, 2) landmarks in shares of the crop -> (E + 1, 3, S, S): `fields` of the face that has them."""
        own = points[self.points.astype(np.intp)]
        return FaceMap(own, self.mean_face, self.fields.shape[-1]).carry(self.fields)

    def projected(self, latents: Float32) -> Float32:
        """(T, C, h, w) without what no face does."""
        return self.latents(latents.reshape(len(latents), -1) @ self.readout)

    def latents(self, components: Float32) -> Float32:
        out: Float32 = (components @ self.basis).reshape(-1, *self.shape)
        return out

    def decode(self, latents: Float32) -> Float32:
        """(T, C, h, w) -> (T, 3, S, S)."""
        (frames, _, rows, columns), side = latents.shape, self.fields.shape[-1] // latents.shape[-1]
        squares = np.tensordot(self.unpatch, latents, (0, 1)).reshape(3, side, side, frames, rows, columns)
        return squares.transpose(3, 0, 4, 1, 5, 2).reshape(frames, 3, rows * side, columns * side)

    def encode(self, fields: Float32) -> Float32:
        """(T, 3, S, S) -> (T, C, h, w)."""
        frames, (_, rows, columns) = len(fields), self.shape
        squares = fields.reshape(frames, 3, rows, -1, columns, fields.shape[-1] // columns)
        flat = squares.transpose(1, 3, 5, 0, 2, 4).reshape(len(self.patch), -1)
        return np.ascontiguousarray((self.patch.T @ flat).reshape(-1, frames, rows, columns).swapaxes(0, 1))

    def noise_basis(self) -> Float32:
        """(K, N) latents of a unit of noise in each component."""
        return np.asarray(self.basis * (self.spread[:, None] / self.scale), np.float32)

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


class FaceMotion:
    """The prior of one face, by its landmarks (478, 2) in shares of the crop."""

    def __init__(self, prior: MotionPrior, landmarks: Float32):
        self.prior, size = prior, prior.fields.shape[-1]
        traits = prior.traits(landmarks)
        head = np.einsum("p,pqk->qk", traits, prior.head.reshape(len(traits), POSE, -1))
        self._head = prior.decode(prior.latents(head))[:, :2].reshape(POSE, -1)  # flow of a unit of each part of pose
        self._fields = prior.expressions(landmarks).reshape(len(prior.fields), -1)
        self._pixels = np.arange(size, dtype=np.float32)

    def anchor(self, shapes: Float32, gestures: Float32) -> Float32:
        """(T, S) mouth shapes, (T, G) gestures -> (T, C, h, w), what they foretell."""
        prior, frames = self.prior, len(shapes)
        turned = (gestures[:, -POSE:] @ self._head).reshape(frames, 2, *prior.fields.shape[2:])
        weights = np.concatenate([gestures[:, :-POSE], shapes, np.ones((frames, 1), np.float32)], 1)
        still = (weights @ self._fields).reshape(frames, *prior.fields.shape[1:])
        moved = sample(still, self._pixels + turned[:, 0], self._pixels[:, None] + turned[:, 1])
        moved[:, :2] += turned
        return prior.projected(prior.encode(moved))


def readout_of(basis: Float32, gains: Float32) -> Float32:
    """Least squares with `gains` (N,) for each latent: (K, N) -> (N, K), exact for a basis that was rounded."""
    weighted = basis * gains**2
    return np.asarray(np.linalg.solve((weighted @ basis.T).astype(np.float64), weighted).T, np.float32)


class WhiteNoise:
    """noise(index) for one seed and stream: (width,) standard normal. Remembers the newest frames.

    stream: noises of different use have different ones. Frames before the first, down to -past, have noise too.
    """

    def __init__(self, seed: int, stream: int, width: int, past: int):
        self._key, self._width, self._past = np.array([seed, stream], np.uint64), width, past
        self._drawn: dict[int, Float32] = {}

    def __call__(self, index: int) -> Float32:
        if index not in self._drawn:
            if len(self._drawn) > 4 * self._past:
                self._drawn = {i: row for i, row in self._drawn.items() if i > index - 2 * self._past}
            generator = np.random.Generator(np.random.Philox(key=self._key, counter=(index + self._past) << 64))
            self._drawn[index] = generator.standard_normal(self._width, dtype=np.float32)
        return self._drawn[index]

    def frames(self, start: int, end: int) -> Float32:
        """(end - start, width)."""
        return np.stack([self(i) for i in range(start, end)])


class FrameNoise:
    """The network's noise for one seed."""

    def __init__(self, seed: int, prior: MotionPrior):
        self._shape, self._basis, self._filters = prior.shape, prior.noise_basis(), prior.filters()
        self._white = WhiteNoise(seed, 0, len(prior.decay), TAPS)

    def frames(self, start: int, end: int) -> Float32:
        """(end - start, C, h, w)."""
        white = self._white.frames(start - TAPS + 1, end)
        past = np.lib.stride_tricks.sliding_window_view(white, TAPS, axis=0)  # (T, K, TAPS)
        components = np.einsum("tks,ks->tk", past, self._filters)
        return np.asarray((components @ self._basis).reshape(-1, *self._shape), np.float32)


class GestureNoise(WhiteNoise):
    """What gestures are drawn from, for one seed."""

    def __init__(self, seed: int, width: int, past: int):
        super().__init__(seed, 1, width, past)
