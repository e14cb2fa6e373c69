"""The 512 px square around a face, placed as in the training data.

The square's side is the height of the points' box / 0.543, its centre lies 2.7 % of the side above the box's centre.
A head tilted by more than 5 degrees is turned until its eyes are level. Picture px: continuous for points, pixel
centres at whole numbers for affines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from emo_live.face.resample import Affine, invert, rotated_square, sample, scale_of
from emo_live.types import Float32, UInt8

CROP_PX = 512
FACE_SHARE = 0.543
LIFT_SHARE = 0.027
MAX_TILT = 5.0
_EYE_CORNERS = (33, 263)
# Blurs of the fill beyond the picture's border, in shares of the crop, from near to far.
_FILL_BLURS = (0.006, 0.015, 0.04)


@dataclass(frozen=True, slots=True)
class Crop:
    """portrait: (512, 512, 3) uint8. landmarks: (478, 2) float32, 0..1 in the crop. affine: crop px to picture px."""

    portrait: UInt8
    landmarks: Float32
    crop_to_picture: Affine


def crop_face(picture: UInt8, points: Float32) -> Crop:
    """Cut the square around a face. picture: (H, W, 3) uint8; points: (478, 2) continuous picture px."""
    affine = crop_affine(points)
    inverse = invert(affine)
    # Points are continuous (pixel edges at whole numbers), affines count pixel centres: half a pixel apart.
    local = (points.astype(np.float64) - 0.5) @ inverse[:, :2].T + inverse[:, 2] + 0.5
    return Crop(cut(picture, affine), (local / CROP_PX).astype(np.float32), affine)


def crop_affine(points: Float32) -> Affine:
    """Affine (2, 3) from 512-crop px to picture px for the points of a face."""
    first, second = points[_EYE_CORNERS[0]], points[_EYE_CORNERS[1]]
    angle = math.atan2(float(second[1] - first[1]), float(second[0] - first[0]))
    if abs(math.degrees(angle)) <= MAX_TILT:
        angle = 0.0
    cos, sin = math.cos(angle), math.sin(angle)
    turned = points.astype(np.float64) @ np.array([[cos, -sin], [sin, cos]])  # into axes along and across the eyes
    low, high = turned.min(axis=0), turned.max(axis=0)
    side = float(high[1] - low[1]) / FACE_SHARE
    u, v = (low + high) / 2
    v -= LIFT_SHARE * side
    if angle == 0.0:
        # Whole pixels keep an untilted crop of a 512 px face free of resampling in one direction or both.
        side = float(max(1, round(side)))
        u, v = (round(float(c) - side / 2) + side / 2 for c in (u, v))
    return rotated_square((float(u * cos - v * sin), float(u * sin + v * cos)), side, angle, CROP_PX)


def cut(picture: UInt8, affine: Affine, size_px: int = CROP_PX) -> UInt8:
    """Return the (size_px, size_px, 3) uint8 square of the picture.

    What lies outside the picture continues its border pixels, more blurred the further out: shoulders and walls go
    on, and a cut head does not grow a second one, as it would in a mirror.
    """
    square = sample(picture, affine, size_px)
    outside = _distance_outside(picture, affine, size_px)
    if not outside.any():
        return square
    filled = square.astype(np.float32)
    reach = 0.0
    for sigma in _FILL_BLURS:
        # From here to the next step outwards the picture passes from the last blur to this one.
        blur = ImageFilter.GaussianBlur(sigma * size_px)
        soft = np.asarray(Image.fromarray(square).filter(blur), dtype=np.float32)
        end = reach + 2 * sigma * size_px
        strength = np.clip((outside - reach) / (end - reach), 0, 1)
        filled += strength[:, :, None] * (soft - filled)
        reach = end
    return np.asarray(filled + 0.5, dtype=np.uint8)


def _distance_outside(picture: UInt8, affine: Affine, size_px: int) -> Float32:
    """(size_px, size_px) float32: how far each output px lies outside the picture, in output px; 0 inside."""
    rows, columns = np.mgrid[0:size_px, 0:size_px].astype(np.float32)
    height, width = picture.shape[:2]
    x = affine[0, 0] * columns + affine[0, 1] * rows + affine[0, 2]
    y = affine[1, 0] * columns + affine[1, 1] * rows + affine[1, 2]
    beyond_x = np.maximum(np.maximum(-x, x - (width - 1)), 0)
    beyond_y = np.maximum(np.maximum(-y, y - (height - 1)), 0)
    return np.asarray(np.hypot(beyond_x, beyond_y) / scale_of(affine), dtype=np.float32)
