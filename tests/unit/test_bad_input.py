"""The command line as a careless or hostile user meets it: code 2, one line that says what to do, nothing left behind.

The library is the real one; only the model is replaced by the test pattern.
"""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest
from fakes import PORTRAIT, PatternEngines, bundled_avatar, decode, syllables, write_wav
from PIL import Image

import emo_live.render  # noqa: F401  the package exports a function of the same name
from emo_live.avatar import Avatar
from emo_live.cli import main


@pytest.fixture(autouse=True)
def engines(monkeypatch: pytest.MonkeyPatch) -> PatternEngines:
    engines = PatternEngines()
    monkeypatch.setattr(sys.modules["emo_live.render"], "tiny_engine", engines)
    return engines


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_wav(tmp_path / "speech.wav", syllables(1.0))
    return tmp_path


def render(
    folder: Path, portrait: Path = PORTRAIT, audio: str = "speech.wav", out: str = "talk.mp4", *more: str
) -> int:
    return main(
        ["render", "--portrait", str(portrait), "--audio", str(folder / audio), "--out", str(folder / out), *more]
    )


def refused(folder: Path, capsys: pytest.CaptureFixture[str], says: str, code: int) -> None:
    said = capsys.readouterr()
    assert code == 2
    assert said.out == "" and said.err.startswith("error: ") and said.err.count("\n") == 1
    assert says in said.err
    assert not [path.name for path in folder.iterdir() if path.name.startswith((".", "talk"))]


def picture(kind: str, image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def two_faces() -> bytes:
    face = Image.open(PORTRAIT)
    both = Image.new("RGB", (1100, 560), (150, 150, 150))
    both.paste(face, (10, 20))
    both.paste(face, (570, 20))
    return picture("PNG", both)


PORTRAITS = {
    "none.jpg": (None, "there is no file"),
    "empty.jpg": (b"", "empty (0 bytes)"),
    "text.jpg": (b"this is not a picture at all", "not a picture"),
    "cut.jpg": (PORTRAIT.read_bytes()[:20_000], "truncated or damaged"),
    "bomb.png": (picture("PNG", Image.new("1", (10_000, 10_000))), "megapixels"),
    "grey.png": (picture("PNG", Image.new("L", (400, 400), 128)), "no face found"),
    "two.png": (two_faces(), "2 faces found"),
    "tiny.png": (picture("PNG", Image.open(PORTRAIT).resize((90, 90))), "px high"),
    "half.png": (picture("PNG", Image.open(PORTRAIT).crop((140, 125, 375, 410))), "cut off"),
    "zip.avatar": (b"PK\x03\x04 not really", "damaged"),
}


@pytest.mark.parametrize("name", PORTRAITS)
def test_bad_portraits(name: str, folder: Path, capsys: pytest.CaptureFixture[str], engines: PatternEngines) -> None:
    data, says = PORTRAITS[name]
    if data is not None:
        (folder / name).write_bytes(data)
    refused(folder, capsys, says, render(folder, folder / name))
    assert engines.closed == engines.opened == 1


def test_an_avatar_with_code_in_it_is_refused_and_runs_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundled_avatar().save(folder / "me.avatar")
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(folder / "me.avatar", "a") as archive:
        archive.writestr("avatar.json", b"cos\nsystem\n(S'touch talk-owned'\ntR.")
    refused(folder, capsys, "enroll", render(folder, folder / "me.avatar"))


def no_sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width = video.height = 32
        container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(video.encode(None))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("none.wav", "there is no file"),
        ("empty.wav", "zero bytes"),
        ("rubbish.mp3", "corrupt from the start"),
        ("silent.mp4", "has no sound in it"),
        ("zero.wav", "not one sample"),
    ],
)
def test_bad_sound(
    name: str, says: str, folder: Path, capsys: pytest.CaptureFixture[str], engines: PatternEngines
) -> None:
    if name == "empty.wav":
        (folder / name).touch()
    elif name == "rubbish.mp3":
        (folder / name).write_bytes(np.random.default_rng(3).bytes(20_000))
    elif name == "silent.mp4":
        no_sound(folder / name)
    elif name == "zero.wav":
        write_wav(folder / name, np.zeros(0, np.float32))
    refused(folder, capsys, says, render(folder, audio=name))
    assert engines.opened == 0, "the model is not loaded for that"


def test_bad_outputs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for out, says in (("no/talk.mp4", "there is no folder"), ("speech.wav", "neither .mp4 nor .webm"), (".", ".mp4")):
        refused(folder, capsys, says, render(folder, out=out))
    (folder / "old.mp4").write_bytes(b"precious")
    refused(folder, capsys, "--overwrite", render(folder, out="old.mp4"))
    assert (folder / "old.mp4").read_bytes() == b"precious"
    assert render(folder, PORTRAIT, "speech.wav", "old.mp4", "--overwrite") == 0
    assert len(decode(folder / "old.mp4")[0]) == 25


def test_largest_face(folder: Path) -> None:
    (folder / "two.png").write_bytes(two_faces())
    assert render(folder, folder / "two.png", "speech.wav", "talk.mp4", "--largest-face") == 0


def test_damaged_sound_warns_and_renders_up_to_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (folder / "speech.wav").read_bytes()
    (folder / "cut.wav").write_bytes(whole[: len(whole) // 2])
    for more in ((), ("--quiet", "--overwrite")):
        assert render(folder, PORTRAIT, "cut.wav", "talk.mp4", *more) == 0
        said = capsys.readouterr()
        assert said.err.count("\n") == 1 and said.err.startswith("warning: cut.wav is damaged at 0.5 s")
        assert (said.out == "") is bool(more)
    assert len(decode(folder / "talk.mp4")[0]) == 13


def test_enroll_and_render_the_avatar(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "me.jpg").write_bytes(PORTRAIT.read_bytes())
    assert main(["enroll", str(folder / "me.jpg")]) == 0
    assert bundled_avatar().id in capsys.readouterr().out
    assert Avatar.load(folder / "me.avatar") == bundled_avatar()
    assert main(["enroll", str(folder / "me.jpg")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert render(folder, folder / "me.avatar") == 0
    assert main(["enroll", str(folder / "speech.wav")]) == 2
    assert sorted(path.name for path in folder.iterdir()) == ["me.avatar", "me.jpg", "speech.wav", "talk.mp4"]
