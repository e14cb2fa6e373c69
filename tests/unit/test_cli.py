"""The command line: exit codes, what goes to stdout and stderr, options handed on. The work itself is faked."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import emo_live.avatar
from emo_live.cli import diagnosis, main
from emo_live.cli.assets import check_assets, write_sums
from emo_live.cli.progress import reporting
from emo_live.errors import BadInputError, EngineError
from emo_live.types import Progress

RENDER = ["render", "--portrait", "me.jpg", "--audio", "hello.wav", "--out", "talk.mp4"]


class FakeRender:
    """Stands in for the library: remembers how it was called, and succeeds or raises as told."""

    def __init__(self) -> None:
        self.calls: list[SimpleNamespace] = []
        self.error: BaseException | None = None
        self.damage: str | None = None

    async def render(self, portrait: Any, audio: Path, out: Path, options: Any, *, progress: Any = None) -> Any:
        self.calls.append(SimpleNamespace(portrait=portrait, audio=audio, out=out, options=options, progress=progress))
        if self.error is not None:
            raise self.error
        await asyncio.sleep(0)
        return sys.modules["emo_live.render"].RenderResult(
            path=out,
            avatar_id="abc",
            frames=50,
            duration_s=2.0,
            elapsed_s=1.0,
            first_frame_s=0.3,
            times_real_time=2.0,
            damage=self.damage,
        )


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRender:
    import emo_live.render  # noqa: F401  the package may export a function of the same name

    fake = FakeRender()
    monkeypatch.setattr(sys.modules["emo_live.render"], "render", fake.render)
    return fake


def test_render_hands_on_every_option(fake: FakeRender) -> None:
    flags = ["--size", "256", "--full-frame", "--speed", "4.5", "--motion", "0.8", "--seed", "7", "--steps", "2"]
    assert main([*RENDER, *flags, "--overwrite", "--largest-face"]) == 0
    (call,) = fake.calls
    assert (call.portrait, call.audio, call.out) == (Path("me.jpg"), Path("hello.wav"), Path("talk.mp4"))
    assert call.options == sys.modules["emo_live.render"].RenderOptions(
        size=256, full_frame=True, speed=4.5, motion=0.8, seed=7, steps=2, overwrite=True, largest_face=True
    )


def test_render_defaults_are_the_library_s(fake: FakeRender) -> None:
    assert main(RENDER) == 0
    assert fake.calls[0].options == sys.modules["emo_live.render"].RenderOptions()


def test_render_says_where_and_how_fast(fake: FakeRender, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(RENDER) == 0
    said = capsys.readouterr()
    assert str(Path("talk.mp4").absolute()) in said.out
    assert "2.00 times real time" in said.out
    assert said.err == ""


def test_quiet_says_nothing_but_damage(fake: FakeRender, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RENDER, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    fake.damage = "the sound is damaged after 1.2 s"
    assert main([*RENDER, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "warning: the sound is damaged after 1.2 s\n")
    assert [call.progress for call in fake.calls] == [None, None]


def test_json_is_one_object_and_nothing_else(fake: FakeRender, capsys: pytest.CaptureFixture[str]) -> None:
    fake.damage = "the sound is damaged after 1.2 s"
    assert main([*RENDER, "--json", "--seed", "3"]) == 0
    said = capsys.readouterr()
    report = json.loads(said.out)
    assert said.err == ""
    assert (report["frames"], report["seed"], report["avatar_id"], report["damage"]) == (50, 3, "abc", fake.damage)
    assert report["path"] == str(Path("talk.mp4").absolute())


def test_bad_input_is_one_line_and_code_2(fake: FakeRender, capsys: pytest.CaptureFixture[str]) -> None:
    fake.error = BadInputError("no face in me.jpg:\ngive another picture")
    assert main([*RENDER, "--json"]) == 2
    assert capsys.readouterr() == ("", "error: no face in me.jpg: give another picture\n")


def test_a_failing_engine_is_one_line_and_code_1(fake: FakeRender, capsys: pytest.CaptureFixture[str]) -> None:
    fake.error = EngineError("the model failed")
    assert main(RENDER) == 1
    assert capsys.readouterr().err == "error: the model failed\n"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["nonsense"], "nonsense"),
        (["render", "--portrait", "me.jpg"], "--audio"),
        ([*RENDER, "--size", "300"], "256 or 512"),
        ([*RENDER, "--size", "big"], "--size"),
        ([*RENDER, "--motion", "-1"], "motion is a strength of 0 to 2"),
        ([*RENDER, "--motion", "nan"], "motion is a strength"),
        ([*RENDER, "--speed", "31"], "0 to 30 degrees"),
        ([*RENDER, "--steps", "0"], "1 to 8"),
        ([*RENDER, "--seed", "-1"], "seed must be"),
        ([*RENDER, "--frobnicate"], "--frobnicate"),
        (["enroll"], "PICTURE"),
        (["bench", "--seconds", "0"], "--seconds"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(
    arguments: list[str], part: str, fake: FakeRender, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ") and said.err.count("\n") == 1
    assert part.lower() in said.err.lower()
    assert fake.calls == []


def test_a_bug_shows_itself(fake: FakeRender) -> None:
    fake.error = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        main(RENDER)


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("render", "enroll", "demo", "bench", "doctor", "train"))


STOPPED = """
import asyncio, pathlib, sys
import emo_live.render
from emo_live.cli import main

async def render(portrait, audio, out, options, *, progress=None):
    pathlib.Path(out).write_text("half")
    try:
        print("started", flush=True)
        await asyncio.sleep(30)
    finally:
        pathlib.Path(out).unlink()

sys.modules["emo_live.render"].render = render
sys.exit(main(["render", "--portrait", "a", "--audio", "b", "--out", sys.argv[1]]))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_stopping_leaves_no_file(number: signal.Signals, code: int, tmp_path: Path) -> None:
    out = tmp_path / "talk.mp4"
    command = [sys.executable, "-c", STOPPED, str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        assert out.exists()
        process.send_signal(number)
        _, stderr = process.communicate(timeout=20)
    assert process.returncode == code
    assert stderr == ("interrupted\n" if number == signal.SIGINT else "")
    assert not out.exists()


def test_progress_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with reporting(quiet=False) as callback:
        assert callback is not None
        callback(Progress("render", 50, 100))
    said = capsys.readouterr()
    assert said.out == ""
    assert "rendering" in said.err and "2.0 of 4.0 s" in said.err


def test_progress_is_a_line_now_and_then_in_a_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with reporting(quiet=False) as callback:
        assert callback is not None
        for _ in range(50):
            now[0] += 0.5
            callback(Progress("render", round((now[0] - 100) * 25), None))
    assert capsys.readouterr().err == "rendering: 10.0 s\nrendering: 20.0 s\n"


class FakeAvatar:
    id = "abc"

    def __init__(self) -> None:
        self.saved: list[tuple[Path, bool]] = []
        self.prepared: list[tuple[Path, bool]] = []

    def prepare(self, image: Path, *, largest_face: bool = False) -> FakeAvatar:
        self.prepared.append((image, largest_face))
        return self

    def save(self, path: Path, *, overwrite: bool = False) -> None:
        self.saved.append((path, overwrite))


def test_enroll_writes_beside_the_picture(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    avatar = FakeAvatar()
    monkeypatch.setattr(emo_live.avatar.Avatar, "prepare", avatar.prepare)
    assert main(["enroll", "album/me.jpg"]) == 0
    assert main(["enroll", "me.jpg", "--out", "x.avatar", "--overwrite", "--largest-face", "--json"]) == 0
    assert avatar.prepared == [(Path("album/me.jpg"), False), (Path("me.jpg"), True)]
    assert avatar.saved == [(Path("album/me.avatar"), False), (Path("x.avatar"), True)]
    lines = capsys.readouterr().out.splitlines()
    assert "abc" in lines[0]
    assert json.loads(lines[1]) == {"path": str(Path("x.avatar").absolute()), "id": "abc"}


def test_demo_uses_what_is_bundled(fake: FakeRender, tmp_path: Path) -> None:
    assert main(["demo", "--out", str(tmp_path / "d.webm")]) == 0
    (call,) = fake.calls
    assert call.portrait.name.startswith("faker_") and call.portrait.is_file()
    assert call.audio.stem == "greeting" and call.audio.is_file()
    assert call.out == tmp_path / "d.webm"
    assert call.options.overwrite is False


REPORT = {
    "machine": {"cpu": {"model": "Test [bold]", "features": ["avx2", "fma"]}},
    "stages": [{"stage": "decode", "threads_1_ms": 12.345, "threads_2_ms": 7.0}],
    "end_to_end": [{"size": 512, "times_real_time": 1.5, "note": None}],
}


def test_bench_shows_whatever_the_report_holds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import emo_live.bench

    asked: list[float] = []

    def measure(*, seconds: float, progress: Any = None) -> Any:
        asked.append(seconds)
        return SimpleNamespace(as_dict=lambda: REPORT)

    monkeypatch.setattr(emo_live.bench, "measure", measure)
    assert main(["bench", "--json", "--seconds", "4"]) == 0
    assert json.loads(capsys.readouterr().out) == REPORT
    assert main(["bench"]) == 0
    table = capsys.readouterr().out
    assert all(part in table for part in ("Test [bold]", "avx2 fma", "decode", "12.35", "7.00", "512", "1.50", "-"))
    assert asked == [4.0, 10.0]


def test_doctor_reports_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)
    states = {check["name"]: check["state"] for check in report["checks"]}
    assert states["python"] == states["encoder libx264"] == states["openvino CPU"] == "ok"
    assert code == (0 if report["ok"] else 2)
    assert report["machine"]["cpu"]["logical_cores"] >= 1


def test_doctor_says_what_to_do(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    checks = [
        diagnosis.Check("python", "ok", "3.13"),
        diagnosis.Check("extra gpu", "optional", "missing: torch", 'pip install "emo-live[gpu]"'),
    ]
    monkeypatch.setattr(diagnosis, "diagnose", lambda folder: checks)
    assert main(["doctor"]) == 0
    assert 'pip install "emo-live[gpu]"' in capsys.readouterr().out
    checks.append(diagnosis.Check("encoder aac", "broken", "missing", "install av"))
    assert main(["doctor"]) == 2
    said = capsys.readouterr()
    assert "install av" in said.out
    assert "encoder aac" in said.err and said.err.count("\n") == 1


def test_diagnosis_survives_anything_and_names_extras(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines = ["numpy>=1", "nosuchpackage-a>=2", 'torch>=2 ; extra == "gpu"', 'nosuchpackage-b ; extra == "gpu"']
    monkeypatch.setattr(diagnosis.metadata, "requires", lambda name: lines)
    monkeypatch.setattr(diagnosis.hardware, "memory", lambda: 1 / 0)
    checks = {check.name: check for check in diagnosis.diagnose(tmp_path)}
    assert checks["numpy"].state == "ok"
    assert checks["nosuchpackage-a"].state == "broken"
    assert checks["extra gpu"].state == "optional" and "nosuchpackage-b" in checks["extra gpu"].detail
    assert checks["extra gpu"].remedy == 'pip install "emo-live[gpu]"'
    assert checks["memory"].state == "broken" and "ZeroDivisionError" in checks["memory"].detail
    assert "write access" in checks


def test_assets_are_checked_by_their_sums(tmp_path: Path) -> None:
    assert check_assets(tmp_path) == []
    (tmp_path / "a").mkdir()
    for name in ("a/kept.bin", "changed.bin", "lost.bin"):
        (tmp_path / name).write_bytes(name.encode())
    write_sums(tmp_path)
    assert {asset.state for asset in check_assets(tmp_path)} == {"ok"}
    (tmp_path / "changed.bin").write_bytes(b"other")
    (tmp_path / "lost.bin").unlink()
    states = {asset.name: (asset.state, asset.size_bytes) for asset in check_assets(tmp_path)}
    assert states == {"a/kept.bin": ("ok", 10), "changed.bin": ("changed", 5), "lost.bin": ("missing", None)}


def use_stages(monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
    stages = ModuleType("emo_live.training.stages")
    stages.main = run  # type: ignore[attr-defined]
    import emo_live.training

    monkeypatch.setitem(sys.modules, stages.__name__, stages)
    monkeypatch.setattr(emo_live.training, "stages", stages, raising=False)


def test_train_hands_on_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    use_stages(monkeypatch, lambda argv: seen.append(argv) or 3)
    assert main(["train", "video", "--steps", "5", "--help", "-x"]) == 3
    assert seen == [["video", "--steps", "5", "--help", "-x"]]


def test_train_names_the_missing_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def needs_torch(argv: list[str]) -> int:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    use_stages(monkeypatch, needs_torch)
    assert main(["train", "image"]) == 2
    assert 'pip install "emo-live[train]"' in capsys.readouterr().err
