"""The examples run as they are written, on the bundled portrait and two seconds of sound."""

from __future__ import annotations

import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

ROOT = Path(__file__).resolve().parents[2]
PORTRAIT = min((ROOT / "emo_live/assets/portraits").glob("*.jpg"))


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """Two seconds of a humming voice-like tone, 16 kHz."""
    t = np.arange(32_000) / 16_000
    tone = sum(np.sin(2 * np.pi * 120 * k * t) / k for k in range(1, 9)) * (0.5 + 0.5 * np.sin(2 * np.pi * 4 * t))
    with wave.open(str(tmp_path / "speech.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((tone * 6000).astype("<i2").tobytes())
    return tmp_path / "speech.wav"


def run(example: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "examples" / example), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_every_example_has_a_test() -> None:
    names = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert names == {"render_file.py", "progress_and_cancel.py"}


def test_render_file(speech: Path, tmp_path: Path) -> None:
    done = run("render_file.py", PORTRAIT, speech, tmp_path / "talk.mp4")
    assert done.returncode == 0, done.stderr
    assert "talk.mp4: 2.0 s" in done.stdout
    assert (tmp_path / "talk.mp4").stat().st_size > 5000


def test_render_file_says_what_is_wrong(speech: Path, tmp_path: Path) -> None:
    done = run("render_file.py", speech, speech, tmp_path / "talk.mp4")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not (tmp_path / "talk.mp4").exists()


def test_progress(speech: Path, tmp_path: Path) -> None:
    done = run("progress_and_cancel.py", PORTRAIT, speech, tmp_path / "talk.webm", 250)
    assert done.returncode == 0, done.stderr
    assert "talk.webm: 50 frames" in done.stdout
    assert "render" in done.stderr


def test_cancel(speech: Path, tmp_path: Path) -> None:
    done = run("progress_and_cancel.py", PORTRAIT, speech, tmp_path / "talk.mp4", 0.01)
    assert done.returncode == 0, done.stderr
    assert "stopped" in done.stdout and "is there a file? False" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["speech.wav"]
