"""Masks of face and lips from landmarks, for any crop; the published ones are compared in tests/golden."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from emo_live.config import TINY, AudioAttentionConfig, EmoConfig
from emo_live.engine.face_regions import blurred_box, dilated_box, face_regions, scaled_box
from emo_live.engine.locator_mask import FACE, LIPS
from emo_live.errors import BadInputError

BACKBONE = replace(
    TINY.emo.backbone, block_channels=(32,) * 4, audio=AudioAttentionConfig(width=48, shared=False, self_attention=True)
)
HALLO: EmoConfig = replace(TINY.emo, backbone=BACKBONE, locator=replace(TINY.emo.locator, in_channels=3))
ECHOMIMIC: EmoConfig = replace(
    TINY.emo, backbone=replace(BACKBONE, audio=None), locator=replace(TINY.emo.locator, in_channels=1)
)


def face_points(centre: tuple[float, float] = (0.5, 0.5), height: float = 0.5) -> np.ndarray:
    """A face whose outline is an ellipse, with lips below its middle."""
    points = np.tile(np.array(centre), (478, 1))
    for ids, (x, y), (width, tall) in ((FACE, (0, 0), (0.8, 1.0)), (LIPS, (0, 0.25), (0.3, 0.1))):
        angle = np.linspace(0, 2 * np.pi, len(ids), endpoint=False)
        around = np.stack([np.cos(angle) * width, np.sin(angle) * tall], 1) / 2 + [x, y]
        points[list(ids)] = np.array(centre) + around * height
    return points


@pytest.mark.parametrize("size_px", [64, 128, 256, 320, 512, 768, 1024])
def test_every_size(size_px: int) -> None:
    region, masks = face_regions(face_points(), HALLO, size_px)
    assert region.shape == (1, 3, size_px, size_px) and region.dtype == np.float32
    assert set(np.unique(region)) == {0, 1}
    assert len(masks) == 4
    for level, (full, face, lip) in enumerate(masks):
        side = size_px // 8 >> level
        for mask in (full, face, lip):
            assert mask.shape == (1, side * side) and mask.dtype == np.float32
            assert 0 <= mask.min() and mask.max() <= 1
        if side > 7:
            middle, corner = side * side // 2 + side // 2, 0
            assert full[0, corner] > 0.8 > 0.2 > full[0, middle]
            assert face[0, middle] + lip[0, middle] > 0.8 > 0.2 > face[0, corner]
        if side > 7:
            rows = lip.reshape(side, side).mean(1)
            assert 0.55 < (rows * (np.arange(side) + 0.5)).sum() / rows.sum() / side < 0.7, (
                "the lips are where they are"
            )


def test_sizes_show_the_same() -> None:
    coarse, fine = (face_regions(face_points(), HALLO, size_px)[1] for size_px in (256, 512))
    for small, large in zip(coarse[:3], fine[1:], strict=True):
        for a, b in zip(small, large, strict=True):
            assert np.abs(a - b).max() < 0.03


@pytest.mark.parametrize("centre", [(0.05, 0.5), (0.95, 0.5), (0.5, 0.02), (0.5, 0.98), (0.0, 0.0), (1.0, 1.0)])
@pytest.mark.parametrize("config", [HALLO, ECHOMIMIC])
def test_faces_at_the_border(centre: tuple[float, float], config: EmoConfig) -> None:
    region, masks = face_regions(face_points(centre), config, 512)
    assert region.max() == 1 and np.isfinite(region).all()
    assert all(np.isfinite(mask).all() for level in masks for mask in level)


def test_boxes_are_moved_into_the_picture_whole() -> None:
    outline = face_points((0.1, 0.95), 0.4)[list(FACE)] * 512
    left, top, right, bottom = scaled_box(outline, 1.2, 512)
    assert left == 0 and bottom == 512
    inside = scaled_box(face_points((0.5, 0.5), 0.4)[list(FACE)] * 512, 1.2, 512)
    assert abs((right - left) - (inside[2] - inside[0])) <= 2 and abs((bottom - top) - (inside[3] - inside[1])) <= 2


def test_a_face_larger_than_the_picture_is_all_of_it() -> None:
    region, masks = face_regions(face_points(height=3.0), HALLO, 256)
    assert region.min() == 1
    full, face, lip = masks[0]
    assert full.max() == 0 and np.allclose(face + lip, 1), "not empty, as a spread of equal values would make it"


def test_echomimic_has_a_dilated_box_and_no_masks() -> None:
    points = face_points()
    region, masks = face_regions(points, ECHOMIMIC, 512)
    assert region.shape == (1, 1, 512, 512) and masks == ()
    outline = points[list(FACE)] * 512
    left, top, right, bottom = dilated_box(outline, 512)
    assert region[0, 0].sum() == (right - left) * (bottom - top)
    assert (bottom - top) / np.ptp(outline[:, 1]) == pytest.approx(1.2, abs=0.02)


@pytest.mark.parametrize("size_px", [0, -64, 100, 500, 513])
def test_other_sizes_are_refused(size_px: int) -> None:
    with pytest.raises(BadInputError, match="multiple of 64 px"):
        face_regions(face_points(), HALLO, size_px)


@pytest.mark.parametrize("size_px", [128, 256, 512, 640])
@pytest.mark.parametrize("kernel", [51, 31])
def test_blurs_like_opencv(size_px: int, kernel: int) -> None:
    """What Hallo's masks were made by: every pixel of any box, bit for bit but for halves in the resizing."""
    cv2 = pytest.importorskip("cv2")
    random = np.random.default_rng(kernel)
    for _ in range(20):
        (left, right), (top, bottom) = (np.sort(random.choice(size_px, 2, replace=False)) for _ in range(2))
        right, bottom = max(right, left + size_px // 8), max(bottom, top + size_px // 8)
        picture = np.zeros((size_px, size_px), np.uint8)
        picture[top:bottom, left:right] = 255
        soft = cv2.GaussianBlur(cv2.resize(picture, (64, 64)), (kernel, kernel), 0)
        theirs = cv2.normalize(soft, None, 0, 255, cv2.NORM_MINMAX)
        ours = blurred_box((left, top, min(right, size_px), min(bottom, size_px)), size_px, kernel)
        assert np.abs(ours.astype(int) - theirs).max() <= 1
