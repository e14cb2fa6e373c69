"""A portrait and a speech file become a video file: the live engine without the clock.

One thread decodes sound and runs the rolling window, a second one encodes; a few MB at most wait between them, so
memory is constant for any length. Cancelling the task stops both and removes the unfinished file.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from emo_live import hardware
from emo_live.audio.framer import Framer
from emo_live.audio.source import AudioFile, to_mono
from emo_live.avatar import Avatar
from emo_live.engine.base import Backend, Engine
from emo_live.engine.limits import TINY_LIMITS, Limits
from emo_live.engine.published import (
    PUBLISHED_LIMITS,
    USUAL,
    PublishedOptions,
    RenderWish,
    published_engine,
)
from emo_live.engine.tiny import OFFLINE, SIDE_BY_SIDE, tiny_window, usual_threads
from emo_live.engine.window import DEFAULT_SPEED, Controls, RollingWindow
from emo_live.errors import BadInputError
from emo_live.face.landmarker import FaceFinder
from emo_live.face.portrait import PictureSource
from emo_live.transport.background import BackgroundWriter
from emo_live.transport.file import VideoFileWriter, check_output
from emo_live.types import FPS, Float32, Progress, ProgressCallback, Stage, UInt8

MARK = "AI-generated: talking avatar made with emo_live from one portrait and a sound file"
MAX_SEED = 2**63 - 1


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """How to render. Raises BadInputError for values that cannot be used.

    size: 256 or 512 px, the side of the square video; with published weights any multiple of 64, also of what is put
    into the whole picture. full_frame: the face goes back into the whole picture, at its own resolution. speed: head
    velocity in degrees a second (None: the model's usual). motion: strength of head motion, 1 as generated. seed:
    another one gives another performance. steps: denoising steps (None: the model's usual). largest_face: of several
    faces take the largest. threads: of inference (None: one or two, by what there is). engine: "tiny", or published
    weights by name or as PublishedOptions.
    """

    size: int = 512
    full_frame: bool = False
    speed: float | None = None
    motion: float = 1.0
    seed: int = 0
    steps: int | None = None
    overwrite: bool = False
    largest_face: bool = False
    threads: int | None = None
    engine: str | PublishedOptions = "tiny"

    def __post_init__(self) -> None:
        if isinstance(self.engine, str) and self.engine not in ("tiny", *USUAL):
            names = ", ".join(("tiny", *USUAL))
            raise BadInputError(f"there is no engine {self.engine!r} that renders: use {names}")
        limits: Limits = TINY_LIMITS if self.published is None else PUBLISHED_LIMITS
        limits.check_size(self.size)
        if self.steps is not None:
            limits.check_steps(self.steps)
        _ = self.controls
        if not 0 <= self.seed <= MAX_SEED:
            raise BadInputError(f"seed must be 0 to {MAX_SEED}, not {self.seed}")
        if self.threads is not None and self.threads < 1:
            raise BadInputError(f"threads must be 1 or more, not {self.threads}")

    @property
    def controls(self) -> Controls:
        return Controls(DEFAULT_SPEED if self.speed is None else self.speed, self.motion)

    @property
    def n_steps(self) -> int:
        """Of the tiny model."""
        return TINY_LIMITS.usual_steps if self.steps is None else self.steps

    @property
    def published(self) -> PublishedOptions | None:
        """With `steps`; None for the tiny model."""
        if self.engine == "tiny":
            return None
        options = self.engine if isinstance(self.engine, PublishedOptions) else PublishedOptions(self.engine)
        return options if self.steps is None else replace(options, steps=self.steps)


@dataclass(frozen=True, slots=True)
class RenderResult:
    """What was rendered. damage: where and why the sound broke off, if it did; the video ends there."""

    path: Path
    avatar_id: str
    frames: int
    duration_s: float
    elapsed_s: float
    first_frame_s: float
    times_real_time: float
    damage: str | None


# Entering it may start loading in the background; its value makes an engine for an avatar.
EngineOpener = Callable[[RenderOptions], AbstractContextManager[Callable[[Avatar], Engine]]]


async def render(
    portrait: Avatar | PictureSource,
    audio: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: RenderOptions | None = None,
    *,
    progress: ProgressCallback | None = None,
    engine: str | PublishedOptions | EngineOpener | None = None,
) -> RenderResult:
    """Render the sound of `audio`, spoken by the portrait, into `out` (.mp4 or .webm).

    portrait: an Avatar, or anything that becomes one: the path of an avatar file, any picture. progress is called from
    a worker thread. engine: another one than that of the options, also one of your own. Raises BadInputError for
    anything unusable, NotSupportedError for a missing package, EngineError if the model fails. Cancelling removes the
    unfinished file before CancelledError is raised.
    """
    options = options or RenderOptions()
    if isinstance(engine, (str, PublishedOptions)):
        options, engine = replace(options, engine=engine), None
    job = _Job(portrait, Path(audio), Path(out), options, progress, engine or named_engine)
    work = asyncio.ensure_future(asyncio.to_thread(job.run))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        job.stop.set()
        while not work.done():  # however often this is cancelled: the thread must have tidied up
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([work])
        work.exception()  # has been seen
        raise


def window_of(
    backend: Backend, avatar: Avatar, options: RenderOptions, painter: Executor | None = None
) -> RollingWindow:
    """An engine on any backend, as the options of a rendering want it. painter: makes the pictures beside it."""
    return tiny_window(
        backend,
        backend.prepare(avatar),
        size=options.size,
        full_frame=options.full_frame,
        seed=options.seed,
        steps=options.n_steps,
        controls=options.controls,
        painter=painter,
        policy=OFFLINE if painter is None else SIDE_BY_SIDE,
    )


def named_engine(options: RenderOptions) -> AbstractContextManager[Callable[[Avatar], Engine]]:
    """The engine that the options ask for."""
    published = options.published
    if published is None:
        return tiny_engine(options)
    wish = RenderWish(options.size, options.full_frame, options.seed, options.speed, options.motion, options.threads)
    return published_engine(published, wish)


@contextlib.contextmanager
def tiny_engine(options: RenderOptions) -> Iterator[Callable[[Avatar], Engine]]:
    """The shipped model on OpenVINO: compiles in the background while the caller looks for the face."""
    from emo_live.engine.backend_openvino import OpenVinoBackend

    cpu = hardware.cpu()
    backend = OpenVinoBackend(threads=options.threads or usual_threads(cpu))
    try:
        backend.warm(OFFLINE.lengths)
        if cpu.usable_cores < 2:
            yield lambda avatar: window_of(backend, avatar, options)
        else:  # pictures are half of the work, and most of it is not OpenVINO's
            with ThreadPoolExecutor(1, thread_name_prefix="emo-live-pictures") as painter:
                yield lambda avatar: window_of(backend, avatar, options, painter)
    finally:
        backend.close()


def compile_ahead() -> None:
    """Compiles what renderings need, for the processes to come; they find it in the user's cache folder."""
    with tiny_engine(RenderOptions()):  # leaving waits for what has begun
        FaceFinder().load()


class _StoppedError(Exception):
    """Ends the worker after the caller was cancelled."""


@dataclass
class _Job:
    """One rendering, on the thread that calls run()."""

    portrait: Avatar | PictureSource
    audio: Path
    out: Path
    options: RenderOptions
    progress: ProgressCallback | None
    engine: EngineOpener

    def __post_init__(self) -> None:
        self.stop = threading.Event()
        self._total: int | None = None
        self._frames = 0
        self._first_frame_s = 0.0

    def run(self) -> RenderResult:
        started = time.monotonic()
        with contextlib.ExitStack() as stack:
            # What fails quickly comes first, before the model is loaded.
            source = stack.enter_context(AudioFile(self.audio))
            check_output(self.out, overwrite=self.options.overwrite)
            self._total = None if source.duration_s is None else round(source.duration_s * FPS)
            self._report("prepare")
            make_engine = stack.enter_context(self.engine(self.options))
            avatar = self._avatar()
            self._check_stopped()
            engine = make_engine(avatar)
            writer = stack.enter_context(self._writer(source, engine))
            with BackgroundWriter(writer) as background:
                for sound, videos in _pieces(source, engine):
                    if sound is not None:
                        background.write_audio(sound)
                    self._pass_on(videos, background, started)
                self._report("finish")
            self._check_stopped()
            writer.close()
        elapsed_s = time.monotonic() - started
        seconds = self._frames / FPS
        return RenderResult(
            path=self.out,
            avatar_id=avatar.id,
            frames=self._frames,
            duration_s=seconds,
            elapsed_s=elapsed_s,
            first_frame_s=self._first_frame_s,
            times_real_time=seconds / elapsed_s,
            damage=source.damage,
        )

    def _avatar(self) -> Avatar:
        portrait, largest_face = self.portrait, self.options.largest_face
        if isinstance(portrait, Avatar):
            return portrait
        if isinstance(portrait, (str, os.PathLike)):
            return Avatar.open(portrait, largest_face=largest_face)
        return Avatar.prepare(portrait, largest_face=largest_face)

    def _writer(self, source: AudioFile, engine: Engine) -> VideoFileWriter:
        height, width = engine.shape
        return VideoFileWriter(
            self.out,
            width=width,
            height=height,
            rate_hz=source.rate_hz,
            channels=source.channels,
            overwrite=self.options.overwrite,
            metadata={"comment": MARK},
        )

    def _pass_on(self, videos: list[UInt8], background: BackgroundWriter, started: float) -> None:
        self._check_stopped()
        if not videos:
            return
        self._first_frame_s = self._first_frame_s or time.monotonic() - started
        for video in videos:
            background.write_video(video)
        self._frames += len(videos)
        self._report("render")

    def _report(self, stage: Stage) -> None:
        if self.progress is not None:
            self.progress(Progress(stage, self._frames, self._total))

    def _check_stopped(self) -> None:
        if self.stop.is_set():
            raise _StoppedError


def _pieces(source: AudioFile, engine: Engine) -> Iterator[tuple[Float32 | None, list[UInt8]]]:
    """Sound as it is read, each piece before the pictures that it makes possible."""
    framer = Framer(source.rate_hz)
    for chunk in source.chunks():
        yield chunk, []
        for step in framer.push(to_mono(chunk)):
            engine.push(step.model)
            yield None, [frame.video for frame in engine.frames()]
    for step in framer.flush():
        engine.push(step.model)
        yield None, [frame.video for frame in engine.frames()]
    engine.finish()
    yield None, [frame.video for frame in engine.frames()]
