"""Carries fields of motion from one face to another by their landmarks: thin-plate splines (Bookstein 1989) in numpy.

Places are in shares of a square crop, x to the right and y down; fields (N, 3, S, S) are backward flow x, y in px of S
and hole share.
"""

from __future__ import annotations

import numpy as np

from emo_live.types import Float32

_CALM = 1e-4  # how little the spline bends to meet landmarks that are not exact
_STRETCH = (0.5, 2.0)  # of flow by a map, at most: beyond its landmarks a spline may do anything
# The crop's border stays where it is.
_BORDER = np.array([[0, 0], [0.5, 0], [1, 0], [0, 0.5], [1, 0.5], [0, 1], [0.5, 1], [1, 1]])


class FaceMap:
    """Where the pixels of a face's crop (S, S) lie in the crop of another one. points: (M, 2) landmarks of both."""

    def __init__(self, points: Float32, other: Float32, size: int):
        source, target = (np.concatenate([np.asarray(x, np.float64), _BORDER]) for x in (points, other))
        count = len(source)
        system = np.zeros((count + 3, count + 3))
        system[:count, :count] = _bending(source, source) + _CALM * np.eye(count)
        system[:count, count], system[:count, count + 1 :] = 1, source
        system[count:, :count] = system[:count, count:].T
        weights = np.linalg.solve(system, np.concatenate([target, np.zeros((3, 2))]))
        centres = (np.arange(size) + 0.5) / size
        pixels = np.stack(np.meshgrid(centres, centres), -1).reshape(-1, 2)
        places = _bending(pixels, source) @ weights[:count] + weights[count] + pixels @ weights[count + 1 :]
        self.places = places.reshape(size, size, 2)
        across, down = np.gradient(self.places, 1 / size, axis=1), np.gradient(self.places, 1 / size, axis=0)
        left, stretch, right = np.linalg.svd(np.linalg.inv(np.stack([across, down], -1)))
        self._back = ((left * np.clip(stretch, *_STRETCH)[..., None, :]) @ right).astype(np.float32)

    def carry(self, fields: Float32) -> Float32:
        """Fields of the other face -> fields of this one."""
        size = fields.shape[-1]
        x, y = (self.places * size - 0.5).astype(np.float32).transpose(2, 0, 1)
        found = sample(fields, x[None], y[None])
        (xx, xy), (yx, yy) = self._back.transpose(2, 3, 0, 1)
        across, down = found[:, 0].copy(), found[:, 1]
        found[:, 0] = xx * across + xy * down
        found[:, 1] = yx * across + yy * down
        return found


def _bending(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(A, 2) and (B, 2) -> (A, B): r^2 log r."""
    squared = np.square(a[:, None] - b[None]).sum(2)
    out: np.ndarray = 0.5 * squared * np.log(squared + 1e-24)
    return out


def sample(fields: Float32, x: Float32, y: Float32) -> Float32:
    """(N, C, S, S) at pixels x, y (N or 1, S, S), linear between centres, constant beyond the outermost -> the same."""
    size = fields.shape[-1]
    x, y = np.clip(x, 0, size - 1), np.clip(y, 0, size - 1)
    left, top = (np.minimum(v.astype(np.intp), size - 2) for v in (x, y))
    across, down = ((v - low).astype(np.float32)[:, None] for v, low in ((x, left), (y, top)))
    places = (top * size + left).reshape(len(x), 1, -1)
    flat = fields.reshape(*fields.shape[:2], -1)

    def corner(step: int) -> Float32:
        # The same places for all fields are found several times faster than places for each.
        found = flat.take(places[0, 0] + step, 2) if len(x) == 1 else np.take_along_axis(flat, places + step, 2)
        return found.reshape(fields.shape)

    upper = corner(0) * (1 - across) + corner(1) * across
    lower = corner(size) * (1 - across) + corner(size + 1) * across
    return np.asarray(upper * (1 - down) + lower * down, np.float32)
