"""Windows of motion with what they are generated from: cut at the right places, mirrored as a whole."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from emo_live.config import LIDS, POSE, TINY
from emo_live.errors import BadInputError
from emo_live.models.autoencoder import MotionBasis
from emo_live.models.gestures import GESTURES
from emo_live.training.motion_data import (
    BLINK_SHARE,
    FIRST_SHARE,
    MotionData,
    gestures_of,
    head_velocity,
    mirrored_columns,
    mirrored_pose,
)
from emo_live.training.sound import KEPT, STRIDE

MOTION = TINY.emo.motion_frames
EDGE = TINY.emo.audio_projection.frames // 2


def test_tracks(data: MotionData) -> None:
    assert [track.name for track in data.tracks] == ["kokoro_af_bella_A360", "hibari_heart_H081"]
    assert [track.portrait for track in data.tracks] == [0, 1]
    for track in data.tracks:
        assert track.z.shape == (64, 16, 16, 16) and track.features.shape == (1, 64 // STRIDE + 1, KEPT, 384)
        assert track.velocity.shape == (64,) and track.silent.dtype == bool


@pytest.mark.parametrize(("start", "frames"), [(0, 8), (2, 8), (10, 4), (56, 8), (30, 2), (62, 2)])
def test_a_window_is_cut_where_it_lies(data: MotionData, start: int, frames: int) -> None:
    track = data.tracks[1]
    row = data.window(track, start, frames, 0)
    np.testing.assert_array_equal(row["z"], track.z[start : start + frames])
    np.testing.assert_array_equal(row["arkit"], track.arkit[start : start + frames])
    np.testing.assert_array_equal(row.pop("silent"), track.silent[start : start + frames])
    before = track.z[start - MOTION : start] if start else np.zeros((MOTION, 16, 16, 16))
    np.testing.assert_array_equal(row["motion"], before)
    assert row["features"].shape == ((frames + 2 * EDGE) * 2, 384)
    np.testing.assert_array_equal(row["features"], track.features[0, (start + frames) // 2, -len(row["features"]) :])
    assert row["velocity"].shape == (frames + 2 * EDGE,)
    places = np.clip(np.arange(start - EDGE, start + frames + EDGE), 0, 63)
    np.testing.assert_array_equal(row["velocity"], track.velocity[places])
    assert row["portrait"].shape == (3, 256, 256) and row["mask"].shape == (4, 128, 128)
    assert row["gestures"].shape == (frames, GESTURES) and not row.pop("mirrored")
    assert all(value.dtype == torch.float32 and torch.isfinite(value).all() for value in row.values())


def test_consecutive_windows_share_their_sound(data: MotionData) -> None:
    """Features of neighbouring windows are nearly the same where they speak of the same frames, and nowhere else."""
    track = data.tracks[0]
    first, second = (data.window(track, start, 8, 0)["features"].unflatten(0, (-1, 2)) for start in (20, 28))
    overlap = 2 * EDGE  # the last frames of the first window and its look-ahead
    same = (first[-overlap:] - second[:overlap]).square().mean()
    other = (first[:overlap] - second[:overlap]).square().mean()
    assert same < 0.4 * other


def test_mirroring(data: MotionData, arkit_names: tuple[str, ...]) -> None:
    row = data.window(data.tracks[0], 20, 8, 0)
    turned = data.mirror(row)
    for name, value in data.mirror(turned).items():
        assert torch.equal(value, row[name]), f"{name} twice is nothing"
    assert torch.equal(turned["portrait"], row["portrait"].flip(-1)) and torch.equal(
        turned["mask"], row["mask"].flip(-1)
    )
    assert torch.equal(turned["features"], row["features"]) and torch.equal(turned["velocity"], row["velocity"])
    for name in ("z", "motion"):
        assert torch.equal(turned[name], row[name].flip(-1) * data.signs)
    left, right = (arkit_names.index(f"mouthSmile{side}") for side in ("Left", "Right"))
    assert torch.equal(turned["arkit"][:, left], row["arkit"][:, right])
    jaw = arkit_names.index("jawOpen")
    assert torch.equal(turned["arkit"][:, jaw], row["arkit"][:, jaw])


def test_mirrored_motion_decodes_to_mirrored_flow(data: MotionData, basis: MotionBasis) -> None:
    row = data.window(data.tracks[0], 20, 4, 0)
    flow, turned = basis.decode(row["z"]), basis.decode(data.mirror(row)["z"])
    expected = flow.flip(-1) * torch.tensor([-1.0, 1.0, 1.0])[:, None, None]
    torch.testing.assert_close(turned, expected, rtol=0, atol=2e-2)


def test_mirrored_columns_pair_left_and_right(arkit_names: tuple[str, ...]) -> None:
    columns = mirrored_columns(arkit_names)
    assert sorted(columns) == list(range(52))
    np.testing.assert_array_equal(columns[columns], np.arange(52))
    partner = {name: arkit_names[i] for name, i in zip(arkit_names, columns, strict=True)}
    assert partner["eyeBlinkLeft"] == "eyeBlinkRight" and partner["jawLeft"] == "jawRight"
    assert partner["mouthLeft"] == "mouthRight" and partner["eyeLookInLeft"] == "eyeLookInRight"
    assert all(partner[name] == name for name in ("_neutral", "jawOpen", "browInnerUp", "mouthPucker"))
    assert sum(name != other for name, other in partner.items()) == 40


def test_batches(data: MotionData) -> None:
    drawn = list(islice(data.batches(6, (8, 4), seed=0), 24))
    assert {batch["z"].shape[2] for batch in drawn} == {8, 4}
    starts = flips = rows = 0
    for batch in drawn:
        frames = batch["z"].shape[2]
        assert batch["z"].shape == (6, 1, frames, 16, 16, 16) and batch["motion"].shape == (6, 1, MOTION, 16, 16, 16)
        assert batch["portrait"].abs().max() <= 1
        for k in range(6):
            place = located(data, batch["z"][k, 0].numpy())
            assert place is not None
            track, start, mirrored = place
            assert start % STRIDE == 0
            assert bool((batch["motion"][k] == 0).all()) == (start == 0)
            starts, flips, rows = starts + (start == 0), flips + mirrored, rows + 1
    assert 0.3 < flips / rows < 0.7
    assert starts / rows < 4 * FIRST_SHARE
    again = next(data.batches(6, (8, 4), seed=0))
    assert all(torch.equal(value, drawn[0][name]) for name, value in again.items())
    assert not torch.equal(next(data.batches(6, (8, 4), seed=1))["z"], drawn[0]["z"])


def located(data: MotionData, z: np.ndarray) -> tuple[int, int, bool] | None:
    """Which track a window comes from, where it starts, and whether it is mirrored."""
    turned = z[..., ::-1] * data.signs.numpy()
    for number, track in enumerate(data.tracks):
        for start in range(64 - len(z) + 1):
            piece = track.z[start : start + len(z)].astype(np.float32)
            if np.array_equal(piece, z):
                return number, start, False
            if np.array_equal(piece, turned):
                return number, start, True
    return None


def test_windows_ahead_follow_each_other(data: MotionData) -> None:
    for batch in islice(data.batches(4, (8,), seed=2, ahead=2), 6):
        assert batch["z"].shape == (4, 3, 8, 16, 16, 16)
        for k in range(4):
            places = [located(data, batch["z"][k, j].numpy()) for j in range(3)]
            first = places[0]
            assert first is not None
            assert places == [(first[0], first[1] + 8 * j, first[2]) for j in range(3)]
            for j in (1, 2):
                assert torch.equal(batch["motion"][k, j], batch["z"][k, j - 1, -MOTION:])
            assert torch.equal(batch["portrait"][k, 0], batch["portrait"][k, 2]), "one picture, one colour"


def test_every_place_of_a_track_is_used(data: MotionData) -> None:
    places = [
        located(data, z.numpy()) for batch in islice(data.batches(16, (8,), seed=3), 12) for z in batch["z"][:, 0]
    ]
    assert {place[1] for place in places if place} == set(range(0, 57, STRIDE))


def test_closing_lids_are_seen_often(data: MotionData) -> None:
    """In windows whose track has some, or they would be learnt last."""
    track = replace(data.tracks[0], arkit=np.zeros_like(data.tracks[0].arkit))
    track.arkit[40:43, LIDS] = 1
    random = np.random.default_rng(0)
    starts = np.array([MotionData._start(track, 48, 8, random) for _ in range(400)])
    assert starts.min() >= STRIDE and starts.max() <= 48 and not (starts % STRIDE).any()
    seen = (starts + 8 <= 42) & (starts + 16 > 40)  # the second of two windows
    assert seen.mean() > BLINK_SHARE
    track.arkit[:] = 0
    assert len({MotionData._start(track, 48, 8, random) for _ in range(400)}) == 24


def test_velocity_of_the_head() -> None:
    pose = np.zeros((100, 6), np.float32)
    pose[:, 1] = np.deg2rad(4) / 25 * np.arange(100)  # 4 degrees a second
    pose[:, 3:] = np.arange(100)[:, None]  # shifts do not count
    velocity = head_velocity(pose)
    assert velocity.shape == (100,) and velocity.dtype == np.float32
    np.testing.assert_allclose(velocity[13:], 4, rtol=1e-3)
    still = head_velocity(np.zeros((100, 6), np.float32))
    assert not still.any()


def test_a_mirrored_head_turns_the_other_way() -> None:
    pose = torch.arange(1.0, 7).repeat(2, 1)
    turned = mirrored_pose(pose)
    torch.testing.assert_close(turned[:, [1, 4, 5]], pose[:, [1, 4, 5]])
    torch.testing.assert_close(turned[:, [0, 2, 3]], -pose[:, [0, 2, 3]])


def test_gestures_are_the_upper_face_and_the_pose(data: MotionData, arkit_names: tuple[str, ...]) -> None:
    track = data.tracks[0]
    gestures = gestures_of(torch.from_numpy(track.arkit), torch.from_numpy(track.pose)).numpy()
    assert gestures.shape == (len(track.z), GESTURES)
    np.testing.assert_array_equal(gestures[:, 9], track.arkit[:, arkit_names.index("eyeBlinkLeft")])
    np.testing.assert_array_equal(gestures[:, -POSE:], track.pose)


def test_missing_tracks_are_said(basis: MotionBasis, arkit_names: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="emo-live train tracks"):
        MotionData(tmp_path, ["faker_male_61"], basis, arkit_names)
