"""Speech that waits to be spoken: utterances in the order in which they began, cut into steps, bounded.

Checks what it is given: everything wrong with sound is a BadInputError before any of it is taken. No clock, no tasks.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from emo_live.audio.framer import AudioStep, Framer
from emo_live.errors import BadInputError, NotReadyError
from emo_live.types import FPS, MODEL_STEP_SAMPLES, OUTPUT_STEP_SAMPLES, STEP_S, Float32, Int16

LIMIT_STEPS = 10 * FPS  # of one utterance; more makes whoever pushes wait
MAX_WAITING = 64  # utterances
BEHIND_STEPS = 15  # of live sound that waits: 600 ms, where 200 would do
_LIVE_S = 0.5  # what came sooner than it can be heard is not live
_QUIET = 330  # of 32767: -40 dB


def as_mono(pcm: Any) -> Float32:
    """(S,) float32 in [-1, 1] from float or int16 samples. Raises BadInputError for anything else."""
    try:
        array = np.asarray(pcm)
    except ValueError as error:
        raise BadInputError(f"sound is an array of samples (S,): {error}") from None
    if array.ndim != 1:
        raise BadInputError(f"sound is mono, (S,), not an array of shape {array.shape}: mix it down first")
    if array.dtype == np.int16:
        return array.astype(np.float32) / np.float32(32768)
    if array.dtype not in (np.float32, np.float64) and array.size:
        raise BadInputError(f"samples are float32 in [-1, 1] or int16, not {array.dtype}")
    if not np.isfinite(array).all():
        raise BadInputError("the sound has samples that are not numbers (NaN or infinite): check where it comes from")
    return np.asarray(np.clip(array, -1, 1), np.float32)


@dataclass(frozen=True, slots=True)
class Step:
    """40 ms on their way to the engine and back. utterance: whose speech this is, None for idle.

    model: (640,) float32 at 16 kHz; heard: (1920,) int16 at 48 kHz.
    """

    model: Float32
    heard: Int16
    utterance: str | None = None


SILENCE = Step(np.zeros(MODEL_STEP_SAMPLES, np.float32), np.zeros(OUTPUT_STEP_SAMPLES, np.int16))


class Utterance:
    """One piece of speech. heard: steps of it that were handed to sinks, of `total` that came so far.

    steps: those not given to the engine. pushed_at, newest_at: when its first and its newest sound came, None and 0.0
    before. cancelled: nothing of it will be spoken any more. waited: another one had to be spoken first.
    """

    def __init__(self, name: str, *, waited: bool = False) -> None:
        self.name, self.waited = name, waited
        self.ended = self.cancelled = False
        self.heard = self.total = 0
        self.pushed_at: float | None = None
        self.newest_at = 0.0
        self.steps: deque[Step] = deque()
        self._framer: Framer | None = None

    @property
    def has_room(self) -> bool:
        return len(self.steps) < LIMIT_STEPS

    @property
    def done(self) -> bool:
        """Spoken to its end."""
        return self.ended and self.heard == self.total

    def push(self, pcm: Float32, rate_hz: int, now: float) -> None:
        """pcm: (S,) as `as_mono` gives it. The rate may change at any time."""
        if self._framer is None or self._framer.rate_hz != rate_hz:
            framer = Framer(rate_hz)  # raises before anything is changed
            self._flush()
            self._framer = framer
        self._add(self._framer.push(pcm))
        self.pushed_at = now if self.pushed_at is None else self.pushed_at
        self.newest_at = now

    def take(self) -> Step:
        """The next step for the engine. Live sound that has fallen behind catches up in its pauses."""
        while self._is_behind and np.abs(self.steps[0].heard).max() < _QUIET:
            self.steps.popleft()
            self.total -= 1
        return self.steps.popleft()

    @property
    def _is_behind(self) -> bool:
        """Whether more waits than sound that comes as fast as it is heard should leave, and this is such sound."""
        if self.ended or len(self.steps) <= BEHIND_STEPS or self.pushed_at is None:
            return False
        return self.total * STEP_S <= self.newest_at - self.pushed_at + _LIVE_S

    def end(self) -> None:
        if not self.ended:
            self._flush()
            self.ended = True

    def _flush(self) -> None:
        if self._framer is not None:
            self._add(self._framer.flush())
            self._framer = None

    def _add(self, steps: list[AudioStep]) -> None:
        self.steps.extend(Step(step.model, step.heard, self.name) for step in steps)
        self.total += len(steps)


class SpeechQueue:
    """Utterances that are not spoken to their end, in order."""

    def __init__(self) -> None:
        self._waiting: deque[Utterance] = deque()
        self._count = 0

    def begin(self) -> Utterance:
        if len(self._waiting) >= MAX_WAITING:
            raise NotReadyError(f"{MAX_WAITING} utterances wait already: interrupt, or wait until some are spoken")
        self._count += 1
        utterance = Utterance(f"u{self._count}", waited=bool(self._waiting))
        self._waiting.append(utterance)
        return utterance

    @property
    def first(self) -> Utterance | None:
        """The one that is spoken, or will be next."""
        return self._waiting[0] if self._waiting else None

    @property
    def queued_steps(self) -> int:
        return sum(len(utterance.steps) for utterance in self._waiting)

    def feeding(self) -> Utterance | None:
        """The one whose steps the engine gets next: the first that has some, or may get more."""
        return next((utterance for utterance in self._waiting if utterance.steps or not utterance.ended), None)

    def named(self, name: str) -> Utterance | None:
        return next((utterance for utterance in self._waiting if utterance.name == name), None)

    def take_done(self) -> list[Utterance]:
        """Removes the first ones that were spoken to their end."""
        done = []
        while self._waiting and self._waiting[0].done:
            done.append(self._waiting.popleft())
        return done

    def put_back(self, steps: list[Step]) -> None:
        """Steps that the engine was given and that were not shown, in order; idle ones are forgotten."""
        for step in reversed(steps):
            utterance = self.named(step.utterance) if step.utterance is not None else None
            if utterance is not None:
                utterance.steps.appendleft(step)

    def clear(self) -> list[Utterance]:
        """Nothing that waits will be spoken."""
        gone = list(self._waiting)
        for utterance in gone:
            utterance.cancelled = True
            utterance.steps.clear()
        self._waiting.clear()
        return gone
