"""A person in front of the page: presses, types, listens and looks. Wraps a playwright page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from emo_live.types import Float32

PATIENCE_MS = 45_000  # a shared machine is slow; what has to be quick is measured by the benchmark

# Root mean square of the last 43 ms of what plays, and the picture in grey, small.
_SENSES = """() => {
  const video = document.getElementById("video");
  const context = new AudioContext();
  const analyser = new AnalyserNode(context, { fftSize: 2048 });
  const wave = new Float32Array(2048);
  let source, stream;
  const canvas = new OffscreenCanvas(64, 64);
  const paint = canvas.getContext("2d", { willReadFrequently: true });
  window.senses = {
    loudness() {
      if (video.srcObject !== stream) {
        source?.disconnect();
        stream = video.srcObject;
        source = context.createMediaStreamSource(stream);
        source.connect(analyser);
      }
      analyser.getFloatTimeDomainData(wave);
      return Math.sqrt(wave.reduce((sum, sample) => sum + sample * sample, 0) / wave.length);
    },
    picture() {
      paint.drawImage(video, 0, 0, 64, 64);
      return [...paint.getImageData(0, 0, 64, 64).data].filter((_, k) => k % 4 === 1);
    },
  };
}"""
SILENCE, SPEECH = 0.002, 0.01


@dataclass
class Viewer:
    """requests: every address the page asked for. complaints: what the browser reported as wrong."""

    page: Any
    origin: str
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._read_console)

    def _read_console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def open(self) -> None:
        self.page.goto(f"{self.origin}/")
        self.page.wait_for_selector("#start:enabled")

    def start(self, *, greet: bool = False) -> None:
        if not greet:
            self.page.evaluate("document.getElementById('greet').checked = false")
        self.page.click("#start")
        self.await_live()

    def await_live(self) -> None:
        self.page.wait_for_selector("body[data-phase=live]")
        self.page.evaluate(_SENSES)

    def await_state(self, *states: str) -> None:
        self.page.wait_for_selector(", ".join(f"body[data-state={state}]" for state in states))

    def wait_until(self, expression: str) -> None:
        """Until some JavaScript is true. playwright's own wait_for_function needs what the page's policy forbids."""
        for _ in range(PATIENCE_MS // 50):
            if self.page.evaluate(expression):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"never true: {expression}")

    def say(self, text: str) -> None:
        self.page.fill("#text", text)
        self.page.press("#text", "Enter")

    def await_loudness(self, fits: Callable[[float], bool], *, times: int = 1) -> list[float]:
        """Waits until so many readings in a row fit, 50 ms apart; all readings until then."""
        heard: list[float] = []
        for _ in range(PATIENCE_MS // 50):
            heard.append(float(self.page.evaluate("senses.loudness()")))
            if len(heard) >= times and all(map(fits, heard[-times:])):
                return heard
            self.page.wait_for_timeout(50)
        raise AssertionError(f"never heard what was waited for; last {heard[-5:]}")

    def await_speech(self) -> None:
        self.await_loudness(lambda level: level > SPEECH)

    def await_silence(self) -> None:
        self.await_loudness(lambda level: level < SILENCE, times=10)

    def picture(self) -> Float32:
        """(64, 64) grey of what is shown."""
        return np.asarray(self.page.evaluate("senses.picture()"), np.float32).reshape(64, 64)

    def await_movement(self) -> None:
        """Until the picture differs somewhere from what it was. A starved machine holds the face for a while."""
        before = self.picture()
        for _ in range(PATIENCE_MS // 120):
            self.page.wait_for_timeout(120)
            if np.abs(self.picture() - before).max() > 2:
                return
        raise AssertionError("the picture stands still")

    @property
    def notice(self) -> str:
        return str(self.page.inner_text("#notice"))

    def await_notice(self, *words: str) -> str:
        self.page.wait_for_selector("#notice:not([hidden])")
        assert any(word in self.notice for word in words), self.notice
        return self.notice

    def foreign_requests(self) -> list[str]:
        """Addresses of other hosts. blob: is the page's own memory."""
        own = {urlsplit(self.origin).netloc, ""}
        return [url for url in self.requests if urlsplit(url).netloc not in own]
