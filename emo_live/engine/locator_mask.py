"""Face locator masks of the tiny model: outlines of the face-mesh points filled in. numpy and Pillow only."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from emo_live.types import Float32

# Outlines among the 478 FaceLandmarker points, in order around the shape.
# fmt: off
FACE = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149,
    150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)
# fmt: on
RIGHT_EYE = (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7)
LEFT_EYE = (263, 466, 388, 387, 386, 385, 384, 398, 362, 382, 381, 380, 374, 373, 390, 249)
LIPS = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146)
INNER_LIPS = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95)
CHANNELS: tuple[tuple[tuple[int, ...], ...], ...] = ((FACE,), (RIGHT_EYE, LEFT_EYE), (LIPS,), (INNER_LIPS,))
_FINER = 4  # drawn this much larger, then averaged: soft edges carry the position within a pixel


def locator_mask(points: np.ndarray, size: int) -> Float32:
    """points: (478, 2) in shares of the crop -> (4, size, size) float32 in 0..1: face, eyes, lips, inner lips."""
    side = size * _FINER
    soft = []
    for outlines in CHANNELS:
        image = Image.new("L", (side, side))
        pen = ImageDraw.Draw(image)
        for outline in outlines:
            pen.polygon([(float(x), float(y)) for x, y in np.round(points[list(outline)] * side - 0.5)], fill=255)
        soft.append(np.asarray(image.reduce(_FINER), dtype=np.float32))
    return (np.stack(soft) / 255).astype(np.float32)
