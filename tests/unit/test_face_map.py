"""Fields of motion that are carried from face to face by landmarks."""

from __future__ import annotations

import numpy as np
import pytest

from emo_live.engine.face_map import FaceMap, sample

SIZE = 64
RANDOM = np.random.default_rng(0)
FACE = RANDOM.uniform(0.25, 0.75, (30, 2))


def blob(x: float, y: float) -> np.ndarray:
    """(1, 3, SIZE, SIZE): a hole around a place, in shares."""
    centres = (np.arange(SIZE) + 0.5) / SIZE
    hole = np.exp(-((centres - x) ** 2 + (centres[:, None] - y) ** 2) / 0.004)
    return np.stack([np.zeros_like(hole), np.zeros_like(hole), hole])[None].astype(np.float32)


def test_to_the_same_face_nothing_changes() -> None:
    fields = RANDOM.normal(size=(2, 3, SIZE, SIZE)).astype(np.float32)
    np.testing.assert_allclose(FaceMap(FACE, FACE, SIZE).carry(fields), fields, atol=2e-2)


@pytest.mark.parametrize("shift", [(0.06, 0.0), (-0.03, 0.05)])
def test_motion_goes_where_the_landmarks_are(shift: tuple[float, float]) -> None:
    carried = FaceMap(FACE + shift, FACE, SIZE).carry(blob(0.5, 0.5))[0, 2]
    y, x = np.unravel_index(int(carried.argmax()), carried.shape)
    assert (x + 0.5) / SIZE == pytest.approx(0.5 + shift[0], abs=0.03)
    assert (y + 0.5) / SIZE == pytest.approx(0.5 + shift[1], abs=0.03)


def test_a_larger_face_moves_farther() -> None:
    fields = np.zeros((1, 3, SIZE, SIZE), np.float32)
    fields[:, 1] = 2
    larger = (FACE - 0.5) * 1.3 + 0.5
    carried = FaceMap(larger, FACE, SIZE).carry(fields)[0, 1]
    middle = carried[SIZE // 2 - 8 : SIZE // 2 + 8, SIZE // 2 - 8 : SIZE // 2 + 8]
    assert float(middle.mean()) == pytest.approx(2.6, rel=0.1)


def test_strange_landmarks_give_bounded_motion() -> None:
    fields = np.ones((1, 3, SIZE, SIZE), np.float32)
    for points in (RANDOM.uniform(-1, 2, FACE.shape), np.full(FACE.shape, 0.5), FACE[::-1]):
        carried = FaceMap(points, FACE, SIZE).carry(fields)
        assert np.isfinite(carried).all() and np.abs(carried).max() < 3


def test_samples_lie_between_pixels() -> None:
    fields = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    x, y = np.full((1, 4, 4), 1.5, np.float32), np.full((1, 4, 4), 2.25, np.float32)
    np.testing.assert_allclose(sample(fields, x, y), 2.25 * 4 + 1.5)
    np.testing.assert_allclose(sample(fields, x - 9, y + 9), 12, err_msg="beyond the border the border goes on")
