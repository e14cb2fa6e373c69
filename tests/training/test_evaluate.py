"""The evaluation: which trials, what is heard and seen in them, baselines, goals, tables, and the whole command."""

from __future__ import annotations

import csv
import json
import math
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from emo_live.audio.source import AudioFile
from emo_live.errors import BadInputError, NotSupportedError
from emo_live.types import FPS, MODEL_RATE_HZ, MODEL_STEP_SAMPLES, Box

pytest.importorskip("scipy")
soundfile = pytest.importorskip("soundfile")

from emo_live.training import baselines, contact_sheet, evaluate, judging, stages, trials  # noqa: E402
from emo_live.training.pack import Pack  # noqa: E402

NAMES = ("_neutral", "jawOpen", "mouthFunnel", "eyeBlinkLeft", "browInnerUp")
LIPS = [1, 2]
VOICES = ("flite_rms", "kokoro_af_nova", "kokoro_zm_a", "grid_u1", "grid_s1", "hibari_heart")
CLIPS_EACH = 3
CLIP_S = 3.2


def table(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def speech_row(folder: Path, voice: str, name: str, split: str, random: np.random.Generator) -> dict[str, Any]:
    samples = round(CLIP_S * MODEL_RATE_HZ)
    loudness = np.abs(np.sin(np.arange(samples) / 1800)) ** 2
    sound = (random.normal(size=samples) * 0.1 * loudness).astype(np.float32)
    soundfile.write(str(folder / f"{name}.wav"), sound, MODEL_RATE_HZ, subtype="PCM_16")
    chinese = voice.startswith("kokoro_z")
    return {
        "clip": name, "file": f"{name}.wav", "start_sample": 0, "samples": samples, "seconds": CLIP_S,
        "kind": "real" if voice.startswith("grid") else "synthetic", "voice": voice, "licence": "", "split": split,
        "language": "zh" if chinese else "en", "text": f"words of {name}",
    }  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """A pack of two held-out portraits and one that is not, and 3 held-out clips of each voice and one that is not."""
    folder = tmp_path_factory.mktemp("pack")
    (folder / "portraits").mkdir()
    people = sorted((repository / "emo_live" / "assets" / "portraits").glob("*.jpg"))
    splits = {"one": "val", "two": "val", "three": "train"}
    for k, name in enumerate(splits):
        with Image.open(people[k % len(people)]) as picture:
            picture.convert("RGB").resize((512, 512)).save(folder / "portraits" / f"{name}.jpg")
    table(folder / "portraits.csv", [{"name": name, "split": split} for name, split in splits.items()])
    random = np.random.default_rng(0)
    rows, motion = [], {}
    for voice in VOICES:
        for k in range(CLIPS_EACH + 1):
            name, split = f"{voice}_{k}", "val" if k < CLIPS_EACH else "train"
            rows.append(speech_row(folder, voice, name, split, random))
            frames = round(CLIP_S * FPS)
            motion[f"{name}/arkit"] = random.uniform(0.2, 0.8, (frames, len(NAMES))).astype(np.float16)
            motion[f"{name}/pose"] = np.cumsum(random.normal(size=(frames, 6)) * 0.01, 0).astype(np.float16)
    table(folder / "speech.csv", rows)
    np.savez(folder / "motion.npz", arkit_names=np.array(NAMES), fps=25, **motion)
    np.savez(folder / "fits.npz", nothing=0)
    return folder


@pytest.fixture(scope="module")
def pack(folder: Path) -> Pack:
    return Pack(folder)


@pytest.fixture(scope="module")
def every(pack: Pack) -> list[trials.Trial]:
    return trials.trials(pack)


def test_trials_are_held_out_long_enough_and_always_the_same(
    pack: Pack, folder: Path, every: list[trials.Trial]
) -> None:
    assert every == trials.trials(Pack(folder))
    assert {trial.portrait for trial in every} == {"one", "two"}
    assert not any(clip.endswith(f"_{CLIPS_EACH}") for trial in every for clip in trial.clips), (
        "a clip of the train split"
    )
    assert len({trial.name for trial in every}) == len(every)
    assert [trial.number for trial in every] == list(range(len(every)))
    assert min(len(trials.act(pack, trial).arkit) / FPS for trial in every) >= 8
    assert {trial.kind for trial in every} == {"english", "chinese", "real", "noisy"}


def test_only_english_words_are_given_to_the_judge(every: list[trials.Trial]) -> None:
    chinese = [trial for trial in every if "zm" in trial.clips[0]]
    assert chinese and not any(trial.text for trial in chinese)
    english = next(trial for trial in every if trial.kind == "english")
    assert english.text == " ".join(f"words of {clip}" for clip in english.clips)


def test_scarce_clips_come_again_in_another_order(every: list[trials.Trial]) -> None:
    first, second = [trial for trial in every if trial.kind == "chinese"]
    assert first.clips != second.clips


def test_spread_takes_some_of_all(every: list[trials.Trial]) -> None:
    assert trials.spread(every, None) == every
    few = trials.spread(every, 3)
    assert (few[0], len(few), few[-1]) == (every[0], 3, every[-1])
    assert trials.spread(every, 0) == []


def test_a_pack_without_held_out_portraits_is_refused(folder: Path) -> None:
    empty = SimpleNamespace(folder=folder, portraits=lambda _split: [], clips=lambda _split: [])
    with pytest.raises(BadInputError, match="split val"):
        trials.trials(empty)  # type: ignore[arg-type]


def test_lips_rest_in_pauses_and_the_face_lives(pack: Pack, every: list[trials.Trial]) -> None:
    trial = next(trial for trial in every if trial.pause_s == trials.LONG_PAUSE_S and trial.kind == "english")
    show = trials.act(pack, trial)
    clip, pause = round(CLIP_S * FPS), round(trial.pause_s * FPS)
    assert len(show.pcm) == MODEL_STEP_SAMPLES * len(show.arkit) == MODEL_STEP_SAMPLES * len(show.pose)
    for start, end in ((clip, clip + pause), (len(show.arkit) - round(trials.TAIL_S * FPS), len(show.arkit))):
        assert not show.pcm[start * MODEL_STEP_SAMPLES : end * MODEL_STEP_SAMPLES].any()
        rest = slice(start + trials.REST_FRAMES, end - trials.REST_FRAMES)
        assert not show.arkit[rest, LIPS].any(), "lips move though nothing is said"
        assert show.silent[rest].all()
        alive = np.abs(np.diff(np.hstack([show.arkit[start:end, 3:], show.pose[start:end]]), axis=0)).max(1)
        assert alive.min() > 0, "the face stands still in a pause"


def test_motion_goes_on_smoothly_across_a_pause() -> None:
    t = np.arange(60, dtype=np.float32)[:, None]
    before, after = np.sin(t / 9), np.sin(t / 9) + 2
    whole = np.concatenate([before, trials.bridge(before, after, 10), after])
    assert np.abs(np.diff(whole, axis=0)).max() < 0.5, "a jump"


def test_the_sound_of_a_clip_stays_with_its_motion(pack: Pack, every: list[trials.Trial]) -> None:
    show = trials.act(pack, next(trial for trial in every if trial.kind == "english"))
    second = round(CLIP_S * FPS) + round(trials.PAUSE_S * FPS)
    clips = next(trial for trial in every if trial.kind == "english").clips
    weights, _ = pack.motion(clips[1])
    np.testing.assert_allclose(show.arkit[second : second + len(weights)], weights, atol=1e-6)
    middle = slice((second + 10) * MODEL_STEP_SAMPLES, (second + 20) * MODEL_STEP_SAMPLES)
    own = pack.speech(clips[1])[10 * MODEL_STEP_SAMPLES : 20 * MODEL_STEP_SAMPLES]
    np.testing.assert_array_equal(show.pcm[middle], own)


@pytest.mark.parametrize("kind", ["pink", "babble"])
def test_noise_is_10_db_below_the_speech(kind: str) -> None:
    random = np.random.default_rng(0)
    speech = (random.normal(size=3 * MODEL_RATE_HZ) * 0.05).astype(np.float32)
    others = [random.normal(size=5000).astype(np.float32) for _ in range(4)]
    added = trials.noisy(speech, kind, others, random) - speech
    snr_db = 10 * math.log10(np.square(speech).mean() / np.square(added).mean())
    assert snr_db == pytest.approx(10, abs=0.05)


def test_a_noisy_twin_shows_the_same_motion(pack: Pack, every: list[trials.Trial]) -> None:
    twin = next(trial for trial in every if trial.noise)
    clean = next(trial for trial in every if trial.clips == twin.clips and not trial.noise)
    assert twin.clean.name == clean.name
    heard, unspoilt = trials.act(pack, twin), trials.act(pack, twin.clean)
    np.testing.assert_array_equal(heard.arkit, unspoilt.arkit)
    assert not np.array_equal(heard.pcm, unspoilt.pcm)


def test_a_long_trial_lasts(pack: Pack) -> None:
    assert len(trials.act(pack, trials.long_trial(pack, 70)).arkit) / FPS >= 70


def test_the_loud_jaw_follows_level_and_nothing_else() -> None:
    level = np.repeat((np.sin(np.arange(100) / 5) + 1) / 2, MODEL_STEP_SAMPLES)
    pcm = (np.random.default_rng(0).normal(size=len(level)) * level * 0.2).astype(np.float32)
    arkit = np.full((100, len(NAMES)), 0.5, np.float32)
    out = baselines.loud_jaw(pcm, arkit, NAMES)
    assert np.corrcoef(out[:, 1], level[::MODEL_STEP_SAMPLES])[0, 1] > 0.8
    assert 0.3 < out[:, 1].max() <= baselines.LOUD_JAW + 1e-6 and out[:, 1].min() < 0.1
    assert not out[:, 2].any(), "the lips of the true motion"
    np.testing.assert_array_equal(out[:, 3:], arkit[:, 3:])


def test_pictures_go_to_and_fro() -> None:
    assert baselines.to_and_fro(3, 8).tolist() == [0, 1, 2, 1, 0, 1, 2, 1]
    assert baselines.to_and_fro(1, 3).tolist() == [0, 0, 0]


def grey_video(path: Path, grey: int, frames: int = 40) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = (np.full((64, 64, 3), grey, np.uint8) for _ in range(frames))
    baselines.write_video(path, pictures, np.zeros(frames * MODEL_STEP_SAMPLES, np.float32), 64)


def newer(path: Path, than: Path) -> None:
    os.utime(path, ns=(than.stat().st_mtime_ns + 10**9,) * 2)


def studio(pack: Pack, every: list[trials.Trial], tmp_path: Path) -> baselines.Studio:
    return baselines.Studio(pack, every, tmp_path, 64, assets=tmp_path / "assets")


def test_wrong_audio_is_the_other_video_under_this_sound(pack: Pack, every: list[trials.Trial], tmp_path: Path) -> None:
    trial, other = two = [every[0], every[-1]]
    made = studio(pack, two, tmp_path)
    for k, one in enumerate((trial, other)):
        grey_video(tmp_path / "model" / f"{one.name}.mp4", 40 + 150 * k)
    video = made.video("wrong-audio", trial)
    pictures = baselines.read_pictures(video)
    assert len(pictures) == len(trials.act(pack, trial).arkit)
    assert abs(int(pictures[0].mean()) - 190) < 5, "not the other one's pictures"
    assert made.portrait("wrong-audio", trial).stem == other.portrait
    assert made.portrait("model", trial).stem == trial.portrait != other.portrait
    with AudioFile(video) as file:
        heard = np.concatenate(list(file.chunks()))[:, 0]
    meant, _ = soundfile.read(str(made.sound(trial)), dtype="float32")
    n = min(len(heard), len(meant))
    assert np.corrcoef(heard[:n], meant[:n])[0, 1] > 0.9


def test_a_partner_says_something_else(pack: Pack, every: list[trials.Trial], tmp_path: Path) -> None:
    made = studio(pack, every, tmp_path)
    for trial in every:
        assert not set(made.partner(trial).clips) & set(trial.clips)
    with pytest.raises(BadInputError, match="--count"):
        studio(pack, every[:1], tmp_path).partner(every[0])


def test_videos_are_made_anew_when_the_model_changed(
    pack: Pack, every: list[trials.Trial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, rendered = baselines.Studio(pack, every, tmp_path, 256, assets=tmp_path / "assets"), []

    async def render(_avatar: Any, _sound: Path, out: Path, _options: Any) -> None:
        rendered.append(out)
        grey_video(out, 90)

    monkeypatch.setattr(baselines, "render", render)
    monkeypatch.setattr(baselines.Avatar, "prepare", lambda _portrait: None)
    weights = made.assets / "denoise.bin"
    weights.parent.mkdir()
    weights.write_text("weights")
    video = made.video("model", every[0])
    assert made.video("model", every[0]) == video and len(rendered) == 1
    newer(weights, video)
    made.video("model", every[0])
    assert len(rendered) == 2


def test_a_sheet_has_a_row_for_each_video(tmp_path: Path) -> None:
    for k in range(2):
        grey_video(tmp_path / f"{k}.mp4", 60 + 100 * k, frames=30)
    rows = [contact_sheet.Row("label", tmp_path / f"{k}.mp4", Box(0.4, 0.6, 0.6, 0.7), 20) for k in range(2)]
    contact_sheet.draw_sheet(tmp_path / "sheet.jpg", rows)
    with Image.open(tmp_path / "sheet.jpg") as sheet:
        shown = np.asarray(sheet.convert("L"))
    row = contact_sheet.SIDE + contact_sheet.LABEL
    assert shown.shape[0] == 2 * row
    assert abs(int(shown[row // 2, 50]) - 60) < 6 and abs(int(shown[row + row // 2, 50]) - 160) < 6


def fake_evaluator(monkeypatch: pytest.MonkeyPatch, calls: list[str]) -> None:
    class Meter:
        def track(self, video: Path, max_s: float | None) -> Any:
            assert video.exists() and max_s is None
            return SimpleNamespace(faces=[None, "face"])

        def measure(self, video: Path, **given: Any) -> dict[str, float | str]:
            assert given["portrait"].exists() and given["audio"].exists() and given["track"]
            calls.append(video.stem)
            return {"video": str(video), "av_margin": 0.4, "av_lag_ms": float("nan"), "reference": "portrait"}

    def lips(_track: Any, sound: str, text: str | None) -> dict[str, float]:
        if text == "mumbled":
            raise RuntimeError("Failed to stop utterance processing")
        quiet = {"av_margin": 0.9, "silent_mouth_std": 0.01 if sound == "clean" else 0.09}
        return quiet | {"n_bilabials": 9.0, "closure_rate": 0.2} if text else quiet

    parts: dict[str, dict[str, Any]] = {
        "video": {"Meter": Meter, "lips": lips},
        "media": {"audio": lambda path: path.stem.split("-")[-1]},
    }
    monkeypatch.setitem(sys.modules, "evaluate", ModuleType("evaluate"))
    for name, content in parts.items():
        module = ModuleType(f"evaluate.{name}")
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, module.__name__, module)


def test_measured_once_as_long_as_the_video_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fake_evaluator(monkeypatch, calls)
    video = tmp_path / "a.mp4"
    video.write_text("video")
    judge = judging.Judge()
    unknown = judging.Words("", tmp_path / "clean.wav")
    first = judge(video, video, video, unknown)
    assert first == {"av_margin": 0.4, "av_lag_ms": None, "reference": "portrait", "silent_mouth_std": 0.01}
    assert judge(video, video, video, unknown) == first and len(calls) == 1
    newer(video, tmp_path / "a.json")
    judge(video, video, video, unknown)
    assert len(calls) == 2


def test_words_and_silence_by_the_clean_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_evaluator(monkeypatch, [])
    judge = judging.Judge()
    for name in ("clear", "mumbled"):
        (tmp_path / f"{name}.mp4").write_text("video")
    video, clean = tmp_path / "clear.mp4", tmp_path / "00-clean.wav"
    numbers = judge(video, video, video, judging.Words("clear", clean))
    assert (numbers["closure_rate"], numbers["silent_mouth_std"]) == (0.2, 0.01)
    assert numbers["av_margin"] == 0.4, "lips are compared with the sound that is heard"
    video = tmp_path / "mumbled.mp4"
    numbers = judge(video, video, video, judging.Words("mumbled", clean))
    assert "closure_rate" not in numbers and numbers["silent_mouth_std"] == 0.01


def test_without_the_evaluator_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "evaluate.video", None)
    with pytest.raises(NotSupportedError, match="pip install"):
        judging.Judge()


def test_an_unknown_condition_is_refused(pack: Pack, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="wrong-audio"):
        evaluate.evaluate(pack, tmp_path, ["better"])


def test_the_command(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[str] = []
    fake_evaluator(monkeypatch, calls)
    monkeypatch.setattr(evaluate, "MAIN", ("still",))
    monkeypatch.setattr(evaluate, "LASTING", "still")
    arguments = ["--pack", str(folder), "--out", str(tmp_path), "--condition", "still", "--count", "2", "--size", "64"]
    assert stages.main(["evaluate", *arguments, "--long", "12"]) == 0
    printed = capsys.readouterr().out
    assert "| av_margin | >= 0.28 | 0.400 (0.400 .. 0.400) 100% |" in printed
    assert "one long video" in printed
    assert len(calls) == 3 and calls[-1] == trials.LONG
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["numbers"]) == ["still"] and len(results["numbers"]["still"]) == len(results["trials"]) == 3
    pictures = baselines.read_pictures(tmp_path / "still" / f"{calls[0]}.mp4")
    assert pictures[0].shape == (64, 64, 3) and pictures[0].std() > 10
    with Image.open(tmp_path / "still" / "sheet.jpg") as sheet:
        assert sheet.size[1] == 3 * (contact_sheet.SIDE + contact_sheet.LABEL)


def test_shares_together_do_all_and_the_whole_only_gathers(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[str] = []
    fake_evaluator(monkeypatch, calls)
    arguments = ["evaluate", "--pack", str(folder), "--out", str(tmp_path), "--condition", "still", "--few", "3"]
    arguments += ["--size", "64"]
    assert stages.main([*arguments, "--share", "0/2"]) == stages.main([*arguments, "--share", "1/2"]) == 0
    assert not (tmp_path / "results.json").exists() and len(calls) == len(set(calls)) == 3
    assert stages.main(arguments) == 0
    assert len(calls) == 3, "measured again"
    assert "trials: still 3" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "results.json").read_text())["numbers"]["still"]) == 3
