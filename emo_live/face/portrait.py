"""Any picture a user may give, as upright (H, W, 3) uint8 RGB.

Limits are checked from the header, before anything is decoded. Transparent parts lie on a plain light grey: what
hides under full transparency is often black or garbage, and a blurred copy of it would smear. Pictures with more
than 4096 px on the long side are reduced to that: it is also the largest size of a whole-picture video.
"""

from __future__ import annotations

import io
import os
import threading
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from emo_live.errors import BadInputError
from emo_live.types import UInt8

PictureSource = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.generic]

MAX_FILE_BYTES = 50_000_000
MAX_PIXELS = 64_000_000  # decoded, that is 256 MB
MAX_SIDE_PX = 4096
MIN_SIDE_PX = 64
BACKGROUND = (208, 208, 208)

# Formats that Pillow hands to other programs or system calls instead of decoding them itself.
_OUTSIDE_FORMATS = frozenset({"EPS", "WMF"})
_SAVE_AGAIN = "open it in an image program and save it again as JPEG or PNG"
_warnings_lock = threading.Lock()


def load_picture(source: PictureSource) -> UInt8:
    """Return the picture as (H, W, 3) uint8 RGB, upright, at most 4096 px on the long side.

    source: a path, the bytes of a file, a Pillow image, or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of
    uint8, uint16 or floats in 0..1. Animations give their first frame. Raises BadInputError with a line of advice.
    """
    if isinstance(source, np.ndarray):
        return _finish(_from_array(source), "the array")
    if isinstance(source, Image.Image):
        return _decode(source, "the picture")
    if isinstance(source, bytes):
        return _open(source, "the picture")
    if isinstance(source, (str, os.PathLike)):
        return _open(read_limited(source, MAX_FILE_BYTES, "picture"), f"'{os.fspath(source)}'")
    raise BadInputError(f"a portrait must be a path, bytes, a Pillow image or an array, not {type(source).__name__}")


def read_limited(path: str | os.PathLike[str], limit_bytes: int, what: str) -> bytes:
    """Return the bytes of a regular file of at most limit_bytes; `what` names it in the BadInputError raised."""
    file = Path(path)
    if "\0" in str(file):
        raise BadInputError(f"a file name cannot hold a zero byte: check the path of the {what}")
    try:
        if file.is_dir():
            raise BadInputError(f"'{file}' is a folder: give the path of a {what} file")
        if not file.exists():
            raise BadInputError(f"there is no file '{file}': check the path of the {what}")
        if not file.is_file():
            raise BadInputError(f"'{file}' is not a regular file: give the path of a {what} file")
        with file.open("rb") as stream:
            data = stream.read(limit_bytes + 1)
    except OSError as error:
        raise BadInputError(f"'{file}' cannot be read ({error.strerror}): check its name and permissions") from error
    if len(data) > limit_bytes:
        raise BadInputError(f"'{file}' is larger than {limit_bytes // 1_000_000} MB: give a smaller {what}")
    return data


def _open(data: bytes, name: str) -> UInt8:
    if not data:
        raise BadInputError(f"{name} is empty (0 bytes): give a picture file")
    if len(data) > MAX_FILE_BYTES:
        raise BadInputError(f"{name} is larger than {MAX_FILE_BYTES // 1_000_000} MB: give a smaller picture")
    try:
        # Pillow warns about large pictures and odd metadata; the limits here are our own. Filters are process-wide.
        with _warnings_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise BadInputError(_too_many_pixels(name)) from error
    except Exception as error:  # Pillow's readers raise nearly anything on data that only looks like theirs
        raise BadInputError(f"{name} is not a picture that can be read: {_SAVE_AGAIN}") from error
    with image:
        if image.format in _OUTSIDE_FORMATS:
            raise BadInputError(f"{name} is a {image.format} drawing: {_SAVE_AGAIN}")
        if MAX_SIDE_PX < max(image.size) and image.width * image.height <= MAX_PIXELS:
            image.draft(None, (MAX_SIDE_PX, MAX_SIDE_PX))  # lets JPEG skip detail that would be thrown away
        return _decode(image, name)


def _decode(image: Image.Image, name: str) -> UInt8:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadInputError(_too_many_pixels(name))
    _check_not_tiny(height, width, name)
    try:
        with _warnings_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
            rgb = _flatten(_to_eight_bits(_upright(image)))
    except BadInputError:
        raise
    except Exception as error:  # see _open
        raise BadInputError(f"{name} is truncated or damaged: {_SAVE_AGAIN}") from error
    return _finish(np.asarray(rgb, dtype=np.uint8), name)


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged metadata must not cost the picture
        return image


def _to_eight_bits(image: Image.Image) -> Image.Image:
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    top = float(values.max(initial=0.0))
    # Integers mean 16 bits unless they fit into 8; floats mean 0..1 unless they exceed it.
    white = (
        65535.0 if image.mode.startswith("I;16") or top > 255 else (1.0 if image.mode == "F" and top <= 1 else 255.0)
    )
    return Image.fromarray(np.clip(values * (255 / white) + 0.5, 0, 255).astype(np.uint8))


def _flatten(image: Image.Image) -> Image.Image:
    has_alpha = image.has_transparency_data
    colours = _to_srgb(image)
    if not has_alpha:
        return _shrink(colours.convert("RGB"))
    layered = _shrink(image.convert("RGBA"))
    if colours is not image:
        layered = Image.merge("RGBA", (*_shrink(colours.convert("RGB")).split(), layered.getchannel("A")))
    return Image.alpha_composite(Image.new("RGBA", layered.size, (*BACKGROUND, 255)), layered).convert("RGB")


def _to_srgb(image: Image.Image) -> Image.Image:
    """Follow an embedded colour profile (wide-gamut phones, print CMYK); without a usable one return the image."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK"):
        return image
    source = image.convert("RGB") if image.mode == "RGBA" else image
    try:
        embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(source, embedded, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image
    return image if converted is None else converted


def _shrink(image: Image.Image) -> Image.Image:
    if max(image.size) > MAX_SIDE_PX:
        image.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return image


def _from_array(array: NDArray[np.generic]) -> UInt8:
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise BadInputError(f"a picture array must be (H, W), (H, W, 3) or (H, W, 4), not {array.shape}")
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise BadInputError(_too_many_pixels("the array"))
    _check_not_tiny(array.shape[0], array.shape[1], "the array")
    if array.dtype == np.uint16:
        pixels = ((array.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    elif np.issubdtype(array.dtype, np.floating):
        shares = array.astype(np.float32)
        if not np.isfinite(shares).all() or shares.min() < 0 or shares.max() > 1:
            raise BadInputError("a picture array of floats must hold finite values from 0 to 1")
        pixels = (shares * 255 + np.float32(0.5)).astype(np.uint8)
    elif array.dtype == np.uint8:
        pixels = array.astype(np.uint8)
    else:
        raise BadInputError(f"a picture array must be uint8, uint16 or float in 0..1, not {array.dtype}")
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels))
    return np.asarray(_flatten(image), dtype=np.uint8)


def _finish(rgb: UInt8, name: str) -> UInt8:
    _check_not_tiny(rgb.shape[0], rgb.shape[1], name)
    return np.ascontiguousarray(rgb)


def _check_not_tiny(height: int, width: int, name: str) -> None:
    if min(height, width) < MIN_SIDE_PX:
        raise BadInputError(f"{name} is only {width} x {height} px: give one of at least 256 x 256 px")


def _too_many_pixels(name: str) -> str:
    return f"{name} has more than {MAX_PIXELS // 1_000_000} megapixels: reduce it, 4096 px on the long side is enough"
