"""Which stretches of a film can be used, which picture is the portrait, how the head is turned."""

from __future__ import annotations

from dataclasses import replace

import cv2
import films
import numpy as np
import pytest

from emo_live.face.crop import crop_affine
from emo_live.face.landmarker import BLENDSHAPES, Face, FaceFinder
from emo_live.training.face_track import (
    FaceTrack,
    Fault,
    _bridged,
    follow,
    judge,
    main_fault,
    neutral,
    sharpness,
    stretches,
)
from emo_live.training.frame_data import Shard
from emo_live.training.head_pose import DISTANCE_CM, FOCAL, RIGID_HEAD, head_poses
from emo_live.types import Box, Float32


@pytest.fixture(scope="module")
def finder() -> FaceFinder:
    return FaceFinder()


@pytest.fixture(scope="module")
def face(finder: FaceFinder) -> Face:
    [found] = finder.find(films.portrait())
    return found


def still(face: Face, count: int, rate: float = 25) -> FaceTrack:
    """A film in which nothing moves."""
    return FaceTrack(
        np.arange(count) / rate,
        np.repeat(face.points[None], count, 0),
        np.tile(np.float32([face.yaw, face.pitch, face.roll]), (count, 1)),
        np.zeros((count, len(BLENDSHAPES)), np.float32),
        np.ones(count, np.float32),
        [Fault.NONE] * count,
        np.zeros(count, bool),
    )


def spoiled(track: FaceTrack, frames: slice, fault: Fault = Fault.NO_FACE) -> FaceTrack:
    points, faults = track.points.copy(), list(track.faults)
    points[frames] = np.nan
    faults[frames] = [fault] * len(faults[frames])
    return replace(track, points=points, faults=faults)


def spans(track: FaceTrack) -> list[tuple[int, int]]:
    return [(stretch.start, stretch.stop) for stretch in stretches(track)]


def test_a_good_film_is_one_stretch_with_the_crop_of_its_portrait(face: Face) -> None:
    [stretch] = stretches(still(face, 75))
    assert (stretch.start, stretch.stop) == (0, 75)
    assert np.array_equal(stretch.affine, crop_affine(face.points))


def test_cuts_and_faults_divide_a_film(face: Face) -> None:
    cut = still(face, 150)
    cut.cut[60] = True
    assert spans(cut) == [(0, 60), (60, 150)]
    assert spans(spoiled(still(face, 150), slice(60, 61), Fault.SEVERAL)) == [(0, 60), (61, 150)]
    assert spans(spoiled(still(face, 150), slice(60, 140), Fault.TURNED)) == [(0, 60)]


def test_a_face_lost_for_a_moment_is_bridged_if_it_comes_back_where_it_was(face: Face) -> None:
    # not through `follow`, which would need blurred pictures
    def bridged(lost: int, shift: float) -> list[Fault]:
        track = spoiled(still(face, 20), slice(8, 8 + lost))
        track.points[8 + lost :] += np.float32([shift, 0])
        return _bridged(track).faults

    assert bridged(3, 10) == [Fault.NONE] * 20
    assert bridged(3, 90)[7:12] == [Fault.NONE, *[Fault.NO_FACE] * 3, Fault.NONE]
    assert bridged(4, 0)[8:12] == [Fault.NO_FACE] * 4


def test_a_long_film_is_divided_evenly(face: Face) -> None:
    assert spans(still(face, 1750)) == [(0, 583), (583, 1166), (1166, 1750)]


def test_a_head_that_moves_away_ends_a_stretch(face: Face) -> None:
    moved, turned = still(face, 150), still(face, 150)
    moved.points[100:] += 0.15 * 512
    turned.angles[100:, 0] += 21
    assert spans(moved) == spans(turned) == [(0, 100)]


@pytest.mark.parametrize(
    ("count", "fault", "reason"),
    [
        (75, Fault.NO_FACE, "no face is found"),
        (75, Fault.SEVERAL, "several faces are in the picture"),
        (75, Fault.SMALL, "the face is less than 64 px high"),
        (75, Fault.BORDER, "the face is cut off by the picture's border"),
        (75, Fault.TURNED, "the head is turned too far"),
        (40, Fault.NONE, "it is shorter than 2 s"),
        (0, Fault.NONE, "it has no pictures"),
    ],
)
def test_says_what_is_wrong(face: Face, count: int, fault: Fault, reason: str) -> None:
    track = still(face, count)
    if fault:
        track = spoiled(track, slice(20, None), fault)
    assert spans(track) == []
    assert main_fault(track) == reason


def test_many_cuts_are_the_reason_where_they_are(face: Face) -> None:
    track = still(face, 75)
    track.cut[[25, 50]] = True
    assert spans(track) == []
    assert main_fault(track) == "there are cuts"


def test_the_portrait_is_the_neutral_sharp_frontal_picture(face: Face) -> None:
    """Every picture but one has an open mouth, closed lids, a turned head, blur or a shifted head."""
    track = still(face, 60)
    faults = np.arange(60) % 5
    track.points[faults == 0, 14, 1] += 25
    for lid, other in ((159, 145), (386, 374)):
        track.points[faults == 1, lid] = track.points[faults == 1, other]
    track.angles[faults == 2, 0] += 15
    track.sharp[faults == 3] = 0.4
    track.points[faults == 4] += np.float32([60, 0])
    chosen = 37
    good = still(face, 1)
    track.points[chosen], track.angles[chosen], track.sharp[chosen] = good.points[0], good.angles[0], 1
    assert neutral(track, 0, 60) == chosen
    assert neutral(track, 30, 60) == chosen - 30


def test_blur_is_seen_at_every_size() -> None:
    picture = films.portrait()
    points = np.float32([[120, 110], [390, 440]])
    sharp = sharpness(picture, points)
    large = cv2.resize(picture, (1024, 1024), interpolation=cv2.INTER_CUBIC)
    assert sharpness(large, points * 2) == pytest.approx(sharp, rel=0.1)
    assert sharpness(cv2.GaussianBlur(picture, (0, 0), 6), points) < 0.6 * sharp


def test_judges_a_picture_by_its_faces(face: Face) -> None:
    small = replace(face, box=Box(10, 10, 60, 70))
    poster = replace(face, box=Box(0, 0, 30, 40))
    assert judge([], 512, 512) is Fault.NO_FACE
    assert judge([face, poster], 512, 512) is Fault.NONE
    assert judge([face, face], 512, 512) is Fault.SEVERAL
    assert judge([small], 512, 512) is Fault.SMALL
    assert judge([replace(face, yaw=-30.0)], 512, 512) is Fault.TURNED
    assert judge([replace(face, box=Box(300, 100, 600, 450))], 512, 512) is Fault.BORDER


def test_follows_a_face_over_a_blurred_moment_and_sees_a_cut(finder: FaceFinder, face: Face) -> None:
    man, woman = films.portrait(), films.portrait("faker_female_90")
    nobody = np.full_like(man, 128)
    show = [man, films.placed(man, 4, 0), nobody, films.placed(man, 12, 0), woman, woman, *[nobody] * 4, woman]
    # the grey picture would look like a cut: a motion blur has the colours of the film
    show[2] = cv2.GaussianBlur(films.placed(man, 8, 0), (0, 0), 40)
    track = follow(((i / 25, picture) for i, picture in enumerate(show)), finder)
    shift = track.points[:4, :, 0].mean(1) - face.points[:, 0].mean()
    assert np.allclose(shift, [0, 4, 8, 12], atol=0.7)
    assert track.faults == [Fault.NONE] * 6 + [Fault.NO_FACE] * 4 + [Fault.NONE]
    assert np.isnan(track.points[7]).all()
    assert track.cut[4] and not track.cut[[0, 1, 2, 3, 5]].any()
    assert track.arkit[:2].max() > 0.05


def projected(pose: Float32) -> Float32:
    """(6,) -> (478, 2) shares: the rigid points of a head in that pose; nothing else is set."""
    yaw, pitch, roll = (float(v) for v in pose[:3])
    turns = ([0, -yaw, 0], [pitch, 0, 0], [0, 0, -roll])  # about axes right, down, away
    around_y, around_x, around_z = (cv2.Rodrigues(np.array(turn, float))[0] for turn in turns)
    head = np.array(list(RIGID_HEAD.values())) @ (around_z @ around_y @ around_x).T
    head += [pose[3], -pose[4], DISTANCE_CM - pose[5]]
    points = np.zeros((478, 2), np.float32)
    points[list(RIGID_HEAD)] = FOCAL * head[:, :2] / head[:, 2:] + 0.5
    return points


@pytest.mark.parametrize(("which", "size"), [(0, 0.12), (1, 0.1), (2, 0.15), (3, 2.0), (4, -1.5), (5, 4.0)])
def test_head_pose_is_found_with_the_packs_signs(which: int, size: float) -> None:
    """Two thirds of the clip rest, so that the median is rest."""
    pose = np.zeros(6, np.float32)
    pose[which] = size
    clip = np.stack([projected(np.zeros(6, np.float32))] * 40 + [projected(pose)] * 20)
    found = head_poses(clip)
    assert found.shape == (60, 6) and found.dtype == np.float32
    assert np.allclose(found[:34], 0, atol=1e-3)
    assert np.allclose(found[46:], pose, atol=0.01 * max(1, abs(size)) + 0.01)


def test_yaw_to_the_right_moves_the_nose_to_the_right() -> None:
    """The sign by what is seen, not by our own projection's formula."""
    points = projected(np.float32([0.2, 0, 0, 0, 0, 0]))
    middle = points[[234, 454], 0].mean()
    assert points[4, 0] > middle + 0.02
    assert projected(np.float32([0, 0.2, 0, 0, 0, 0]))[4, 1] > projected(np.zeros(6, np.float32))[4, 1] + 0.02
    assert projected(np.float32([0, 0, 0.2, 0, 0, 0]))[263, 1] < projected(np.zeros(6, np.float32))[263, 1] - 0.01


def test_boxes_are_those_of_the_renderer(shards: list[Shard], work_outlines: list[Float32]) -> None:
    from emo_live.training.face_boxes import face_boxes

    for shard, outline in zip(shards, work_outlines, strict=True):
        assert np.allclose(face_boxes(outline), np.median(shard.boxes, axis=0), atol=0.045)


@pytest.fixture
def work_outlines(work) -> list[Float32]:  # type: ignore[no-untyped-def]
    outlines = []
    for path in sorted((work / "frames").glob("*.npz")):
        with np.load(path) as file:
            outlines.append(file["outline"])
    return outlines
