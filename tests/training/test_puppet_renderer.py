"""The renderer on a made-up face: the flow it writes is exactly how the picture it paints has moved."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from emo_live.errors import NotSupportedError
from emo_live.training.autoencoder import sampling_grid, warp
from emo_live.training.puppets import background, renderer
from emo_live.training.puppets.renderer import Renderer, Scene
from emo_live.training.puppets.theatre import PuppetTheatre
from emo_live.training.puppets.view import PORTRAIT_PX, View
from emo_live.training.shards import as_motion
from emo_live.types import Float32

MOUTH = slice(8, 14), slice(7, 13)  # rows and columns of cells without skin
SIDE = 21  # vertices
INSIDE = (40, 160, 90)


def face() -> tuple[Float32, np.ndarray, np.ndarray]:
    """(V, 2) px, skin with a hole, and the two triangles that lie behind the hole."""
    x, y = np.meshgrid(np.linspace(150, 350, SIDE), np.linspace(160, 380, SIDE))
    points = np.stack([x, y], 2).reshape(-1, 2)
    corner = (np.arange(SIDE - 1)[:, None] * SIDE + np.arange(SIDE - 1)).astype(int)
    kept = np.ones_like(corner, bool)
    kept[MOUTH] = False
    a = corner[kept]
    skin = np.concatenate([np.stack([a, a + 1, a + SIDE], 1), np.stack([a + 1, a + SIDE + 1, a + SIDE], 1)])
    behind = np.array([[200, 230], [300, 230], [300, 330], [200, 330]])
    first = len(points)
    return np.concatenate([points, behind]).astype(np.float32), skin, first + np.array([[0, 1, 2], [0, 2, 3]])


def landmarks(gap_rows: tuple[int, int] = (8, 14)) -> np.ndarray:
    """(68,) vertices: mouth corners and lips at the hole's edges, the rest anywhere."""
    marks = np.zeros(68, int)
    top, bottom = (row * SIDE for row in gap_rows)
    marks[[60, 64]] = 11 * SIDE + 7, 11 * SIDE + 13
    marks[[61, 62, 63]] = top + np.array([9, 10, 11])
    marks[[65, 66, 67]] = bottom + np.array([11, 10, 9])
    return marks


def portrait() -> np.ndarray:
    """Soft waves of colour: warping interpolates them well."""
    y, x = np.mgrid[0:PORTRAIT_PX, 0:PORTRAIT_PX]
    waves = [np.sin(x / 23 + y / 41), np.sin(x / 37 - y / 19 + 1), np.cos(y / 29)]
    return np.stack([128 + 90 * wave for wave in waves], 2).astype(np.uint8)


class Stage(PuppetTheatre):
    """A theatre whose only puppet is the made-up face; `move` says where a px goes."""

    def __init__(self) -> None:
        self.points, skin, inside = face()
        setback = np.zeros(len(self.points), np.float32)
        setback[-4:] = 1
        head: Any = SimpleNamespace(skin=skin, inside=inside, setback=setback, landmarks=landmarks())
        self._renderer = Renderer(head)
        colours = np.ones((len(self.points), 4), np.float32)
        colours[-4:] = [*np.array(INSIDE) / 255, 0]
        self._portrait = portrait()
        texture = np.dstack([self._portrait, np.zeros((512, 512), np.uint8)])
        puppet: Any = SimpleNamespace(texture=texture, texture_points=self.points, colours=colours, points=self.points)
        self._renderer.load(puppet)
        self.move = lambda points: points

    def _scene(self, arkit: Any, pose: Any) -> Scene:
        depth = np.full(len(self.points), 50, np.float32)
        depth[0] = 48  # some range of depths
        return Scene(self.move(self.points), depth, self.move(background.nodes()))


@pytest.fixture(scope="module")
def theatre() -> Iterator[Stage]:
    pytest.importorskip("moderngl")
    try:
        stage = Stage()
    except NotSupportedError as error:
        pytest.skip(str(error))
    yield stage
    stage.close()


@pytest.fixture
def stage(theatre: Stage) -> Iterator[Stage]:
    yield theatre
    theatre.move = lambda points: points


def swirl(points: Float32) -> Float32:
    """Up to 9 px, smooth, nothing at the border."""
    x, y = (points / 512).T
    fade = np.clip(np.minimum.reduce([x, 1 - x, y, 1 - y]) * 6, 0, 1)
    shift = np.stack([9 * np.sin(3 * y + 1), 7 * np.cos(4 * x)], 1) * fade[:, None]
    return (points + shift).astype(np.float32)


def show(stage: Stage, view: View, size: int = 256) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Reference, painted picture (1, 3, size, size) in 0..1, and motion (1, 3, 128, 128) in px of 128."""
    nothing: Any = None
    reference, painted = (
        torch.from_numpy(x.copy()).permute(2, 0, 1)[None].float() / 255
        for x in (stage.reference(size, view), stage.picture(nothing, nothing, size, view))
    )
    return reference, painted, as_motion(stage.motion(nothing, nothing, view)[None])


def solid(motion: torch.Tensor, size: int) -> torch.Tensor:
    grown = torch.nn.functional.max_pool2d(motion[:, 2:], 5, 1, 2)
    return torch.nn.functional.interpolate(grown, size=(size, size))[:, 0] < 0.01


VIEWS = [View(), View(1.06, 0.03, 0.02), View(0.94, -0.04, -0.03)]


@pytest.mark.parametrize("view", VIEWS)
def test_the_flow_is_how_the_picture_moved(stage: Stage, view: View) -> None:
    stage.move = swirl
    reference, painted, motion = show(stage, view)
    moved = warp(reference, sampling_grid(motion[:, :2], 256))
    seen = solid(motion, 256)
    seen[:, :8] = seen[:, -8:] = seen[..., :8] = seen[..., -8:] = False  # the portrait's border
    error, still = ((x - painted).abs().mean(1)[seen] for x in (moved, reference))
    assert error.mean() < 0.006 and error.quantile(0.999) < 0.03
    assert still.mean() > 10 * error.mean()


@pytest.mark.parametrize("view", VIEWS)
def test_a_still_face_is_the_portrait(stage: Stage, view: View) -> None:
    reference, painted, motion = show(stage, view)
    seen = solid(motion, 256)
    assert ((reference - painted).abs().mean(1)[seen]).mean() < 0.006
    where = solid(motion, 128)
    where[:, :3] = where[:, -3:] = where[..., :3] = where[..., -3:] = False  # a crop may reach beyond the portrait
    assert motion[:, :2].abs().amax(1)[where].max() < 0.05


def test_the_hole_is_where_the_inside_shows(stage: Stage) -> None:
    _, painted, motion = show(stage, View(), 128)
    hole = motion[0, 2]
    assert hole.max() == pytest.approx(1) and hole.min() == pytest.approx(0, abs=1e-6)
    expected = 60 * 66 * (1.03 / 4) ** 2  # cells of 10 x 11 px of 512, 6 x 6 of them, in px of 128
    assert float(hole.sum()) == pytest.approx(expected, rel=0.02)
    core = painted[0][:, hole > 0.99] * 255
    assert core.shape[1] > 180 and (core <= torch.tensor(INSIDE)[:, None] + 1).all(), "its colour, or darker"
    assert (core[1] > core[0] + 10).all() and (core[1] > core[2] + 10).all(), "the green that was given"
    assert not motion[0, :2, hole > 0.99].any(), "no flow where nothing came from the portrait"
    edge = (hole > 0.01) & (hole < 0.99)
    assert edge.sum() < 90, "an edge of one pixel"


def test_a_part_of_a_picture_is_that_part_enlarged(stage: Stage) -> None:
    stage.move = swirl
    nothing: Any = None
    whole = stage.picture(nothing, nothing, 512).astype(int)
    square = stage.square(nothing, nothing, (180, 200), 160).astype(int)
    difference = np.abs(whole[200:360, 180:340] - square)
    assert difference.mean() < 1.5 and np.quantile(difference, 0.99) < 12  # edges of the hole are drawn alike


def test_little_light_falls_between_nearly_closed_lips() -> None:
    marks = np.zeros((68, 2), np.float32)
    marks[60], marks[64] = (0.4, 0.6), (0.6, 0.6)
    for gap, light in ((0.0, 0.0), (renderer.DARK_GAP * 0.2, 0.0), (renderer.DARK_GAP * 0.3, 0.5), (0.1, 1.0)):
        marks[61:64], marks[65:68] = (0.5, 0.6 - gap / 2), (0.5, 0.6 + gap / 2)
        assert renderer._light_between(marks) == pytest.approx(light, abs=1e-3)


def test_without_opengl_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    moderngl = pytest.importorskip("moderngl")

    def broken(**_: Any) -> None:
        raise Exception("no display")

    monkeypatch.setattr(moderngl, "create_context", broken)
    with pytest.raises(NotSupportedError, match="libegl1"):
        renderer._create_context()
