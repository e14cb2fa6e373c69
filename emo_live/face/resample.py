"""Cut any rotated, scaled square or rectangle out of a picture, without aliasing.

Affines map output px to picture px, both with pixel centres at whole numbers (as OpenCV counts).
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from emo_live.types import UInt8

Affine = NDArray[np.float64]


def scale_of(affine: Affine) -> float:
    """Picture px per output px of a (2, 3) affine."""
    return math.sqrt(abs(affine[0, 0] * affine[1, 1] - affine[0, 1] * affine[1, 0]))


def invert(affine: Affine) -> Affine:
    """The inverse of a (2, 3) affine."""
    return np.asarray(cv2.invertAffineTransform(affine), dtype=np.float64)


def rotated_square(centre_xy: tuple[float, float], side: float, angle: float, size_px: int) -> Affine:
    """Affine from a size_px square to a square of the picture.

    centre_xy, side: in continuous picture px (the left edge of the first pixel is 0). angle: radians, clockwise as
    seen, by which the square is turned.
    """
    scale = side / size_px
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    middle = (size_px - 1) / 2
    x, y = centre_xy[0] - 0.5, centre_xy[1] - 0.5
    return np.array([[cos, -sin, x - cos * middle + sin * middle], [sin, cos, y - sin * middle - cos * middle]])


def sample(picture: UInt8, affine: Affine, size_px: int) -> UInt8:
    """Return the (size_px, size_px, 3) uint8 square of the picture that the affine describes.

    Shrinking averages over areas first; enlarging is bicubic. Outside the picture its border pixels go on.
    """
    scale = scale_of(affine)
    if scale > 1:
        picture, affine = _shrink_around(picture, affine, size_px, scale)
    kind, size = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, (size_px, size_px)
    return np.asarray(cv2.warpAffine(picture, affine, size, flags=kind, borderMode=cv2.BORDER_REPLICATE), np.uint8)


def _shrink_around(picture: UInt8, affine: Affine, size_px: int, scale: float) -> tuple[UInt8, Affine]:
    """Cut out what the square needs and shrink it to the output's scale; the affine follows."""
    end = size_px - 1
    corners = affine @ np.array([[0, end, 0, end], [0, 0, end, end], [1, 1, 1, 1]], dtype=np.float64)
    height, width = picture.shape[:2]
    margin = 4 * scale
    low, high = np.floor(corners.min(axis=1) - margin), np.ceil(corners.max(axis=1) + margin) + 1
    left, top = int(np.clip(low[0], 0, width - 1)), int(np.clip(low[1], 0, height - 1))
    right, bottom = int(np.clip(high[0], left + 1, width)), int(np.clip(high[1], top + 1, height))
    part = picture[top:bottom, left:right]
    columns, rows = max(1, round(part.shape[1] / scale)), max(1, round(part.shape[0] / scale))
    small = np.asarray(cv2.resize(part, (columns, rows), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    ratio = np.array([columns / part.shape[1], rows / part.shape[0]])
    moved = affine.copy()
    moved[:, 2] += 0.5 - np.array([left, top])
    moved *= ratio[:, None]
    moved[:, 2] -= 0.5
    return small, moved
