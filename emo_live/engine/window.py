"""The rolling window: sound, gestures, noise -> k denoising steps -> latents -> pictures. Motion frames carry over.

Written once for every backend. Frame `index` is the picture of sound step `index`; a window of F frames needs the sound
of its frames and LOOK_AHEAD steps more. Runs on whichever single thread calls it; only `cancel` may come from another.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

import numpy as np

from emo_live.audio.features import CONTEXT_SAMPLES, LEFT_SAMPLES, TOKENS_PER_STEP, log_mel
from emo_live.config import LIDS, POSE, TINY
from emo_live.engine.base import Backend, EngineFrame, Prepared, WindowInputs
from emo_live.engine.motion_prior import FrameNoise, GestureNoise
from emo_live.engine.pictures import PictureMaker
from emo_live.engine.schedule import FewStepSampler
from emo_live.errors import BadInputError
from emo_live.types import MODEL_STEP_SAMPLES, Float32

LOOK_AHEAD = TINY.emo.audio_look_ahead
NEIGHBOURS = TINY.emo.audio_projection.frames // 2
MOTION_FRAMES = TINY.emo.motion_frames
DEFAULT_SPEED = 4.0  # degrees a second, the middle of what calm talkers do
DEFAULT_STEPS = 1
NOISE = np.float32(0.5)  # of its full strength: the student has learnt what is likeliest, whatever the noise
# What is heard is a mean over all that could be meant, and lids that are drawn are rounded off: both move too little.
HEARD_GAIN = np.float32(1.2)
LIDS_GAIN, LIDS_CLOSED = np.float32(1.6), np.float32(0.9)
HISTORY = 100  # frames that can be rewound: 4 s, more than any playout buffer holds
CONTEXT_STEPS = -(-(LEFT_SAMPLES + CONTEXT_SAMPLES) // MODEL_STEP_SAMPLES)
_SILENCE = np.zeros(MODEL_STEP_SAMPLES, np.float32)


@dataclass(frozen=True, slots=True)
class WindowPolicy:
    """Lengths of the windows by order; the last one repeats. Short first windows show the first frame early."""

    lengths: tuple[int, ...]

    def length(self, number: int) -> int:
        return self.lengths[min(number, len(self.lengths) - 1)]


OFFLINE = WindowPolicy((8,))  # all the sound is there: nobody waits for the first frame
LIVE = WindowPolicy((2, 4))


@dataclass(frozen=True, slots=True)
class Controls:
    """speed: head velocity in degrees a second (EMO's speed layers); motion: strength of head motion, 1 as is."""

    speed: float = DEFAULT_SPEED
    motion: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.speed <= 30:
            raise BadInputError(f"speed is a head velocity of 0 to 30 degrees a second, not {self.speed}")
        if not 0 <= self.motion <= 2:
            raise BadInputError(f"motion is a strength of 0 to 2, not {self.motion}")


class RollingWindow:
    """One speaking avatar. push() sound steps, frames() pictures; finish() at the end of speech."""

    def __init__(
        self,
        backend: Backend,
        avatar: Prepared,
        *,
        size: int = 512,
        full_frame: bool = False,
        seed: int = 0,
        steps: int = DEFAULT_STEPS,
        controls: Controls | None = None,
        policy: WindowPolicy = OFFLINE,
    ):
        self.backend, self.avatar, self.policy = backend, avatar, policy
        self.controls = controls or Controls()
        self.sampler = FewStepSampler(TINY.emo.schedule, steps)
        self.pictures = PictureMaker(backend, avatar, size, full_frame=full_frame)
        self.shape = self.pictures.shape
        self._cancelled = threading.Event()
        self._noise = FrameNoise(seed, backend.prior)
        self._gesture_noise = GestureNoise(seed, TINY.gestures.noise, TINY.gestures.reach)
        self._latents: deque[Float32] = deque(
            [np.zeros(backend.prior.shape, np.float32)] * MOTION_FRAMES, maxlen=HISTORY + MOTION_FRAMES
        )
        self._steps: deque[Float32] = deque([_SILENCE] * CONTEXT_STEPS, maxlen=CONTEXT_STEPS + HISTORY)
        self._pushed = 0  # steps of sound so far, without the silence behind the end
        self._end: int | None = None  # frames to make in all, once finish() was called
        self._windows = 0
        self.index = 0  # next frame

    def push(self, pcm: Float32) -> None:
        """pcm: (640,) float32 at 16 kHz, the next 40 ms."""
        assert pcm.shape == (MODEL_STEP_SAMPLES,), "one step is 640 samples at 16 kHz"
        assert self._end is None, "finish() was called: no more sound"
        assert self._pushed - self.index < HISTORY - LOOK_AHEAD, "take frames() before pushing more than 4 s"
        self._steps.append(pcm)
        self._pushed += 1

    def finish(self) -> None:
        """No more sound comes: frames() makes what is still owed, with silence where it would have listened ahead."""
        self._end = self._pushed

    def frames(self) -> list[EngineFrame]:
        """Every frame that the sound so far allows, in order; none after cancel() until rewind()."""
        done: list[EngineFrame] = []
        while (length := self._runnable()) and not self._cancelled.is_set():
            try:
                latents = self._generate(length)
            except _CancelledError:
                return done
            shown = length if self._end is None else min(length, self._end - self.index)
            videos = self.pictures.make(latents[:shown])
            done += [EngineFrame(self.index + i, video) for i, video in enumerate(videos)]
            self._latents.extend(latents[:shown])
            self.index += shown
            self._windows += 1
        return done

    def cancel(self) -> None:
        """Thread-safe. The window in progress stops before its next denoising step; nothing of it is kept."""
        self._cancelled.set()

    def rewind(self, index: int) -> None:
        """Frames from `index` on were not shown, their sound was not heard: both are forgotten.

        The next window is short again.
        """
        gone, unheard = self.index - index, self._pushed - index
        assert 0 <= gone <= len(self._latents) - MOTION_FRAMES, "can only go back to a frame of the last 4 s"
        for _ in range(gone):
            self._latents.pop()
        for _ in range(unheard):
            self._steps.pop()
        self.index = self._pushed = index
        self._windows, self._end = 0, None
        self._cancelled.clear()

    def _runnable(self) -> int:
        """Length of the window that can run now, 0 if none."""
        length = self.policy.length(self._windows)
        if self._end is None:
            return length if self._pushed >= self.index + length + LOOK_AHEAD else 0
        owed = self._end - self.index
        return next((n for n in sorted(set(self.policy.lengths)) if n >= min(owed, length)), length) if owed else 0

    def _context(self, end: int) -> Float32:
        """Sound up to step `end`, silence beyond what was pushed: (LEFT_SAMPLES + CONTEXT_SAMPLES,)."""
        missing = max(0, end - self._pushed)
        newest = len(self._steps) - (self._pushed - (end - missing))
        steps = [*list(self._steps)[max(0, newest - CONTEXT_STEPS + missing) : newest], *[_SILENCE] * missing]
        return np.concatenate(steps)[-(LEFT_SAMPLES + CONTEXT_SAMPLES) :]

    def _generate(self, length: int) -> Float32:
        """Latents (length, C, h, w) of the next frames."""
        tokens = self.backend.hear(log_mel(self._context(self.index + length + LOOK_AHEAD)))
        sound = tokens[-(length + NEIGHBOURS + LOOK_AHEAD) * TOKENS_PER_STEP :]
        prior, end = self.backend.prior, self.index + length
        anchor = self.avatar.face.anchor(HEARD_GAIN * self.backend.shapes(sound), self._gestures(self.index, end))
        motion = np.stack([self._latents[i] for i in range(-MOTION_FRAMES, 0)])
        speed = np.full(length + 2 * NEIGHBOURS, self.controls.speed, np.float32)
        given = WindowInputs(motion, anchor, sound, speed)

        def predict(noisy: Float32, timestep: int) -> Float32:
            if self._cancelled.is_set():
                raise _CancelledError
            return prior.projected(self.backend.denoise(self.avatar, noisy, timestep, given))

        deviation = self.sampler.sample(NOISE * self._noise.frames(self.index, end), predict)
        return anchor + np.float32(prior.scale) * deviation

    def _gestures(self, start: int, end: int) -> Float32:
        """(end - start, G), with lids that close and the head motion that is asked for."""
        noise = self._gesture_noise.frames(start - TINY.gestures.reach, end)
        gestures = self.backend.gestures(noise, self.controls.speed)
        gestures[:, LIDS] = np.clip(LIDS_GAIN * gestures[:, LIDS], 0, LIDS_CLOSED)
        gestures[:, -POSE:] *= self.controls.motion
        return gestures


class _CancelledError(Exception):
    """Leaves a window between two denoising steps."""
