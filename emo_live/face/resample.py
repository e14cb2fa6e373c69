"""Cut any rotated, scaled square out of a picture, and resize pictures, without aliasing. Pillow and numpy only.

Affines map output px to picture px, both with pixel centres at whole numbers.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emo_live.types import Float32, UInt8

Affine = NDArray[np.float64]
_MARGIN_PX = 4  # what a cubic filter reads beyond the square


def scale_of(affine: Affine) -> float:
    """Picture px per output px of a (2, 3) affine."""
    return math.sqrt(abs(affine[0, 0] * affine[1, 1] - affine[0, 1] * affine[1, 0]))


def invert(affine: Affine) -> Affine:
    """The inverse of a (2, 3) affine."""
    turn = np.linalg.inv(affine[:, :2])
    return np.concatenate([turn, -turn @ affine[:, 2:]], axis=1)


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


def resize(picture: UInt8, width: int, height: int) -> UInt8:
    """(H, W, 3) or (H, W) uint8 -> (height, width, ...), bicubic; shrinking averages."""
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC), dtype=np.uint8)


def sample(picture: UInt8, affine: Affine, size_px: int) -> UInt8:
    """Return the (size_px, size_px, 3) uint8 square of the picture that the affine describes.

    Bicubic; shrinking averages over areas. Outside the picture its border pixels go on.
    """
    part, affine = _part(picture, affine, size_px)
    image, scale = Image.fromarray(part), scale_of(affine)
    if affine[0, 1] == affine[1, 0] == 0:
        left, top = affine[:, 2] + 0.5 * (1 - scale)
        box = (left, top, left + size_px * scale, top + size_px * scale)
        return np.asarray(image.resize((size_px, size_px), Image.Resampling.BICUBIC, box=box), dtype=np.uint8)
    # To the output's scale first, which filters properly; then only a turn is left.
    columns, rows = (max(1, round(side / scale)) for side in image.size)
    ratio = np.array([columns / image.width, rows / image.height])
    turn, shift = affine[:, :2] * ratio[:, None], (affine[:, 2] + 0.5) * ratio - 0.5
    y, x = np.mgrid[0:size_px, 0:size_px]
    places = turn @ np.stack([x.ravel(), y.ravel()]) + shift[:, None]
    return _cubic(resize(part, columns, rows), places).reshape(size_px, size_px, 3)


def _cubic(picture: UInt8, places: NDArray[np.float64]) -> UInt8:
    """(H, W, 3) and (2, N) x, y -> (N, 3): Catmull-Rom interpolation. Pillow's own overshoots twice as much."""
    height, width = picture.shape[:2]
    low = np.floor(places).astype(np.intp)
    weights = [_catmull_rom((places - low).astype(np.float32), tap) for tap in range(-1, 3)]
    flat, total = picture.reshape(-1, 3), np.zeros((places.shape[1], 3), np.float32)
    for i, across in enumerate(weights):
        row = np.clip(low[1] + i - 1, 0, height - 1) * width
        for j, along in enumerate(weights):
            column = np.clip(low[0] + j - 1, 0, width - 1)
            total += (across[1] * along[0])[:, None] * flat[row + column]
    out: UInt8 = np.clip(total + 0.5, 0, 255).astype(np.uint8)
    return out


def _catmull_rom(t: Float32, tap: int) -> Float32:
    """Weight of the sample at `tap` (-1, 0, 1, 2) for a place t in 0..1 after sample 0."""
    d = np.abs(t - np.float32(tap))
    near, far = (1.5 * d - 2.5) * d * d + 1, ((-0.5 * d + 2.5) * d - 4) * d + 2
    weight: Float32 = np.where(d < 1, near, far).astype(np.float32)
    return weight


def _part(picture: UInt8, affine: Affine, size_px: int) -> tuple[UInt8, Affine]:
    """What the square needs of the picture, its border repeated where it ends; the affine follows."""
    low, high = -0.5, size_px - 0.5
    corners = affine @ np.array([[low, high, low, high], [low, low, high, high], [1, 1, 1, 1]], dtype=np.float64)
    margin = _MARGIN_PX * max(1.0, scale_of(affine))
    left, top = (int(v) for v in np.floor(corners.min(axis=1) - margin))
    right, bottom = (int(v) for v in np.ceil(corners.max(axis=1) + margin) + 1)
    rows = np.clip(np.arange(top, bottom), 0, picture.shape[0] - 1)
    columns = np.clip(np.arange(left, right), 0, picture.shape[1] - 1)
    part = np.ascontiguousarray(picture[rows[0] : rows[-1] + 1].take(columns, axis=1).take(rows - rows[0], axis=0))
    moved = affine.copy()
    moved[:, 2] -= [left, top]
    return part, moved
