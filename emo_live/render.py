"""A portrait and a speech file become a video file: the live engine without the clock.

One thread decodes sound and runs the rolling window, a second one encodes; a bounded queue lies between them, so memory is
constant for any length. Cancelling the task stops both and removes the unfinished file.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emo_live.audio.framer import Framer
from emo_live.audio.source import AudioFile, to_mono
from emo_live.errors import BadInputError, EngineError
from emo_live.transport.file import VideoFileWriter
from emo_live.types import FPS, Progress, ProgressCallback, UInt8

if TYPE_CHECKING:
    from emo_live.avatar import Avatar
    from emo_live.engine.window import RollingWindow

QUEUE_ITEMS = 64  # about two seconds of pictures between engine and encoder
WAIT_S = 0.2  # how long a full or empty queue is waited for before looking whether the other side still lives
MARK = "AI-generated: talking avatar made with emo_live from one portrait and a sound file"


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """size: 256 or 512 px; full_frame: the face goes back into the whole picture; speed: head velocity in degrees a second
    (None: the model's usual); motion: strength of head motion, 1 as generated; steps: denoising steps (None: the model's)."""

    size: int = 512
    full_frame: bool = False
    speed: float | None = None
    motion: float = 1.0
    seed: int = 0
    steps: int | None = None
    overwrite: bool = False
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class RenderResult:
    """damage: where and why the sound broke off, if it did; the video ends there."""

    path: Path
    frames: int
    duration_s: float
    elapsed_s: float
    first_frame_s: float
    times_real_time: float
    damage: str | None


async def render(
    avatar: Avatar,
    audio: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: RenderOptions | None = None,
    *,
    progress: ProgressCallback | None = None,
) -> RenderResult:
    """Renders `audio` with `avatar` into `out` (.mp4 or .webm). progress is called from a worker thread.

    Raises BadInputError for anything unusable, EngineError if the model fails. Cancelling removes the unfinished file.
    """
    stop = threading.Event()
    work = asyncio.ensure_future(
        asyncio.to_thread(_render, avatar, Path(audio), Path(out), options or RenderOptions(), progress, stop)
    )
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        stop.set()
        with contextlib.suppress(_StoppedError):
            await work
        raise


class _StoppedError(Exception):
    """Ends the worker after the caller was cancelled."""


def _render(
    avatar: Avatar,
    audio: Path,
    out: Path,
    options: RenderOptions,
    progress: ProgressCallback | None,
    stop: threading.Event,
) -> RenderResult:
    started = time.monotonic()
    pictures = _Pictures(avatar, options)
    height, width = pictures.shape
    first_frame_s = 0.0
    frames = 0
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(AudioFile(audio))
        writer = stack.enter_context(
            VideoFileWriter(
                out,
                width=width,
                height=height,
                rate_hz=source.rate_hz,
                channels=source.channels,
                overwrite=options.overwrite,
                metadata={"comment": MARK},
            )
        )
        total = round(source.duration_s * FPS) if source.duration_s else None
        if progress:
            progress(Progress("prepare", 0, total))
        stack.callback(pictures.close)
        pictures.open()
        encoder = stack.enter_context(_Encoder(writer))
        for sound, videos in _generate(source, pictures):
            if stop.is_set():
                raise _StoppedError
            if sound is not None:
                encoder.put(lambda pcm=sound: writer.write_audio(pcm))
            for video in videos:
                first_frame_s = first_frame_s or time.monotonic() - started
                encoder.put(lambda picture=video: writer.write_video(picture))
                frames += 1
            if progress and videos:
                progress(Progress("render", frames, total))
        if progress:
            progress(Progress("finish", frames, total))
        encoder.finish()
        writer.close()
    elapsed = time.monotonic() - started
    return RenderResult(out, frames, frames / FPS, elapsed, first_frame_s, frames / FPS / elapsed, source.damage)


def _generate(source: AudioFile, pictures: _Pictures) -> Iterator[tuple[np.ndarray | None, list[UInt8]]]:
    """Sound chunks as they are read, and the pictures that they made possible."""
    framer, window = Framer(source.rate_hz), pictures.window
    for chunk in source.chunks():
        videos: list[UInt8] = []
        for step in framer.push(to_mono(chunk)):
            window.push(step.model)
            videos += [frame.video for frame in window.frames()]
        yield chunk, [pictures.finish(video) for video in videos]
    for step in framer.flush():
        window.push(step.model)
        yield None, [pictures.finish(frame.video) for frame in window.frames()]
    window.finish()
    yield None, [pictures.finish(frame.video) for frame in window.frames()]


class _Pictures:
    """The engine of one rendering, opened late: bad sound and bad output names are refused before it is loaded."""

    def __init__(self, avatar: Avatar, options: RenderOptions):
        from emo_live.engine.window import DEFAULT_SPEED, Controls

        self.avatar, self.options = avatar, options
        self.controls = Controls(DEFAULT_SPEED if options.speed is None else options.speed, options.motion)
        if options.size not in (256, 512):
            raise BadInputError(f"size must be 256 or 512, not {options.size}")
        self.shape = (options.size, options.size)
        self._close: Callable[[], None] = lambda: None

    def open(self) -> None:
        from emo_live.engine.backend_openvino import OpenVinoBackend
        from emo_live.engine.window import DEFAULT_STEPS, OFFLINE, RollingWindow

        backend = OpenVinoBackend(threads=self.options.threads or min(2, os.cpu_count() or 1))
        self._close = backend.close
        backend.warm(OFFLINE.lengths)
        steps = DEFAULT_STEPS if self.options.steps is None else self.options.steps
        self.window: RollingWindow = RollingWindow(
            backend,
            backend.prepare(self.avatar),
            size=self.options.size,
            seed=self.options.seed,
            steps=steps,
            controls=self.controls,
        )

    def finish(self, video: UInt8) -> UInt8:
        return video

    def close(self) -> None:
        self._close()


class _Encoder:
    """A thread that carries out writes in order. A failure in it is raised by the next put() or by finish()."""

    def __init__(self, writer: VideoFileWriter):
        self.writer = writer
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(QUEUE_ITEMS)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="emo-live-encode", daemon=True)

    def __enter__(self) -> _Encoder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._failure = self._failure or _StoppedError()
        while self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                self._jobs.put(None, timeout=WAIT_S)
            self._thread.join(WAIT_S)

    def put(self, job: Callable[[], None]) -> None:
        while True:
            if self._failure is not None:
                raise self._failure
            if not self._thread.is_alive():
                raise EngineError("the encoder ended unexpectedly: please report this")
            with contextlib.suppress(queue.Full):
                return self._jobs.put(job, timeout=WAIT_S)

    def finish(self) -> None:
        self.put(lambda: None)
        self._jobs.put(None)
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._failure is not None:
                continue
            try:
                job()
            except BaseException as error:  # raised again on the engine's thread
                self._failure = error
