"""render(): pictures and sound stay together, and whatever goes wrong or is cancelled leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import av
import numpy as np
import pytest
from fakes import PORTRAIT, PatternEngines, bundled_avatar, decode, n_steps, syllables, write_wav

from emo_live.engine.test_pattern import read_index
from emo_live.errors import BadInputError
from emo_live.render import RenderOptions, RenderResult, render
from emo_live.types import Progress


def beeps(seconds: int, rate_hz: int) -> np.ndarray:
    """A 1 kHz tone in the first 40 ms of every second."""
    t = np.arange(seconds * rate_hz)
    return np.where(t % rate_hz < rate_hz // 25, 0.5 * np.sin(2 * np.pi * 1000 * t / rate_hz), 0).astype(np.float32)


def run(audio: Path, out: Path, engines: PatternEngines, **options: object) -> RenderResult:
    return asyncio.run(render(bundled_avatar(), audio, out, RenderOptions(**options), engine=engines))  # type: ignore[arg-type]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
@pytest.mark.parametrize("rate_hz", [16_000, 22_050, 44_100, 48_000])
def test_flash_and_beep_stay_together(tmp_path: Path, suffix: str, rate_hz: int) -> None:
    audio = write_wav(tmp_path / "beeps.wav", beeps(3, rate_hz), rate_hz)
    engines = PatternEngines()
    result = run(audio, tmp_path / f"out{suffix}", engines)
    pictures, sound, stored_hz = decode(result.path)
    assert [read_index(picture) for picture in pictures] == [None if i % 25 == 0 else i for i in range(75)]
    assert (result.frames, result.duration_s, result.damage) == (75, 3.0, None)
    loud = np.flatnonzero(np.abs(sound[:, 0]) > 0.1) / stored_hz
    starts = loud[np.diff(loud, prepend=-1) > 0.5]
    np.testing.assert_allclose(starts, [0, 1, 2], atol=0.002)
    assert engines.closed == engines.opened == 1


def test_a_part_of_a_step_makes_a_picture(tmp_path: Path) -> None:
    for samples in (1, 640, 641, 16_001):
        audio = write_wav(tmp_path / f"{samples}.wav", np.zeros(samples, np.float32))
        result = run(audio, tmp_path / f"{samples}.mp4", PatternEngines())
        assert result.frames == -(-samples // 640)


def test_stereo_stays_stereo_and_untouched(tmp_path: Path) -> None:
    pcm = np.stack([syllables(1.0, 48_000), -0.5 * syllables(1.0, 48_000)], axis=1)
    result = run(write_wav(tmp_path / "a.wav", pcm, 48_000), tmp_path / "a.mp4", PatternEngines())
    _, sound, rate_hz = decode(result.path)
    assert rate_hz == 48_000 and sound.shape[1] == 2
    assert np.corrcoef(sound[: len(pcm), 0], pcm[:, 0])[0, 1] > 0.999
    assert np.abs(sound[:, 0]).max() == pytest.approx(2 * np.abs(sound[:, 1]).max(), rel=0.05)


def test_a_video_s_sound_is_used(tmp_path: Path) -> None:
    first = run(write_wav(tmp_path / "a.wav", beeps(2, 48_000), 48_000), tmp_path / "a.mp4", PatternEngines())
    second = run(first.path, tmp_path / "b.mp4", PatternEngines())
    (_, sound, _), (_, again, _) = decode(first.path), decode(second.path)
    assert second.frames == 50
    assert np.corrcoef(sound[:90_000, 0], again[:90_000, 0])[0, 1] > 0.99


def test_progress_grows_and_ends(tmp_path: Path) -> None:
    seen: list[Progress] = []
    audio = write_wav(tmp_path / "a.wav", syllables(2.0))
    asyncio.run(render(bundled_avatar(), audio, tmp_path / "a.mp4", progress=seen.append, engine=PatternEngines()))
    assert [p.stage for p in seen] == ["prepare", *["render"] * (len(seen) - 2), "finish"]
    done = [p.done for p in seen]
    assert done == sorted(done) and done[-1] == 50 and {p.total for p in seen} == {50}
    assert len(seen) > 20, "a long file shows progress all the time"


def test_damaged_sound_is_rendered_up_to_there(tmp_path: Path) -> None:
    pcm = syllables(3.0)
    path = tmp_path / "a.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_f32le", rate=16_000)
        stream.layout = "mono"
        pcm[24_000] = np.nan
        frame = av.AudioFrame.from_ndarray(pcm[None], format="flt", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    result = run(path, tmp_path / "a.mp4", PatternEngines())
    assert result.damage is not None and "at 1.5 s" in result.damage and "NaN" in result.damage
    assert result.frames == n_steps(1.5)
    pictures, sound, rate_hz = decode(result.path)
    assert len(pictures) == result.frames and len(sound) / rate_hz == pytest.approx(1.5, abs=0.07)


@pytest.mark.parametrize("give", ["path", "bytes", "avatar file"])
def test_a_portrait_may_be_given_as_it_is(tmp_path: Path, give: str) -> None:
    bundled_avatar().save(tmp_path / "me.avatar")
    portrait = {"path": str(PORTRAIT), "bytes": PORTRAIT.read_bytes(), "avatar file": tmp_path / "me.avatar"}[give]
    audio = write_wav(tmp_path / "a.wav", syllables(1.0))
    result = asyncio.run(render(portrait, audio, tmp_path / "a.mp4", engine=PatternEngines()))
    assert result.avatar_id == bundled_avatar().id


# ---- what goes wrong


def test_bad_sound_and_bad_names_are_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    good = write_wav(tmp_path / "a.wav", syllables(1.0))
    (tmp_path / "there.mp4").write_bytes(b"precious")
    engines = PatternEngines()
    for audio, out, says in (
        (tmp_path / "none.wav", tmp_path / "a.mp4", "there is no file"),
        (good, tmp_path / "a.avi", "neither .mp4 nor .webm"),
        (good, tmp_path / "there.mp4", "exists already"),
        (good, tmp_path / "no" / "a.mp4", "there is no folder"),
    ):
        with pytest.raises(BadInputError, match=says):
            run(audio, out, engines)
    assert engines.opened == 0
    assert names(tmp_path) == ["a.wav", "there.mp4"] and (tmp_path / "there.mp4").read_bytes() == b"precious"


def test_a_bad_portrait_closes_the_engine(tmp_path: Path) -> None:
    audio, engines = write_wav(tmp_path / "a.wav", syllables(1.0)), PatternEngines()
    with pytest.raises(BadInputError, match="not a picture"):
        asyncio.run(render(audio, audio, tmp_path / "a.mp4", engine=engines))
    with pytest.raises(BadInputError, match="no face found"):
        asyncio.run(render(np.zeros((300, 300, 3), np.uint8), audio, tmp_path / "a.mp4", engine=engines))
    assert engines.closed == engines.opened == 2
    assert names(tmp_path) == ["a.wav"]


def test_an_engine_that_breaks_leaves_nothing(tmp_path: Path) -> None:
    audio, engines = write_wav(tmp_path / "a.wav", syllables(2.0)), PatternEngines(fail_at=20)
    with pytest.raises(RuntimeError, match="the engine broke"):
        run(audio, tmp_path / "a.mp4", engines)
    assert names(tmp_path) == ["a.wav"] and engines.closed == 1


def test_a_progress_callback_that_breaks_leaves_nothing(tmp_path: Path) -> None:
    def broken(progress: Progress) -> None:
        if progress.done > 10:
            raise ZeroDivisionError

    audio, engines = write_wav(tmp_path / "a.wav", syllables(2.0)), PatternEngines()
    with pytest.raises(ZeroDivisionError):
        asyncio.run(render(bundled_avatar(), audio, tmp_path / "a.mp4", progress=broken, engine=engines))
    assert names(tmp_path) == ["a.wav"] and engines.closed == 1


@pytest.mark.parametrize("times", [1, 3])
def test_cancelling_stops_and_leaves_the_old_file(tmp_path: Path, times: int) -> None:
    audio, engines = write_wav(tmp_path / "a.wav", syllables(60.0)), PatternEngines()
    (tmp_path / "a.mp4").write_bytes(b"precious")
    running = threading.Event()

    def watch(progress: Progress) -> None:
        if progress.done > 30:
            running.set()

    async def main() -> int:
        options = RenderOptions(overwrite=True)
        call = render(bundled_avatar(), audio, tmp_path / "a.mp4", options, progress=watch, engine=engines)
        task = asyncio.ensure_future(call)
        await asyncio.to_thread(running.wait, 30)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        return engines.closed

    assert asyncio.run(main()) == 1, "the worker has ended before the task does"
    assert names(tmp_path) == ["a.mp4", "a.wav"] and (tmp_path / "a.mp4").read_bytes() == b"precious"


_FULL = """
import asyncio, resource, sys
sys.path.insert(0, sys.argv[3])
from fakes import PatternEngines, bundled_avatar
from emo_live.render import render
from emo_live.errors import BadInputError
avatar = bundled_avatar()
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
try:
    asyncio.run(render(avatar, sys.argv[1], sys.argv[2], engine=PatternEngines(512)))
except BadInputError as error:
    print(error)
"""


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_a_full_disk_is_one_line_and_no_file(tmp_path: Path, suffix: str) -> None:
    audio = write_wav(tmp_path / "a.wav", syllables(20.0))
    folder = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-c", _FULL, str(audio), str(tmp_path / f"a{suffix}"), str(folder)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("disk full while writing") and ran.stdout.count("\n") == 1
    assert names(tmp_path) == ["a.wav"]


_LONG = """
import asyncio, sys
sys.path.insert(0, sys.argv[4])
from fakes import PatternEngines, bundled_avatar
from emo_live.hardware import peak_rss_bytes
from emo_live.render import render
asyncio.run(render(bundled_avatar(), sys.argv[1], sys.argv[2], engine=PatternEngines(int(sys.argv[3]))))
print(peak_rss_bytes())
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_sound(tmp_path: Path) -> None:
    """Once everything is warm, eight minutes more take no more memory, but for an MP4's index of 18 MB an hour."""
    folder = Path(__file__).resolve().parents[1]
    peaks = []
    for minutes in (4, 12):
        audio = tmp_path / f"{minutes}.wav"
        write_wav(audio, np.tile(syllables(60.0, 8_000), minutes), 8_000)
        command = [sys.executable, "-c", _LONG, str(audio), str(tmp_path / f"{minutes}.mp4"), "32", str(folder)]
        # One arena: what each thread's own keeps of freed memory differs from run to run by as much.
        environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
        ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, env=environment)
        peaks.append(int(ran.stdout))
    assert peaks[1] < peaks[0] + 8_000_000


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"size": 300}, "256 or 512"),
        ({"speed": 31.0}, "0 to 30"),
        ({"speed": float("nan")}, "0 to 30"),
        ({"motion": -0.1}, "0 to 2"),
        ({"motion": float("inf")}, "0 to 2"),
        ({"steps": 0}, "1 to 8"),
        ({"steps": 9}, "1 to 8"),
        ({"seed": -1}, "seed must be"),
        ({"seed": 2**63}, "seed must be"),
        ({"threads": 0}, "threads must be"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(BadInputError, match=says) as caught:
        RenderOptions(**options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
