"""The tiny model under the rolling window: sound, gestures, noise -> k denoising steps -> motion latents -> pictures.

Written once for both of its backends; tensors are float32 numpy here. Its host shares a backend between live sessions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from emo_live import hardware
from emo_live.audio.features import CONTEXT_SAMPLES, LEFT_SAMPLES, TOKENS_PER_STEP, log_mel
from emo_live.config import LIDS, POSE, TINY
from emo_live.engine.base import Backend, Prepared, WindowInputs
from emo_live.engine.kept import Kept
from emo_live.engine.limits import TINY_LIMITS
from emo_live.engine.live import SMALL_PX, Checkpoint, LiveEngine, LiveSettings, LiveSpec, Timing, WindowEngine
from emo_live.engine.motion_prior import FrameNoise, GestureNoise
from emo_live.engine.pictures import PictureMaker
from emo_live.engine.schedule import FewStepSampler
from emo_live.engine.window import Controls, NextWindow, PicturesTaken, RollingWindow, WindowPolicy
from emo_live.types import Float32, UInt8

LOOK_AHEAD = TINY.emo.audio_look_ahead
NEIGHBOURS = TINY.emo.audio_projection.frames // 2
MOTION_FRAMES = TINY.emo.motion_frames
NOISE = np.float32(0.5)  # of its full strength: the student has learnt what is likeliest, whatever the noise
# What is heard is a mean over all that could be meant, and lids that are drawn are rounded off: both move too little.
HEARD_GAIN, LIDS_GAIN = np.float32(1.2), np.float32(1.5)
OFFLINE = WindowPolicy((8,))  # all the sound is there: nobody waits for the first frame
SIDE_BY_SIDE = WindowPolicy((8,), beside=1)  # pictures of a window are made while the next one is generated
LIVE = WindowPolicy((2, 4))
_KEPT_AVATARS = 8  # prepared ones, some MB each


@dataclass(frozen=True, slots=True)
class Motion:
    """Of one frame. latents: (C, h, w); lids: (2,) how far left and right lid are closed, 0..1."""

    latents: Float32
    lids: Float32


class TinyGenerator:
    """One session. size: 256 or 512 px; full_frame: the whole picture instead, at its own size. painter: makes the
    pictures (None: whoever asks for them)."""

    carried, look_ahead, context_samples = MOTION_FRAMES, LOOK_AHEAD, LEFT_SAMPLES + CONTEXT_SAMPLES

    def __init__(
        self,
        backend: Backend,
        avatar: Prepared,
        *,
        size: int = 512,
        full_frame: bool = False,
        seed: int = 0,
        steps: int = TINY_LIMITS.usual_steps,
        controls: Controls | None = None,
        painter: Executor | None = None,
    ):
        self.backend, self.avatar, self._painter = backend, avatar, painter
        self.controls = controls or Controls()
        self.sampler = FewStepSampler(TINY.emo.schedule, steps)
        self._size = size
        self._maker = PictureMaker(backend, avatar, size, full_frame=full_frame)
        self.shape = self._maker.shape
        self._noise = FrameNoise(seed, backend.prior)
        self._gesture_noise = GestureNoise(seed, TINY.gestures.noise, TINY.gestures.reach)

    def first(self) -> list[Motion]:
        """The portrait itself."""
        return [Motion(np.zeros(self.backend.prior.shape, np.float32), np.zeros(2, np.float32))] * MOTION_FRAMES

    def latents(self, given: NextWindow) -> list[Motion]:
        tokens = self.backend.hear(log_mel(given.sound))
        sound = tokens[-(given.length + NEIGHBOURS + LOOK_AHEAD) * TOKENS_PER_STEP :]
        prior, end = self.backend.prior, given.index + given.length
        gestures, lids = self._gestures(given.index, end)
        anchor = self.avatar.face.anchor(HEARD_GAIN * self.backend.shapes(sound), gestures)
        speed = np.full(given.length + 2 * NEIGHBOURS, self.controls.speed, np.float32)
        inputs = WindowInputs(np.stack([motion.latents for motion in given.motion]), anchor, sound, speed)

        def predict(noisy: Float32, timestep: int) -> Float32:
            given.check()
            return prior.projected(self.backend.denoise(self.avatar, noisy, timestep, inputs))

        deviation = self.sampler.sample(NOISE * self._noise.frames(given.index, end), predict)
        latents = anchor + np.float32(prior.scale) * deviation
        return [Motion(*frame) for frame in zip(latents, lids, strict=True)]

    def _gestures(self, start: int, end: int) -> tuple[Float32, Float32]:
        """(end - start, G) with open lids and the head motion that is asked for, and (end - start, 2) lids."""
        noise = self._gesture_noise.frames(start - TINY.gestures.reach, end)
        gestures = self.backend.gestures(noise, self.controls.speed)
        lids = np.clip(LIDS_GAIN * gestures[:, LIDS], 0, 1)
        gestures[:, LIDS] = 0  # they are folded when pictures are made, finer than latents can
        gestures[:, -POSE:] *= self.controls.motion
        return gestures, lids

    def pictures(self, latents: Sequence[Motion]) -> PicturesTaken:
        if self._painter is None:
            made = self._draw(self._maker, latents)
            return lambda: made
        return self._painter.submit(self._draw, self._maker, latents).result

    def _draw(self, maker: PictureMaker, motion: Sequence[Motion]) -> list[UInt8]:
        pictures = maker.make(np.stack([frame.latents for frame in motion]), np.stack([frame.lids for frame in motion]))
        return [_enlarged(picture, self.shape) for picture in pictures]

    def adjust(self, settings: LiveSettings) -> None:
        self.controls = settings.controls
        if settings.steps != len(self.sampler.timesteps):
            self.sampler = FewStepSampler(TINY.emo.schedule, settings.steps)
        size = min(self._size, SMALL_PX) if settings.small else self._size
        if self.shape == (self._size, self._size) and self._maker.shape != (size, size):
            self._maker = PictureMaker(self.backend, self.avatar, size)


def _enlarged(picture: UInt8, shape: tuple[int, int]) -> UInt8:
    if picture.shape[:2] == shape:
        return picture
    return np.asarray(Image.fromarray(picture).resize(shape[::-1], Image.Resampling.BILINEAR), dtype=np.uint8)


def tiny_window(backend: Backend, avatar: Prepared, *, policy: WindowPolicy = OFFLINE, **options: Any) -> RollingWindow:
    """The window on any of the model's backends; options: those of TinyGenerator."""
    return RollingWindow(TinyGenerator(backend, avatar, **options), policy)


def tiny_engine(
    backend: Backend, avatar: Prepared, spec: LiveSpec, long_are_warm: Callable[[], bool] = lambda: True
) -> WindowEngine:
    """For a live session. `backend` is shared, the rest is this session's own."""
    settings = spec.settings
    generator = TinyGenerator(
        backend, avatar, size=spec.size, seed=spec.seed, steps=settings.steps, controls=settings.controls
    )
    return WindowEngine(generator, settings, LIVE.lengths, long_are_warm)


class _Guard:
    """Stands before a backend: work on a window passes the checkpoint first, everything else is the backend's own."""

    _FREE = ("prepare", "close")  # may come from another thread, and are not work on a window

    def __init__(self, backend: Backend, checkpoint: Checkpoint) -> None:
        self._backend, self._checkpoint = backend, checkpoint

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._backend, name)
        if not callable(found) or name in self._FREE:
            return found

        def guarded(*args: Any, **kwargs: Any) -> Any:
            self._checkpoint()
            return found(*args, **kwargs)

        return guarded


def usual_threads(cpu: hardware.Cpu) -> int:
    """Inference threads of this model on that processor, of whose cores one is left to pictures and media.

    More than two gain nothing. With bf16 it is one: two are not quicker, and on busy cores their runtime keeps hundreds
    of MB (docs/LOG.md).
    """
    return max(1, min(1 if cpu.best_precision == "bf16" else 2, int(cpu.usable_cores) - 1))


def guarded_backend(backend: Backend, checkpoint: Checkpoint) -> Backend:
    """The backend, with a checkpoint before every piece of work on a window."""
    return cast(Backend, _Guard(backend, checkpoint))


class TinyHost:
    """The shipped model on OpenVINO. cache: a folder in which a later host finds some of it compiled."""

    limits = TINY_LIMITS
    timing = Timing(LIVE.lengths, LOOK_AHEAD, can_shrink=True)

    def __init__(self, threads: int, checkpoint: Checkpoint, cache: Path | None = None) -> None:
        from emo_live.engine.backend_openvino import OpenVinoBackend

        self._openvino = OpenVinoBackend(threads=threads, cache=cache)
        self._backend = guarded_backend(self._openvino, checkpoint)
        self._prepared: Kept[str, Prepared] = Kept(_KEPT_AVATARS)

    def warm(self) -> None:
        """Short windows run when this returns; long ones are compiled meanwhile, and used as soon as they can be."""
        self._openvino.warm(LIVE.lengths)
        self._openvino.wait(LIVE.lengths[0])

    def open(self, spec: LiveSpec) -> LiveEngine:
        avatar = spec.avatar
        prepared = self._prepared.get(avatar.id, lambda: self._backend.prepare(avatar))
        return tiny_engine(self._backend, prepared, spec, self._long_are_warm)

    def _long_are_warm(self) -> bool:
        return all(self._openvino.is_warm(length) for length in LIVE.lengths)

    def close(self) -> None:
        self._backend.close()
