"""What is not the head: a grid over the portrait whose nodes follow the head's vertices, the nearer the more. px.

It carries hair, ears and neck. Beyond the portrait's border the grid goes on and stays still.
"""

from __future__ import annotations

import numpy as np

from emo_live.training.puppets.mesh import Int
from emo_live.training.puppets.view import PORTRAIT_PX
from emo_live.types import Float32

CELLS = 48  # a side, within the portrait
BORDER_FADE_PX = 60.0
HEAD_FADE_PX = 120.0
HAIR_FADE_PX = 32.0  # hair may move nearly up to the upper border


def nodes() -> Float32:
    """(N, 2) px: row by row, the portrait and one cell of its own size on each side."""
    inner = np.linspace(0, PORTRAIT_PX, CELLS + 1)
    line = np.concatenate([[-PORTRAIT_PX], inner, [2 * PORTRAIT_PX]]).astype(np.float32)
    return np.stack(np.meshgrid(line, line), axis=2).reshape(-1, 2)


def triangles() -> Int:
    """(F, 3) over `nodes`."""
    side = CELLS + 3
    corner = (np.arange(side - 1)[:, None] * side + np.arange(side - 1)).ravel()
    upper, lower = (corner, corner + 1, corner + side), (corner + 1, corner + side + 1, corner + side)
    return np.concatenate([np.stack(upper, axis=1), np.stack(lower, axis=1)])


class Background:
    """How the grid of one portrait follows."""

    def __init__(self, points: Float32, controls: Int):
        """points: (V, 2) px of the vertices in the portrait; controls: the vertices that are followed."""
        self.controls = controls
        self._home = points[controls]
        self._nodes = nodes()
        weights = _weights(self._nodes, self._home, float(points[:, 1].min()))
        self._moving = np.flatnonzero(weights.any(1))
        self._weights = np.ascontiguousarray(weights[self._moving])

    def follow(self, points: Float32) -> Float32:
        """(V, 2) px -> (N, 2) px of the nodes."""
        placed = self._nodes.copy()
        placed[self._moving] += self._weights @ (points[self.controls] - self._home)
        return placed


def _weights(grid: Float32, home: Float32, top: float) -> Float32:
    """(N, C): how much a node takes of a control's shift. home (C, 2) px; top: row of the head's top, px."""
    x, y = grid.T
    squared = (x[:, None] - home[:, 0]) ** 2 + (y[:, None] - home[:, 1]) ** 2
    nearness = (squared + 60) ** -1.5
    nearness /= nearness.sum(1, keepdims=True)
    to_border = np.minimum(np.minimum(x, PORTRAIT_PX - x), PORTRAIT_PX - y)
    fade = np.clip(to_border / BORDER_FADE_PX, 0, 1) * np.exp(-squared.min(1) / HEAD_FADE_PX**2)
    fade = np.where(y < top, np.sqrt(fade), fade) * np.clip(y / HAIR_FADE_PX, 0, 1)
    return np.asarray(nearness * fade[:, None], np.float32)
