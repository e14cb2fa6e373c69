"""How fast this machine renders: ms a frame by stage on 1 and 2 threads, then whole renderings, each in a new process.

A stage's time is the least of several runs, because whatever else runs on the machine only ever adds to it.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import tempfile
import time
import wave
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from emo_live import samples
from emo_live.avatar import Avatar
from emo_live.config import TINY
from emo_live.folders import CACHE_VARIABLE
from emo_live.hardware import describe, few_heaps, peak_rss_bytes
from emo_live.render import RenderOptions, render
from emo_live.types import MODEL_RATE_HZ, Float32, Progress, ProgressCallback, UInt8

FRAMES = 8  # of the window that is timed
REPEATS = 12
SIZES = (256, 512)
THREADS = (1, 2)
RUNS = ("first", "later")


@dataclass(frozen=True, slots=True)
class StageRow:
    stage: str
    threads_1_ms: float
    threads_2_ms: float


@dataclass(frozen=True, slots=True)
class EndToEndRow:
    """run: "first" compiles the networks and keeps them, "later" loads them. first_frame_s: from the call to the first
    generated frame, with finding the face and loading the model."""

    size: int
    run: str
    video_s: float
    times_real_time: float
    first_frame_s: float
    peak_rss_mb: float | None


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
    """seconds: length of the sound of the end-to-end rows. Takes about three times that and twenty seconds."""
    parts = len(THREADS) + len(SIZES) * len(RUNS)
    report = progress or (lambda _: None)
    avatar = Avatar.prepare(samples.portrait())
    columns = []
    for done, threads in enumerate(THREADS):
        report(Progress("prepare", done, parts))
        precision, stages = _stages(avatar, threads)
        columns.append(stages)
    rows = tuple(StageRow(name, *(stages[name] for stages in columns)) for name in columns[0])
    ends: list[EndToEndRow] = []
    for size in SIZES:
        with tempfile.TemporaryDirectory(prefix="emo-live-bench-") as cache:
            for run in RUNS:
                report(Progress("render", len(THREADS) + len(ends), parts))
                # A process of its own each: its peak of memory and its start are those of a command.
                with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                    ends.append(pool.submit(_end_to_end, size, run, seconds, cache).result())
    return BenchReport(describe(), precision, rows, tuple(ends))


def _stages(avatar: Avatar, threads: int) -> tuple[str, dict[str, float]]:
    """The precision that the backend chose, and ms a frame by stage."""
    from emo_live.audio.features import CONTEXT_SAMPLES, LEFT_SAMPLES, log_mel
    from emo_live.engine.backend_openvino import OpenVinoBackend
    from emo_live.engine.base import WindowInputs
    from emo_live.engine.pictures import PictureMaker
    from emo_live.engine.window import DEFAULT_SPEED

    random = np.random.default_rng(0)
    backend = OpenVinoBackend(threads=threads)
    try:
        prepared = backend.prepare(avatar)
        pcm = random.normal(0, 0.05, LEFT_SAMPLES + CONTEXT_SAMPLES).astype(np.float32)
        grid = (TINY.autoencoder.latent_channels, TINY.autoencoder.latent_size, TINY.autoencoder.latent_size)
        z = random.normal(0, 0.5, (FRAMES, *grid)).astype(np.float32)
        around = TINY.emo.audio_projection.frames - 1
        sound = backend.hear(log_mel(pcm))[-(FRAMES + around) * 2 :]
        given = WindowInputs(z[:2], z, sound, np.full(FRAMES + around, DEFAULT_SPEED, np.float32))
        noise = random.normal(size=(TINY.gestures.reach + FRAMES, TINY.gestures.noise)).astype(np.float32)

        def foretell() -> None:
            prepared.face.anchor(backend.shapes(sound), backend.gestures(noise, DEFAULT_SPEED))

        every_size = {
            "hearing (log-mel, whisper)": _ms(lambda: backend.hear(log_mel(pcm))),
            "mouth shapes, gestures, prior": _ms(foretell),
            "denoising (one step)": _ms(lambda: backend.denoise(prepared, z, 999, given)),
        }
        rows = dict(every_size)
        for size in SIZES:
            maker = PictureMaker(backend, prepared, size)
            rows[f"pictures, {size} px"] = _ms(partial(maker.make, z))
            rows[f"engine, {size} px"] = sum(every_size.values()) + rows[f"pictures, {size} px"]
            rows[f"encoding, {size} px"] = _encoding_ms(maker.make(z), threads)
        return backend.precision, {name: round(ms, 2) for name, ms in rows.items()}
    finally:
        backend.close()


def _encoding_ms(pictures: list[UInt8], threads: int) -> float:
    """Colour conversion, H.264 and AAC of silence."""
    from emo_live.transport.file import VideoFileWriter

    height, width = pictures[0].shape[:2]
    silence = np.zeros((FRAMES * MODEL_RATE_HZ // 25, 1), np.float32)
    with tempfile.TemporaryDirectory(prefix="emo-live-bench-") as folder:
        out = Path(folder) / "out.mp4"
        rate = MODEL_RATE_HZ
        with VideoFileWriter(out, width=width, height=height, rate_hz=rate, channels=1, threads=threads) as writer:

            def write() -> None:
                writer.write_audio(silence)
                for picture in pictures:
                    writer.write_video(picture)

            return _ms(write)


def _ms(job: Callable[[], object]) -> float:
    """Milliseconds a frame of a job that makes FRAMES of them."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        job()
        times.append(time.perf_counter() - start)
    return min(times) * 1000 / FRAMES


def _end_to_end(size: int, run: str, seconds: float, cache: str) -> EndToEndRow:
    """Render the bundled portrait; runs in a process that does nothing else. cache: folder of its own."""
    few_heaps()
    os.environ[CACHE_VARIABLE] = cache
    with tempfile.TemporaryDirectory(prefix="emo-live-bench-") as folder:
        sound, out = Path(folder) / "speech.wav", Path(folder) / "out.mp4"
        _write_speech(sound, seconds)
        result = asyncio.run(render(samples.portrait(), sound, out, RenderOptions(size=size)))
    peak = peak_rss_bytes()
    return EndToEndRow(
        size,
        run,
        round(result.duration_s, 2),
        round(result.times_real_time, 2),
        round(result.first_frame_s, 2),
        None if peak is None else round(peak / 1e6, 1),
    )


def _write_speech(path: Path, seconds: float) -> None:
    """The bundled greeting, repeated to the wanted length, 16 kHz mono."""
    from emo_live.audio.framer import Framer
    from emo_live.audio.source import AudioFile, to_mono

    with AudioFile(samples.greeting()) as source:
        framer = Framer(source.rate_hz)
        steps = [step.model for chunk in source.chunks() for step in framer.push(to_mono(chunk))]
    speech: Float32 = np.resize(np.concatenate(steps), int(seconds * MODEL_RATE_HZ))
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(MODEL_RATE_HZ)
        out.writeframes((speech * 32767).astype("<i2").tobytes())
