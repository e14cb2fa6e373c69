"""Reads and writes avatar files: a zip of avatar.json, portrait.png and picture.png, all stored uncompressed.

Data only: nothing in a file is ever executed, unpacked to disk, or trusted about its own size. Every refusal is a
BadInputError. Knows nothing of faces.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emo_live.errors import BadInputError
from emo_live.face.crop import CROP_PX
from emo_live.face.portrait import MAX_SIDE_PX, MIN_SIDE_PX, read_limited
from emo_live.types import Float32, UInt8

VERSION = 1
SUFFIX = ".avatar"
_FORMAT = "emo-live avatar"
_JSON, _PORTRAIT, _PICTURE = "avatar.json", "portrait.png", "picture.png"
# A PNG of noise is a little larger than its pixels.
_LIMIT_BYTES = {_JSON: 100_000, _PORTRAIT: 1_000_000, _PICTURE: 55_000_000}
_MAX_FILE_BYTES = sum(_LIMIT_BYTES.values()) + 10_000
_ZIP_START = b"PK\x03\x04"
_KEYS = {"format", "version", "id", "landmarks", "crop_to_picture"}
_ENROLL_AGAIN = "make it again from the picture with `emo-live enroll`"


@dataclass(frozen=True, slots=True)
class StoredAvatar:
    """What a file holds, checked for shape and sense; `check_id` is still to be asked."""

    name: str
    id: str
    portrait: UInt8
    landmarks: Float32
    picture: UInt8
    crop_to_picture: NDArray[np.float64]

    def check_id(self, computed: str) -> None:
        """Raise BadInputError if the content does not have the id that the file claims."""
        if self.id != computed:
            _refuse(self.name, "its content does not match its id")


def is_avatar_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file starts like an avatar file. False if it cannot be read: whoever reads it next says why."""
    try:
        if not Path(path).is_file():
            return False
        with open(path, "rb") as stream:
            return stream.read(len(_ZIP_START)) == _ZIP_START
    except (OSError, ValueError):
        return False


def write_avatar_file(
    path: str | os.PathLike[str],
    avatar_id: str,
    portrait: UInt8,
    landmarks: Float32,
    picture: UInt8,
    crop_to_picture: NDArray[np.float64],
    *,
    overwrite: bool,
) -> None:
    """Write one avatar file, whole or not at all; the same avatar gives the same bytes."""
    target = Path(path)
    if target.is_dir():
        raise BadInputError(f"'{target}' is a folder: give the name of a file, such as me{SUFFIX}")
    if target.exists() and not overwrite:
        raise BadInputError(f"'{target}' exists already: choose another name or allow overwriting (--overwrite)")
    header = {
        "format": _FORMAT,
        "version": VERSION,
        "id": avatar_id,
        # repr of a float32 has the fewest digits that give the same float32 back
        "landmarks": [[float(str(x)), float(str(y))] for x, y in landmarks],
        "crop_to_picture": crop_to_picture.tolist(),
    }
    members = {_JSON: json.dumps(header).encode(), _PORTRAIT: _to_png(portrait), _PICTURE: _to_png(picture)}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)  # ZipInfo's own date is fixed: 1980
    try:
        _replace(target, buffer.getvalue())
    except OSError as error:
        raise BadInputError(f"'{target}' cannot be written ({error.strerror}): choose another place") from error


def read_avatar_file(path: str | os.PathLike[str]) -> StoredAvatar:
    """Read and check one avatar file; raises BadInputError."""
    name = str(Path(path))
    data = read_limited(path, _MAX_FILE_BYTES, "avatar")
    if not data.startswith(_ZIP_START):
        raise BadInputError(f"'{name}' is not an avatar file: {_ENROLL_AGAIN}")
    members = _unzip(name, data)
    header = _parse_header(name, members[_JSON])
    landmarks = _numbers(name, header["landmarks"], (478, 2), "landmarks")
    affine = _numbers(name, header["crop_to_picture"], (2, 3), "affine")
    if np.abs(landmarks - 0.5).max() > 1.5:
        _refuse(name, "its landmarks lie far outside the crop")
    portrait = _from_png(name, members[_PORTRAIT], CROP_PX, CROP_PX)
    picture = _from_png(name, members[_PICTURE], MIN_SIDE_PX, MAX_SIDE_PX)
    _check_affine(name, affine, picture)
    return StoredAvatar(name, header["id"], portrait, landmarks.astype(np.float32), picture, affine)


def _refuse(name: str, why: str) -> NoReturn:
    raise BadInputError(f"the avatar file '{name}' is damaged or was altered ({why}): {_ENROLL_AGAIN}")


def _unzip(name: str, data: bytes) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            if sorted(info.filename for info in infos) != sorted(_LIMIT_BYTES):
                _refuse(name, "it does not hold the three parts of an avatar")
            for info in infos:
                stored = info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size
                if not stored or info.file_size > _LIMIT_BYTES[info.filename]:
                    _refuse(name, f"{info.filename} is compressed or too large")
                members[info.filename] = archive.read(info)
    except BadInputError:
        raise
    except Exception as error:  # zipfile raises BadZipFile, RuntimeError, struct.error, ... on crafted files
        raise BadInputError(f"the avatar file '{name}' is damaged: {_ENROLL_AGAIN}") from error
    return members


def _parse_header(name: str, data: bytes) -> dict[str, Any]:
    try:
        header = json.loads(data.decode("utf-8"), parse_constant=lambda text: _refuse(name, f"a number is {text}"))
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"the avatar file '{name}' is damaged (its header): {_ENROLL_AGAIN}") from error
    if not isinstance(header, dict) or header.get("format") != _FORMAT:
        _refuse(name, "its header is not an avatar's")
    version = header.get("version")
    if type(version) is not int or version != VERSION:
        shown = version if type(version) is int else "unknown"
        raise BadInputError(
            f"the avatar file '{name}' has version {shown}, this program reads version {VERSION}: {_ENROLL_AGAIN}"
        )
    if set(header) != _KEYS or not isinstance(header["id"], str):
        _refuse(name, "its header has other fields")
    return header


def _numbers(name: str, value: object, shape: tuple[int, int], what: str) -> NDArray[np.float64]:
    """A list of lists of finite JSON numbers -> array; booleans and strings are not numbers."""
    rows = value if isinstance(value, list) else []
    good = len(rows) == shape[0] and all(
        isinstance(row, list) and len(row) == shape[1] and all(type(v) in (int, float) for v in row) for row in rows
    )
    # Beyond 1e6 nothing is a position; a huge int would not even fit into a float.
    if not good or not all(-1e6 < v < 1e6 for row in rows for v in row):
        _refuse(name, f"its {what} are not {shape[0]} x {shape[1]} numbers")
    return np.array(rows, dtype=np.float64)


def _check_affine(name: str, affine: NDArray[np.float64], picture: UInt8) -> None:
    a, b, c, d = affine[:, :2].ravel()
    scale = float(np.hypot(a, c))
    middle = affine @ np.array([CROP_PX / 2, CROP_PX / 2, 1.0])
    height, width = picture.shape[:2]
    similar = 0.05 <= scale <= 50 and max(abs(a - d), abs(b + c)) <= 1e-6 * scale
    if not similar or not (0 <= middle[0] <= width and 0 <= middle[1] <= height):
        _refuse(name, "its crop does not lie on its picture")


def _to_png(rgb: UInt8) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()


def _from_png(name: str, data: bytes, least: int, most: int) -> UInt8:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
                # The header is checked before a single pixel is decoded.
                if image.mode != "RGB" or not all(least <= side <= most for side in image.size):
                    _refuse(name, "a picture in it has a wrong size")
                return np.array(image, dtype=np.uint8)
    except BadInputError:
        raise
    except Exception as error:  # as in face.portrait: Pillow raises nearly anything on crafted data
        raise BadInputError(f"the avatar file '{name}' is damaged (a picture in it): {_ENROLL_AGAIN}") from error


def _replace(target: Path, data: bytes) -> None:
    """Write beside the target, then rename: readers see the old file or the new one, never half of one."""
    part = target.with_name(f".{target.name}.{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
