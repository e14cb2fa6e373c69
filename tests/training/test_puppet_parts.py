"""The parts of the puppets that are plain arithmetic: crops, camera, meshes, background, teeth, the face at rest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from emo_live.training.puppets import anatomy, background, mesh, mouth, teeth
from emo_live.training.puppets.background import Background
from emo_live.training.puppets.camera import NECK, Camera, rotation
from emo_live.training.puppets.head import arkit_matrix
from emo_live.training.puppets.rest import (
    LARGEST_BLINK_GAIN,
    LARGEST_JAW_LIFT,
    LIP_GAP_PX,
    OWN_SHARE,
    motion_gain,
    rest_expression,
)
from emo_live.training.puppets.theatre import boxes
from emo_live.training.puppets.view import OVERSCAN, PORTRAIT_PX, View
from emo_live.training.shards import random_view, zoomed
from emo_live.types import Float32

VIEWS = [View(), View(1.07, 0.05, 0.01), View(0.93, -0.06, -0.03)]


def spot(x: float, y: float) -> np.ndarray:
    """A portrait with a soft spot."""
    rows, columns = np.mgrid[0:PORTRAIT_PX, 0:PORTRAIT_PX] + 0.5
    light = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 6**2))
    return np.repeat(light[..., None], 3, 2).astype(np.uint8)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("size", [256, 512])
def test_crops_show_points_where_shares_say(view: View, size: int) -> None:
    for x, y in ((200.0, 300.0), (330.0, 180.0)):
        light = view.crop(spot(x, y), size)[..., 0].astype(float)
        rows, columns = np.mgrid[0:size, 0:size] + 0.5
        found = np.array([(light * columns).sum(), (light * rows).sum()]) / light.sum() / size
        np.testing.assert_allclose(found, view.shares(np.float32([[x, y]]))[0], atol=0.25 / size)


def test_the_whole_picture_is_a_little_less_than_the_portrait() -> None:
    np.testing.assert_allclose(View().shares(np.float32([[256, 256]])), [[0.5, 0.5]], atol=1e-6)
    corners = View().shares(np.float32([[0, 0], [512, 512]]))
    np.testing.assert_allclose(corners, [[-(OVERSCAN - 1) / 2] * 2, [1 + (OVERSCAN - 1) / 2] * 2], atol=1e-6)


def test_a_square_is_a_part_of_the_picture() -> None:
    points = np.random.default_rng(0).uniform(0, 512, (5, 2)).astype(np.float32)
    for view, square in ((View(), View.square((180, 300), 160)), (VIEWS[1], zoomed(VIEWS[1], (180, 300), 160))):
        expected = (view.shares(points) * 512 - (180, 300)) / 160
        np.testing.assert_allclose(square.shares(points), expected, atol=1e-4)


def test_beyond_the_border_the_border_goes_on() -> None:
    portrait = np.zeros((512, 512, 3), np.uint8)
    portrait[:, :20] = 200
    crop = View(1.0, -0.3, 0).crop(portrait, 128)
    assert crop[:, : int(0.3 * 128)].min() == 200
    assert crop[:, 60:].max() == 0


def test_random_crops_stay_close() -> None:
    views = [random_view(np.random.default_rng(seed)) for seed in range(50)]
    centres = np.array([view.shares(np.float32([[256, 256]]))[0] for view in views])
    assert np.abs(centres - 0.5).max() < 0.03 and centres.std() > 0.005
    assert 0.92 < min(v.scale for v in views) < 0.96 and 1.04 < max(v.scale for v in views) < 1.08


def test_rotations_turn_the_way_they_say() -> None:
    nose, ear = np.float32([0, 0, 1]), np.float32([1, 0, 0])
    assert (rotation(0.2, 0, 0) @ nose)[0] > 0.1, "yaw: to the right"
    assert (rotation(0, 0.2, 0) @ nose)[1] < -0.1, "pitch: downwards"
    assert (rotation(0, 0, 0.2) @ ear)[1] > 0.1, "roll: counter-clockwise"
    for angles in ((0.3, -0.2, 0.1), (0, 0, 0), (-1, 0.5, 2)):
        turn = rotation(*angles)
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-6)
        assert np.linalg.det(turn) == pytest.approx(1, abs=1e-6)
    np.testing.assert_array_equal(rotation(0, 0, 0), np.eye(3))


def test_a_moved_camera_sees_a_moved_head() -> None:
    facing = Camera(np.diag([1, -1, -1]).astype(np.float32), np.float32([0.5, 1, 60]), 1200.0)
    head = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32) * 5
    still = facing.moved(np.zeros(6, np.float32))
    np.testing.assert_allclose(still.space(head), facing.space(head), atol=1e-5)
    pose = np.float32([0.2, -0.1, 0.05, 1, 2, 3])
    turned = (head - NECK) @ rotation(0.2, -0.1, 0.05).T + NECK + pose[3:]
    np.testing.assert_allclose(facing.moved(pose).space(head), facing.space(turned.astype(np.float32)), atol=1e-4)


def test_perspective() -> None:
    camera = Camera(np.eye(3, dtype=np.float32), np.zeros(3, np.float32), 1000.0)
    seen = np.float32([[0, 0, 50], [5, -3, 50], [10, -6, 100]])
    np.testing.assert_allclose(camera.project(seen), [[256, 256], [356, 196], [356, 196]], atol=1e-3)


SQUARE = np.array([[0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]])  # four corners and the middle


def test_meshes_know_borders_pieces_and_neighbours() -> None:
    both = np.concatenate([SQUARE, SQUARE + 6])  # vertex 5 belongs to nothing
    assert mesh.border(both).tolist() == [0, 1, 2, 3, 6, 7, 8, 9]
    piece = mesh.pieces(both, 11)
    assert len(set(piece[:5])) == len(set(piece[6:])) == 1 and len({piece[0], piece[5], piece[6]}) == 3
    average = mesh.averaging(SQUARE, 6)
    np.testing.assert_allclose(average.sum(1), 1, atol=1e-6)
    values = np.array([1, 2, 3, 4, 10, 7], float)
    np.testing.assert_allclose(average @ values, [17 / 4, 16 / 4, 19 / 4, 18 / 4, 4, 7], atol=1e-5)


def test_normals() -> None:
    flat = np.float32([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0.5, 0.5, 0], [9, 9, 9]])
    normals = mesh.Normals(SQUARE, 6)(flat)
    np.testing.assert_allclose(normals[:5], [[0, 0, 1]] * 5, atol=1e-6)
    assert not normals[5].any()
    tilted = flat @ rotation(0.4, 0.3, 0).T
    np.testing.assert_allclose(mesh.Normals(SQUARE, 6)(tilted)[0], rotation(0.4, 0.3, 0) @ [0, 0, 1], atol=1e-5)


def head_points() -> Float32:
    """(V, 2): a face of vertices in the middle of the portrait."""
    x, y = np.meshgrid(np.arange(160, 353, 24), np.arange(150, 391, 24))
    return np.stack([x, y], 2).reshape(-1, 2).astype(np.float32)


def test_the_background_covers_everything_once() -> None:
    grid, faces = background.nodes(), background.triangles()
    a, b, c = (grid[faces[:, i]] for i in range(3))
    (ux, uy), (vx, vy) = (b - a).T, (c - a).T
    areas = (ux * vy - uy * vx) / 2
    assert (areas > 0).all() and areas.sum() == pytest.approx((3 * PORTRAIT_PX) ** 2, rel=1e-5)


def test_the_background_follows_near_the_head_and_stays_elsewhere() -> None:
    points, grid = head_points(), background.nodes()
    follower = Background(points, np.arange(len(points)))
    np.testing.assert_array_equal(follower.follow(points), grid)
    shift = follower.follow(points + np.float32([6, -2])) - grid
    inside = (np.abs(grid - 256) < 60).all(1)
    np.testing.assert_allclose(shift[inside], [[6, -2]] * inside.sum(), atol=0.5)
    border = (grid <= 0).any(1) | (grid >= PORTRAIT_PX).any(1)
    assert not shift[border].any()
    share = shift[:, 0] / 6
    assert share.min() >= 0 and share.max() <= 1 + 1e-4
    row = [i for i in range(len(grid)) if abs(grid[i, 1] - 256) < 1e-3 and 352 < grid[i, 0] < 512]
    assert (np.diff(share[row]) < 0).all(), "the farther from the head, the less"


def mesh_points(*, mouth_px: float, eyes_px: float = 12) -> Float32:
    """(478, 3): ellipses for the inner lips and both eyes, everything else at 0."""
    points = np.zeros((478, 3), np.float32)

    def ellipse(outline: Sequence[int], x: float, y: float, width: float, height: float) -> None:
        angle = np.pi + 2 * np.pi * np.arange(len(outline)) / len(outline)
        points[list(outline), 0] = x + width * np.cos(angle)
        points[list(outline), 1] = y + height * np.sin(angle)

    ellipse(anatomy.INNER_LIPS_OUTLINE, 256, 350, 40, mouth_px / 2)
    for x, outline in zip((200, 312), anatomy.EYE_OUTLINES, strict=True):
        ellipse(outline, x, 220, 22, eyes_px / 2)
    points[anatomy.INNER_LIP_TOP, :2] = 256, 350 - mouth_px / 2
    points[anatomy.INNER_LIP_BOTTOM, :2] = 256, 350 + mouth_px / 2
    return points


def smiling(points: Float32) -> np.ndarray:
    """A brown face with white eyes, whose upper half of the mouth is bright teeth and lower half dark."""
    picture = np.full((512, 512, 3), (150, 100, 80), np.uint8)
    for outline in anatomy.EYE_OUTLINES:
        picture[teeth.area(points, outline) > 0] = (220, 215, 205)
    opening = teeth.area(points, anatomy.INNER_LIPS_OUTLINE) > 0
    picture[opening] = (60, 20, 20)
    picture[:352][opening[:352]] = (225, 218, 200)
    return picture


def test_own_teeth_are_found() -> None:
    points = mesh_points(mouth_px=24)
    found = teeth.find_teeth(smiling(points), points)
    np.testing.assert_allclose(found.colour * 255, (225, 218, 200), atol=3)
    assert found.edge_px == pytest.approx(351, abs=1)
    assert found.mask[345, 256] > 200 and found.mask[360, 256] < 20
    assert not found.mask[teeth.grown(teeth.area(points, anatomy.INNER_LIPS_OUTLINE), 9) == 0].any()


@pytest.mark.parametrize(("mouth_px", "open_colour"), [(3, (225, 218, 200)), (24, (60, 20, 20)), (24, (200, 80, 80))])
def test_without_teeth_the_eyes_tell_their_colour(mouth_px: float, open_colour: tuple[int, int, int]) -> None:
    points = mesh_points(mouth_px=mouth_px)
    picture = smiling(points)
    picture[teeth.area(points, anatomy.INNER_LIPS_OUTLINE) > 0] = open_colour
    found = teeth.find_teeth(picture, points)
    assert not found.mask.any() and found.edge_px is None
    assert 0.7 < found.colour.mean() < 0.95 and found.colour[0] > found.colour[2], "light, and a little warm"
    dim = teeth.find_teeth((picture * 0.4).astype(np.uint8), points)
    assert dim.colour.mean() < found.colour.mean() - 0.1


NAMES = ("jawOpen", "mouthSmile_L", "mouthUpperUp_L", "eyeBlink_L", "eyeBlink_R", "browInnerUp_L")


def opening_of(lips_px: dict[str, float], lids_px: float) -> object:
    """An opening that grows linearly: lips by what is given for a name, lids from 10 px down by lids_px for a blink."""

    def opening(expression: Float32, above: Sequence[int], below: Sequence[int]) -> float:
        weight = dict(zip(NAMES, expression.tolist(), strict=True))
        if list(above) == list(anatomy.LIDS_ABOVE):
            return 10 - lids_px * (weight["eyeBlink_L"] + weight["eyeBlink_R"]) / 2
        return sum(lips_px.get(name, 0) * value for name, value in weight.items())

    return opening


def test_a_smile_comes_to_rest_and_lips_meet() -> None:
    opening = opening_of({"jawOpen": 40, "mouthUpperUp_L": 10, "mouthSmile_L": 4}, 8)
    own = np.float32([0.2, 0.5, 0.4, 0.1, 0.1, 0.3])
    rest = rest_expression(own, NAMES, opening)  # type: ignore[arg-type]
    gap = opening(rest, anatomy.LIPS_ABOVE, anatomy.LIPS_BELOW)  # type: ignore[operator]
    assert gap == pytest.approx(LIP_GAP_PX, abs=0.05)
    assert rest[1] == pytest.approx(OWN_SHARE * 0.5), "some of the smile stays"
    np.testing.assert_array_equal(rest[3:], own[3:])
    assert -LARGEST_JAW_LIFT <= rest[0] <= 0.2 * OWN_SHARE


def test_the_jaw_is_lifted_no_farther_than_it_can() -> None:
    opening = opening_of({"jawOpen": 20, "mouthSmile_L": 40}, 8)
    rest = rest_expression(np.float32([0, 0.9, 0, 0, 0, 0]), NAMES, opening)  # type: ignore[arg-type]
    assert rest[0] == pytest.approx(-LARGEST_JAW_LIFT)


def test_closed_lips_are_left_alone() -> None:
    opening = opening_of({"jawOpen": 40}, 8)
    own = np.float32([0, 0.5, 0, 0, 0, 0.2])
    rest = rest_expression(own, NAMES, opening)  # type: ignore[arg-type]
    np.testing.assert_allclose(rest, [0, OWN_SHARE * 0.5, 0, 0, 0, 0.2], atol=1e-6)


@pytest.mark.parametrize(("lids_px", "gain"), [(8, 1.25), (12, 1.0), (4, LARGEST_BLINK_GAIN)])
def test_blinks_are_made_to_close(lids_px: float, gain: float) -> None:
    factors = motion_gain(np.zeros(6, np.float32), NAMES, opening_of({}, lids_px))  # type: ignore[arg-type]
    np.testing.assert_allclose(factors, [1, 1, 1, gain, gain, 1], rtol=1e-5)


def test_arkit_names_find_their_shapes() -> None:
    shapes = ("browInnerUp_L", "browInnerUp_R", "eyeBlink_L", "eyeBlink_R", "jawLeft", "jawOpen", "PupilDilate_L")
    matrix = arkit_matrix(("_neutral", "browInnerUp", "eyeBlinkLeft", "eyeBlinkRight", "jawLeft", "jawOpen"), shapes)
    expected = {1: (0, 1), 2: (2,), 3: (3,), 4: (4,), 5: (5,)}
    wanted = np.zeros((6, 7))
    for row, columns in expected.items():
        wanted[row, list(columns)] = 1
    np.testing.assert_array_equal(matrix, wanted)


def test_boxes_hold_their_landmarks() -> None:
    marks = np.random.default_rng(0).uniform(0.2, 0.9, (68, 2)).astype(np.float32)
    marks[48:68] = np.random.default_rng(1).uniform(0.4, 0.5, (20, 2))
    mouth, _, face = boxes(marks)
    assert (mouth[:2] < 0.4).all() and (mouth[2:] > 0.5).all() and (mouth[2:] - mouth[:2] < 0.2).all()
    np.testing.assert_allclose(face[:2], np.clip(marks.min(0) - 0.06 * np.ptp(marks, 0).max(), 0, 1), atol=1e-5)
    assert face.max() <= 1


def test_each_tooth_is_darkest_where_its_neighbour_begins() -> None:
    angle = np.linspace(-0.5, 0.5, 9)  # along the arch; the last vertex is no tooth
    head = np.stack([5 * np.sin(angle), 0 * angle, mouth.ARCH_MIDDLE_CM + 5 * np.cos(angle)], 1).astype(np.float32)
    piece, is_tooth = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1]), np.arange(9) < 8
    found = mouth._between(head, piece, is_tooth)
    np.testing.assert_allclose(found[[0, 3, 4, 7]], 1, atol=1e-5)
    assert found[[1, 2, 5, 6]].max() < 0.6 and found[8] == 0
