"""Where the face is, and where the sound moves a picture (whole, face, lips): Hallo's and EchoMimic's masks.

Boxes around the points of face and lips, blurred at 64 px as Hallo's are (arXiv 2406.08801, section 3.2; the steps
and their roundings: tests/golden), so that a trained model sees what it was trained on. numpy and Pillow only.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image

from emo_live.config import EmoConfig
from emo_live.engine.locator_mask import FACE, LIPS
from emo_live.errors import BadInputError
from emo_live.types import Float32, UInt8

MaskLevels = tuple[tuple[Float32, Float32, Float32], ...]  # per level full, face, lip: (1, h w) in 0..1
BoxPx = tuple[int, int, int, int]  # left, top, right, bottom; the last two are exclusive

LATENT_PX = 8  # px of the picture in one place of the latents
_MASK_PX = 64
_FACE_SCALE, _LIP_SCALE = 1.2, 2.0
_FACE_KERNEL, _LIP_KERNEL = 51, 31
_ONE = 256  # weights of the blur are in parts of it
_ECHOMIMIC_DILATION = 0.1  # of the box's side, on every side


def face_regions(points: np.ndarray, config: EmoConfig, size_px: int) -> tuple[Float32, MaskLevels]:
    """points: (478, 2) in shares of the crop -> what LatentEmo.prepare takes as region, (1, C, H, W), and as masks.

    size_px: H = W, a multiple of 64. Masks: per level of the Backbone; none where the size has no audio modules.
    Points may lie outside the crop. Raises BadInputError for other sizes.
    """
    levels = len(config.backbone.block_channels)
    if size_px <= 0 or size_px % (LATENT_PX << (levels - 1)):
        raise BadInputError(f"the size must be a multiple of {LATENT_PX << (levels - 1)} px, not {size_px}")
    assert points.shape == (478, 2), "face regions want the 478 points of a face mesh"
    channels = config.locator.in_channels
    outline = np.asarray(points, np.float64) * size_px
    if config.backbone.audio is None:
        return _filled(dilated_box(outline[list(FACE)], size_px), size_px, channels), ()
    face = scaled_box(outline[list(FACE)], _FACE_SCALE, size_px)
    lip = scaled_box(outline[list(LIPS)], _LIP_SCALE, size_px)
    parts = separated(blurred_box(face, size_px, _FACE_KERNEL), blurred_box(lip, size_px, _LIP_KERNEL))
    sides = [size_px // LATENT_PX >> level for level in range(levels)]
    return _filled(face, size_px, channels), mask_levels(parts, sides)


def scaled_box(outline: np.ndarray, scale: float, size_px: int) -> BoxPx:
    """(N, 2) px -> their box, `scale` times as large about its centre, then moved into the picture, cut if too large.

    Rounded where Hallo rounds: the outline to whole px, centre and half sides down.
    """
    low, high = np.rint(outline.min(0)), np.rint(outline.max(0))
    centre, half = (low + high) // 2, (high - low) * scale // 2
    start, end = centre - half, centre + half
    for beyond in (np.maximum(-start, 0), -np.maximum(end - size_px, 0)):
        start, end = start + beyond, end + beyond
    (left, top), (right, bottom) = np.clip(start, 0, size_px).astype(int), np.clip(end, 0, size_px).astype(int)
    return int(left), int(top), int(right), int(bottom)


def dilated_box(outline: np.ndarray, size_px: int) -> BoxPx:
    """(N, 2) px -> their box and a tenth of its sides on every side, cut at the picture's border: EchoMimic's region.

    Published pictures have a face detector's box there, which is about as large as the outline's.
    """
    low, high = np.rint(outline.min(0)), np.rint(outline.max(0))
    more = np.floor((high - low) * _ECHOMIMIC_DILATION)
    (left, top), (right, bottom) = (np.clip(x, 0, size_px).astype(int) for x in (low - more, high + more))
    return int(left), int(top), int(right), int(bottom)


def _filled(box: BoxPx, size_px: int, channels: int) -> Float32:
    left, top, right, bottom = box
    region = np.zeros((1, channels, size_px, size_px), np.float32)
    region[:, :, top:bottom, left:right] = 1
    return region


def blurred_box(box: BoxPx, size_px: int, kernel: int) -> UInt8:
    """The filled box at 64 px, blurred by `kernel` px, spread to 0..255: (64, 64). A box without an edge is all 255."""
    left, top, right, bottom = box
    covers = []
    for start, end in ((left, right), (top, bottom)):
        line = np.zeros(size_px)
        line[start:end] = 1
        covers.append(_between_centres(line))
    small = np.rint(255 * np.outer(covers[1], covers[0])).astype(np.int64)
    weights = _blur(kernel)
    soft = (weights @ small @ weights.T + _ONE**2 // 2) // _ONE**2
    low, high = int(soft.min()), int(soft.max())
    if low == high:  # fills the picture: Hallo's spreading would take it for empty
        return np.full((_MASK_PX, _MASK_PX), 255, np.uint8)
    scale = 255 / (high - low)
    spread: UInt8 = np.rint(soft * scale - low * scale).astype(np.uint8)
    return spread


def _between_centres(line: np.ndarray) -> np.ndarray:
    """(S,) -> (64,): linear between the two nearest centres, however far the samples are apart (as OpenCV resizes)."""
    places = np.clip((np.arange(_MASK_PX) + 0.5) * (len(line) / _MASK_PX) - 0.5, 0, len(line) - 1)
    cover: np.ndarray = np.interp(places, np.arange(len(line)), line)
    return cover


@cache
def _blur(kernel: int) -> np.ndarray:
    """(64, 64) whole numbers, in parts of _ONE: a Gaussian blur along one side, mirrored about the outermost px.

    Hallo's masks come from OpenCV, which blurs bytes with weights of 8 bits; what rounding one tap leaves goes to the
    next one, from the ends to the middle. Weights this coarse move the result by up to 2 of 255.
    """
    sigma = 0.3 * ((kernel - 1) * 0.5 - 1) + 0.8
    reach = kernel // 2
    exact = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    exact *= _ONE / exact.sum()
    taps, left_over = np.zeros(kernel, np.int64), 0.0
    for i in range(reach):
        wanted = exact[i] + left_over
        taps[i] = taps[-1 - i] = np.rint(wanted)
        left_over = wanted - taps[i]
    taps[reach] = _ONE - taps.sum()
    weights = np.zeros((_MASK_PX, _MASK_PX), np.int64)
    rows = np.arange(_MASK_PX)
    for i, tap in enumerate(taps):
        places = np.abs(rows + i - reach)
        weights[rows, np.where(places >= _MASK_PX, 2 * (_MASK_PX - 1) - places, places)] += tap
    return weights


def separated(face: UInt8, lip: UInt8) -> tuple[UInt8, UInt8, UInt8]:
    """Blurred face and lips, each (64, 64) -> background, face without lips, lips. The background is cut down to whole
    steps, so that it is one less than the rest in some places: Hallo's was."""
    background = ((1 - face / 255.0) * 255).astype(np.uint8)
    return background, np.maximum(face.astype(np.int16) - lip, 0).astype(np.uint8), lip


def mask_levels(parts: tuple[UInt8, ...], sides: list[int]) -> MaskLevels:
    """(64, 64) each -> for every side their averages (1, side * side) in 0..1."""

    def level(part: UInt8, side: int) -> Float32:
        small = Image.fromarray(part).resize((side, side), Image.Resampling.BILINEAR)
        return np.asarray(small, np.float32).reshape(1, -1) / np.float32(255)

    full, face, lip = ([level(part, side) for side in sides] for part in parts)
    return tuple(zip(full, face, lip, strict=True))
