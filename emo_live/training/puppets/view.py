"""Crops: from pixels of the 512 px portrait to shares of the picture that is drawn.

Knows nothing of heads. A picture is the portrait enlarged by OVERSCAN about its centre, so that its moving border stays
out of sight; a View cuts a square out of that picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from emo_live.types import Float32, UInt8

PORTRAIT_PX = 512
OVERSCAN = 1.03


@dataclass(frozen=True, slots=True)
class View:
    """What is at the share p (0..1) of the whole picture appears at (p - (left, top)) * scale."""

    scale: float = 1.0
    left: float = 0.0
    top: float = 0.0

    @classmethod
    def square(cls, origin_px: tuple[float, float], side_px: float) -> View:
        """The square of a 512 px picture with this top left corner (x, y) and this side."""
        return cls(PORTRAIT_PX / side_px, origin_px[0] / PORTRAIT_PX, origin_px[1] / PORTRAIT_PX)

    def shares(self, points_px: Float32) -> Float32:
        """(N, 2) portrait px -> (N, 2) shares of the view's side."""
        factor, shift = self._affine()
        return points_px * factor + shift

    def _affine(self) -> tuple[np.float32, Float32]:
        """Factor and shift (2,) that take portrait px to shares."""
        margin = (OVERSCAN - 1) / 2
        shift = -self.scale * (np.array([self.left, self.top]) + margin)
        return np.float32(OVERSCAN * self.scale / PORTRAIT_PX), shift.astype(np.float32)

    def crop(self, portrait: UInt8, size: int) -> UInt8:
        """(512, 512, 3) -> (size, size, 3) the unmoved portrait as this view shows it; its border goes on for ever."""
        factor, shift = self._affine()
        side_px, (x, y) = 1 / float(factor), (-shift / factor).tolist()
        beyond = max(0.0, -x, -y, x + side_px - PORTRAIT_PX, y + side_px - PORTRAIT_PX)
        pad = int(np.ceil(beyond)) + 8 if beyond > 0 else 0  # 8: what the resampling filter reads
        if pad:
            portrait = np.asarray(cv2.copyMakeBorder(portrait, pad, pad, pad, pad, cv2.BORDER_REPLICATE), np.uint8)
        box = (x + pad, y + pad, x + pad + side_px, y + pad + side_px)
        return np.asarray(Image.fromarray(portrait).resize((size, size), Image.Resampling.LANCZOS, box))
