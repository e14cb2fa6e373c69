"""The rolling window: sound -> latents of a window -> pictures. Motion frames carry over to the next window.

Written once for every model: what a model does of its own lies behind `Generator`. Frame `index` is the picture of
sound step `index`; a window of F frames needs the sound of its frames and `look_ahead` steps more. Runs on whichever
single thread calls it; only `cancel` may come from another.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from emo_live.audio.foreground import Listening, foreground
from emo_live.engine.base import EngineFrame
from emo_live.errors import BadInputError
from emo_live.types import MODEL_STEP_SAMPLES, Float32, UInt8

DEFAULT_SPEED = 6.0  # degrees a second: pictures then move about as much as those of true talkers (docs/LOG.md)
HISTORY = 100  # frames that can be rewound: 4 s, more than any playout buffer holds

# (frames, ...) the generator's own kind of array, and what it holds for one frame: kept for it and handed back.
Latents = Any
Latent = Any
PicturesTaken = Callable[[], list[UInt8]]


@dataclass(frozen=True, slots=True)
class WindowPolicy:
    """Lengths of the windows by order; the last one repeats. Short first windows show the first frame early.

    beside: windows whose pictures may still be in the making while the next window is generated: faster where both run
    side by side, but their frames come later.
    """

    lengths: tuple[int, ...]
    beside: int = 0

    def length(self, number: int) -> int:
        return self.lengths[min(number, len(self.lengths) - 1)]


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


@dataclass(frozen=True, slots=True)
class NextWindow:
    """What the loop gives a model for a window of `length` frames, the first of which is frame `index`.

    motion: latents of the newest frames before it, at most `carried`, oldest first. sound: (context_samples,) float32
    at 16 kHz, which ends `look_ahead` steps behind the window's last frame, its background turned down. check: to be
    called before every denoising step; raises when the window was cancelled.
    """

    index: int
    length: int
    motion: Sequence[Latent]
    sound: Float32
    check: Callable[[], None]


class Generator(Protocol):
    """One model that animates one avatar with one seed: what the window asks of it.

    shape: (H, W) of its pictures. carried: how many frames back it looks. look_ahead: steps of sound behind a frame
    that it needs. context_samples: of sound that it hears.
    """

    shape: tuple[int, int]
    carried: int
    look_ahead: int
    context_samples: int

    def first(self) -> Sequence[Latent]:
        """What stands for the frames before frame 0: `carried` of them, or none."""

    def latents(self, given: NextWindow) -> Latents:
        """(length,) latents of the window's frames."""

    def pictures(self, latents: Latents) -> PicturesTaken:
        """Starts making a picture (H, W, 3) of each; what it returns waits for them."""


class RollingWindow:
    """One speaking avatar. push() sound steps, frames() pictures; finish() at the end of speech."""

    def __init__(self, generator: Generator, policy: WindowPolicy):
        self.generator, self.policy = generator, policy
        self.shape = generator.shape
        self._cancelled = threading.Event()
        first = generator.first()
        self._least = len(first)  # latents that are never taken back
        self._latents: deque[Latent] = deque(first, maxlen=HISTORY + generator.carried)
        self._context_steps = -(-generator.context_samples // MODEL_STEP_SAMPLES)
        self._steps: deque[_Step] = deque([_Step()] * self._context_steps, maxlen=self._context_steps + HISTORY)
        self._making: deque[tuple[int, PicturesTaken]] = deque()  # index of a window's first frame, its pictures
        self._pushed = 0  # steps of sound so far, without the silence behind the end
        self._end: int | None = None  # frames to make in all, once finish() was called
        self._windows = 0
        self.index = 0  # next frame

    def push(self, pcm: Float32) -> None:
        """pcm: (640,) float32 at 16 kHz, the next 40 ms."""
        assert pcm.shape == (MODEL_STEP_SAMPLES,), "one step is 640 samples at 16 kHz"
        assert self._end is None, "finish() was called: no more sound"
        assert self._pushed - self.index < HISTORY - self.generator.look_ahead, "take frames() before pushing over 4 s"
        self._steps.append(_Step(*foreground(pcm, self._steps[-1].listening)))
        self._pushed += 1

    def finish(self) -> None:
        """No more sound comes: frames() makes what is still owed, with silence where it would have listened ahead."""
        self._end = self._pushed

    def frames(self) -> list[EngineFrame]:
        """Every frame that the sound so far allows, in order; none after cancel() until rewind()."""
        done: list[EngineFrame] = []
        while (length := self._runnable()) and not self._cancelled.is_set():
            try:
                self._make(length)
            except _CancelledError:
                return done
            done += self._take(self.policy.beside)
        if self._end == self.index and not self._cancelled.is_set():
            done += self._take(0)
        return done

    def _make(self, length: int) -> None:
        """The next window."""
        generator, end = self.generator, self.index + length + self.generator.look_ahead
        motion = list(self._latents)[-generator.carried :] if generator.carried else []
        latents = generator.latents(NextWindow(self.index, length, motion, self._context(end), self._check))
        shown = length if self._end is None else min(length, self._end - self.index)
        self._making.append((self.index, generator.pictures(latents[:shown])))
        self._latents.extend(latents[:shown])
        self.index += shown
        self._windows += 1

    def _take(self, left: int) -> list[EngineFrame]:
        """The frames of all but the newest `left` windows that are in the making."""
        frames = []
        while len(self._making) > left:
            index, taken = self._making.popleft()
            frames += [EngineFrame(index + i, video) for i, video in enumerate(taken())]
        return frames

    def _check(self) -> None:
        if self._cancelled.is_set():
            raise _CancelledError

    def cancel(self) -> None:
        """Thread-safe. The window in progress stops before its next denoising step; nothing of it is kept."""
        self._cancelled.set()

    def rewind(self, index: int) -> None:
        """Frames from `index` on were not shown, their sound was not heard: both are forgotten.

        The next window is short again.
        """
        gone, unheard = self.index - index, self._pushed - index
        assert 0 <= gone <= len(self._latents) - self._least, "can only go back to a frame of the last 4 s"
        for _ in range(gone):
            self._latents.pop()
        for _ in range(unheard):
            self._steps.pop()
        self._making.clear()
        self.index = self._pushed = index
        self._windows, self._end = 0, None
        self._cancelled.clear()

    def _runnable(self) -> int:
        """Length of the window that can run now, 0 if none."""
        length = self.policy.length(self._windows)
        if self._end is None:
            return length if self._pushed >= self.index + length + self.generator.look_ahead else 0
        owed = self._end - self.index
        return next((n for n in sorted(set(self.policy.lengths)) if n >= min(owed, length)), length) if owed else 0

    def _context(self, end: int) -> Float32:
        """Sound up to step `end`, silence beyond what was pushed: (context_samples,)."""
        missing = max(0, end - self._pushed)
        newest = len(self._steps) - (self._pushed - (end - missing))
        oldest = max(0, newest - self._context_steps + missing)
        steps = [*list(self._steps)[oldest:newest], *[_Step()] * missing]
        return np.concatenate([step.pcm for step in steps])[-self.generator.context_samples :]


@dataclass(frozen=True, slots=True)
class _Step:
    """40 ms of sound as models hear it, and what the next one goes on from."""

    pcm: Float32 = field(default_factory=lambda: np.zeros(MODEL_STEP_SAMPLES, np.float32))
    listening: Listening = Listening()


class _CancelledError(Exception):
    """Leaves a window between two denoising steps."""
