"""A face is found, judged, cropped and kept in a file that can only be read back whole and unaltered."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import math
import zipfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import emo_live.avatar
from emo_live.avatar import Avatar
from emo_live.errors import BadInputError
from emo_live.face.crop import CROP_PX, crop_face
from emo_live.face.landmarker import BLENDSHAPES, FaceFinder
from emo_live.face.portrait import load_picture
from emo_live.face.resample import resize, rotated_square, sample
from emo_live.face.rules import choose_face
from emo_live.types import Box

PORTRAITS = Path(emo_live.avatar.__file__).parent / "assets" / "portraits"
WOMAN, MAN, OTHER = (PORTRAITS / f"faker_{name}.jpg" for name in ("female_44", "male_30", "female_90"))


@lru_cache
def finder() -> FaceFinder:
    return FaceFinder()


@lru_cache
def picture(path: Path) -> np.ndarray:
    return load_picture(path)


@lru_cache
def avatar() -> Avatar:
    return Avatar.prepare(WOMAN)


def scene(*faces: tuple[Path, int, int, int], size: tuple[int, int] = (900, 1200)) -> np.ndarray:
    """A grey wall with pictures on it: path, left, top, side."""
    wall = np.full((*size, 3), 150, np.uint8)
    for path, left, top, side in faces:
        wall[top : top + side, left : left + side] = resize(picture(path), side, side)
    return wall


def turned(degrees: float) -> np.ndarray:
    around = np.pad(picture(WOMAN), ((256, 256), (256, 256), (0, 0)), mode="reflect")
    return np.asarray(Image.fromarray(around).rotate(degrees, Image.Resampling.BICUBIC))[256:-256, 256:-256]


# ---- finding


@pytest.mark.parametrize("path", [WOMAN, MAN, OTHER])
def test_the_points_of_a_face_lie_where_they_should(path: Path) -> None:
    (face,) = finder().find(picture(path))
    points = face.points
    assert points.shape == (478, 2) and points.dtype == np.float32 and face.score > 0.99
    # The iris is darker than the cheek, the lips lie between nose and chin, left is left.
    grey = picture(path).mean(axis=2)
    iris, cheek = points[468], points[50]
    assert grey[int(iris[1]), int(iris[0])] < grey[int(cheek[1]), int(cheek[0])]
    assert points[1, 1] < points[13, 1] < points[14, 1] + 1 < points[152, 1]
    assert points[468, 0] < points[473, 0]
    assert abs(face.yaw) < 10 and abs(face.roll) < 5
    assert set(face.blendshapes) == set(BLENDSHAPES) and face.blendshapes["jawOpen"] < 0.2


def test_points_follow_size_and_place() -> None:
    (large,) = finder().find(picture(WOMAN))
    (small,) = finder().find(scene((WOMAN, 700, 420, 256)))
    expected = large.points / 2 + [700, 420]
    assert np.linalg.norm(small.points - expected, axis=1).mean() < 2.0


def test_a_small_face_in_a_large_picture_is_found() -> None:
    (face,) = finder().find(scene((MAN, 2500, 90, 180), size=(2000, 3000)))
    assert 80 < face.box.height < 110 and 2550 < face.box.centre[0] < 2630


def test_a_turned_head_is_found_with_its_roll() -> None:
    (straight,), (tilted,) = finder().find(picture(WOMAN)), finder().find(turned(25))
    assert tilted.roll - straight.roll == pytest.approx(25, abs=2.5)


def test_finding_is_repeatable() -> None:
    first, second = FaceFinder().find(picture(MAN)), finder().find(picture(MAN))
    np.testing.assert_array_equal(first[0].points, second[0].points)


# ---- rules


def test_no_face() -> None:
    with pytest.raises(BadInputError, match="no face found"):
        Avatar.prepare(np.full((300, 400, 3), 128, np.uint8))


def test_several_faces_unless_the_largest_is_asked_for() -> None:
    both = scene((WOMAN, 30, 100, 512), (MAN, 650, 100, 400))
    with pytest.raises(BadInputError, match="2 faces found.*largest"):
        Avatar.prepare(both)
    chosen = Avatar.prepare(both, largest_face=True)
    assert chosen.crop_to_picture[0, 2] < 300


def test_a_poster_in_the_background_does_not_count() -> None:
    with_poster = scene((WOMAN, 0, 0, 1000), (MAN, 1050, 50, 140), size=(1000, 1200))
    assert Avatar.prepare(with_poster).crop_to_picture[0, 2] < 300


def test_too_small() -> None:
    with pytest.raises(BadInputError, match="px high"):
        Avatar.prepare(scene((WOMAN, 60, 60, 110), size=(220, 260)))


@pytest.mark.parametrize("window", [(slice(200, 512), slice(0, 512)), (slice(125, 410), slice(140, 375))])
def test_cut_off(window: tuple[slice, slice]) -> None:
    with pytest.raises(BadInputError, match="cut off"):
        Avatar.prepare(np.ascontiguousarray(picture(WOMAN)[window]))


def test_profile_and_ranking() -> None:
    (face,) = finder().find(picture(WOMAN))
    assert choose_face([face], 512, 512) is face
    for yaw in (-50.0, 50.0):
        with pytest.raises(BadInputError, match="turned 50 degrees"):
            choose_face([dataclasses.replace(face, yaw=yaw)], 512, 512)
    tiny = dataclasses.replace(face, box=Box(0, 0, 40, 0.2 * face.box.height))
    assert choose_face([tiny, face], 512, 512) is face


def test_yaw_follows_the_depth_of_the_points() -> None:
    from emo_live.face.landmarker import head_angles

    points = np.zeros((478, 3), np.float32)
    points[[33, 263, 234, 454, 10, 152]] = [[-4, 0, 0], [4, 0, 0], [-7, 0, 2], [7, 0, 2], [0, -9, 0], [0, 9, 0]]
    turn = math.radians(40)
    matrix = np.array([[math.cos(turn), 0, -math.sin(turn)], [0, 1, 0], [math.sin(turn), 0, math.cos(turn)]])
    yaw, pitch, roll = head_angles((points @ matrix.T).astype(np.float32))
    # A point in front (z negative) goes to the right of the picture: the face looks to the right.
    assert (matrix @ [0, 0, -1])[0] > 0
    assert yaw == pytest.approx(40, abs=0.1) and abs(pitch) < 0.1 and abs(roll) < 0.1


# ---- crop


def test_the_crop_is_placed_as_in_the_training_data() -> None:
    box = avatar().face_box
    assert box.height == pytest.approx(0.543, abs=0.002)
    assert box.centre[0] == pytest.approx(0.5, abs=0.003)
    assert box.centre[1] == pytest.approx(0.527, abs=0.003)


def test_landmarks_and_affine_agree_with_the_finder() -> None:
    (face,) = finder().find(picture(WOMAN))
    own = avatar()
    crop_px = own.landmarks.astype(np.float64) * CROP_PX - 0.5
    back = crop_px @ own.crop_to_picture[:, :2].T + own.crop_to_picture[:, 2] + 0.5
    assert np.abs(back - face.points).max() < 0.1


def test_a_tilted_head_is_made_level() -> None:
    level = Avatar.prepare(turned(15))
    eyes = level.landmarks[263] - level.landmarks[33]
    assert abs(math.degrees(math.atan2(eyes[1], eyes[0]))) < 0.5
    assert abs(level.crop_to_picture[0, 1]) > 0.1
    difference = np.abs(level.portrait[150:400, 150:360].astype(int) - avatar().portrait[150:400, 150:360])
    assert difference.mean() < 12


def test_a_slightly_tilted_head_stays_as_it_is() -> None:
    assert Avatar.prepare(turned(4)).crop_to_picture[0, 1] == 0


def test_what_lies_outside_is_filled_without_black() -> None:
    shifted = np.ascontiguousarray(picture(WOMAN)[70:, 60:])
    (face,) = finder().find(shifted)
    crop = crop_face(shifted, face.points)
    assert crop.crop_to_picture[0, 2] < -20 and crop.crop_to_picture[1, 2] < -20
    # The wall behind her is light, and so is what continues it; her hair does not come back at the left.
    assert crop.portrait[20:350, :30].min() > 190
    inside = slice(300, 310), slice(200, 300)
    raw = sample(shifted, crop.crop_to_picture, CROP_PX)
    np.testing.assert_array_equal(crop.portrait[inside], raw[inside])


def test_shrinking_does_not_alias() -> None:
    stripes = np.zeros((2048, 2048, 3), np.uint8)
    stripes[:, ::2] = 255
    grey = sample(stripes, rotated_square((1024, 1024), 2000, 0.0, 256), 256)
    assert grey[20:-20, 20:-20].std() < 6


@pytest.mark.parametrize("side", [300.0, 1500.0])
def test_sampling_is_centred(side: float) -> None:
    rows, columns = np.mgrid[0:2000, 0:2000].astype(np.float32)
    ramp = np.repeat((columns / 8)[:, :, None], 3, axis=2).astype(np.uint8)
    square = sample(ramp, rotated_square((1000, 1000), side, 0.0, 512), 512)
    assert square[100:400, 255:257].mean() == pytest.approx(1000 / 8 - 0.5, abs=0.6)


# ---- the avatar


def test_same_picture_same_id_whatever_it_came_as() -> None:
    again = asyncio.run(Avatar.from_image(WOMAN.read_bytes()))
    assert again.id == avatar().id and again == avatar() and len({again, avatar()}) == 1
    assert len(again.id) == 64
    assert Avatar.prepare(MAN) != avatar()


def test_an_avatar_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        avatar().id = "x"  # type: ignore[misc]
    with pytest.raises(ValueError, match="read-only"):
        avatar().portrait[0, 0] = 0


def test_boxes_hold_what_they_name() -> None:
    own = avatar()
    mouth, (left, right) = own.mouth_box, own.eyes_boxes
    assert left.right < right.left and max(left.bottom, right.bottom) < mouth.top
    assert left.left < mouth.centre[0] < right.right
    for inner in (mouth, left, right):
        assert own.face_box.left < inner.left and inner.right < own.face_box.right
        assert own.face_box.top < inner.top and inner.bottom < own.face_box.bottom
    assert left.left < own.landmarks[468, 0] < left.right and right.left < own.landmarks[473, 0] < right.right
    assert mouth.top < own.landmarks[13, 1] < mouth.bottom


# ---- the file


def test_save_and_load(tmp_path: Path) -> None:
    file = tmp_path / "me.avatar"
    avatar().save(file)
    loaded = Avatar.load(file)
    assert loaded == avatar() and [entry.name for entry in tmp_path.iterdir()] == ["me.avatar"]
    for name in ("portrait", "landmarks", "picture", "crop_to_picture"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(avatar(), name))
    other = tmp_path / "b.avatar"
    avatar().save(other)
    assert other.read_bytes() == file.read_bytes()


def test_open_tells_files_by_content(tmp_path: Path) -> None:
    disguised = tmp_path / "me.jpg"
    avatar().save(disguised)
    assert Avatar.open(disguised) == avatar()
    (tmp_path / "x.avatar").write_bytes(WOMAN.read_bytes())
    assert Avatar.open(tmp_path / "x.avatar") == avatar()
    with pytest.raises(BadInputError, match="there is no file"):
        Avatar.open(tmp_path / "none.avatar")


def test_save_does_not_overwrite_unasked(tmp_path: Path) -> None:
    file = tmp_path / "me.avatar"
    file.write_bytes(b"precious")
    with pytest.raises(BadInputError, match="exists already"):
        avatar().save(file)
    assert file.read_bytes() == b"precious"
    avatar().save(file, overwrite=True)
    assert Avatar.load(file) == avatar()


def test_a_failed_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInputError, match="cannot be written"):
        avatar().save(tmp_path / "no" / "me.avatar")
    with pytest.raises(BadInputError, match="is a folder"):
        avatar().save(tmp_path)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(BadInputError, match="No space left"):
        avatar().save(tmp_path / "me.avatar")
    assert list(tmp_path.iterdir()) == []


Members = dict[str, bytes]


def tampered(file: Path, change: Callable[[Members], None], compression: int = zipfile.ZIP_STORED) -> Path:
    avatar().save(file)
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file


def header(**changes: object) -> Callable[[Members], None]:
    def change(members: Members) -> None:
        values = json.loads(members["avatar.json"]) | changes
        members["avatar.json"] = json.dumps(values).encode()

    return change


def png(member: str, image: Image.Image) -> Callable[[Members], None]:
    def change(members: Members) -> None:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        members[member] = buffer.getvalue()

    return change


NAN_POINTS = [[math.nan, 0.5]] + [[0.5, 0.5]] * 477
MALICIOUS: dict[str, tuple[Callable[[Members], None], str]] = {
    "other version": (header(version=2), "has version 2"),
    "version is true": (header(version=True), "has version unknown"),
    "other format": (header(format="something"), "header is not"),
    "extra field": (header(more=1), "other fields"),
    "id is a number": (header(id=5), "other fields"),
    "other id": (header(id="0" * 64), "does not match its id"),
    "NaN": (header(landmarks=NAN_POINTS), "a number is NaN"),
    "infinite affine": (header(crop_to_picture=[[math.inf, 0, 0], [0, 1, 0]]), "a number is Infinity"),
    "few landmarks": (header(landmarks=[[0.5, 0.5]]), "landmarks are not"),
    "text for numbers": (header(landmarks=[["0.5", "0.5"]] * 478), "landmarks are not"),
    "truth for numbers": (header(landmarks=[[True, False]] * 478), "landmarks are not"),
    "endless integer": (header(crop_to_picture=[[10**400, 0, 0], [0, 1, 0]]), "affine are not"),
    "affine is an object": (header(crop_to_picture={"a": 1}), "affine are not"),
    "sheared affine": (header(crop_to_picture=[[1, 0.5, 0], [0, 1, 0]]), "does not lie"),
    "crop elsewhere": (header(crop_to_picture=[[1, 0, 9999], [0, 1, 0]]), "does not lie"),
    "points elsewhere": (header(landmarks=[[9, 9]] * 478), "far outside"),
    "not json": (lambda m: m.update({"avatar.json": b"{"}), "its header"),
    "deep json": (lambda m: m.update({"avatar.json": b"[" * 90_000}), "its header"),
    "json is a list": (lambda m: m.update({"avatar.json": b"[]"}), "header is not"),
    "huge json": (lambda m: m.update({"avatar.json": b" " * 200_000}), "too large"),
    "traversal": (lambda m: m.update({"../evil": b"x"}), "three parts"),
    "missing part": (lambda m: m.pop("picture.png") and None, "three parts"),
    "broken picture": (lambda m: m.update({"picture.png": m["picture.png"][:5000]}), "a picture in it"),
    "not a picture": (lambda m: m.update({"portrait.png": b"GIF89a"}), "a picture in it"),
    "huge picture": (png("picture.png", Image.new("RGB", (5000, 70))), "wrong size"),
    "grey portrait": (png("portrait.png", Image.new("L", (512, 512))), "wrong size"),
    "small portrait": (png("portrait.png", Image.new("RGB", (256, 256))), "wrong size"),
    "other portrait": (png("portrait.png", Image.new("RGB", (512, 512))), "does not match its id"),
}


@pytest.mark.parametrize("case", MALICIOUS)
def test_altered_files_are_refused(case: str, tmp_path: Path) -> None:
    change, message = MALICIOUS[case]
    file = tampered(tmp_path / "bad.avatar", change)
    with pytest.raises(BadInputError, match=message) as caught:
        Avatar.load(file)
    assert "emo-live enroll" in str(caught.value) and "\n" not in str(caught.value)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    bomb = tampered(
        tmp_path / "bomb.avatar", lambda m: m.update({"picture.png": b"\0" * 30_000_000}), zipfile.ZIP_DEFLATED
    )
    assert bomb.stat().st_size < 3_000_000
    with pytest.raises(BadInputError, match="compressed or too large"):
        Avatar.load(bomb)


def test_the_same_member_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "twice.avatar"
    avatar().save(file)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(file, "a") as archive:
        archive.writestr("avatar.json", b"{}")
    with pytest.raises(BadInputError, match="three parts"):
        Avatar.load(file)


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "me.avatar"
    avatar().save(file)
    data = file.read_bytes()
    for bad in (data[: len(data) // 2], data[:4], data[:-30], data[:5000] + b"\xff" + data[5001:]):
        file.write_bytes(bad)
        with pytest.raises(BadInputError, match="damaged"):
            Avatar.load(file)
    file.write_bytes(b"neither")
    with pytest.raises(BadInputError, match="not an avatar file"):
        Avatar.load(file)
    file.write_bytes(b"")
    with pytest.raises(BadInputError):
        Avatar.load(file)
