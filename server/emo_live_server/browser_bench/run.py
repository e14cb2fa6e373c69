"""The whole measurement: an ideal sender, a bad one that must be noticed, and emo_live, one after the other.

All three in one run, because how a browser on this machine delays sound against pictures is part of what it shows.
"""

from __future__ import annotations

import contextlib
import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from emo_live.hardware import describe
from emo_live_server.browser_bench.chromium import SETTLING_S, Summary, launched, summarize, watch
from emo_live_server.browser_bench.processes import Server, burdened, free_port, running, usage

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CONTROL_SKEW_MS = 150.0
OFFSET_S = SETTLING_S + 14.0  # watched for each offset
_REFERENCE = "emo_live_server.browser_bench.reference"
_LOSSY = "emo_live_server.browser_bench.lossy"
_TEXT = "This sentence is spoken again and again, so that the face has something to do while its pictures are counted."
_EVERY_S = 9.0  # about as long as the text takes to speak, and two seconds of rest


@dataclass(frozen=True, slots=True)
class Condition:
    """What the ideal sender and emo_live are compared under. loss_percent: of packets; busy: other processes that take
    all the time they can get on this machine."""

    name: str = ""
    loss_percent: float = 0.0
    busy: int = 0


@dataclass(frozen=True, slots=True)
class OffsetRow:
    """beep_after_flash_ms: median. from_ideal_ms: how much more than with the ideal sender. gap_p95_ms: between
    pictures that follow each other on the screen; those of the ideal sender are the browser's own doing."""

    sender: str
    beep_after_flash_ms: float | None
    from_ideal_ms: float | None
    spread_ms: float | None
    gap_p95_ms: float
    seconds: int


@dataclass(frozen=True, slots=True)
class LiveRow:
    """The model speaking, watched in the browser.

    start_to_picture_ms: from asking for a session to its first picture on the screen, as after a click on Start.
    engine_ms to level: what the server says at the end; level: of degradation, 0 is none. server_cores: mean processor
    use of server and engine; server_rss_mb: peak of their memory, counting what they share twice.
    """

    seconds: float
    fps: float
    gap_p50_ms: float
    gap_p95_ms: float
    gap_max_ms: float
    freezes: int
    freeze_s: float
    start_to_picture_ms: float
    codec: str
    engine_ms: float
    underruns: int
    level: int
    server_cores: float | None
    server_rss_mb: float | None


@dataclass(frozen=True, slots=True)
class BrowserReport:
    machine: dict[str, Any]
    size: int
    offsets: tuple[OffsetRow, ...]
    live: tuple[LiveRow, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(
    *,
    seconds: float,
    size: int,
    loss_percent: float = 0.0,
    busy: int = 0,
    progress: Callable[[str], None] = lambda watched: None,
) -> BrowserReport:
    """seconds: how long the speaking model is watched. progress: called with what is watched next.

    loss_percent and busy: each of them is a second look at the ideal sender and at emo_live, see Condition.
    """
    conditions = [Condition()]
    if loss_percent:
        conditions.append(Condition(f", {loss_percent:g} % lost", loss_percent))
    if busy:
        conditions.append(Condition(f", {busy} busy", busy=busy))
    rows: list[OffsetRow] = []
    with launched() as browser:

        def look(name: str, view: Callable[..., Summary], condition: Condition, **more: float) -> Summary:
            progress(f"flash and beep of the sender {name + condition.name!r} for {OFFSET_S:.0f} s")
            with burdened(condition.busy):
                return view(browser, size=size, loss_percent=condition.loss_percent, **more)

        for condition in conditions:
            ideal = look("ideal", view_reference, condition)
            rows.append(_offset_row("ideal" + condition.name, ideal, ideal))
            if condition == conditions[0]:
                bad = look("bad", view_reference, condition, skew_ms=CONTROL_SKEW_MS)
                rows.append(_offset_row(f"bad, {CONTROL_SKEW_MS:.0f} ms", bad, ideal))
            rows.append(_offset_row("emo_live" + condition.name, look("emo_live", view_pattern, condition), ideal))
        progress(f"the speaking model for {seconds:.0f} s")
        live = view_live(browser, seconds=seconds, size=size)
    return BrowserReport(describe(), size, tuple(rows), (live,))


def reference(size: int, skew_ms: float = 0.0) -> AbstractContextManager[Server]:
    """The ideal sender, or a bad one; its address is /whep."""
    port = free_port()
    return running(_REFERENCE, str(port), str(size), str(skew_ms), port=port)


def whep_address(server: Server) -> str:
    """Of the default avatar of `emo-live serve`."""
    with urllib.request.urlopen(f"{server.url}/v1/config", timeout=10) as reply:
        return f"{server.url}/whep/{json.load(reply)['default_avatar']}"


@contextlib.contextmanager
def losing(whep: str, percent: float) -> Iterator[str]:
    """The same WHEP address through a network that loses packets; the address itself for 0 percent."""
    if not percent:
        yield whep
        return
    port = free_port()
    with running(_LOSSY, str(port), whep, str(percent), port=port) as path:
        yield f"{path.url}/whep"


def view_reference(browser: Browser, *, size: int, skew_ms: float = 0.0, loss_percent: float = 0.0) -> Summary:
    with reference(size, skew_ms) as server, losing(f"{server.url}/whep", loss_percent) as whep:
        return summarize(watch(browser, whep, seconds=OFFSET_S))


def view_pattern(browser: Browser, *, size: int, loss_percent: float = 0.0) -> Summary:
    """Flash and beep through the whole of emo_live: session, playout, pacer, encoder, WHEP."""
    with serving("pattern", size) as server, losing(whep_address(server), loss_percent) as whep:
        return summarize(watch(browser, whep, seconds=OFFSET_S))


def view_live(browser: Browser, *, seconds: float, size: int) -> LiveRow:
    with serving("tiny", size) as server:
        began_s = time.monotonic()
        session = _post(f"{server.url}/v1/sessions", {"greet": False})
        session_ms = (time.monotonic() - began_s) * 1000
        say = {"url": f"{server.url}/v1/sessions/{session['id']}/say", "text": _TEXT, "everyS": _EVERY_S}
        with _Meter(server.pid) as meter:
            viewing = watch(browser, server.url + session["webrtc_url"], seconds=seconds, say=say)
        with urllib.request.urlopen(f"{server.url}/v1/sessions/{session['id']}/stats", timeout=20) as reply:
            told = json.load(reply)["session"]
    summary = summarize(viewing)
    return LiveRow(
        seconds=seconds,
        fps=summary.fps,
        gap_p50_ms=summary.gap_p50_ms,
        gap_p95_ms=summary.gap_p95_ms,
        gap_max_ms=summary.gap_max_ms,
        freezes=summary.freezes,
        freeze_s=summary.freeze_s,
        start_to_picture_ms=session_ms + summary.start_ms,
        codec=summary.codec,
        engine_ms=told["engine_ms_per_frame"],
        underruns=told["underruns"],
        level=told["level"],
        server_cores=meter.cores,
        server_rss_mb=meter.peak_mb,
    )


def serving(engine: str, size: int) -> AbstractContextManager[Server]:
    """Context manager of a `Server`: `emo-live serve` with an engine, ready."""
    port = free_port()
    arguments = ("emo_live", "serve", "--quiet", "--port", str(port), "--engine", engine, "--size", str(size))
    return running(*arguments, port=port, ready="/readyz")


def _offset_row(sender: str, summary: Summary, ideal: Summary) -> OffsetRow:
    known = summary.offset_ms is not None and ideal.offset_ms is not None
    from_ideal = summary.offset_ms - ideal.offset_ms if known else None  # type: ignore[operator]
    gap = summary.gap_p95_ms
    return OffsetRow(sender, summary.offset_ms, from_ideal, summary.spread_ms, gap, summary.seconds_compared)


def _post(url: str, content: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(content).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as reply:
        return json.load(reply)


class _Meter:
    """Processor time and memory of a process and its children, looked at once a second by a thread of its own."""

    def __init__(self, pid: int) -> None:
        self._pid, self._stop = pid, Event()
        self._thread = Thread(target=self._look, name="usage", daemon=True)
        self.cores: float | None = None
        self.peak_mb: float | None = None

    def __enter__(self) -> _Meter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

    def _look(self) -> None:
        first, started_s = usage(self._pid), time.monotonic()
        while first is not None and not self._stop.wait(1.0):
            now = usage(self._pid)
            if now is None:
                return
            self.cores = (now.cpu_s - first.cpu_s) / (time.monotonic() - started_s)
            self.peak_mb = max(self.peak_mb or 0.0, now.rss_mb)
