"""How a live session does on this machine: how soon speech shows, how evenly pairs leave, how fast an interrupt and a
dead engine are dealt with, and what it costs. The model and a test pattern go through the same in one run: what the
pattern shows is the machine's own, the rest is the model's.

Times are taken where pairs leave, at the sinks; what a browser sees is `emo-live bench browser`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from emo_live import samples
from emo_live.audio.source import AudioFile, to_mono
from emo_live.avatar import Avatar
from emo_live.engine.base import EngineFrame
from emo_live.engine.live import EngineFactory, LiveEngine, LiveSpec, PatternEngine, PatternHost
from emo_live.engine.pool import EnginePool
from emo_live.errors import EngineError
from emo_live.events import Degraded, Event, Recovered
from emo_live.hardware import describe, process_cpu_s, process_rss_bytes
from emo_live.media.seam import FADE_SAMPLES
from emo_live.session import AvatarSession
from emo_live.types import OUTPUT_RATE_HZ, STEP_S, AVPair, Float32, Progress, ProgressCallback

_TURN_S = 2.0  # of speech
_CHUNK_S = 0.02
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Figure:
    """control: with an engine that has nothing to do; it shows what the machine itself adds."""

    figure: str
    control: float
    tiny: float
    wanted: str


@dataclass(frozen=True, slots=True)
class LiveReport:
    """live: milliseconds are from a call to the pair that shows its effect, where pairs leave for the sinks."""

    machine: dict[str, Any]
    live: tuple[Figure, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


# In the order in which they are shown, and what the project promises on two cores of its own.
WANTED = {
    "session ready, cold (ms)": "",
    "first frame, speech is there: p50 (ms)": "400",
    "first frame, speech is there: p95 (ms)": "",
    "first frame, as it is spoken: p50 (ms)": "400",
    "first frame, as it is spoken: p95 (ms)": "",
    "interrupt to silence: p95 (ms)": "100",
    "interrupt to a face that goes on: p95 (ms)": "300",
    "pairs leave late: p50 (ms)": "",
    "pairs leave late: p95 (ms)": "2",
    "pairs that repeat a picture (%)": "",
    "engine, a frame (ms)": "25",
    "engine, cores": "",
    "everything else, cores": "",
    "engine, RSS (MB)": "",
    "everything else, RSS (MB)": "",
    "dead engine noticed (ms)": "1000",
    "dead engine replaced, face moves (ms)": "3000",
    "rung of the degradation ladder": "0",
}


class ControlEngine(PatternEngine):
    """The test pattern without its beep: what is heard is what was pushed."""

    def frames(self) -> list[EngineFrame]:
        return [EngineFrame(frame.index, frame.video) for frame in super().frames()]


class ControlHost(PatternHost):
    def open(self, spec: LiveSpec) -> LiveEngine:
        return ControlEngine(spec.size)


async def measure(
    *, turns: int = 10, size: int = 512, threads: int | None = None, progress: ProgressCallback | None = None
) -> LiveReport:
    """turns: of each kind. Takes about twenty seconds a turn."""
    avatar = await Avatar.from_image(samples.portrait())
    columns = []
    engines: tuple[str | EngineFactory, ...] = (ControlHost, "tiny")
    for number, engine in enumerate(engines):
        columns.append(await _Run(engine, avatar, size, threads, turns, progress, number).measure())
    control, tiny = columns
    return LiveReport(describe(), tuple(Figure(name, control[name], tiny[name], WANTED[name]) for name in WANTED))


@dataclass
class _Run:
    """One engine, through everything. number: of this run, of two."""

    engine: str | EngineFactory
    avatar: Avatar
    size: int
    threads: int | None
    turns: int
    progress: ProgressCallback | None
    number: int

    async def measure(self) -> dict[str, float]:
        started = time.perf_counter()
        async with (
            EnginePool(self.engine, threads=self.threads, max_sessions=1) as pool,
            AvatarSession(self.avatar, size=self.size, pool=pool) as session,
        ):
            ready_ms = (time.perf_counter() - started) * 1000
            watch = _Watch(session)
            session.attach(watch)
            began, cpu = time.perf_counter(), _cpu_s(pool.pid)
            turns = await self._turns(watch)
            wall_s = time.perf_counter() - began
            used = [after - before for after, before in zip(_cpu_s(pool.pid), cpu, strict=True)]
            stats = session.stats()
            rss = [(process_rss_bytes(pid) or 0) / 1e6 for pid in (pool.pid, os.getpid())]
            dead = await watch.killed(pool)
            late = (stats.pacer_late_p50_ms, stats.pacer_late_p95_ms)
            held = 100 * stats.held / stats.pairs
            cores = [seconds / wall_s for seconds in used]
            values = [ready_ms, *turns, *late, held, stats.engine_ms_per_frame, *cores, *rss, *dead, stats.level]
        return {name: round(value, 2 if "cores" in name else 1) for name, value in zip(WANTED, values, strict=True)}

    async def _turns(self, watch: _Watch) -> list[float]:
        """Percentiles of what each kind of turn took."""
        sound, rate_hz = _greeting()
        took: list[list[float]] = [[], [], [], []]
        for turn in range(self.turns):
            if self.progress is not None:
                self.progress(Progress("render", self.number * self.turns + turn, 2 * self.turns))
            part = np.roll(sound, -turn * rate_hz)[: int(_TURN_S * rate_hz)]
            took[0].append(await watch.first_frame(part, rate_hz, as_spoken=False))
            took[1].append(await watch.first_frame(part, rate_hz, as_spoken=True))
            silence, face = await watch.interrupted(part, rate_hz)
            took[2].append(silence)
            took[3].append(face)
        return [*_p50_p95(took[0]), *_p50_p95(took[1]), _p50_p95(took[2])[1], _p50_p95(took[3])[1]]


class _Watch:
    """A sink that remembers when sound began and ended, and when the picture changed. Times in ms."""

    def __init__(self, session: AvatarSession) -> None:
        self._session = session
        self._seen: asyncio.Queue[AVPair] = asyncio.Queue()

    def offer(self, pair: AVPair) -> None:
        self._seen.put_nowait(pair)

    async def close(self) -> None:
        """Nothing to free."""

    async def _until(self, wanted: Callable[[AVPair], bool]) -> float:
        """When the first such pair comes that has not been seen yet."""
        async with asyncio.timeout(_TIMEOUT_S):
            while not wanted(await self._seen.get()):
                pass
        return time.perf_counter()

    async def first_frame(self, sound: Float32, rate_hz: int, *, as_spoken: bool) -> float:
        """From the first sound pushed to the first pair of the utterance; waits until all of it is spoken."""
        await self._quiet()
        chunk = int(_CHUNK_S * rate_hz) if as_spoken else len(sound)
        due = time.perf_counter()
        for start in range(0, len(sound), chunk):
            await self._session.push_audio(sound[start : start + chunk], rate_hz)
            due += chunk / rate_hz if as_spoken else 0.0
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
        await self._session.end_utterance()
        await self._quiet()
        return self._session.stats().first_frame_ms or 0.0

    async def _quiet(self) -> None:
        """Until nothing is said, and a moment more, never the same one within a pair."""
        await self._until(lambda _: self._session.state == "idle")
        await asyncio.sleep(0.5 + STEP_S * np.random.default_rng().random())
        while not self._seen.empty():
            self._seen.get_nowait()

    async def interrupted(self, sound: Float32, rate_hz: int) -> tuple[float, float]:
        """From an interrupt in the middle of a word to silence, and to a face that goes on."""
        await self._session.push_audio(sound, rate_hz)
        await self._until(lambda pair: bool(np.abs(pair.audio).max() > 1000))
        await asyncio.sleep(0.5 + STEP_S * np.random.default_rng().random())
        last = self._seen.get_nowait()
        while not self._seen.empty():
            last = self._seen.get_nowait()
        called = time.perf_counter()
        await self._session.interrupt()
        silent = await self._until(lambda pair: not pair.audio[FADE_SAMPLES:].any()) + FADE_SAMPLES / OUTPUT_RATE_HZ
        moved = await self._until(lambda pair: not np.array_equal(pair.video, last.video))
        return (silent - called) * 1000, (moved - called) * 1000

    async def killed(self, pool: EnginePool) -> tuple[float, float]:
        """From the death of the engine process to its event, and to the first picture of another one."""
        events = self._session.events()
        called = time.perf_counter()
        os.kill(pool.pid, signal.SIGKILL)
        noticed = await _event(events, Degraded)
        await _event(events, Recovered)
        while not self._seen.empty():
            last = self._seen.get_nowait()
        back = await self._until(lambda pair: not np.array_equal(pair.video, last.video))
        return (noticed - called) * 1000, (back - called) * 1000


async def _event(events: Any, kind: type[Event]) -> float:
    async with asyncio.timeout(_TIMEOUT_S):
        async for event in events:
            if isinstance(event, kind):
                return time.perf_counter()
    raise EngineError("the session ended while it was measured")


def _p50_p95(values: list[float]) -> tuple[float, float]:
    p50, p95 = np.percentile(np.array(values), (50, 95))
    return float(p50), float(p95)


def _cpu_s(pid: int) -> tuple[float, float]:
    """Used by the engine process and by this one."""
    return process_cpu_s(pid) or 0.0, time.process_time()


def _greeting() -> tuple[Float32, int]:
    with AudioFile(samples.greeting()) as source:
        return np.concatenate([to_mono(chunk) for chunk in source.chunks()]), source.rate_hz
