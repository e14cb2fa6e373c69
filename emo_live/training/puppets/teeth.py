"""The teeth that one portrait shows: their pixels, colour and lower edge. Pixels of the 512 px portrait.

Knows nothing of the head; where the portrait shows no teeth, the whites of the eyes tell how bright they would be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from emo_live.training.puppets import anatomy
from emo_live.training.puppets.view import PORTRAIT_PX
from emo_live.types import Float32, UInt8

LEAST_OPENING_PX = 7  # own teeth are used where the lips are open this far ...
LEAST_SHARE = 0.3  # ... and teeth fill this share of the opening
# A tooth against the whites of the eyes, from 45 portraits that show both.
LIGHT_OFFSET, LIGHT_FACTOR = 0.45, 0.5
TINT = np.array([1.06, 1.0, 0.94])


@dataclass(frozen=True, slots=True)
class Teeth:
    """mask: (512, 512) uint8, how much a pixel is the portrait's own upper teeth, all 0 without any; colour (3,) 0..1;
    edge_px: how far down the incisors reach, None without any."""

    mask: UInt8
    colour: Float32
    edge_px: float | None


def area(points: Float32, outline: Sequence[int]) -> UInt8:
    """(512, 512) 255 inside an outline among the face mesh points (478, 3) px, else 0."""
    picture = Image.new("L", (PORTRAIT_PX, PORTRAIT_PX))
    corners = [(float(x), float(y)) for x, y in points[list(outline), :2]]
    ImageDraw.Draw(picture).polygon(corners, fill=255)
    return np.array(picture)


def grown(mask: UInt8, side_px: int) -> UInt8:
    return np.asarray(cv2.dilate(mask, np.ones((side_px, side_px), np.uint8)), np.uint8)


def find_teeth(portrait: UInt8, points: Float32) -> Teeth:
    """portrait (512, 512, 3); points (478, 3) px of the face mesh."""
    picture = portrait.astype(np.float32) / np.float32(255)
    opening = area(points, anatomy.INNER_LIPS_OUTLINE)
    height_px = points[anatomy.INNER_LIP_BOTTOM, 1] - points[anatomy.INNER_LIP_TOP, 1]
    shown = _tooth_pixels(picture, opening > 0) if height_px >= LEAST_OPENING_PX and opening.any() else None
    if shown is None:
        return Teeth(np.zeros_like(opening), _guessed_colour(picture, points), None)
    soft = np.minimum(grown(shown.astype(np.uint8) * 255, 5), cv2.erode(opening, np.ones((3, 3), np.uint8)))
    mask = np.asarray(cv2.GaussianBlur(soft, (0, 0), 1.2), np.uint8)
    return Teeth(mask, np.median(picture[shown], axis=0).astype(np.float32), _lower_edge(shown, points))


def _guessed_colour(picture: Float32, points: Float32) -> Float32:
    """(3,) from the brightest pixels between the lids."""
    eyes = np.maximum(*(area(points, outline) for outline in anatomy.EYE_OUTLINES)) > 0
    light = picture.mean(2)
    white = picture[eyes & (light >= np.quantile(light[eyes], 0.85))].mean(0)
    tint = TINT * (1 + white / white.mean()) / 2
    return np.clip(tint * (LIGHT_OFFSET + LIGHT_FACTOR * white.mean()), 0, 0.95).astype(np.float32)


def _tooth_pixels(picture: Float32, opening: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """(512, 512) where the open mouth is bright and not red; None if that is too little to be teeth."""
    light = picture.mean(2)
    redness = (picture[..., 0] - picture[..., 1]) / (picture[..., 0] + 0.02)
    brightest = opening & (light >= np.quantile(light[opening], 0.75))
    typical_redness, typical_light = np.median(redness[brightest]), np.median(light[brightest])
    shown: NDArray[np.bool_] = opening & (redness < typical_redness + 0.09) & (light > 0.5 * typical_light)
    enough = shown.sum() >= LEAST_SHARE * opening.sum()
    return shown if enough and typical_redness <= 0.3 else None


def _lower_edge(shown: NDArray[np.bool_], points: Float32) -> float | None:
    """Row in px: the median over the columns in the middle of the mouth."""
    lips = points[list(anatomy.INNER_LIPS_OUTLINE), 0]
    middle, reach = points[anatomy.INNER_LIP_TOP, 0], 0.12 * np.ptp(lips)
    columns = shown[:, int(middle - reach) : int(middle + reach) + 1]
    columns = columns[:, columns.any(0)]
    lowest = len(columns) - 1 - columns[::-1].argmax(0)
    return float(np.median(lowest)) if lowest.size else None
