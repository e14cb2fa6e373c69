"""The page in a real Chromium against `emo-live serve` with the real model: what a visitor sees and hears."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from fakes import write_wav
from viewer import Viewer

from emo_live import samples
from emo_live.audio.framer import Framer
from emo_live.audio.source import AudioFile, to_mono
from emo_live_server.browser_bench.chromium import launched, missing
from emo_live_server.browser_bench.processes import Server
from emo_live_server.browser_bench.run import serving

pytestmark = pytest.mark.skipif(missing() is not None, reason=f"needs {missing()}")

PORTRAITS = sorted(samples.portrait().parent.glob("*.jpg"))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("tiny", 256) as running:
        yield running


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the browser's microphone hears, again and again: three seconds of speech and two of silence."""
    with AudioFile(samples.greeting()) as source:
        framer = Framer(source.rate_hz)
        steps = [step.heard for chunk in source.chunks() for step in framer.push(to_mono(chunk))]
    words = np.concatenate(steps)[: 3 * 48_000].astype(np.float32) / 32768
    return write_wav(tmp_path_factory.mktemp("mic") / "mic.wav", np.append(words, np.zeros(96_000, np.float32)), 48_000)


@pytest.fixture(scope="module")
def browser(speech: Path) -> Iterator[Any]:
    with launched(f"--use-file-for-fake-audio-capture={speech}") as chromium:
        yield chromium


@pytest.fixture
def viewer(browser: Any, server: Server) -> Iterator[Viewer]:
    context = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    viewer = Viewer(context.new_page(), server.url)
    viewer.open()
    yield viewer
    context.close()


def test_starts_with_a_greeting_then_idles_alive(viewer: Viewer) -> None:
    assert viewer.page.inner_text("#state") == "Ready"
    assert viewer.page.evaluate("document.getElementById('poster').naturalWidth") > 0, "the portrait is there at once"
    viewer.start(greet=True)
    viewer.await_state("speaking")
    viewer.await_speech()
    assert viewer.page.inner_text("#captions") != ""
    viewer.await_movement()
    viewer.await_state("idle")
    viewer.await_silence()
    viewer.await_movement()
    assert np.std(viewer.picture()) > 20, "a face, not an empty picture"
    viewer.page.click("#figures summary")
    viewer.page.wait_for_selector("#tables tr:has-text('Pictures a second')")
    viewer.page.wait_for_selector("#tables caption:has-text('Server')")
    assert viewer.foreign_requests() == []
    assert viewer.complaints == []


def test_says_what_is_typed_until_it_is_interrupted(viewer: Viewer) -> None:
    viewer.start()
    viewer.say("This is quite a long sentence, because somebody is going to interrupt it, and it must not end before.")
    viewer.await_state("speaking")
    viewer.await_speech()
    assert viewer.page.input_value("#text") == ""
    viewer.page.press("body", "Escape")
    viewer.await_state("idle")
    viewer.await_silence()
    assert viewer.page.inner_text("#captions") == ""
    viewer.say("And it speaks again.")
    viewer.await_speech()


def test_speaks_what_the_microphone_hears(viewer: Viewer) -> None:
    viewer.start()
    viewer.await_silence()
    viewer.page.click("#mic")
    viewer.page.wait_for_selector("#mic[aria-pressed=true]")
    viewer.wait_until("Number(document.getElementById('meter').getAttribute('aria-valuenow')) > 20")
    viewer.await_state("speaking")
    viewer.await_speech()
    viewer.page.click("#mic")
    viewer.page.wait_for_selector("#mic[aria-pressed=false]")
    viewer.await_state("idle")
    viewer.await_silence()


def test_push_to_talk_with_the_space_bar(viewer: Viewer) -> None:
    viewer.start()
    viewer.page.keyboard.down("Space")
    viewer.page.wait_for_selector("#mic[aria-pressed=true]")
    viewer.page.wait_for_timeout(500)
    viewer.page.keyboard.up("Space")
    viewer.page.wait_for_selector("#mic[aria-pressed=false]")
    viewer.page.focus("#text")
    viewer.page.keyboard.press("Space")
    assert viewer.page.get_attribute("#mic", "aria-pressed") == "false", "in the text box a space is a space"


def test_speaks_a_sound_file_that_is_dropped_on_it(viewer: Viewer) -> None:
    content = base64.b64encode(samples.greeting().read_bytes()).decode()
    files = viewer.page.evaluate_handle(
        """content => {
            const files = new DataTransfer();
            files.items.add(new File([Uint8Array.from(atob(content), (c) => c.charCodeAt(0))], "hello.flac"));
            return files;
        }""",
        content,
    )
    # Without a word about Start: what is dropped is spoken.
    viewer.page.dispatch_event("body", "drop", {"dataTransfer": files})
    viewer.await_live()
    viewer.await_state("speaking")
    viewer.await_speech()


def test_says_what_is_wrong_with_a_file(viewer: Viewer, tmp_path: Path) -> None:
    rubbish = tmp_path / "holiday.jpg"
    rubbish.write_bytes(b"not a picture at all")
    viewer.page.set_input_files("#portrait", rubbish)
    viewer.page.wait_for_selector("#portrait-problem:not([hidden])")
    assert len(viewer.page.inner_text("#portrait-problem")) > 20
    viewer.start()
    sound = tmp_path / "song.mp3"
    sound.write_bytes(b"not a sound at all")
    viewer.page.set_input_files("#audio", sound)
    viewer.await_notice("sound", "audio")
    assert viewer.page.get_attribute("body", "data-phase") == "live"


def test_takes_another_portrait_while_live(viewer: Viewer) -> None:
    viewer.start()
    before = viewer.picture()
    with viewer.page.expect_response(lambda response: response.url.endswith("/webrtc")):
        viewer.page.set_input_files("#portrait", PORTRAITS[-1])
    viewer.await_live()
    assert viewer.page.is_hidden("#portrait-problem")
    assert np.abs(viewer.picture() - before).mean() > 15, "another face"


def test_records_a_file_that_says_what_it_is(viewer: Viewer, tmp_path: Path) -> None:
    viewer.start()
    viewer.say("This is recorded.")
    viewer.await_speech()
    viewer.page.click("#record")
    viewer.page.wait_for_selector("#recording:not([hidden])")
    viewer.page.wait_for_timeout(2000)
    with viewer.page.expect_download() as download:
        viewer.page.click("#record")
    assert "AI-generated" in download.value.suggested_filename
    file = tmp_path / "recorded.webm"
    download.value.save_as(file)
    with av.open(str(file)) as container:
        assert "AI-generated" in container.metadata.get("COMMENT", "")
        pictures = sum(1 for _ in container.decode(video=0))
    with av.open(str(file)) as container:
        loudest = max(np.abs(frame.to_ndarray()).max() for frame in container.decode(audio=0))
    assert pictures > 10
    assert loudest > 0.01


def test_works_with_the_keyboard_alone(viewer: Viewer) -> None:
    page = viewer.page
    names = []
    for _ in range(14):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.id || document.activeElement.name"))
        if names[-1] == "start":
            page.keyboard.press("Enter")
            break
    assert "start" in names, names
    viewer.await_live()
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "text":
            break
    page.keyboard.type("Typed without a mouse.")
    page.keyboard.press("Enter")
    viewer.await_state("speaking")
    for _ in range(40):
        page.keyboard.press("Shift+Tab")
        if page.evaluate("document.activeElement.id") == "end":
            break
    page.keyboard.press("Enter")
    page.wait_for_selector("body[data-phase=off]")
    assert page.evaluate("document.activeElement.id") == "start", "focus is not lost with the picture"


def test_everything_that_can_be_pressed_has_a_name(viewer: Viewer) -> None:
    nameless = viewer.page.evaluate("""[...document.querySelectorAll("button, input, select, textarea")].filter(
        (element) => !(element.ariaLabel || element.textContent.trim() || element.labels?.length)).map((e) => e.id)""")
    assert nameless == []


@pytest.mark.parametrize("width", [320, 390])
def test_fits_a_phone(browser: Any, server: Server, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 780}, is_mobile=True, has_touch=True)
    viewer = Viewer(context.new_page(), server.url)
    viewer.open()
    for element in ("#settings", "#figures"):
        viewer.page.tap(f"{element} summary")
    viewer.start()
    viewer.page.wait_for_selector("#tables td")
    assert viewer.page.evaluate("document.documentElement.scrollWidth") == width
    small = viewer.page.evaluate("""[...document.querySelectorAll("button, select, summary, label.file")]
        .filter((e) => e.checkVisibility() && e.getBoundingClientRect().height < 24).map((e) => e.id)""")
    assert small == []
    context.close()
