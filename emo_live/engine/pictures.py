"""From motion latents to pictures: decode the flow, fold the lids, move the portrait's own pixels, paint the mouth.

Flow is decoded at 128 px and enlarged linearly; the mouth is always painted at the resolution of the 512 px portrait. A
canvas puts both on a square of 256 or 512 px, or on the whole picture.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from emo_live.config import TINY
from emo_live.engine.base import Backend, Prepared
from emo_live.engine.limits import TINY_LIMITS
from emo_live.errors import EngineError
from emo_live.media.image import FullFrame
from emo_live.media.lids import LidFold
from emo_live.media.warp import Mover, enlarge
from emo_live.types import Float32, UInt8

PORTRAIT_SIZE = 512
FLOW_SIZE = TINY.autoencoder.flow_size
MOUTH_SIZE = TINY.autoencoder.mouth_size
_FLOW_STEP = PORTRAIT_SIZE // FLOW_SIZE
_REACH_PX = 64  # from how far outside the mouth's square its pixels may come


class PictureMaker:
    """One per session. size: 256 or 512, the square's side; full_frame: the whole picture instead, at its own size."""

    def __init__(self, backend: Backend, avatar: Prepared, size: int, *, full_frame: bool = False):
        TINY_LIMITS.check_size(size)
        self.backend, self.avatar = backend, avatar
        self._canvas = _Whole(avatar) if full_frame else _Square(avatar, size)
        self.shape = self._canvas.shape
        self._mouth = _mouth_mover(avatar)

    def make(self, latents: Float32, lids: Float32 | None = None) -> list[UInt8]:
        """(T, 16, 16, 16), (T, 2) how far left and right lid are closed (None: open) -> T pictures (H, W, 3) uint8."""
        motion = self.backend.motion(self.avatar, latents)
        if not np.isfinite(motion).all():
            raise EngineError("the model gave motion that is not a number: try another seed, and report this")
        x, y = (v // _FLOW_STEP for v in self.avatar.mouth_origin)
        cells = MOUTH_SIZE // _FLOW_STEP
        squares = [self._move_mouth(flow, x, y, cells) for flow in motion[:, :2]]
        painted = self.backend.paint(
            self.avatar, _to_model(squares), np.ascontiguousarray(motion[:, :, y : y + cells, x : x + cells])
        )
        lids = np.zeros((len(latents), 2), np.float32) if lids is None else lids
        return [self._canvas.draw(*frame) for frame in zip(motion[:, :2], squares, painted, lids, strict=True)]

    def _move_mouth(self, flow: Float32, x: int, y: int, cells: int) -> UInt8:
        """The mouth's square (144, 144, 3) of the moved portrait at 512 px."""
        # One more flow pixel on each side: enlarged exactly as the whole picture's flow is.
        around = flow[:, y - 1 : y + cells + 1, x - 1 : x + cells + 1] * np.float32(_FLOW_STEP)
        side = (cells + 2) * _FLOW_STEP
        fine = enlarge(around, side, side)
        return self._mouth(fine[:, _FLOW_STEP:-_FLOW_STEP, _FLOW_STEP:-_FLOW_STEP])


class _Square:
    """The crop as a canvas of 256 or 512 px."""

    def __init__(self, avatar: Prepared, size: int):
        self.shape = (size, size)
        self._scale = PORTRAIT_SIZE // size
        self._mover = Mover(_reduced(avatar.portrait, self._scale))
        self._lids = LidFold(avatar.avatar.landmarks, size)
        self._origin = avatar.mouth_origin

    def draw(self, flow: Float32, square: UInt8, paint: Float32, lids: Float32) -> UInt8:
        """flow: (2, 128, 128) px of 128; square: (144, 144, 3), the moved mouth at 512 px; paint: (4, 144, 144)."""
        size, scale = self.shape[0], self._scale
        fine = enlarge(flow * np.float32(size / FLOW_SIZE), size, size)
        self._lids(fine, lids)
        picture = self._mover(fine)
        colour = (paint[:3].transpose(1, 2, 0) + 1) * np.float32(127.5)
        mixed = np.clip(square + paint[3][:, :, None] * (colour - square) + np.float32(0.5), 0, 255).astype(np.uint8)
        x, y = (v // scale for v in self._origin)
        side = MOUTH_SIZE // scale
        picture[y : y + side, x : x + side] = _reduced(mixed, scale)
        return picture


class _Whole:
    """The whole picture as a canvas."""

    def __init__(self, avatar: Prepared):
        self._frame = FullFrame(avatar.avatar, avatar.mouth_origin, MOUTH_SIZE)
        self.shape = self._frame.shape

    def draw(self, flow: Float32, square: UInt8, paint: Float32, lids: Float32) -> UInt8:
        """As `_Square.draw`, without the square: the mouth is moved at the picture's own resolution."""
        return self._frame.draw(flow, paint, lids)


def mouth_origin(points: np.ndarray) -> tuple[int, int]:
    """Where the painted square lies: points (478, 2) in shares of the crop -> x, y px of the 512 px portrait."""
    corners, inner = points[[61, 291]], points[[13, 14]]
    centre = np.array([corners[:, 0].mean(), np.concatenate([corners, inner])[:, 1].mean() + 0.02])
    # a margin of one flow pixel keeps the square's enlarged flow inside the picture
    low, high = _FLOW_STEP, PORTRAIT_SIZE - MOUTH_SIZE - _FLOW_STEP
    origin = np.clip(np.round(centre * PORTRAIT_SIZE - MOUTH_SIZE / 2), low, high).astype(int)
    x, y = (int(v) // _FLOW_STEP * _FLOW_STEP for v in origin)
    return x, y


def _mouth_mover(avatar: Prepared) -> Mover:
    x, y = avatar.mouth_origin
    left, top = max(0, x - _REACH_PX), max(0, y - _REACH_PX)
    around = avatar.portrait[top : y + MOUTH_SIZE + _REACH_PX, left : x + MOUTH_SIZE + _REACH_PX]
    return Mover(np.ascontiguousarray(around), (y - top, x - left, MOUTH_SIZE, MOUTH_SIZE))


def _reduced(picture: UInt8, scale: int) -> UInt8:
    """Averages blocks of scale x scale px."""
    return picture if scale == 1 else np.asarray(Image.fromarray(picture).reduce(scale), dtype=np.uint8)


def _to_model(pictures: list[UInt8]) -> Float32:
    return np.stack(pictures).transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
