"""A prepared portrait: the face's crop and points, the whole picture, and how they lie on each other.

An avatar file is a zip of three stored members (avatar.json, portrait.png, picture.png) that holds data only.
Its id is a hash of everything in it, is computed anew at every load, and never depends on names or times.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from emo_live.avatar_file import is_avatar_file, read_avatar_file, write_avatar_file
from emo_live.face.crop import CROP_PX, crop_face
from emo_live.face.portrait import PictureSource, load_picture
from emo_live.face.rules import choose_face
from emo_live.types import Box, Float32, UInt8

if TYPE_CHECKING:
    from emo_live.face.landmarker import FaceFinder

N_LANDMARKS = 478
_ID_SALT = b"emo-live avatar 1"
# Points are kept to 1/20 px of the crop, so that the last bits of a net's arithmetic do not make another avatar.
_LANDMARK_DECIMALS = 4

# fmt: off
_LIPS = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)
_LEFT_IN_PICTURE_EYE = (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246)
_RIGHT_IN_PICTURE_EYE = (263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466)
# fmt: on


@dataclass(frozen=True, slots=True, eq=False)
class Avatar:
    """A portrait ready to be animated. Arrays are read-only; equal ids mean equal avatars.

    portrait: (512, 512, 3) uint8 RGB, the crop. landmarks: (478, 2) float32, MediaPipe mesh points in shares of the
    crop (0..1; x to the right, y down). picture: (H, W, 3) uint8 RGB, the whole picture. crop_to_picture: (2, 3)
    float64 affine from 512-crop px to picture px, pixel centres at whole numbers. id: hex sha256 of all that.
    """

    portrait: UInt8 = field(repr=False)
    landmarks: Float32 = field(repr=False)
    picture: UInt8 = field(repr=False)
    crop_to_picture: NDArray[np.float64] = field(repr=False)
    id: str = field(init=False)

    def __post_init__(self) -> None:
        for name, dtype in (
            ("portrait", np.uint8),
            ("landmarks", np.float32),
            ("picture", np.uint8),
            ("crop_to_picture", np.float64),
        ):
            own = np.array(getattr(self, name), dtype=dtype, order="C")
            own.flags.writeable = False
            object.__setattr__(self, name, own)
        shapes = (self.portrait.shape, self.landmarks.shape, self.picture.shape[2:], self.crop_to_picture.shape)
        assert shapes == ((CROP_PX, CROP_PX, 3), (N_LANDMARKS, 2), (3,), (2, 3)), f"wrong array shapes {shapes}"
        object.__setattr__(self, "id", self._hash())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Avatar) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    @classmethod
    async def from_image(cls, image: PictureSource, *, largest_face: bool = False) -> Avatar:
        """As `prepare`, in a thread: the event loop stays free."""
        return await asyncio.to_thread(cls.prepare, image, largest_face=largest_face)

    @classmethod
    def prepare(cls, image: PictureSource, *, largest_face: bool = False) -> Avatar:
        """Find the face in a picture and crop it.

        image: path, file bytes, Pillow image or array (see face.portrait.load_picture). largest_face: of several
        faces take the tallest. Raises BadInputError: not a picture, no face, several, too small, cut off, profile.
        """
        picture = load_picture(image)
        faces = _finder().find(picture)
        face = choose_face(faces, picture.shape[1], picture.shape[0], largest_face=largest_face)
        crop = crop_face(picture, face.points)
        return cls(crop.portrait, np.round(crop.landmarks, _LANDMARK_DECIMALS), picture, crop.crop_to_picture)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, largest_face: bool = False) -> Avatar:
        """Read an avatar file or a picture, told apart by their content. Raises BadInputError."""
        return cls.load(path) if is_avatar_file(path) else cls.prepare(path, largest_face=largest_face)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Avatar:
        """Read an avatar file. Raises BadInputError if it is corrupt, altered, or of another version."""
        stored = read_avatar_file(path)
        avatar = cls(stored.portrait, stored.landmarks, stored.picture, stored.crop_to_picture)
        stored.check_id(avatar.id)
        return avatar

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the avatar (usual suffix: .avatar), whole or not at all.

        Raises BadInputError if the file exists (unless overwrite) or cannot be written.
        """
        write_avatar_file(
            path, self.id, self.portrait, self.landmarks, self.picture, self.crop_to_picture, overwrite=overwrite
        )

    @property
    def mouth_box(self) -> Box:
        """Around the outer lips, in shares of the crop (0..1)."""
        return _box_around(self.landmarks[list(_LIPS)])

    @property
    def eyes_boxes(self) -> tuple[Box, Box]:
        """Around the lids of each eye, in shares of the crop; the eye on the left of the picture first."""
        left, right = list(_LEFT_IN_PICTURE_EYE), list(_RIGHT_IN_PICTURE_EYE)
        return _box_around(self.landmarks[left]), _box_around(self.landmarks[right])

    @property
    def face_box(self) -> Box:
        """Around all points (forehead to chin, without hair and ears), in shares of the crop."""
        return _box_around(self.landmarks)

    def _hash(self) -> str:
        digest = hashlib.sha256(_ID_SALT)
        for array in (self.portrait, self.landmarks, self.picture, self.crop_to_picture):
            digest.update(f"{array.shape}".encode())
            digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
        return digest.hexdigest()


@lru_cache(maxsize=1)
def _finder() -> FaceFinder:
    from emo_live.face.landmarker import FaceFinder

    return FaceFinder(threads=1)


def _box_around(points: Float32) -> Box:
    low, high = points.min(axis=0), points.max(axis=0)
    return Box(float(low[0]), float(low[1]), float(high[0]), float(high[1]))
