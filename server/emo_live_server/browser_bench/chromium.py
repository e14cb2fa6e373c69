"""Finds and starts Chromium, and lets it measure what a WHEP address sends. Synchronous; one browser a call."""

from __future__ import annotations

import contextlib
import shutil
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emo_live.errors import NotSupportedError
from emo_live.types import STEP_S

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# --no-sandbox: containers and CI run as root. The fake devices never ask and never touch a real microphone.
FLAGS = (
    "--no-sandbox",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
)
_SCRIPT = Path(__file__).with_name("measure.js")
# A page that stumbles while it starts has fetched sound ahead; Chromium takes up to eleven seconds (measured beside
# three busy processes) until picture and sound have met again, a step a second.
SETTLING_S = 12.0
_FARTHEST_MS = 500.0  # flash and beep of one second, never of neighbouring ones


@dataclass(frozen=True, slots=True)
class Viewing:
    """What was seen and heard, times in ms of one clock. start_ms: from the request to the first picture shown."""

    flashes_ms: tuple[float, ...]
    beeps_ms: tuple[float, ...]
    frames_ms: tuple[float, ...]
    start_ms: float
    report: dict[str, Any]

    def offsets_ms(self) -> list[float]:
        """Beep minus flash, one a second after the connection has settled; positive: the sound is late."""
        if not self.frames_ms:
            return []
        settled = self.frames_ms[0] + SETTLING_S * 1000
        pairs = [
            (flash, min(self.beeps_ms, key=lambda beep: abs(beep - flash), default=float("inf")))
            for flash in self.flashes_ms
            if flash >= settled
        ]
        return [beep - flash for flash, beep in pairs if abs(beep - flash) <= _FARTHEST_MS]

    def gaps_ms(self) -> list[float]:
        """Between neighbouring pictures on the screen, after the connection has settled; 40 is ideal."""
        settled = [moment for moment in self.frames_ms if moment >= self.frames_ms[0] + SETTLING_S * 1000]
        return [after - before for before, after in zip(settled, settled[1:], strict=False)]


@dataclass(frozen=True, slots=True)
class Summary:
    """offset_ms: median of beep minus flash, None without flashes. spread_ms: 95 % of the offsets are within."""

    offset_ms: float | None
    spread_ms: float | None
    seconds_compared: int
    fps: float
    gap_p50_ms: float
    gap_p95_ms: float
    gap_max_ms: float
    start_ms: float
    freezes: int
    freeze_s: float
    codec: str


def summarize(viewing: Viewing) -> Summary:
    offsets, gaps = viewing.offsets_ms(), viewing.gaps_ms() or [float("nan")]
    middle = statistics.median(offsets) if offsets else None
    return Summary(
        offset_ms=middle,
        spread_ms=None if middle is None else percentile([abs(offset - middle) for offset in offsets], 95),
        seconds_compared=len(offsets),
        fps=len(gaps) / max(sum(gaps) / 1000, STEP_S),
        gap_p50_ms=percentile(gaps, 50),
        gap_p95_ms=percentile(gaps, 95),
        gap_max_ms=max(gaps),
        start_ms=viewing.start_ms,
        freezes=int(viewing.report["freezes"]),
        freeze_s=float(viewing.report["freeze_s"]),
        codec=str(viewing.report["codec"]),
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest of the values, not one between them."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def find() -> Path | None:
    """Chromium of this system; None without one."""
    return next((Path(found) for name in _NAMES if (found := shutil.which(name))), None)


def missing() -> str | None:
    """What has to be installed before a browser can be started here; None if nothing."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "pip install playwright"
    return None if find() else "Chromium (Debian: apt-get install chromium)"


@contextlib.contextmanager
def launched(*more_flags: str) -> Iterator[Browser]:
    """A headless Chromium. Raises NotSupportedError where there is none."""
    wanted = missing()
    if wanted:
        raise NotSupportedError(f"this needs a browser: install {wanted}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find(), args=[*FLAGS, *more_flags])
        try:
            yield browser
        finally:
            browser.close()


def watch(browser: Browser, url: str, *, seconds: float, say: Mapping[str, Any] | None = None) -> Viewing:
    """Plays a WHEP address for some seconds; see `begin_watching`."""
    return begin_watching(browser, url, seconds=seconds, say=say)()


def begin_watching(
    browser: Browser, url: str, *, seconds: float, say: Mapping[str, Any] | None = None
) -> Callable[[], Viewing]:
    """Plays a WHEP address in a window of its own; the returned function waits for the end and gives what was seen.

    url: absolute. say: {url, text, everyS} of a request that makes the avatar speak meanwhile.
    """
    origin = "/".join(url.split("/")[:3])
    # bypass_csp: the measuring worklet comes from memory, which the server's policy rightly forbids its own page.
    context = browser.new_context(bypass_csp=True)
    page = context.new_page()
    page.set_default_timeout((seconds + 30) * 1000)
    page.route(f"{origin}/", lambda route: route.fulfill(body="<!doctype html>", content_type="text/html"))
    page.goto(f"{origin}/")
    page.add_script_tag(content=_SCRIPT.read_text())
    page.evaluate("what => { window.seen = measure(what) }", {"url": url, "seconds": seconds, "say": say})

    def collect() -> Viewing:
        with contextlib.closing(context):
            found = page.evaluate("window.seen")
        return Viewing(
            flashes_ms=tuple(found["flashes"]),
            beeps_ms=tuple(found["beeps"]),
            frames_ms=tuple(found["frames"]),
            start_ms=float(found["startMs"]),
            report=found["report"],
        )

    return collect
