"""Moves a picture's own pixels by backward flows, fast enough for every frame. numpy and Pillow only.

A flow (2, h, w) says for each output px how far away it comes from: x, then y, px to the right and down.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emo_live.types import Float32, UInt8

# Places a px at which an enlarged copy is kept, and how many places of 4 bytes it may have: 256 x 256 px at eight,
# 1024 x 1024 px at four. Coarser than four would show as unrest in fine hair; finer costs memory that caches lack.
_FINE = ((8, 1 << 22), (4, 1 << 24))
_BAND_ROWS = 64
_LANES = (0, 16, 32)


def enlarge(field: Float32, rows: int, columns: int) -> Float32:
    """(C, h, w) -> (C, rows, columns): linear between the centres of cells, constant beyond the outermost ones."""
    wide = _along_rows(np.ascontiguousarray(field.transpose(0, 2, 1)), columns)
    return _along_rows(np.ascontiguousarray(wide.transpose(0, 2, 1)), rows)


def _along_rows(field: Float32, rows: int) -> Float32:
    have = field.shape[1]
    places = np.clip((np.arange(rows) + 0.5) * have / rows - 0.5, 0, have - 1)
    low = np.minimum(places.astype(np.intp), max(have - 2, 0))
    share = (places - low).astype(np.float32)[:, None]
    first = field.take(low, axis=1)
    out: Float32 = field.take(np.minimum(low + 1, have - 1), axis=1)
    out -= first
    out *= share
    out += first
    return out


class Mover:
    """Takes pixels of one picture (H, W, 3) uint8 from wherever a flow says; beyond its border the border goes on.

    window: (top, left, height, width) of the output in the picture; the whole picture by default. Without flow the
    pixels are the picture's own. Not for several threads at once.
    """

    def __init__(self, picture: UInt8, window: tuple[int, int, int, int] | None = None) -> None:
        top, left, height, width = window or (0, 0, *picture.shape[:2])
        self.shape = (height, width)
        self._rows = np.arange(top, top + height, dtype=np.float32)[:, None]
        self._columns = np.arange(left, left + width, dtype=np.float32)
        fine = next((n for n, most in _FINE if n * n * picture.shape[0] * picture.shape[1] <= most), None)
        self._take = _Linear(picture) if fine is None else _Enlarged(picture, fine)

    def __call__(self, flow: Float32) -> UInt8:
        """(2, height, width) float32 of the window -> (height, width, 3) uint8."""
        assert flow.shape == (2, *self.shape), f"a flow of (2, {self.shape[0]}, {self.shape[1]}) was wanted"
        out = np.empty((*self.shape, 3), np.uint8)
        for start in range(0, self.shape[0], _BAND_ROWS):
            band = slice(start, min(start + _BAND_ROWS, self.shape[0]))
            self._take(flow[0, band] + self._columns, flow[1, band] + self._rows[band], out[band])
        return out


class _Enlarged:
    """A small picture, kept enlarged by a cubic filter: a look-up is all that is left to do for a frame."""

    def __init__(self, picture: UInt8, fine: int) -> None:
        self._fine = fine
        self._height, self._width = picture.shape[:2]
        rows, self._stride = ((side - 1) * fine + 1 for side in picture.shape[:2])
        table = np.zeros((rows, self._stride, 4), np.uint8)  # R, G, B, 0 for every place 0, 1 / fine ... size - 1
        # Pillow's samples lie half a step inside its box; a frame of repeated pixels leaves room for that.
        image = Image.fromarray(np.pad(picture, ((1, 1), (1, 1), (0, 0)), mode="edge"))
        start, step = 1.5 - 0.5 / fine, 1 / fine
        for top in range(0, rows, _BAND_ROWS * fine):
            band = table[top : top + _BAND_ROWS * fine]
            box = (start, start + top * step, start + self._stride * step, start + (top + len(band)) * step)
            small = image.resize((self._stride, len(band)), Image.Resampling.BICUBIC, box=box)
            band[..., :3] = np.asarray(small)
        self._table: NDArray[np.uint32] = table.view(np.uint32).ravel()

    def __call__(self, x: Float32, y: Float32, out: UInt8) -> None:
        """x, y: (h, w) px of the picture, changed; out: (h, w, 3), written."""
        places = _steps(y, self._fine, self._height).astype(np.intp)
        places *= self._stride
        places += _steps(x, self._fine, self._width)
        # "wrap" is the mode that numpy carries out fastest; every index is inside anyway.
        channels = self._table.take(places, mode="wrap").view(np.uint8).reshape(*places.shape, 4)
        for channel in range(3):  # one strided copy a channel is five times faster than copying px of three bytes
            out[..., channel] = channels[..., channel]


class _Linear:
    """A large picture, interpolated linearly in steps of 1/16 px."""

    def __init__(self, picture: UInt8) -> None:
        self._height, self._width = picture.shape[:2]
        # A column and a row more, as neighbours of the last ones.
        padded = np.pad(picture, ((0, 1), (0, 1), (0, 0)), mode="edge").astype(np.uint64)
        packed = np.zeros(padded.shape[:2], np.uint64)
        for channel, lane in enumerate(_LANES):
            packed |= padded[..., channel] << np.uint64(lane)
        self._table: NDArray[np.uint64] = packed.ravel()

    def __call__(self, x: Float32, y: Float32, out: UInt8) -> None:
        """As `_Enlarged`."""
        columns, rows = _steps(x, 16, self._width), _steps(y, 16, self._height)
        across, down = columns & 15, rows & 15
        stride = self._width + 1
        places = (rows >> 4).astype(np.intp) * stride + (columns >> 4)
        both = across * down
        weights = (256 - 16 * (across + down) + both, 16 * across - both, 16 * down - both, both)
        # Three 16-bit lanes in one number: weights of 256 in all leave no carry between them.
        total = np.full(places.shape, sum(128 << lane for lane in _LANES), np.uint64)
        for step, weight in zip((0, 1, stride, stride + 1), weights, strict=True):
            total += self._table.take(places + step, mode="wrap") * weight.astype(np.uint64)
        lanes = total.view(np.uint16).reshape(*places.shape, 4)
        for channel in range(3):
            out[..., channel] = lanes[..., channel] >> 8


def _steps(place: Float32, fine: int, size: int) -> NDArray[np.int32]:
    """Positions in px -> whole steps of 1 / fine px inside 0 .. size - 1. Changes its argument."""
    place *= fine
    place += np.float32(0.5)
    return np.clip(place, 0, (size - 1) * fine, out=place).astype(np.int32)
