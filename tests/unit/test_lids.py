"""Lids that fold over the eye: they close wholly, each by itself, and leave everything else where it is."""

from __future__ import annotations

import numpy as np
import pytest

from emo_live import samples
from emo_live.avatar import Avatar
from emo_live.media.lids import LidFold
from emo_live.types import Float32

SIZE = 512
EYES = {"left": ((385, 386, 387), (380, 374, 373)), "right": ((158, 159, 160), (153, 145, 144))}


@pytest.fixture(scope="module")
def points() -> Float32:
    return Avatar.prepare(samples.portrait()).landmarks


def folded(points: Float32, left: float, right: float, shift: tuple[float, float] = (0, 0)) -> Float32:
    flow = np.empty((2, SIZE, SIZE), np.float32)
    flow[0], flow[1] = shift
    LidFold(points, SIZE)(flow, np.array([left, right], np.float32))
    flow[0] -= shift[0]
    flow[1] -= shift[1]
    return flow


def at(flow: Float32, place: np.ndarray) -> np.ndarray:
    x, y = np.rint(place * SIZE - 0.5).astype(int)
    return flow[:, y, x]


def test_open_lids_change_nothing(points: Float32) -> None:
    assert not folded(points, 0, 0).any()


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_closed_lid_covers_the_eye(points: Float32, side: str) -> None:
    flow = folded(points, 1, 1)
    for upper, lower in zip(*EYES[side], strict=True):
        opening = (points[lower] - points[upper])[1] * SIZE
        source = (points[lower] * SIZE)[1] + at(flow, points[lower])[1]
        assert source <= (points[upper] * SIZE)[1] + 0.15 * opening, "what is seen there is the lid"


def test_lids_close_apart(points: Float32) -> None:
    left, right = folded(points, 1, 0), folded(points, 0, 1)
    middle = round(float(points[168, 0]) * SIZE)
    assert left[:, :, middle:].any() and not left[:, :, :middle].any()
    assert right[:, :, :middle].any() and not right[:, :, middle:].any()
    np.testing.assert_array_equal(left + right, folded(points, 1, 1))


def test_a_half_closed_lid_leaves_the_lower_half_of_the_eye(points: Float32) -> None:
    flow = folded(points, 0.5, 0.5)
    upper, lower = points[386], points[374]
    assert not at(flow, upper + 0.9 * (lower - upper)).any()
    assert at(flow, upper + 0.25 * (lower - upper))[1] < -1


def test_brows_and_cheeks_stay(points: Float32) -> None:
    flow = folded(points, 1, 1)
    for place in (105, 334, 205, 425, 1, 13):  # brows, cheeks, nose, lip
        assert not at(flow, points[place]).any()


def test_skin_is_stretched_and_never_folded_back(points: Float32) -> None:
    for closed in (0.3, 1.0):
        flow = folded(points, closed, closed)
        x = round(float(points[386, 0]) * SIZE)
        rows = slice(round(float(points[334, 1]) * SIZE), round(float(points[386, 1]) * SIZE))
        source = np.arange(SIZE)[rows] + flow[1, rows, x]
        assert (np.diff(source) >= -1e-3).all() and (np.diff(source) <= 1.001).all()


def test_lids_go_with_the_head(points: Float32) -> None:
    """The whole picture 8 px to the right and 6 px up: so are the lids."""
    still, moved = folded(points, 1, 1), folded(points, 1, 1, (-8, 6))
    np.testing.assert_allclose(moved[:, 50:-50, 58:-42], still[:, 56:-44, 50:-50], atol=0.05)


def test_a_face_at_the_border_and_a_tiny_eye(points: Float32) -> None:
    for shift in ((-0.7, 0), (0.7, 0), (0, -0.7), (0, 0.7)):
        folded(points + np.array(shift, np.float32), 1, 1)
    small = folded(points * np.float32(0.02), 1, 1)
    assert np.isfinite(small).all()
