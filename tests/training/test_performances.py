"""What puppets are given to do: the same for the same name, sound and motion together, lips that rest in silence."""

from __future__ import annotations

from pathlib import Path

import mini_pack
import numpy as np
import pytest

from emo_live.errors import BadInputError
from emo_live.training import performance
from emo_live.training.pack import Clip, Pack
from emo_live.training.performance import (
    HEAD_STD,
    PAUSED,
    QUIET,
    REAL_BLINK,
    REAL_DELAY,
    REST_FRAMES,
    REST_LEFT,
    at_rest,
    lip_columns,
    one_scale,
    perform,
    programme,
    room_tone,
    talker_motion,
    unvoiced,
    with_pause,
)
from emo_live.types import MODEL_STEP_SAMPLES, Float32

STEP = MODEL_STEP_SAMPLES
NAMES = ("made_1", "made_1" + PAUSED, "made_1" + QUIET, "real_2", "real_1" + PAUSED)


@pytest.mark.parametrize("name", NAMES)
def test_same_name_same_performance(pack: Pack, name: str) -> None:
    first = perform(pack, name)
    for other in NAMES:
        perform(pack, other)
    again = perform(Pack(pack.folder), name)
    for part in ("pcm", "arkit", "pose", "silent"):
        np.testing.assert_array_equal(getattr(again, part), getattr(first, part))


@pytest.mark.parametrize("name", NAMES)
def test_sound_and_motion_are_as_long_as_each_other(pack: Pack, name: str) -> None:
    show = perform(pack, name)
    frames = len(show.arkit)
    assert frames == mini_pack.FRAMES[name.split("~")[0]]
    assert show.pcm.shape == (frames * STEP,) and show.pcm.dtype == np.float32
    assert show.arkit.shape == (frames, 52) and show.pose.shape == (frames, 6) and show.silent.shape == (frames,)
    assert show.arkit.dtype == show.pose.dtype == np.float32


def test_speech_begins_where_the_table_says(pack: Pack) -> None:
    """made_2 is the second clip of its file."""
    loud = np.abs(pack.speech("made_2")).reshape(-1)[: 125 * STEP].reshape(125, STEP).max(1) > 0.01
    assert loud.nonzero()[0].tolist() == list(range(mini_pack.SPOKEN.start, mini_pack.SPOKEN.stop))


def test_names_of_one_clip_move_differently(pack: Pack) -> None:
    poses = [perform(pack, "made_1" + end).pose for end in ("", PAUSED, QUIET)]
    ratios = [float(pose.std() / poses[0].std()) for pose in poses[1:]]
    assert all(abs(ratio - 1) > 0.005 and 0.5 < ratio < 1.8 for ratio in ratios), "heads turn more or less"


def test_every_name_has_its_own_liveliness(pack: Pack) -> None:
    """By what factor a head turns depends on the whole name, not on its length or its ending."""
    made = [perform(pack, name).pose.std() / pack.motion(name)[1].std() for name in ("made_1", "made_2")]
    assert abs(made[0] - made[1]) > 0.005


def pause_of(pcm: Float32) -> tuple[int, int]:
    """First sample and one past the last of the longest stretch of exact zeros."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], pcm == 0, [False]]).astype(int)))
    start, end = max(edges.reshape(-1, 2), key=lambda pair: pair[1] - pair[0])
    return int(start), int(end)


@pytest.mark.parametrize("seed", range(8))
def test_a_pause_silences_a_part_without_clicks(seed: int) -> None:
    random = np.random.default_rng(seed)
    frames = int(random.integers(76, 160))
    pcm = np.full(frames * STEP, 0.1, np.float32)
    paused = with_pause(pcm, random)
    start, end = pause_of(paused)
    assert 0.7 < (end - start) / 16_000 < 2.5
    ends = np.r_[0 : start - STEP, end + STEP : len(pcm)]
    np.testing.assert_array_equal(paused[ends], pcm[ends])
    assert np.abs(np.diff(paused)).max() < 0.001, "no click"


def test_lips_rest_where_nothing_is_said_and_nothing_else_does(arkit_names: tuple[str, ...]) -> None:
    arkit, silent = mini_pack.arkit(arkit_names, 100, 3), np.zeros(100, bool)
    silent[30:70] = silent[90:] = True
    still, lips = at_rest(arkit, silent, arkit_names), lip_columns(arkit_names)
    np.testing.assert_array_equal(still[:, ~lips], arkit[:, ~lips])
    np.testing.assert_array_equal(still[~silent], arkit[~silent])
    assert not still[30 + REST_FRAMES - 1 : 71 - REST_FRAMES, lips].any(), "lips rest"
    assert not still[90 + REST_FRAMES - 1 :, lips].any(), "and stay so to the end"
    ratio = still[:, lips] / arkit[:, lips]
    np.testing.assert_allclose(ratio, ratio[:, :1].repeat(lips.sum(), 1), atol=1e-5)  # all lips together
    assert np.abs(np.diff(ratio[:, 0])).max() < 0.6, "lips do not snap"


@pytest.mark.parametrize("name", ["made_2" + PAUSED, "made_1" + PAUSED])
def test_lips_are_at_rest_while_a_paused_performance_is_silent(
    pack: Pack, arkit_names: tuple[str, ...], name: str
) -> None:
    lips, show = lip_columns(arkit_names), perform(pack, name)
    resting = np.flatnonzero((show.arkit[:, lips] == 0).all(1))
    assert len(resting) > 10 and show.silent[resting].all()
    for frame in resting:
        assert np.abs(show.pcm[frame * STEP : (frame + 1) * STEP]).max() < 0.01


def test_short_clips_have_no_pause(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    short = pack.motion("made_1")[0][:75], pack.motion("made_1")[1][:75]
    monkeypatch.setattr(performance, "talker_motion", lambda pack, clip: short)
    np.testing.assert_array_equal(perform(pack, "made_1" + PAUSED).pcm, pack.speech("made_1")[: 75 * STEP])


def test_quiet_performances_have_eyes_and_head_only(pack: Pack, arkit_names: tuple[str, ...]) -> None:
    show, plain, lips = perform(pack, "made_1" + QUIET), perform(pack, "made_1"), lip_columns(arkit_names)
    assert not show.arkit[:, lips].any()
    np.testing.assert_array_equal(show.arkit[:, ~lips], plain.arkit[:, ~lips])
    assert np.abs(show.pose).max() > 0
    assert np.abs(show.pcm).max() < 0.05


def test_room_tone_is_silence_or_next_to_it() -> None:
    tones = [room_tone(8000, np.random.default_rng(seed)) for seed in range(60)]
    levels = np.array([np.sqrt(np.square(tone).mean()) for tone in tones])
    assert all(tone.shape == (8000,) for tone in tones)
    assert 10 < (levels == 0).sum() < 40
    assert levels[levels > 0].min() > 5e-5 and levels.max() < 8e-3


def test_lips_are_jaw_and_mouth(arkit_names: tuple[str, ...]) -> None:
    chosen = {name for name, lip in zip(arkit_names, lip_columns(arkit_names), strict=True) if lip}
    assert {"jawOpen", "mouthPucker", "mouthSmileLeft"} <= chosen
    assert not {"eyeBlinkLeft", "browInnerUp", "cheekPuff", "noseSneerLeft", "_neutral"} & chosen
    assert len(chosen) == 27


def test_real_talkers_come_to_one_scale(arkit_names: tuple[str, ...]) -> None:
    arkit, still = mini_pack.arkit(arkit_names, 101, 3), np.zeros((101, 6), np.float32)
    still[:, 0] = np.deg2rad(0.3) * np.sin(np.arange(101) / 8)
    out, pose = one_scale(arkit, still, arkit_names)
    rest, left = np.median(arkit, 0), np.median(out, 0)
    column = {name: i for i, name in enumerate(arkit_names)}
    for name in ("jawOpen", "mouthClose", "mouthPucker", "mouthLowerDownLeft"):
        np.testing.assert_allclose(out[:, column[name]], arkit[:, column[name]], atol=1e-6)
    assert left[column["mouthSmileLeft"]] == pytest.approx(REST_LEFT * rest[column["mouthSmileLeft"]], abs=1e-5)
    assert left[column["browInnerUp"]] == pytest.approx(0, abs=1e-6)
    blink = column["eyeBlinkLeft"]
    expected = np.clip(arkit[:, blink] - rest[blink], 0, 1) * REAL_BLINK
    np.testing.assert_allclose(out[:, blink], expected, atol=1e-5)
    assert out.min() >= 0 and out.max() <= 1
    assert pose.std() / still.std() == pytest.approx(4, rel=0.05), "a still head moves up to four times as much"


def test_lively_heads_stay_as_they_are(arkit_names: tuple[str, ...]) -> None:
    pose = np.zeros((200, 6), np.float32)
    pose[:, :3] = np.deg2rad(3 * HEAD_STD) * np.cos(np.arange(200) * np.pi / 40)[:, None]
    out = one_scale(mini_pack.arkit(arkit_names, 200, 0), pose, arkit_names)[1]
    np.testing.assert_allclose(out, pose, atol=0.06 * pose.max())


def test_trembling_is_not_enlarged(arkit_names: tuple[str, ...]) -> None:
    """What a tracker adds from frame to frame grows less than what the head does."""
    shake = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32) * np.float32(np.deg2rad(0.05))
    nod = np.zeros_like(shake)
    nod[:, 0] = np.deg2rad(0.5) * np.sin(np.arange(200) / 12)
    arkit = mini_pack.arkit(arkit_names, 200, 0)
    out, calm = one_scale(arkit, nod + shake, arkit_names)[1], one_scale(arkit, nod, arkit_names)[1]
    assert calm.std() > 2 * nod.std()
    assert np.diff(out - calm, axis=0).std() < np.diff(shake, axis=0).std()


def test_only_real_talkers_are_rescaled(pack: Pack) -> None:
    np.testing.assert_array_equal(talker_motion(pack, "made_1")[0], pack.motion("made_1")[0])
    assert np.abs(talker_motion(pack, "real_1")[0] - pack.motion("real_1")[0]).max() > 0.1


def test_motion_of_real_talkers_comes_with_its_sound(pack: Pack) -> None:
    """The tracker is REAL_DELAY frames late."""
    moved, late = talker_motion(pack, "real_1")[0], pack.motion("real_1")[0]
    jaw = pack.arkit_names.index("jawOpen")
    np.testing.assert_allclose(moved[:-REAL_DELAY, jaw], late[REAL_DELAY:, jaw], atol=1e-6)


def test_unvoiced_keeps_two_frames_of_distance() -> None:
    silent = unvoiced(mini_pack.speech(110, 0), 110)
    expected = [i for i in range(110) if i < mini_pack.SPOKEN.start - 2 or i >= mini_pack.SPOKEN.stop + 2]
    assert silent.nonzero()[0].tolist() == expected
    assert unvoiced(np.zeros(10 * STEP, np.float32), 10).all()


def test_a_programme_has_every_clip_and_some_made_ones() -> None:
    clips = [Clip(f"c{i}", "v", True, 2.0, "en", "") for i in range(400)]
    names = programme(clips)
    assert names == programme(clips) and len(set(names)) == len(names)
    assert {clip.name for clip in clips} <= set(names)
    assert 50 < sum(name.endswith(PAUSED) for name in names) < 110
    assert 10 < sum(name.endswith(QUIET) for name in names) < 45
    assert [name for name in names if "~" not in name] != [clip.name for clip in clips], "mixed"


def test_the_pack_is_read_as_its_readme_says(pack: Pack, arkit_names: tuple[str, ...]) -> None:
    assert pack.arkit_names == arkit_names
    assert pack.portraits("train") == ["a", "b"] and pack.portraits("val") == ["c"]
    assert [clip.name for clip in pack.clips("train")] == ["made_1", "real_1"]
    assert [clip.synthetic for clip in pack.clips("train")] == [True, False]
    assert pack.is_real("real_2") and not pack.is_real("made_2")
    fit = pack.fit("a")
    assert fit.focal == 900 and fit.translation.tolist() == [0, 1, 2] and fit.points.shape == (478, 3)
    picture = pack.portrait("a")
    assert picture.shape == (512, 512, 3) and np.abs(picture.mean((0, 1)) - (200, 100, 50)).max() < 3


def test_a_folder_that_is_no_pack(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"portraits\.csv is missing"):
        Pack(tmp_path)
