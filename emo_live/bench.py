"""End-to-end benchmark on the bundled portrait: ms a frame by stage on 1 and 2 threads, times real time, memory, CPU.

A stage's time is the least of several runs, because whatever else runs on the machine only ever adds to it.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
import wave
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emo_live.avatar import Avatar
from emo_live.config import TINY
from emo_live.hardware import describe, peak_rss_bytes
from emo_live.render import RenderOptions, render
from emo_live.types import FPS, MODEL_RATE_HZ, Float32, Progress, ProgressCallback

ASSETS = Path(__file__).parent / "assets"
FRAMES = 8  # of the window that is timed
REPEATS = 12


@dataclass(frozen=True, slots=True)
class StageRow:
    stage: str
    threads_1_ms: float
    threads_2_ms: float


@dataclass(frozen=True, slots=True)
class EndToEndRow:
    size: int
    steps: int
    video_s: float
    times_real_time: float
    first_frame_s: float
    peak_rss_mb: float


@dataclass(frozen=True, slots=True)
class BenchReport:
    """stages: ms a frame in windows of 8 frames; end_to_end: whole renderings, decoding and encoding included."""

    machine: dict[str, Any]
    precision: str
    stages: tuple[StageRow, ...]
    end_to_end: tuple[EndToEndRow, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(*, seconds: float, progress: ProgressCallback | None = None) -> BenchReport:
    """seconds: length of the sound of the end-to-end rows. Takes about twice that and ten seconds."""
    portrait = sorted((ASSETS / "portraits").glob("*.jpg"))[0]
    avatar = Avatar.prepare(portrait)
    if progress:
        progress(Progress("prepare", 0, 4))
    precision, one = _stages(avatar, 1)
    _, two = _stages(avatar, 2)
    rows = [StageRow(name, one[name], two[name]) for name in one]
    rows.append(StageRow("engine at 256 px", _engine(one, 256), _engine(two, 256)))
    rows.append(StageRow("engine at 512 px", _engine(one, 512), _engine(two, 512)))
    ends = []
    for done, size in enumerate((256, 512), 2):
        if progress:
            progress(Progress("render", done, 4))
        ends.append(_end_to_end(avatar, size, seconds))
    return BenchReport(describe(), precision, tuple(rows), tuple(ends))


def _engine(stages: dict[str, float], size: int) -> float:
    return round(sum(ms for name, ms in stages.items() if "px" not in name or f"{size} px" in name), 2)


def _stages(avatar: Avatar, threads: int) -> tuple[str, dict[str, float]]:
    from emo_live.audio.features import CONTEXT_SAMPLES, LEFT_SAMPLES, log_mel
    from emo_live.engine.backend_openvino import OpenVinoBackend
    from emo_live.engine.pictures import PictureMaker

    random = np.random.default_rng(0)
    backend = OpenVinoBackend(threads=threads)
    try:
        prepared = backend.prepare(avatar)
        pcm = random.normal(0, 0.05, LEFT_SAMPLES + CONTEXT_SAMPLES).astype(np.float32)
        grid = (TINY.autoencoder.latent_channels, TINY.autoencoder.latent_size, TINY.autoencoder.latent_size)
        z = random.normal(0, 0.5, (FRAMES, *grid)).astype(np.float32)
        around = TINY.emo.audio_projection.frames - 1
        sound = backend.hear(log_mel(pcm))[-(FRAMES + around) * 2 :]
        speed = np.full(FRAMES + around, 4.0, np.float32)
        makers = {size: PictureMaker(backend, prepared, size) for size in (256, 512)}
        jobs: dict[str, Callable[[], object]] = {
            "hear (log-mel, whisper)": lambda: backend.hear(log_mel(pcm)),
            "denoise (one step)": lambda: backend.denoise(prepared, z, 999, z[:2], sound, speed),
            **{
                f"pictures {size} px (flow, warp, mouth)": lambda maker=maker: maker.make(z)
                for size, maker in makers.items()
            },
        }
        return backend.precision, {name: round(_least_ms(job) / FRAMES, 2) for name, job in jobs.items()}
    finally:
        backend.close()


def _least_ms(job: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        job()
        times.append(time.perf_counter() - start)
    return min(times) * 1000


def _end_to_end(avatar: Avatar, size: int, seconds: float) -> EndToEndRow:
    with tempfile.TemporaryDirectory(prefix="emo-live-bench-") as folder:
        sound = Path(folder) / "speech.wav"
        _write_speech(sound, seconds)
        result = asyncio.run(render(avatar, sound, Path(folder) / "out.mp4", RenderOptions(size=size)))
    return EndToEndRow(
        size,
        1,
        round(result.frames / FPS, 2),
        round(result.times_real_time, 2),
        round(result.first_frame_s, 2),
        round(peak_rss_bytes() / 1e6, 1),
    )


def _write_speech(path: Path, seconds: float) -> None:
    """The bundled greeting, repeated to the wanted length, 16 kHz mono."""
    from emo_live.audio.framer import Framer
    from emo_live.audio.source import AudioFile, to_mono

    with AudioFile(sorted((ASSETS / "speech").glob("greeting.*"))[0]) as source:
        framer = Framer(source.rate_hz)
        steps = [step.model for chunk in source.chunks() for step in framer.push(to_mono(chunk))]
    speech: Float32 = np.resize(np.concatenate(steps), int(seconds * MODEL_RATE_HZ))
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(MODEL_RATE_HZ)
        out.writeframes((speech * 32767).astype("<i2").tobytes())
