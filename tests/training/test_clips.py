"""A folder of films becomes takes, tracks and sound features, in the forms that the later stages read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import films
import numpy as np
import pytest
import torch

from emo_live.config import TINY
from emo_live.errors import BadInputError
from emo_live.face.crop import crop_face
from emo_live.face.landmarker import BLENDSHAPES, FaceFinder
from emo_live.models.audio import WhisperEncoder
from emo_live.models.autoencoder import Autoencoder, MotionBasis
from emo_live.training import clips, sound, takes
from emo_live.training.encoder_stage import new_encoder
from emo_live.training.motion_data import MotionData
from emo_live.training.sound import KEPT, STRIDE
from emo_live.training.stages import main
from emo_live.training.takes import Row, at_times, gather, read_rows, split_table, steps_of, take_names, write_rows
from emo_live.training.work_folder import motion_data
from emo_live.types import UInt8

RATE, COUNT = 30, 66  # pictures of the film: 2.2 s
SIZE = (480, 540)
STEPS = 55  # the last picture is shown at 2.167 s: step 54


def place(time_s: float) -> tuple[float, float]:
    """Px to the right and down at a time of the film: a straight line, so that it is known between pictures, too."""
    return 14 * (time_s - 1.1), 6 * (time_s - 1.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One film: a portrait that moves slowly, at 30 pictures a second, with a voice that sets in after 0.8 s."""
    folder = tmp_path_factory.mktemp("films")
    (folder / "day one").mkdir()
    pictures = [films.placed(films.portrait(), *place(i / RATE), size=SIZE) for i in range(COUNT)]
    films.write(folder / "day one" / "a-b.mp4", pictures, RATE, films.voice(2.2, start_s=0.8))
    return folder


@pytest.fixture(scope="module")
def made(folder: Path, work: Path, basis: MotionBasis, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work folder that `emo-live train clips` leaves, with an encoder that gives what the optical flow finds."""
    made = tmp_path_factory.mktemp("made")
    (made / "basis.pt").write_bytes((work / "basis.pt").read_bytes())
    gather(folder, made, {})
    clips.write_tracks(made, new_encoder(basis).eval(), 0.0)
    torch.manual_seed(0)
    clips.write_sound(made, WhisperEncoder(TINY.whisper).eval(), variants=1, seed=0)
    return made


@pytest.fixture(scope="module")
def track(made: Path) -> dict[str, np.ndarray]:
    with np.load(made / "tracks" / "clip_day_one_a_b.npz") as file:
        return dict(file)


def test_a_film_is_listed_with_its_take(made: Path, folder: Path) -> None:
    [row] = read_rows(made)
    assert row.film == str(folder / "day one" / "a-b.mp4")
    assert (row.take, row.start_s, row.seconds, row.note) == ("clip_day_one_a_b", 0, STEPS / 25, "")


def test_the_crop_is_where_an_avatar_of_the_portrait_has_it(made: Path) -> None:
    with np.load(made / "clips" / "clip_day_one_a_b.npz") as take:
        portrait, outline, affine = take["portrait"], take["outline"], take["affine"]
    [face] = FaceFinder().find(films.placed(films.portrait(), 0, 0, size=SIZE))
    expected = crop_face(films.placed(films.portrait(), 0, 0, size=SIZE), face.points)
    assert portrait.shape == (512, 512, 3)
    assert np.abs(outline - expected.landmarks).mean() < 0.006
    assert affine[0, 0] == pytest.approx(expected.crop_to_picture[0, 0], rel=0.04)
    assert np.abs(portrait.astype(float) - expected.portrait).mean() < 12


def test_tracks_are_as_the_renderer_writes_them(track: dict[str, np.ndarray]) -> None:
    assert list(track["names"]) == ["clip_day_one_a_b"]
    shapes = {name: (value.shape, value.dtype) for name, value in track.items() if name != "names"}
    assert shapes == {
        "portrait": ((256, 256, 3), np.uint8),
        "outline": ((478, 2), np.float32),
        "z0": ((STEPS, 16, 16, 16), np.float16),
        "pose0": ((STEPS, 6), np.float32),
        "arkit0": ((STEPS, 52), np.float32),
        "silent0": ((STEPS,), np.bool_),
    }


def test_the_motion_is_the_films_at_25_a_second(track: dict[str, np.ndarray], made: Path, basis: MotionBasis) -> None:
    """At every step the mean flow is that of the line which the film's pictures lie on."""
    with np.load(made / "clips" / "clip_day_one_a_b.npz") as take:
        side = 512 * float(take["affine"][0, 0])
    flow = basis.decode(torch.from_numpy(track["z0"].astype(np.float32)))[:, :2, 40:96, 40:88].mean((2, 3)).numpy()
    times = np.arange(STEPS) / 25
    expected = -np.array([place(t) for t in times]) * 128 / side
    offset = (flow - expected).mean(0)  # where the portrait was
    assert np.abs(flow - expected - offset).max() < 0.1
    assert np.abs(np.polyfit(times, flow, 1)[0] - np.polyfit(times, expected, 1)[0]).max() < 0.06


def test_pose_and_silence_follow_the_film(track: dict[str, np.ndarray]) -> None:
    pose, silent = track["pose0"], track["silent0"]
    # 14 px/s of a square of about 495 px, at 108 cm with a focal length of three sides
    assert np.polyfit(np.arange(STEPS) / 25, pose[:, 3], 1)[0] == pytest.approx(14 / 495 / 3 * 108, rel=0.25)
    assert np.polyfit(np.arange(STEPS) / 25, pose[:, 4], 1)[0] == pytest.approx(-6 / 495 / 3 * 108, rel=0.4)
    assert silent[:17].all() and not silent[23:].any()


def test_sound_features_are_as_for_performances(made: Path) -> None:
    features = np.load(made / "sound" / "clip_day_one_a_b.npy")
    assert features.shape == (1, STEPS // STRIDE + 1, KEPT, TINY.whisper.width) and features.dtype == np.float16


def test_later_stages_read_them(made: Path) -> None:
    train, val = motion_data(None, made)
    assert [track.name for track in train.tracks] == [track.name for track in val.tracks] == ["clip_day_one_a_b"]
    batch = next(train.batches(2, (8,), 0))
    assert batch["z"].shape == (2, 1, 8, 16, 16, 16)
    assert batch["velocity"].max() < 5


def test_tracks_of_a_pack_and_of_clips_go_together(made: Path, work: Path, basis: MotionBasis) -> None:
    both = MotionData(work, [path.stem for path in (work / "tracks").glob("*.npz")], basis, BLENDSHAPES)
    alone = MotionData(made, take_names(made, "train"), basis, BLENDSHAPES)
    assert {track.z.shape[1:] for track in both.tracks} == {track.z.shape[1:] for track in alone.tracks}
    assert {track.features.shape[2:] for track in both.tracks} == {track.features.shape[2:] for track in alone.tracks}


def test_judges_takes_by_their_pictures(made: Path, basis: MotionBasis) -> None:
    torch.manual_seed(0)
    autoencoder = Autoencoder(TINY.autoencoder)
    autoencoder.flow.basis.load_state_dict(basis.state_dict())
    figures = clips.judge(made, new_encoder(basis).eval(), autoencoder.eval())
    assert figures["l1"] < 0.6 * figures["copied_l1"]
    [row] = read_rows(made)
    assert row.l1 == pytest.approx(figures["l1"], abs=1e-5)
    assert (made / "clips.png").exists()


def test_what_is_done_is_not_done_again(folder: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("was done before")

    monkeypatch.setattr(takes, "take_film", never)
    monkeypatch.setattr(clips, "write_track", never)
    gather(folder, made, {})
    target = made / "tracks" / "clip_day_one_a_b.npz"
    clips.write_tracks(made, None, target.stat().st_mtime - 1)  # type: ignore[arg-type]
    os.utime(target, (0, 0))
    with pytest.raises(AssertionError, match="was done before"):
        clips.write_tracks(made, None, 1.0)  # type: ignore[arg-type]


def test_the_command_does_it_all_and_tunes_the_encoder(
    folder: Path, made: Path, basis: MotionBasis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    shutil.copytree(made, work)
    torch.manual_seed(0)
    autoencoder, encoder = Autoencoder(TINY.autoencoder), new_encoder(basis)
    autoencoder.flow.basis.load_state_dict(basis.state_dict())
    encoder.conv_out.bias.data += 1
    films.checkpoint(autoencoder, work / "autoencoder")
    films.checkpoint(encoder, work / "encoder")
    monkeypatch.setattr(sound, "whisper_encoder", lambda path: None)
    options = ["--whisper", "unused.pt", "--work", str(work)]
    track = work / "tracks" / "clip_day_one_a_b.npz"
    before = np.load(track)["z0"]
    assert main(["clips", str(folder), *options]) == 0
    wrong = np.load(track)["z0"]
    assert np.allclose(wrong - before, 1, atol=0.02), "the encoder is newer than the tracks, so they are made anew"
    assert main(["clips", str(folder), *options, "--tune", "0.0001", "--batch", "2"]) == 0
    assert (work / "encoder_tuned" / "state.pt").exists()
    assert not np.array_equal(np.load(track)["z0"], wrong), "the tuned one is newer still"


def test_without_an_encoder_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="emo-live train encoder"):
        clips.encode(tmp_path)


def two_people() -> UInt8:
    return np.concatenate([films.portrait(), films.portrait("faker_female_90")], axis=1)


@pytest.mark.parametrize(
    ("picture", "note"),
    [
        (lambda: np.full((256, 256, 3), 128, np.uint8), "no face is found"),
        (two_people, "several faces are in the picture"),
        (films.portrait, "it is shorter than 2 s"),
        (lambda: films.placed(films.portrait(), 0, 0, 0.15), "the face is less than 64 px high"),
        (lambda: films.portrait()[:, 190:], "the face is cut off by the picture's border"),
    ],
    ids=["nobody", "two", "short", "small", "cut off"],
)
def test_films_of_no_use_are_listed_with_a_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], picture: Callable[[], UInt8], note: str
) -> None:
    films.write(tmp_path / "f.mp4", [np.ascontiguousarray(picture())] * 3, sound=films.voice(0.5))
    gather(tmp_path, tmp_path / "work", {})
    assert capsys.readouterr().out == f"skipped: f.mp4: {note}\n"
    [row] = read_rows(tmp_path / "work")
    assert (row.take, row.seconds, row.note) == ("", 0, f"f.mp4: {note}")
    assert not (tmp_path / "work" / "clips").exists()


def test_films_without_a_voice_are_skipped_before_any_face_is_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(takes, "follow")
    films.write(tmp_path / "mute.mp4", [films.portrait()] * 3)
    films.write(tmp_path / "silent.mp4", [films.portrait()] * 3, sound=films.voice(0.5, start_s=9))
    (tmp_path / "text.mp4").write_text("no film")
    gather(tmp_path, tmp_path / "work", {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[1].split(" ")[1] for line in lines] == ["mute.mp4", "silent.mp4", "text.mp4"]
    assert "has no sound" in lines[0] and "its sound is silent" in lines[1] and "is no video" in lines[2]


def test_names_never_collide() -> None:
    assert takes.unused("clip_a", {"clip_b"}) == "clip_a"
    assert takes.unused("clip_a", {"clip_a", "clip_a_2"}) == "clip_a_3"


def test_takes_are_held_out_by_table_or_every_tenth(tmp_path: Path) -> None:
    def listed(count: int, split: str = "") -> list[Row]:
        return [Row("f", f"t{i}", 0, 3, split, "") for i in range(count)]

    write_rows(tmp_path, [*listed(20), Row("g", "", 0, 0, "", "no face, none")])
    assert take_names(tmp_path, "val") == ["t9", "t19"] and len(take_names(tmp_path, "train")) == 18
    write_rows(tmp_path, listed(4))
    assert take_names(tmp_path, "val") == ["t3"] and take_names(tmp_path, "train") == ["t0", "t1", "t2"]
    write_rows(tmp_path, [*listed(4, "train"), Row("h", "x", 0, 3, "val", "")])
    assert take_names(tmp_path, "val") == ["x"] and len(take_names(tmp_path, "train")) == 4
    assert read_rows(tmp_path)[0] == Row("f", "t0", 0, 3, "train", "")


def test_reads_a_table_of_splits(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("clip,identity,split\na,x,train\nb,y,val\n")
    assert split_table(tmp_path / "t.csv") == {"a": "train", "b": "val"}


@pytest.mark.parametrize(
    ("first_s", "rate", "count", "samples", "expected"),
    [
        (0.0, 25, 75, 48_000, (0, 75)),
        (0.0, 30, 75, 48_000, (0, 62)),
        (1.01, 25, 75, 480_000, (26, 74)),
        (1.0005, 25, 75, 480_000, (25, 75)),  # a millisecond of rounding is no missing picture
        (0.0, 25, 75, 32_100, (0, 50)),  # the sound ends earlier
    ],
)
def test_steps_lie_between_pictures_and_have_sound(
    first_s: float, rate: float, count: int, samples: int, expected: tuple[int, int]
) -> None:
    assert steps_of(first_s + np.arange(count) / rate, samples) == expected


def test_motion_is_interpolated_between_pictures() -> None:
    times = np.array([0.0, 0.04, 0.09, 0.12])
    values = np.stack([times * 2, 1 - times], 1)
    wanted = np.array([0.0, 0.02, 0.05, 0.12, 0.13])
    inside = np.minimum(wanted, 0.12)
    assert np.allclose(at_times(values, times, wanted), np.stack([inside * 2, 1 - inside], 1), atol=1e-6)
