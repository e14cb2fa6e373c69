"""The animated face returns into the whole picture: no border, no loss where nothing moves, true to size and place."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest

import emo_live.avatar
from emo_live.avatar import Avatar
from emo_live.face.portrait import load_picture
from emo_live.media.image import FullFrame

PORTRAIT = Path(emo_live.avatar.__file__).parent / "assets" / "portraits" / "faker_male_30.jpg"


@lru_cache
def photo(side: int, tilt: float) -> Avatar:
    """A portrait of side px on a larger wall of odd size, tilted by degrees."""
    face = cv2.resize(load_picture(PORTRAIT), (side, side), interpolation=cv2.INTER_CUBIC)
    wall = cv2.copyMakeBorder(face, 20, 41, 150, 171, cv2.BORDER_CONSTANT, value=(190, 185, 180))
    # Fine texture that a 256 px crop cannot hold.
    wall = np.clip(wall.astype(int) + np.random.default_rng(0).integers(-6, 7, wall.shape), 0, 255).astype(np.uint8)
    height, width = wall.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), tilt, 1.0)
    return Avatar.prepare(cv2.warpAffine(wall, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE))


def still(avatar: Avatar, size: int) -> np.ndarray:
    return cv2.resize(avatar.portrait, (size, size), interpolation=cv2.INTER_AREA)


def even(avatar: Avatar) -> np.ndarray:
    height, width = (side - side % 2 for side in avatar.picture.shape[:2])
    return avatar.picture[:height, :width]


def region_of(avatar: Avatar, change: np.ndarray, margin: float = 2.0) -> np.ndarray:
    """Pixels of the picture (H, W) bool that lie inside the crop."""
    rows, columns = np.mgrid[0 : change.shape[0], 0 : change.shape[1]]
    inverse = cv2.invertAffineTransform(avatar.crop_to_picture)
    u = inverse[0, 0] * columns + inverse[0, 1] * rows + inverse[0, 2]
    v = inverse[1, 0] * columns + inverse[1, 1] * rows + inverse[1, 2]
    return (u > -margin) & (v > -margin) & (u < 511 + margin) & (v < 511 + margin)


@pytest.mark.parametrize("size", [256, 512])
@pytest.mark.parametrize(("side", "tilt"), [(801, 0.0), (801, 12.0), (240, 0.0)])
def test_a_face_at_rest_leaves_every_pixel(size: int, side: int, tilt: float) -> None:
    avatar = photo(side, tilt)
    frame = FullFrame(avatar)
    result = frame.compose(still(avatar, size))
    assert result.shape[:2] == frame.size and result.dtype == np.uint8
    assert frame.size[0] % 2 == 0 and frame.size[1] % 2 == 0
    np.testing.assert_array_equal(result, even(avatar))


@pytest.mark.parametrize(("side", "tilt"), [(801, 0.0), (801, 12.0), (240, 0.0)])
def test_a_change_arrives_at_its_place_and_only_there(side: int, tilt: float) -> None:
    avatar = photo(side, tilt)
    crop = still(avatar, 256).copy()
    mouth = avatar.mouth_box
    x, y = (round(256 * value) for value in mouth.centre)
    crop[y - 12 : y + 13, x - 12 : x + 13] = (255, 0, 255)
    result = FullFrame(avatar).compose(crop)
    place = avatar.crop_to_picture @ [x * 2 + 0.5, y * 2 + 0.5, 1]
    column, row = (round(value) for value in place)
    assert np.abs(result[row, column].astype(int) - (255, 0, 255)).max() < 12
    changed = (result != even(avatar)).any(axis=2)
    rows, columns = np.nonzero(changed)
    reach = 80 / 512 * 512 * np.hypot(*avatar.crop_to_picture[:, 0])
    assert changed.any() and np.hypot(rows - row, columns - column).max() < reach
    magenta = (result.astype(int) - (255, 0, 255)).__abs__().max(axis=2) < 40
    centre = np.argwhere(magenta).mean(axis=0)
    assert np.hypot(*(centre - (row, column))) < 1.5


@pytest.mark.parametrize("tilt", [0.0, 12.0])
def test_no_border_is_visible(tilt: float) -> None:
    """A crop that is brighter everywhere, on a plain picture, fades out without a step."""
    real = photo(801, tilt)
    plain = Avatar(
        np.full_like(real.portrait, 100), real.landmarks, np.full_like(real.picture, 100), real.crop_to_picture
    )
    gain = FullFrame(plain).compose(np.full((256, 256, 3), 140, np.uint8)).astype(int) - 100
    assert gain.max() == 40
    assert max(int(np.abs(np.diff(gain, axis=axis)).max()) for axis in (0, 1)) <= 3
    assert not gain[~region_of(plain, gain)].any()


def test_out_is_changed_in_place_and_forgets_the_last_frame() -> None:
    avatar = photo(801, 0.0)
    frame = FullFrame(avatar)
    moved = np.ascontiguousarray(np.roll(still(avatar, 256), 6, axis=0))
    first = frame.compose(moved)
    fresh = frame.compose(moved)
    assert fresh is not first and frame.compose(still(avatar, 256), first) is first
    np.testing.assert_array_equal(first, even(avatar))
    np.testing.assert_array_equal(frame.compose(moved, first), fresh)


@pytest.mark.parametrize("tilt", [0.0, 12.0])
def test_warp_without_flow_is_the_picture(tilt: float) -> None:
    frame = FullFrame(photo(801, tilt))
    region = frame.region
    np.testing.assert_array_equal(frame.warp(region, np.zeros((128, 128, 2), np.float32)), region)


@pytest.mark.parametrize(("side", "tilt"), [(801, 0.0), (801, 12.0), (300, 0.0)])
def test_warp_moves_by_shares_of_the_crop(side: int, tilt: float) -> None:
    """Backward flow of 2 % to the right in the crop: a mark shows up 2 % further left, along the crop's own axes."""
    avatar = photo(side, tilt)
    frame = FullFrame(avatar)
    mark = np.zeros_like(avatar.picture)
    column, row = (round(value) for value in avatar.crop_to_picture @ [255.5, 255.5, 1])
    cv2.circle(mark, (column, row), 4, (255, 255, 255), -1)
    inside = np.zeros_like(frame.region)
    rows = np.nonzero(region_of(avatar, mark[: frame.size[0], : frame.size[1], 0], 0.5))
    origin = np.array([rows[0].min(), rows[1].min()])
    cut = mark[origin[0] : origin[0] + inside.shape[0], origin[1] : origin[1] + inside.shape[1]]
    flow = np.zeros((64, 64, 2), np.float32)
    flow[:, :, 0] = 0.02
    before = np.argwhere(cut[:, :, 0] > 128).mean(axis=0)
    after = np.argwhere(frame.warp(np.ascontiguousarray(cut), flow)[:, :, 0] > 128).mean(axis=0)
    shift = (after - before)[::-1]
    np.testing.assert_allclose(shift, avatar.crop_to_picture[:, :2] @ [-0.02 * 512, 0], atol=0.5)


def test_warped_frames_keep_detail_and_take_paint() -> None:
    avatar = photo(801, 0.0)
    frame = FullFrame(avatar)
    rows, columns = np.mgrid[0:128, 0:128].astype(np.float32) / 128
    bump = np.exp(-((columns - 0.5) ** 2 + (rows - 0.53) ** 2) / 0.03)
    flow = np.stack([0.02 * bump, -0.02 * bump], axis=-1).astype(np.float32)
    mask = np.ones((256, 256), np.float32)
    x, y = (round(256 * value) for value in avatar.mouth_box.centre)
    mask[y - 8 : y + 8, x - 8 : x + 8] = 0
    paint = np.full((256, 256, 3), (0, 255, 0), np.uint8)
    result = frame.compose_warped(flow, mask, paint)
    column, row = (round(value) for value in avatar.crop_to_picture @ [2 * x, 2 * y, 1])
    assert tuple(result[row, column]) == (0, 255, 0)
    outside = ~region_of(avatar, result)
    np.testing.assert_array_equal(result[outside], even(avatar)[outside])
    # The forehead moved, and still has its fine grain; the 256 px crop put back would have lost it.
    column, row = (round(value) for value in avatar.crop_to_picture @ [256, 180, 1])
    window = slice(row - 20, row + 20), slice(column - 20, column + 20)

    def grain(pixels: np.ndarray) -> float:
        return float(cv2.Laplacian(pixels[window].astype(np.float32), cv2.CV_32F).std())

    crop = still(avatar, 256)
    low = cv2.remap(crop, *(axis * 256 for axis in _positions(flow)), cv2.INTER_LINEAR)
    assert not np.array_equal(result[window], even(avatar)[window])
    assert grain(result) > 2 * grain(frame.compose(low)) and grain(result) > 0.4 * grain(even(avatar))


def _positions(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    fine = cv2.resize(flow, (256, 256))
    rows, columns = np.mgrid[0:256, 0:256].astype(np.float32) / 256
    return columns + fine[:, :, 0], rows + fine[:, :, 1]


def test_wrong_shapes_are_caught() -> None:
    frame = FullFrame(photo(801, 0.0))
    with pytest.raises(AssertionError, match="square"):
        frame.compose(np.zeros((256, 200, 3), np.uint8))
    with pytest.raises(AssertionError, match="a region is"):
        frame.warp(np.zeros((10, 10, 3), np.uint8), np.zeros((64, 64, 2), np.float32))
    with pytest.raises(AssertionError, match="out must be"):
        frame.compose(still(photo(801, 0.0), 256), np.zeros((10, 10, 3), np.uint8))
