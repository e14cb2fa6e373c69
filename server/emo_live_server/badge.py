"""The visible mark in the pictures themselves: a small label in the corner, for viewers that are not our page."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from emo_live.types import AVPair, UInt8

TEXT = "AI generated"
_SHARE = 0.036  # height of the letters in the picture's
_OPACITY = 0.45


class _Taker(Protocol):
    def offer(self, pair: AVPair) -> None: ...
    async def close(self) -> Any: ...


class BadgeSink:
    """Hands every pair on with the label drawn into a copy: the arrays of a pair are shared."""

    def __init__(self, sink: _Taker) -> None:
        self._sink = sink

    def offer(self, pair: AVPair) -> None:
        self._sink.offer(replace(pair, video=with_badge(pair.video)))

    async def close(self) -> None:
        await self._sink.close()


def with_badge(video: UInt8) -> UInt8:
    """(H, W, 3) -> the same with the label at the bottom left."""
    colour, share = _label(video.shape[0])
    height, width = min(share.shape[0], video.shape[0]), min(share.shape[1], video.shape[1])
    out = video.copy()
    corner = out[-height:, :width]
    mixed = corner + (colour[:height, :width] - corner.astype(np.float32)) * share[:height, :width]
    corner[:] = mixed.astype(np.uint8)
    return out


@lru_cache(maxsize=4)
def _label(picture_height: int) -> tuple[Any, Any]:
    """(h, w, 3) float32 colour and (h, w, 1) share of it, for pictures of a height."""
    letter = max(8, round(_SHARE * picture_height))
    font, pad = ImageFont.load_default(letter), letter // 2
    left, top, right, bottom = (round(v) for v in font.getbbox(TEXT))
    image = Image.new("L", (right - left + 2 * pad, bottom - top + 2 * pad), 0)
    ImageDraw.Draw(image).text((pad - left, pad - top), TEXT, fill=255, font=font)
    letters = np.asarray(image, np.float32)[..., None] / 255
    return np.repeat(letters * 255, 3, axis=2), np.maximum(letters, _OPACITY)
