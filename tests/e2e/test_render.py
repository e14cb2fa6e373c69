"""Whole videos with the shipped model: in time, alive, repeatable, and nothing left behind."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from fakes import PORTRAIT, bundled_avatar, decode, n_steps, syllables, write_wav

from emo_live.audio.source import AudioFile
from emo_live.bench import measure
from emo_live.engine.backend_openvino import OpenVinoBackend
from emo_live.engine.tiny import LIVE, OFFLINE, tiny_window
from emo_live.engine.window import WindowPolicy
from emo_live.face.landmarker import FaceFinder
from emo_live.render import RenderOptions, render
from emo_live.types import Float32, UInt8

MAX_RSS_BYTES = 700_000_000
_MEASURED = """
import sys
from emo_live.cli import main
from emo_live.hardware import peak_rss_bytes
code = main(sys.argv[1:])
print(peak_rss_bytes(), file=sys.stderr)
sys.exit(code)
"""


def pictures_of(audio: Path, out: Path, **options: object) -> list[UInt8]:
    asyncio.run(render(bundled_avatar(), audio, out, RenderOptions(overwrite=True, **options)))  # type: ignore[arg-type]
    return decode(out)[0]


@lru_cache
def finder() -> FaceFinder:
    return FaceFinder()


def points_of(pictures: list[UInt8]) -> Float32:
    """(T, 478, 2) in heights of the face."""
    points = []
    for picture in pictures:
        (face,) = finder().find(picture)
        points.append(face.points / face.box.height)
    return np.stack(points)


def opening(points: Float32) -> Float32:
    """(T,) distance of the inner lips, in heights of the face."""
    return np.linalg.norm(points[:, 13] - points[:, 14], axis=-1)


def head(points: Float32) -> Float32:
    """(T, 2): where the head is, by points that speech does not move: outer eye corners and the bridge of the nose."""
    return points[:, [33, 263, 168]].mean(axis=1)


@pytest.fixture(scope="module")
def spoken(talk: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object], int]:
    """The video of the talk by the command line, its report, its peak of memory in bytes."""
    out = tmp_path_factory.mktemp("out") / "talk.mp4"
    arguments = ["render", "--portrait", PORTRAIT, "--audio", talk, "--out", out, "--size", "256", "--json"]
    command = [sys.executable, "-c", _MEASURED, *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert ran.returncode == 0, ran.stderr
    return out, json.loads(ran.stdout), int(ran.stderr.split()[-1])


def test_every_step_has_its_picture_and_the_sound_lies_where_it_lay(
    spoken: tuple[Path, dict[str, object], int], talk: Path
) -> None:
    out, report, _ = spoken
    pictures, sound, rate_hz = decode(out)
    assert len(pictures) == report["frames"] == n_steps(10.0)
    assert pictures[0].shape == (256, 256, 3) and rate_hz == 16_000
    with AudioFile(talk) as source:
        given = np.concatenate(list(source.chunks()))[:, 0]
    around = range(-200, 201)
    fits = [float(np.dot(sound[1000 + lag : 150_000 + lag, 0], given[1000:150_000])) for lag in around]
    assert around[int(np.argmax(fits))] == 0


@pytest.fixture(scope="module")
def shown(spoken: tuple[Path, dict[str, object], int]) -> tuple[list[UInt8], Float32]:
    """The pictures of the talk and the points of their faces."""
    pictures = decode(spoken[0])[0]
    return pictures, points_of(pictures)


def test_lips_follow_speech_and_rest_in_silence(shown: tuple[list[UInt8], Float32]) -> None:
    gap = opening(shown[1])
    silent = np.concatenate([gap[15:45], gap[190:250]])
    assert gap[55:175].std() > 2.5 * silent.std()
    assert silent.std() < 0.02
    assert np.median(gap[55:175]) > np.median(silent)


def test_the_face_lives(shown: tuple[list[UInt8], Float32]) -> None:
    pictures, points = shown
    assert head(points).std(axis=0).max() > 0.002
    still = [int(np.abs(a.astype(int) - b).max()) for a, b in zip(pictures, pictures[1:], strict=False)]
    assert min(still[5:]) > 3, "no two pictures are the same"


def test_memory_stays_in_its_limits(spoken: tuple[Path, dict[str, object], int]) -> None:
    assert spoken[2] < MAX_RSS_BYTES


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory, greeting: Float32) -> Path:
    return write_wav(tmp_path_factory.mktemp("short") / "short.wav", greeting[8_000:40_000])


def test_the_seed_decides(short: Path, tmp_path: Path) -> None:
    first, again, other = (pictures_of(short, tmp_path / f"{n}.mp4", size=256, seed=s) for n, s in enumerate((3, 3, 4)))
    np.testing.assert_array_equal(first, again)
    assert np.abs(np.stack(first).astype(int) - np.stack(other)).max() > 20


def test_512_px_show_the_same_performance(short: Path, tmp_path: Path) -> None:
    small, large = (pictures_of(short, tmp_path / f"{size}.mp4", size=size) for size in (256, 512))
    reduced = np.stack(large).reshape(len(large), 256, 2, 256, 2, 3).mean(axis=(2, 4))
    assert np.abs(np.stack(small) - reduced).mean() < 2


@pytest.mark.parametrize("policy", [OFFLINE, LIVE])
def test_chunk_by_chunk_is_the_same_as_at_once(greeting: Float32, policy: WindowPolicy) -> None:
    steps = greeting[: 60 * 640].reshape(60, 640)
    backend = OpenVinoBackend()
    try:
        prepared = backend.prepare(bundled_avatar())
        results = []
        for every in (60, 1, 7):
            window = tiny_window(backend, prepared, size=256, seed=5, policy=policy)
            frames = []
            for i, step in enumerate(steps):
                window.push(step)
                if i % every == 0:
                    frames += window.frames()
            window.finish()
            results.append(np.stack([frame.video for frame in frames + window.frames()]))
    finally:
        backend.close()
    assert len(results[0]) == 60
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)


def test_motion_is_a_strength(talk: Path, tmp_path: Path) -> None:
    amounts = []
    for motion in (0.0, 2.0):
        points = points_of(pictures_of(talk, tmp_path / "a.mp4", size=256, motion=motion)[::5])
        amounts.append(float(head(points).std(axis=0).sum()))
    assert amounts[0] < 0.4 * amounts[1]


def test_speed_is_how_fast_the_head_moves(talk: Path, tmp_path: Path) -> None:
    speeds = []
    for speed in (0.5, 14.0):
        places = head(points_of(pictures_of(talk, tmp_path / "a.mp4", size=256, speed=speed)[::2]))
        smooth = np.stack([np.convolve(axis, np.ones(3) / 3, "valid") for axis in places.T], axis=1)
        speeds.append(float(np.abs(np.diff(smooth, axis=0)).mean()))
    assert speeds[1] > 1.3 * speeds[0]


def test_full_frame_keeps_what_is_around(short: Path, tmp_path: Path) -> None:
    picture = np.pad(bundled_avatar().picture, ((60, 0), (200, 150), (0, 0)), mode="edge")
    asyncio.run(render(picture, short, tmp_path / "a.mp4", RenderOptions(full_frame=True)))
    pictures = decode(tmp_path / "a.mp4")[0]
    assert pictures[0].shape == picture.shape
    film = np.stack(pictures).astype(int)
    assert np.abs(film[:, :, :120] - picture[:, :120]).mean() < 2
    moving = np.abs(film - film[0]).max(axis=(0, 3)) > 30
    rows, columns = np.nonzero(moving)
    assert len(rows) > 500 and columns.min() > 200 and columns.max() < 200 + 512


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    audio = write_wav(tmp_path / "a.wav", syllables(120.0))
    arguments = ["render", "--portrait", PORTRAIT, "--audio", audio, "--out", tmp_path / "a.mp4", "--size", "256"]
    command = [sys.executable, "-c", _MEASURED, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(1200):
            parts = list(tmp_path.glob(".*.part"))
            if parts and parts[0].stat().st_size > 50_000:
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted\n" in stderr and "Traceback" not in stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_demo(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "emo_live", "demo", "--out", str(tmp_path / "demo.webm")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "demo.webm" in ran.stdout and "times real time" in ran.stdout
    assert len(decode(tmp_path / "demo.webm")[0]) > 200


def test_bench_measures_every_stage() -> None:
    report = measure(seconds=1.0).as_dict()
    stages = {row["stage"] for row in report["stages"]}
    assert {"engine, 256 px", "encoding, 512 px"} <= stages
    assert all(row["threads_1_ms"] > 0 and row["threads_2_ms"] > 0 for row in report["stages"])
    rows = [(row["size"], row["run"]) for row in report["end_to_end"]]
    assert rows == [(256, "first"), (256, "later"), (512, "first"), (512, "later")]
    assert all(row["video_s"] == 1.0 and row["peak_rss_mb"] < MAX_RSS_BYTES / 1e6 for row in report["end_to_end"])
    assert json.loads(json.dumps(report))["machine"]["cpu"]["features"] is not None
