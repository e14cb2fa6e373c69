"""Cuts speech of any rate into 40 ms steps: 16 kHz for the model and, cut at the same instants, 48 kHz to be heard.

Streaming: memory is bounded by the resamplers' look-ahead (some milliseconds) and one step, and the result does not
depend on how the input was chopped up. Knows nothing about utterances, silence or clocks. Not thread-safe; a call takes
well under a millisecond.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import soxr

from emo_live.errors import BadInputError
from emo_live.types import (
    FPS,
    MODEL_RATE_HZ,
    MODEL_STEP_SAMPLES,
    OUTPUT_RATE_HZ,
    OUTPUT_STEP_SAMPLES,
    Float32,
    Int16,
)

MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 768_000


@dataclass(frozen=True, slots=True)
class AudioStep:
    """40 ms of speech. model: (640,) float32 at 16 kHz; heard: (1920,) int16 at 48 kHz; both start together."""

    index: int
    model: Float32
    heard: Int16


def check_rate(rate_hz: int) -> None:
    """Raise BadInputError for a rate nothing real has."""
    if not isinstance(rate_hz, (int, np.integer)) or not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise BadInputError(f"{rate_hz} Hz is not a usable sample rate: give {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz")


class Framer:
    """Mono chunks in, steps out; `index` counts up from 0 until `reset`.

    rate_hz: of the sound pushed. Raises BadInputError for a rate nothing real has.
    """

    def __init__(self, rate_hz: int) -> None:
        check_rate(rate_hz)
        self.rate_hz = rate_hz
        self.reset()

    def reset(self) -> None:
        """Forget all sound that was pushed; the next step has index 0."""
        self._index = 0
        self._begin()

    def push(self, pcm: Float32) -> list[AudioStep]:
        """Take pcm (S,) float32 mono in [-1, 1], S >= 0, and return the steps it completes."""
        if pcm.ndim != 1:
            raise BadInputError(
                f"the framer takes mono sound (S,), not an array of shape {pcm.shape}: mix it down first"
            )
        if not np.isfinite(pcm).all():
            raise BadInputError(
                "the sound has samples that are not numbers (NaN or infinite): check where it comes from"
            )
        self._pushed += len(pcm)
        pcm = np.ascontiguousarray(pcm, dtype=np.float32)
        self._model.push(pcm)
        self._heard.push(pcm)
        return self._cut(min(self._model.n_steps, self._heard.n_steps))

    def flush(self) -> list[AudioStep]:
        """Return what is left, the last step padded with zeros.

        S samples since the last flush make ceil(S / rate_hz * 25) steps in all. Sound pushed afterwards starts a new
        step; `index` goes on.
        """
        n_missing = -(-self._pushed * FPS // self.rate_hz) - self._n_cut
        self._model.finish(n_missing)
        self._heard.finish(n_missing)
        steps = self._cut(n_missing)
        self._begin()
        return steps

    def _begin(self) -> None:
        self._pushed = 0
        self._n_cut = 0
        self._model = _Lane(self.rate_hz, MODEL_RATE_HZ, MODEL_STEP_SAMPLES)
        self._heard = _Lane(self.rate_hz, OUTPUT_RATE_HZ, OUTPUT_STEP_SAMPLES)

    def _cut(self, n_steps: int) -> list[AudioStep]:
        steps = []
        for model, heard in zip(self._model.take(n_steps), self._heard.take(n_steps), strict=True):
            # Float files may go far beyond full scale; nobody hears it, and the model never met it.
            np.clip(model, -1.0, 1.0, out=model)
            heard_int16 = np.rint(np.clip(heard, -1.0, 1.0) * 32767.0).astype(np.int16)
            steps.append(AudioStep(self._index, model, heard_int16))
            self._index += 1
        self._n_cut += n_steps
        return steps


class _Lane:
    """One resampler and the samples it gave that make no whole step yet."""

    def __init__(self, rate_hz: int, out_rate_hz: int, step_samples: int) -> None:
        # soxr takes its own delay out of the stream: sample n of the output is the sound at n / out_rate_hz.
        self._resampler = (
            None
            if rate_hz == out_rate_hz
            else soxr.ResampleStream(rate_hz, out_rate_hz, 1, dtype="float32", quality="HQ")
        )
        self._step_samples = step_samples
        self._waiting = np.zeros(0, np.float32)

    @property
    def n_steps(self) -> int:
        """How many whole steps wait."""
        return len(self._waiting) // self._step_samples

    def push(self, pcm: Float32, last: bool = False) -> None:
        if self._resampler is not None:
            pcm = self._resampler.resample_chunk(pcm, last=last)
        self._waiting = np.concatenate([self._waiting, pcm])

    def finish(self, n_steps: int) -> None:
        """End the sound: afterwards exactly n_steps steps wait."""
        self.push(np.zeros(0, np.float32), last=True)
        n_samples = n_steps * self._step_samples
        # The resampler's rounding may leave one sample more than the steps hold.
        self._waiting = np.pad(self._waiting[:n_samples], (0, max(0, n_samples - len(self._waiting))))

    def take(self, n_steps: int) -> list[Float32]:
        """Remove and return the first n_steps steps."""
        n_samples = n_steps * self._step_samples
        taken, self._waiting = self._waiting[:n_samples], self._waiting[n_samples:]
        return [step.copy() for step in taken.reshape(n_steps, self._step_samples)]
