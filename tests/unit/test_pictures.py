"""From latents to pictures on a stand-in backend: the portrait's own pixels, the mouth at its place, at every size."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fakes import LATENT, FakeBackend, bundled_avatar, decode, syllables, write_wav

from emo_live.avatar import Avatar
from emo_live.engine.base import Engine
from emo_live.engine.pictures import MOUTH_SIZE, PictureMaker, mouth_origin
from emo_live.errors import BadInputError, EngineError
from emo_live.render import RenderOptions, render, window_of
from emo_live.types import Float32, UInt8


class Still(FakeBackend):
    """Moves everything by `flow` px of 128 and paints `paint`."""

    flow = (0.0, 0.0)
    paint_value: tuple[float, float, float, float] = (0, 0, 0, 0)
    seen: Float32 | None = None

    def motion(self, avatar: object, latents: Float32) -> Float32:
        out = np.zeros((len(latents), 3, 128, 128), np.float32)
        out[:, :2] = np.array(self.flow, np.float32)[:, None, None]
        return out

    def paint(self, avatar: object, warped: Float32, motion: Float32) -> Float32:
        self.seen = warped
        value = np.array(self.paint_value, np.float32)
        return np.broadcast_to(value[:, None, None], (len(warped), 4, MOUTH_SIZE, MOUTH_SIZE))


def picture(backend: Still, size: int = 512, **options: bool) -> UInt8:
    maker = PictureMaker(backend, backend.prepare(bundled_avatar()), size, **options)
    (only,) = maker.make(np.zeros((1, *LATENT), np.float32))
    assert only.shape == (*maker.shape, 3) and only.dtype == np.uint8
    return only


def mouth(size: int) -> tuple[slice, slice]:
    scale = 512 // size
    x, y = mouth_origin(bundled_avatar().landmarks)
    return slice(y // scale, (y + MOUTH_SIZE) // scale), slice(x // scale, (x + MOUTH_SIZE) // scale)


def test_at_rest_it_is_the_portrait() -> None:
    portrait = bundled_avatar().portrait
    np.testing.assert_array_equal(picture(Still()), portrait)
    averages = portrait.reshape(256, 2, 256, 2, 3).mean(axis=(1, 3))
    assert np.abs(picture(Still(), 256) - averages).max() <= 0.5  # in the mouth's square too


@pytest.mark.parametrize("size", [256, 512])
def test_the_mouth_is_painted_at_its_place(size: int) -> None:
    backend = Still()
    backend.paint_value = (1, -1, 1, 1)
    changed = (picture(backend, size) != picture(Still(), size)).any(axis=2)
    np.testing.assert_array_equal(picture(backend, size)[mouth(size)][5, 5], (255, 0, 255))
    outside = changed.copy()
    outside[mouth(size)] = False
    assert changed[mouth(size)].all() and not outside.any()


def test_a_share_of_paint_is_mixed() -> None:
    backend = Still()
    backend.paint_value = (1, 1, 1, 0.25)
    mixed, below = picture(backend)[mouth(512)].astype(float), bundled_avatar().portrait[mouth(512)]
    assert np.abs(mixed - (below + 0.25 * (255.0 - below))).max() <= 1


@pytest.mark.parametrize("flow", [(1.0, 0.0), (-0.3, 0.6)])
def test_the_painter_sees_the_moved_mouth_at_512_px(flow: tuple[float, float]) -> None:
    backend = Still()
    backend.flow = flow
    moved = picture(backend)[mouth(512)].astype(float)
    assert backend.seen is not None
    seen = (backend.seen[0].transpose(1, 2, 0) + 1) * 127.5
    np.testing.assert_allclose(seen, moved, atol=0.01)
    assert np.abs(moved - bundled_avatar().portrait[mouth(512)]).max() > 10


@pytest.mark.parametrize("size", [256, 512])
def test_flow_is_in_shares_of_the_picture(size: int) -> None:
    backend = Still()
    backend.flow = (2.0, -1.0)  # of 128: pixels come from 1/64 to the right and 1/128 above
    moved, still = picture(backend, size), picture(Still(), size)
    right, up = size // 64, size // 128
    np.testing.assert_array_equal(moved[20:60, 20:60], still[20 - up : 60 - up, 20 + right : 60 + right])


def test_full_frame_is_the_whole_picture() -> None:
    own = bundled_avatar()
    np.testing.assert_array_equal(picture(Still(), full_frame=True), own.picture)


def test_motion_that_is_not_a_number_ends_the_session() -> None:
    backend = Still()
    backend.flow = (float("nan"), 0)
    with pytest.raises(EngineError, match="not a number"):
        picture(backend)


def test_other_sizes_are_refused() -> None:
    with pytest.raises(BadInputError, match="256 or 512"):
        picture(Still(), 300)


# ---- the same backend behind the window and render()


@contextlib.contextmanager
def fake_engine(options: RenderOptions) -> Iterator[Callable[[Avatar], Engine]]:
    backend = FakeBackend()
    yield lambda avatar: window_of(backend, avatar, options)


def test_the_mouth_opens_with_the_sound(tmp_path: Path) -> None:
    sound = np.concatenate([np.zeros(16_000, np.float32), syllables(2.0), np.zeros(16_000, np.float32)])
    audio = write_wav(tmp_path / "a.wav", sound)
    options = RenderOptions(size=256)
    result = asyncio.run(render(bundled_avatar(), audio, tmp_path / "a.mp4", options, engine=fake_engine))
    pictures, _, _ = decode(result.path)
    assert len(pictures) == result.frames == 100 and pictures[0].shape == (256, 256, 3)
    silent = pictures[12].astype(float)
    opening = np.array([np.abs(frame - silent)[mouth(256)].mean() for frame in pictures])
    assert opening[30:70].mean() > 3 * max(opening[5:20].mean(), opening[80:95].mean())
    level = np.abs(sound).reshape(-1, 640).mean(axis=1)
    lags = [np.corrcoef(np.roll(opening, -lag)[27:73], level[27:73])[0, 1] for lag in range(-4, 5)]
    assert abs(int(np.argmax(lags)) - 4) <= 1, "the mouth is neither late nor early"


def test_full_frame_video_has_the_picture_s_size(tmp_path: Path) -> None:
    own = bundled_avatar()
    wall = np.pad(own.picture, ((31, 0), (100, 57), (0, 0)), mode="edge")
    audio = write_wav(tmp_path / "a.wav", syllables(1.0))
    options = RenderOptions(full_frame=True)
    result = asyncio.run(render(wall, audio, tmp_path / "a.mp4", options, engine=fake_engine))
    pictures, _, _ = decode(result.path)
    assert pictures[0].shape == (544, 670, 3)  # an odd side is made even
    assert np.abs(pictures[10][:543, :40].astype(int) - wall[:, :40]).mean() < 3
    assert np.abs(pictures[10].astype(int) - pictures[0]).max() > 40
