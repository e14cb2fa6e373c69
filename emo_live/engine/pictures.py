"""From motion latents to pictures: decode the flow, warp the portrait's own pixels, paint the mouth, at 256 or 512 px.

Flow is decoded at 128 px and enlarged linearly; the mouth square is always painted at the resolution of the 512 px portrait.
"""

from __future__ import annotations

import cv2
import numpy as np

from emo_live.config import TINY
from emo_live.engine.base import Backend, Prepared
from emo_live.errors import BadInputError
from emo_live.types import Float32, UInt8

PORTRAIT_SIZE = 512
FLOW_SIZE = TINY.autoencoder.flow_size
MOUTH_SIZE = TINY.autoencoder.mouth_size
_FLOW_STEP = PORTRAIT_SIZE // FLOW_SIZE


class PictureMaker:
    """size: 256 or 512. One per session: holds the portrait at that size and the sampling grid."""

    def __init__(self, backend: Backend, avatar: Prepared, size: int):
        if size not in (256, 512):
            raise BadInputError(f"size must be 256 or 512, not {size}")
        self.backend, self.avatar, self.size = backend, avatar, size
        shrink = size != PORTRAIT_SIZE
        self._portrait = (
            cv2.resize(avatar.portrait, (size, size), interpolation=cv2.INTER_AREA) if shrink else avatar.portrait
        )
        self._grid = _pixel_grid(size, size)
        x, y = avatar.mouth_origin
        self._mouth_grid = _pixel_grid(MOUTH_SIZE, MOUTH_SIZE) + np.array([x, y], np.float32)

    def make(self, latents: Float32) -> list[UInt8]:
        """(T, 16, 16, 16) -> T pictures (size, size, 3) uint8 RGB."""
        motion = self.backend.motion(self.avatar, latents)
        pictures = [self._warp(self._portrait, self._grid, flow, self.size) for flow in motion]
        warped = [self._mouth_square(picture, flow) for picture, flow in zip(pictures, motion, strict=True)]
        painted = self.backend.paint(self.avatar, _to_model(warped), self._mouth_motion(motion))
        for picture, square, paint in zip(pictures, warped, painted, strict=True):
            self._put_mouth(picture, square, paint)
        return pictures

    @staticmethod
    def _warp(portrait: UInt8, grid: Float32, motion: Float32, size: int) -> UInt8:
        flow = motion[:2].transpose(1, 2, 0) * np.float32(size / FLOW_SIZE)
        places = cv2.resize(flow, (size, size), interpolation=cv2.INTER_LINEAR) + grid
        out: UInt8 = cv2.remap(portrait, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return out

    def _mouth_square(self, picture: UInt8, motion: Float32) -> UInt8:
        """The mouth square of the warped portrait at 512 px."""
        x, y = self.avatar.mouth_origin
        if self.size == PORTRAIT_SIZE:
            return picture[y : y + MOUTH_SIZE, x : x + MOUTH_SIZE]
        # one more flow pixel on each side: enlarged exactly as the whole picture's flow is
        left, top, cells = x // _FLOW_STEP - 1, y // _FLOW_STEP - 1, MOUTH_SIZE // _FLOW_STEP + 2
        flow = motion[:2, top : top + cells, left : left + cells].transpose(1, 2, 0) * np.float32(_FLOW_STEP)
        fine = cv2.resize(flow, (cells * _FLOW_STEP,) * 2, interpolation=cv2.INTER_LINEAR)
        places = fine[_FLOW_STEP:-_FLOW_STEP, _FLOW_STEP:-_FLOW_STEP] + self._mouth_grid
        out: UInt8 = cv2.remap(self.avatar.portrait, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return out

    def _mouth_motion(self, motion: Float32) -> Float32:
        x, y = (v // _FLOW_STEP for v in self.avatar.mouth_origin)
        cells = MOUTH_SIZE // _FLOW_STEP
        return np.ascontiguousarray(motion[:, :, y : y + cells, x : x + cells])

    def _put_mouth(self, picture: UInt8, square: UInt8, paint: Float32) -> None:
        colour = (paint[:3].transpose(1, 2, 0) + 1) * 127.5
        mixed = square + paint[3][..., None] * (colour - square)
        scale = PORTRAIT_SIZE // self.size
        if scale > 1:
            mixed = cv2.resize(mixed, (MOUTH_SIZE // scale,) * 2, interpolation=cv2.INTER_AREA)
        x, y = (v // scale for v in self.avatar.mouth_origin)
        side = MOUTH_SIZE // scale
        picture[y : y + side, x : x + side] = np.clip(mixed + 0.5, 0, 255)


def mouth_origin(points: np.ndarray) -> tuple[int, int]:
    """Where the painted square lies: points (478, 2) in shares of the crop -> x, y px of the 512 px portrait."""
    corners, inner = points[[61, 291]], points[[13, 14]]
    centre = np.array([corners[:, 0].mean(), np.concatenate([corners, inner])[:, 1].mean() + 0.02])
    # a margin of one flow pixel keeps the square's enlarged flow inside the picture
    low, high = _FLOW_STEP, PORTRAIT_SIZE - MOUTH_SIZE - _FLOW_STEP
    origin = np.clip(np.round(centre * PORTRAIT_SIZE - MOUTH_SIZE / 2), low, high).astype(int)
    x, y = (int(v) // _FLOW_STEP * _FLOW_STEP for v in origin)
    return x, y


def _pixel_grid(width: int, height: int) -> Float32:
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return np.stack([x, y], -1)


def _to_model(pictures: list[UInt8]) -> Float32:
    return np.stack(pictures).transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
