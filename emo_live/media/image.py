"""Puts the animated face back into the whole picture, at the picture's own resolution and without a visible border.

Only the crop's region is touched. Where nothing moved, and outside the crop, the pixels are the original's own.
Crops are (S, S, 3) of any S; flows are in shares of the crop's side. Knows nothing of where crops come from.
"""

from __future__ import annotations

from typing import Any, overload

import cv2
import numpy as np
from numpy.typing import NDArray

from emo_live.avatar import Avatar
from emo_live.face.crop import CROP_PX
from emo_live.face.resample import Affine, invert, scale_of
from emo_live.types import Float32, UInt8

# Width of the fade at the crop's border, in shares of its side.
_FEATHER = 0.06
# Differences (of 255) between the crop and the still portrait that count as movement: none below, fully above.
_STILL, _MOVED = 3.0, 10.0
_MOTION_PX = 128
_SPREAD_PX = 9

# Above this size of the region the picture is moved by linear interpolation: cubic costs four times as much there.
_CUBIC_UP_TO_PX = 720


class FullFrame:
    """The whole picture of one avatar as a canvas. Not for several threads at once.

    size: (H, W) of its frames, both even (an odd picture loses its last row or column).
    """

    def __init__(self, avatar: Avatar) -> None:
        height, width = (side - side % 2 for side in avatar.picture.shape[:2])
        self.size = (height, width)
        self._picture = np.ascontiguousarray(avatar.picture[:height, :width])
        self._portrait = avatar.portrait
        self._stills: dict[int, UInt8] = {}
        self._turn = avatar.crop_to_picture[:, :2]
        self._slices = _region(avatar.crop_to_picture, height, width)
        self._own = np.ascontiguousarray(self._picture[self._slices])
        self._onto = _OntoRegion(avatar.crop_to_picture, self._slices)
        self._fade = self._onto(_fade(self._onto.side_px))
        rows, columns = np.mgrid[0 : self._own.shape[0], 0 : self._own.shape[1]].astype(np.float32)
        self._here = (columns, rows)

    @property
    def region(self) -> UInt8:
        """The original pixels (h, w, 3) of the part of the picture that the crop covers; a copy."""
        return self._own.copy()

    def compose(self, face_crop: UInt8, out: UInt8 | None = None) -> UInt8:
        """Return the (H, W, 3) picture with an animated crop (S, S, 3) put back.

        out: a frame returned earlier by this object, to be changed in place: only the region is written.
        """
        moving = _motion(face_crop, self._still(_square_size(face_crop)))
        weight = self._onto(moving) * self._fade
        result = self._own
        part = _bounds(weight)
        if part is not None:
            result = self._own.copy()
            result[part] = _blend(self._own[part], self._onto(face_crop, part), weight[part])
        return self._put(result, out)

    def warp(self, picture_region: UInt8, flow: Float32) -> UInt8:
        """Return the region (h, w, 3) moved by a backward flow, at the picture's own resolution.

        picture_region: as `region` gives it. flow: (S, S, 2) float32: the pixel at p of the crop is taken from
        p + flow[p], x then y, in shares of the crop's side. The flow fades to nothing at the crop's border.
        """
        assert picture_region.shape == self._own.shape, f"a region is {self._own.shape}, not {picture_region.shape}"
        _square_size(flow)
        scale = self._fade * np.float32(CROP_PX)
        u, v = (self._onto(np.ascontiguousarray(flow[:, :, axis], np.float32)) * scale for axis in (0, 1))
        turn = self._turn.astype(np.float32)
        x = self._here[0] + turn[0, 0] * u + turn[0, 1] * v
        y = self._here[1] + turn[1, 0] * u + turn[1, 1] * v
        kind = cv2.INTER_CUBIC if max(picture_region.shape) <= _CUBIC_UP_TO_PX else cv2.INTER_LINEAR
        return np.asarray(cv2.remap(picture_region, x, y, kind, borderMode=cv2.BORDER_REFLECT_101), dtype=np.uint8)

    def compose_warped(self, flow: Float32, mask: Float32, paint: UInt8, out: UInt8 | None = None) -> UInt8:
        """Return the (H, W, 3) picture: the original's pixels moved by the flow, with painted parts where mask < 1.

        flow: as in `warp`. mask: (S, S) float32 in 0..1, the share of moved pixels. paint: (S, S, 3) uint8, what the
        picture cannot show (the inside of the mouth, lids). The three may have different S. out: as in `compose`.
        """
        _square_size(mask)
        _square_size(paint)
        result = self.warp(self._own, flow)
        weight = self._onto(1 - np.clip(mask, 0, 1).astype(np.float32)) * self._fade
        part = _bounds(weight)
        if part is not None:
            result[part] = _blend(result[part], self._onto(paint, part), weight[part])
        return self._put(result, out)

    def _put(self, region: UInt8, out: UInt8 | None) -> UInt8:
        frame = self._picture.copy() if out is None else out
        assert frame.shape == self._picture.shape, f"out must be {self._picture.shape}, not {frame.shape}"
        frame[self._slices] = region
        return frame

    def _still(self, size: int) -> UInt8:
        if size not in self._stills:
            kind = cv2.INTER_AREA if size < CROP_PX else cv2.INTER_CUBIC
            still = cv2.resize(self._portrait, (size, size), interpolation=kind)
            self._stills[size] = np.asarray(still, dtype=np.uint8)
        return self._stills[size]


class _OntoRegion:
    """Lays anything that is square and belongs to the crop onto the region's pixels. side_px: the crop's side there.

    It is resized to the crop's side first, which is cheap; what remains is a shift, or a turn by table.
    """

    def __init__(self, affine: Affine, slices: tuple[slice, slice]) -> None:
        self.side_px = max(1, round(CROP_PX * scale_of(affine)))
        rows, columns = np.mgrid[slices].astype(np.float64)
        inverse = invert(affine)
        share = (self.side_px / CROP_PX) * (inverse[:, :2] @ np.stack([columns.ravel(), rows.ravel()]))
        share += (self.side_px / CROP_PX) * (inverse[:, 2:] + 0.5) - 0.5
        x, y = (axis.reshape(rows.shape).astype(np.float32) for axis in share)
        self._maps = cv2.convertMaps(x, y, cv2.CV_16SC2)

    @overload
    def __call__(self, square: UInt8, part: tuple[slice, slice] | None = None) -> UInt8: ...
    @overload
    def __call__(self, square: Float32, part: tuple[slice, slice] | None = None) -> Float32: ...
    def __call__(self, square: UInt8 | Float32, part: tuple[slice, slice] | None = None) -> UInt8 | Float32:
        """(S, S) or (S, S, 3) -> (h, w) or (h, w, 3) of the same type; part: only these rows and columns."""
        side = self.side_px
        resized: NDArray[Any] = square
        if square.shape[0] != side:
            kind = cv2.INTER_AREA if square.shape[0] > side else cv2.INTER_CUBIC
            if square.dtype != np.uint8:
                kind = cv2.INTER_LINEAR  # weights and flows must not overshoot
            resized = np.asarray(cv2.resize(square, (side, side), interpolation=kind))
        first, second = self._maps if part is None else (self._maps[0][part], self._maps[1][part])
        laid: NDArray[Any] = np.asarray(
            cv2.remap(resized, first, second, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        )
        return laid


def _region(affine: NDArray[np.float64], height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of the picture that the crop covers."""
    low, high = -0.5, CROP_PX - 0.5
    corners = affine @ np.array([[low, high, low, high], [low, low, high, high], [1, 1, 1, 1]])
    left, top = np.clip(np.floor(corners.min(axis=1)), 0, [width - 2, height - 2]).astype(int)
    right, bottom = np.clip(np.ceil(corners.max(axis=1)) + 1, [left + 2, top + 2], [width, height]).astype(int)
    return slice(int(top), int(bottom)), slice(int(left), int(right))


def _fade(side_px: int) -> Float32:
    """(side, side) float32: 1 inside the crop, falling smoothly to 0 at its border."""
    share = (np.arange(side_px, dtype=np.float32) + 0.5) / side_px
    t = np.clip(np.minimum(share, 1 - share) / _FEATHER - 0.05, 0, 1)
    smooth = t * t * (3 - 2 * t)
    return np.minimum(smooth[:, None], smooth[None, :]).astype(np.float32)


def _motion(crop: UInt8, still: UInt8) -> Float32:
    """(128, 128) float32 in 0..1: where the crop differs from the still portrait, with soft wide edges."""
    difference = cv2.absdiff(crop, still)
    small = cv2.resize(difference, (_MOTION_PX, _MOTION_PX), interpolation=cv2.INTER_AREA)
    strongest = cv2.max(cv2.max(small[:, :, 0], small[:, :, 1]), small[:, :, 2]).astype(np.float32)
    moved = np.clip((strongest - _STILL) / (_MOVED - _STILL), 0, 1).astype(np.float32)
    wide = cv2.dilate(moved, np.ones((_SPREAD_PX, _SPREAD_PX), np.uint8))
    return np.asarray(cv2.blur(wide, (_SPREAD_PX - 2, _SPREAD_PX - 2)), dtype=np.float32)


def _bounds(weights: Float32) -> tuple[slice, slice] | None:
    """The smallest rectangle that holds every weight above 1/500; None if there is none."""
    x, y, width, height = cv2.boundingRect((weights > 0.002).astype(np.uint8))
    return (slice(y, y + height), slice(x, x + width)) if width else None


def _blend(below: UInt8, above: UInt8, weight: Float32) -> UInt8:
    """below + weight * (above - below), rounded. below, above: (h, w, 3) uint8; weight: (h, w) float32."""
    return np.asarray(
        cv2.blendLinear(np.ascontiguousarray(above), np.ascontiguousarray(below), weight, 1 - weight), np.uint8
    )


def _square_size(array: NDArray[np.generic]) -> int:
    assert array.ndim >= 2 and array.shape[0] == array.shape[1], f"a crop must be square, not {array.shape}"
    return int(array.shape[0])
