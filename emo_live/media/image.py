"""The whole picture as a canvas: its own pixels moved around the face, the mouth painted in, no border to be seen.

Only the region of the crop is touched, and the motion fades out towards the crop's border: there, and where nothing
moves, the pixels are the original's own. Crop px are those of the 512 px portrait. Knows nothing of models.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emo_live.avatar import Avatar
from emo_live.face.crop import CROP_PX
from emo_live.face.resample import Affine, invert, scale_of
from emo_live.media.lids import LidFold
from emo_live.media.warp import Mover, enlarge
from emo_live.types import Float32, UInt8

# Width of the fade at the crop's border and at that of the painted square, in shares of their sides.
_FADE = 0.06
_MOUTH_FADE = 0.1


class FullFrame:
    """The whole picture of one avatar. shape: (H, W) of its frames. Not for several threads at once.

    mouth_origin: x, y of the painted square in crop px; mouth_px: its side.
    """

    def __init__(self, avatar: Avatar, mouth_origin: tuple[int, int], mouth_px: int) -> None:
        affine = avatar.crop_to_picture
        self.shape: tuple[int, int] = (avatar.picture.shape[0], avatar.picture.shape[1])
        self._picture = avatar.picture
        self._side = max(1, round(CROP_PX * scale_of(affine)))
        self._slices = region(affine, *self.shape)
        self._mover = Mover(np.ascontiguousarray(self._picture[self._slices]))
        self._turn = (affine[:, :2] / scale_of(affine)).astype(np.float32)
        self._places = _places(affine, self._slices, self._side)
        self._fade = _fade(self._side, _FADE).take(self._places)
        self._lids = LidFold(avatar.landmarks, self._side)
        self._mouth = _Inset(affine, mouth_origin, mouth_px, self._slices, _MOUTH_FADE)

    def draw(self, flow: Float32, paint: Float32, lids: Float32) -> UInt8:
        """Return the (H, W, 3) picture.

        flow: (2, s, s), backward flow over the crop, x then y, in px of s. paint: (4, m, m) over the painted square,
        colour in -1..1 and its share in 0..1. lids: (2,) how far left and right lid are closed, 0..1.
        """
        fine = enlarge(flow * np.float32(self._side / flow.shape[1]), self._side, self._side)
        self._lids(fine, lids)
        along, across = (axis.take(self._places) for axis in fine.reshape(2, -1))
        turn = self._turn
        moved = np.stack([turn[0, 0] * along + turn[0, 1] * across, turn[1, 0] * along + turn[1, 1] * across])
        frame = self._picture.copy()
        inside = frame[self._slices]
        inside[:] = self._mover(moved * self._fade)
        self._mouth.paint_on(inside, paint)
        return frame


class PastedCrop:
    """The whole picture of one avatar with generated pixels in the place of the crop. shape: (H, W) of its frames.

    size: side of what is pasted, in px.
    """

    def __init__(self, avatar: Avatar, size: int) -> None:
        affine = avatar.crop_to_picture.copy()
        self.shape: tuple[int, int] = (avatar.picture.shape[0], avatar.picture.shape[1])
        self._picture, self._slices = avatar.picture, region(affine, *self.shape)
        ratio = CROP_PX / size
        affine[:, 2] += affine[:, :2] @ [(ratio - 1) / 2, (ratio - 1) / 2]  # centre of its first px
        affine[:, :2] *= ratio
        self._inset = _Inset(affine, (0, 0), size, self._slices, _FADE)

    def draw(self, crop: UInt8) -> UInt8:
        """(size, size, 3) -> (H, W, 3). It fades out towards the crop's border."""
        frame = self._picture.copy()
        self._inset.lay_on(frame[self._slices], crop, np.ones(crop.shape[:2], np.float32))
        return frame


class _Inset:
    """Where a square lies in the region, and how it gets there. fade: width of its soft border, in shares of its side.

    origin: of the square, in px of `affine`, which are its own.
    """

    def __init__(
        self, affine: Affine, origin: tuple[int, int], side: int, slices: tuple[slice, slice], fade: float
    ) -> None:
        scale = scale_of(affine)
        self._side = max(1, round(side * scale))
        ratio = self._side / side
        # px of the square at the picture's scale -> picture px -> px of the region
        to_region = affine.copy()
        to_region[:, 2] += affine[:, :2] @ (np.array(origin) + 0.5 / ratio - 0.5) - [slices[1].start, slices[0].start]
        to_region[:, :2] /= ratio
        height, width = (cut.stop - cut.start for cut in slices)
        self._part = _covered(to_region, self._side, height, width)
        to_region[:, 2] -= [self._part[1].start, self._part[0].start]
        inverse = invert(to_region)
        inverse[:, 2] += 0.5 - inverse[:, :2] @ [0.5, 0.5]  # Pillow counts from the edges of pixels
        self._numbers = tuple(inverse.ravel())
        self._fade = _fade(side, fade)

    def paint_on(self, region: UInt8, paint: Float32) -> None:
        """region: (h, w, 3), changed in place. paint: as in FullFrame.draw."""
        colour = np.clip((paint[:3].transpose(1, 2, 0) + 1) * 127.5 + 0.5, 0, 255).astype(np.uint8)
        self.lay_on(region, colour, np.clip(paint[3], 0, 1))

    def lay_on(self, region: UInt8, colour: UInt8, strength: Float32) -> None:
        """region: (h, w, 3), changed in place. colour: (side, side, 3); strength: (side, side) in 0..1."""
        share = (strength * self._fade * 255 + 0.5).astype(np.uint8)
        weight = self._lay(share, Image.Resampling.BILINEAR).astype(np.float32)[:, :, None] / 255
        above = self._lay(colour, Image.Resampling.BICUBIC)
        below = region[self._part]
        below[:] = below + weight * (above.astype(np.float32) - below) + np.float32(0.5)

    def _lay(self, square: UInt8, kind: Image.Resampling) -> UInt8:
        height, width = (cut.stop - cut.start for cut in self._part)
        image = Image.fromarray(square).resize((self._side, self._side), kind)
        laid = image.transform((width, height), Image.Transform.AFFINE, self._numbers, Image.Resampling.BILINEAR)
        return np.asarray(laid, dtype=np.uint8)


def region(affine: Affine, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of a picture of height x width px that the crop covers."""
    return _covered(affine, CROP_PX, height, width)


def _covered(affine: Affine, side: int, height: int, width: int) -> tuple[slice, slice]:
    low, high = -0.5, side - 0.5
    corners = affine @ np.array([[low, high, low, high], [low, low, high, high], [1, 1, 1, 1]])
    left, top = np.clip(np.floor(corners.min(axis=1)), 0, [width - 1, height - 1]).astype(int)
    right, bottom = np.clip(np.ceil(corners.max(axis=1)) + 1, [left + 1, top + 1], [width, height]).astype(int)
    return slice(int(top), int(bottom)), slice(int(left), int(right))


def _places(affine: Affine, slices: tuple[slice, slice], side: int) -> NDArray[np.intp]:
    """(h, w): which px of the crop, enlarged to the picture's scale, lies on a px of the region; the nearest one."""
    rows, columns = np.mgrid[slices]
    inverse = invert(affine)
    crop = inverse[:, :2] @ np.stack([columns.ravel(), rows.ravel()]) + inverse[:, 2:]
    fine = np.rint((crop + 0.5) * (side / CROP_PX) - 0.5)
    # Beyond the crop its border goes on; the fade is zero there.
    x, y = np.clip(fine, 0, side - 1).astype(np.intp).reshape(2, *rows.shape)
    places: NDArray[np.intp] = y * side + x
    return places


def _fade(side: int, share: float) -> Float32:
    """(side, side) float32: 1 inside, falling smoothly to 0 at the border."""
    place = (np.arange(side, dtype=np.float32) + 0.5) / side
    t = np.clip((np.minimum(place, 1 - place) - 1 / side) / share, 0, 1)
    smooth = t * t * (3 - 2 * t)
    return np.minimum(smooth[:, None], smooth[None, :]).astype(np.float32)


def mixed(one: UInt8, other: UInt8, share: float) -> UInt8:
    """(H, W, 3) pictures: `share` of the other, the rest of the one."""
    return np.asarray(Image.blend(Image.fromarray(one), Image.fromarray(other), share), dtype=np.uint8)
