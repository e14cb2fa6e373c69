"""Moving pixels by a flow: identity is exact, shifts land where they should, both ways of interpolating agree."""

from __future__ import annotations

import numpy as np
import pytest

from emo_live.media import warp
from emo_live.media.warp import Mover, enlarge


def waves(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    channels = (np.sin(columns / 5), np.cos(rows / 7), np.sin((rows + columns) / 9))
    return np.rint(128 + 100 * np.stack(channels, -1)).astype(np.uint8)


def shift(height: int, width: int, x: float, y: float) -> np.ndarray:
    return np.broadcast_to(np.array([x, y], np.float32)[:, None, None], (2, height, width))


@pytest.fixture(params=["table", "linear"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways on the same small picture."""
    if request.param == "linear":
        monkeypatch.setattr(warp, "_FINE", ())
    return str(request.param)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (150, 70), (65, 131)])
def test_without_flow_nothing_changes(way: str, height: int, width: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    np.testing.assert_array_equal(Mover(picture)(shift(height, width, 0, 0)), picture)


def test_whole_pixels_are_exact_and_borders_go_on(way: str) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (80, 90, 3), dtype=np.uint8)
    moved = Mover(picture)(shift(80, 90, 3, -5))
    rows, columns = np.clip(np.arange(80) - 5, 0, 79), np.clip(np.arange(90) + 3, 0, 89)
    np.testing.assert_array_equal(moved, picture[rows][:, columns])
    far = Mover(picture)(shift(80, 90, 1e6, -1e6))
    np.testing.assert_array_equal(far, np.broadcast_to(picture[0, -1], far.shape))


@pytest.mark.parametrize(("x", "y"), [(0.5, 0), (0.25, -0.75), (-2.5, 3.125)])
def test_parts_of_a_pixel(way: str, x: float, y: float) -> None:
    height, width = 100, 120
    rows, columns = np.mgrid[0:height, 0:width]
    moved = Mover(waves(height, width))(shift(height, width, x, y)).astype(float)
    rows, columns = rows + y, columns + x
    channels = (np.sin(columns / 5), np.cos(rows / 7), np.sin((rows + columns) / 9))
    inner = slice(5, -5), slice(5, -5)
    wrong = (moved - (128 + 100 * np.stack(channels, -1)))[inner]
    assert np.abs(wrong).max() < 2.5 and abs(wrong.mean()) < 0.2


def test_a_window_is_a_part_of_the_whole(way: str) -> None:
    picture, flow = waves(160, 140), np.random.default_rng(2).normal(0, 2, (2, 160, 140)).astype(np.float32)
    window = (30, 20, 70, 90)
    part = flow[:, 30:100, 20:110]
    np.testing.assert_array_equal(Mover(picture, window)(part), Mover(picture)(flow)[30:100, 20:110])


def test_a_large_picture_is_not_kept_enlarged() -> None:
    sizes = {side: Mover(np.zeros((side, side, 3), np.uint8))._take._table.nbytes for side in (512, 1024, 1100)}
    assert sizes[512] <= sizes[1024] <= 4 * warp._FINE[-1][1]
    assert sizes[1100] < 9 * 1100 * 1100


def test_a_flow_of_another_size_is_caught() -> None:
    with pytest.raises(AssertionError, match=r"a flow of \(2, 64, 64\)"):
        Mover(np.zeros((64, 64, 3), np.uint8))(np.zeros((2, 32, 64), np.float32))


@pytest.mark.parametrize(("rows", "columns"), [(32, 32), (50, 37), (8, 8), (1, 300)])
def test_enlarging_is_linear_between_centres(rows: int, columns: int) -> None:
    y, x = ((np.arange(8) + 0.5) / 8 for _ in range(2))
    field = np.stack([np.broadcast_to(3 * x, (8, 8)), np.broadcast_to(2 * y[:, None], (8, 8))]).astype(np.float32)
    large = enlarge(field, rows, columns)
    assert large.shape == (2, rows, columns) and large.dtype == np.float32
    places = [np.clip((np.arange(n) + 0.5) / n, 0.5 / 8, 7.5 / 8) for n in (rows, columns)]
    np.testing.assert_allclose(large[0], np.broadcast_to(3 * places[1], (rows, columns)), atol=1e-5)
    np.testing.assert_allclose(large[1], np.broadcast_to(2 * places[0][:, None], (rows, columns)), atol=1e-5)


def test_enlarging_a_single_cell() -> None:
    np.testing.assert_array_equal(enlarge(np.full((1, 1, 1), 7, np.float32), 5, 4), np.full((1, 5, 4), 7))
