"""The examples run as they are written, on the bundled portrait and two seconds of sound."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fakes import PORTRAIT, decode, syllables, write_wav

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    return write_wav(tmp_path / "speech.wav", syllables(2.0))


def run(example: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "examples" / example), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_every_example_has_a_test() -> None:
    names = {path.name for path in (ROOT / "examples").glob("*.py")}
    live = {"live_session.py", "your_own_voice.py", "several_sessions.py", "over_websocket.py"}
    assert names == {"render_file.py", "progress_and_cancel.py", *live}


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


def test_live_session(speech: Path) -> None:
    done = run("live_session.py", PORTRAIT, speech, "pattern")
    assert done.returncode == 0, done.stderr
    for words in ("UtteranceStarted(utterance='u1')", "ms of u1 before", "interrupted=True", "first frame came"):
        assert words in done.stdout
    assert "SessionClosed(reason='closed')" in done.stdout


def test_live_session_with_the_model(speech: Path) -> None:
    done = run("live_session.py", PORTRAIT, speech)
    assert done.returncode == 0, done.stderr
    assert "SessionClosed(reason='closed')" in done.stdout


def test_your_own_voice(tmp_path: Path) -> None:
    done = run("your_own_voice.py", PORTRAIT, "one two three", tmp_path / "talk.mp4", "pattern")
    assert done.returncode == 0, done.stderr
    pictures, sound, _ = decode(tmp_path / "talk.mp4")
    assert 25 < len(pictures) < 60 and abs(sound).max() > 0.2


def test_several_sessions() -> None:
    done = run("several_sessions.py", "pattern", PORTRAIT, PORTRAIT, PORTRAIT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("pairs") + done.stdout.count("refused, the engine is full") == 3
    assert " pairs" in done.stdout
