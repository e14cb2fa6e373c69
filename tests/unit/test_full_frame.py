"""The animated face returns into the whole picture: no border, no loss where nothing moves, true to size and place."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import emo_live.avatar
from emo_live.avatar import Avatar
from emo_live.engine.pictures import MOUTH_SIZE, mouth_origin
from emo_live.face.portrait import load_picture
from emo_live.face.resample import invert
from emo_live.media.image import FullFrame, region

PORTRAIT = Path(emo_live.avatar.__file__).parent / "assets" / "portraits" / "faker_male_30.jpg"
CASES = [(801, 0.0), (801, 12.0), (240, 0.0)]
STILL = np.zeros((2, 128, 128), np.float32)
NO_PAINT = np.zeros((4, MOUTH_SIZE, MOUTH_SIZE), np.float32)
OPEN = np.zeros(2, np.float32)


@lru_cache
def photo(side: int, tilt: float) -> Avatar:
    """A portrait of side px on a larger wall of odd size, tilted by degrees."""
    face = np.asarray(Image.fromarray(load_picture(PORTRAIT)).resize((side, side), Image.Resampling.BICUBIC))
    wall = np.full((side + 61, side + 321, 3), (190, 185, 180), np.uint8)
    wall[20 : 20 + side, 150 : 150 + side] = face
    # Fine texture that a 512 px crop of it cannot hold.
    wall = np.clip(wall.astype(int) + np.random.default_rng(0).integers(-6, 7, wall.shape), 0, 255).astype(np.uint8)
    turned = Image.fromarray(wall).rotate(tilt, Image.Resampling.BICUBIC, fillcolor=(190, 185, 180))
    return Avatar.prepare(np.asarray(turned))


def frame_of(avatar: Avatar) -> FullFrame:
    return FullFrame(avatar, mouth_origin(avatar.landmarks), MOUTH_SIZE)


def inside_crop(avatar: Avatar, margin: float = 2.0) -> np.ndarray:
    """Pixels of the picture (H, W) bool that lie inside the crop."""
    rows, columns = np.mgrid[0 : avatar.picture.shape[0], 0 : avatar.picture.shape[1]]
    inverse = invert(avatar.crop_to_picture)
    u = inverse[0, 0] * columns + inverse[0, 1] * rows + inverse[0, 2]
    v = inverse[1, 0] * columns + inverse[1, 1] * rows + inverse[1, 2]
    return (u > -margin) & (v > -margin) & (u < 511 + margin) & (v < 511 + margin)


def with_picture(avatar: Avatar, picture: np.ndarray) -> Avatar:
    return Avatar(avatar.portrait, avatar.landmarks, picture, avatar.crop_to_picture)


@pytest.mark.parametrize(("side", "tilt"), CASES)
def test_a_face_at_rest_leaves_every_pixel(side: int, tilt: float) -> None:
    avatar = photo(side, tilt)
    frame = frame_of(avatar)
    assert frame.shape == avatar.picture.shape[:2]
    np.testing.assert_array_equal(frame.draw(STILL, NO_PAINT, OPEN), avatar.picture)


@pytest.mark.parametrize(("side", "tilt"), CASES)
def test_flow_moves_along_the_crop_s_own_axes(side: int, tilt: float) -> None:
    """Backward flow of 2 % to the right and 1 % up: a mark shows up as far to the left and below, in crop terms."""
    avatar = photo(side, tilt)
    column, row = (round(value) for value in avatar.crop_to_picture @ [255.5, 255.5, 1])
    y, x = np.mgrid[0 : avatar.picture.shape[0], 0 : avatar.picture.shape[1]]
    spot = (255 * np.exp(-((x - column) ** 2 + (y - row) ** 2) / 18)).astype(np.uint8)
    frame = frame_of(with_picture(avatar, np.repeat(spot[:, :, None], 3, axis=2)))
    flow = np.broadcast_to(np.array([0.02, -0.01], np.float32)[:, None, None] * 128, (2, 128, 128))
    moved = frame.draw(np.ascontiguousarray(flow), NO_PAINT, OPEN)[:, :, 0].astype(float)
    centre = np.array([(moved * x).sum(), (moved * y).sum()]) / moved.sum()
    expected = avatar.crop_to_picture[:, :2] @ [-0.02 * 512, 0.01 * 512]
    np.testing.assert_allclose(centre - (column, row), expected, atol=0.3)


@pytest.mark.parametrize(("side", "tilt"), CASES)
def test_paint_arrives_at_its_place_and_only_there(side: int, tilt: float) -> None:
    avatar = photo(side, tilt)
    paint = NO_PAINT.copy()
    middle = slice(MOUTH_SIZE // 2 - 24, MOUTH_SIZE // 2 + 24)
    paint[:, middle, middle] = np.array([1, -1, 1, 1], np.float32)[:, None, None]
    result = frame_of(avatar).draw(STILL, paint, OPEN)
    x, y = (value + (MOUTH_SIZE - 1) / 2 for value in mouth_origin(avatar.landmarks))
    column, row = avatar.crop_to_picture @ [x, y, 1]
    assert np.abs(result[round(row), round(column)].astype(int) - (255, 0, 255)).max() < 12
    magenta = np.abs(result.astype(int) - (255, 0, 255)).max(axis=2) < 60
    assert np.hypot(*(np.argwhere(magenta).mean(axis=0) - (row, column))) < 0.7
    scale = np.hypot(*avatar.crop_to_picture[:, 0])
    assert magenta.sum() == pytest.approx((48 * scale) ** 2, rel=0.12)
    rows, columns = np.nonzero((result != avatar.picture).any(axis=2))
    assert np.hypot(rows - row, columns - column).max() < 40 * scale


@pytest.mark.parametrize("tilt", [0.0, 12.0])
def test_no_border_is_visible(tilt: float) -> None:
    """Motion and paint everywhere, on soft waves: the change has no step anywhere, and nothing is changed elsewhere."""
    real = photo(801, tilt)
    rows, columns = np.mgrid[0 : real.picture.shape[0], 0 : real.picture.shape[1]]
    waves = (128 + 60 * np.sin(columns / 40) + 40 * np.cos(rows / 50)).astype(np.uint8)
    plain = with_picture(real, np.repeat(waves[:, :, None], 3, axis=2))
    flow = np.full((2, 128, 128), 4, np.float32)
    paint = np.zeros_like(NO_PAINT)
    paint[3] = 1
    result = frame_of(plain).draw(flow, paint, OPEN).astype(int)[:, :, 0]
    gain = result - plain.picture[:, :, 0]
    assert np.abs(gain).max() > 60
    assert max(int(np.abs(np.diff(gain, axis=axis)).max()) for axis in (0, 1)) <= 14
    assert not gain[~inside_crop(plain)].any()


def test_frames_do_not_share_pixels() -> None:
    avatar = photo(801, 0.0)
    frame = frame_of(avatar)
    moved = frame.draw(STILL + 3, NO_PAINT, OPEN)
    kept = moved.copy()
    np.testing.assert_array_equal(frame.draw(STILL, NO_PAINT, OPEN), avatar.picture)
    np.testing.assert_array_equal(moved, kept)


def test_moved_parts_keep_the_picture_s_own_detail() -> None:
    avatar = photo(801, 0.0)
    bump = np.exp(-(np.sum((np.mgrid[0:128, 0:128] - 64.0) ** 2, axis=0)) / 500).astype(np.float32)
    result = frame_of(avatar).draw(np.stack([2.5 * bump, -2.5 * bump]), NO_PAINT, OPEN)
    column, row = (round(value) for value in avatar.crop_to_picture @ [256, 180, 1])
    window = slice(row - 20, row + 20), slice(column - 20, column + 20)

    def grain(pixels: np.ndarray) -> float:
        return float(np.diff(pixels[window].astype(float), n=2, axis=1).std())

    assert not np.array_equal(result[window], avatar.picture[window])
    assert grain(result) > 0.5 * grain(avatar.picture)


def test_a_crop_that_leaves_the_picture() -> None:
    whole = photo(801, 0.0)
    cut = Avatar.prepare(np.ascontiguousarray(whole.picture[:, 190:900]))
    rows, columns = region(cut.crop_to_picture, *cut.picture.shape[:2])
    assert columns.start == 0 and columns.stop - columns.start < 0.95 * (rows.stop - rows.start)
    frame = frame_of(cut)
    np.testing.assert_array_equal(frame.draw(STILL, NO_PAINT, OPEN), cut.picture)
    assert (frame.draw(STILL + 2, NO_PAINT, OPEN) != cut.picture).any()
