"""Boxes of mouth, eyes and face from the 478 face points, as the renderer gives them for its puppets."""

from __future__ import annotations

import numpy as np

from emo_live.engine.locator_mask import FACE, LEFT_EYE, LIPS, RIGHT_EYE
from emo_live.types import Float32

_BROWS = (70, 63, 105, 66, 107, 336, 296, 334, 293, 300)
_JAW = FACE[8:29]  # from ear to ear along the chin
# Members and margin, as a share of the longer side.
_PARTS = ((LIPS, 0.35), (RIGHT_EYE + LEFT_EYE + _BROWS, 0.10), (_JAW + _BROWS, 0.06))


def face_boxes(points: Float32) -> Float32:
    """(478, 2) shares of a square -> (3, 4): mouth, eyes, face as x0, y0, x1, y1 in shares, within it."""
    rows = []
    for members, margin in _PARTS:
        low, high = points[list(members)].min(0), points[list(members)].max(0)
        pad = margin * (high - low).max()
        rows.append(np.concatenate([low - pad, high + pad]))
    return np.asarray(np.clip(np.stack(rows), 0, 1), np.float32)
